"""Unfinished uploads that relays share: any relay continues them, and one relay at a time."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import state_servers
from directory_segments import DirectorySegments
from peers import PATIENCE
from unfinished_uploads import CONTENT, MIB, OWNER, append, created
from yarl import URL

from aiorelay.errors import Gone, NotFound, OffsetMismatch, StateUnavailable, StorageFull, Superseded
from aiorelay.observability.metrics import Metrics
from aiorelay.rest1.resumable.shared_store import SharedUploads
from aiorelay.rest1.resumable.unfinished import Upload
from aiorelay.state.server import Script, StateAddress, open_state

pytestmark = pytest.mark.needs("redis-server")

KEYS = Script("keys", "return redis.call('KEYS', '*')")
LIVES = Script(
    "lives", "local l = {} for _, k in ipairs(redis.call('KEYS', '*')) do l[#l+1] = redis.call('PTTL', k) end return l"
)
EXPIRY = Script("expiry", "return redis.call('ZCARD', 'aiorelay:1:{uploads}:expiry')")
USED = Script("used", "return redis.call('GET', 'aiorelay:1:{uploads}:used')")

Open = Callable[..., "contextlib.AbstractAsyncContextManager[SharedUploads]"]


@pytest.fixture(params=["redis", "valkey"])
async def server(request, tmp_path) -> AsyncIterator[state_servers.StateServerProcess]:
    executable = state_servers.valkey() if request.param == "valkey" else None
    async with state_servers.running(tmp_path / "redis", executable=executable, durable=True) as server:
        yield server


@pytest.fixture
def segments(tmp_path) -> DirectorySegments:
    return DirectorySegments(tmp_path / "segments")


@pytest.fixture
async def state(server):
    async with open_state(StateAddress(url=URL(server.url)), Metrics().state.called) as state:
        yield state


@pytest.fixture
async def relays(server, segments):
    """A factory of the stores of relays that share one server and their segments."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(**options) -> SharedUploads:
            address = StateAddress(url=URL(server.url))
            state = await stack.enter_async_context(open_state(address, Metrics().state.called))
            given = {"quota": 100 * MIB, "expiry": 3600, "lease": 1.0} | options
            return await stack.enter_async_context(SharedUploads(state, segments, **given))

        yield start


@pytest.fixture
async def two(relays):
    return await relays(), await relays()


async def content_of(uploads: SharedUploads, upload: Upload) -> bytes:
    async with uploads.appending(upload.id, OWNER) as appending:
        return b"".join([block async for block in appending.read()])


