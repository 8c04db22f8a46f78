"""Uploads to an upload API that fails in different ways."""

import asyncio
import contextlib
import gc
import gzip
import os
import socket
import ssl
from collections.abc import AsyncGenerator

import pytest
import trustme
from multidict import CIMultiDict
from peers import (
    BOUNDARY,
    DONE,
    PATIENCE,
    Message,
    answering,
    answering_early,
    ask,
    connected,
    eventually,
    form,
    nothing_left_behind,
    part,
    request,
    run,
)
from processes import FREE_PORTS, Process, started
from yarl import URL

from aiorelay.multipart.framing import FramedBody
from aiorelay.rest1.target import Target
from aiorelay.rest1.upstream import Upstream, UpstreamTimeouts

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
SMALL = request("/upload1", form(part("somefile", b"content", "a.txt")))
LARGE = form(part("somefile", os.urandom(MIB) * 16, "a.bin"))


@pytest.fixture
def relay(aiorelay_server, recorder):
    """A factory of a relay in front of a recorder with a script."""

    async def start(script=None, **settings):
        upstream = await recorder(script)
        return upstream, await aiorelay_server(only="rest1", upstream=upstream.url, **settings)

    return start


def assert_problem(answer: Message, status: int, error: str) -> None:
    code = {502: "upstream-failed", 504: "upstream-timeout"}[status]
    assert (answer.status, answer.json()["type"]) == (status, f"urn:aiorelay:{code}")
    assert answer["Proxy-Status"] == f"aiorelay; error={error}"
    assert "127.0.0.1" not in answer.json()["detail"]


# -- faults


async def test_upstream_that_is_down(aiorelay_server):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    chain = await aiorelay_server(only="rest1", upstream=f"http://127.0.0.1:{port}/")
    assert_problem(await ask(chain.rest1, chain.tls, SMALL), 502, "connection_refused")


async def test_upstream_whose_name_does_not_exist(aiorelay_server):
    chain = await aiorelay_server(only="rest1", upstream="http://upload-api.invalid/")
    assert_problem(await ask(chain.rest1, chain.tls, SMALL), 502, "dns_error")


async def after_accepting(connection):
    connection.reset()


async def after_the_head(connection):
    await connection.head()
    connection.reset()


async def after_the_request(connection):
    await connection.request()
    connection.reset()


async def within_its_own_head(connection):
    await connection.request()
    await connection.send(b"HTTP/1.1 200 OK\r\nContent-")
    connection.reset()


@pytest.mark.parametrize("script", [after_accepting, after_the_head, after_the_request, within_its_own_head])
async def test_upstream_that_resets_the_connection(relay, script):
    _, chain = await relay(script)
    assert_problem(await ask(chain.rest1, chain.tls, SMALL), 502, "connection_terminated")


@pytest.mark.parametrize("script", [after_accepting, after_the_head])
async def test_upstream_that_resets_the_connection_of_a_large_upload(relay, script):
    _, chain = await relay(script)
    answer = await ask(chain.rest1, chain.tls, request("/upload1", LARGE))
    assert_problem(answer, 502, "connection_terminated")


async def test_upstream_that_closes_without_an_answer(relay):
    async def script(connection):
        await connection.request()

    _, chain = await relay(script)
    assert_problem(await ask(chain.rest1, chain.tls, SMALL), 502, "connection_terminated")


GARBAGE = {
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n",
    "bytes": bytes(range(256)) * 4,
    "status out of range": b"HTTP/1.1 9999 No\r\n\r\n",
    "bad header": b"HTTP/1.1 200 OK\r\nno colon here\r\n\r\n",
    "two lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
    "endless head": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
}


@pytest.mark.parametrize("answer", GARBAGE.values(), ids=GARBAGE)
async def test_upstream_that_answers_garbage(relay, answer):
    _, chain = await relay(answering(answer))
    assert_problem(await ask(chain.rest1, chain.tls, SMALL), 502, "http_protocol_error")


async def test_upstream_that_never_answers(relay):
    async def script(connection):
        await connection.request()
        await connection.until_cut()

    upstream, chain = await relay(script, answer_timeout="300ms")
    assert_problem(await ask(chain.rest1, chain.tls, SMALL), 504, "http_response_timeout")
    await asyncio.wait_for(upstream.connections[0].cut.wait(), PATIENCE)


