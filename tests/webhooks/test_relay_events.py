"""The events of a running relay: when they are made, what they say, and that they survive the relay."""

import asyncio
import json
import signal
import sys
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import jsonschema
import processes
import pytest
import state_servers
from peers import (
    Connection,
    answering,
    ask,
    connected,
    eventually,
    failing_first,
    form,
    json_request,
    part,
    request,
    run,
)
from standardwebhooks import Webhook
from webhook_receivers import ACCEPTED, SECRETS, answer, events, ids, secret_file, signed, types
from yarl import URL

from aiorelay.observability.metrics import Metrics
from aiorelay.rest1.jobs.records import Record
from aiorelay.rest1.jobs.redis_records import RedisJobRecords
from aiorelay.rest1.openapi import document
from aiorelay.state.server import StateAddress, open_state

pytestmark = pytest.mark.slow  # it imports jsonschema and standardwebhooks

LOOPBACK = ["127.0.0.0/8"]
FORM = form(part("somefile", "content", "a.txt"))
ASYNC = "Prefer: respond-async"
DOCUMENT = document([], "somefile")


def validate(event) -> None:
    """Assert that an event is as the OpenAPI document describes it."""
    body = DOCUMENT["webhooks"][event["type"]]["post"]["requestBody"]
    schema = body["content"]["application/json"]["schema"] | {"components": DOCUMENT["components"]}
    jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker()).validate(event)


@pytest.fixture
async def receiver(recorder):
    return await recorder(answering(ACCEPTED))


@pytest.fixture
async def relay(aiorelay_server, receiver, tmp_path):
    """A factory of relays that tell ``receiver``."""

    secrets = secret_file(tmp_path)

    async def start(**settings):
        given = {
            "webhook": receiver.url,
            "webhook_secret_file": secrets,
            "webhook_allow_net": LOOPBACK,
            "state_dir": tmp_path / "state",
            "local_root": [tmp_path],
        }
        return await aiorelay_server(**given | settings)

    return start


@pytest.fixture
def source(tmp_path) -> dict[str, str]:
    (tmp_path / "b.txt").write_bytes(b"content")
    return {"somefile": str(tmp_path / "b.txt")}


def logged(caplog) -> list[dict]:
    """Return the members of the log lines of uploads."""
    return [{"request_id": None, **each.members} for each in caplog.records if hasattr(each, "members")]


async def upload(chain, *headers: str, body: bytes = FORM, target: str = "/upload1"):
    return await ask(chain.rest1, chain.tls, request(target, body, *headers))


# -- what is told


async def test_a_stored_upload_is_told_with_the_data_of_its_log_line(relay, receiver, caplog):
    caplog.set_level("INFO", "aiorelay")
    chain = await relay()
    assert (await upload(chain, "X-Request-ID: mine")).status == 200
    await eventually(lambda: len(receiver.requests) == 1)
    (event,) = events(receiver)
    assert event["type"] == "upload.stored"
    assert event["data"] == logged(caplog)[0] | {"request_id": "mine"}
    assert (event["data"]["files"], event["data"]["bytes"], event["data"]["status"]) == (["a.txt"], 7, 200)
    validate(event)


@pytest.mark.parametrize(
    ("settings", "status", "kind", "outcome"),
    [
        ({"max_size": 3}, 413, "upload.refused", "refused"),
        ({"upstream": "422 Unprocessable Content"}, 422, "upload.refused", "upstream-refused"),
        ({"upstream": "500 Internal Server Error"}, 500, "upload.failed", "upstream-refused"),
        ({"upstream": None}, 502, "upload.failed", "upstream-failed"),
    ],
    ids=["refused", "refused by the API", "failed in the API", "no API"],
)
async def test_other_ends_are_told_too(relay, receiver, recorder, unused_tcp_port, settings, status, kind, outcome):
    if "upstream" in settings:
        words = settings["upstream"]
        api = None if words is None else await recorder(answering(answer(words)))
        settings = {"only": "rest1", "upstream": api.url if api else f"http://127.0.0.1:{unused_tcp_port}/"}
    chain = await relay(**settings)
    assert (await upload(chain)).status == status
    await eventually(lambda: len(receiver.requests) == 1)
    (event,) = events(receiver)
    assert (event["type"], event["data"]["outcome"], event["data"]["status"]) == (kind, outcome, status)
    validate(event)