async def test_any_relay_continues_an_upload(two, segments):
    one, other = two
    upload = await created(one, len(CONTENT))
    for start in range(0, len(CONTENT), 3 * MIB):
        relay = (one, other)[start // (3 * MIB) % 2]
        found = await append(relay, upload, CONTENT[start : start + 3 * MIB], start)
        assert found.size == min(start + 3 * MIB, len(CONTENT))
    assert await content_of(other, upload) == CONTENT
    async with other.appending(upload.id, OWNER) as appending:
        assert b"".join([block async for block in appending.read(99_990, 100_010)]) == CONTENT[99_990:100_010]
        await appending.end({"state": "done"})
    assert (await one.find(upload.id, OWNER)).outcome == {"state": "done"}
    assert segments.names == set()


async def test_upload_is_as_it_was_made_for_every_relay(two):
    one, other = two
    upload = await created(one, 7, partial=True)
    assert await other.find(upload.id, OWNER) == upload
    assert await other.find(upload.id, OWNER, "tus") == upload
    for identity, owner, protocol in (
        (upload.id, "you", None),
        (upload.id, OWNER, "http"),
        ("x" * 32, OWNER, None),
        ("../secret", OWNER, None),
    ):
        with pytest.raises(NotFound):
            await other.find(identity, owner, protocol)


async def test_last_byte_of_a_complete_upload_is_sent_again(two):
    one, other = two
    upload = await created(one, 7)
    await append(one, upload, b"content", 0)
    assert (await other.find(upload.id, OWNER)).offset == 6
    async with other.appending(upload.id, OWNER, 6) as appending:
        assert appending.received == 6
        await appending.write(b"T")
    assert await content_of(one, upload) == b"contenT"


@pytest.mark.parametrize("size", [0, 1, 99_999, 100_000, 100_001, 250_000])
async def test_upload_is_truncated_anywhere(two, segments, size):
    one, other = two
    upload = await created(one)
    async with one.appending(upload.id, OWNER, 0) as appending:
        await appending.write(CONTENT[:250_000])
        await appending.truncate(size)
        assert appending.received == appending.upload.size == size
        await appending.write(b"more")
    assert (await other.find(upload.id, OWNER)).size == size + 4
    assert await content_of(other, upload) == CONTENT[:size] + b"more"
    assert len(segments.names) == -(-size // 100_000) + 1


async def test_wrong_offset_is_refused(two):
    one, other = two
    upload = await created(one, 10)
    await append(one, upload, b"content", 0)
    with pytest.raises(OffsetMismatch) as mismatch:
        await append(other, upload, b"more", 3)
    assert mismatch.value.offset == 7


async def test_length_is_set_once_for_all_relays(two):
    one, other = two
    upload = await created(one)
    async with one.appending(upload.id, OWNER) as appending:
        await appending.set_length(7)
        with pytest.raises(ValueError, match="more bytes"):
            await appending.write(b"too much content")
    assert (await other.find(upload.id, OWNER)).length == 7


# -- one writer at a time


async def test_newer_request_at_another_relay_ends_the_older_one_which_keeps_what_it_has(two):
    one, other = two
    upload = await created(one)
    writing, gave_way = asyncio.Event(), asyncio.Event()

    async def older() -> None:
        async with one.appending(upload.id, OWNER, 0) as appending:
            await appending.write(b"older")
            writing.set()
            await appending.superseded.wait()
            await appending.flush()
            gave_way.set()
            await appending.write(b"too late")

    task = asyncio.create_task(older())
    await writing.wait()
    async with other.appending(upload.id, OWNER) as appending:
        assert gave_way.is_set()
        assert appending.received == 5
        await appending.write(b" newer")
    with pytest.raises(Superseded):
        await task
    assert await content_of(one, upload) == b"older newer"


async def test_of_many_requests_at_once_one_writes_at_a_time_and_nothing_is_lost(two):
    upload = await created(two[0])
    inside: list[int] = []
    written: list[bytes] = []

    async def request(number: int) -> None:
        async with two[number % 2].appending(upload.id, OWNER) as appending:
            assert not inside
            inside.append(number)
            try:
                await appending.write(b"%03d" % number)
                await asyncio.sleep(0)
                written.append(b"%03d" % number)
                await appending.flush()
            finally:
                inside.clear()

    async with asyncio.timeout(PATIENCE):
        ends = await asyncio.gather(*(request(number) for number in range(30)), return_exceptions=True)
    assert {type(end) for end in ends} <= {type(None), Superseded}
    assert type(None) in {type(end) for end in ends}
    assert await content_of(two[0], upload) == b"".join(written)


async def test_delivery_is_waited_for(two):
    one, other = two
    upload = await created(one, 7)
    await append(one, upload, b"content", 0)
    delivering, answered = asyncio.Event(), asyncio.Event()

    async def deliver() -> None:
        async with one.appending(upload.id, OWNER) as appending, appending.delivering():
            delivering.set()
            await answered.wait()
            assert not appending.superseded.is_set()
            await appending.end({"state": "done"})

    task = asyncio.create_task(deliver())
    await delivering.wait()
    assert (await other.interrupt(upload.id, OWNER)).ended is None  # it does not wait
    waiting = asyncio.create_task(content_of(other, upload))
    await asyncio.sleep(1.5)  # longer than a lease, which is renewed meanwhile
    assert not waiting.done()
    answered.set()
    with pytest.raises(Gone):
        await waiting
    await task


async def test_interruption_ends_the_writer_of_another_relay(two):
    one, other = two
    upload = await created(one)
    writing = asyncio.Event()

    async def older() -> None:
        async with one.appending(upload.id, OWNER, 0) as appending:
            await appending.write(b"content")
            writing.set()
            await appending.superseded.wait()

    task = asyncio.create_task(older())
    await writing.wait()
    assert (await other.interrupt(upload.id, OWNER)).offset == 7
    await task


RELAY = """
import asyncio, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from directory_segments import DirectorySegments
from yarl import URL
from aiorelay.errors import Superseded
from aiorelay.observability.metrics import Metrics
from aiorelay.rest1.resumable.shared_store import SharedUploads
from aiorelay.state.server import StateAddress, open_state

async def main():
    segments = DirectorySegments(Path({directory!r}))
    async with open_state(StateAddress(url=URL({url!r})), Metrics().state.called) as state:
        async with SharedUploads(state, segments, quota=2**30, expiry=3600, lease=1.0) as uploads:
            async with uploads.appending({identity!r}, "me", 0) as appending:
                await appending.write(b"x" * 250_000)
                await appending.flush()
                await appending.write(b"y" * 50_000)
                print("written", flush=True)
                sys.stdin.readline()  # the process is as if it were paused
                await appending.flush()

try:
    asyncio.run(main())
except Superseded:
    print("superseded", flush=True)
"""


@pytest.fixture
async def other_process(server, segments):
    """A factory of processes that append 250000 bytes to an upload and gather more, until they get a line."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(upload: Upload) -> asyncio.subprocess.Process:
            tests = str(Path(__file__).parents[2])
            script = RELAY.format(tests=tests, directory=str(segments.directory), url=server.url, identity=upload.id)
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdin=pipe, stdout=pipe)
            stack.push_async_callback(process.communicate)
            assert await process.stdout.readline() == b"written\n"
            return process

        yield start


async def test_upload_of_a_killed_relay_is_continued_within_seconds(relays, other_process):
    relay = await relays()
    upload = await created(relay)
    process = await other_process(upload)
    process.kill()
    begun = time.monotonic()
    async with relay.appending(upload.id, OWNER) as appending:  # without a retry
        assert appending.received == 250_000
        await appending.write(b"z")
    assert time.monotonic() - begun < 10  # far more than a lease
    assert await content_of(relay, upload) == b"x" * 250_000 + b"z"


async def test_relay_that_was_paused_for_longer_than_its_lease_cannot_write(relays, other_process, segments):
    relay = await relays()
    upload = await created(relay)
    process = await other_process(upload)
    async with relay.appending(upload.id, OWNER) as appending:
        await appending.write(b"z")
        await appending.flush()
        process.stdin.write(b"\n")
        assert await process.stdout.readline() == b"superseded\n"
        await appending.write(b"z")
    assert await content_of(relay, upload) == b"x" * 250_000 + b"zz"
    await relay.sweep()
    assert len(segments.names) == 6  # one counts for nothing, but is too young to be removed


async def test_segments_that_no_upload_has_are_swept(relays, segments):
    relay = await relays()
    upload = await created(relay)
    await append(relay, upload, b"content", 0)
    kept = segments.names
    for name in (f"{upload.id}/lost", f"{'x' * 32}/lost"):
        await segments.put(name, b"lost")
    for name in segments.names:
        os.utime(segments.directory / name, (0, 0))
    await segments.put(f"{upload.id}/new", b"new")
    await relay.sweep()
    assert segments.names == kept | {f"{upload.id}/new"}


async def test_all_relays_list_the_segments_once_in_an_interval(relays, segments):
    for relay in [await relays(expiry=0.2), await relays(expiry=0.2)]:
        for _ in range(3):
            upload = await created(relay)
            await append(relay, upload, b"content", 0)
            await until_swept(segments)
    assert segments.listings == 1


async def test_segments_are_listed_again_in_the_next_interval(relays, segments):
    await relays(expiry=0.2, listing_interval=0.1)
    for _ in range(2):
        name = f"{'x' * 32}/lost"
        await segments.put(name, b"lost")
        os.utime(segments.directory / name, (0, 0))
        await until_swept(segments)


async def until_swept(segments: DirectorySegments) -> None:
    async with asyncio.timeout(PATIENCE):
        while segments.names:  # noqa: ASYNC110 - the sweep has no event
            await asyncio.sleep(0.01)


async def test_more_expired_uploads_than_one_call_returns_are_swept_at_once(state, segments):
    relay = SharedUploads(state, segments, quota=MIB, expiry=0.001)
    for _ in range(101):
        await created(relay, 1)
    await relay.sweep()
    assert await state.run(EXPIRY, []) == 0


# -- the end, and how much


async def test_ended_upload_is_told_then_forgotten(relays):
    relay = await relays(kept=0.5)
    upload = await created(relay)
    async with relay.appending(upload.id, OWNER, 0) as appending:
        await appending.write(b"content")
        await appending.flush()
        ended = await appending.end({"state": "done"})
    assert (ended.size, ended.outcome) == (7, {"state": "done"})
    assert (await relay.find(upload.id, OWNER)).outcome == {"state": "done"}
    with pytest.raises(Gone):
        await append(relay, upload, b"more")
    async with asyncio.timeout(PATIENCE):
        while await is_known(relay, upload):  # noqa: ASYNC110 - there is no event for what expires
            await asyncio.sleep(0.05)


async def is_known(relay: SharedUploads, upload: Upload) -> bool:
    with contextlib.suppress(NotFound):
        await relay.find(upload.id, OWNER)
        return True
    return False


async def test_removed_upload_is_gone_for_every_relay(two, segments):
    one, other = two
    upload = await created(one)
    await append(one, upload, b"content", 0)
    await other.remove(upload.id, OWNER)
    assert segments.names == set()
    for relay in two:
        with pytest.raises(Gone):
            await relay.find(upload.id, OWNER)


async def test_outcome_without_an_upload_of_its_own_is_kept_and_can_be_removed(two, state):
    one, other = two
    made = await one.create_ended(owner=OWNER, protocol="tus", request={}, length=7, outcome={"state": "done"})
    assert await other.find(made.id, OWNER) == made
    assert int(await state.run(USED, [])) == 0
    await other.remove(made.id, OWNER)
    with pytest.raises(Gone):
        await one.find(made.id, OWNER)


async def test_expired_upload_is_gone_and_swept(relays, segments, state):
    relay = await relays(expiry=0.5)
    upload = await created(relay)
    await append(relay, upload, b"content", 0)
    await until_swept(segments)
    with pytest.raises(Gone):
        await relay.find(upload.id, OWNER)
    assert int(await state.run(USED, [])) == 0


async def test_upload_that_is_appended_to_does_not_expire(relays):
    relay = await relays(expiry=0.3)
    upload = await created(relay)
    async with relay.appending(upload.id, OWNER, 0) as appending:
        await asyncio.sleep(0.6)
        await appending.write(b"content")
    assert (await relay.find(upload.id, OWNER)).size == 7


async def test_relays_share_one_quota(relays):
    one, other = [await relays(quota=300_000) for _ in range(2)]
    first, second = await created(one), await created(other)
    await append(one, first, CONTENT[:200_000], 0)
    with pytest.raises(StorageFull):
        await append(other, second, CONTENT[:200_000], 0)
    assert (await other.find(second.id, OWNER)).size == 100_000
    for length in (1, None):
        with pytest.raises(StorageFull):
            await created(other, length)
    await one.remove(first.id, OWNER)
    await created(other, 200_000)


async def test_every_key_expires(relays, state):
    relay = await relays()
    upload = await created(relay)
    await append(relay, upload, CONTENT[:250_000], 0)
    lives = await state.run(LIVES, [])
    assert len(lives) == 4
    assert all(3_600_000 < life <= 3_600_000 + 86_400_000 for life in lives)
    assert all(key.startswith(b"aiorelay:1:{uploads}:") for key in await state.run(KEYS, []))


# -- failures


async def test_storage_that_fails_costs_nothing_that_was_acknowledged(two, segments):
    one, other = two
    upload = await created(one)

    async def request() -> None:
        async with one.appending(upload.id, OWNER, 0) as appending:
            await appending.write(b"content")
            assert (await appending.flush()).size == 7
            segments.away = True
            for _ in range(5):
                await appending.write(CONTENT[:100_000])

    with pytest.raises(StateUnavailable):
        await request()
    segments.away = False
    assert (await other.find(upload.id, OWNER)).size == 7
    assert await content_of(other, upload) == b"content"


async def test_restart_of_a_durable_redis_costs_nothing_that_was_acknowledged(two, server):
    one, other = two
    upload = await created(one)
    await append(one, upload, b"content", 0)
    await server.stop()
    for relay in two:
        with pytest.raises(StateUnavailable):
            await relay.find(upload.id, OWNER)
    await server.start()
    await append(other, upload, b" and more", 7)
    assert await content_of(one, upload) == b"content and more"


async def test_cancelled_request_keeps_what_it_has(two):
    one, other = two
    upload = await created(one)
    writing = asyncio.Event()

    async def request() -> None:
        async with one.appending(upload.id, OWNER, 0) as appending:
            await appending.write(b"content")
            writing.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(request())
    await writing.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await content_of(other, upload) == b"content"


async def test_outcome_is_told_although_redis_is_away(relays, server):
    relay = await relays()
    upload = await created(relay, 7)
    await append(relay, upload, b"content", 0)
    async with relay.appending(upload.id, OWNER) as appending, appending.delivering():
        await server.stop()
        ending = asyncio.create_task(appending.end({"state": "done"}))
        await asyncio.sleep(0.7)
        await server.start()
        assert (await ending).outcome == {"state": "done"}
    assert (await relay.find(upload.id, OWNER)).outcome == {"state": "done"}
