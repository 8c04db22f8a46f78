import asyncio
import contextlib
import io
import logging
import os
import socket
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from virus_scanners import MARKER, SIGNATURE, Clamd, running_clamd

from aiorelay.checks.clamav import ClamAV, parse_reply
from aiorelay.checks.verdicts import ScanOutcome, Verdict
from aiorelay.errors import Infected, Problem, ScannerUnavailable, Unscannable
from aiorelay.multipart.form import Part
from aiorelay.settings.places import ScannerAddress

pytestmark = pytest.mark.needs("clamd")

STREAM_MAX_LENGTH = 1 << 20


@pytest.fixture(scope="session")
def clamd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clamd]:
    with running_clamd(tmp_path_factory.mktemp("clamd"), STREAM_MAX_LENGTH) as running:
        yield running


@pytest.fixture(params=Clamd._fields)
def address(request: pytest.FixtureRequest, clamd: Clamd) -> ScannerAddress:
    where: ScannerAddress = getattr(clamd, request.param)
    return where


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@contextlib.asynccontextmanager
async def stand_in(handler: Handler, host: str = "127.0.0.1") -> AsyncIterator[ScannerAddress]:
    """Run a server in place of clamd, which calls ``handler`` and then closes the connection."""
    ended = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        end = asyncio.get_running_loop().create_future()
        ended.append(end)
        try:
            await handler(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            end.set_result(None)

    server = await asyncio.start_server(handle, host, 0)
    try:
        yield server.sockets[0].getsockname()[:2]
    finally:
        server.close()
        await asyncio.gather(*ended)


async def read_stream(reader: asyncio.StreamReader) -> bytes:
    """Read an INSTREAM to its end, as clamd does."""
    assert await reader.readexactly(10) == b"zINSTREAM\0"
    stream = b""
    while length := int.from_bytes(await reader.readexactly(4)):
        stream += await reader.readexactly(length)
    return stream


def file_part(filename: str | None = "a.bin") -> Part:
    return Part("somefile", filename, None, None, unread())


async def unread() -> AsyncGenerator[bytes, None]:
    yield b"a scan is fed, it does not read"


class Scanner:
    """A ClamAV that records the outcomes it counts."""

    def __init__(self, address: ScannerAddress, *, timeout: float = 60, fail_open: bool = False) -> None:
        self.outcomes: list[ScanOutcome] = []
        self.clamav = ClamAV(address, timeout=timeout, fail_open=fail_open, on_outcome=self.outcomes.append)

    async def scan(self, *chunks: bytes) -> None:
        check = self.clamav(file_part())
        assert check is not None
        try:
            for chunk in chunks:
                await check.feed(chunk)
            await check.finish()
        finally:
            await check.close()


def zipped(content: bytes, *, encrypted: bool = False) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a", content)
    data = bytearray(packed.getvalue())
    if encrypted:
        data[6] |= 1
        data[data.index(b"PK\1\2") + 8] |= 1
    return bytes(data)


# --- The pure parts -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [
        (b"stream: OK\0", Verdict("clean")),
        (b"stream: Eicar-Test-Signature FOUND\0", Verdict("infected", "Eicar-Test-Signature")),
        (b"stream: A name FOUND\0", Verdict("infected", "A name")),
        (b"stream: Eicar(0123456789abcdef:68) FOUND\0", Verdict("infected", "Eicar")),
        (b"stream: Odd(er) FOUND\0", Verdict("infected", "Odd(er)")),
        (b"stream: Bad\r\nName\x80 FOUND\0", Verdict("infected", "BadName\N{REPLACEMENT CHARACTER}")),
        (b"Elsewhere FOUND\0", Verdict("infected", "Elsewhere")),
        (b"stream: OK FOUND\0", Verdict("infected", "OK")),
        (b"stream: X FOUND", Verdict("infected", "X")),
        (b"stream: OK\0stream: X FOUND\0", Verdict("infected", "OKstream: X")),
        (b"stream: " + b"x" * 300 + b" FOUND\0", Verdict("infected", "x" * 200)),
        (b"stream: Heuristics.Encrypted.Zip FOUND\0", Verdict("unscannable", "Heuristics.Encrypted.Zip")),
        (b"stream: Heuristics.Encrypted.PDF FOUND\0", Verdict("unscannable", "Heuristics.Encrypted.PDF")),
        (
            b"stream: Heuristics.Limits.Exceeded.MaxFileSize FOUND\0",
            Verdict("unscannable", "Heuristics.Limits.Exceeded.MaxFileSize"),
        ),
        (b"stream: Heuristics.EncryptedX FOUND\0", Verdict("infected", "Heuristics.EncryptedX")),
        (b"stream: Heuristics.Zip.OverlappingFiles FOUND\0", Verdict("infected", "Heuristics.Zip.OverlappingFiles")),
        (
            b"INSTREAM size limit exceeded. ERROR\0",
            Verdict("unscannable", "it is longer than clamd's StreamMaxLength"),
        ),
        (b"stream: Can't allocate memory ERROR\0", Verdict("unscannable", "clamd failed to scan it")),
    ],
)
def test_a_reply_is_judged(reply: bytes, verdict: Verdict) -> None:
    assert parse_reply(reply) == verdict