@pytest.mark.parametrize(
    ("first", "drip"),
    [(b"", b"HTTP/1.1 102 Processing\r\n\r\n"), (b"HTTP/1.1 200 OK\r\n", b"X-A: 1\r\n")],
    ids=["informational answers", "a head"],
)
async def test_an_upstream_that_answers_slowly_times_out(relay, first, drip):
    async def script(connection):
        await connection.request()
        await connection.send(first)
        with contextlib.suppress(OSError):
            for _ in range(50):
                await connection.send(drip)
                await asyncio.sleep(0.1)

    _, chain = await relay(script, answer_timeout="300ms")
    assert_problem(await ask(chain.rest1, chain.tls, SMALL), 504, "http_response_timeout")


@pytest.mark.parametrize("status", ["101 Switching Protocols", "099 Odd"])
async def test_answer_that_is_not_final_is_a_failure(relay, status):
    _, chain = await relay(answering(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode()))
    assert_problem(await ask(chain.rest1, chain.tls, SMALL), 502, "http_protocol_error")


async def test_upstream_that_stops_reading(relay):
    async def script(connection):
        await connection.head()
        await connection.hang()

    _, chain = await relay(script, idle_timeout="500ms")
    async with connected(chain.rest1, chain.tls) as client:
        answer = await client.ask(request("/upload1", LARGE))
    assert_problem(answer, 504, "connection_write_timeout")


async def test_upstream_slower_to_answer_than_the_client_may_be_silent(relay):
    async def script(connection):
        await connection.request()
        await asyncio.sleep(0.6)
        await connection.send(DONE)

    _, chain = await relay(script, idle_timeout="200ms")
    assert (await ask(chain.rest1, chain.tls, SMALL)).status == 200


async def test_upload_longer_than_the_answer_may_take(relay):
    _, chain = await relay(answer_timeout="300ms")
    body = form(part("somefile", b"x" * 9, "a.txt"))
    async with connected(chain.rest1, chain.tls) as client:
        await client.send(request("/upload1", body[:-20], length=len(body)))
        await asyncio.sleep(0.7)
        assert (await client.ask(body[-20:])).status == 200


@pytest.mark.parametrize(
    "length", [b"Content-Length: 10\r\n\r\n12345", b"Transfer-Encoding: chunked\r\n\r\n5\r\n12345\r\n"]
)
@pytest.mark.parametrize("way", ["close", "reset"])
async def test_an_aborted_answer_is_aborted_for_the_client_too(relay, length, way):
    async def script(connection):
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\n" + length)
        await asyncio.sleep(0.1)
        getattr(connection, way)()

    _, chain = await relay(script)
    answer = await ask(chain.rest1, chain.tls, SMALL)
    assert not answer.whole


async def test_an_answer_that_stalls_is_aborted(relay):
    async def script(connection):
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n12345")
        await connection.until_cut()

    _, chain = await relay(script, answer_timeout="300ms")
    answer = await ask(chain.rest1, chain.tls, SMALL)
    assert (answer.status, answer.body, answer.whole) == (200, b"12345", False)


# -- answers before the request's end

TOO_LARGE = b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 8\r\nX-Limit: 1\r\n\r\ntoo much"


def answering_and_closing(answer: bytes):
    async def script(connection):
        await connection.head()
        await connection.send(answer)
        connection.close()

    return script


async def test_early_refusal_reaches_a_client_that_still_sends(relay):
    upstream, chain = await relay(answering_early(TOO_LARGE))
    async with connected(chain.rest1, chain.tls) as client:
        await client.send(request("/upload1", LARGE[:MIB], length=len(LARGE)))
        answer = await client.answer()
    assert (answer.status, answer["X-Limit"], answer.body) == (413, "1", b"too much")
    await asyncio.wait_for(upstream.connections[0].cut.wait(), PATIENCE)
    assert not upstream.connections[0].message.whole


