"""Bodies on disk first: where they lie, what they may take, and how often each is sent."""

import asyncio
import logging
import os
import socket
import ssl
import subprocess
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trustme
from multidict import CIMultiDict
from peers import (
    DONE,
    PATIENCE,
    Recorder,
    ask,
    chunks,
    connected,
    eventually,
    failing_first,
    form,
    json_request,
    part,
    request,
)
from yarl import URL

from aiorelay.errors import ClientGone, StorageFull, TooLarge, UpstreamFailed, UpstreamTimeout
from aiorelay.files.spool import Spool
from aiorelay.multipart.framing import FramedBody
from aiorelay.rest1.delivery import Delivery
from aiorelay.rest1.target import Target
from aiorelay.rest1.upstream import Upstream, UpstreamTimeouts

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
SMALL = os.urandom(2000)
LARGE = os.urandom(3 * MIB)
KEYED = {"Idempotency-Key": '"8e03978e"'}


def put(body: bytes, *headers: str, chunked: bool = False, length: int | None = None) -> bytes:
    return request("/upload/a.bin", body, *headers, method="PUT", content_type=None, chunked=chunked, length=length)


def descriptors() -> list[str]:
    """What every open descriptor of this process is."""
    found = []
    for each in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # the listing's own
            found.append(str(each.readlink()))
    return sorted(found)


def spooled_files(state: Path) -> list[str]:
    return [each for each in descriptors() if each.startswith(f"{state}/spool/")]


def answer(status: int, body: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d Whatever\r\nX-Answer: own\r\nContent-Length: %d\r\n\r\n%b" % (status, len(body), body)


@pytest.fixture(autouse=True)
def no_system_trust(monkeypatch, tmp_path):
    """Spare every relay the loading of the system's certificates, which takes longer than most tests."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as executor:
        yield executor


# -- where a body lies


@pytest.fixture
def spool(tmp_path, pool):
    return lambda quota=100 * MIB: Spool(tmp_path, quota, pool)


async def fill(spool: Spool, blocks) -> None:
    async for block in blocks:
        await spool.write(block)
    await spool.end()


async def blocks_of(*blocks: bytes) -> AsyncGenerator[bytes, None]:
    for block in blocks:
        yield block


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 5 * MIB])
async def test_a_body_is_read_again_as_often_as_wanted(spool, size):
    body = os.urandom(size)
    pieces = [body[at : at + 70_001] for at in range(0, size, 70_001)]
    async with spool() as spooled:
        await fill(spooled, blocks_of(*pieces))
        assert spooled.size == size
        for _ in range(2):
            assert b"".join([block async for block in spooled.read()]) == body


async def test_a_reader_that_stops_half_way_does_not_hinder_the_next(spool):
    async with spool() as spooled:
        await fill(spooled, blocks_of(LARGE))
        reading = spooled.read()
        await anext(reading)
        await reading.aclose()
        assert b"".join([block async for block in spooled.read()]) == LARGE


@pytest.mark.parametrize(("size", "files"), [(MIB, 0), (MIB + 1, 1)])
async def test_up_to_a_mebibyte_stays_in_memory_and_the_rest_has_a_file_without_a_name(spool, tmp_path, size, files):
    before = descriptors()
    async with spool() as spooled:
        await fill(spooled, blocks_of(*[bytes(1000)] * (size // 1000), bytes(size % 1000)))
        assert len(set(descriptors()) - set(before)) == files
        assert list(tmp_path.iterdir()) == []
    assert descriptors() == before


@pytest.mark.parametrize("quota", [SMALL, LARGE], ids=["memory", "disk"])
async def test_the_quota_is_exact(spool, quota):
    async with spool(len(quota)) as spooled:
        await fill(spooled, blocks_of(quota))
    async with spool(len(quota) - 1) as spooled:
        with pytest.raises(TooLarge):
            await fill(spooled, blocks_of(quota[:-1], quota[-1:]))


async def test_a_directory_that_cannot_be_written_to_is_told_without_its_name(tmp_path, aiorelay_server, recorder):
    upstream = await recorder()
    chain = await aiorelay_server(only="rest1", upstream=upstream.url, upstream_mode="spool", state_dir=tmp_path)
    (tmp_path / "spool").rmdir()
    problem = await ask(chain.rest1, chain.tls, put(LARGE))
    assert (problem.status, problem.json()["type"]) == (500, "urn:aiorelay:internal")
    assert str(tmp_path) not in problem.body.decode()
    assert upstream.connections == []


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 4 MiB, where the system lets us mount one."""
    point = tmp_path / "disk"
    point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "aiorelay-test", point]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield point
    subprocess.run(["umount", "-q", "-l", point], check=False)