@pytest.mark.parametrize(
    "reply",
    [
        *(b"", b"\0", b"stream: OK", b"stream: OK\0\0", b" stream: OK\0"),
        *(b"stream: ok\0", b"stream: OK\n\0", b"stream:  OK\0", b"OK\0", b"PONG\0", b"UNKNOWN COMMAND\0"),
        *(b"COMMAND READ TIMED OUT\0", b"stream: NOT OK\0", b"1: stream: OK\0", b"read timeout ERROR\0"),
    ],
)
def test_any_other_reply_is_invalid(reply: bytes) -> None:
    assert parse_reply(reply).outcome == "unavailable"


@given(st.binary())
def test_only_one_reply_is_clean(reply: bytes) -> None:
    assert (parse_reply(reply).outcome == "clean") == (reply == b"stream: OK\0")


# --- The real daemon ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chunks",
    [(), (b"",), (b"hello",), (b"a",) * 100, (b"AIORELAY", b"-TEST"), (bytes(STREAM_MAX_LENGTH),)],
    ids=["nothing", "empty", "one", "many", "half a marker", "the longest"],
)
async def test_a_clean_file_passes(address: ScannerAddress, chunks: tuple[bytes, ...]) -> None:
    scanner = Scanner(address)
    await scanner.scan(*chunks)
    assert scanner.outcomes == ["clean"]


@pytest.mark.parametrize(
    "chunks",
    [
        (MARKER,),
        tuple(bytes([byte]) for byte in MARKER),
        (b"", MARKER[:5], b"", MARKER[5:]),
        (bytes(STREAM_MAX_LENGTH - len(MARKER)), MARKER),
        (zipped(b"x" * 5000 + MARKER),),
    ],
    ids=["whole", "byte by byte", "among empty blocks", "last bytes", "in a zip"],
)
@pytest.mark.parametrize("fail_open", [False, True])
async def test_an_infected_file_is_refused_with_the_name_of_the_signature(
    address: ScannerAddress, chunks: tuple[bytes, ...], *, fail_open: bool
) -> None:
    scanner = Scanner(address, fail_open=fail_open)
    with pytest.raises(Infected, match=SIGNATURE):
        await scanner.scan(*chunks)
    assert scanner.outcomes == ["infected"]


TOO_LONG = [
    (bytes(STREAM_MAX_LENGTH), b"x"),
    (bytes(8 << 20),),
    (bytes(256 << 10),) * 64,
    (bytes(1000),) * 5000,
]


@pytest.mark.parametrize("chunks", TOO_LONG, ids=["by a byte", "one block", "many blocks", "small blocks"])
async def test_a_file_over_stream_max_length_is_unscannable_every_time(
    address: ScannerAddress, chunks: tuple[bytes, ...]
) -> None:
    """Clamd closes the connection during a write; its reply must not be lost."""
    scanner = Scanner(address)
    for _ in range(10):
        with pytest.raises(Unscannable, match="StreamMaxLength"):
            await scanner.scan(*chunks)
    assert scanner.outcomes == ["unscannable"] * 10


async def test_an_encrypted_archive_is_unscannable(address: ScannerAddress) -> None:
    scanner = Scanner(address)
    with pytest.raises(Unscannable, match=r"Heuristics\.Encrypted\.Zip"):
        await scanner.scan(zipped(b"secret" * 100, encrypted=True))
    assert scanner.outcomes == ["unscannable"]


@pytest.mark.parametrize("chunks", [*TOO_LONG, (zipped(b"secret" * 100, encrypted=True), b"more")])
async def test_an_unscannable_file_passes_with_a_warning_with_fail_open(
    address: ScannerAddress, chunks: tuple[bytes, ...], caplog: pytest.LogCaptureFixture
) -> None:
    scanner = Scanner(address, fail_open=True)
    await scanner.scan(*chunks)
    assert scanner.outcomes == ["unscannable"]
    assert [(record.name, record.levelno) for record in caplog.records] == [("aiorelay", logging.WARNING)]


