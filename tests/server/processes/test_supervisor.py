"""``python -m aiorelay --processes 2``: several processes on the same ports, and their supervisor."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import ssl
from pathlib import Path

import pytest
from aiohttp.client_exceptions import ClientConnectionError
from peers import Client, ask, connected, eventually, form, part, request
from processes import FREE_PORTS, Process, open_files, started
from prometheus_client.parser import text_string_to_metric_families
from resumable_requests import Draft, path_of

import aiorelay

pytestmark = pytest.mark.slow

CONTENT = os.urandom(1_000_000)
UPLOAD = request("/upload1", form(part("somefile", CONTENT, "a.bin")), "Connection: close")
SMALL = request("/upload1", form(part("somefile", b"small", "a.txt")), "Connection: close")
HALF = len(UPLOAD) // 2
HEALTH = request("/", b"", method="GET", content_type=None)
METRICS = request("/metrics", b"", "Connection: close", method="GET", content_type=None)


@pytest.fixture
def relay(tmp_path: Path):
    """A factory of relays of two processes, their state and store in the test's directory."""
    places = ("--state-dir", str(tmp_path / "state"), "--store", str(tmp_path / "store"), "--no-fsync")

    def start(*arguments: str, **options: object):
        return started("--processes", "2", *places, *FREE_PORTS, *arguments, **options)

    return start


@pytest.fixture
async def half_uploads():
    """A factory of clients that have sent the first half of an upload."""
    async with contextlib.AsyncExitStack() as stack:

        async def begin(process: Process) -> Client:
            client = await stack.enter_async_context(connected(process.rest1, process.tls))
            await client.send(UPLOAD[:HALF])
            return client

        yield begin


def kept(tmp_path: Path) -> list[bytes]:
    return [path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file()]


async def on_every_process(process: Process, tmp_path: Path, begin) -> list[Client]:
    """Begin uploads until each process has a connection of one: as relay, or as upload API."""
    clients = []
    while not all(connections(pid) for pid in process.children):
        assert len(clients) < 40
        clients.append(await begin(process))
        await eventually(lambda: storing(process, tmp_path) == len(clients))
    return clients


def listeners(pid: int) -> set[str]:
    """Return the sockets of a process that listen."""
    return sockets(pid, "0A")


def connections(pid: int) -> set[str]:
    """Return the connections of a process, without those of the relay to the upload API.

    These have the upload API's port at the other end, and the others at this one.
    """
    listening = {line.split()[1] for line in tcp(pid) if line.split()[3] == "0A"}
    return {f"socket:[{line.split()[9]}]" for line in tcp(pid) if line.split()[1] in listening} & sockets(pid, "01")


def sockets(pid: int, state: str) -> set[str]:
    """Return the sockets of a process in a state of TCP, as its descriptors name them."""
    found = {f"socket:[{fields[9]}]" for line in tcp(pid) if (fields := line.split())[3] == state}
    return found.intersection(open_files(pid))


def tcp(pid: int) -> list[str]:
    return Path(f"/proc/{pid}/net/tcp").read_text().splitlines()


def storing(process: Process, tmp_path: Path) -> int:
    return sum(
        each.startswith(f"{tmp_path}/store/.incoming-") and each.endswith("/a.bin")
        for pid in process.children
        for each in open_files(pid)
    )


async def scrape(process: Process) -> dict[str, list[float]]:
    """Return the values of all samples by the name of the metric."""
    values: dict[str, list[float]] = {}
    answer = await ask(process.rest1, process.tls, METRICS)
    for family in text_string_to_metric_families(answer.body.decode()):
        for sample in family.samples:
            values.setdefault(sample.name, []).append(sample.value)
    return values


def refuses(base: str) -> bool:
    host, _, port = base.removeprefix("https://").rpartition(":")
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) != 0


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    os.kill(pid, number)


