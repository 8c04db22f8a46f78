"""Findings that the probe must not claim, and its measurements."""

import asyncio
import json
import logging

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from aiorelay.cli.main import main
from aiorelay.cli.probe.uploads import ProbeUpload

pytestmark = pytest.mark.slow


async def receive(request):
    """Read a form. Return the file name or the text of each part by its name."""
    parts = {}
    try:
        async for part in await request.multipart():
            content = await part.read()
            parts[part.name] = part.filename or content.decode()
    except ValueError:
        raise web.HTTPBadRequest from None
    return parts


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Run the probe against a handler. Return its exit status and its JSON report."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))

    async def probe(handler, *arguments):
        app = web.Application()
        app.router.add_post("/upload", handler)
        async with TestServer(app) as server:
            url = str(server.make_url("/upload"))
            status = await asyncio.to_thread(main, ["probe", url, "--json", *arguments])
        return status, json.loads(capsys.readouterr().out)

    return probe


async def test_an_api_that_answers_200_to_everything_yields_no_findings(run):
    async def missing(_request):
        return web.json_response({"error": {"code": "missingparam"}})

    status, found = await run(missing, "--no-patience")
    assert status == 1
    assert found["accepts_chunked"] is found["filenames"] is found["flags"] is None
    assert "missingparam" in found["reasons"]["flags"]


async def test_a_required_field_and_name_are_sent(run):
    async def index(request):
        form = await receive(request)
        if form.get(":action") != "file_upload":
            raise web.HTTPBadRequest(text="Missing ':action' field!")
        return web.Response(text=form["somefile"]) if "somefile" in form else web.Response(status=400)

    status, found = await run(index, "--no-patience")
    assert status == 1
    assert "Missing ':action' field!" in found["reasons"]["flags"]
    assert "Authorization" not in found["reasons"]["flags"]
    status, found = await run(index, "--no-patience", "--form", ":action=file_upload", "--filename", "a-1.0.tar.gz")
    assert status == 0
    assert found["flags"].startswith("serve --upstream ")


async def test_a_redirect_is_reported_with_the_url_to_use(run):
    async def elsewhere(_request):
        raise web.HTTPPermanentRedirect("/upload/")

    _, found = await run(elsewhere, "--no-patience")
    assert found["reasons"]["flags"].endswith("/upload/")
    assert "; use http://" in found["reasons"]["flags"]


async def test_an_api_that_times_out_a_dripping_body_needs_the_spool(run):
    async def impatient(request):
        try:
            async with asyncio.timeout(1.5):
                form = await receive(request)
        except TimeoutError:
            raise web.HTTPRequestTimeout from None
        return web.Response(text=form["somefile"]) if "somefile" in form else web.Response(status=400)

    _, found = await run(impatient)
    assert 1 < found["patience"]["dripping"] < 90
    assert "--upstream-mode spool" in found["flags"]


async def test_an_immediate_refusal_of_a_longer_upload_is_not_a_timeout(run):
    async def small(request):
        if request.content_length is not None and request.content_length > 100_000:
            raise web.HTTPRequestEntityTooLarge(100_000, request.content_length)
        form = await receive(request)
        return web.Response(text=form["somefile"]) if "somefile" in form else web.Response(status=400)

    _, found = await run(small)
    assert found["patience"] is None
    assert found["reasons"]["patience"] == "not measured: it answered 413 before an upload had ended"
    assert "--upstream-mode spool" not in (found["flags"] or "")


def test_the_content_does_not_contain_the_boundary():
    upload = ProbeUpload("somefile", "mark")
    assert upload.body.count(upload.boundary.encode()) == 2


@pytest.mark.needs("curl")
async def test_serve_warns_once_of_an_api_that_redirects(aiorelay_server, caplog, tmp_path):
    async def elsewhere(_request):
        raise web.HTTPPermanentRedirect("/upload/")

    (tmp_path / "a.txt").write_text("a")
    app = web.Application()
    app.router.add_post("/upload", elsewhere)
    async with TestServer(app) as server:
        chain = await aiorelay_server(only="rest1", upstream=str(server.make_url("/upload")))
        with caplog.at_level(logging.WARNING):
            for _ in range(2):
                command = ["curl", "-s", "--cacert", chain.ca, "-F", f"somefile=@{tmp_path}/a.txt"]
                curl = await asyncio.create_subprocess_exec(*command, f"{chain.rest1}/upload1")
                assert await curl.wait() == 0
    assert caplog.text.count("would bypass the relay") == 1
