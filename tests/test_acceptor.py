"""Connections are bounded, and idle ones make room."""

import asyncio
import contextlib
import socket
import ssl
from contextlib import AsyncExitStack

import pytest
from processes import FREE_PORTS, started


async def close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()


@pytest.fixture
async def connect():
    """A factory of TLS connections that send what they are told to, and no more."""
    async with AsyncExitStack() as stack:

        async def connected(port: int, context: ssl.SSLContext, data: bytes = b""):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
            stack.push_async_callback(close, writer)
            writer.write(data)
            return reader, writer

        yield connected


FEW_DESCRIPTORS = ("prlimit", "--nofile=64:64")


async def test_uploads_go_on_beside_more_idle_connections_than_there_are_descriptors(tmp_path, connect):
    async with started(f"--state-dir={tmp_path}/state", *FREE_PORTS, under=FEW_DESCRIPTORS) as relay:
        port = int(relay.rest1.rpartition(":")[2])
        idle = [await connect(port, relay.tls) for _ in range(120)]
        reader, _ = await connect(
            port, relay.tls, b"PUT /upload/a.txt HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\ncontent"
        )
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        open_still = [each for each, _ in idle if not each.at_eof()]
        assert len(open_still) <= 16


async def test_a_connection_with_a_request_is_not_the_one_that_goes(tmp_path, connect):
    async with started(f"--state-dir={tmp_path}/state", *FREE_PORTS, under=FEW_DESCRIPTORS) as relay:
        port = int(relay.rest1.rpartition(":")[2])
        reader, writer = await connect(
            port, relay.tls, b"PUT /upload/a.txt HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\ncon"
        )
        for _ in range(40):
            await connect(port, relay.tls)
        writer.write(b"tent")
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"


async def test_a_handshake_that_never_comes_does_not_keep_others_out(aiorelay_server):
    chain = await aiorelay_server()
    port = int(chain.rest1.rpartition(":")[2])
    silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(50)]
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=chain.tls)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n")
    assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
    await close(writer)
    for each in silent:
        each.close()