def used(disk: Path) -> int:
    status = os.statvfs(disk)
    return status.f_blocks - status.f_bfree


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_full_disk_is_storage_full_with_nothing_left(aiorelay_server, recorder, small_disk, chunked):
    upstream = await recorder()
    chain = await aiorelay_server(only="rest1", upstream=upstream.url, upstream_mode="spool", state_dir=small_disk)
    before = used(small_disk)
    problem = await ask(chain.rest1, chain.tls, put(bytes(5 * MIB), chunked=chunked))
    assert (problem.status, problem.json()["type"]) == (507, "urn:aiorelay:storage-full")
    await eventually(lambda: used(small_disk) == before)
    assert spooled_files(small_disk) == []
    assert upstream.connections == []
    assert (await ask(chain.rest1, chain.tls, put(LARGE))).body == DONE[-18:]
    assert len(upstream.requests) == 1


async def test_a_full_disk_is_raised_with_the_error_as_its_cause(small_disk, pool):
    before = descriptors()
    async with Spool(small_disk, 100 * MIB, pool) as spool:
        with pytest.raises(StorageFull) as caught:
            await fill(spool, blocks_of(*[LARGE] * 3))
        assert isinstance(caught.value.__cause__, OSError)
    assert (descriptors(), used(small_disk)) == (before, 0)


# -- when it is sent


async def test_nothing_is_sent_before_the_whole_body_is_there(aiorelay_server, recorder, tmp_path):
    upstream = await recorder()
    chain = await aiorelay_server(only="rest1", upstream=upstream.url, upstream_mode="spool", state_dir=tmp_path)
    async with connected(chain.rest1, chain.tls) as client:
        await client.send(put(LARGE[:-1], length=len(LARGE)))
        await eventually(lambda: bool(spooled_files(tmp_path)))
        assert list((tmp_path / "spool").iterdir()) == []
        assert upstream.connections == []
        assert (await client.ask(LARGE[-1:])).status == 200
    (sent,) = upstream.requests
    assert sent.parts[0][1] == LARGE
    assert int(sent["Content-Length"]) == len(sent.body)
    await eventually(lambda: not spooled_files(tmp_path))


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_spooled_form_arrives_as_it_was_sent_and_with_its_length(aiorelay_server, recorder, chunked):
    upstream = await recorder()
    chain = await aiorelay_server(only="rest1", upstream=upstream.url, upstream_mode="spool")
    body = form(part("note", "first"), part("somefile", LARGE, "a.bin"), part("after", "last"))
    assert (await ask(chain.rest1, chain.tls, request("/upload1", body, chunked=chunked))).status == 200
    (sent,) = upstream.requests
    assert sent.body.removesuffix(b"\r\n") == body.removesuffix(b"\r\n")
    assert sent.all("Transfer-Encoding") == []
    assert int(sent["Content-Length"]) == len(sent.body)


async def test_chunks_never_reach_an_upstream_that_takes_none(aiorelay_server, recorder):
    upstream = await recorder()
    chain = await aiorelay_server(only="rest1", upstream=upstream.url, upstream_chunked="never")
    async with connected(chain.rest1, chain.tls) as client:
        head = put(b"", chunked=True).removesuffix(b"0\r\n\r\n")
        await client.send(head + chunks(LARGE))
        assert upstream.connections == []
        assert (await client.ask(b"0\r\n\r\n")).status == 200
    (sent,) = upstream.requests
    assert sent.all("Transfer-Encoding") == []
    assert int(sent["Content-Length"]) == len(sent.body)
    assert sent.parts[0][1] == LARGE


