"""Relays with one state and one spool in object storage: an upload goes on at any of them."""

import asyncio
import hashlib
import random
import secrets
import signal
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import state_servers
from object_stores import BUCKET, MIB, Place
from peers import PATIENCE, connected
from processes import FREE_PORTS, Process, started
from real_apis import object_store
from resumable_requests import Draft, Requests, Tus, path_of

pytestmark = pytest.mark.needs("redis-server")

SEED = 16
MOVES = 8


@pytest.fixture(autouse=True)
def credentials(s3_credentials):
    """Let the relay use the object stores."""


@pytest.fixture
async def shared(tmp_path):
    """The arguments of relays that share everything, and the places of their files and of their unfinished uploads."""
    (tmp_path / "storage").mkdir()
    async with (
        state_servers.running(tmp_path / "redis", durable=True) as server,
        object_store(tmp_path / "storage", BUCKET) as storage,
    ):
        stored, spool = (Place(storage.s3, secrets.token_hex(4)) for _ in range(2))
        arguments = ["--state", server.url, "--store", stored.url, "--spool", spool.url, "--s3-endpoint", storage.s3]
        yield arguments, stored, spool


class Relays:
    """Relays with state directories of their own, below ``directory``."""

    def __init__(self, arguments: list[str], directory: Path, stack: AsyncExitStack) -> None:
        self._arguments = arguments
        self._directory = directory
        self._stack = stack

    async def start(self, number: int) -> Process:
        state = self._directory / f"state-{number}"
        return await self._stack.enter_async_context(
            started(*FREE_PORTS, "--state-dir", state, "--log-level", "debug", *self._arguments)
        )


async def offset_of(requests: Requests, path: str) -> int:
    answer = await requests.head(path)
    assert answer.status in {200, 204}
    return int(answer["Upload-Offset"])


async def soon(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(0.05)


async def has_more(place: Place, count: int) -> bool:
    return len(await place.objects()) > count


@pytest.mark.parametrize("protocol", [Draft, Tus], ids=["draft", "tus"])
async def test_an_upload_goes_on_at_other_relays_when_its_relay_is_killed(shared, tmp_path, protocol):
    arguments, stored, spool = shared
    choices = random.Random(SEED)  # noqa: S311 - no secret
    content = choices.randbytes((MOVES + 1) * 6 * MIB + 7)
    async with AsyncExitStack() as stack:
        relays = Relays(arguments, tmp_path, stack)
        running = [await relays.start(number) for number in range(2)]
        path, offset = "", 0
        for move in range(MOVES):
            relay = running[move % 2]
            requests = protocol(relay.rest1, relay.tls)
            path = path or path_of(await requests.create(len(content)))
            told = await offset_of(requests, path)
            assert told >= offset  # offsets never run backwards
            offset = told
            piece = content[offset : offset + choices.randrange(5 * MIB, 6 * MIB)]
            before = len(await spool.objects())
            headers = requests.patch(offset, last=False)
            raw = requests.raw("PATCH", path, *headers, body=piece, length=len(content) - offset, **requests.content)
            async with connected(relay.rest1, relay.tls) as client:
                await client.send(raw)
                await soon(lambda before=before: has_more(spool, before))
                if move % 3 == 2:
                    await relay.stop(signal.SIGKILL)
                    running[move % 2] = await relays.start(move % 2)
                else:
                    client.reset()
        requests = protocol(running[0].rest1, running[0].tls)
        offset = await offset_of(requests, path)
        assert offset > (MOVES - 1) * 4 * MIB
        async with asyncio.timeout(PATIENCE):
            answer = await requests.append(path, offset, content[offset:], last=True)
        assert answer.status == 200
        assert answer.json()["files"][0]["sha256"] == hashlib.sha256(content).hexdigest()
    assert list((await stored.objects()).values()) == [content]
    assert await stored.unfinished() == []
    assert await spool.objects() == {}


async def test_the_outcome_is_known_to_every_relay(shared, tmp_path):
    arguments, stored, _ = shared
    async with AsyncExitStack() as stack:
        relays = Relays(arguments, tmp_path, stack)
        one, other = [await relays.start(number) for number in range(2)]
        requests = Draft(one.rest1, one.tls)
        path = path_of(await requests.create(7))
        answer = await requests.append(path, 0, b"content", last=True)
        told = (await Draft(other.rest1, other.tls).get(path)).json()
        assert (told["state"], told["answer"]["status"]) == ("done", answer.status)
    assert list((await stored.objects()).values()) == [b"content"]
