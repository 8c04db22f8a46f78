"""Real faults of disks, networks and processes: answered uploads are stored, and nothing else is left."""

import asyncio
import contextlib
import os
import random
import signal
import socket
import ssl
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path

import pytest
import trustme
from ledger import Ledger, faults_checked, upload_of
from peers import (
    DONE,
    Connection,
    Message,
    ask,
    connected,
    eventually,
    request,
    reset,
)
from processes import FREE_PORTS, Process, started

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
CONTENT = random.Random(1).randbytes(3 * MIB)  # noqa: S311 - any bytes will do
UPLOAD = upload_of(CONTENT)
HALF = len(UPLOAD) // 2
SMALL = b"small" * 1000


@pytest.fixture
def places(tmp_path):
    """Return the settings for the chain's store and state."""
    return {"store": tmp_path / "store", "state": tmp_path / "state"}


@pytest.fixture
def relay(places):
    """A factory of whole chains in one process."""

    def start(*flags: str, under: tuple[str, ...] = ()):
        return started(*flags_of(places), *flags, under=under)

    return start


def flags_of(places: dict[str, Path]) -> tuple[str, ...]:
    return *FREE_PORTS, "--state-dir", str(places["state"]), "--store", str(places["store"]), "--no-fsync"


@pytest.fixture
def disk(tmp_path):
    """A directory with 8 MiB of space, if a file system can be mounted."""
    point = tmp_path / "disk"
    point.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "aiorelay-test", point], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not allowed here")
    yield point
    subprocess.run(["umount", "-q", "-l", point], check=True)


async def upload(process: Process, ledger: Ledger, content: bytes = SMALL) -> Message:
    return ledger.record(await ask(process.rest1, process.tls, upload_of(content)), content)


# Disks


@pytest.mark.parametrize("way", ["form", "raw body"])
async def test_a_store_without_room_is_507_and_the_next_small_upload_is_kept(relay, places, disk, way):
    places["store"] = disk / "store"
    content = bytes(12 * MIB)
    raw = request("/upload/a.bin", content, method="PUT", content_type=None)
    async with relay() as process, faults_checked(process, **places, others={200, 507}) as ledger:
        answer = await ask(process.rest1, process.tls, upload_of(content) if way == "form" else raw)
        assert (answer.status, answer.json()["type"]) == (507, "urn:aiorelay:storage-full")
        assert (await upload(process, ledger)).status == 200


async def test_a_spool_without_room_is_507_and_the_next_upload_is_kept(relay, places, disk):
    places["state"] = disk / "state"
    async with relay("--upstream-mode", "spool") as process, faults_checked(process, **places) as ledger:
        answer = await upload(process, ledger, bytes(12 * MIB))
        assert (answer.status, answer.json()["type"]) == (507, "urn:aiorelay:storage-full")
        assert (await upload(process, ledger, CONTENT)).status == 200


@contextlib.asynccontextmanager
async def injected(process: Process, fault: str) -> AsyncGenerator[None, None]:
    """Let the kernel report ``fault`` to a running process (strace's -e inject)."""
    tracer = await asyncio.create_subprocess_exec(
        *("strace", "-f", "-p", str(process.pid), "-o", os.devnull, "-e", f"inject={fault}"),
        stderr=asyncio.subprocess.PIPE,
    )
    assert tracer.stderr is not None
    try:
        said = await tracer.stderr.readline()
        if b"attached" not in said:
            pytest.skip(f"strace cannot be used here: {said.decode()}")
        yield
    finally:
        tracer.terminate()
        await tracer.communicate()


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        ("writev:error=EIO", 500),
        ("writev:error=ENOSPC", 507),
        ("fsync:error=EIO", 500),
        ("fsync:error=ENOSPC", 507),
        ("renameat,renameat2:error=EIO", 500),
    ],
)
@pytest.mark.needs("strace")
async def test_an_upload_that_the_disk_did_not_store_is_an_error(relay, places, fault, status):
    async with relay("--fsync") as process, faults_checked(process, **places, others={200, status}) as ledger:
        async with injected(process, fault):
            assert (await upload(process, ledger, CONTENT)).status == status
        assert (await upload(process, ledger, CONTENT)).status == 200


@pytest.mark.parametrize(("error", "status"), [("EIO", 500), ("ENOSPC", 507)])
@pytest.mark.needs("strace")
async def test_an_upload_that_cannot_be_spooled_is_not_sent(relay, places, error, status):
    async with (
        relay("--only", "rest1", "--upstream", "http://127.0.0.1:9/", "--upstream-mode", "spool") as process,
        faults_checked(process, **places, others=None) as ledger,
        injected(process, f"writev:error={error}"),
    ):
        assert (await upload(process, ledger, CONTENT)).status == status