async def test_a_client_that_leaves_is_told_as_a_failure(relay, receiver):
    chain = await relay()
    async with connected(chain.rest1, chain.tls) as client:
        await client.send(request("/upload1", FORM)[:-5])
        client.reset()
    await eventually(lambda: len(receiver.requests) == 1)
    (event,) = events(receiver)
    assert (event["type"], event["data"]["status"]) == ("upload.failed", 0)
    validate(event)


async def test_requests_that_are_turned_away_are_not_told(relay, receiver, tmp_path):
    (tmp_path / "tokens").write_text("alice:t0ken\n")
    chain = await relay(token_file=tmp_path / "tokens", rate_limit="1/1h")
    token = "Authorization: Bearer t0ken"
    statuses = [(await upload(chain, *headers)).status for headers in ((), (token,), (token,))]
    assert statuses == [401, 200, 429]
    await upload(chain, "Authorization: Bearer wrong")
    await eventually(lambda: len(receiver.requests) == 1)
    (event,) = events(receiver)
    assert (event["type"], event["data"]["who"]) == ("upload.stored", "alice")


async def test_undecodable_file_names_are_valid_json(relay, receiver):
    chain = await relay(only="rest1", upstream=receiver.url, stored_status=["204"])
    body = form(b'Content-Disposition: form-data; name="somefile"; filename="\xff.txt"\r\n\r\ncontent')
    await upload(chain, body=body)
    await eventually(lambda: len(receiver.requests) == 2)
    (delivery,) = [each for each in receiver.requests if each.all("webhook-id")]
    validate(json.loads(delivery.body.decode()))


# -- signatures


async def test_the_library_of_standard_webhooks_verifies_deliveries(relay, receiver, tmp_path):
    secret_file(tmp_path, *SECRETS)
    chain = await relay()
    await upload(chain)
    await eventually(lambda: len(receiver.requests) == 1)
    (delivery,) = receiver.requests
    for secret in SECRETS:
        assert Webhook(secret).verify(delivery.body, signed(delivery))["type"] == "upload.stored"


async def test_a_changed_secret_signs_the_next_delivery(relay, receiver, tmp_path):
    chain = await relay()
    secret_file(tmp_path, SECRETS[1])
    await upload(chain)
    await eventually(lambda: len(receiver.requests) == 1)
    (delivery,) = receiver.requests
    assert Webhook(SECRETS[1]).verify(delivery.body, signed(delivery))


# -- before the answer


@pytest.mark.parametrize("fsync", [True, False], ids=["fsync", "no fsync"])
async def test_the_event_is_in_the_outbox_when_the_answer_arrives(relay, receiver, tmp_path, fsync):
    async def hang(connection: Connection) -> None:
        await connection.hang()

    receiver.script = hang
    chain = await relay(fsync=fsync, grace=0)
    for _ in range(3):
        await upload(chain)
        kept = [json.loads(path.read_bytes()) for path in (tmp_path / "state" / "outbox").glob("*/*.json")]
        assert {each["type"] for each in kept} == {"upload.stored"}
    assert len(kept) == 3


async def test_a_receiver_that_hangs_delays_no_answer(relay, receiver):
    async def hang(connection: Connection) -> None:
        await connection.hang()

    receiver.script = hang
    chain = await relay(grace=0)
    assert [(await upload(chain)).status for _ in range(30)] == [200] * 30
    assert len(receiver.connections) <= 8


async def test_an_outbox_that_cannot_be_written_refuses_no_upload(relay, tmp_path):
    chain = await relay()
    (own,) = (tmp_path / "state" / "outbox").iterdir()
    own.rmdir()
    assert (await upload(chain)).status == 200
    async with aiohttp.ClientSession() as client, client.get(f"{chain.rest1}/metrics", ssl=chain.tls) as metrics:
        assert "aiorelay_webhook_events_lost_total 1.0" in await metrics.text()


# -- jobs