class TestStart:
    async def test_the_ready_lines_are_printed_once(self, relay):
        async with relay() as process:
            assert [line.split()[0] for line in process.ready] == ["rest1", "rest2", "CA", "curl"]
            assert len(process.children) == 2
            assert await process.stop() == 0
        assert len(process.log.splitlines()) == 1, "the shutdown"

    async def test_a_warning_about_the_settings_is_logged_once(self, relay):
        async with relay("--host", "0.0.0.0") as process:
            await eventually(lambda: "--token-file" in process.log)
            assert await process.stop() == 0
        assert process.log.count("--token-file") == 1

    @pytest.mark.parametrize(
        ("arguments", "status", "sentence"),
        [
            (["--processes", "0"], 2, "processes: '0' is out of range .*; it goes from 1 to 128"),
            (["--processes", "4", "--max-jobs", "3"], 2, "max-jobs: 3 is less than processes"),
            (["--rest1-port", "{taken}"], 1, "Cannot listen on 127.0.0.1 port {taken}"),
            (["--store", "{file}/below"], 1, "cannot store files in .*below"),
            (["--tls-cert", "{file}"], 1, "holds no certificate"),
        ],
        ids=["none", "fewer jobs", "port", "store", "certificate"],
    )
    async def test_a_failure_is_one_line(self, relay, tmp_path, arguments, status, sentence):
        file, temporary = tmp_path / "file", tmp_path / "tmp"
        file.write_text("")
        temporary.mkdir()
        with socket.create_server(("127.0.0.1", 0)) as other:
            places = {"taken": other.getsockname()[1], "file": file}
            flags = [each.format(**places) for each in arguments]
            async with relay(*flags, env={"TMPDIR": str(temporary)}) as process:
                assert await process.ended() == status
        assert process.ready == []
        assert re.fullmatch(f"aiorelay: .*{sentence.format(**places)}.* See aiorelay serve --help[.]\n", process.log)
        assert list(temporary.iterdir()) == []

    async def test_temporary_directories_are_made_once_and_removed(self, tmp_path):
        arguments = ("--processes", "2", "--state-dir", str(tmp_path / "state"), *FREE_PORTS)
        temporary = tmp_path / "tmp"
        temporary.mkdir()
        async with started(*arguments, env={"TMPDIR": str(temporary)}):
            kinds = sorted(each.name.rpartition("-")[0] for each in temporary.iterdir())
            assert kinds == ["aiorelay-processes", "aiorelay-store"]
        assert list(temporary.iterdir()) == []

    async def test_a_unix_socket_is_shared_too(self, relay, tmp_path):
        path = tmp_path / "rest1.sock"
        async with relay("--listen-unix", str(path)):
            for _ in range(4):
                reader, writer = await asyncio.open_unix_connection(path)
                writer.write(SMALL)
                assert (await reader.readline()).startswith(b"HTTP/1.1 200")
                writer.close()
        assert not path.exists()

    async def test_python_code_serves_with_one_process(self, tmp_path):
        with pytest.raises(aiorelay.StartupError, match="Leave processes at 1"):
            async with aiorelay.serve(aiorelay.Settings(processes=2, state_dir=tmp_path)):
                pass