async def test_a_body_of_known_length_streams_to_an_upstream_that_takes_no_chunks(aiorelay_server, recorder, tmp_path):
    upstream = await recorder()
    chain = await aiorelay_server(only="rest1", upstream=upstream.url, upstream_chunked="never", state_dir=tmp_path)
    async with connected(chain.rest1, chain.tls) as client:
        await client.send(put(LARGE[:-1], length=len(LARGE)))
        await eventually(lambda: bool(upstream.connections and len(upstream.connections[0].received) > 2 * MIB))
        assert spooled_files(tmp_path) == []
        assert (await client.ask(LARGE[-1:])).status == 200
    (sent,) = upstream.requests
    assert int(sent["Content-Length"]) == len(sent.body)


async def test_a_remote_file_of_unknown_length_is_spooled_where_chunks_are_not_taken(aiorelay_server, recorder):
    async def script(connection):
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(LARGE) + b"0\r\n\r\n")

    upstream, source = await recorder(), await recorder(script)
    chain = await aiorelay_server(
        only="rest1", upstream=upstream.url, upstream_chunked="never", allow_net=["127.0.0.0/8"]
    )
    assert (await ask(chain.rest1, chain.tls, json_request({"somefile": source.url}))).status == 200
    (sent,) = upstream.requests
    assert int(sent["Content-Length"]) == len(sent.body)
    assert sent.parts[0][1] == LARGE


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_a_form_beyond_the_quota_is_too_large_and_never_sent(aiorelay_server, recorder, chunked):
    upstream = await recorder()
    chain = await aiorelay_server(
        only="rest1", upstream=upstream.url, upstream_mode="spool", max_size="2MiB", max_fields_size="1KiB"
    )
    body = form(*[part("somefile", LARGE[: 2 * MIB], f"{at}.bin") for at in range(2)])
    problem = await ask(chain.rest1, chain.tls, request("/upload1", body, chunked=chunked))
    assert (problem.status, problem.json()["type"]) == (413, "urn:aiorelay:too-large")
    assert upstream.connections == []


@pytest.mark.parametrize("way", ["reset", "finish", "close"])
@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["memory", "disk"])
async def test_a_client_that_goes_away_while_spooling_leaves_nothing(aiorelay_server, recorder, tmp_path, body, way):
    upstream = await recorder()
    chain = await aiorelay_server(only="rest1", upstream=upstream.url, upstream_mode="spool", state_dir=tmp_path)
    before = descriptors()
    async with connected(chain.rest1, chain.tls) as client:
        await client.send(put(b"", "Expect: 100-continue", length=len(body) + 1))
        assert (await client.head()).startswith(b"HTTP/1.1 100 ")
        await client.send(body)
        if body is LARGE:
            await eventually(lambda: bool(spooled_files(tmp_path)))
        getattr(client, way)()
    await eventually(lambda: descriptors() == before)
    assert upstream.connections == []


# -- how often it is sent


class Counting(logging.Handler):
    """Says when the relay is about to try again."""

    def __init__(self) -> None:
        super().__init__()
        self.tries = 1
        self.on_retry = lambda _tries: None

    def emit(self, record: logging.LogRecord) -> None:
        if "trying again" in record.getMessage():
            self.tries += 1
            self.on_retry(self.tries)


@pytest.fixture
def counting():
    handler = Counting()
    log = logging.getLogger("aiorelay")
    log.addHandler(handler)
    yield handler
    log.removeHandler(handler)


