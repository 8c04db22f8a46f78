"""Reuse of idle connections, so that no upload is lost when the upload API closes one."""

import asyncio
import random
import ssl

import pytest
import trustme
from peers import DONE, connected, form, part, request

from aiorelay.rest1.keep_alive import LONGEST, WATCH, KeepAlive

pytestmark = pytest.mark.slow

UPLOADS = 1000
SMALL = request("/upload1", form(part("somefile", b"content", "a.txt")))


class Clock:
    """A clock that is set by the test."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_initially_no_connection_is_reused(clock):
    keep_alive = KeepAlive(clock)
    assert keep_alive.limit() == 0
    assert keep_alive.wants_watch()


def test_one_connection_is_watched_at_a_time(clock):
    keep_alive = KeepAlive(clock)
    keep_alive.watch()
    assert not keep_alive.wants_watch()


@pytest.mark.parametrize(("watched", "limit"), [(0.99, 0), (1.0, 0.5), (2.0, 1.0), (WATCH, LONGEST), (60, LONGEST)])
def test_the_limit_is_half_the_time_for_which_a_watched_connection_stayed_open(clock, watched, limit):
    keep_alive = KeepAlive(clock)
    keep_alive.watch()
    clock.now += watched
    assert keep_alive.limit() == limit


def test_after_a_full_watch_no_other_is_needed(clock):
    keep_alive = KeepAlive(clock)
    keep_alive.watch()
    clock.now += WATCH
    keep_alive.end_watch(is_open=True)
    assert keep_alive.limit() == LONGEST
    assert not keep_alive.wants_watch()


@pytest.mark.parametrize(("watched", "limit"), [(0, 0), (0.99, 0), (1.0, 0.5), (2.0, 1.0)])
def test_the_limit_is_half_the_time_after_which_the_server_closes(clock, watched, limit):
    keep_alive = KeepAlive(clock)
    keep_alive.watch()
    clock.now += watched
    keep_alive.end_watch(is_open=False)
    assert keep_alive.limit() == limit


@pytest.mark.parametrize(("idle", "limit"), [(0.2, 0), (1.2, 0.6)])
def test_a_close_of_a_kept_connection_reduces_the_limit(clock, idle, limit):
    keep_alive = KeepAlive(clock, seen=WATCH)
    keep_alive.server_closed(idle)
    assert keep_alive.limit() == limit


def test_the_time_is_measured_again_a_minute_after_a_close(clock):
    keep_alive = KeepAlive(clock, seen=WATCH)
    keep_alive.server_closed(1.2)
    clock.now += 59
    assert not keep_alive.wants_watch()
    clock.now += 1
    assert keep_alive.wants_watch()
    assert keep_alive.limit() == 0.6


def test_the_time_is_measured_again_after_a_connection_failed_in_use(clock):
    keep_alive = KeepAlive(clock, seen=WATCH)
    keep_alive.reset()
    assert keep_alive.limit() == 0
    assert keep_alive.wants_watch()


def test_a_watch_begins_at_the_last_failure(clock):
    keep_alive = KeepAlive(clock)
    keep_alive.watch()
    clock.now += 2
    keep_alive.reset()
    clock.now += 0.9
    assert keep_alive.limit() == 0


def hanging_up(after):
    """Answer uploads, and close connections that are idle for ``after`` seconds."""

    async def script(connection):
        await connection.request()
        while True:
            await connection.send(DONE)
            next_request = asyncio.ensure_future(connection.request())
            await asyncio.wait([next_request], timeout=after)
            if not next_request.done() and not connection.received_more():
                next_request.cancel()
                return
            await next_request  # raises if the relay has closed the connection

    return script


@pytest.mark.parametrize(
    ("scheme", "after"),
    [
        pytest.param(scheme, after, id=f"{scheme}-{after * 1000:g}ms")
        for scheme, after in [*(("http", after) for after in (0, 0.001, 0.005, 0.01, 2)), ("https", 0.01), ("https", 2)]
    ],
)
async def test_no_upload_is_sent_when_an_idle_connection_is_closed(aiorelay_server, recorder, tmp_path, scheme, after):
    authority, tls = trustme.CA(), None
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    if scheme == "https":
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(tls)
    upstream = await recorder(hanging_up(after), tls=tls)
    relay = await aiorelay_server(only="rest1", upstream=upstream.url, upstream_ca=tmp_path / "ca.pem")
    pauses = random.Random(after)  # noqa: S311 - no secret, and the same in every run
    async with connected(relay.rest1, relay.tls) as client:
        statuses = []
        for _ in range(UPLOADS):
            statuses.append((await client.ask(SMALL)).status)
            await asyncio.sleep(pauses.uniform(0, 0.02))
    assert [(n, status) for n, status in enumerate(statuses) if status != 200] == []
    assert len(upstream.requests) == UPLOADS
