"""The limit of connections, and which connections are closed at the limit."""

import asyncio
import contextlib
import gc
import socket
import ssl
import struct
from contextlib import AsyncExitStack

import pytest
import trustme
from aiohttp import web
from peers import eventually
from processes import FREE_PORTS, started

from aiorelay.server.connections import Acceptor, Connections

pytestmark = pytest.mark.slow


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()


@pytest.fixture
async def connect():
    """A factory of TLS connections that send the given data and nothing else."""
    async with AsyncExitStack() as stack:

        async def connected(port: int, context: ssl.SSLContext, data: bytes = b""):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
            stack.push_async_callback(close, writer)
            writer.write(data)
            return reader, writer

        yield connected


FEW_DESCRIPTORS = ("prlimit", "--nofile=64:64")


async def test_uploads_work_with_more_idle_connections_than_descriptors(tmp_path, connect):
    async with started(f"--state-dir={tmp_path}/state", *FREE_PORTS, under=FEW_DESCRIPTORS) as relay:
        port = int(relay.rest1.rpartition(":")[2])
        idle = [await connect(port, relay.tls) for _ in range(120)]
        reader, _ = await connect(
            port, relay.tls, b"PUT /upload/a.txt HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7\r\n\r\ncontent"
        )
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        open_still = [each for each, _ in idle if not each.at_eof()]
        assert len(open_still) <= 16


async def test_a_connection_with_a_request_is_not_evicted(tmp_path, connect):
    async with started(f"--state-dir={tmp_path}/state", *FREE_PORTS, under=FEW_DESCRIPTORS) as relay:
        port = int(relay.rest1.rpartition(":")[2])
        reader, writer = await connect(
            port, relay.tls, b"PUT /upload/a.txt HTTP/1.1\r\nHost: localhost\r\nContent-Length: 7\r\n\r\ncon"
        )
        for _ in range(40):
            await connect(port, relay.tls)
        writer.write(b"tent")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"


async def test_connections_without_a_handshake_do_not_block_others(aiorelay_server):
    chain = await aiorelay_server()
    port = int(chain.rest1.rpartition(":")[2])
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=chain.tls)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    await close(writer)
    for each in silent:
        each.close()


GET = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"


@pytest.fixture
async def two_at_once():
    """A factory of servers with a limit of two connections. Returns the port and a client context that trusts it."""
    authority = trustme.CA()
    context, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(context)
    authority.configure_trust(trusting)
    async with AsyncExitStack() as stack:

        async def serve(*, slow_after: float, deadline: float = 600):
            connections = Connections(slow_after)

            async def answer(request):
                connections.request_started(asyncio.current_task(), request.protocol)
                return web.Response()

            server = web.Server(answer)
            listener = socket.create_server(("127.0.0.1", 0))
            acceptor = Acceptor(server, [listener], context, connections, limit=2, deadline=deadline)
            stack.push_async_callback(server.shutdown)
            stack.push_async_callback(acceptor.close)
            return listener.getsockname()[1], trusting

        yield serve


@pytest.fixture
async def plain_connect():
    """A factory of TCP connections that have sent nothing."""
    async with AsyncExitStack() as stack:

        async def connected(port: int):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.push_async_callback(close, writer)
            return reader, writer

        yield connected


class Handshake:
    """A client's TLS handshake, one flight at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext) -> None:
        self._reader, self._writer = reader, writer
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname="localhost")

    async def begin(self) -> None:
        """Send the ClientHello and receive the server's flight."""
        with pytest.raises(ssl.SSLWantReadError):
            self._tls.do_handshake()
        self._writer.write(self._outgoing.read())
        self._incoming.write(await self._reader.read(64 * 1024))

    async def finish(self) -> None:
        """Finish the handshake, send a request and receive an answer."""
        self._tls.do_handshake()
        self._tls.write(GET)
        self._writer.write(self._outgoing.read())
        assert await self._reader.read(64 * 1024)


async def test_a_new_connection_does_not_evict_one_in_a_handshake(two_at_once, plain_connect):
    port, trusting = await two_at_once(slow_after=600)
    handshakes = [Handshake(*await plain_connect(port), trusting) for _ in range(2)]
    for each in handshakes:
        await each.begin()
    third, _ = await plain_connect(port)
    assert await third.read() == b""
    for each in handshakes:
        await each.finish()


