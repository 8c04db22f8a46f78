"""The proxy of the tests that cuts connections."""

import asyncio
from contextlib import asynccontextmanager

import pytest
from cutting_proxy import CuttingProxy, random_cuts
from peers import PATIENCE, eventually


@asynccontextmanager
async def echoing():
    """A server that sends back whatever it gets, with all that it got."""
    received = []

    async def echo(reader, writer):
        seen = bytearray()
        received.append(seen)
        try:
            while block := await reader.read(1000):
                seen += block
                writer.write(block)
                await writer.drain()
        except OSError:
            pass
        writer.close()

    server = await asyncio.start_server(echo, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", received
    finally:
        server.close()


async def exchange(proxy, content):
    """Send ``content``, and give what came back until the end or the reset of the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", int(proxy.url.rpartition(":")[2]))
    try:
        writer.write(content)
        writer.write_eof()
        return await asyncio.wait_for(reader.read(), PATIENCE)
    finally:
        writer.transport.abort()


async def test_it_passes_everything_on():
    async with echoing() as (url, _), CuttingProxy(url) as proxy:
        assert await exchange(proxy, b"x" * 200_000) == b"x" * 200_000
        assert (proxy.sent, proxy.made_cuts) == (200_000, 0)


async def test_it_cuts_after_so_many_bytes():
    async with echoing() as (url, received), CuttingProxy(url, [70_001, 1]) as proxy:
        for made in (1, 2):
            with pytest.raises(ConnectionResetError):
                await exchange(proxy, b"x" * 100_000)
            assert proxy.made_cuts == made
        assert proxy.sent == 70_002
        assert await exchange(proxy, b"again") == b"again"
        assert all(len(each) <= 70_001 for each in received)


async def test_it_loses_the_answer_and_not_the_request():
    async with echoing() as (url, received), CuttingProxy(url) as proxy:
        proxy.hold_answers(after=5)
        asked = asyncio.create_task(exchange(proxy, b"question"))
        await asyncio.wait_for(proxy.held_answer.wait(), PATIENCE)
        await eventually(lambda: received[0] == b"question")
        proxy.lose_answers()
        with pytest.raises(ConnectionResetError):
            await asked
        assert await exchange(proxy, b"again") == b"again"


def test_random_cuts_repeat():
    assert random_cuts(1, count=3, most=9) == random_cuts(1, count=3, most=9)
    assert all(5 <= cut <= 9 for cut in random_cuts(2, count=100, least=5, most=9))
