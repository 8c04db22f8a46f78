import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiorelay.checks.icap.answers import MAX_HEAD, MAX_LINE, AnswerParser, End, Event, Head, MalformedAnswer, Section

HTTP_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\n"
ECHO = (
    b'ICAP/1.0 200 OK\r\nISTag: "a"\r\nEncapsulated: res-hdr=0, res-body=%d\r\n\r\n' % len(HTTP_HEAD)
    + HTTP_HEAD
    + b"5\r\nhello\r\n4; x=y\r\n you\r\n0\r\n\r\n"
)
UNMODIFIED = b"ICAP/1.0 204 No Content\r\n\r\n"


def parsed(*pieces: bytes) -> list[Event]:
    parser = AnswerParser()
    return [event for piece in pieces for event in parser.receive(piece)]


def body(events: list[Event]) -> bytes:
    return b"".join(event for event in events if isinstance(event, bytes))


def head_of(data: bytes) -> Head:
    event = parsed(data)[0]
    assert isinstance(event, Head)
    return event


def test_an_answer_is_its_head_its_sections_its_body_and_its_end() -> None:
    head, section, *data, end = parsed(ECHO)
    assert isinstance(head, Head)
    assert (head.status, head.reason, head.body) == (200, "OK", "res-body")
    assert section == Section("res-hdr", HTTP_HEAD)
    assert body(data) == b"hello you"
    assert end == End()


@given(st.lists(st.integers(1, len(ECHO)), max_size=8).map(sorted))
def test_an_answer_may_arrive_in_any_pieces(cuts: list[int]) -> None:
    pieces = [ECHO[start:end] for start, end in zip([0, *cuts], [*cuts, len(ECHO)], strict=True)]
    events = parsed(*pieces)
    assert body(events) == b"hello you"
    assert events[-1] == End()


def test_an_interim_answer_comes_before_the_answer() -> None:
    events = parsed(b"ICAP/1.0 100 Continue\r\n\r\n" + UNMODIFIED)
    assert [event.status for event in events if isinstance(event, Head)] == [100, 204]
    assert events[-1] == End()


def test_empty_lines_before_and_after_an_answer_are_no_answer() -> None:
    parser = AnswerParser()
    assert parser.receive(b"\r\n\r\n" + UNMODIFIED + b"\r\n")[-1] == End()
    assert parser.surplus == b""


def test_what_follows_the_end_is_surplus() -> None:
    parser = AnswerParser()
    parser.receive(UNMODIFIED + UNMODIFIED)
    assert parser.surplus == UNMODIFIED.strip()


def test_the_lines_of_a_folded_field_stay_apart() -> None:
    head = head_of(b"ICAP/1.0 200 OK\r\nX-Violations-Found: 1\r\n\t-\r\n  Eicar\r\n\t0\r\n\t0\r\nISTag: x\r\n\r\n")
    assert head.fields == {"x-violations-found": "1\n-\nEicar\n0\n0", "istag": "x"}


def test_repeated_fields_are_a_list() -> None:
    assert head_of(b"ICAP/1.0 200 OK\r\nMethods: REQMOD\r\nMethods: RESPMOD\r\n\r\n").fields["methods"] == (
        "REQMOD, RESPMOD"
    )


@pytest.mark.parametrize(
    ("line", "kept"),
    [
        (b"", True),
        (b"Connection: keep-alive\r\n", True),
        (b"Connection: Close\r\n", False),
        (b"Connection: a, close\r\n", False),
    ],
    ids=["not said", "keep-alive", "close", "close in a list"],
)
def test_connection_close_ends_the_connection(line: bytes, *, kept: bool) -> None:
    assert head_of(b"ICAP/1.0 200 OK\r\n" + line + b"\r\n").keeps_connection is kept