@pytest.mark.parametrize("round_", range(5))
async def test_early_refusal_of_an_upstream_that_closes_reaches_the_client(relay, round_):
    async def script(connection):
        await connection.head()
        await connection.send(TOO_LARGE)
        connection.hang_up()
        await connection.until_cut()

    _, chain = await relay(script)
    async with connected(chain.rest1, chain.tls) as client:
        answer = await client.ask(request("/upload1", LARGE))
    assert (answer.status, answer.body) == (413, b"too much"), round_


@pytest.mark.parametrize("round_", range(10))
async def test_early_refusal_that_a_reset_overtakes_reaches_the_client(relay, round_):
    """The kernel keeps data received before a reset; the relay reads them after the write has failed."""
    _, chain = await relay(answering_and_closing(TOO_LARGE))
    async with connected(chain.rest1, chain.tls) as client:
        answer = await client.ask(request("/upload1", LARGE))
    assert (answer.status, answer.body) == (413, b"too much"), round_


async def test_early_success_is_not_passed_on_before_the_verdict(relay):
    _, chain = await relay(answering_early(DONE))
    async with connected(chain.rest1, chain.tls) as client:
        await client.send(request("/upload1", LARGE[:MIB], length=len(LARGE)))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.answer(), 0.5)
        answer = await client.ask(LARGE[MIB:-4] + b"xx\r\n")
    assert (answer.status, answer.json()["type"]) == (400, "urn:aiorelay:malformed-form")


@pytest.mark.parametrize("status", [b"200 OK", b"303 See Other"])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("after", [0, MIB], ids=["after the head", "after a mebibyte"])
async def test_early_success_is_passed_on_and_the_upstream_gets_the_whole_body(relay, after, chunked, status):
    async def script(connection):
        await connection.head()
        while len(connection.received) < after:
            await connection.read()
        await connection.send(DONE.replace(b"200 OK", status))
        await connection.request()

    upstream, chain = await relay(script)
    async with connected(chain.rest1, chain.tls) as client:
        answer = await client.ask(request("/upload1", LARGE, chunked=chunked))
    assert (answer.status, answer.json()) == (int(status[:3]), {"status": "done"})
    await eventually(lambda: upstream.requests)
    assert upstream.requests[0].body == LARGE


async def test_early_success_of_an_upstream_that_takes_no_more_of_the_body_is_a_failure(relay):
    _, chain = await relay(answering_and_closing(DONE))
    async with connected(chain.rest1, chain.tls) as client:
        answer = await client.ask(request("/upload1", LARGE))
    assert_problem(answer, 502, "connection_terminated")


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_upstream_that_closes_early_leaves_no_exception_that_nobody_handles(relay, chunked):
    unhandled = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: unhandled.append(context["message"]))
    _, chain = await relay(answering_and_closing(DONE))
    for _ in range(10):
        async with connected(chain.rest1, chain.tls) as client:
            assert (await client.ask(request("/upload1", LARGE, chunked=chunked))).status == 502
    gc.collect()
    assert unhandled == []


async def test_early_success_of_an_upstream_that_closes_is_no_success_before_the_verdict(relay):
    async def script(connection):
        await connection.head()
        await connection.send(DONE.replace(b"Content-Type", b"Connection: close\r\nContent-Type"))

    _, chain = await relay(script)
    async with connected(chain.rest1, chain.tls) as client:
        answer = await client.ask(request("/upload1", LARGE[:-4] + b"xx\r\n"))
    assert answer.status in {400, 502}


# -- an upstream that stops reading


def sockets(process: Process) -> int:
    return sum(target.startswith("socket:") for target in process.open_files)


def answering_and_hanging(answer: bytes = b""):
    async def script(connection):
        await connection.head()
        await connection.send(answer)
        await connection.hang()

    return script


async def refused_while_it_hangs(client):
    """A client that sends a malformed form, after the upload API has stopped reading."""
    body = LARGE[: 4 * MIB] + BROKEN
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(client.send(request("/upload1", body, length=len(LARGE))), 1)


async def sends_all(client):
    await client.ask(request("/upload1", LARGE))


async def leaves(client):
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(client.send(request("/upload1", LARGE)), 1)
    client.reset()


BROKEN = f"\r\n--{BOUNDARY}x".encode()