# Processes


@pytest.mark.parametrize(
    ("mode", "sent"),
    [("stream", 1000), ("stream", HALF), ("stream", len(UPLOAD) - 1), ("stream", len(UPLOAD)), ("spool", HALF)],
)
async def test_a_kill_in_mid_upload_leaves_no_part_of_it_and_the_next_start_sweeps(relay, places, mode, sent):
    ledger = Ledger(places["store"])
    async with relay("--upstream-mode", mode) as process:
        await upload(process, ledger)
        async with connected(process.rest1, process.tls) as client:
            await client.send(UPLOAD[:sent])
            if mode == "stream" and sent > MIB:
                await eventually(lambda: ledger.incoming or sent == len(UPLOAD))
            if sent == len(UPLOAD):
                ledger.record_lost_answer(CONTENT)
            assert await process.stop(signal.SIGKILL) == -signal.SIGKILL
        ledger.check()
    async with relay() as process:
        assert not ledger.incoming
        assert (await upload(process, ledger)).status == 200
        ledger.check()


@pytest.mark.parametrize("seed", range(4))
async def test_a_kill_at_any_moment_loses_nothing_that_was_answered(relay, places, seed):
    chance = random.Random(seed)  # noqa: S311 - a test that can be repeated
    ledger = Ledger(places["store"])
    async with relay() as process:

        async def upload_on(content: bytes) -> None:
            while True:
                try:
                    answer = await ask(process.rest1, process.tls, upload_of(content))
                except (OSError, AssertionError):  # the relay is down, or closed the connection without an answer
                    ledger.record_lost_answer(content)
                    return
                ledger.record(answer, content)

        uploads = [asyncio.create_task(upload_on(bytes([number]) * 300_000)) for number in range(4)]
        await eventually(lambda: len(ledger) > chance.randrange(20))
        assert await process.stop(signal.SIGKILL) == -signal.SIGKILL
        await asyncio.gather(*uploads)
        ledger.check()
    async with relay() as process:
        ledger.check()


@contextlib.asynccontextmanager
async def two_processes(
    places: dict[str, Path], *flags: str, between: Callable[[int], Awaitable[int]] | None = None
) -> AsyncGenerator[tuple[Process, Process], None]:
    """rest1 and rest2, each in its own process; ``between`` may replace the port of rest2."""
    async with started(*flags_of(places), "--only", "rest2") as rest2:
        port = int(rest2.rest2.rpartition(":")[2])
        if between is not None:
            port = await between(port)
        upstream = ("--upstream", f"https://127.0.0.1:{port}/upload")
        async with started(*flags_of(places), "--only", "rest1", *upstream, *flags) as rest1:
            yield rest1, rest2


async def test_uploads_wait_for_an_upstream_that_is_stopped_for_a_moment(places):
    async with (
        two_processes(places) as (rest1, rest2),
        faults_checked(rest1, rest2, **places) as ledger,
        connected(rest1.rest1, rest1.tls) as client,
    ):
        await client.send(UPLOAD[:HALF])
        await eventually(lambda: ledger.incoming)
        rest2.send(signal.SIGSTOP)
        rest = asyncio.create_task(client.ask(UPLOAD[HALF:]))
        await asyncio.wait([rest], timeout=0.5)
        assert not rest.done()
        rest2.send(signal.SIGCONT)
        assert ledger.record(await rest, CONTENT).status == 200


async def test_an_upstream_that_stays_stopped_is_504(places):
    flags = ("--answer-timeout", "1s", "--idle-timeout", "1s")
    async with (
        two_processes(places, *flags) as (rest1, rest2),
        faults_checked(rest1, rest2, **places, others={200, 504}) as ledger,
    ):
        async with connected(rest1.rest1, rest1.tls) as client:
            await client.send(UPLOAD[:HALF])
            await eventually(lambda: ledger.incoming)
            rest2.send(signal.SIGSTOP)
            try:
                # Its kernel may have taken the whole request meanwhile.
                answer = ledger.record(await client.ask(UPLOAD[HALF:]), CONTENT)
            finally:
                rest2.send(signal.SIGCONT)
            assert answer.status == 504
        assert (await upload(rest1, ledger, CONTENT)).status == 200


