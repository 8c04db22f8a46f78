"""Many TLS records are read in one call."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from aiorelay.certificates.tls import Certificates, client_context
from aiorelay.server.tls_reads import CoalescingProtocol, RecordReader, SharedReads

SIZE = 256 * 1024


class Connection:
    """A TLS connection in memory after its handshake: what ``client`` writes is read by ``server``."""

    def __init__(self, certificates: Certificates) -> None:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        certificates.context.sslobject_class = RecordReader
        self.to_server = to_server
        self.server = certificates.context.wrap_bio(to_server, to_client, server_side=True)
        context = client_context([certificates.ca], system_trust=False)
        self.client = context.wrap_bio(to_client, to_server, server_hostname="localhost")
        for side in (self.client, self.server, self.client, self.server):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()


@pytest.fixture
def connection(tmp_path: Path) -> Connection:
    return Connection(Certificates(tmp_path, ["localhost"]))


@pytest.mark.parametrize("size", [1, 16 * 1024, 16 * 1024 + 1, 200_000])
def test_all_records_are_read_at_once(connection: Connection, size: int) -> None:
    connection.client.write(b"x" * size)
    buffer = bytearray(SIZE)
    assert connection.server.read(SIZE, memoryview(buffer)) == size
    assert buffer[:size] == b"x" * size


def test_a_buffer_is_filled_and_the_rest_read_next(connection: Connection) -> None:
    connection.client.write(bytes(range(256)) * 160)
    buffer = bytearray(20_000)
    assert [connection.server.read(20_000, memoryview(buffer)) for _ in range(2)] == [20_000, 20_000]
    assert buffer[:256] == (bytes(range(256)) * 160)[20_000:20_256]
    assert connection.server.read(20_000, memoryview(buffer)) == 960


def test_nothing_to_read_is_an_error_as_in_the_base_class(connection: Connection) -> None:
    with pytest.raises(ssl.SSLWantReadError):
        connection.server.read(SIZE, memoryview(bytearray(SIZE)))


def test_the_end_of_the_stream_is_found_after_the_data(connection: Connection) -> None:
    connection.client.write(b"x" * 40_000)
    with pytest.raises(ssl.SSLWantReadError):
        connection.client.unwrap()
    buffer = memoryview(bytearray(SIZE))
    assert connection.server.read(SIZE, buffer) == 40_000
    assert connection.server.read(SIZE, buffer) == 0


def test_a_record_that_was_changed_on_the_way_is_an_error(connection: Connection) -> None:
    connection.to_server.write(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(ssl.SSLError, match=r"BAD_RECORD_MAC|DECRYPTION_FAILED"):
        connection.server.read(SIZE, memoryview(bytearray(SIZE)))


def test_without_a_buffer_one_record_is_returned(connection: Connection) -> None:
    connection.client.write(b"x" * 40_000)
    assert connection.server.read(SIZE) == b"x" * 16_384


# What asyncio reads from a socket at once, and the beginning of a record that it read before.
ASYNCIO_READ = (256 + 16) * 1024
BLOCK = bytes(1024 * 1024)


class Handler(asyncio.Protocol):
    """Notes the largest block of data that it is given, and whether that is more than asyncio reads at once."""

    def __init__(self) -> None:
        self.largest = 0
        self.got_much = asyncio.Event()
        self.lost = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.largest = max(self.largest, len(data))
        if self.largest > ASYNCIO_READ:
            self.got_much.set()


@asynccontextmanager
async def connected(directory: Path, handler: Handler, shared: SharedReads) -> AsyncIterator[asyncio.StreamWriter]:
    """Connect to a server that reads for ``handler``. Return the client's writer."""
    certificates = Certificates(directory, ["localhost"])
    certificates.context.sslobject_class = RecordReader

    def protocol() -> CoalescingProtocol:
        return CoalescingProtocol(handler, shared, handler.lost.set)

    loop = asyncio.get_running_loop()
    async with await loop.create_server(protocol, "localhost", 0, ssl=certificates.context) as server:
        port = server.sockets[0].getsockname()[1]
        context = client_context([certificates.ca], system_trust=False)
        _, writer = await asyncio.open_connection("localhost", port, ssl=context)
        yield writer
        writer.transport.abort()
        await handler.lost.wait()


async def test_a_connection_that_brings_much_is_read_in_larger_amounts_until_it_is_closed(tmp_path: Path) -> None:
    shared, handler = SharedReads(), Handler()
    async with asyncio.timeout(60), connected(tmp_path, handler, shared) as writer:
        while not handler.got_much.is_set():
            writer.write(BLOCK)
            await writer.drain()
        assert shared.large == 1
    assert shared.large == 0


async def test_if_many_connections_are_read_so_others_are_not(tmp_path: Path) -> None:
    shared, handler = SharedReads(), Handler()
    shared.large = 16
    async with asyncio.timeout(60), connected(tmp_path, handler, shared) as writer:
        for _ in range(32):
            writer.write(BLOCK)
            await writer.drain()
    assert 0 < handler.largest <= ASYNCIO_READ
    assert shared.large == 16
