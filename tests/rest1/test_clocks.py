"""Each wait ends with the error of the party that was waited for: the table of clocks in docs/deploy.md."""

import contextlib
import re
import socket
import threading
from pathlib import Path

import pytest
from peers import ask, connected, form, json_request, part, request

from aiorelay.settings import SETTINGS

pytestmark = pytest.mark.slow

DEPLOY = Path(__file__).parents[2] / "docs/deploy.md"
CONTENT = bytes(1024 * 1024)
LOOPBACK = ["127.0.0.0/8"]
UPLOAD = request("/upload1", form(part("somefile", CONTENT, "a.bin")))
HALF = len(UPLOAD) // 2

# Seconds: the upload API gives up a silent connection before any of the relay's own clocks runs out.
API_CLOCK = 4
OURS = 6

RELEASED = threading.Event()


class Hanging:
    """A validator that never comes to a verdict, until its test has ended."""

    def __init__(self, part):
        pass

    def feed(self, chunk):
        pass

    def finish(self):
        RELEASED.wait()


async def until_cut(connection):
    await connection.until_cut()


async def half_a_file(connection):
    await connection.request()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {2 * len(CONTENT)}\r\n\r\n"
    await connection.send(head.encode() + CONTENT)
    await connection.until_cut()


def problem(answer):
    return answer.status, answer.json()["type"].rpartition(":")[2]


@pytest.fixture
async def impatient(upload_api):
    """The URL of a real upload API that hangs up after a silence shorter than the relay's clocks allow."""
    return (await upload_api("node", idle=API_CLOCK)).url


@pytest.fixture
async def relay(aiorelay_server):
    """A factory of relays whose clocks are short."""

    async def start(upstream, **settings):
        clocks = {"idle_timeout": OURS, "clamd_timeout": OURS, "icap_timeout": OURS}
        return await aiorelay_server(only="rest1", upstream=upstream, allow_net=LOOPBACK, **(clocks | settings))

    return start


def test_the_table_gives_the_defaults_and_every_clock_that_can_be_set():
    rows = re.findall(r"^\|.*\| `([a-z-]+)` \| (\S+) \|", DEPLOY.read_text(), re.MULTILINE)
    settings = {setting.key: setting for setting in SETTINGS.values()}
    assert {(key, settings[key].accept(default)) for key, default in rows} == {
        (key, settings[key].accept(None)) for key, _ in rows
    }
    clocks = {key for key, setting in settings.items() if setting.kind.metavar == "TIME"}
    assert clocks <= {key for key, _ in rows}


# -- before an upload API that is less patient than the relay


async def test_a_client_that_falls_silent_is_too_slow(relay, impatient):
    chain = await relay(impatient)
    async with connected(chain.rest1, chain.tls) as client:
        await client.send(UPLOAD[:HALF])
        answer = await client.answer()
    assert problem(answer) == (408, "too-slow")
    assert f"{OURS} s" in answer.json()["detail"]


async def test_a_source_that_falls_silent_is_too_slow(relay, impatient, recorder):
    chain = await relay(impatient)
    source = await recorder(half_a_file)
    answer = await ask(chain.rest1, chain.tls, json_request({"somefile": source.url}))
    assert problem(answer) == (504, "source-timeout")


@pytest.mark.parametrize(
    ("setting", "address"), [("clamd", "127.0.0.1:{port}"), ("icap", "icap://127.0.0.1:{port}/scan")]
)
async def test_a_scanner_that_falls_silent_is_unavailable(relay, impatient, recorder, setting, address):
    scanner = await recorder(until_cut)
    chain = await relay(impatient, **{setting: address.format(port=scanner.port)}, idle_timeout="1s")
    assert problem(await ask(chain.rest1, chain.tls, UPLOAD)) == (503, "scanner-unavailable")


async def test_a_validator_that_hangs_is_our_own_failure(relay, impatient):
    chain = await relay(impatient, validator=[f"{__name__}:Hanging"], validator_timeout=OURS, idle_timeout="1s")
    try:
        assert problem(await ask(chain.rest1, chain.tls, UPLOAD)) == (500, "internal")
    finally:
        RELEASED.set()


# -- the source


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n"], ids=["nothing", "half a head"])
async def test_idle_timeout_bounds_the_wait_for_the_head_of_a_source(relay, recorder, head):
    async def script(connection):
        await connection.request()
        await connection.send(head)
        await connection.until_cut()

    upstream = await recorder()
    chain = await relay(upstream.url, idle_timeout="300ms")
    answer = await ask(chain.rest1, chain.tls, json_request({"somefile": (await recorder(script)).url}), patience=5)
    assert problem(answer) == (504, "source-timeout")
    assert upstream.connections == []


# -- the upload API


@contextlib.contextmanager
def full_backlog():
    """The port of a server that takes up no connection: the kernel drops what comes."""
    with socket.socket() as listener, socket.socket() as first, socket.socket() as second:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for filler in (first, second):
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


async def test_an_upload_api_that_takes_up_no_connection_is_not_reached(relay):
    with full_backlog() as port:
        chain = await relay(f"http://127.0.0.1:{port}/upload", idle_timeout="1s")
        answer = await ask(chain.rest1, chain.tls, UPLOAD)
    assert problem(answer) == (502, "upstream-failed")
    assert "error=connection_timeout" in answer["Proxy-Status"]


async def test_an_upload_api_that_takes_no_byte_is_too_slow(relay, recorder):
    async def script(connection):
        await connection.head()
        await connection.hang()

    chain = await relay((await recorder(script)).url, idle_timeout="500ms")
    answer = await ask(chain.rest1, chain.tls, request("/upload1", form(part("somefile", CONTENT * 32, "a.bin"))))
    assert problem(answer) == (504, "upstream-timeout")
    assert "error=connection_write_timeout" in answer["Proxy-Status"]


async def test_an_upload_api_that_gives_no_answer_is_too_slow(relay, recorder):
    async def script(connection):
        await connection.request()
        await connection.until_cut()

    chain = await relay((await recorder(script)).url, idle_timeout="200ms", answer_timeout="1s")
    answer = await ask(chain.rest1, chain.tls, UPLOAD)
    assert problem(answer) == (504, "upstream-timeout")
    assert "error=http_response_timeout" in answer["Proxy-Status"]


async def test_what_an_upload_api_says_of_its_own_clock_is_passed_back(relay, recorder):
    """Where the client drips and the upload API bounds the whole request."""
    timeout = b"HTTP/1.1 408 Request Timeout\r\nContent-Length: 5\r\nConnection: close\r\n\r\nours!"

    async def script(connection):
        await connection.head()
        await connection.send(timeout)
        await connection.until_cut()

    chain = await relay((await recorder(script)).url)
    async with connected(chain.rest1, chain.tls) as client:
        await client.send(UPLOAD[:HALF])
        answer = await client.answer()
    assert (answer.status, answer.body) == (408, b"ours!")
