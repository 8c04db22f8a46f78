"""Jobs that relays share in Redis: each relay shows, follows and cancels those of the others."""

import asyncio
import contextlib
import json
import re
import signal
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import processes
import pytest
import state_servers
from peers import DONE, PATIENCE, Connection, Script, answering
from yarl import URL

from aiorelay.errors import NotFound, TooManyJobs
from aiorelay.observability.metrics import Metrics
from aiorelay.rest1.jobs.records import Record
from aiorelay.rest1.jobs.redis_records import RedisJobRecords
from aiorelay.rest1.jobs.registry import Job, Jobs
from aiorelay.rest1.rate_limits import Rate
from aiorelay.rest1.redis_counters import RedisCounters
from aiorelay.state.server import Script as LuaScript
from aiorelay.state.server import StateAddress, StateServer, open_state

pytestmark = pytest.mark.needs("redis-server")

SCALING = (Path(__file__).parents[3] / "docs/scaling.md").read_text()
BLOCK = b"x" * 512 * 1024
ASYNC = {"Prefer": "respond-async"}
LOOPBACK = "127.0.0.0/8"
KEYS = LuaScript("keys", "return redis.call('KEYS', '*')")
TTL = LuaScript("ttl", "return redis.call('PTTL', KEYS[1])")


class Client:
    """A client of the relay at ``base``."""

    def __init__(self, session: aiohttp.ClientSession, base: str, tls: Any) -> None:
        self._session = session
        self._base = base
        self._tls = tls

    def ask(self, method: str, path: str, **options: Any) -> Any:
        return self._session.request(method, self._base + path, ssl=self._tls, **options)

    async def ingest(self, source: str, status: int = 202) -> Any:
        """Start a job, and return its path, or the problem."""
        async with self.ask("POST", "/upload2", json={"somefile": source}, headers=ASYNC) as answer:
            assert answer.status == status, await answer.text()
            return answer.headers["Location"] if status == 202 else await answer.json()

    async def json(self, path: str, method: str = "GET", status: int = 200) -> Any:
        async with self.ask(method, path) as answer:
            assert answer.status == status, await answer.text()
            return await answer.json()

    async def until(self, path: str, **members: object) -> Any:
        """Wait until a job has these members."""
        async with asyncio.timeout(PATIENCE):
            while not members.items() <= (job := await self.json(path)).items():  # noqa: ASYNC110 - no event of ours
                await asyncio.sleep(0.01)
        return job


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[int, dict[str, Any]]]:
    """Each event's id and what it says, to the end of the stream."""
    event: dict[str, str] = {}
    async for line in response.content:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            event[name] = value
        elif event:
            yield int(event["id"]), json.loads(event["data"])
            event = {}


def source(gate: asyncio.Event) -> Script:
    """A server with a file of two blocks, of which the second waits behind the gate."""

    async def script(connection: Connection) -> None:
        await connection.head()
        await connection.send(f"HTTP/1.1 200 OK\r\nContent-Length: {2 * len(BLOCK)}\r\n\r\n".encode() + BLOCK)
        await gate.wait()
        await connection.send(BLOCK)

    return script


@pytest.fixture
async def redis(tmp_path):
    async with state_servers.running(tmp_path / "redis") as server:
        yield server


@pytest.fixture
async def session() -> AsyncGenerator[aiohttp.ClientSession, None]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session:
        yield session


@pytest.fixture
def gate() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
async def relay(aiorelay_server, session, redis, tmp_path_factory):
    """A factory of relays on one Redis, each with a state directory of its own, and their clients."""

    async def start(**settings: object) -> Client:
        chain = await aiorelay_server(
            **{"allow_net": [LOOPBACK], "state_dir": tmp_path_factory.mktemp("state"), "state": redis.url} | settings
        )
        return Client(session, chain.rest1, chain.tls)

    return start


@pytest.fixture
async def two(relay, recorder, gate):
    """Two relays, the path of a job that the first one runs, and the upload API."""
    origin, upstream = await recorder(source(gate)), await recorder(answering(DONE))
    one, other = await relay(upstream=upstream.url), await relay(upstream=upstream.url)
    path = await one.ingest(origin.url)
    await one.until(path, received=len(BLOCK))
    return one, other, path, upstream


async def test_job_is_shown_by_every_relay_from_the_first_moment_to_the_end(two, gate):
    one, other, path, _ = two
    job = await other.until(path, received=len(BLOCK))
    assert (job["state"], job["total"]) == ("running", 2 * len(BLOCK))
    gate.set()
    job = await one.until(path, state="done")
    assert await other.json(path) == job
    assert job["answer"]["body"] == '{"status": "done"}'


