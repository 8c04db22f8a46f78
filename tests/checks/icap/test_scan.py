"""Scans by a service on a real socket, whose answers the test writes."""

import asyncio
import contextlib
import logging
import os
import socket
import ssl
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from icap_peers import (
    COMPLETE,
    CONTINUE,
    PREVIEW,
    UNMODIFIED,
    IcapPeer,
    Peer,
    Request,
    Script,
    icap_peer,
    infected,
    options,
)
from yarl import URL

from aiorelay.certificates.tls import scanner_context
from aiorelay.checks.icap.scan import ICAP, IcapScan
from aiorelay.checks.icap.service import IcapServices, Service
from aiorelay.checks.verdicts import ScanOutcome
from aiorelay.errors import Infected, Problem, Refused, ScannerUnavailable, Unscannable
from aiorelay.multipart.form import Part

KIB = 1024
LONG = (bytes(64 * KIB),) * 64


def file_part(filename: str | None = "a.bin") -> Part:
    return Part("somefile", filename, "text/plain", None, unread())


async def unread() -> AsyncGenerator[bytes, None]:
    yield b"a scan is fed, it does not read"


class Scanner:
    """Scans by a service, the outcomes of which are recorded."""

    def __init__(self, url: URL, *, timeout: float = 60, fail_open: bool = False, ca: Path | None = None) -> None:
        self.outcomes: list[ScanOutcome] = []
        self.services = IcapServices(scanner_context)
        self.service = self.services.service(url, ca)
        self.icap = ICAP(self.service, timeout=timeout, fail_open=fail_open, on_outcome=self.outcomes.append)

    def begin(self, filename: str = "a.bin") -> IcapScan:
        check = self.icap(file_part(filename))
        assert check is not None
        return check

    async def scan(self, *chunks: bytes, filename: str = "a.bin") -> None:
        check = self.begin(filename)
        try:
            await feed(check, *chunks)
            await check.finish()
        finally:
            await check.close()


async def feed(check: IcapScan, *chunks: bytes) -> None:
    for chunk in chunks:
        await check.feed(chunk)


@contextlib.asynccontextmanager
async def scanner(peer: IcapPeer, *, ca: Path | None = None, **options: float) -> AsyncIterator[Scanner]:
    found = Scanner(peer.url, ca=ca, **options)  # type: ignore[arg-type]
    try:
        yield found
    finally:
        found.services.close()


async def unmodified(peer: Peer, request: Request) -> None:
    """Ask for all of the file, and say that it is clean."""
    if request.last_chunk == b"0" and "preview" in request.fields:
        await peer.send(CONTINUE)
        content, request.last_chunk = await peer.chunks()
        request.body += content
    await peer.send(UNMODIFIED)


async def echoes(peer: Peer, request: Request) -> None:
    """Send the file back while it arrives."""
    http = b"HTTP/1.1 200 OK\r\n\r\n"
    await peer.send(CONTINUE)
    await peer.send(b"ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, res-body=%d\r\n\r\n" % len(http) + http)
    await peer.send(b"%x\r\n%b\r\n" % (len(request.body), request.body))
    while (line := await peer.reader.readuntil(b"\r\n")) != b"0\r\n":
        await peer.send(line + await peer.reader.readexactly(int(line, 16) + 2))
    await peer.send(line + await peer.reader.readexactly(2))


# -- files that pass