async def test_the_end_of_a_job_is_told(relay, receiver, source):
    chain = await relay()
    started = await ask(chain.rest1, chain.tls, json_request(source, ASYNC, "X-Request-ID: mine"))
    await eventually(lambda: len(receiver.requests) == 2)
    job, stored = sorted(events(receiver), key=lambda event: event["type"])
    assert (job["type"], stored["type"]) == ("job.done", "upload.stored")
    assert job["data"]["id"] == started.json()["id"]
    assert job["data"]["request_id"] == stored["data"]["request_id"] == "mine"
    assert (job["data"]["received"], job["data"]["total"], job["data"]["status"]) == (7, 7, 200)
    validate(job)


async def test_a_failed_job_is_told_with_its_problem(relay, receiver, source):
    chain = await relay(max_size=3)
    await ask(chain.rest1, chain.tls, json_request(source, ASYNC))
    await eventually(lambda: len(receiver.requests) == 2)
    (job,) = [each for each in events(receiver) if each["type"] == "job.failed"]
    assert job["data"]["problem"]["type"] == "urn:aiorelay:too-large"
    validate(job)


async def test_a_cancelled_job_is_told(relay, receiver, recorder, source):
    async def hang(connection: Connection) -> None:
        await connection.hang()

    api = await recorder(hang)
    chain = await relay(only="rest1", upstream=api.url)
    job = (await ask(chain.rest1, chain.tls, json_request(source, ASYNC)))["Location"]
    assert (await ask(chain.rest1, chain.tls, request(job, b"", method="DELETE"))).json()["state"] == "cancelled"
    await eventually(lambda: len(receiver.requests) == 2)
    assert set(types(receiver)) == {"upload.failed", "job.cancelled"}
    for event in events(receiver):
        validate(event)


# -- resumable uploads


def raw(body: bytes, *headers: str, target: str = "/upload/a.txt", method: str = "PUT") -> bytes:
    return request(target, body, *headers, method=method, content_type="application/partial-upload")


async def test_a_resumable_upload_is_told_once_when_it_is_complete(relay, receiver):
    chain = await relay()
    created = await ask(chain.rest1, chain.tls, raw(b"con", "Upload-Complete: ?0"))
    target = created["Location"].partition("localhost")[2]
    wrong = raw(b"t", "Upload-Offset: 99", "Upload-Complete: ?0", target=target, method="PATCH")
    last = raw(b"tent", "Upload-Offset: 3", "Upload-Complete: ?1", target=target, method="PATCH")
    again = raw(b"t", "Upload-Offset: 6", "Upload-Complete: ?1", target=target, method="PATCH")
    statuses = [(await ask(chain.rest1, chain.tls, each)).status for each in (wrong, last, again)]
    assert statuses == [409, 200, 200]
    await upload(chain)  # the last event
    await eventually(lambda: len(receiver.requests) == 2)
    assert {(each["type"], each["data"]["endpoint"]) for each in events(receiver)} == {
        ("upload.stored", "/uploads/"),
        ("upload.stored", "/upload1"),
    }
    assert {each["data"]["bytes"] for each in events(receiver)} == {7}


async def test_a_resumable_upload_that_is_refused_is_told(relay, receiver):
    chain = await relay(accept=["image/*"])
    created = await ask(chain.rest1, chain.tls, raw(b"con", "Upload-Complete: ?0"))
    target = created["Location"].partition("localhost")[2]
    last = raw(b"tent", "Upload-Offset: 3", "Upload-Complete: ?1", target=target, method="PATCH")
    assert (await ask(chain.rest1, chain.tls, last)).status == 415
    await eventually(lambda: len(receiver.requests) == 1)
    (event,) = events(receiver)
    assert (event["type"], event["data"]["refused_by"]) == ("upload.refused", "type-refused")
    validate(event)


