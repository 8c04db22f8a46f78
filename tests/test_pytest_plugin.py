"""The pytest fixture of the package."""

import aiohttp


async def test_a_chain_stores_an_upload(aiorelay_server):
    chain = await aiorelay_server(max_size="1MiB")
    form = aiohttp.FormData()
    form.add_field("somefile", b"%PDF-1.4", filename="report.pdf")
    url = chain.rest1 + "/upload1"
    async with aiohttp.ClientSession() as client, client.post(url, data=form, ssl=chain.tls) as answer:
        assert (await answer.json())["status"] == "done"
    assert [f.name for f in chain.stored()] == ["report.pdf"]


async def test_two_chains_do_not_share_a_store(aiorelay_server):
    one, other = await aiorelay_server(), await aiorelay_server()
    assert one.store != other.store
    assert one.rest1 != other.rest1