@pytest.mark.parametrize(
    "chunks",
    [(), (b"hello",), (b"a" * 1024,), (b"a" * 1025,), (b"a",) * 1030, (os.urandom(3), os.urandom(70_000), b"x") * 3],
    ids=["nothing", "less than a preview", "a preview", "a byte more", "byte by byte", "more"],
)
@pytest.mark.parametrize("answer", [PREVIEW, COMPLETE, options("Preview: 0")], ids=["preview", "complete", "preview 0"])
@pytest.mark.parametrize("method", ["REQMOD", "RESPMOD"])
async def test_the_service_sees_the_file_byte_for_byte(answer: bytes, method: str, chunks: tuple[bytes, ...]) -> None:
    answer = answer.replace(b"RESPMOD", method.encode())
    async with icap_peer(unmodified, answer) as peer, scanner(peer) as scans:
        await scans.scan(*chunks)
    (request,) = peer.requests
    assert request.method == method
    assert request.body == b"".join(chunks)
    assert request.heads.startswith(b"PUT " if method == "REQMOD" else b"GET ")
    assert b"Content-Type: text/plain\r\n" in request.heads
    assert scans.outcomes == ["clean"]


async def test_a_service_that_has_seen_enough_in_the_preview_gets_no_more() -> None:
    async def has_seen_enough(peer: Peer, _request: Request) -> None:
        await peer.send(UNMODIFIED)

    async with icap_peer(has_seen_enough) as peer, scanner(peer) as scans:
        for _ in range(3):
            await scans.scan(*LONG)
    assert [len(request.body) for request in peer.requests] == [1024] * 3
    assert peer.connections == 1


async def test_a_file_that_comes_back_while_it_is_sent_is_clean() -> None:
    async with icap_peer(echoes) as peer, scanner(peer) as scans:
        await scans.scan(*LONG * 16)
        await scans.scan(b"a" * 2000)
    assert scans.outcomes == ["clean"] * 2
    assert peer.connections == 1


async def test_a_verdict_in_mid_file_frees_the_connection_for_others() -> None:
    async def has_seen_enough(peer: Peer, _request: Request) -> None:
        await peer.send(UNMODIFIED)

    async with icap_peer(has_seen_enough) as peer, scanner(peer) as scans:
        first = scans.begin()
        await first.feed(bytes(2000))
        await scans.scan(b"second")
        await first.feed(bytes(2000))
        await first.finish()
        await first.close()
    assert peer.connections == 1


async def test_a_plain_field_is_not_scanned() -> None:
    assert ICAP(Service(URL("icap://nowhere.invalid/x"), None), timeout=1)(file_part(None)) is None


@pytest.mark.parametrize(
    ("filename", "preview"), [("a.exe", None), ("a.gif", "9"), ("a.txt", "9")], ids=["complete", "ignored", "others"]
)
async def test_the_ending_decides_on_the_preview(filename: str, preview: str | None) -> None:
    answer = options("Preview: 9", "Transfer-Preview: *", "Transfer-Complete: exe", "Transfer-Ignore: gif")
    async with icap_peer(unmodified, answer) as peer, scanner(peer) as scans:
        await scans.scan(bytes(100), filename=filename)
    assert peer.requests[0].fields.get("preview") == preview
    assert len(peer.requests[0].body) == 100


@pytest.mark.parametrize("allow", ["204", ""], ids=["allowed", "not allowed"])
async def test_204_is_asked_for_only_where_the_service_offers_it(allow: str) -> None:
    async with icap_peer(unmodified, options(allow=allow)) as peer, scanner(peer, fail_open=True) as scans:
        await scans.scan(b"hello")
    assert peer.requests[0].fields.get("allow") == (allow or None)
    assert scans.outcomes == ["clean" if allow else "unavailable"]


# -- files that are refused


def says(reply: bytes) -> Script:
    async def script(peer: Peer, _request: Request) -> None:
        await peer.send(reply)

    return script


def blocked(http: bytes, *fields: bytes) -> bytes:
    lines = [b"ICAP/1.0 200 OK", *fields, b"Encapsulated: res-hdr=0, res-body=%d" % len(http), b"", b""]
    return b"\r\n".join(lines) + http + b"3\r\nno!\r\n0\r\n\r\n"