async def test_job_is_followed_through_another_relay(two, gate):
    one, other, path, _ = two
    async with other.ask("GET", f"{path}/events") as stream:
        told = events(stream)
        first, job = await anext(told)
        assert job["state"] == "running"
        while job["received"] < len(BLOCK):
            _, job = await anext(told)
        gate.set()
        rest = [event async for event in told]
    assert rest[-1][1] == await one.json(path)
    assert rest[-1][1]["state"] == "done"
    assert [first, *sorted(identity for identity, _ in rest)] == [first, *(identity for identity, _ in rest)]


async def test_reader_continues_at_another_relay_where_it_was(two, gate):
    one, other, path, _ = two
    async with one.ask("GET", f"{path}/events") as stream:
        seen, _ = await anext(events(stream))
    async with other.ask("GET", f"{path}/events", headers={"Last-Event-ID": str(seen)}) as stream:
        gate.set()
        told = [event async for event in events(stream)]
    assert min(identity for identity, _ in told) > seen
    last, job = told[-1]
    assert job == await one.json(path)
    async with other.ask("GET", f"{path}/events", headers={"Last-Event-ID": str(last)}) as stream:
        assert stream.status == 204


async def test_job_is_cancelled_through_another_relay(two):
    one, other, path, upstream = two
    job = await other.json(path, "DELETE")
    assert job["state"] == "cancelled"
    assert await one.json(path) == await other.json(path) == job
    assert upstream.requests == []


async def test_relays_count_jobs_together(relay, recorder, gate):
    origin, upstream = await recorder(source(gate)), await recorder(answering(DONE))
    one, other = [await relay(upstream=upstream.url, max_jobs=2) for _ in range(2)]
    paths = [await one.ingest(origin.url), await other.ingest(origin.url)]
    for client in (one, other):
        problem = await client.ingest(origin.url, status=429)
        assert problem["type"] == "urn:aiorelay:too-many-jobs"
    gate.set()
    for path in paths:
        await other.until(path, state="done")
    third = await other.ingest(origin.url)  # in the place of the one that ended first
    await one.until(third, state="done")
    assert sorted([await status(one, path) for path in paths]) == [200, 404]


async def status(client: Client, path: str) -> int:
    """Return the status of the answer about a job, once Redis has been up for long enough to know."""
    async with asyncio.timeout(PATIENCE):
        while True:
            async with client.ask("GET", path) as answer:
                if answer.status != 503:
                    return answer.status
            await asyncio.sleep(0.1)


async def test_job_of_a_killed_relay_is_lost_within_seconds(redis, relay, recorder, gate, tmp_path):
    origin, upstream = await recorder(source(gate)), await recorder(answering(DONE))
    other = await relay(upstream=upstream.url)
    arguments = ("--only", "rest1", "--rest1-port", "0", "--state-dir", tmp_path / "killed", "--upstream", upstream.url)
    async with (
        processes.started(*arguments, "--allow-net", LOOPBACK, "--state", redis.url) as process,
        aiohttp.ClientSession() as session,
    ):
        path = await Client(session, process.rest1, process.tls).ingest(origin.url)
        await other.until(path, received=len(BLOCK))
        async with other.ask("GET", f"{path}/events") as stream:
            await process.stop(signal.SIGKILL)
            states = [job["state"] async for _, job in events(stream)]
    assert states[-1] == "lost"
    job = await other.json(path)
    assert (job["state"], job["answer"], job["problem"]) == ("lost", None, None)
    assert await other.json(path, "DELETE") == job


async def test_relay_that_shuts_down_tells_that_its_jobs_are_lost(redis, relay, recorder, gate, tmp_path):
    origin, upstream = await recorder(source(gate)), await recorder(answering(DONE))
    other = await relay(upstream=upstream.url)
    arguments = ("--only", "rest1", "--rest1-port", "0", "--state-dir", tmp_path / "ended", "--upstream", upstream.url)
    async with processes.started(*arguments, "--allow-net", LOOPBACK, "--state", redis.url, "--grace", "0s") as process:
        async with aiohttp.ClientSession() as session:
            path = await Client(session, process.rest1, process.tls).ingest(origin.url)
        await process.stop()
    assert (await other.json(path))["state"] == "lost"


