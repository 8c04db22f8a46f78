"""Resumable uploads over several relays that share them: each request may reach any relay."""

import asyncio
import secrets

import pytest
import state_servers
from object_stores import Place
from peers import connected
from resumable_requests import code, path_of

pytestmark = pytest.mark.needs("redis-server")

CONTENT = bytes(range(256)) * 2000


@pytest.fixture
async def two(tmp_path, s3_credentials, seaweedfs, start_relay):  # noqa: ARG001 - sets the environment
    """Two relays without a state directory in common, which share uploads."""
    spool = Place(seaweedfs, secrets.token_hex(8))
    async with state_servers.running(tmp_path / "redis") as server:
        shared = {"state": server.url, "spool": spool.url, "s3_endpoint": seaweedfs}
        yield [await start_relay(state_dir=tmp_path / name, **shared) for name in ("one", "other")]


async def test_each_request_may_reach_another_relay(two, protocol):
    one, other = two
    path = path_of(await one.speaking(protocol).create(len(CONTENT)))
    at = 0
    for relay in (other, one, other):
        answer = await relay.speaking(protocol).append(path, at, CONTENT[at : at + 100_000])
        assert answer.status == 204
        at += 100_000
        assert int((await one.speaking(protocol).head(path))["Upload-Offset"]) == at
    answer = await one.speaking(protocol).append(path, at, CONTENT[at:], last=True)
    assert (answer.json(), one.received()) == ({"status": "done"}, [CONTENT])
    told = (await other.speaking(protocol).get(path)).json()
    assert (told["state"], told["received"]) == ("done", len(CONTENT))
    repeated = await other.speaking(protocol).append(path, len(CONTENT) - 1, CONTENT[-1:], last=True)
    assert repeated.json() == {"status": "done"}
    assert other.received() == []


async def test_newer_request_at_another_relay_ends_an_older_one(two, protocol):
    one, other = two
    requests = one.speaking(protocol)
    path = path_of(await requests.create(len(CONTENT)))
    older = requests.raw("PATCH", path, *requests.patch(0, last=True), body=CONTENT, **requests.content)
    at = 0
    while at == 0:  # again, if the older request was ended before it had kept a byte
        async with connected(one.chain.rest1, one.chain.tls) as client:
            await client.send(older[:-3])
            answering = asyncio.create_task(client.answer())
            while at == 0 and not answering.done():
                told = await other.speaking(protocol).head(path)
                assert told.status // 100 == 2
                at = int(told["Upload-Offset"])
            answer = await answering
        assert (answer.status, code(answer)) == (409, "superseded")
    answer = await other.speaking(protocol).append(path, at, CONTENT[at:], last=True)
    assert (answer.status // 100, other.received(), one.received()) == (2, [CONTENT], [])


async def test_parts_of_several_relays_are_concatenated(two):
    one, other = two
    parts = [
        path_of(await relay.tus.create(10, "Upload-Concat: partial", body=b"0123456789")) for relay in (one, other)
    ]
    answer = await other.tus.create(None, f"Upload-Concat: final;{' '.join(parts)}")
    assert (answer.status, other.received()) == (201, [b"0123456789" * 2])
    assert (await one.tus.get(path_of(answer))).json()["state"] == "done"


async def test_delivery_becomes_a_job_of_every_relay(two):
    one, other = two
    path = path_of(await one.draft.create(len(CONTENT), body=CONTENT[:1000]))
    answer = await other.draft.append(path, 1000, CONTENT[1000:], "Prefer: respond-async", last=True)
    assert answer.status == 202
    job = answer["Location"]
    while (told := (await one.draft.get(job)).json())["state"] == "running":
        pass
    assert told["state"] == "done"
    assert other.received() == [CONTENT]