REFUSALS: dict[str, tuple[bytes, type[Problem], ScanOutcome]] = {
    "threat": (infected(), Infected, "infected"),
    "page": (blocked(b"HTTP/1.1 403 Forbidden\r\n\r\n"), Refused, "changed"),
    "content": (blocked(b"HTTP/1.1 200 OK\r\n\r\n"), Refused, "changed"),
    "forbidden": (b"ICAP/1.0 403 Forbidden\r\n\r\n", Refused, "changed"),
    "policy": (
        blocked(b"HTTP/1.1 200 OK\r\n\r\n", b"X-Infection-Found: Type=1; Threat=Macro;"),
        Refused,
        "changed",
    ),
    "cannot scan": (
        blocked(b"HTTP/1.1 200 OK\r\n\r\n", b"X-Infection-Found: Type=2; Threat=Nested;"),
        Unscannable,
        "unscannable",
    ),
}


@pytest.mark.parametrize("size", [10, 100_000])
@pytest.mark.parametrize(("reply", "problem", "outcome"), REFUSALS.values(), ids=REFUSALS)
async def test_a_file_is_refused_by_its_answer(
    reply: bytes, problem: type[Problem], outcome: ScanOutcome, size: int
) -> None:
    async with icap_peer(says(reply)) as peer, scanner(peer) as scans:
        with pytest.raises(problem):
            await scans.scan(bytes(size))
    assert scans.outcomes == [outcome]


@pytest.mark.parametrize("name", ["threat", "page", "content", "forbidden", "policy"])
async def test_a_file_that_the_service_refuses_does_not_pass_with_fail_open(name: str) -> None:
    reply, problem, _ = REFUSALS[name]
    async with icap_peer(says(reply)) as peer, scanner(peer, fail_open=True) as scans:
        with pytest.raises(problem):
            await scans.scan(b"hello")


async def test_an_unscannable_file_passes_with_a_warning_with_fail_open(caplog: pytest.LogCaptureFixture) -> None:
    async with icap_peer(says(REFUSALS["cannot scan"][0])) as peer, scanner(peer, fail_open=True) as scans:
        await scans.scan(b"hello")
    assert scans.outcomes == ["unscannable"]
    assert [(record.name, record.levelno) for record in caplog.records] == [("aiorelay", logging.WARNING)]


async def test_the_name_of_the_threat_is_in_the_problem() -> None:
    async with icap_peer(says(infected("Eicar-Test"))) as peer, scanner(peer) as scans:
        with pytest.raises(Infected, match=r"The virus scanner found Eicar-Test\."):
            await scans.scan(b"hello")


@pytest.mark.parametrize("fail_open", [False, True])
async def test_a_threat_in_mid_file_ends_a_blocked_write(*, fail_open: bool) -> None:
    """The service closes its side without reading on. Its answer must not be lost."""

    async def sees_enough(peer: Peer, _request: Request) -> None:
        await peer.send(CONTINUE)
        await peer.reader.readexactly(100_000)
        await peer.send(infected())
        raise EOFError

    async with icap_peer(sees_enough) as peer, scanner(peer, fail_open=fail_open) as scans:
        for _ in range(10):
            with pytest.raises(Infected):
                await scans.scan(bytes(16 << 20))
    assert scans.outcomes == ["infected"] * 10


async def test_a_threat_in_mid_file_refuses_at_the_next_block() -> None:
    async def sees_enough(peer: Peer, _request: Request) -> None:
        await peer.send(CONTINUE)
        await peer.reader.readexactly(3000)
        await peer.send(infected())
        answered.set()
        await peer.reader.read()

    answered = asyncio.Event()
    async with icap_peer(sees_enough) as peer, scanner(peer) as scans:
        check = scans.begin()
        await check.feed(bytes(4100))
        await answered.wait()
        with pytest.raises(Infected):
            await feed(check, *LONG * 16)
        with pytest.raises(Infected):
            await check.finish()
        await check.close()
    assert scans.outcomes == ["infected"]


# -- services that fail


