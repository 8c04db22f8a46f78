"""Clients of others upload over lines that break: a file arrives once and whole, or its client reports a failure."""

import asyncio
import json
import random
import socket
from functools import partial

import pytest
from cutting_proxy import CuttingProxy, random_cuts
from peers import DONE, PATIENCE, answering, eventually
from resumable_clients import CLIENTS, DRAFT_CLIENTS, TUS_CLIENTS

from aiorelay import Part, Refused

pytestmark = pytest.mark.needs("node", "npm")

NAME = "größe 1.pdf"
CONTENT = b"%PDF-1.7\n" + random.Random(2).randbytes(1_000_000)  # noqa: S311 - any bytes will do
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 4\r\n\r\nlate"
# It sends all in one request, and knows of no upload before that is answered.
KNOWS_NO_UPLOAD = {"tus-js-creation"}
# It waits for ever for the first byte of a stream.
SENDS_NOTHING_EMPTY = {"tus-js-deferred"}

every_client = pytest.mark.parametrize("client", CLIENTS)


def refusal(status):
    return b"HTTP/1.1 %b Refused\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nno" % status.encode()


def refuse(_: Part):
    """A validator that refuses every file at its end."""
    return _Refusing()


class _Refusing:
    def feed(self, chunk: bytes) -> None:
        pass

    def finish(self) -> None:
        raise Refused("It is not wanted.")


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "content"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
def start(aiorelay_server, tmp_path):
    """A factory of relays that keep unfinished uploads where no other test's are."""
    return partial(aiorelay_server, state_dir=tmp_path / "state")


async def upload(client, url, relay, file, *, tries=50):
    async with asyncio.timeout(2 * PATIENCE):
        return await CLIENTS[client](url, relay.ca, file, name=NAME, tries=tries)


def assert_stored_once(chain, content=CONTENT):
    (stored,) = chain.stored()
    assert stored.name == NAME
    assert stored.read_bytes() == content


# What arrives


@every_client
async def test_a_file_arrives_and_the_last_answer_is_the_upload_api_s(start, client, file):
    chain = await start()
    outcome = await upload(client, chain.rest1, chain, file, tries=0)
    assert outcome.done, outcome
    assert_stored_once(chain)
    if outcome.body:  # aiotus shows none
        assert json.loads(outcome.body)["files"][0]["size"] == len(CONTENT)


@pytest.mark.parametrize("seed", [1, 2])
@every_client
async def test_a_file_arrives_once_over_a_line_that_breaks(start, client, file, seed):
    chain = await start()
    # Together less than the file, so that all are made; the first comes after the creation, which tuspy tries once.
    cuts = random_cuts(seed, count=8, least=10_000, most=100_000)
    async with CuttingProxy(chain.rest1, cuts) as proxy:
        outcome = await upload(client, proxy.url, chain, file)
    assert outcome.done, outcome
    assert proxy.made_cuts == 8
    assert_stored_once(chain)


@pytest.mark.parametrize("client", sorted(TUS_CLIENTS.keys() - SENDS_NOTHING_EMPTY))
async def test_an_empty_file_arrives(start, client, tmp_path):
    empty = tmp_path / "empty"
    empty.touch()
    chain = await start()
    outcome = await upload(client, chain.rest1, chain, empty, tries=0)
    assert outcome.done, outcome
    assert_stored_once(chain, b"")


class SlowUploadApi:
    """A script: says when an upload has ``arrived``, and answers when it may ``go_on``."""

    def __init__(self):
        self.arrived = asyncio.Event()
        self.go_on = asyncio.Event()

    async def __call__(self, connection):
        while True:
            await connection.request()
            self.arrived.set()
            await self.go_on.wait()
            await connection.send(DONE)


async def unless_ended(uploading, event):
    """Wait for an event that comes before the upload ends."""
    waiting = asyncio.create_task(event.wait())
    try:
        await asyncio.wait({uploading, waiting}, return_when=asyncio.FIRST_COMPLETED)
        assert event.is_set(), uploading.result()
    finally:
        waiting.cancel()


@pytest.mark.parametrize("client", sorted(CLIENTS.keys() - KNOWS_NO_UPLOAD))
async def test_an_upload_whose_last_answer_is_lost_is_delivered_once(start, recorder, client, file):
    slow = SlowUploadApi()
    upstream = await recorder(slow)
    relay = await start(only="rest1", upstream=upstream.url)
    async with CuttingProxy(relay.rest1) as proxy, asyncio.TaskGroup() as group:
        uploading = group.create_task(upload(client, proxy.url, relay, file))
        await unless_ended(uploading, slow.arrived)
        proxy.hold_answers()
        slow.go_on.set()
        await unless_ended(uploading, proxy.held_answer)
        proxy.lose_answers()
    assert len(upstream.requests) == 1
    # tus-js-client does not repeat a concatenation of which it has no answer.
    assert uploading.result().done or client == "tus-js-parallel", uploading.result()


