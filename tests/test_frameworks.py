"""Upload APIs on common frameworks, unmodified, receive the same file through the relay as directly."""

import asyncio
import contextlib
import os
import random
import shutil
import socket
import sys
from pathlib import Path

import pytest
from peers import BOUNDARY, PATIENCE, Client, ask, eventually, form, json_request, part, request

TESTS = Path(__file__).parent
PYTHON = sys.executable
# Larger than what the frameworks keep in memory, and full of what multipart readers stumble over.
CONTENT = random.Random(2).randbytes(3_000_000) + f"\r\n--{BOUNDARY[:-1]}\r\n\r\n--".encode() * 99  # noqa: S311 - no secret
DJANGO = (PYTHON, "-m", "gunicorn", "--chdir", "{tests}/upstreams", "--bind", "fd://{fd}")
FRAMEWORKS = {
    "flask": (PYTHON, "{tests}/upstreams/flask_app.py", "{fd}", "{store}"),
    "starlette": (
        PYTHON,
        "-m",
        "uvicorn",
        "--app-dir",
        "{tests}/upstreams",
        "--fd",
        "{fd}",
        "starlette_app:application",
    ),
    "django, synchronous": (*DJANGO, "django_app:application"),
    "django, threaded": (*DJANGO, "--worker-class", "gthread", "django_app:application"),
    "express": ("node", "{tests}/node/express_multer.mjs", "{fd}", "{store}"),
}
needs_length = pytest.mark.parametrize("framework", [name for name in FRAMEWORKS if name.startswith("django")])
every = pytest.mark.parametrize("framework", FRAMEWORKS)


@pytest.fixture
def store(tmp_path):
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
async def upstream(framework, store):
    """The port of an upload API on ``framework``, a program that is handed a listening socket."""
    if framework == "express" and not (shutil.which("node") and (TESTS / "node/node_modules/multer").is_dir()):
        missing = "node or the packages of tests/node are not installed"
        pytest.fail(missing) if os.environ.get("CI") else pytest.skip(missing)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        values = {"fd": listener.fileno(), "store": store, "tests": TESTS}
        process = await asyncio.create_subprocess_exec(
            *[word.format(**values) for word in FRAMEWORKS[framework]],
            pass_fds=[listener.fileno()],
            env={**os.environ, "STORE": str(store)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,  # they complain about the broken uploads, as they should
        )
        port = listener.getsockname()[1]
    yield port
    process.terminate()
    await process.wait()


@pytest.fixture
async def relay(upstream, aiorelay_server, tmp_path):
    return await aiorelay_server(
        only="rest1", upstream=f"http://127.0.0.1:{upstream}/upload", local_root=[tmp_path], answer_timeout="20s"
    )


async def directly(port, sent):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    with contextlib.closing(writer):
        return await Client(reader, writer).ask(sent)


def a_form(name, fields=("note", "text")):
    return form(part(*fields), part("somefile", CONTENT, name, "Content-Type: application/pdf"), part("after", "file"))


@every
async def test_form_arrives_as_it_does_directly(framework, upstream, relay, store):
    direct = await directly(upstream, request("/upload", a_form("direct.pdf")))
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
async def test_chunks_are_spooled_for_who_does_not_take_them(framework, upstream, aiorelay_server, store):
    url = f"http://127.0.0.1:{upstream}/upload"
    relay = await aiorelay_server(only="rest1", upstream=url, upstream_chunked="never")
    sent = request("/upload1", a_form("chunked.pdf"), chunked=True)
    async with asyncio.timeout(PATIENCE):
        assert (await ask(relay.rest1, relay.tls, sent)).status == 200, framework
    assert (store / "chunked.pdf").read_bytes() == CONTENT