async def closes(_peer: Peer, _request: Request) -> None:
    raise EOFError


async def closes_after_100(peer: Peer, _request: Request) -> None:
    await peer.send(CONTINUE)
    raise EOFError


async def resets(peer: Peer, _request: Request) -> None:
    await peer.send(CONTINUE)
    await peer.reader.read(3000)
    peer.writer.transport.abort()
    raise EOFError


async def says_100_twice(peer: Peer, _request: Request) -> None:
    await peer.send(CONTINUE + CONTINUE)
    await peer.reader.read()


def then_closes(reply: bytes) -> Script:
    async def script(peer: Peer, _request: Request) -> None:
        await peer.send(CONTINUE)
        await peer.chunks()
        await peer.send(reply)
        raise EOFError

    return script


def endless(start: bytes, more: bytes) -> Script:
    async def script(peer: Peer, _request: Request) -> None:
        await peer.send(start)
        while True:
            await peer.send(more)

    return script


HTTP = b"HTTP/1.1 200 OK\r\n\r\n"
MESSAGE = b"ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=0, res-body=%d\r\n\r\n" % len(HTTP) + HTTP

WAYS_OF_FAILING: dict[str, Script] = {
    "closes": closes,
    "closes after 100": closes_after_100,
    "resets": resets,
    "closes unanswered": then_closes(b""),
    "half a head": then_closes(b"ICAP/1.0 204 Unm"),
    "head without an end": then_closes(b"ICAP/1.0 204 Unmodified\r\n"),
    "half a body": then_closes(MESSAGE + b"5\r\nhel"),
    "body without an end": then_closes(MESSAGE + b"1\r\n\0\r\n"),
    "http": says(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "nonsense": says(b"what?\r\n\r\n"),
    "an error": says(b"ICAP/1.0 500 Server error\r\n\r\n"),
    "overloaded": says(b"ICAP/1.0 503 Service overloaded\r\n\r\n"),
    "partial content": says(b"ICAP/1.0 206 Partial Content\r\nEncapsulated: null-body=0\r\n\r\n"),
    "100 twice": says_100_twice,
    "204 twice": says(UNMODIFIED + UNMODIFIED),
    "204 with a body": says(b"ICAP/1.0 204 OK\r\nEncapsulated: res-body=0\r\n\r\n0\r\n\r\n"),
    "200 without a message": says(b"ICAP/1.0 200 OK\r\n\r\n"),
    "offsets beyond the message": then_closes(MESSAGE.replace(b"res-body=19", b"res-body=999")),
    "offsets within a head": then_closes(MESSAGE.replace(b"res-body=19", b"res-body=10") + b"0\r\n\r\n"),
    "offsets that fall": says(b"ICAP/1.0 200 OK\r\nEncapsulated: res-hdr=9, res-body=0\r\n\r\n"),
    "wrong chunk size": then_closes(MESSAGE + b"6\r\nhello\r\n0\r\n\r\n"),
    "no chunk size": then_closes(MESSAGE + b"hello\r\n"),
    "endless head": endless(b"ICAP/1.0 200 OK\r\n", b"X: y\r\n" * 1000),
    "endless line": endless(b"ICAP/1.0 200 ", b"x" * 1000),
    "endless interim answers": endless(b"", CONTINUE * 10),
    "endless chunk size": endless(CONTINUE + MESSAGE, b"0" * 1000),
    "endless trailer": endless(CONTINUE + MESSAGE + b"0\r\n", b"X: y\r\n" * 1000),
}


@pytest.mark.parametrize("script", WAYS_OF_FAILING.values(), ids=WAYS_OF_FAILING)
async def test_a_service_that_fails_refuses_the_file(script: Script, caplog: pytest.LogCaptureFixture) -> None:
    async with icap_peer(script) as peer, scanner(peer) as scans:
        with pytest.raises(ScannerUnavailable) as refusal:
            await scans.scan(*LONG)
    assert scans.outcomes == ["unavailable"]
    assert refusal.value.headers["Retry-After"]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("script", WAYS_OF_FAILING.values(), ids=WAYS_OF_FAILING)
async def test_a_file_passes_a_failing_service_with_fail_open(script: Script, caplog: pytest.LogCaptureFixture) -> None:
    async with icap_peer(script) as peer, scanner(peer, fail_open=True) as scans:
        await scans.scan(*LONG)
    assert scans.outcomes == ["unavailable"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


async def test_a_content_that_never_ends_is_not_the_file() -> None:
    async with icap_peer(endless(CONTINUE + MESSAGE, b"4\r\nmore\r\n")) as peer, scanner(peer) as scans:
        with pytest.raises(Refused):
            await scans.scan(*LONG)
    assert scans.outcomes == ["changed"]


WRONG_OPTIONS = {
    "not found": b"ICAP/1.0 404 Not Found\r\n\r\n",
    "no method": options(methods="LOGMOD"),
    "http": b"HTTP/1.1 200 OK\r\n\r\n",
    "204": UNMODIFIED,
    "100": CONTINUE + options(),
    "twice": options() + options(),
    "an answer to a file as well": options() + UNMODIFIED,
    "endless body": b"ICAP/1.0 200 OK\r\nMethods: RESPMOD\r\nEncapsulated: opt-body=0\r\n\r\n"
    + b"400\r\n%b\r\n" % bytes(1024) * 300,
}


@pytest.mark.parametrize("answer", WRONG_OPTIONS.values(), ids=WRONG_OPTIONS)
async def test_a_service_with_wrong_options_is_unavailable(answer: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with icap_peer(unmodified, answer) as peer, scanner(peer) as scans:
        with pytest.raises(ScannerUnavailable):
            await scans.scan(b"hello")
    assert scans.outcomes == ["unavailable"]
    assert len(caplog.records) == 1
    assert peer.requests == []


async def test_options_may_have_a_body() -> None:
    answer = options().replace(b"null-body=0", b"opt-body=0") + b"5\r\nhello\r\n0\r\n\r\n"
    async with icap_peer(unmodified, answer) as peer, scanner(peer) as scans:
        await scans.scan(b"hello")
    assert peer.connections == 1


@pytest.mark.parametrize("fail_open", [False, True])
async def test_an_unreachable_service(*, fail_open: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    scans = Scanner(URL(f"icap://127.0.0.1:{port}/x"), fail_open=fail_open)
    with contextlib.nullcontext() if fail_open else pytest.raises(ScannerUnavailable):
        await scans.scan(b"hello")
    assert scans.outcomes == ["unavailable"]


async def hangs(peer: Peer, _request: Request) -> None:
    await peer.reader.read()


@pytest.mark.parametrize("size", [10, 2000])
@pytest.mark.parametrize("fail_open", [False, True])
async def test_a_service_without_a_verdict_times_out(
    size: int, caplog: pytest.LogCaptureFixture, *, fail_open: bool
) -> None:
    async with icap_peer(hangs) as peer, scanner(peer, timeout=0.2, fail_open=fail_open) as scans:
        with contextlib.nullcontext() if fail_open else pytest.raises(ScannerUnavailable):
            await scans.scan(bytes(size))
    assert scans.outcomes == ["unavailable"]
    assert "the ICAP service gave no answer for 0.2 s" in caplog.text


async def test_a_service_that_reads_nothing_times_out(caplog: pytest.LogCaptureFixture) -> None:
    async def reads_nothing(peer: Peer, _request: Request) -> None:
        await peer.send(CONTINUE)
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await given_up.wait()
        raise EOFError

    given_up = asyncio.Event()
    async with icap_peer(reads_nothing) as peer, scanner(peer, timeout=0.5) as scans:
        with pytest.raises(ScannerUnavailable):
            await scans.scan(*LONG * 16)
        given_up.set()
    assert "the ICAP service accepted no data for 0.5 s" in caplog.text


async def test_a_service_that_never_accepts_times_out() -> None:
    with socket.socket() as server, contextlib.ExitStack() as queue:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):  # with a full queue, the kernel accepts no further connection
            waiting = queue.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        scans = Scanner(URL(f"icap://127.0.0.1:{server.getsockname()[1]}/x"), timeout=0.2)
        with pytest.raises(ScannerUnavailable):
            await scans.scan(b"hello")


async def test_a_slow_service_holds_the_upload_back() -> None:
    read, size = 0, 64 << 20

    async def slow(peer: Peer, _request: Request) -> None:
        nonlocal read
        await peer.send(CONTINUE)
        while (line := await peer.reader.readuntil(b"\r\n")) != b"0\r\n":
            read += len(await peer.reader.readexactly(int(line, 16) + 2))
        await peer.reader.readexactly(2)
        await peer.send(UNMODIFIED)

    async with icap_peer(slow) as peer, scanner(peer) as scans:
        check = scans.begin()
        for _ in range(64):
            await check.feed(bytes(1 << 20))
        assert read > size / 2  # the rest is in the kernel's buffers
        await check.finish()
        await check.close()


# -- connections


async def test_files_one_after_another_share_a_connection() -> None:
    async with icap_peer(unmodified) as peer, scanner(peer) as scans:
        for size in (0, 10, 1024, 5000) * 5:
            await scans.scan(bytes(size))
    assert (peer.connections, peer.options_asked, len(peer.requests)) == (1, 1, 20)


async def test_a_service_may_close_after_each_answer() -> None:
    async def closes_after(peer: Peer, request: Request) -> None:
        await unmodified(peer, request)
        raise EOFError

    async with icap_peer(closes_after) as peer, scanner(peer) as scans:
        for _ in range(5):
            await scans.scan(bytes(5000))
    assert scans.outcomes == ["clean"] * 5
    assert peer.connections == 5


@pytest.mark.parametrize("answer", [PREVIEW, COMPLETE], ids=["preview", "complete"])
async def test_a_request_that_met_a_closing_connection_is_sent_again(answer: bytes) -> None:
    """The service closes a connection that it has kept, when the next request arrives."""

    async def closes_second(peer: Peer, request: Request) -> None:
        if len(peer_.requests) == 2:
            raise EOFError
        await unmodified(peer, request)

    async with icap_peer(closes_second, answer) as peer_, scanner(peer_) as scans:
        await scans.scan(b"first")
        await scans.scan(bytes(50_000))
    assert [len(request.body) for request in peer_.requests[2:]] == [50_000]
    assert scans.outcomes == ["clean"] * 2
    assert peer_.connections == 2


async def test_a_request_of_which_too_much_was_sent_is_not_sent_again() -> None:
    async def closes_second(peer: Peer, request: Request) -> None:
        if len(service.requests) == 2:
            await peer.reader.readexactly(1 << 20)
            raise EOFError
        request.body, request.last_chunk = await peer.chunks()
        await unmodified(peer, request)

    async with icap_peer(closes_second, COMPLETE, whole_requests=False) as service, scanner(service) as scans:
        await scans.scan(b"first")
        with pytest.raises(ScannerUnavailable):
            await scans.scan(*LONG)
    assert len(service.requests) == 2


async def test_a_request_whose_answer_has_begun_is_not_sent_again() -> None:
    async def breaks_off(peer: Peer, request: Request) -> None:
        if len(service.requests) == 2:
            await peer.send(b"ICAP/1.0 2")
            raise EOFError
        await unmodified(peer, request)

    async with icap_peer(breaks_off) as service, scanner(service) as scans:
        await scans.scan(b"first")
        with pytest.raises(ScannerUnavailable):
            await scans.scan(b"second")
    assert len(service.requests) == 2


async def test_a_request_on_a_new_connection_is_not_sent_again() -> None:
    async with icap_peer(closes) as service, scanner(service) as scans:
        with pytest.raises(ScannerUnavailable):
            await scans.scan(b"first")
    # The connection that OPTIONS has used, and one more.
    assert len(service.requests) == 2


async def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next_file() -> None:
    async def adds_one(peer: Peer, request: Request) -> None:
        if not request.body.startswith(b"first"):
            return await peer.send(infected())
        await peer.send(UNMODIFIED)
        await ready.wait()
        await peer.send(UNMODIFIED)
        added.set()
        return None

    ready, added = asyncio.Event(), asyncio.Event()
    async with icap_peer(adds_one) as service, scanner(service) as scans:
        await scans.scan(b"first")
        ready.set()
        await added.wait()
        with pytest.raises(Infected):
            await scans.scan(b"second")
    assert service.connections == 2


async def test_max_connections_bounds_the_connections() -> None:
    at_once = most = 0

    async def counts(peer: Peer, request: Request) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        if at_once == 2:
            both.set()
        await both.wait()
        at_once -= 1
        await unmodified(peer, request)

    both = asyncio.Event()
    answer = options("Preview: 10", "Max-Connections: 2")
    async with icap_peer(counts, answer) as service, scanner(service) as scans:
        await asyncio.gather(*(scans.scan(bytes(5)) for _ in range(20)))
    assert scans.outcomes == ["clean"] * 20
    assert most == 2
    assert service.connections == 2


async def test_a_scan_without_a_connection_in_time_is_unavailable(caplog: pytest.LogCaptureFixture) -> None:
    async with (
        icap_peer(unmodified, options("Max-Connections: 1")) as service,
        scanner(service, timeout=0.2) as scans,
    ):
        first = scans.begin()
        await first.feed(b"hello")
        with pytest.raises(ScannerUnavailable):
            await scans.scan(b"second")
        await first.finish()
        await first.close()
        await scans.scan(b"third")
    assert scans.outcomes == ["unavailable", "clean", "clean"]
    assert "Max-Connections" in caplog.text


@pytest.mark.parametrize(("ttl", "asked"), [("0", 3), ("3600", 1)])
async def test_options_are_valid_for_their_time(ttl: str, asked: int) -> None:
    async with icap_peer(unmodified, options(f"Options-TTL: {ttl}")) as service, scanner(service) as scans:
        for _ in range(3):
            await scans.scan(b"hello")
    assert service.options_asked == asked


async def test_another_istag_makes_options_invalid() -> None:
    async def changed(peer: Peer, _request: Request) -> None:
        await peer.send(b'ICAP/1.0 204 Unmodified\r\nISTag: "b"\r\n\r\n')

    async with icap_peer(changed) as service, scanner(service) as scans:
        await scans.scan(b"hello")
        service.options = options("Preview: 3", istag='"b"')
        await scans.scan(b"hello")
        await scans.scan(b"hello")
    assert service.options_asked == 2
    assert [request.fields["preview"] for request in service.requests] == ["1024", "3", "3"]


async def test_idle_connections_are_closed_with_the_service() -> None:
    async with icap_peer(unmodified) as service:
        scans = Scanner(service.url)
        await scans.scan(b"hello")
        assert service.connections == 1
        scans.services.close()  # or the peer would wait for the end of its connection


async def test_services_are_shared_by_their_url_and_ca(tmp_path: Path) -> None:
    services = IcapServices(scanner_context)
    first, second = URL("icaps://a.invalid/x"), URL("icaps://a.invalid/y")
    assert services.service(first) is services.service(URL("icaps://a.invalid/x"))
    assert services.service(first) is not services.service(second)
    ca = authority(tmp_path).file
    assert services.service(first, ca) is services.service(first, ca)
    assert services.service(first, ca) is not services.service(first)


# -- TLS


@dataclass(frozen=True)
class Authority:
    """A CA: the file of its certificate, and the context of a service that has a certificate of it."""

    file: Path
    service: ssl.SSLContext


def authority(directory: Path) -> Authority:
    ca, context = trustme.CA(), ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.cert_pem.write_to_path(str(directory / "ca.pem"))
    return Authority(directory / "ca.pem", context)


async def test_a_service_is_trusted_by_the_ca_that_is_given(tmp_path: Path) -> None:
    ca = authority(tmp_path)
    async with icap_peer(unmodified, tls=ca.service) as service, scanner(service, ca=ca.file) as scans:
        await scans.scan(b"hello")
        await scans.scan(*LONG)
    assert scans.outcomes == ["clean", "clean"]


@pytest.mark.parametrize("trusted", ["the system", "another CA"])
async def test_a_service_of_another_ca_is_unavailable(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, trusted: str
) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    one, other = authority(tmp_path / "one"), authority(tmp_path / "other")
    ca = other.file if trusted == "another CA" else None
    async with icap_peer(unmodified, tls=one.service) as service, scanner(service, ca=ca) as scans:
        with pytest.raises(ScannerUnavailable):
            await scans.scan(b"hello")
    assert scans.outcomes == ["unavailable"]
    assert service.requests == []
    assert "see icap-ca" in caplog.text


async def test_the_ca_alone_is_trusted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
    one, other = authority(tmp_path / "one"), authority(tmp_path / "other")
    monkeypatch.setenv("SSL_CERT_FILE", str(one.file))
    async with icap_peer(unmodified, tls=one.service) as service:
        async with scanner(service) as scans:
            await scans.scan(b"hello")
        async with scanner(service, ca=other.file) as scans:
            with pytest.raises(ScannerUnavailable):
                await scans.scan(b"hello")


# -- the end of a scan


async def test_a_scan_that_is_closed_early_disconnects_and_is_not_counted() -> None:
    hung_up = asyncio.Event()

    async def waits(peer: Peer, _request: Request) -> None:
        await peer.send(CONTINUE)
        await peer.reader.read()
        hung_up.set()
        raise EOFError

    async with icap_peer(waits) as service, scanner(service) as scans:
        check = scans.begin()
        await check.feed(bytes(2000))
        await check.close()
        await hung_up.wait()
    assert scans.outcomes == []


async def test_a_scan_that_is_cancelled_in_a_write_disconnects() -> None:
    async def reads_nothing(peer: Peer, _request: Request) -> None:
        await peer.send(CONTINUE)
        began.set()
        peer.writer.transport.pause_reading()  # type: ignore[attr-defined]
        await ended.wait()
        raise EOFError

    began, ended = asyncio.Event(), asyncio.Event()
    async with icap_peer(reads_nothing) as service, scanner(service) as scans:
        scanning = asyncio.create_task(scans.scan(*LONG * 16))
        await began.wait()
        scanning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await scanning
        ended.set()
    assert scans.outcomes == []


async def test_a_check_that_was_never_fed_can_be_closed() -> None:
    await Scanner(URL("icap://127.0.0.1:1/x")).begin().close()


async def test_a_scan_that_was_cancelled_frees_its_connection() -> None:
    """With one connection permitted, the next scan would wait for ever."""

    async def waits_for_others(peer: Peer, request: Request) -> None:
        if request.body == b"waits":
            began.set()
            await peer.reader.read()
            raise EOFError
        await unmodified(peer, request)

    began = asyncio.Event()
    answer = options("Preview: 10", "Max-Connections: 1")
    async with icap_peer(waits_for_others, answer) as service, scanner(service) as scans:
        scanning = asyncio.create_task(scans.scan(b"waits"))
        await began.wait()
        scanning.cancel()
        await asyncio.wait([scanning])
        await scans.scan(b"next")
    assert scans.outcomes == ["clean"]
