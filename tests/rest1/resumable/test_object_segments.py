"""Segments of unfinished uploads in object storage: what ``Segments`` promises, against two servers."""

import os
import secrets
from collections.abc import AsyncGenerator

import pytest
from aiohttp import web
from object_stores import (
    BUCKET,
    MIB,
    Exchange,
    Fault,
    FaultyStorage,
    Place,
    answering,
    hang,
    lose_answer,
    reset_in_body,
)
from yarl import URL

from aiorelay.errors import Gone, Internal, StateUnavailable, StorageFull
from aiorelay.object_storage.client import Client
from aiorelay.observability.metrics import Metrics
from aiorelay.rest1.resumable.object_segments import ObjectSegments

pytestmark = pytest.mark.slow

CONTENT = os.urandom(2 * MIB + 5)
FOREVER = 10**6


@pytest.fixture(autouse=True)
def credentials(s3_credentials):
    """Let the relay use the object stores."""


@pytest.fixture(params=["seaweedfs", "digest_verifier"])
def place(request) -> Place:
    return Place(request.getfixturevalue(request.param), secrets.token_hex(8))


@pytest.fixture
async def segments(place) -> AsyncGenerator[ObjectSegments, None]:
    async with Client(URL(place.endpoint), setting="spool", metrics=Metrics().storage) as client:
        yield ObjectSegments(client, BUCKET, place.prefix)


@pytest.fixture
async def faulty(place):
    """A factory of segments behind a proxy with a fault."""
    async with (
        FaultyStorage(place.endpoint) as proxy,
        Client(URL(proxy.url), setting="spool", metrics=Metrics().storage) as client,
    ):

        def make(fault: Fault) -> ObjectSegments:
            proxy.faults.append(fault)
            return ObjectSegments(client, BUCKET, place.prefix)

        yield make


async def read(segments: ObjectSegments, name: str, start: int = 0, end: int = len(CONTENT)) -> bytes:
    return b"".join([block async for block in segments.read(name, start, end)])


async def names(segments: ObjectSegments, seconds: float = 0) -> set[str]:
    return {name async for name in segments.older_than(seconds)}


async def test_a_segment_is_read_from_any_byte_to_any_byte(segments):
    await segments.put("upload/a", CONTENT)
    for start, end in ((0, len(CONTENT)), (0, 1), (len(CONTENT) - 1, len(CONTENT)), (MIB - 1, MIB + 1), (5, 5)):
        assert await read(segments, "upload/a", start, end) == CONTENT[start:end]


async def test_the_largest_segment_is_kept(segments):
    content = os.urandom(segments.largest)
    await segments.put("upload/a", content)
    assert await read(segments, "upload/a", 0, len(content)) == content


async def test_a_segment_may_be_put_again(segments):
    for _ in range(2):
        await segments.put("upload/a", CONTENT)
    assert await read(segments, "upload/a") == CONTENT


async def test_removed_segments_are_gone(segments, place):
    kept = [f"upload/{number}" for number in range(40)]
    for name in kept:
        await segments.put(name, b"x")
    await segments.remove([*kept[1:], "upload/unknown"])
    assert list(await place.objects()) == ["upload/0"]
    with pytest.raises(Gone):
        await read(segments, "upload/1")


async def test_segments_are_listed_by_their_age(segments, place):
    await segments.put("upload/a-_0", b"x")
    await segments.put("other/b", b"x")
    await place.put("notes.txt", b"of somebody else")
    assert await names(segments) == {"upload/a-_0", "other/b"}
    assert await names(segments, 3600) == set()


def breaking_at(count: int):
    async def act(exchange: Exchange) -> web.StreamResponse:
        whole = await exchange.forward()
        answer = web.StreamResponse(status=whole.status, headers=whole.headers)
        answer.content_length = len(whole.body)
        await answer.prepare(exchange.request)
        await answer.write(whole.body[:count])
        exchange.cut()
        return answer

    return act


RECOVERED = {
    "slow down": ("PutObject", answering(503, "SlowDown"), 2),
    "reset in the body": ("PutObject", reset_in_body, 2),
    "answer lost": ("PutObject", lose_answer, 1),
    "reading slowed down": ("GetObject", answering(503, "SlowDown"), 2),
    "reading breaks off": ("GetObject", breaking_at(MIB // 2), 3),
}


@pytest.mark.parametrize(("of", "act", "times"), RECOVERED.values(), ids=RECOVERED)
async def test_a_temporary_failure_is_retried(faulty, of, act, times):
    fault = Fault(of, act, times)
    segments = faulty(fault)
    await segments.put("upload/a", CONTENT)
    assert await read(segments, "upload/a") == CONTENT
    assert fault.times == 0


FAILED = {
    "slow down": (answering(503, "SlowDown"), StateUnavailable),
    "hangs": (hang, StateUnavailable),
    "full": (answering(507, "XMinioStorageFull"), StorageFull),
    "denied": (answering(403, "AccessDenied"), Internal),
}


@pytest.mark.parametrize(("act", "problem"), FAILED.values(), ids=FAILED)
async def test_a_lasting_failure_is_told(faulty, place, act, problem):
    segments = faulty(Fault("PutObject", act, FOREVER))
    with pytest.raises(problem):
        await segments.put("upload/a", CONTENT)
    assert await place.objects() == {}


async def test_a_read_that_keeps_breaking_off_is_a_failure(faulty):
    segments = faulty(Fault("GetObject", breaking_at(10), FOREVER))
    await segments.put("upload/a", CONTENT)
    with pytest.raises(StateUnavailable):
        await read(segments, "upload/a")