async def test_a_killed_upstream_is_502(places):
    ledger = Ledger(places["store"])
    async with two_processes(places) as (rest1, rest2):
        async with connected(rest1.rest1, rest1.tls) as client:
            await client.send(UPLOAD[:HALF])
            await eventually(lambda: ledger.incoming)
            assert await rest2.stop(signal.SIGKILL) == -signal.SIGKILL
            assert (await client.ask(UPLOAD[HALF:])).status == 502
        assert (await upload(rest1, ledger)).status == 502
        ledger.check()


# Networks


@pytest.mark.parametrize(
    ("way", "sent"),
    [("reset", 200), ("reset", HALF), ("reset", len(UPLOAD) - 1), ("finish", HALF), ("close", HALF)],
)
async def test_a_client_that_leaves_in_mid_upload_leaves_nothing(relay, places, way, sent):
    async with (
        relay() as process,
        faults_checked(process, **places) as ledger,
        connected(process.rest1, process.tls) as client,
    ):
        await client.send(UPLOAD[:sent])
        await eventually(lambda: ledger.incoming or sent < MIB)
        getattr(client, way)()


@pytest.mark.parametrize("way", ["reset", "finish", "close"])
async def test_a_client_that_leaves_before_the_answer_finds_its_upload_whole_or_not_at_all(relay, places, way):
    async with relay() as process, faults_checked(process, **places) as ledger:
        for size in range(0, 3 * MIB, 300_000):
            async with connected(process.rest1, process.tls) as client:
                await client.send(upload_of(CONTENT[:size]))
                getattr(client, way)()
            ledger.record_lost_answer(CONTENT[:size])


