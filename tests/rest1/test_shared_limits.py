"""Limits that relays count together, in Redis."""

import asyncio
import math

import aiohttp
import pytest
import state_servers
from peers import PATIENCE, ask, form, part, request
from yarl import URL

from aiorelay.errors import QuotaExceeded, StateUnavailable
from aiorelay.observability.metrics import Metrics
from aiorelay.rest1.principal_limits import Limits, PrincipalLimits
from aiorelay.rest1.rate_limits import Rate
from aiorelay.rest1.redis_counters import RedisCounters
from aiorelay.state.server import Script, StateAddress, open_state

pytestmark = pytest.mark.needs("redis-server")

FORM = form(part("somefile", "content", "a.txt"))
UPLOAD = request("/upload1", FORM)
LIVES = Script(
    "lives", "local l = {} for _, k in ipairs(redis.call('KEYS', '*')) do l[#l+1] = redis.call('PTTL', k) end return l"
)
MIB = 1024 * 1024


@pytest.fixture(params=["redis", "valkey"])
async def server(request, tmp_path):
    executable = state_servers.valkey() if request.param == "valkey" else None
    async with state_servers.running(tmp_path / "redis", executable=executable) as server:
        yield server


@pytest.fixture
async def state(server):
    async with open_state(StateAddress(url=URL(server.url)), Metrics().state.called) as state:
        yield state


class TestRate:
    async def test_uploads_run_out_and_come_back(self, state):
        counters, rate = RedisCounters(state), Rate(3, 3600)
        taken = [await counters.take("a", rate) for _ in range(4)]
        assert [(each.allowed, each.remaining) for each in taken] == [(True, 2), (True, 1), (True, 0), (False, 0)]
        assert 1100 < taken[-1].wait <= 1200
        async with asyncio.timeout(PATIENCE):
            await counters.take("b", Rate(1, 0.1))
            while not (await counters.take("b", Rate(1, 0.1))).allowed:  # noqa: ASYNC110 - time itself brings it back
                await asyncio.sleep(0.01)

    async def test_answer_is_that_of_a_single_relay(self, state):
        taken = await RedisCounters(state).take("a", Rate(4, 3600))
        assert (taken.allowed, taken.remaining, math.ceil(taken.wait)) == (True, 3, 900)

    async def test_principals_do_not_share_uploads(self, state):
        counters, rate = RedisCounters(state), Rate(1, 60)
        names = ["a", "a", "name {a}", "ü\udcff"]
        assert [(await counters.take(name, rate)).allowed for name in names] == [True, False, True, True]

    async def test_uploads_at_the_same_moment_are_all_counted(self, state):
        counters, rate = RedisCounters(state), Rate(10, 3600)
        taken = await asyncio.gather(*(counters.take("a", rate) for _ in range(50)))
        assert sum(each.allowed for each in taken) == 10

    async def test_shorter_rate_of_a_new_configuration_holds_at_once(self, state):
        counters = RedisCounters(state)
        for _ in range(10):
            await counters.take("a", Rate(10, 3600))
        assert (await counters.take("a", Rate(10, 1))).wait < 0.2


class TestQuota:
    async def test_bytes_count_for_their_day(self, state):
        counters = RedisCounters(state)
        assert [await counters.add("a", day, 5) for day in (0, 0, 1)] == [5, 10, 5]
        assert [await counters.used("a", day) for day in (0, 1, 2)] == [10, 5, 0]

    async def test_bytes_of_several_relays_add_up(self, state):
        one, other = (PrincipalLimits(Limits(quota=10 * MIB), RedisCounters(state)).meter("a") for _ in range(2))
        for meter in (one, other):
            await meter.feed(b"x" * 5 * MIB)
            await meter.finish()
        await one.feed(b"x")
        with pytest.raises(QuotaExceeded):
            await one.finish()

    async def test_few_bytes_of_a_body_that_breaks_off_are_counted(self, state):
        counters = RedisCounters(state)
        meter = PrincipalLimits(Limits(quota=MIB), counters, clock=lambda: 0.0).meter("a")
        await meter.feed(b"x" * 100)
        await meter.close()
        assert await counters.used("a", 0) == 100