async def test_scans_at_once_do_not_mix_their_verdicts(address: ScannerAddress) -> None:
    scanner = Scanner(address)
    files = [(b"clean", b"file"), (b"", MARKER), (bytes(2 << 20),)] * 8
    verdicts = await asyncio.gather(*(scanner.scan(*chunks) for chunks in files), return_exceptions=True)
    assert [type(verdict) for verdict in verdicts] == [type(None), Infected, Unscannable] * 8


async def test_a_plain_field_is_not_scanned(tmp_path: Path) -> None:
    assert ClamAV(tmp_path / "nowhere", timeout=1)(file_part(None)) is None


# --- A daemon that misbehaves ---------------------------------------------------------------------------------------


async def closes_at_once(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    pass


async def closes_midway(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(100_000)


async def closes_unanswered(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
    await read_stream(reader)


async def resets(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await reader.readexactly(100_000)
    writer.transport.abort()


def answers(reply: bytes) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_stream(reader)
        writer.write(reply)
        await writer.drain()

    return handler


def answers_early(reply: bytes) -> Handler:
    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply)
        await reader.readexactly(100_000)

    return handler


BLOCKS = (bytes(64 << 10),) * 64

WAYS_OF_FAILING = {
    "closes at once": closes_at_once,
    "closes midway": closes_midway,
    "closes unanswered": closes_unanswered,
    "resets": resets,
    "nonsense": answers(b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "nonsense, whole": answers(b"it is fine\0"),
    "a pong": answers(b"PONG\0"),
    "half a reply": answers(b"stream: O"),
    "unended": answers(b"stream: OK"),
    "two replies": answers(b"stream: OK\0stream: OK\0"),
    "far too much": answers(b"stream: OK" * 100_000),
    "clean, before the end": answers_early(b"stream: OK\0"),
    "nonsense, before the end": answers_early(b"what?\0"),
}


def blocks_to(handler: Handler) -> tuple[bytes, ...]:
    """More data than socket buffers hold for handlers that answer early, so that not all is sent before the answer."""
    return BLOCKS * 16 if handler.__qualname__.startswith(answers_early.__name__) else BLOCKS


@pytest.mark.parametrize("handler", WAYS_OF_FAILING.values(), ids=WAYS_OF_FAILING)
async def test_a_scanner_that_fails_refuses_the_file(handler: Handler, caplog: pytest.LogCaptureFixture) -> None:
    async with stand_in(handler) as address:
        scanner = Scanner(address)
        with pytest.raises(ScannerUnavailable) as refusal:
            await scanner.scan(*blocks_to(handler))
    assert scanner.outcomes == ["unavailable"]
    assert refusal.value.headers["Retry-After"]
    assert len(caplog.records) == 1


@pytest.mark.parametrize("handler", WAYS_OF_FAILING.values(), ids=WAYS_OF_FAILING)
async def test_a_file_passes_a_failing_scanner_with_fail_open(
    handler: Handler, caplog: pytest.LogCaptureFixture
) -> None:
    async with stand_in(handler) as address:
        scanner = Scanner(address, fail_open=True)
        await scanner.scan(*blocks_to(handler))
    assert scanner.outcomes == ["unavailable"]
    assert [record.levelno for record in caplog.records] == [logging.WARNING]


@pytest.mark.parametrize("chunks", [(), (b"hello",), BLOCKS], ids=["never", "short", "long"])
@pytest.mark.parametrize("fail_open", [False, True])
async def test_an_unreachable_scanner(tmp_path: Path, chunks: tuple[bytes, ...], *, fail_open: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        closed_port = server.getsockname()
    for address in (closed_port, tmp_path / "nothing", tmp_path):
        scanner = Scanner(address, fail_open=fail_open)
        with contextlib.nullcontext() if fail_open else pytest.raises(ScannerUnavailable):
            await scanner.scan(*chunks)
        assert scanner.outcomes == ["unavailable"]


@pytest.mark.parametrize("chunks", [(b"hello",), (bytes(64 << 20),)], ids=["no verdict", "nothing read"])
@pytest.mark.parametrize("fail_open", [False, True])
async def test_a_hanging_scanner_times_out(chunks: tuple[bytes, ...], *, fail_open: bool) -> None:
    given_up = asyncio.Event()

    async def hangs(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await given_up.wait()

    async with stand_in(hangs) as address:
        scanner = Scanner(address, timeout=0.2, fail_open=fail_open)
        with contextlib.nullcontext() if fail_open else pytest.raises(ScannerUnavailable):
            await scanner.scan(*chunks)
        given_up.set()
    assert scanner.outcomes == ["unavailable"]


async def test_a_scanner_that_never_accepts_times_out() -> None:
    with socket.socket() as server, contextlib.ExitStack() as queue:
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):  # with a full queue, the kernel accepts no further connection
            waiting = queue.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(server.getsockname())
        scanner = Scanner(server.getsockname(), timeout=0.2)
        with pytest.raises(ScannerUnavailable):
            await scanner.scan(b"hello")


@pytest.mark.parametrize(
    ("reply", "problem"),
    [(b"stream: X FOUND\0", Infected), (b"INSTREAM size limit exceeded. ERROR\0", Unscannable)],
)
async def test_an_early_verdict_refuses_at_the_next_block(reply: bytes, problem: type[Problem]) -> None:
    answered, refused = asyncio.Event(), asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(100)
        writer.write(reply)
        await writer.drain()
        answered.set()
        await refused.wait()

    async with stand_in(handler) as address:
        scanner = Scanner(address)
        check = scanner.clamav(file_part())
        assert check is not None
        await check.feed(bytes(100))
        await answered.wait()
        for _ in range(2):
            with pytest.raises(problem):
                await check.feed(b"more")
        with pytest.raises(problem):
            await check.finish()
        await check.close()
        refused.set()
    assert scanner.outcomes == ["infected" if problem is Infected else "unscannable"]


async def test_an_early_verdict_ends_a_blocked_write() -> None:
    refused = asyncio.Event()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(100)
        writer.write(b"stream: X FOUND\0")
        await refused.wait()

    async with stand_in(handler) as address:
        with pytest.raises(Infected):
            await Scanner(address).scan(bytes(64 << 20))
        refused.set()


async def test_a_slow_scanner_holds_the_upload_back() -> None:
    read = 0
    size = 64 << 20

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal read
        while read < size:
            read += len(await reader.read(1 << 16))
        writer.write(b"stream: OK\0")
        await writer.drain()
        await reader.read()

    async with stand_in(handler) as address:
        check = ClamAV(address, timeout=60)(file_part())
        assert check is not None
        for _ in range(64):
            await check.feed(bytes(1 << 20))
        assert read > size / 2  # the rest is in the kernel's buffers
        await check.finish()
        await check.close()


async def test_the_scanner_sees_the_file_byte_for_byte() -> None:
    seen = asyncio.get_running_loop().create_future()

    async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.set_result(await read_stream(reader))
        writer.write(b"stream: ")
        await writer.drain()
        writer.write(b"OK\0")
        await writer.drain()

    chunks = [os.urandom(size) for size in (1, 0, 70_000, 3, 1 << 20)]
    async with stand_in(handler) as address:
        await Scanner(address).scan(*chunks)
    assert await seen == b"".join(chunks)


@pytest.mark.parametrize("host", ["::1", "localhost"])
async def test_a_scanner_is_found_by_name_and_over_ipv6(host: str) -> None:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError as error:
            pytest.skip(f"no IPv6 here: {error}")
    async with stand_in(answers(b"stream: OK\0"), host="::1" if host == "::1" else "127.0.0.1") as address:
        assert isinstance(address, tuple)
        scanner = Scanner((host, address[1]))
        await scanner.scan(b"hello")
    assert scanner.outcomes == ["clean"]


async def test_a_scan_that_is_closed_early_disconnects_and_is_not_counted() -> None:
    hung_up = asyncio.get_running_loop().create_future()

    async def handler(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        hung_up.set_result(await reader.read())

    async with stand_in(handler) as address:
        scanner = Scanner(address)
        check = scanner.clamav(file_part())
        assert check is not None
        await check.feed(b"hello")
        await check.close()
        assert await hung_up == b"zINSTREAM\0\0\0\0\x05hello"
    assert scanner.outcomes == []


async def test_a_scan_that_is_cancelled_in_a_write_disconnects() -> None:
    connected, ended = asyncio.Event(), asyncio.Event()

    async def handler(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        connected.set()
        await ended.wait()

    async with stand_in(handler) as address:
        scanner = Scanner(address)
        scanning = asyncio.create_task(scanner.scan(bytes(64 << 20)))
        await connected.wait()
        scanning.cancel()
        with pytest.raises(asyncio.CancelledError):
            await scanning
        ended.set()
    assert scanner.outcomes == []


async def test_a_check_that_was_never_fed_can_be_closed() -> None:
    check = ClamAV(("127.0.0.1", 1), timeout=1)(file_part())
    assert check is not None
    await check.close()


async def test_a_counter_that_fails_passes_nothing() -> None:
    def broken(_outcome: ScanOutcome) -> None:
        raise RuntimeError("the counter is broken")

    async with stand_in(answers(b"stream: OK\0")) as address:
        check = ClamAV(address, timeout=60, on_outcome=broken)(file_part())
        assert check is not None
        await check.feed(b"hello")
        for _ in range(2):
            with pytest.raises(RuntimeError):
                await check.finish()
        await check.close()
