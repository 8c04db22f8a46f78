"""Unmodified upload APIs on common frameworks receive the same file through the relay as directly."""

import asyncio
import contextlib
import random

import pytest
from peers import BOUNDARY, PATIENCE, Client, ask, eventually, form, json_request, part, request
from upstream_servers import SERVERS

# Larger than what frameworks keep in memory, and full of bytes that are difficult for multipart parsers.
CONTENT = random.Random(2).randbytes(3_000_000) + f"\r\n--{BOUNDARY[:-1]}\r\n\r\n--".encode() * 99  # noqa: S311 - no secret
# Header fields that the relay adds, so that both requests are equal.
FORWARDED = ("X-Forwarded-For: 127.0.0.1", "X-Forwarded-Proto: https", "X-Forwarded-Host: relay.localhost")
needs_length = pytest.mark.parametrize("framework", ["gunicorn", "gunicorn-gthread"])
every = pytest.mark.parametrize("framework", SERVERS)


@pytest.fixture
async def upstream(framework, upload_api):
    return await upload_api(framework)


@pytest.fixture
def store(upstream):
    return upstream.store


@pytest.fixture
async def relay(upstream, aiorelay_server, tmp_path):
    return await aiorelay_server(only="rest1", upstream=upstream.url, local_root=[tmp_path], answer_timeout="20s")


async def directly(port, sent):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.closing(writer):
        return await Client(reader, writer).ask(sent)


def a_form(name, fields=("note", "text")):
    return form(part(*fields), part("somefile", CONTENT, name, "Content-Type: application/pdf"), part("after", "file"))


@every
async def test_form_arrives_as_it_does_directly(framework, upstream, relay, store):
    direct = await directly(upstream.port, request("/upload", a_form("direct.pdf"), *FORWARDED))
    assert direct.status == 200, framework
    relayed = await ask(relay.rest1, relay.tls, request("/upload1", a_form("relayed.pdf")))
    assert relayed.status == 200
    assert relayed.body == direct.body.replace(b"direct", b"relayed")
    assert (store / "direct.pdf").read_bytes() == (store / "relayed.pdf").read_bytes() == CONTENT
    assert {"note", "after"} <= relayed.json()["fields"].keys()


@every
async def test_raw_and_local_files_arrive_whole(framework, relay, store, tmp_path):
    (tmp_path / "local.pdf").write_bytes(CONTENT)
    local = await ask(relay.rest1, relay.tls, json_request({"somefile": f"{tmp_path}/local.pdf", "note": "text"}))
    assert local.status == 200, framework
    assert local.json()["fields"].keys() == {"note"}
    raw = await ask(relay.rest1, relay.tls, request("/upload/raw.pdf", CONTENT, method="PUT", content_type=None))
    assert raw.status == 200
    assert (store / "local.pdf").read_bytes() == (store / "raw.pdf").read_bytes() == CONTENT


@every
@pytest.mark.parametrize("end", [b"", b"-", b"x--\r\n"], ids=["cut", "a dash short", "malformed"])
async def test_nothing_of_a_broken_form_is_stored(framework, relay, store, end):
    broken = form(part("somefile", CONTENT, "broken.pdf"), end=end)
    assert (await ask(relay.rest1, relay.tls, request("/upload1", broken))).status == 400, framework
    whole = form(part("somefile", b"whole", "whole.pdf"))
    assert (await ask(relay.rest1, relay.tls, request("/upload1", whole))).status == 200
    await eventually(lambda: [path.name for path in store.iterdir()] == ["whole.pdf"])


@needs_length
async def test_chunks_are_spooled_for_apis_that_do_not_accept_them(framework, upstream, aiorelay_server, store):
    relay = await aiorelay_server(only="rest1", upstream=upstream.url, upstream_chunked="never")
    sent = request("/upload1", a_form("chunked.pdf"), chunked=True)
    async with asyncio.timeout(PATIENCE):
        assert (await ask(relay.rest1, relay.tls, sent)).status == 200, framework
    assert (store / "chunked.pdf").read_bytes() == CONTENT