async def test_a_resumable_upload_whose_delivery_fails_is_told_when_it_is_stored(relay, receiver, recorder):
    api = await recorder(failing_first(1, answering(answer("503 Service Unavailable"))))
    chain = await relay(only="rest1", upstream=api.url)
    created = await ask(chain.rest1, chain.tls, raw(b"content", "Upload-Complete: ?1"))
    assert created.status == 503
    target = created["Location"].partition("localhost")[2]
    again = raw(b"t", "Upload-Offset: 6", "Upload-Complete: ?1", target=target, method="PATCH")
    assert (await ask(chain.rest1, chain.tls, again)).status == 200
    await eventually(lambda: len(receiver.requests) == 1)
    assert types(receiver) == ["upload.stored"]


async def test_an_upload_by_tus_is_told_once(relay, receiver):
    chain = await relay()
    tus = "Tus-Resumable: 1.0.0"
    created = await ask(chain.rest1, chain.tls, request("/files/", b"", tus, "Upload-Length: 7", content_type=None))
    target = created["Location"].partition("localhost")[2]
    for offset, content in ((0, b"con"), (3, b"tent"), (7, b"")):
        append = request(
            target,
            content,
            tus,
            f"Upload-Offset: {offset}",
            method="PATCH",
            content_type="application/offset+octet-stream",
        )
        assert (await ask(chain.rest1, chain.tls, append)).status < 300
    await upload(chain)  # the last event
    await eventually(lambda: len(receiver.requests) == 2)
    assert {each["data"]["endpoint"] for each in events(receiver)} == {"/files/", "/upload1"}


async def test_a_concatenation_by_tus_is_told_once(relay, receiver):
    chain = await relay()
    tus, content_type = "Tus-Resumable: 1.0.0", "application/offset+octet-stream"
    targets = []
    for content in (b"con", b"tent"):
        creation = ("Upload-Concat: partial", f"Upload-Length: {len(content)}")
        made = await ask(chain.rest1, chain.tls, request("/files/", content, tus, *creation, content_type=content_type))
        targets.append(made["Location"].partition("localhost")[2])
    final = request("/files/", b"", tus, f"Upload-Concat: final;{' '.join(targets)}", content_type=None)
    assert [(await ask(chain.rest1, chain.tls, final)).status for _ in range(2)] == [201, 201]
    await upload(chain)  # the last event
    await eventually(lambda: len(receiver.requests) == 2)
    assert {each["data"]["endpoint"] for each in events(receiver)} == {"/files/", "/upload1"}


# -- over the end of the process


@pytest.fixture
async def started(receiver, tmp_path):
    """A factory of relay processes that share a state directory and tell ``receiver``."""
    arguments = [
        *("--state-dir", tmp_path / "state", "--webhook", receiver.url, "--webhook-allow-net", "127.0.0.0/8"),
        *("--webhook-secret-file", secret_file(tmp_path), "--local-root", tmp_path, "--grace", "1s"),
    ]
    async with AsyncExitStack() as stack:

        async def start(*more):
            return await stack.enter_async_context(processes.started(*arguments, *processes.FREE_PORTS, *more))

        yield start


async def test_an_event_survives_a_kill_after_the_answer(started, receiver):
    async def hang(connection: Connection) -> None:
        await connection.head()
        await connection.hang()

    receiver.script = hang
    relay = await started()
    assert (await upload(relay)).status == 200
    await eventually(lambda: bool(receiver.connections) and bool(receiver.connections[0].received))
    under_way = receiver.connections[0].message["webhook-id"]
    await relay.stop(signal.SIGKILL)
    receiver.script = answering(ACCEPTED)
    await started()
    await eventually(lambda: ids(receiver) == [under_way])
    assert types(receiver) == ["upload.stored"]


async def test_a_killed_jobs_loss_is_told_by_the_next_process(started, receiver, recorder, source):
    async def hang(connection: Connection) -> None:
        await connection.hang()

    api = await recorder(hang)
    relay = await started("--only", "rest1", "--upstream", api.url)
    job = (await ask(relay.rest1, relay.tls, json_request(source, ASYNC))).json()["id"]
    await relay.stop(signal.SIGKILL)
    await started()
    await eventually(lambda: len(receiver.requests) == 1)
    (event,) = events(receiver)
    assert (event["type"], event["data"]["id"], event["data"]["state"]) == ("job.lost", job, "lost")
    assert ids(receiver) == [f"msg_{job}_lost"]
    validate(event)


