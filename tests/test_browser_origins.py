"""Pages of another origin, in a real browser: uploaders with their defaults, and what such a page may not do."""

import asyncio
import json
import re
import ssl
from contextlib import asynccontextmanager

import pytest
import uppy
from aiohttp import web
from browser import chromium
from peers import PATIENCE
from shell import README

from aiorelay.certificates.tls import Certificates

pytestmark = pytest.mark.needs("chromium", "chromedriver", "node", "npm")

SIZE = 300_000
TOKEN = {"Authorization": "Bearer secret"}


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    return uppy.bundle(tmp_path_factory.mktemp("script"), "origin_page.mjs")


@asynccontextmanager
async def serving_page(context: ssl.SSLContext, script: str):
    """Serve a page with ``script``, and yield its origin."""

    async def page(_request):
        return web.Response(text="<!doctype html><body><script src=/page.js></script>", content_type="text/html")

    async def code(_request):
        return web.Response(text=script, content_type="text/javascript")

    app = web.Application()
    app.router.add_get("/", page)
    app.router.add_get("/page.js", code)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        yield f"https://localhost:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def origin(script, tmp_path):
    """The origin of the page, whose certificate is of the relay's CA."""
    certificates = Certificates(tmp_path / "state/tls", ["localhost", "127.0.0.1"])
    async with serving_page(certificates.context, script) as origin:
        yield origin


@pytest.fixture
def relay(aiorelay_server, tmp_path):
    def start(**settings):
        names = {"state_dir": tmp_path / "state", "tls_name": ["localhost", "127.0.0.1"]}
        return aiorelay_server(**names, **settings)

    return start


@pytest.fixture
def upload(origin, tmp_path):
    """A function that lets the page upload to a relay in some way, and returns what the page has seen."""

    def work(way, relay, options, also):
        with chromium(tmp_path / "chromium") as browser:
            browser.set_script_timeout(PATIENCE)
            browser.get(origin)
            browser.execute_script(also)
            return browser.execute_async_script(
                "const [way, relay, options, done] = arguments;"
                "uploads[way](relay, options).then(done, (error) => done({status: 0, body: String(error)}))",
                way,
                relay,
                options,
            )

    async def upload(way, relay, *, also="", **options):
        return await asyncio.to_thread(work, way, relay, {"size": SIZE, "field": "somefile"} | options, also)

    return upload


WAYS = {
    "fetch": ("fetch", "somefile"),
    "PUT": ("put", "somefile"),
    "XMLHttpRequest with progress": ("xhr", "somefile"),
    "Uppy XHRUpload": ("uppyXhr", "file"),
    "Uppy Tus": ("uppyTus", "somefile"),
    "FilePond": ("filePond", "filepond"),
    "Dropzone": ("dropzone", "file"),
}


@pytest.mark.parametrize(("way", "field"), WAYS.values(), ids=WAYS)
async def test_an_uploader_works_with_its_defaults(relay, upload, origin, way, field):
    chain = await relay(allow_origin=[origin], field=field)
    seen = await upload(way, chain.rest1)
    assert seen["status"] in {200, 201, 204}, seen
    assert seen.get("done", True)
    assert seen.get("progress", SIZE) >= SIZE
    (stored,) = chain.stored()
    assert stored.stat().st_size == SIZE
    assert way == "uppyTus" or json.loads(seen["body"])["status"] == "done"


async def test_a_form_element_of_an_allowed_origin_is_taken(relay, upload, origin):
    chain = await relay(allow_origin=[origin])
    await upload("element", chain.rest1)
    assert len(chain.stored()) == 1


async def test_any_origin_may_upload_if_all_are_allowed(relay, upload):
    chain = await relay(allow_origin=["*"])
    assert (await upload("fetch", chain.rest1))["status"] == 200


async def test_a_page_uses_a_token_and_reads_that_it_needs_one(relay, upload, origin, tmp_path):
    (tokens := tmp_path / "tokens").write_text("alice:secret\n")
    chain = await relay(allow_origin=[origin], token_file=tokens)
    without = await upload("fetch", chain.rest1)
    assert (without["status"], json.loads(without["body"])["type"]) == (401, "urn:aiorelay:unauthenticated")
    assert json.loads(without["body"])["instance"] == without["id"]
    assert (await upload("fetch", chain.rest1, headers=TOKEN))["status"] == 200
    assert (await upload("put", chain.rest1, headers=TOKEN))["status"] == 200


@pytest.mark.parametrize(("token", "seen"), [("secret", '"status": "done"'), ("wrong", "The token is not valid")])
async def test_the_application_of_the_readme_works(relay, upload, origin, tmp_path, token, seen):
    (tokens := tmp_path / "tokens").write_text("alice:secret\n")
    chain = await relay(allow_origin=[origin], token_file=tokens)
    (code,) = re.findall(r"```js\n(.*?)```", README, re.DOTALL)
    code = code.replace("https://localhost:8000", chain.rest1)
    run = f"uploads.readme = async () => ({{body: await upload(new File(['content'], 'a.txt'), '{token}')}});"
    assert seen in (await upload("readme", chain.rest1, also=code + run))["body"]


@pytest.mark.parametrize("way", ["fetch", "put", "xhr"])
async def test_a_page_reads_why_a_file_is_refused(relay, upload, origin, way):
    chain = await relay(allow_origin=[origin], max_size=SIZE - 1)
    seen = await upload(way, chain.rest1)
    assert (seen["status"], json.loads(seen["body"])["type"]) == (413, "urn:aiorelay:too-large")


async def test_a_page_follows_a_job(relay, upload, origin, tmp_path):
    (source := tmp_path / "a.txt").write_bytes(b"content")
    chain = await relay(allow_origin=[origin], local_root=[tmp_path])
    seen = await upload("job", chain.rest1, source=str(source))
    assert (seen["status"], json.loads(seen["body"])["state"]) == (202, "done")


async def test_a_page_of_an_origin_by_name_may_send_its_cookies(relay, upload, origin):
    chain = await relay(allow_origin=[origin])
    assert (await upload("fetch", chain.rest1, credentials="include"))["status"] == 200


async def test_a_page_of_any_origin_cannot_read_with_cookies(relay, upload):
    chain = await relay(allow_origin=["*"])
    seen = await upload("fetch", chain.rest1, credentials="include")
    assert (seen["status"], seen["body"]) == (0, "TypeError: Failed to fetch")


FOREIGN = {
    "fetch": ("fetch", {}),
    "fetch without CORS": ("fetch", {"mode": "no-cors"}),
    "fetch with a preflight": ("fetch", {"headers": TOKEN}),
    "PUT": ("put", {}),
    "form element": ("element", {}),
    "Uppy Tus": ("uppyTus", {}),
}


@pytest.mark.parametrize(("way", "options"), FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"], ids=["cross-site", "same-site"])
async def test_a_page_of_another_origin_stores_nothing(relay, upload, caplog, way, options, host):
    chain = await relay(allow_origin=["https://app.example"])
    seen = await upload(way, chain.rest1.replace("127.0.0.1", host), **options)
    assert (seen["status"], chain.stored()) == (0, [])
    assert "for a page of 'https://localhost:" in caplog.text