@pytest.mark.parametrize("durable", [True, False], ids=["which keeps what it knew", "which forgets all"])
async def test_restart_of_redis_ends_neither_job_nor_stream(
    tmp_path, aiorelay_server, session, recorder, gate, durable
):
    origin, upstream = await recorder(source(gate)), await recorder(answering(DONE))
    async with state_servers.running(tmp_path / "own", durable=durable) as redis:
        chains = [await aiorelay_server(upstream=upstream.url, allow_net=[LOOPBACK], state=redis.url) for _ in range(2)]
        one, other = [Client(session, chain.rest1, chain.tls) for chain in chains]
        path = await one.ingest(origin.url)
        async with other.ask("GET", f"{path}/events") as stream:
            told = events(stream)
            await anext(told)
            await redis.stop()
            assert (await one.json(path))["state"] == "running"  # the relay that runs it needs no Redis for that
            problem = await other.json(path, status=503)
            assert problem["type"] == "urn:aiorelay:state-unavailable"
            await redis.start()
            gate.set()
            states = [job["state"] async for _, job in told]
        assert states[-1] == "done"
        assert set(states) <= {"running", "done"}
        assert (await other.json(path))["state"] == "done"


async def test_job_that_ends_while_redis_is_away_is_recorded_later(two, redis, gate):
    one, other, path, _ = two
    await redis.stop()
    gate.set()
    await one.until(path, state="done")
    await redis.start()
    await other_knows(other, path, "done")


async def other_knows(client: Client, path: str, state: str) -> None:
    """Wait until a relay shows a job in this state, although it cannot show it at first."""
    async with asyncio.timeout(PATIENCE):
        while True:
            async with client.ask("GET", path) as answer:
                if answer.status == 200 and (await answer.json())["state"] == state:
                    return
            await asyncio.sleep(0.05)


async def test_job_cannot_begin_while_redis_is_away(relay, redis, recorder, gate):
    upstream = await recorder(answering(DONE))
    client = await relay(upstream=upstream.url)
    await redis.stop()
    origin = await recorder(source(gate))
    problem = await client.ingest(origin.url, status=503)
    assert problem["type"] == "urn:aiorelay:state-unavailable"
    assert upstream.connections == []


async def test_names_of_no_jobs_are_not_found(relay):
    client = await relay()
    names = ("x" * 32, "x" * 65, "{jobs}", "..%2fsecret", "%ff", "a%00b")
    assert [await status(client, f"/jobs/{name}") for name in names] == [404] * len(names)


# -- without HTTP


@contextlib.asynccontextmanager
async def jobs_on(
    redis: state_servers.StateServerProcess, **options: Any
) -> AsyncGenerator[tuple[Jobs, StateServer], None]:
    """The jobs of a relay."""
    async with (
        open_state(StateAddress(url=URL(redis.url)), Metrics().state.called) as state,
        Jobs(RedisJobRecords(state, **{"most": 10, **options})) as jobs,
    ):
        yield jobs, state


def until(gate: asyncio.Event):
    async def work(_job: Job) -> dict[str, Any]:
        await gate.wait()
        return {"status": 200}

    return work


async def test_every_key_expires(redis, gate):
    async with jobs_on(redis) as (jobs, state):
        for _ in range(2):
            gate.clear()
            job = await jobs.start(until(gate), None)
            gate.set()
            await asyncio.wait_for(job.over.wait(), PATIENCE)
        gate.clear()
        await jobs.start(until(gate), None)
        keys = await state.run(KEYS, [])
        assert len(keys) == 5
        lives = [await state.run(TTL, [key]) for key in keys]
        assert all(0 < life <= 3_605_000 for life in lives)
        assert all(key.startswith(b"aiorelay:1:{jobs}:") for key in keys)


async def test_job_is_forgotten_some_time_after_its_end(redis, gate):
    async with jobs_on(redis, kept=0.2) as (jobs, state):
        gate.set()
        job = await jobs.start(until(gate), None)
        await asyncio.wait_for(job.over.wait(), PATIENCE)
        async with asyncio.timeout(PATIENCE):
            while await state.run(KEYS, []):  # noqa: ASYNC110 - there is no event for what expires
                await asyncio.sleep(0.05)


async def test_jobs_are_their_owners_alone(redis, gate):
    async with jobs_on(redis) as (one, _), jobs_on(redis) as (other, _):
        job = await one.start(until(gate), "me")
        for owner in (None, "you"):
            with pytest.raises(NotFound):
                await other.find(job.id, owner)
        assert (await other.find(job.id, "me")).running


def record(identity: str) -> Record:
    return Record(id=identity, owner=None, version=1, ended=None, document={"state": "running"})