@pytest.mark.parametrize(
    ("scheme", "answer"),
    [("https", TOO_LARGE), ("https", DONE), ("https", b""), ("http", b"")],
    ids=["413", "200", "none", "none, without TLS"],
)
@pytest.mark.parametrize("how", [sends_all, refused_while_it_hangs, leaves])
async def test_no_connection_is_left_open_to_an_upstream_that_stops_reading(recorder, tmp_path, how, answer, scheme):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    upstream = await recorder(answering_and_hanging(answer), tls=context if scheme == "https" else None)
    flags = ("--upstream", upstream.url, "--upstream-ca", tmp_path / "ca.pem", "--idle-timeout", "2s")
    async with started("--only", "rest1", *FREE_PORTS, "--state-dir", tmp_path / "state", *flags) as process:
        before = sockets(process)
        async with connected(process.rest1, process.tls) as client:
            await how(client)
        await eventually(lambda: sockets(process) == before)
    for connection in upstream.connections:
        await connection.until_cut()
        assert f"{BOUNDARY}--".encode() not in connection.received


# -- valid behaviour


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
async def test_redirects_are_passed_back_and_not_followed(relay, status):
    location = b"HTTP/1.1 %d There\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n" % status
    upstream, chain = await relay(answering(location))
    answer = await ask(chain.rest1, chain.tls, SMALL)
    assert (answer.status, answer["Location"]) == (status, "/elsewhere")
    assert [each.target for each in upstream.requests] == ["/api"]


async def test_quick_uploads_share_a_connection_once_one_has_stayed_open(relay):
    upstream, chain = await relay()
    async with asyncio.timeout(PATIENCE):
        while len(upstream.requests) == len(upstream.connections):
            assert (await ask(chain.rest1, chain.tls, SMALL)).status == 200


async def test_connection_that_the_upstream_closed_meanwhile_is_not_used_again(relay):
    async def script(connection):
        await connection.request()
        await connection.send(DONE)
        connection.hang_up()
        await connection.until_cut()

    upstream, chain = await relay(script)
    for number in range(2):
        assert (await ask(chain.rest1, chain.tls, SMALL)).status == 200
        await asyncio.wait_for(upstream.connections[number].cut.wait(), PATIENCE)
    assert [len(connection.requests) for connection in upstream.connections] == [1, 1]


async def test_connection_of_a_refused_upload_is_not_used_again(relay):
    upstream, chain = await relay()
    bad = request("/upload1", form(part("somefile", b"x" * 1_000_000, "a.txt"), end=b"?\r\n"))
    assert (await ask(chain.rest1, chain.tls, bad)).status == 400
    assert (await ask(chain.rest1, chain.tls, SMALL)).status == 200
    assert [len(connection.requests) for connection in upstream.connections] == [0, 1]


async def test_connection_of_an_upload_that_the_api_refused_is_not_used_again(relay):
    refusal = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 0\r\n\r\n"
    upstream, chain = await relay(answering(refusal))
    statuses = [(await ask(chain.rest1, chain.tls, SMALL)).status for _ in range(3)]
    assert statuses == [413] * 3
    assert [len(connection.requests) for connection in upstream.connections] == [1] * 3


async def test_answer_that_ends_with_the_connection_is_passed_back_whole(relay):
    async def script(connection):
        await connection.request()
        await connection.send(b"HTTP/1.0 200 OK\r\n\r\nall of it")

    _, chain = await relay(script)
    answer = await ask(chain.rest1, chain.tls, SMALL)
    assert (answer.status, answer.body, answer.whole) == (200, b"all of it", True)


async def test_zipped_answer_is_passed_back_zipped(relay):
    body = gzip.compress(b"done")
    head = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(body)
    _, chain = await relay(answering(head + body))
    answer = await ask(chain.rest1, chain.tls, SMALL)
    assert (answer["Content-Encoding"], answer.body) == ("gzip", body)


# -- TLS


@pytest.fixture
def secured(recorder, tmp_path):
    """A recorder with a certificate from a test CA, and a file with the certificate of the CA."""

    async def start(name="127.0.0.1"):
        authority = trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        return await recorder(tls=context), tmp_path / "ca.pem"

    return start