class Proxy:
    """A TCP proxy on ``port`` that forwards ``rate`` bytes a second each way, and can reset its connections."""

    def __init__(self, rate: int) -> None:
        self.carried = 0
        self._rate = rate
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self, target: int) -> int:
        self._target = target
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.append(asyncio.current_task())
        there, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, back]
        await asyncio.gather(self._pump(reader, back), self._pump(there, writer), return_exceptions=True)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while block := await reader.read(min(self._rate // 16, MIB)):
                self.carried += len(block)
                writer.write(block)
                await writer.drain()
                await asyncio.sleep(len(block) / self._rate)
        finally:
            writer.close()

    def reset(self) -> None:
        for writer in self._writers:
            if not writer.is_closing():  # one of a connection that has ended before
                reset(writer)

    async def stop(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@pytest.fixture
async def proxy():
    """A factory of proxies."""
    async with contextlib.AsyncExitStack() as stack:

        def make(rate):
            made = Proxy(rate)
            stack.push_async_callback(made.stop)
            return made

        yield make


SLOW, FAST = 64 * 1024, 1024 * MIB
PIECE = CONTENT[: 3 * SLOW]


async def test_a_throttled_client_is_served(relay, places, proxy):
    async with relay() as process, faults_checked(process, **places) as ledger:
        port = await proxy(SLOW).start(int(process.rest1.rpartition(":")[2]))
        answer = await ask(f"https://127.0.0.1:{port}", process.tls, upload_of(PIECE))
        assert ledger.record(answer, PIECE).status == 200


async def test_an_upload_api_behind_a_throttle_is_fed(places, proxy):
    async with (
        two_processes(places, between=proxy(SLOW).start) as (rest1, rest2),
        faults_checked(rest1, rest2, **places) as ledger,
    ):
        assert (await upload(rest1, ledger, PIECE)).status == 200


async def test_an_upstream_that_resets_in_mid_upload_is_502_and_keeps_nothing(places, proxy):
    between = proxy(FAST)
    async with (
        two_processes(places, between=between.start) as (rest1, rest2),
        faults_checked(rest1, rest2, **places, others={200, 502}) as ledger,
        connected(rest1.rest1, rest1.tls) as client,
    ):
        await client.send(UPLOAD[:HALF])
        await eventually(lambda: ledger.incoming and between.carried > MIB)
        between.reset()
        assert (await client.ask(UPLOAD[HALF:])).status == 502


LONG = os.urandom(32 * MIB)  # more than the kernel buffers for a client that does not read


async def long_answer(connection: Connection) -> None:
    """Act as an upload API with a long answer to URLs that contain ``long``."""
    while True:
        message = await connection.request()
        long = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(LONG) + LONG
        await connection.send(long if message.target.endswith("long") else DONE)


LONGED_FOR = UPLOAD.replace(b"/upload1", b"/upload1?long", 1)


async def test_an_answer_that_is_read_slowly_arrives_whole_while_others_are_served(relay, places, recorder):
    upstream = await recorder(long_answer)
    async with (
        relay("--only", "rest1", "--upstream", upstream.url) as process,
        faults_checked(process, **places, others=None),
    ):
        port = int(process.rest1.rpartition(":")[2])
        reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=process.tls)
        writer.write(LONGED_FOR)
        await reader.readuntil(b"\r\n\r\n")
        assert (await ask(process.rest1, process.tls, UPLOAD)).status == 200
        received = b""
        while len(received) < len(LONG):
            await asyncio.sleep(0.001)
            received += await reader.readexactly(64 * 1024)
        assert received == LONG
        writer.transport.abort()


async def test_a_client_that_does_not_read_the_answer_is_cut_off(relay, places, recorder):
    upstream = await recorder(long_answer)
    async with (
        relay("--only", "rest1", "--upstream", upstream.url, "--idle-timeout", "1s") as process,
        faults_checked(process, **places, others=None),
        connected(process.rest1, process.tls) as client,
    ):
        await client.send(LONGED_FOR)
        await process.logged("could not be passed back whole")
        assert (await ask(process.rest1, process.tls, UPLOAD)).status == 200


# Many at once


@pytest.mark.parametrize(("mode", "seed"), [("stream", 1), ("stream", 2), ("spool", 3)])
async def test_of_32_uploads_at_once_exactly_those_that_were_answered_are_stored(relay, places, mode, seed):
    chance = random.Random(seed)  # noqa: S311 - a test that can be repeated
    leaving = set(chance.sample(range(32), 8))

    async def one(number: int, process: Process, ledger: Ledger) -> None:
        content = CONTENT[: chance.randrange(len(CONTENT))]
        if number not in leaving:
            assert (await upload(process, ledger, content)).status == 200
            return
        sent, leave = upload_of(content), chance.choice(["reset", "finish", "close"])
        async with connected(process.rest1, process.tls) as client:
            await client.send(sent[: chance.randrange(len(sent))])
            getattr(client, leave)()

    async with relay("--upstream-mode", mode) as process, faults_checked(process, **places) as ledger:
        before = len(ledger)
        await asyncio.gather(*(one(number, process, ledger) for number in range(32)))
        assert len(ledger) >= before + 24


async def pressed(process: Process, count: int) -> int:
    """Send ``count`` uploads to a relay whose upstream reads nothing; return the memory when all have stalled."""

    async def press(stalled: asyncio.Event) -> None:
        async with connected(process.rest1, process.tls) as client:
            await client.send(request("/upload/a.bin", b"", method="PUT", length=64 * MIB, content_type=None))
            while True:
                sending = asyncio.create_task(client.send(bytes(MIB // 4)))
                if not (await asyncio.wait([sending], timeout=2))[0]:
                    stalled.set()
                await sending

    events = [asyncio.Event() for _ in range(count)]
    uploads = [asyncio.create_task(press(stalled)) for stalled in events]
    await asyncio.gather(*(stalled.wait() for stalled in events))
    memory = process.peak_memory
    for each in uploads:
        each.cancel()
    await asyncio.wait(uploads)
    return memory


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_each_of_64_uploads_that_wait_for_their_upstream_takes_2_mib_and_a_half_at_most(relay, recorder, scheme):
    context = None
    if scheme == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    upstream = await recorder(Connection.hang, tls=context)
    async with relay("--only", "rest1", "--upstream", upstream.url, "--upstream-insecure") as process:
        one = await pressed(process, 1)
        many = await pressed(process, 64)
        process.send(signal.SIGINT)  # a second signal does not wait for the stalled uploads
        assert await process.stop() == 1
    assert many - one < 63 * 2.5 * MIB


# Descriptors


async def test_uploads_are_served_with_64_descriptors_and_120_idle_connections(relay, places):
    few = ("bash", "-c", 'ulimit -n 64; exec "$@"', "bash")
    async with relay(under=few) as process:
        with contextlib.ExitStack() as idle:
            port = int(process.rest1.rpartition(":")[2])
            for _ in range(120):
                idle.enter_context(socket.create_connection(("127.0.0.1", port)))
            async with faults_checked(process, **places) as ledger:
                for _ in range(10):
                    assert (await upload(process, ledger)).status == 200
                async with connected(process.rest1, process.tls) as client:
                    for _ in range(3):
                        assert ledger.record(await client.ask(UPLOAD), CONTENT).status == 200
                idle.close()
