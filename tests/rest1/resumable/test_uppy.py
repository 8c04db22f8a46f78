"""Uppy in a real browser uploads over a line that breaks."""

import asyncio
import json

import pytest
import uppy
from browser import chromium
from cutting_proxy import CuttingProxy, random_cuts
from peers import DONE, answering

pytestmark = pytest.mark.needs("node", "npm", "chromium", "chromedriver")

NAME = "größe 1.pdf"
CONTENT = b"%PDF-1.7\n" + bytes(range(256)) * 4000
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nlate"
REFUSED = b"HTTP/1.1 422 Unprocessable Content\r\nContent-Length: 2\r\n\r\nno"


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    return uppy.bundle(tmp_path_factory.mktemp("uppy"))


@pytest.fixture
def upload(tmp_path, script):
    def work(url, tries):
        # It ends before the relay does, and its idle connections with it.
        with chromium(tmp_path / "chromium") as browser:
            return uppy.upload(browser, script, url, CONTENT, name=NAME, tries=tries)

    async def upload(url, *, tries):
        return await asyncio.to_thread(work, url, tries)

    return upload


async def test_a_file_arrives_and_the_page_sees_the_upload_api_s_answer(aiorelay_server, upload, tmp_path):
    chain = await aiorelay_server(state_dir=tmp_path / "state")
    outcome = await upload(chain.rest1, tries=0)
    assert outcome.done, outcome
    (stored,) = chain.stored()
    assert (stored.name, stored.read_bytes()) == (NAME, CONTENT)
    assert json.loads(outcome.body)["files"][0]["path"] == str(stored)


async def test_a_file_arrives_once_over_a_line_that_breaks(aiorelay_server, upload, tmp_path):
    chain = await aiorelay_server(state_dir=tmp_path / "state")
    async with CuttingProxy(chain.rest1) as proxy:
        # The page and its connections come first: a browser tells of no cut there.
        proxy.cut_again(random_cuts(1, count=6, least=60_000, most=120_000))
        outcome = await upload(proxy.url, tries=50)
    assert outcome.done, outcome
    assert proxy.made_cuts == 6
    (stored,) = chain.stored()
    assert stored.read_bytes() == CONTENT


async def test_it_goes_on_once_the_upload_api_does(aiorelay_server, recorder, upload, tmp_path):
    left = [UNAVAILABLE] * 2

    async def unavailable_first(connection):
        while True:
            await connection.request()
            await connection.send(left.pop() if left else DONE)

    upstream = await recorder(unavailable_first)
    relay = await aiorelay_server(only="rest1", upstream=upstream.url, state_dir=tmp_path / "state")
    outcome = await upload(relay.rest1, tries=20)
    assert outcome.done, outcome
    assert len(upstream.requests) == 3


@pytest.mark.parametrize("answer", [UNAVAILABLE, REFUSED], ids=["unavailable", "refused"])
async def test_what_is_not_stored_is_no_success(aiorelay_server, recorder, upload, tmp_path, answer):
    upstream = await recorder(answering(answer))
    relay = await aiorelay_server(only="rest1", upstream=upstream.url, state_dir=tmp_path / "state")
    outcome = await upload(relay.rest1, tries=2)
    assert not outcome.done
    assert upstream.requests


async def test_a_file_over_the_limit_is_refused(aiorelay_server, upload, tmp_path):
    chain = await aiorelay_server(max_size="100KiB", state_dir=tmp_path / "state")
    outcome = await upload(chain.rest1, tries=3)
    assert (outcome.done, outcome.status) == (False, 413)
    assert chain.stored() == []