async def test_upstream_whose_ca_is_given_is_trusted(secured, aiorelay_server):
    upstream, ca = await secured()
    chain = await aiorelay_server(only="rest1", upstream=upstream.url, upstream_ca=ca)
    assert (await ask(chain.rest1, chain.tls, SMALL)).status == 200


async def test_upstream_of_an_unknown_ca_is_not_trusted(secured, aiorelay_server):
    upstream, _ = await secured()
    chain = await aiorelay_server(only="rest1", upstream=upstream.url)
    assert_problem(await ask(chain.rest1, chain.tls, SMALL), 502, "tls_certificate_error")
    assert not any(connection.received for connection in upstream.connections)


async def test_upstream_of_another_name_is_not_trusted(secured, aiorelay_server):
    upstream, ca = await secured("elsewhere.example")
    chain = await aiorelay_server(only="rest1", upstream=upstream.url, upstream_ca=ca)
    assert_problem(await ask(chain.rest1, chain.tls, SMALL), 502, "tls_certificate_error")


async def test_an_upstream_is_not_verified_with_upstream_insecure(secured, aiorelay_server):
    upstream, _ = await secured("elsewhere.example")
    chain = await aiorelay_server(only="rest1", upstream=upstream.url, upstream_insecure=True)
    assert (await ask(chain.rest1, chain.tls, SMALL)).status == 200


async def test_upstream_that_speaks_no_tls(recorder, aiorelay_server):
    async def script(connection):
        await connection.read()
        await connection.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    upstream = await recorder(script)
    chain = await aiorelay_server(only="rest1", upstream=upstream.url.replace("http:", "https:"))
    assert_problem(await ask(chain.rest1, chain.tls, SMALL), 502, "tls_protocol_error")


# -- a client that disconnects


async def test_disconnected_clients_leave_nothing_behind(aiorelay_server):
    chain = await aiorelay_server()
    with nothing_left_behind(chain.store) as nothing_left:
        for way in ("reset", "finish", "close"):
            async with connected(chain.rest1, chain.tls) as client:
                await client.send(request("/upload1", LARGE[:MIB], length=len(LARGE)))
                await eventually(lambda: bool(list(chain.store.iterdir())))
                getattr(client, way)()
            await eventually(nothing_left)
    assert chain.stored() == []


async def test_a_client_that_disconnects_while_the_relay_waits_for_the_answer(relay):
    async def script(connection):
        await connection.request()
        await connection.until_cut()

    upstream, chain = await relay(script)
    async with connected(chain.rest1, chain.tls) as client:
        await client.send(SMALL)
        await eventually(lambda: bool(upstream.requests))
        client.reset()
        await asyncio.wait_for(upstream.connections[0].cut.wait(), PATIENCE)


@pytest.mark.needs("curl")
async def test_killed_curl_leaves_nothing_stored(aiorelay_server, tmp_path):
    chain = await aiorelay_server()
    (tmp_path / "a.bin").write_bytes(LARGE)
    target = f"{chain.rest1}/upload1"
    curl = await asyncio.create_subprocess_exec(
        "curl", "-s", "--cacert", str(chain.ca), "--limit-rate", "5M", "-F", f"somefile=@{tmp_path}/a.bin", target
    )
    await eventually(lambda: bool(list(chain.store.iterdir())))
    curl.kill()
    await curl.wait()
    await eventually(lambda: not list(chain.store.iterdir()))


# -- readiness


@pytest.mark.needs("curl")
async def test_ready_while_the_upstream_can_be_reached(relay):
    upstream, chain = await relay()
    status, out, _ = await run("curl", "-sS", "--cacert", str(chain.ca), f"{chain.rest1}/readyz")
    assert (status, out) == (0, '{"status": "ready"}')
    assert not upstream.requests