@pytest.mark.parametrize(
    "start",
    [
        *(
            b"HTTP/1.1 200 OK",
            b"ICAP/2.0 200 OK",
            b"ICAP/1.0 20 OK",
            b"ICAP/1.0 2000 OK",
            b"ICAP/1.0 600 OK",
            b"ICAP/1.0",
        ),
        *(b"icap/1.0 200 OK", b" ICAP/1.0 200 OK", b"ICAP/1.0  200 OK", b"ICAP/1.0 200 a\x00b", b"ICAP/1.0 200 a\nb"),
    ],
)
def test_a_wrong_status_line_is_malformed(start: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        parsed(start + b"\r\n\r\n")


@pytest.mark.parametrize("line", [b"no colon", b"a b: c", b": c", b" continued", b"a: b\rc", b"a: b\0c", b"a : b"])
def test_a_wrong_field_line_is_malformed(line: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        parsed(b"ICAP/1.0 200 OK\r\n" + line + b"\r\n\r\n")


@pytest.mark.parametrize(
    "encapsulated",
    [
        *(b"", b",", b"res-hdr=0", b"res-body=1", b"res-hdr=1, res-body=2", b"res-hdr=0, res-body=0"),
        *(b"res-body=0, res-hdr=5", b"res-hdr=0, res-hdr=5, res-body=9", b"res-hdr=0, res-body=-5"),
        *(
            b"res-hdr=0, res-body=0x9",
            b"res-hdr=0; res-body=9",
            b"other=0, res-body=9",
            b"req-hdr=0, res-hdr=9, res-body=5",
        ),
        *(b"res-hdr=0, res-body=9, null-body=10", b"res-hdr=0, res-body=99999999", b"res-hdr=0, res-body=1000000"),
    ],
)
def test_wrong_encapsulated_is_malformed(encapsulated: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        parsed(b"ICAP/1.0 200 OK\r\nEncapsulated: " + encapsulated + b"\r\n\r\n")


def test_encapsulated_twice_is_malformed() -> None:
    with pytest.raises(MalformedAnswer):
        parsed(b"ICAP/1.0 200 OK\r\nEncapsulated: null-body=0\r\nEncapsulated: res-body=0\r\n\r\n")


BODY = b"ICAP/1.0 200 OK\r\nEncapsulated: res-body=0\r\n\r\n"


@pytest.mark.parametrize(
    "chunks",
    [
        *(b"\r\n", b"5\nhello", b"-5\r\nhello", b"0x5\r\nhello", b"g\r\n", b"5 5\r\nhello", b"11111111111111111\r\n"),
        *(b"4\r\nhello\r\n", b"6\r\nhello\r\n0\r\n\r\n", b"5\r\nhello0\r\n\r\n", b"5\x00\r\nhello"),
        b"5;" + b"x" * 2000,
    ],
)
def test_a_wrong_chunk_is_malformed(chunks: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        parsed(BODY + chunks + b"\r\n\r\n")


def test_a_trailer_ends_the_body() -> None:
    assert parsed(BODY + b"2\r\nhi\r\n0\r\nX-Checksum: 1\r\n\r\n")[-1] == End()


@pytest.mark.parametrize(
    "endless",
    [
        b"ICAP/1.0 200 OK\r\n" + b"X: y\r\n" * (MAX_HEAD // 6),
        b"ICAP/1.0 200 OK\r\nX: " + b"x" * MAX_HEAD,
        b"x" * (MAX_HEAD + 1),
        BODY + b"0\r\n" + b"X: y\r\n" * (MAX_HEAD // 6 + 1),
        BODY + b"0" * 2000,
        b"ICAP/1.0 100 Continue\r\n\r\n" * 9,
    ],
    ids=["lines", "one line", "no line", "trailer", "chunk size", "interim answers"],
)
def test_what_never_ends_is_malformed(endless: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        parsed(endless)


@pytest.mark.parametrize("excess", [0, 1])
def test_the_longest_line(excess: int) -> None:
    line = b"X: " + b"x" * (MAX_LINE - 3 + excess)
    data = b"ICAP/1.0 200 OK\r\n" + line + b"\r\n\r\n"
    if excess:
        with pytest.raises(MalformedAnswer):
            parsed(data)
    else:
        assert len(head_of(data).fields["x"]) == MAX_LINE - 3


@given(st.lists(st.binary(max_size=200), max_size=6))
def test_any_bytes_are_an_answer_or_malformed(pieces: list[bytes]) -> None:
    parser = AnswerParser()
    with contextlib.suppress(MalformedAnswer):
        for piece in pieces:
            parser.receive(piece)


@given(st.data())
def test_a_damaged_answer_is_an_answer_or_malformed(data: st.DataObject) -> None:
    damaged = bytearray(ECHO)
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(0, len(ECHO) - 1))] = data.draw(st.integers(0, 255))
    try:
        events = parsed(bytes(damaged))
    except MalformedAnswer:
        return
    assert len(body(events)) <= len(ECHO)