async def test_a_silent_connection_is_evicted_for_a_new_one(two_at_once, connect, plain_connect):
    port, trusting = await two_at_once(slow_after=600)
    first, _ = await plain_connect(port)
    await plain_connect(port)
    reader, _ = await connect(port, trusting, GET)
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    assert await first.read() == b""


async def test_a_slow_handshake_is_evicted_before_an_idle_connection(two_at_once, connect, plain_connect):
    port, trusting = await two_at_once(slow_after=0)
    idle, writer = await connect(port, trusting)
    silent, _ = await plain_connect(port)
    await connect(port, trusting, GET)
    assert await silent.read() == b""
    writer.write(GET)
    assert await idle.readline() == b"HTTP/1.1 200 OK\r\n"


async def test_the_connection_that_has_been_idle_for_longest_is_evicted(two_at_once, connect):
    port, trusting = await two_at_once(slow_after=600)
    old, writer = await connect(port, trusting)
    silent, _ = await connect(port, trusting)
    for _ in range(2):  # the first request has ended when the second is answered
        writer.write(GET)
        await old.readuntil(b"\r\n\r\n")
    reader, _ = await connect(port, trusting, GET)
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    assert await silent.read() == b""
    writer.write(GET)
    assert await old.readline() == b"HTTP/1.1 200 OK\r\n"


async def test_a_closed_connection_is_removed(aiorelay_server, connect, plain_connect):
    def handlers() -> int:
        gc.collect()
        return sum(type(each) is web.RequestHandler for each in gc.get_objects())

    chain = await aiorelay_server()
    port, before = int(chain.rest1.rpartition(":")[2]), handlers()
    for _ in range(3):
        _, silent = await plain_connect(port)
        reader, writer = await connect(port, chain.tls, GET)
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        await close(silent)
        await close(writer)
    await eventually(lambda: handlers() <= before)


async def test_simultaneous_connections_evict_idle_ones_and_not_each_other(two_at_once, connect):
    port, trusting = await two_at_once(slow_after=600)
    for _ in range(2):
        idle, _ = await connect(port, trusting, GET)
        await idle.readuntil(b"\r\n\r\n")
    new_ones = [socket.create_connection(("127.0.0.1", port)) for _ in range(2)]
    for each in new_ones:
        reader, writer = await asyncio.open_connection(sock=each, ssl=trusting, server_hostname="localhost")
        writer.write(GET)
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        await close(writer)


async def test_simultaneous_connections_over_the_limit_are_closed(two_at_once):
    port, _ = await two_at_once(slow_after=600)
    # All of them connect before the server accepts one.
    clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(6)]
    for each in clients[:-2]:
        reader, writer = await asyncio.open_connection(sock=each)
        assert await reader.read() == b""
        await close(writer)
    for each in clients[-2:]:
        each.close()


async def test_a_connection_that_was_reset_before_it_was_accepted_is_closed(two_at_once):
    port, _ = await two_at_once(slow_after=600)
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"no handshake")
    assert b"HTTP" not in await reader.read()
    await close(writer)


async def test_the_deadline_includes_the_wait_for_the_first_byte(two_at_once, plain_connect):
    port, _ = await two_at_once(slow_after=600, deadline=1)
    hesitant, writer = await plain_connect(port)
    await asyncio.sleep(0.5)
    silent, _ = await plain_connect(port)
    await asyncio.sleep(0.25)
    writer.write(b"\x16")
    ends = [asyncio.create_task(each.read()) for each in (hesitant, silent)]
    await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
    assert ends[0].done()
    await asyncio.wait(ends)


@pytest.mark.parametrize("method", ["GET", "POST", "PUT"])
async def test_plain_http_is_logged_and_other_protocols_are_not(aiorelay_server, plain_connect, caplog, method):
    caplog.set_level("INFO", "aiorelay")
    chain = await aiorelay_server()
    caplog.clear()
    for noise in (b"SSH-2.0-OpenSSH\r\n", GET.replace(b"GET", method.encode())):
        reader, writer = await plain_connect(int(chain.rest1.rpartition(":")[2]))
        writer.write(noise)
        with contextlib.suppress(OSError):
            await reader.read()
        writer.close()
    await eventually(lambda: bool(caplog.messages))
    assert caplog.messages == ["127.0.0.1 sent plain HTTP to an HTTPS port."]