class TestSharing:
    async def test_every_process_takes_uploads(self, relay, tmp_path, half_uploads):
        async with relay() as process:
            clients = await on_every_process(process, tmp_path, half_uploads)
            for client in clients:
                assert (await client.ask(UPLOAD[HALF:])).status == 200
        assert kept(tmp_path) == [CONTENT] * len(clients)

    async def test_connections_are_shared_evenly(self, relay):
        async with relay("--only", "rest2") as process, contextlib.AsyncExitStack() as stack:
            for _ in range(20):
                client = await stack.enter_async_context(connected(process.rest2, process.tls))
                assert (await client.ask(HEALTH)).status == 404
            fewer, more = sorted(len(connections(pid)) for pid in process.children)
            assert fewer + more == 20
            assert fewer >= 5

    async def test_the_limit_of_uploads_at_once_is_that_of_all_processes(self, relay, tmp_path, half_uploads):
        async with relay("--max-uploads", "3") as process:
            clients = [await half_uploads(process) for _ in range(3)]
            await eventually(lambda: storing(process, tmp_path) == 3)
            for _ in range(4):
                assert (await ask(process.rest1, process.tls, SMALL)).json()["type"] == "urn:aiorelay:busy"
            for client in clients:
                assert (await client.ask(UPLOAD[HALF:])).status == 200
            assert (await ask(process.rest1, process.tls, SMALL)).status == 200

    async def test_the_limits_of_a_client_are_those_of_all_processes(self, relay, tmp_path, half_uploads):
        limits = ("--max-uploads-per-client", "2", "--upload-quota", str(3 * len(UPLOAD)))
        async with relay(*limits) as process:
            clients = [await half_uploads(process) for _ in range(2)]
            await eventually(lambda: storing(process, tmp_path) == 2)
            for _ in range(4):
                assert (await ask(process.rest1, process.tls, SMALL)).json()["type"] == "urn:aiorelay:rate-limited"
            for client in clients:
                assert (await client.ask(UPLOAD[HALF:])).status == 200
            assert [(await ask(process.rest1, process.tls, UPLOAD)).status for _ in range(3)] == [200, 429, 429]

    async def test_the_rate_is_that_of_all_processes(self, relay):
        async with relay("--rate-limit", "5/1h") as process:
            statuses = [(await ask(process.rest1, process.tls, SMALL)).status for _ in range(8)]
        assert statuses == [200] * 5 + [429] * 3

    async def test_every_process_shows_the_metrics_of_all(self, relay, tmp_path, half_uploads):
        async with relay() as process:
            clients = await on_every_process(process, tmp_path, half_uploads)
            for _ in range(4):
                assert (await scrape(process))["aiorelay_uploads_in_flight"] == [len(clients)]
            for client in clients:
                await client.ask(UPLOAD[HALF:])
            for _ in range(4):
                metrics = await scrape(process)
                assert metrics["aiorelay_uploads_total"] == [len(clients)]
                assert metrics["aiorelay_uploads_in_flight"] == [0]
                assert len(metrics["process_open_fds"]) == 2

    async def test_every_process_reads_new_tokens_after_sighup(self, relay, tmp_path):
        tokens = tmp_path / "tokens"
        tokens.write_text("alice:one\n")
        async with relay("--token-file", str(tokens)) as process:
            tokens.write_text("alice:another\n")
            process.send(signal.SIGHUP)
            await eventually(lambda: process.log.count("read 1 tokens again") == 2)


class TestRestart:
    async def test_a_killed_process_is_replaced_and_loses_nothing_that_was_acknowledged(self, relay, tmp_path):
        async with relay() as process:
            assert (await ask(process.rest1, process.tls, UPLOAD)).status == 200
            draft = Draft(process.rest1, process.tls)
            upload = path_of(await draft.create(len(CONTENT), body=CONTENT[:HALF]))
            offset = int((await draft.head(upload))["Upload-Offset"])
            assert offset == HALF
            await kill_all(process)
            assert int((await again(draft.head, upload))["Upload-Offset"]) == offset
            assert (await draft.append(upload, offset, CONTENT[offset:], last=True)).status == 200
            assert process.log.count("was ended by SIGKILL; starting another in 1 s") == 2
            assert await process.stop() == 0
        assert kept(tmp_path) == [CONTENT] * 2

    async def test_its_uploads_no_longer_count_but_its_totals_do(self, relay, tmp_path, half_uploads):
        async with relay("--max-uploads", "1") as process:
            assert (await ask(process.rest1, process.tls, SMALL)).status == 200
            await half_uploads(process)
            await eventually(lambda: storing(process, tmp_path) == 1)
            await kill_all(process)
            assert (await again(ask, process.rest1, process.tls, SMALL)).status == 200
            metrics = await scrape(process)
            assert metrics["aiorelay_uploads_in_flight"] == [0]
            assert metrics["aiorelay_uploads_total"] == [2]

    async def test_one_that_is_told_to_stop_ends_its_uploads_first(self, relay, tmp_path, half_uploads):
        async with relay() as process:
            clients = await on_every_process(process, tmp_path, half_uploads)
            stopped, *_ = process.children
            kill(stopped, signal.SIGTERM)
            await eventually(lambda: len(listeners(stopped)) < 2)  # rest2's remains until the uploads have ended
            for client in clients:
                assert (await client.ask(UPLOAD[HALF:])).status == 200
            await process.logged(f"(pid {stopped}) ended with status 0; starting another")
            await eventually(lambda: len(process.children) == 2)

    async def test_the_pause_grows_if_a_process_ends_soon_again(self, relay):
        async with relay() as process:
            stays, _ = process.children
            for pause in (1, 2):
                await eventually(lambda: len(process.children) == 2)
                (killed,) = {*process.children} - {stays}
                kill(killed)
                await process.logged(f"(pid {killed}) was ended by SIGKILL; starting another in {pause} s")
            assert (await ask(process.rest1, process.tls, SMALL)).status == 200


