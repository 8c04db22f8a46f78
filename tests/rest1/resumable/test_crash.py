"""Uploads survive cut connections and killed processes: every byte arrives once."""

import random
import signal
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from peers import connected
from processes import FREE_PORTS, Process, started
from resumable_requests import Draft, Tus, path_of

from aiorelay.rest2.directory import stored

pytestmark = pytest.mark.slow

MIB = 1024 * 1024
SEED = 13
CUTS = 200
KILLS = 20


class Killable:
    """A relay with an embedded upload API that can be killed and started again."""

    def __init__(self, directory: Path) -> None:
        self.store = directory / "store"
        self._arguments = [*FREE_PORTS, "--store", self.store, "--state-dir", directory / "state"]
        self._stack = AsyncExitStack()

    async def start(self) -> Draft:
        """Start it, and return requests to it."""
        self._process: Process = await self._stack.enter_async_context(started(*self._arguments))
        return Draft(self._process.rest1, self._process.tls)

    async def kill(self) -> None:
        assert await self._process.stop(signal.SIGKILL) == -signal.SIGKILL
        await self._stack.aclose()

    async def stop(self) -> None:
        await self._stack.aclose()


async def cut_off(
    requests: Draft | Tus, path: str, offset: int, content: bytes, *, length: int, last: bool = True
) -> None:
    """Send the ``content`` of an append that is to have ``length`` bytes, and reset the connection."""
    headers = requests.patch(offset, last=last)
    async with connected(requests.url, requests.tls) as client:
        await client.send(requests.raw("PATCH", path, *headers, body=content, length=length, **requests.content))
        client.reset()


async def test_upload_survives_cuts_and_kills_at_random_bytes(tmp_path):
    choices = random.Random(SEED)  # noqa: S311 - no secret
    content = choices.randbytes(64 * MIB)
    cuts = sorted(choices.sample(range(1, len(content)), CUTS + KILLS))
    kills = set(choices.sample(cuts, KILLS))
    relay = Killable(tmp_path)
    draft = await relay.start()
    try:
        path = path_of(await draft.create(len(content)))
        offset = 0
        for cut in cuts:
            last = choices.random() < 0.1  # such a request is delivered while it comes, from the first byte on
            await cut_off(draft, path, offset, content[offset:cut], length=len(content) - offset, last=last)
            if cut in kills:
                await relay.kill()
                draft = await relay.start()
            answer = await draft.head(path)
            assert answer.status == 204
            assert offset <= int(answer["Upload-Offset"]) <= max(cut, offset)
            offset = int(answer["Upload-Offset"])
        assert offset > len(content) // 2, "too few bytes arrived before the cuts"
        answer = await draft.append(path, offset, content[offset:], last=True)
        assert (answer.status, answer["Upload-Complete"]) == (200, "?1")
        (file,) = stored(relay.store)
        assert file.read_bytes() == content
    finally:
        await relay.stop()


STEPS = st.lists(
    st.tuples(st.sampled_from(["append", "cut", "head", "wrong offset"]), st.integers(1, 100)), min_size=1, max_size=8
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.one_of(st.integers(0, 2), st.integers(200, 2000)), steps=STEPS, told=st.booleans())
async def test_whatever_happens_the_upload_api_gets_the_file_once(relay, protocol, length, steps, told):
    content = (bytes(range(256)) * 8)[:length]
    requests = relay.speaking(protocol)
    for connection in relay.upstream.connections:  # of the example before
        connection.requests.clear()
    answer = await requests.create(len(content) if told else None)
    if protocol == "tus" and told and not content:
        assert relay.received() == [content]
        return
    path, offset = path_of(answer), 0
    for step, size in steps:
        piece = content[offset : offset + size]
        is_end = offset + len(piece) == len(content)
        if is_end:
            break
        if step == "append":
            answer = await requests.append(path, offset, piece, last=False)
            assert (answer.status, answer["Upload-Offset"]) == (204, str(offset + len(piece)))
        elif step == "wrong offset":
            answer = await requests.append(path, offset + size, piece, last=False)
            assert answer.status == 409
        elif step == "cut":
            await cut_off(requests, path, offset, piece, length=len(content) - offset)
        seen = int((await requests.head(path))["Upload-Offset"])
        assert offset <= seen <= offset + len(piece)
        assert step != "append" or seen == offset + len(piece)
        offset = seen
    answer = await requests.append(path, offset, content[offset:], f"Upload-Length: {len(content)}", last=True)
    assert answer.status == 200
    assert (await requests.head(path))["Upload-Offset"] == str(len(content))
    assert relay.received() == [content]