async def test_lost_job_makes_room(redis):
    told: list[Record] = []
    async with jobs_on(redis) as (_, state):
        dead = RedisJobRecords(state, most=1, lease=0.1)
        alive = RedisJobRecords(state, most=1, lease=0.1, on_lost=told.append)
        await dead.start(record("lost"))
        async with asyncio.timeout(PATIENCE):
            while True:
                with contextlib.suppress(TooManyJobs):
                    await alive.start(record("next"))
                    break
                await asyncio.sleep(0.01)
        keys = await state.run(KEYS, [])
        assert b"aiorelay:1:{jobs}:job:lost" not in keys
        assert [(each.id, each.document) for each in told] == [("lost", {"state": "lost"})]
        await alive.renew([record("next")])
        with pytest.raises(TooManyJobs):
            await dead.start(record("another"))


async def look(told: list[str], *relays: RedisJobRecords) -> None:
    """Let relays look for lost jobs, all at once, until one of them has told something."""
    async with asyncio.timeout(PATIENCE):
        while not told:
            await asyncio.gather(*(relay.renew([]) for relay in relays))
            await asyncio.sleep(0.05)


async def test_lost_job_is_told_once_by_one_of_the_other_relays(redis):
    told: list[str] = []

    def others(state: StateServer) -> list[RedisJobRecords]:
        return [RedisJobRecords(state, most=10, lease=0.1, on_lost=lambda lost: told.append(lost.id)) for _ in range(3)]

    async with jobs_on(redis) as (_, state):
        for name, seconds in (("a minute ago", 60), ("just now", 10)):
            await RedisJobRecords(state, most=10, lease=-seconds).start(record(name))
        await look(told, *others(state))
        await asyncio.gather(*(other.renew([]) for other in others(state)))
    assert told == ["a minute ago"]


async def test_lost_job_is_told_by_another_relay_if_the_first_one_dies(redis):
    def dies(_lost: Record) -> None:
        died.append("")
        raise asyncio.CancelledError

    died: list[str] = []
    told: list[str] = []
    async with jobs_on(redis) as (_, state):
        await RedisJobRecords(state, most=10, lease=-60).start(record("a"))
        with pytest.raises(asyncio.CancelledError):
            await look(died, RedisJobRecords(state, most=10, lease=0.1, on_lost=dies))
        await look(told, RedisJobRecords(state, most=10, lease=0.1, on_lost=lambda lost: told.append(lost.id)))
    assert told == ["a"]


async def test_lost_job_that_its_relay_goes_on_with_is_running(redis):
    told: list[str] = []
    async with jobs_on(redis) as (_, state):
        await RedisJobRecords(state, most=10, lease=-60).start(record("a"))
        other = RedisJobRecords(state, most=10, lease=0.1, on_lost=lambda lost: told.append(lost.id))
        await look(told, other)
        assert (await other.find("a")).document["state"] == "lost"
        await RedisJobRecords(state, most=10).renew([record("a")])
        assert (await other.find("a")).document["state"] == "running"


async def test_renewal_that_the_end_has_overtaken_changes_nothing(redis, gate):
    async with jobs_on(redis) as (jobs, state):
        records = RedisJobRecords(state, most=1)
        job = await jobs.start(until(gate), None)
        running = await records.find(job.id)
        gate.set()
        await asyncio.wait_for(job.over.wait(), PATIENCE)
        assert await records.renew([replace(running, version=100)]) == set()
        assert (await records.find(job.id)).document["state"] == "done"


async def test_member_that_another_version_writes_is_ignored(redis):
    write = LuaScript("write", "redis.call('HSET', KEYS[1], 'record', ARGV[1], 'ended', 1)")
    async with jobs_on(redis) as (_, state):
        newer = {**json.loads(record("a").to_json()), "invented": 1}
        await state.run(write, ["aiorelay:1:{jobs}:job:a"], json.dumps(newer))
        assert await RedisJobRecords(state, most=1).find("a") == record("a")


async def test_user_with_the_permissions_in_the_documentation_can_do_all(redis, gate):
    (command,) = re.findall(r"`ACL SETUSER (.*?)`", SCALING)
    async with jobs_on(redis) as (_, state):
        await state._client.execute_command("ACL", "SETUSER", *command.split())  # noqa: SLF001 - no script may do it
    url = f"redis://relay:password@localhost:{redis.port}"
    async with open_state(StateAddress(url=URL(url)), Metrics().state.called) as state:
        assert (await RedisCounters(state).take("a", Rate(1, 1))).allowed
        assert await RedisCounters(state).add("a", 0, 1) == 1
        async with Jobs(RedisJobRecords(state, most=1)) as one, Jobs(RedisJobRecords(state, most=1)) as other:
            job = await one.start(until(gate), None)
            seen = await other.find(job.id, None)
            await other.cancel(seen)
            assert seen.state == "cancelled"
            gate.set()
            await one.start(until(gate), None)  # in its place