async def test_not_ready_while_the_upstream_is_down(aiorelay_server):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    chain = await aiorelay_server(only="rest1", upstream=f"http://127.0.0.1:{port}/")
    answer = await ask(chain.rest1, chain.tls, b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer.status == 503


# -- a reused connection


async def test_reading_an_answer_does_not_abort_the_next_upload_on_its_connection(recorder):
    gate = asyncio.Event()

    async def script(connection):
        await connection.request()
        await connection.send(DONE)
        await connection.head()
        await gate.wait()
        await connection.request()
        await connection.send(DONE)

    async def blocks(content: bytes) -> AsyncGenerator[bytes, None]:
        for at in range(0, len(content), 64 * 1024):
            yield content[at : at + 64 * 1024]

    sent = 0

    def on_sent(size: int) -> None:
        nonlocal sent
        sent = size

    def post(content: bytes):
        framed = FramedBody(BOUNDARY.encode(), len(content), blocks(content))
        return upstream.post(framed, CIMultiDict(), Target(), on_sent)

    async def next_upload() -> int:
        async with post(bytes(64 * MIB)) as answer:
            return answer.status

    recorded = await recorder(script)
    async with Upstream(
        URL(recorded.url),
        context=ssl.create_default_context(),
        timeouts=UpstreamTimeouts(idle=60, answer=60),
        server_keep_alive=60,
    ) as upstream:
        async with post(b"first") as answer:
            await answer.content.read()
            next_one = asyncio.create_task(next_upload())
            before = -1
            while before < sent:  # until its bytes are in the send buffer
                before = sent
                await asyncio.wait([next_one], timeout=0.2)
        gate.set()
        assert await next_one == 200
    assert len(recorded.connections) == 1


@pytest.mark.parametrize("length", [None, 7], ids=["chunked", "with a length"])
async def test_the_end_of_a_body_waits_for_no_answer(recorder, length):
    """On a reused connection: on a new one, TLS sends data before the response."""
    authority = trustme.CA()
    serving, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    authority.configure_trust(trusting)
    whole = asyncio.Queue()

    async def script(connection):
        while True:
            whole.put_nowait(await connection.request())
            await asyncio.sleep(0.3)  # longer than the idle timeout
            await connection.send(DONE)

    async def blocks() -> AsyncGenerator[bytes, None]:
        yield b"content"

    recorded = await recorder(script, tls=serving)
    async with Upstream(
        URL(recorded.url), context=trusting, timeouts=UpstreamTimeouts(idle=0.1, answer=60), server_keep_alive=60
    ) as upstream:
        for _ in range(3):
            async with upstream.post(FramedBody(b"b", length, blocks()), CIMultiDict(), Target()) as answer:
                assert await answer.content.read() == DONE.partition(b"\r\n\r\n")[2]
                assert (await whole.get()).body == b"content"
    assert len(recorded.connections) == 1


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_connections_are_reused_after_an_upload_was_cancelled(recorder, scheme):
    authority = trustme.CA()
    serving, trusting = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(serving)
    authority.configure_trust(trusting)
    received = asyncio.Event()

    async def script(connection):
        await connection.request()
        received.set()
        while len(recorded.connections) > 1:  # the upload on the first connection is not answered
            await connection.send(DONE)
            await connection.request()
        await connection.request()

    async def blocks() -> AsyncGenerator[bytes, None]:
        yield b"content"

    async def upload() -> bytes:
        async with upstream.post(FramedBody(b"b", 7, blocks()), CIMultiDict(), Target()) as answer:
            return await answer.content.read()

    recorded = await recorder(script, tls=serving if scheme == "https" else None)
    async with Upstream(
        URL(recorded.url), context=trusting, timeouts=UpstreamTimeouts(idle=60, answer=60), server_keep_alive=60
    ) as upstream:
        cancelled = asyncio.create_task(upload())
        await received.wait()
        cancelled.cancel()
        await asyncio.wait([cancelled])
        for _ in range(3):
            await upload()
    assert len(recorded.connections) == 2


async def test_a_refused_upload_is_reset_and_not_closed(aiorelay_server):
    """Some servers take what has arrived for the whole body if the connection is closed."""
    ended = asyncio.get_running_loop().create_future()

    async def take(reader, writer):
        try:
            while await reader.read(64 * 1024):
                pass
            ended.set_result("closed")
        except ConnectionResetError:
            ended.set_result("reset")
        writer.close()

    async with await asyncio.start_server(take, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        chain = await aiorelay_server(only="rest1", upstream=url, max_size="1MiB")
        body = form(part("somefile", bytes(1024 * 1024 + 1), "a.bin"))
        assert (await ask(chain.rest1, chain.tls, request("/upload1", body))).status == 413
        assert await ended == "reset"