async def kill_all(process: Process) -> None:
    """Kill all processes but the supervisor, and wait for their successors."""
    killed = {*process.children}
    for pid in killed:
        kill(pid)
    await eventually(lambda: len({*process.children} - killed) == len(killed))


async def again(function, *arguments):
    """Call ``function`` until the connection is not reset, which happens if a process is killed with it."""
    while True:
        with contextlib.suppress(OSError, ssl.SSLError, AssertionError, ClientConnectionError):
            return await function(*arguments)


class TestEnd:
    @pytest.mark.parametrize("group", [False, True], ids=["supervisor", "everyone"])
    async def test_a_signal_ends_it_when_all_uploads_have_ended(self, relay, tmp_path, half_uploads, group):
        """In a terminal, Ctrl-C sends SIGINT to all processes."""
        async with relay() as process:
            clients = await on_every_process(process, tmp_path, half_uploads)
            for pid in process.children if group else []:
                kill(pid, signal.SIGINT)
            process.send(signal.SIGINT)
            await process.logged("shutting down")
            await eventually(lambda: refuses(process.rest1))
            for client in clients:
                assert (await client.ask(UPLOAD[HALF:])).status == 200
            assert await process.ended() == 0
        assert kept(tmp_path) == [CONTENT] * len(clients)

    async def test_no_upload_api_ends_while_another_process_has_an_upload(self, relay, half_uploads):
        async with relay() as process:
            client = await half_uploads(process)
            process.send(signal.SIGTERM)
            await eventually(lambda: all(len(listeners(pid)) == 1 for pid in process.children))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1):
                    await eventually(lambda: len(process.children) < 2 or not all(map(listeners, process.children)))
            assert (await client.ask(UPLOAD[HALF:])).status == 200
            assert await process.ended() == 0

    async def test_a_second_signal_cancels_the_uploads(self, relay, tmp_path, half_uploads):
        async with relay("--grace", "1h") as process:
            await on_every_process(process, tmp_path, half_uploads)
            process.send(signal.SIGTERM)
            await process.logged("shutting down")
            assert await process.stop() == 1
        assert list((tmp_path / "store").iterdir()) == []

    async def test_an_upload_that_exceeds_grace_is_cancelled(self, relay, tmp_path, half_uploads):
        async with relay("--grace", "300ms") as process:
            await half_uploads(process)
            await eventually(lambda: storing(process, tmp_path) == 1)
            assert await process.stop() == 1
        assert "unfinished requests were cancelled after 0.3 s; a longer --grace" in process.log

    async def test_if_the_supervisor_is_killed_the_others_end_their_uploads_and_go(self, tmp_path, half_uploads):
        temporary = tmp_path / "tmp"
        temporary.mkdir()
        arguments = ("--processes", "2", "--state-dir", str(tmp_path / "state"), *FREE_PORTS)
        async with started(*arguments, env={"TMPDIR": str(temporary)}) as process:
            children = process.children
            client = await half_uploads(process)
            await eventually(lambda: any("/.incoming-" in each for pid in children for each in open_files(pid)))
            kill(process.pid)
            await process.logged("the process that supervises this one has ended")
            await eventually(lambda: refuses(process.rest1))
            assert (await client.ask(UPLOAD[HALF:])).status == 200
            await eventually(lambda: not any(map(is_running, children)))
            assert refuses(process.rest2)
            assert [each.name.rpartition("-")[0] for each in temporary.iterdir()] == ["aiorelay-store"]
            assert await process.ended() == -signal.SIGKILL
