"""Upload with each common client to each upload API through the relay, and compare what arrives."""

import asyncio
import random

import aiohttp
import pytest
from programs import node_script, program
from test_clients import httpx_form, httpx_stream, output, requests_form, toolbelt, toolbelt_chunked
from upstream_servers import SERVERS, stored_file

pytestmark = pytest.mark.needs("curl")

CONTENT = random.Random(4).randbytes(300_000) + b"\r\n--\r\n------\r\n\r" * 999  # noqa: S311 - any bytes will do
# Django accepts no chunked body, and PHP gets none over FastCGI.
NEED_A_LENGTH = ("gunicorn", "gunicorn-gthread", "apache")


def by_python(send):
    async def upload(relay, report, name):
        answer = await asyncio.to_thread(send, f"{relay.rest1}/upload1", str(relay.ca), report, name)
        assert answer.status_code == 200, answer.text

    return upload


async def curl(relay, report, name, *options):
    command = (program("curl"), "--silent", "--show-error", "--fail-with-body", "--cacert", relay.ca, *options)
    await output(*command, "-F", f"somefile=@{report};filename={name}", f"{relay.rest1}/upload1")


async def curl_chunked(relay, report, name):
    await curl(relay, report, name, "-H", "Transfer-Encoding: chunked")


async def curl_raw(relay, report, name):
    command = (program("curl"), "--silent", "--show-error", "--fail-with-body", "--cacert", relay.ca)
    await output(*command, "-T", report, f"{relay.rest1}/upload/{name}")


async def aiohttp_form(relay, report, name):
    form = aiohttp.FormData()
    form.add_field("title", "before")
    form.add_field("somefile", report.read_bytes(), filename=name, content_type="application/pdf")
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{relay.rest1}/upload1", data=form, ssl=relay.tls) as answer,
    ):
        assert answer.status == 200, await answer.text()


def by_node(script, *mode):
    async def upload(relay, report, name):
        command = (*node_script(script), f"{relay.rest1}/upload1", report, name, *mode)
        await output(*command, NODE_EXTRA_CA_CERTS=str(relay.ca))

    return upload


CLIENTS = {
    "curl": curl,
    "curl-chunked": curl_chunked,
    "curl-raw": curl_raw,
    "requests": by_python(requests_form),
    "toolbelt": by_python(toolbelt),
    "toolbelt-chunked": by_python(toolbelt_chunked),
    "httpx": by_python(httpx_form),
    "httpx-chunked": by_python(httpx_stream),
    "aiohttp": aiohttp_form,
    "node-fetch": by_node("upload_fetch.mjs"),
    "got": by_node("upload_got.mjs"),
    "axios": by_node("upload_axios.mjs", "length"),
    "axios-chunked": by_node("upload_axios.mjs", "stream"),
}


@pytest.mark.parametrize("server", SERVERS)
async def test_what_any_client_sends_arrives(aiorelay_server, upload_api, tmp_path, server):
    report = tmp_path / "report.pdf"
    report.write_bytes(CONTENT)
    api = await upload_api(server)
    relay = await aiorelay_server(
        only="rest1", upstream=api.url, upstream_chunked="never" if server in NEED_A_LENGTH else "allow"
    )
    await asyncio.gather(*(send(relay, report, f"{name}.pdf") for name, send in CLIENTS.items()))
    assert api.stored() == sorted(stored_file(f"{name}.pdf", CONTENT) for name in CLIENTS)
