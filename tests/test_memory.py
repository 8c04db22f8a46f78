"""The relay keeps little of a file in memory, however large the file and slow the upload API."""

import asyncio
import socket

import pytest
from peers import DONE, Client, form, json_request, part, request
from processes import FREE_PORTS, started

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
SIZE = 256 * MIB
MOST_MEMORY = 90 * MIB  # of which coverage takes about 14
# The bytes of a file that the relay may hold, most of them in the kernel's buffers of its two sockets.
MOST_UNDER_WAY = 16 * MIB
# The buffers of the test's own sockets are small.
SMALL_BUFFER = 64 * 1024
PAUSE = 1.0


class Flow:
    """One large file in transit: the bytes sent, and the bytes received by an upload API that pauses at first.

    The pause ends after a time, or as soon as more bytes are in transit than allowed.
    """

    def __init__(self) -> None:
        self.most_under_way = 0
        self._sent = 0
        self._arrived = 0
        self._overflow = asyncio.Event()

    async def pour(self, writer: asyncio.StreamWriter) -> None:
        """Send the file as fast as it is read."""
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
        block = bytes(MIB // 4)
        while self._sent < SIZE:
            writer.write(block)
            await writer.drain()
            self._sent += len(block)
            self.most_under_way = max(self.most_under_way, self._sent - self._arrived)
            if self.most_under_way > MOST_UNDER_WAY:
                self._overflow.set()

    async def take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Act as the upload API."""
        head = await reader.readuntil(b"\r\n\r\n")
        left = int(head.lower().partition(b"content-length:")[2].split()[0])
        assert left > SIZE
        await asyncio.wait([asyncio.create_task(self._overflow.wait())], timeout=PAUSE)
        while left:
            block = await reader.read(MIB)
            assert block, "the relay cut the upload"
            self._arrived += len(block)
            left -= len(block)
        writer.write(DONE)
        await writer.drain()
        writer.close()

    async def give(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Act as the remote server that has the file."""
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % SIZE)
        await self.pour(writer)
        writer.close()


def listener() -> socket.socket:
    server = socket.create_server(("127.0.0.1", 0))
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    return server


@pytest.fixture
def flow():
    return Flow()


@pytest.fixture
async def relay(tmp_path, flow):
    """A relay in front of the flow's upload API."""
    async with await asyncio.start_server(flow.take, sock=listener()) as upstream:
        port = upstream.sockets[0].getsockname()[1]
        places = ("--state-dir", str(tmp_path / "state"), "--local-root", str(tmp_path), "--allow-net", "127.0.0.0/8")
        arguments = ("--only", "rest1", "--upstream", f"http://127.0.0.1:{port}/upload", *FREE_PORTS, *places)
        async with started(*arguments) as process:
            yield process


async def upload(process, head: bytes, flow: Flow | None = None, end: bytes = b"") -> None:
    """Send the file between ``head`` and ``end`` of a request; assert success and little memory."""
    host, _, port = process.rest1.removeprefix("https://").rpartition(":")
    reader, writer = await asyncio.open_connection(host, int(port), ssl=process.tls)
    client = Client(reader, writer)
    await client.send(head)
    if flow is not None:
        await flow.pour(writer)
    async with asyncio.timeout(60):
        answer = await client.ask(end)
    assert answer.status == 200
    assert process.peak_memory < MOST_MEMORY
    writer.transport.abort()


@pytest.mark.parametrize("way", ["form", "raw body"])
async def test_a_slow_upstream_slows_the_client(relay, flow, way):
    if way == "form":
        begin, blank, end = form(part("somefile", b"", "big.bin")).partition(b"\r\n\r\n")
        length = len(begin + blank) + SIZE + len(end)
        head = request("/upload1", begin + blank, length=length)
    else:
        head, end = request("/upload/big.bin", b"", method="PUT", length=SIZE, content_type=None), b""
    await upload(relay, head, flow, end)
    assert flow.most_under_way < MOST_UNDER_WAY


async def test_a_slow_upstream_slows_the_remote_source(relay, flow):
    async with await asyncio.start_server(flow.give, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/big.bin"
        await upload(relay, json_request({"somefile": url}))
    assert flow.most_under_way < MOST_UNDER_WAY


async def test_a_local_file_is_read_only_as_fast_as_it_is_taken(relay, tmp_path):
    with (tmp_path / "big.bin").open("wb") as file:
        file.truncate(SIZE)
    await upload(relay, json_request({"somefile": str(tmp_path / "big.bin")}))


@pytest.mark.parametrize("mode", ["stream", "spool"])
async def test_storing_a_large_file_takes_little_memory(tmp_path, flow, mode):
    places = ("--state-dir", str(tmp_path / "state"), "--store", str(tmp_path / "store"), "--no-fsync")
    async with started(*FREE_PORTS, *places, "--upstream-mode", mode) as process:
        head = request("/upload/big.bin", b"", method="PUT", length=SIZE, content_type=None)
        await upload(process, head, flow)
        (size,) = [path.stat().st_size for path in (tmp_path / "store").glob("*/*")]
        assert size == SIZE