@pytest.mark.needs("redis-server")
async def test_a_job_of_a_dead_relay_is_told_once_by_those_with_the_same_state(relay, receiver, tmp_path):
    job = {"id": "a" * 32, "state": "running", "received": 7, "forwarded": 0, "total": None}
    async with state_servers.running(tmp_path / "redis") as redis:
        async with open_state(StateAddress(url=URL(redis.url)), Metrics().state.called) as state:
            a_minute_ago = RedisJobRecords(state, most=10, lease=-60)
            await a_minute_ago.start(
                Record(
                    id=job["id"], owner="me", version=1, ended=None, document={**job, "answer": None, "problem": None}
                )
            )
        for number in range(3):
            await relay(state=redis.url, state_dir=tmp_path / f"state{number}")
        await eventually(lambda: bool(receiver.requests))
        (event,) = events(receiver)
        validate(event)
    assert event["data"] == job | {"problem": None, "state": "lost", "who": "me", "request_id": None, "status": None}
    assert ids(receiver) == [f"msg_{job['id']}_lost"]


async def test_a_living_process_takes_over_the_events_of_a_dead_one(started, receiver):
    async def hang(connection: Connection) -> None:
        await connection.hang()

    receiver.script = hang
    dying, living = await started(), await started()
    for _ in range(5):
        await upload(dying)
    await dying.stop(signal.SIGKILL)
    receiver.script = answering(ACCEPTED)
    await eventually(lambda: len(set(ids(receiver))) == 5)
    assert living.running


async def test_processes_deliver_each_event_once(started, receiver, tmp_path):
    relays = [await started() for _ in range(3)]
    await asyncio.gather(*(upload(each) for each in relays for _ in range(5)))
    outbox = tmp_path / "state" / "outbox"
    await eventually(lambda: not list(outbox.glob("*/*.json")))
    for each in relays:
        assert await each.stop() == 0
    assert len(ids(receiver)) == len(set(ids(receiver))) == 15
    assert list(outbox.iterdir()) == []


@pytest.mark.parametrize(
    "settings",
    [{"webhook_allow_net": ["127.0.0.2/32"]}, {"webhook_allow_net": [], "allow_net": LOOPBACK}],
    ids=["another network", "network of sources"],
)
async def test_an_address_that_webhooks_may_not_have_is_not_dialled(relay, receiver, caplog, settings):
    chain = await relay(**settings)
    await upload(chain)
    await eventually(lambda: "at an address that webhooks may not have: loopback 127.0.0.0/8" in caplog.text)
    assert receiver.connections == []


def dead_letters(state: Path) -> list[str]:
    return sorted(path.stem for path in (state / "dead-letters").glob("*.json"))


async def test_a_dead_letter_is_listed_and_sent_again(started, receiver, tmp_path):
    receiver.script = answering(answer("410 Gone"))
    relay = await started()
    await upload(relay, "X-Request-ID: mine")
    await eventually(lambda: bool(dead_letters(tmp_path / "state")))
    await relay.stop()
    (dead,) = dead_letters(tmp_path / "state")
    status, said, _ = await run_webhooks("list", state=tmp_path / "state")
    assert status == 0
    assert said.split()[0] == dead
    assert said.split()[2:] == ["upload.stored", "mine"]
    receiver.script = answering(ACCEPTED)
    relay = await started()
    assert await run_webhooks("send-again", state=tmp_path / "state") == (0, f"{dead}\n", "")
    await eventually(lambda: ids(receiver) == [dead, dead])
    assert dead_letters(tmp_path / "state") == []


async def run_webhooks(*arguments: str, state: Path) -> tuple[int, str, str]:
    return await run(sys.executable, "-m", "aiorelay", "webhooks", *arguments, "--state-dir", str(state))


@pytest.mark.parametrize(
    ("url", "warns"),
    [("http://hooks.example.org/", True), ("http://localhost:1/", False), ("https://hooks.example.org/", False)],
)
async def test_a_receiver_without_tls_elsewhere_is_warned_of(relay, caplog, url, warns):
    await relay(webhook=url)
    assert ("webhook is an http URL" in caplog.text) is warns