@pytest.mark.parametrize("client", sorted(CLIENTS.keys() - KNOWS_NO_UPLOAD))
async def test_an_upload_whose_client_leaves_during_the_delivery_is_delivered_once(start, recorder, client, file):
    slow = SlowUploadApi()
    upstream = await recorder(slow)
    relay = await start(only="rest1", upstream=upstream.url)
    async with CuttingProxy(relay.rest1) as proxy, asyncio.TaskGroup() as group:
        uploading = group.create_task(upload(client, proxy.url, relay, file))
        await unless_ended(uploading, slow.arrived)
        before = proxy.sent
        proxy.cut_now()
        await eventually(lambda: proxy.sent > before or uploading.done())  # it asks again
        slow.go_on.set()
    assert len(upstream.requests) == 1
    assert uploading.result().done or client == "tus-js-parallel", uploading.result()


# What is refused


@every_client
async def test_a_file_over_the_limit_is_refused(start, client, file):
    chain = await start(max_size="100KiB")
    outcome = await upload(client, chain.rest1, chain, file, tries=3)
    assert not outcome.done
    assert chain.stored() == []
    if outcome.status:
        assert outcome.status in {413, 410}  # tuspy asks again for the offset, and tells what that gave


@every_client
async def test_a_file_of_another_type_is_refused(start, client, file):
    chain = await start(accept=["image/png"])
    outcome = await upload(client, chain.rest1, chain, file, tries=3)
    assert not outcome.done
    assert chain.stored() == []


@every_client
async def test_a_file_that_a_check_refuses_at_its_end_is_refused(start, client, file):
    chain = await start(validator=[f"{__name__}:refuse"])
    outcome = await upload(client, chain.rest1, chain, file, tries=3)
    assert not outcome.done
    assert chain.stored() == []


@pytest.mark.parametrize("status", ["409", "413", "422", "423"])
@every_client
async def test_what_the_upload_api_refuses_is_refused(start, recorder, client, file, status):
    upstream = await recorder(answering(refusal(status)))
    relay = await start(only="rest1", upstream=upstream.url)
    outcome = await upload(client, relay.rest1, relay, file, tries=3)
    assert not outcome.done
    assert upstream.requests
    # tus-js-client repeats no refusal but those two, which mean another thing in tus. The draft wants them passed on.
    if client.startswith("tus-js") and not (client in DRAFT_CLIENTS and status in {"409", "423"}):
        assert len(upstream.requests) == 1


@every_client
async def test_an_upload_api_that_stays_unavailable_is_no_success(start, recorder, client, file):
    upstream = await recorder(answering(UNAVAILABLE))
    relay = await start(only="rest1", upstream=upstream.url)
    outcome = await upload(client, relay.rest1, relay, file, tries=3)
    assert not outcome.done
    assert upstream.requests


@every_client
async def test_an_upload_api_that_is_away_is_no_success(start, client, file):
    relay = await start(only="rest1", upstream=f"http://127.0.0.1:{closed_port()}/api")
    outcome = await upload(client, relay.rest1, relay, file, tries=2)
    assert not outcome.done


@pytest.mark.parametrize("client", sorted(TUS_CLIENTS.keys() - SENDS_NOTHING_EMPTY))
@pytest.mark.parametrize("answer", [UNAVAILABLE, refusal("422")], ids=["unavailable", "refused"])
async def test_an_empty_file_that_is_not_stored_is_no_success(start, recorder, client, tmp_path, answer):
    empty = tmp_path / "empty"
    empty.touch()
    upstream = await recorder(answering(answer))
    relay = await start(only="rest1", upstream=upstream.url)
    assert not (await upload(client, relay.rest1, relay, empty, tries=1)).done


def closed_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


# What recovers


def unavailable_first(failures):
    """A script that refuses so many uploads, over whatever connections, before it takes them."""
    left = [UNAVAILABLE] * failures

    async def script(connection):
        while True:
            await connection.request()
            await connection.send(left.pop() if left else DONE)

    return script


@every_client
async def test_a_client_that_tries_again_succeeds_once_the_upload_api_does(start, recorder, client, file):
    upstream = await recorder(unavailable_first(2))
    relay = await start(only="rest1", upstream=upstream.url)
    outcome = await upload(client, relay.rest1, relay, file)
    assert outcome.done, outcome
    assert len(upstream.requests) == 3
    (first, *_, last) = upstream.requests
    assert [content for _, content in last.parts][-1] == CONTENT
    assert first.parts == last.parts


@every_client
async def test_the_bytes_are_sent_once_however_often_the_upload_api_fails(start, recorder, client, file):
    upstream = await recorder(unavailable_first(2))
    relay = await start(only="rest1", upstream=upstream.url)
    async with CuttingProxy(relay.rest1) as proxy:
        outcome = await upload(client, proxy.url, relay, file)
    assert outcome.done, outcome
    assert proxy.sent < 1.5 * len(CONTENT)
