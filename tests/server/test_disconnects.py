"""Clients that disconnect while back-pressure pauses reading are detected."""

import asyncio
import socket
import ssl
import struct
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import pytest
from peers import Client, Connection, connected, eventually, request
from processes import FREE_PORTS, started

from aiorelay.server.connections import disconnected

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
HEAD = request("/upload/a.bin", b"", method="PUT", length=1024 * MIB, content_type=None)


async def stop_reading(connection: Connection) -> None:
    await connection.head()
    await connection.hang()


@asynccontextmanager
async def stalled(url: str, tls: ssl.SSLContext):
    """A client whose upload is stalled by back-pressure."""
    async with connected(url, tls) as client:
        sent = 0

        async def send_on() -> None:
            nonlocal sent
            with suppress(OSError, ssl.SSLError):
                await client.send(HEAD)
                while True:
                    await client.send(b"x" * 64 * 1024)
                    sent += 1

        sending = asyncio.create_task(send_on())
        before = 0
        while not before or sent > before:
            before = sent
            await asyncio.wait([sending], timeout=0.5)
        try:
            yield client
        finally:
            sending.cancel()
            await asyncio.wait([sending])


@pytest.fixture
async def upstream(recorder):
    return await recorder(stop_reading)


@pytest.fixture
def relay(tmp_path, upstream):
    flags = ("--state-dir", tmp_path, "--only", "rest1", "--upstream", upstream.url, "--idle-timeout", "10m")
    return lambda *more: started(*FREE_PORTS, *flags, *more)


async def stall(stack: AsyncExitStack, url: str, tls: ssl.SSLContext, count: int) -> list[Client]:
    return list(await asyncio.gather(*(stack.enter_async_context(stalled(url, tls)) for _ in range(count))))


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
async def test_a_stalled_upload_ends_when_its_client_resets(relay, loop):
    async with relay("--loop", loop) as process, stalled(process.rest1, process.tls) as client:
        client.reset()
        await process.logged("upload aborted")


async def test_a_drain_does_not_wait_for_disconnected_clients(relay):
    async with relay("--grace", "10m") as process, AsyncExitStack() as stack:
        for client in await stall(stack, process.rest1, process.tls, 16):
            client.reset()
        assert await process.stop() == 0


async def test_a_drain_waits_for_connected_clients(relay):
    async with relay("--grace", "2s") as process, stalled(process.rest1, process.tls):
        assert await process.stop() == 1
        assert "upload aborted" in process.log


class Unread(asyncio.Protocol):
    """The server's side of a connection, with reading paused."""

    def __init__(self, accepted: asyncio.Queue[asyncio.Transport]) -> None:
        self._accepted = accepted

    def connection_made(self, transport: asyncio.Transport) -> None:
        transport.pause_reading()
        self._accepted.put_nowait(transport)


@pytest.fixture
async def pair():
    """A transport with paused reading, and the socket of its peer."""
    accepted: asyncio.Queue[asyncio.Transport] = asyncio.Queue()
    server = await asyncio.get_running_loop().create_server(lambda: Unread(accepted), "127.0.0.1", 0)
    with socket.create_connection(server.sockets[0].getsockname()) as peer:
        transport = await accepted.get()
        yield transport, peer
        transport.abort()
    server.close()


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def hang_up(peer: socket.socket) -> None:
    peer.sendall(b"the rest of a body")
    peer.shutdown(socket.SHUT_WR)


@pytest.mark.parametrize("leave", [reset, hang_up, socket.socket.close])
async def test_a_disconnect_is_detected_while_reading_is_paused(pair, leave):
    transport, peer = pair
    assert disconnected([transport]) == []
    leave(peer)
    await eventually(lambda: disconnected([transport]) == [transport])


async def test_a_peer_that_sends_is_not_disconnected(pair):
    transport, peer = pair
    peer.sendall(b"more")
    assert disconnected([transport]) == []


async def test_transports_that_read_or_are_aborted_are_not_reported(pair):
    transport, peer = pair
    hang_up(peer)
    await eventually(lambda: disconnected([transport]) == [transport])
    transport.resume_reading()
    assert disconnected([transport]) == []
    transport.pause_reading()
    transport.abort()
    assert disconnected([transport]) == []
