"""Validators that hang: each one times out and does not block other uploads."""

import asyncio
import threading

import aiohttp
import pytest

pytestmark = pytest.mark.slow

RELEASE = threading.Event()


class Hanging:
    """A validator that hangs for files named ``hang`` and accepts all others."""

    def __init__(self, part):
        self.hangs = part.filename == "hang"

    def feed(self, chunk):
        pass

    def finish(self):
        if self.hangs:
            RELEASE.wait()


async def upload(session, chain, filename):
    form = aiohttp.FormData()
    form.add_field("somefile", b"bytes", filename=filename)
    async with session.post(f"{chain.rest1}/upload1", data=form, ssl=chain.tls) as answer:
        return answer.status, (await answer.json(content_type=None)).get("type")


async def test_a_hundred_hanging_validators_time_out_and_block_no_other_upload(aiorelay_server):
    chain = await aiorelay_server(validator=[f"{__name__}:Hanging"], validator_timeout="5s")
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            hanging = [asyncio.create_task(upload(session, chain, "hang")) for _ in range(100)]
            done, _ = await asyncio.wait(
                [asyncio.create_task(upload(session, chain, "other")), *hanging], return_when=asyncio.FIRST_COMPLETED
            )
            assert [each.result() for each in done] == [(200, None)]
            assert await asyncio.gather(*hanging) == [(500, "urn:aiorelay:internal")] * 100
            async with session.get(f"{chain.rest1}/metrics", ssl=chain.tls) as answer:
                assert "aiorelay_validators_given_up_total 100.0" in await answer.text()
    finally:
        RELEASE.set()
    assert [path.name for path in chain.stored()] == ["other"]
