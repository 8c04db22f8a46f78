"""The server that keeps the shared state: addresses, credentials, TLS, restarts."""

import asyncio
import socket
from pathlib import Path

import pytest
import state_servers
import trustme
from peers import PATIENCE
from yarl import URL

from aiorelay.errors import StartupError, StateUnavailable
from aiorelay.observability.metrics import Metrics
from aiorelay.state.server import Script, StateAddress, open_state

pytestmark = pytest.mark.needs("redis-server")

ECHO = Script("echo", "return ARGV[1]")
PUBLISH = Script("publish", "return redis.call('PUBLISH', KEYS[1], 'news')")


def opened(url: str, ca: Path | None = None, metrics: Metrics | None = None):
    return open_state(StateAddress(url=URL(url), ca=ca), (metrics or Metrics()).state.called)


@pytest.fixture(params=["redis", "valkey"])
async def server(request, tmp_path):
    executable = state_servers.valkey() if request.param == "valkey" else None
    async with state_servers.running(tmp_path / "redis", executable=executable) as server:
        yield server


async def test_script_runs_and_is_measured(server):
    metrics = Metrics()
    async with opened(server.url, metrics=metrics) as state:
        assert await state.run(ECHO, [], "a") == b"a"
    rendered = metrics.render().decode()
    assert 'aiorelay_state_seconds_count{call="echo"} 1.0' in rendered
    assert 'aiorelay_state_errors_total{call="echo"}' not in rendered


async def test_server_that_comes_back_is_used_again(server, caplog):
    caplog.set_level("INFO", "aiorelay")
    metrics = Metrics()
    async with opened(server.url, metrics=metrics) as state:
        await state.run(ECHO, [], "a")
        await server.stop()
        for _ in range(2):
            with pytest.raises(StateUnavailable) as unavailable:
                await state.run(ECHO, [], "a")
            assert int(unavailable.value.headers["Retry-After"]) > 0
        assert not await state.reachable()
        await server.start()
        assert await state.run(ECHO, [], "b") == b"b"
    assert 'aiorelay_state_errors_total{call="echo"} 2.0' in metrics.render().decode()
    told = [record.getMessage() for record in caplog.records if "state server" in record.getMessage()]
    assert [f"localhost:{server.port} cannot be used" in told[0], told[1:]] == [
        True,
        [f"the state server localhost:{server.port} can be reached again"],
    ]


async def test_connections_that_a_restart_has_broken_cost_no_error(server):
    async with opened(server.url) as state:
        await asyncio.gather(*(state.run(ECHO, [], "a") for _ in range(10)))
        await server.restart()
        assert await asyncio.gather(*(state.run(ECHO, [], "a") for _ in range(10))) == [b"a"] * 10


async def test_listeners_hear_messages_also_after_a_restart(server):
    async with opened(server.url) as state, state.channels.listening("one") as one:
        async with state.channels.listening("two") as two:
            for channel, event in (("one", one), ("two", two)):
                await asyncio.wait_for(event.wait(), PATIENCE)  # it has subscribed
                event.clear()
                assert await state.run(PUBLISH, [channel]) == 1
                await asyncio.wait_for(event.wait(), PATIENCE)
        one.clear()
        await server.restart()
        await asyncio.wait_for(one.wait(), PATIENCE)  # it has subscribed again: there may be news
        one.clear()
        assert await state.run(PUBLISH, ["two"]) == 0
        assert await state.run(PUBLISH, ["one"]) == 1
        await asyncio.wait_for(one.wait(), PATIENCE)


async def test_cancelled_call_breaks_no_other_call(server):
    async with opened(server.url) as state:
        for _ in range(20):
            call = asyncio.create_task(state.run(ECHO, [], "wrong"))
            await asyncio.sleep(0)
            call.cancel()
            assert await state.run(ECHO, [], "right") == b"right"


@pytest.mark.parametrize("what", ["call", "listener"])
async def test_calls_and_listeners_can_be_cancelled_at_every_step(server, what):
    async def call() -> None:
        await state.run(ECHO, [], "a")

    async def listen() -> None:
        async with state.channels.listening("one"):
            await asyncio.sleep(0)

    async def forever() -> None:
        while True:
            await (call() if what == "call" else listen())

    async with opened(server.url) as state, state.channels.listening("other") as subscribed:
        await asyncio.wait_for(subscribed.wait(), PATIENCE)
        for steps in range(100):
            task = asyncio.create_task(forever())
            await take(steps)
            task.cancel()
            await asyncio.wait([task], timeout=PATIENCE)
            assert task.cancelled()


async def test_channels_can_be_closed_at_every_step(server):
    for steps in range(50):
        async with (
            asyncio.timeout(PATIENCE),
            opened(server.url) as state,
            state.channels.listening("one"),
        ):
            await take(steps)


async def take(steps: int) -> None:
    """Let other tasks take so many steps."""
    for _ in range(steps):
        await asyncio.sleep(0)


async def test_password_is_sent_and_told_to_nobody(tmp_path, caplog):
    async with state_servers.running(tmp_path / "redis", password="s3cret") as server, opened(server.url) as state:
        assert await state.run(ECHO, [], "a") == b"a"
        await server.stop()
        assert not await state.reachable()
    assert "cannot be used" in caplog.text
    assert "s3cret" not in caplog.text


@pytest.mark.parametrize("credentials", ["", ":wr0ng@", "nobody:wr0ng@"], ids=["none", "wrong", "wrong user"])
async def test_wrong_credentials_prevent_the_start(tmp_path, credentials):
    async with state_servers.running(tmp_path / "redis", password="s3cret") as server:
        with pytest.raises(StartupError, match="refuses the user or the password") as refused:
            async with opened(f"redis://{credentials}localhost:{server.port}"):
                pass
    assert "wr0ng" not in str(refused.value)


async def test_database_that_is_not_there_prevents_the_start(server):
    with pytest.raises(StartupError, match="no database with this number"):
        async with opened(f"{server.url}/99"):
            pass


async def test_databases_are_told_apart(server):
    keep, look = (
        Script("set", "return redis.call('SET', KEYS[1], 1)"),
        Script("exists", "return redis.call('EXISTS', KEYS[1])"),
    )
    async with opened(f"{server.url}/1") as one, opened(server.url) as other:
        await one.run(keep, ["a"])
        assert [await state.run(look, ["a"]) for state in (one, other)] == [1, 0]


async def test_server_speaks_tls(tmp_path):
    ca = trustme.CA()
    async with (
        state_servers.running(tmp_path / "redis", password="s3cret", ca=ca) as server,
        opened(server.url, tmp_path / "redis" / "ca.pem") as state,
        state.channels.listening("one") as one,
    ):
        assert await state.run(ECHO, [], "a") == b"a"
        await asyncio.wait_for(one.wait(), PATIENCE)


async def test_certificate_of_another_ca_is_refused(tmp_path, caplog):
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    async with (
        state_servers.running(tmp_path / "redis", ca=trustme.CA()) as server,
        opened(server.url, tmp_path / "other.pem") as state,
    ):
        assert not await state.reachable()
    assert "certificate cannot be verified" in caplog.text


async def test_ca_that_is_not_there_prevents_the_start(tmp_path):
    with pytest.raises(StartupError, match="state-ca"):
        async with opened("rediss://localhost:1", tmp_path / "absent.pem"):
            pass


async def test_server_that_never_answers_is_given_up_soon():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        async with asyncio.timeout(PATIENCE), opened(f"redis://127.0.0.1:{silent.getsockname()[1]}") as state:
            assert not await state.reachable()
