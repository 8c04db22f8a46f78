"""Hundreds of slow clients, simulated by slowhttptest, are cut off while other clients upload."""

import asyncio
import re
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from peers import ask, connected, eventually, form, part, request
from processes import FREE_PORTS, Process, started

pytestmark = pytest.mark.needs("slowhttptest")

CONNECTIONS = 100
UPLOAD = request("/upload1", form(part("somefile", b"content", "a.txt")))
STYLE = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

# One header line each second, without end. The limit for a head is 10 s.
HEADS = ("-H", "-t", "POST", "-i", "1")
# A body that pauses for longer than idle-timeout.
BODIES = ("-B", "-t", "PUT", "-i", "5", "-s", "1000000", "-f", "application/octet-stream")


@asynccontextmanager
async def slow_clients(url: str, *how: str, home: Path) -> AsyncGenerator[asyncio.Task[str], None]:
    """Run slowhttptest in the directory ``home``; the task returns its output once all connections are closed."""
    process = await asyncio.create_subprocess_exec(
        "slowhttptest",
        *(*how, "-u", url, "-c", str(CONNECTIONS), "-r", str(CONNECTIONS), "-l", "60", "-v", "1"),
        cwd=home,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )

    async def output() -> str:
        said, _ = await process.communicate()
        return STYLE.sub("", said.decode())

    saying = asyncio.create_task(output())
    try:
        yield saying
    finally:
        if process.returncode is None:
            process.kill()
        await saying


def sockets(process: Process) -> int:
    return sum(target.startswith("socket:") for target in process.open_files)


@pytest.mark.parametrize(
    ("server", "path", "how"),
    [("rest1", "/upload1", HEADS), ("rest2", "/upload", HEADS), ("rest1", "/upload/a.bin", BODIES)],
    ids=["heads", "heads of rest2", "bodies"],
)
async def test_slow_clients_are_cut_off_while_others_upload(tmp_path, server, path, how):
    store = tmp_path / "store"
    flags = ("--state-dir", tmp_path / "state", "--store", store, "--no-fsync", "--idle-timeout", "2s")
    async with started(*FREE_PORTS, *flags) as process:
        assert (await ask(process.rest1, process.tls, UPLOAD)).status == 200
        before = sockets(process)
        statuses = []
        async with slow_clients(getattr(process, server) + path, *how, home=tmp_path) as attack:
            await eventually(lambda: sockets(process) >= CONNECTIONS)
            while not attack.done():
                statuses.append((await ask(process.rest1, process.tls, UPLOAD)).status)
                await asyncio.wait([attack], timeout=0.5)
        assert "No open connections left" in attack.result()
        assert set(statuses) == {200}
        await eventually(lambda: sockets(process) <= before)
    assert len([each for each in store.rglob("*") if each.is_file()]) == 1 + len(statuses)


async def test_a_client_that_reads_no_answer_is_cut_off(tmp_path):
    flags = ("--state-dir", tmp_path / "state", "--idle-timeout", "200ms")
    async with started(*FREE_PORTS, *flags) as process:
        before = sockets(process)
        large = request("/assets/swagger-ui/swagger-ui-bundle.js", b"", method="GET", content_type=None)
        async with connected(process.rest1, process.tls) as client:
            await client.send(large * 10)  # more than the system buffers for a client that does not read
            await eventually(lambda: sockets(process) > before)
            await eventually(lambda: sockets(process) == before)
