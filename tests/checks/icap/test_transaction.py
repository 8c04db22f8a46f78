"""What is sent when, and what each answer means; without a service."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from yarl import URL

from aiorelay.checks.icap.requests import FileRequest
from aiorelay.checks.icap.transaction import REPLAY, Transaction
from aiorelay.checks.verdicts import ScanOutcome, Verdict

SERVICE = URL("icap://scanner.example/avscan")
CONTINUE = b"ICAP/1.0 100 Continue\r\n\r\n"
UNMODIFIED = b"ICAP/1.0 204 Unmodified\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nVia: scanner\r\n\r\n"
PUT = b"PUT http://aiorelay.invalid/a.bin HTTP/1.1\r\nVia: scanner\r\n\r\n"


def transaction(method: str = "RESPMOD", preview: int | None = 4, *, allow_204: bool = True) -> Transaction:
    request = FileRequest(service=SERVICE, method=method, filename="a.bin")  # type: ignore[arg-type]
    return Transaction(request, preview=preview, allow_204=allow_204)


def answer(
    content: bytes | None, head: bytes = OK, kind: str = "res", *fields: bytes, status: bytes = b"200 OK"
) -> bytes:
    """An answer with an encapsulated message."""
    body = b"%b-body" % kind.encode() if content is not None else b"null-body"
    encapsulated = b"Encapsulated: %b-hdr=0, %b=%d" % (kind.encode(), body, len(head))
    chunk = b"%x\r\n%b\r\n" % (len(content), content) if content else b""
    end = b"" if content is None else chunk + b"0\r\n\r\n"
    return b"\r\n".join([b"ICAP/1.0 " + status, *fields, encapsulated, b"", b""]) + head + end


def after(scan: Transaction, *blocks: bytes) -> bytes:
    """Send a whole file, at which the service asks for the rest of each preview. Return what was written."""
    written = b""
    for block in blocks:
        written += scan.send(block)
        if scan.waits:
            scan.receive(CONTINUE)
            written += scan.resume()
    return written + scan.end()


# -- what is sent


@pytest.mark.parametrize(
    ("preview", "blocks", "chunks"),
    [
        (None, [], b"0\r\n\r\n"),
        (None, [b"hello"], b"5\r\nhello\r\n0\r\n\r\n"),
        (None, [b"hello", b"you"], b"5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n"),
        (4, [], b"0; ieof\r\n\r\n"),
        (4, [b"hi"], b"2\r\nhi\r\n0; ieof\r\n\r\n"),
        (4, [b"hi", b"yo"], b"4\r\nhiyo\r\n0; ieof\r\n\r\n"),
        (4, [b"hello"], b"4\r\nhell\r\n0\r\n\r\n1\r\no\r\n0\r\n\r\n"),
        (4, [b"hi", b"you", b"two"], b"4\r\nhiyo\r\n0\r\n\r\n1\r\nu\r\n3\r\ntwo\r\n0\r\n\r\n"),
        (0, [], b"0; ieof\r\n\r\n"),
        (0, [b"hi"], b"0\r\n\r\n2\r\nhi\r\n0\r\n\r\n"),
    ],
    ids=[
        *("nothing", "a block", "two blocks", "an empty preview", "less than the preview", "exactly the preview"),
        *("a byte more", "more blocks", "no preview of nothing", "no bytes of preview"),
    ],
)
def test_a_file_is_sent_in_chunks_after_its_preview(preview: int | None, blocks: list[bytes], chunks: bytes) -> None:
    scan = transaction(preview=preview)
    written = after(scan, *blocks)
    head = FileRequest(service=SERVICE, method="RESPMOD", filename="a.bin").head(preview=preview, allow_204=True)
    assert written == head + chunks
    assert scan.waits


def test_the_rest_waits_for_the_service() -> None:
    scan = transaction()
    assert scan.send(b"abc") == b""
    assert not scan.waits
    assert scan.send(b"de").endswith(b"4\r\nabcd\r\n0\r\n\r\n")
    assert scan.waits
    scan.receive(CONTINUE)
    assert not scan.waits
    assert scan.resume() == b"1\r\ne\r\n"
    assert scan.resume() == b""


# -- what an answer means


def verdict(scan: Transaction, *blocks: bytes, reply: bytes) -> ScanOutcome | None:
    after(scan, *blocks)
    scan.receive(reply)
    return scan.verdict and scan.verdict.outcome


FILE = b"hello you"


@pytest.mark.parametrize(
    ("method", "reply", "outcome"),
    [
        ("RESPMOD", UNMODIFIED, "clean"),
        ("RESPMOD", answer(FILE), "clean"),
        ("RESPMOD", answer(FILE, status=b"201 Created"), "clean"),
        ("REQMOD", answer(FILE, PUT, "req"), "clean"),
        ("RESPMOD", answer(b"hello too"), "changed"),
        ("RESPMOD", answer(FILE[:-1]), "changed"),
        ("RESPMOD", answer(FILE + b"!"), "changed"),
        ("RESPMOD", answer(b""), "changed"),
        ("RESPMOD", answer(None), "changed"),
        ("RESPMOD", answer(FILE, b"HTTP/1.1 403 Forbidden\r\n\r\n"), "changed"),
        ("RESPMOD", answer(FILE, b"HTTP/1.1 302 Found\r\nLocation: /blocked\r\n\r\n"), "changed"),
        ("REQMOD", answer(FILE, PUT.replace(b"a.bin", b"blocked"), "req"), "changed"),
        ("REQMOD", answer(FILE, PUT.replace(b"PUT", b"GET"), "req"), "changed"),
        ("REQMOD", answer(b"hello too", PUT, "req"), "changed"),
        ("REQMOD", answer(b"<html>blocked</html>"), "changed"),
        ("REQMOD", answer(FILE), "changed"),
        ("REQMOD", answer(None), "changed"),
        ("RESPMOD", b"ICAP/1.0 403 Forbidden\r\n\r\n", "changed"),
        ("RESPMOD", answer(b"", OK, "res", b"X-Infection-Found: Type=0; Resolution=2; Threat=Eicar;"), "infected"),
        ("RESPMOD", answer(FILE, OK, "res", b"X-Virus-ID: Eicar"), "infected"),
        ("RESPMOD", b"ICAP/1.0 204 Unmodified\r\nX-Virus-ID: Eicar\r\n\r\n", "infected"),
        ("RESPMOD", b"ICAP/1.0 403 Forbidden\r\nX-Virus-ID: Eicar\r\n\r\n", "infected"),
        ("RESPMOD", b"ICAP/1.0 500 Error\r\nX-Virus-ID: Eicar\r\n\r\n", "infected"),
        ("RESPMOD", answer(b"", OK, "res", b"X-Infection-Found: Type=2; Threat=Nested;"), "unscannable"),
        ("RESPMOD", answer(b"", OK, "res", b"X-Infection-Found: Type=1; Threat=Policy;"), "changed"),
        ("RESPMOD", b"ICAP/1.0 200 OK\r\n\r\n", "unavailable"),
        ("RESPMOD", answer(FILE, PUT, "req"), "unavailable"),
        ("RESPMOD", answer(FILE, status=b"206 Partial Content"), "unavailable"),
        ("RESPMOD", b"ICAP/1.0 302 Found\r\n\r\n", "unavailable"),
        ("RESPMOD", b"ICAP/1.0 404 Not Found\r\n\r\n", "unavailable"),
        ("RESPMOD", b"ICAP/1.0 405 Method Not Allowed\r\n\r\n", "unavailable"),
        ("RESPMOD", b"ICAP/1.0 500 Server Error\r\n\r\n", "unavailable"),
        ("RESPMOD", b"ICAP/1.0 503 Overloaded\r\n\r\n", "unavailable"),
        ("RESPMOD", b"HTTP/1.1 200 OK\r\n\r\n", "unavailable"),
        ("RESPMOD", UNMODIFIED + UNMODIFIED, "unavailable"),
        ("RESPMOD", answer(FILE) + UNMODIFIED, "unavailable"),
        ("RESPMOD", CONTINUE, "unavailable"),
        ("RESPMOD", answer(FILE, status=b"204 Unmodified"), "unavailable"),
        ("RESPMOD", answer(FILE).replace(b"res-body=33", b"res-body=30"), "unavailable"),
        ("RESPMOD", answer(FILE).replace(b"9\r\nhello", b"8\r\nhello"), "unavailable"),
        ("RESPMOD", answer(FILE)[:-5], None),
        ("RESPMOD", answer(FILE)[:-1], None),
        ("RESPMOD", UNMODIFIED[:-2], None),
        ("RESPMOD", b"", None),
    ],
)
def test_the_answer_to_a_whole_file(method: str, reply: bytes, outcome: ScanOutcome | None) -> None:
    assert verdict(transaction(method), FILE, reply=reply) == outcome


@pytest.mark.parametrize(
    ("preview", "allow_204", "blocks", "outcome"),
    [
        (4, True, [FILE], "clean"),
        (4, False, [FILE], "unavailable"),
        (4, False, [b"hi"], "clean"),
        (None, True, [FILE], "clean"),
        (None, False, [FILE], "unavailable"),
    ],
    ids=["allowed", "not allowed", "in a preview", "without a preview", "not allowed without a preview"],
)
def test_204_needs_a_preview_or_permission(
    preview: int | None, blocks: list[bytes], outcome: ScanOutcome, *, allow_204: bool
) -> None:
    assert verdict(transaction(preview=preview, allow_204=allow_204), *blocks, reply=UNMODIFIED) == outcome


@pytest.mark.parametrize("allow_204", [True, False])
def test_204_after_the_preview_is_clean_without_the_rest(*, allow_204: bool) -> None:
    scan = transaction(allow_204=allow_204)
    scan.send(FILE)
    scan.receive(UNMODIFIED)
    assert scan.verdict == Verdict("clean")
    assert scan.reusable


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (answer(FILE), "changed"),
        (answer(b"hell"), "changed"),
        (answer(b"", OK, "res", b"X-Virus-ID: Eicar"), "infected"),
        (b"ICAP/1.0 500 Error\r\n\r\n", "unavailable"),
        (CONTINUE + CONTINUE, "unavailable"),
    ],
    ids=["a content of which it has not seen all", "the preview", "a threat", "an error", "100 twice"],
)
def test_the_answer_to_a_preview(reply: bytes, outcome: ScanOutcome) -> None:
    scan = transaction()
    scan.send(FILE)
    scan.receive(reply)
    assert scan.verdict is not None
    assert scan.verdict.outcome == outcome
    assert not scan.reusable


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (UNMODIFIED, "clean"),
        (answer(FILE), "changed"),
        (answer(b"", OK, "res", b"X-Virus-ID: Eicar"), "infected"),
        (answer(FILE[:5])[:-5], None),
        (answer(FILE[:5]), "changed"),
        (CONTINUE, "unavailable"),
    ],
    ids=["204", "more than was sent", "a threat", "what was sent so far", "an end before the file's", "100 again"],
)
def test_an_answer_before_the_end_of_the_file(reply: bytes, outcome: ScanOutcome | None) -> None:
    scan = transaction()
    scan.send(FILE[:5])
    scan.receive(CONTINUE)
    scan.resume()
    scan.receive(reply)
    assert (scan.verdict and scan.verdict.outcome) == outcome
    assert not scan.reusable


def test_204_before_the_end_of_a_file_without_a_preview_may_be_left_from_another() -> None:
    scan = transaction(preview=None)
    scan.send(FILE)
    scan.receive(UNMODIFIED)
    assert scan.verdict is not None
    assert scan.verdict.outcome == "unavailable"


@pytest.mark.parametrize("preview", [4, None])
@pytest.mark.parametrize("reply", [UNMODIFIED, CONTINUE, answer(b"")])
def test_an_answer_before_the_request_is_none(preview: int | None, reply: bytes) -> None:
    scan = transaction(preview=preview)
    scan.receive(reply)
    assert scan.verdict is not None
    assert scan.verdict.outcome == "unavailable"


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=5))
def test_a_file_that_comes_back_in_any_pieces_is_clean(content: bytes, cuts: Sequence[int]) -> None:
    scan = transaction()
    after(scan, *([content] if content else []))
    reply = answer(content)
    marks = sorted({min(cut, len(reply)) for cut in cuts} | {0, len(reply)})
    for start, end in pairwise(marks):
        scan.receive(reply[start:end])
    assert scan.verdict == Verdict("clean")
    assert scan.reusable


@given(st.lists(st.binary(max_size=100), max_size=5), st.sampled_from([4, None]))
def test_no_bytes_but_an_answer_are_clean(pieces: Sequence[bytes], preview: int | None) -> None:
    scan = transaction(preview=preview)
    after(scan, FILE)
    for piece in pieces:
        if scan.verdict is None:
            scan.receive(piece)
    assert scan.verdict is None or scan.verdict.outcome != "clean"


# -- the connection afterwards


@pytest.mark.parametrize(
    ("reply", "reusable"),
    [
        (UNMODIFIED, True),
        (UNMODIFIED + b"\r\n", True),
        (answer(FILE), True),
        (b"ICAP/1.0 204 Unmodified\r\nConnection: close\r\n\r\n", False),
        (answer(FILE, OK, "res", b"X-Virus-ID: Eicar"), False),
        (b"ICAP/1.0 500 Error\r\n\r\n", False),
        (UNMODIFIED + UNMODIFIED, False),
    ],
    ids=["204", "an empty line", "the file", "close", "a threat", "an error", "two answers"],
)
def test_only_two_whole_messages_leave_a_connection_for_the_next(reply: bytes, *, reusable: bool) -> None:
    scan = transaction()
    after(scan, FILE)
    scan.receive(reply)
    assert scan.reusable is reusable


def test_what_was_sent_can_be_sent_again_until_an_answer_begins() -> None:
    scan = transaction()
    written = scan.send(FILE)
    assert scan.replay() == written
    scan.receive(CONTINUE[:1])
    assert scan.replay() is None


@pytest.mark.parametrize("excess", [0, 1])
def test_no_more_is_kept_than_a_limit(excess: int) -> None:
    scan = transaction(preview=None)
    head = len(scan.send(b"a")) - len(b"1\r\na\r\n")
    framing = len(b"1\r\na\r\n") + len(b"12345\r\n\r\n")
    written = scan.send(bytes(REPLAY - head - framing + excess))
    assert len(written) > 100_000
    assert (scan.replay() is None) is bool(excess)


def test_a_verdict_is_final() -> None:
    scan = transaction()
    after(scan, FILE)
    scan.receive(UNMODIFIED)
    scan.fail("too late")
    assert scan.verdict == Verdict("clean")