async def test_every_key_expires(state):
    counters = RedisCounters(state)
    await counters.take("a", Rate(1, 10))
    await counters.add("a", 0, 1)
    assert sorted(life > 10_000 for life in await state.run(LIVES, [])) == [False, True]


async def test_what_cannot_be_counted_is_refused(state, server):
    counters = RedisCounters(state)
    await server.stop()
    for counting in (counters.take("a", Rate(1, 1)), counters.used("a", 0), counters.add("a", 0, 1)):
        with pytest.raises(StateUnavailable):
            await counting


@pytest.fixture
async def redis(tmp_path):
    async with state_servers.running(tmp_path / "redis") as server:
        yield server


async def test_relays_count_uploads_together(aiorelay_server, redis):
    chains = [await aiorelay_server(rate_limit="2/1h", state=redis.url) for _ in range(2)]
    answers = [await ask(chain.rest1, chain.tls, UPLOAD) for chain in (*chains, *chains)]
    assert [answer.status for answer in answers] == [200, 200, 429, 429]
    assert [answer["RateLimit"].partition(";t=")[0] for answer in answers[:2]] == ['"uploads";r=1', '"uploads";r=0']


async def test_relays_count_bytes_together(aiorelay_server, redis):
    body = form(part("somefile", "x" * 6000, "a.txt"))
    chains = [await aiorelay_server(upload_quota=10_000, state=redis.url) for _ in range(2)]
    answers = [await ask(chain.rest1, chain.tls, request("/upload1", body)) for chain in chains]
    assert [answer.status for answer in answers] == [200, 429]
    assert [len(chain.stored()) for chain in chains] == [1, 0]


async def test_uploads_without_limits_need_no_redis(aiorelay_server, redis):
    chain = await aiorelay_server(state=redis.url)
    await redis.stop()
    assert (await ask(chain.rest1, chain.tls, UPLOAD)).status == 200
    ready = await readiness(chain)
    assert ready == (200, {"status": "ready", "state": "unreachable"})
    await redis.start()
    assert await readiness(chain) == (200, {"status": "ready"})


async def test_uploads_with_limits_need_redis(aiorelay_server, redis):
    chain = await aiorelay_server(state=redis.url, rate_limit="2/1h")
    await redis.stop()
    answer = await ask(chain.rest1, chain.tls, UPLOAD)
    assert (answer.status, answer.json()["type"]) == (503, "urn:aiorelay:state-unavailable")
    assert int(answer["Retry-After"]) > 0
    assert await readiness(chain) == (503, {"status": "the shared state cannot be reached"})
    assert chain.stored() == []


async def test_relay_starts_without_redis(aiorelay_server, redis):
    await redis.stop()
    chain = await aiorelay_server(state=redis.url)
    assert (await ask(chain.rest1, chain.tls, UPLOAD)).status == 200


async def test_metrics_tell_of_redis(aiorelay_server, redis):
    chain = await aiorelay_server(state=redis.url, rate_limit="2/1h")
    await ask(chain.rest1, chain.tls, UPLOAD)
    await redis.stop()
    await ask(chain.rest1, chain.tls, UPLOAD)
    async with aiohttp.ClientSession() as session, session.get(f"{chain.rest1}/metrics", ssl=chain.tls) as answer:
        told = await answer.text()
    assert 'aiorelay_state_seconds_count{call="rate-limit"} 2.0' in told
    assert 'aiorelay_state_errors_total{call="rate-limit"} 1.0' in told


async def readiness(chain):
    async with aiohttp.ClientSession() as session, session.get(f"{chain.rest1}/readyz", ssl=chain.tls) as answer:
        return answer.status, await answer.json()