@pytest.fixture
def post(tmp_path, pool):
    """Posts a spooled body to a URL, and gives the answer's status and body."""

    async def post(url, body=LARGE, headers=(), *, backoff=0.01, notice=0.005, **limits):
        timeouts = UpstreamTimeouts(**{"idle": PATIENCE, "answer": PATIENCE, **limits})
        async with Upstream(URL(url), context=ssl.create_default_context(), timeouts=timeouts) as upstream:
            delivery = Delivery(
                upstream, lambda: Spool(tmp_path, 100 * MIB, pool), "always", backoff=backoff, notice=notice
            )
            framed = FramedBody(b"b", None, blocks_of(body))
            async with delivery.post(framed, CIMultiDict(headers), Target()) as given:
                return given.status, await given.content.read()

    return post


@contextmanager
def refusing():
    """A port that refuses connections until somebody listens on it."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound


class Late(Recorder):
    """A recorder that refuses connections until it listens."""

    async def __aenter__(self):
        self.socket = socket.socket()
        self.socket.bind(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self._server = await asyncio.start_server(self._serve, sock=self.socket, start_serving=False)
        return self

    def listen(self) -> None:
        self._tasks.append(asyncio.create_task(self._server.start_serving()))


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["memory", "disk"])
async def test_refused_connections_are_tried_three_times(post, counting, body):
    with refusing() as bound, pytest.raises(UpstreamFailed) as caught:
        await post(f"http://127.0.0.1:{bound.getsockname()[1]}/", body)
    assert caught.value.error == "connection_refused"
    assert counting.tries == 3


@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["memory", "disk"])
async def test_an_upstream_that_comes_up_before_the_third_try_gets_the_body_once(post, counting, body):
    async with Late() as upstream:
        counting.on_retry = lambda tries: upstream.listen() if tries == 3 else None
        assert await post(upstream.url, body) == (200, DONE[-18:])
    (sent,) = upstream.requests
    assert sent.body == body
    assert len(upstream.connections) == 1


async def hang_up(connection):
    connection.close()


async def reset(connection):
    connection.reset()


async def talk_nonsense(connection):
    await connection.send(b"220 ready to serve mail\r\n")
    await connection.until_cut()


async def stay_silent(connection):
    await connection.until_cut()


@pytest.mark.parametrize("script", [hang_up, reset, talk_nonsense, stay_silent])
async def test_failed_tls_handshakes_are_tried_three_times(post, recorder, script):
    upstream = await recorder(script)
    with pytest.raises(UpstreamFailed):
        await post(upstream.url.replace("http:", "https:"), connect=1 if script is stay_silent else 10)
    assert len(upstream.connections) == 3


async def test_a_certificate_that_cannot_be_verified_is_tried_three_times_and_sees_no_byte(post, recorder, counting):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
    upstream = await recorder(tls=context)
    with pytest.raises(UpstreamFailed) as caught:
        await post(upstream.url)
    assert caught.value.error == "tls_certificate_error"
    assert counting.tries == 3
    assert not any(connection.received for connection in upstream.connections)


@pytest.mark.parametrize("script", [hang_up, reset])
@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["memory", "disk"])
async def test_hanging_up_before_the_first_byte_is_tried_three_times(post, recorder, body, script):
    upstream = await recorder(script)
    with pytest.raises(UpstreamFailed):
        await post(upstream.url, body, notice=0.2)
    assert len(upstream.connections) == 3
    assert not any(connection.received for connection in upstream.connections)


async def test_connections_that_time_out_are_tried_three_times(post, counting):
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        where = listener.getsockname()
        # The backlog is full: whoever comes next is not heard.
        with socket.create_connection(where), pytest.raises(UpstreamFailed) as caught:
            await post(f"http://127.0.0.1:{where[1]}/", connect=0.2)
    assert caught.value.error == "connection_timeout"
    assert counting.tries == 3


async def break_off_after_the_head(connection):
    await connection.head()
    connection.reset()


async def break_off_after_the_body(connection):
    await connection.request()
    connection.close()


BREAKS = [break_off_after_the_head, break_off_after_the_body]


@pytest.mark.parametrize("script", BREAKS)
@pytest.mark.parametrize("body", [SMALL, LARGE], ids=["memory", "disk"])
async def test_a_connection_broken_after_bytes_were_sent_is_not_tried_again(post, recorder, body, script):
    upstream = await recorder(failing_first(1, script))
    with pytest.raises(UpstreamFailed) as caught:
        await post(upstream.url, body)
    assert caught.value.error == "connection_terminated"
    assert len(upstream.connections) == 1


@pytest.mark.parametrize("script", BREAKS)
@pytest.mark.parametrize(("failures", "connections"), [(1, 2), (2, 3)])
async def test_a_broken_connection_is_tried_again_with_an_idempotency_key(
    post, recorder, script, failures, connections
):
    upstream = await recorder(failing_first(failures, script))
    assert await post(upstream.url, headers=KEYED) == (200, DONE[-18:])
    assert len(upstream.connections) == connections
    assert upstream.requests[-1].body == LARGE


@pytest.mark.parametrize("script", BREAKS)
async def test_three_broken_connections_are_the_end_even_with_an_idempotency_key(post, recorder, script):
    upstream = await recorder(script)
    with pytest.raises(UpstreamFailed):
        await post(upstream.url, headers=KEYED)
    assert len(upstream.connections) == 3


async def test_of_a_block_that_was_being_written_some_may_have_arrived(recorder):
    upstream = await recorder(break_off_after_the_head)
    block = bytes(16 * MIB)  # more than the sockets' buffers take
    async with Upstream(
        URL(upstream.url),
        context=ssl.create_default_context(),
        timeouts=UpstreamTimeouts(idle=PATIENCE, answer=PATIENCE),
    ) as api:
        with pytest.raises(UpstreamFailed) as caught:
            async with api.post(FramedBody(b"b", len(block), blocks_of(block)), CIMultiDict(), Target()):
                pass
    assert caught.value.reached


@pytest.mark.parametrize("status", [502, 503, 504])
@pytest.mark.parametrize(("headers", "requests"), [({}, 1), (KEYED, 3)], ids=["without key", "with key"])
async def test_a_gateways_failure_is_tried_again_only_with_an_idempotency_key(
    post, recorder, status, headers, requests
):
    given = iter(range(3))

    async def script(connection):
        await connection.request()
        await connection.send(answer(status, b"answer %d" % next(given)))

    upstream = await recorder(script)
    assert await post(upstream.url, headers=headers) == (status, b"answer %d" % (requests - 1))
    assert [sent.body for sent in upstream.requests] == [LARGE] * requests


@pytest.mark.parametrize("status", [200, 201, 301, 400, 401, 404, 408, 409, 413, 422, 429, 500, 501, 505, 507, 599])
async def test_any_other_answer_is_final_even_with_an_idempotency_key(post, recorder, status):
    async def script(connection):
        await connection.request()
        await connection.send(answer(status, b"so be it"))

    upstream = await recorder(script)
    assert await post(upstream.url, SMALL, headers=KEYED) == (status, b"so be it")
    assert len(upstream.requests) == 1


async def test_an_answer_that_does_not_come_is_waited_for_once(post, recorder):
    async def script(connection):
        await connection.request()
        await connection.until_cut()

    upstream = await recorder(script)
    with pytest.raises(UpstreamTimeout):
        await post(upstream.url, headers=KEYED, answer=0.2)
    assert len(upstream.requests) == 1


async def test_an_answer_that_is_no_http_is_final(post, recorder):
    async def script(connection):
        await connection.request()
        await connection.send(b"thanks\r\n\r\n")

    upstream = await recorder(script)
    with pytest.raises(UpstreamFailed):
        await post(upstream.url, headers=KEYED)
    assert len(upstream.requests) == 1


async def test_each_try_has_its_own_connection_and_leaves_no_descriptor(post, recorder):
    upstream = await recorder(failing_first(2, break_off_after_the_head))
    before = descriptors()
    assert await post(upstream.url, headers=KEYED) == (200, DONE[-18:])
    await eventually(lambda: descriptors() == before)
    assert len(upstream.connections) == 3


async def test_nothing_is_sent_of_a_body_that_ends_badly(recorder, tmp_path, pool):
    async def broken():
        yield LARGE
        raise ClientGone

    upstream = await recorder()
    before = descriptors()
    async with Upstream(
        URL(upstream.url),
        context=ssl.create_default_context(),
        timeouts=UpstreamTimeouts(idle=PATIENCE, answer=PATIENCE),
    ) as api:
        delivery = Delivery(api, lambda: Spool(tmp_path, 100 * MIB, pool), "always")
        with pytest.raises(ClientGone):
            async with delivery.post(FramedBody(b"b", len(LARGE), broken()), CIMultiDict(), Target()):
                pass
    assert upstream.connections == []
    assert descriptors() == before


# -- all of it, through the relay


async def test_success_on_the_third_try_is_one_stored_file(aiorelay_server, recorder):
    store = await aiorelay_server(only="rest2")

    async def pass_on(connection):
        sent = await connection.request()
        async with connected(store.rest2, store.tls) as client:
            head = f"POST /upload HTTP/1.1\r\nHost: localhost\r\nContent-Type: {sent['Content-Type']}\r\n"
            stored = await client.ask(f"{head}Content-Length: {len(sent.body)}\r\n\r\n".encode() + sent.body)
        await connection.send(answer(stored.status, stored.body))

    seen = []

    async def script(connection):
        seen.append(connection)
        await (pass_on if len(seen) == 3 else break_off_after_the_body)(connection)

    upstream = await recorder(script)
    chain = await aiorelay_server(only="rest1", upstream=upstream.url, upstream_mode="spool")
    done = await ask(chain.rest1, chain.tls, put(LARGE, "Idempotency-Key: 1"))
    assert done.status == 200
    (stored,) = store.stored()
    assert stored.read_bytes() == LARGE
    assert len(seen) == 3


@pytest.mark.parametrize("way", ["reset", "close"])
async def test_a_client_that_goes_away_between_two_tries_ends_the_trying(aiorelay_server, counting, way):
    with refusing() as bound:
        chain = await aiorelay_server(
            only="rest1", upstream=f"http://127.0.0.1:{bound.getsockname()[1]}/", upstream_mode="spool"
        )
        before = descriptors()
        async with connected(chain.rest1, chain.tls) as client:
            counting.on_retry = lambda _tries: getattr(client, way)()
            await client.send(put(LARGE))
            await eventually(lambda: counting.tries == 2)
        await eventually(lambda: descriptors() == before)
    assert counting.tries == 2


async def test_the_last_of_three_answers_is_passed_back_untouched(aiorelay_server, recorder):
    async def script(connection):
        await connection.request()
        await connection.send(answer(503, b"come back later"))

    upstream = await recorder(script)
    chain = await aiorelay_server(only="rest1", upstream=upstream.url, upstream_mode="spool")
    given = await ask(chain.rest1, chain.tls, put(LARGE, "Idempotency-Key: 1"))
    assert (given.status, given["X-Answer"], given.body) == (503, "own", b"come back later")
    assert len(upstream.requests) == 3


async def test_a_refused_upstream_is_a_502_after_three_tries(aiorelay_server, counting):
    with refusing() as bound:
        chain = await aiorelay_server(
            only="rest1", upstream=f"http://127.0.0.1:{bound.getsockname()[1]}/", upstream_mode="spool"
        )
        problem = await ask(chain.rest1, chain.tls, put(SMALL))
    assert (problem.status, problem.json()["type"]) == (502, "urn:aiorelay:upstream-failed")
    assert problem["Proxy-Status"] == "aiorelay; error=connection_refused"
    assert counting.tries == 3


async def test_a_streamed_body_is_never_tried_again(aiorelay_server, counting):
    with refusing() as bound:
        chain = await aiorelay_server(only="rest1", upstream=f"http://127.0.0.1:{bound.getsockname()[1]}/")
        problem = await ask(chain.rest1, chain.tls, put(SMALL, "Idempotency-Key: 1"))
    assert problem.status == 502
    assert counting.tries == 1
