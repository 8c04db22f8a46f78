"""Resumable uploads over several relays that share them: each request may reach any relay."""

import contextlib
from typing import Any

import pytest
import state_servers
from directory_segments import DirectorySegments
from peers import connected
from resumable_requests import code, path_of
from yarl import URL

from aiorelay.observability.metrics import Metrics
from aiorelay.rest1.resumable.shared_store import SharedUploads
from aiorelay.server import wiring
from aiorelay.state.server import StateAddress, open_state

pytestmark = [pytest.mark.needs("redis-server"), pytest.mark.slow]

CONTENT = bytes(range(256)) * 2000


class OpenedUploads:
    """Uploads at ``url`` and in ``segments``, opened as those in files are: by relays without object storage."""

    def __init__(self, url: str, segments: DirectorySegments, **options: Any) -> None:
        self._url = url
        self._segments = segments
        self._options = options
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self):
        state = await self._stack.enter_async_context(
            open_state(StateAddress(url=URL(self._url)), Metrics().state.called)
        )
        self._uploads = await self._stack.enter_async_context(SharedUploads(state, self._segments, **self._options))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._uploads, name)


@pytest.fixture
async def two(tmp_path, monkeypatch, start_relay):
    """Two relays without a state directory in common, which share uploads."""
    segments = DirectorySegments(tmp_path / "segments")
    async with state_servers.running(tmp_path / "redis") as server:
        monkeypatch.setattr(
            wiring,
            "FileUploads",
            lambda _directory, *, fsync, **options: OpenedUploads(server.url, segments, **options),  # noqa: ARG005
        )
        yield [await start_relay(state_dir=tmp_path / name, state=server.url) for name in ("one", "other")]


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
    async with connected(one.chain.rest1, one.chain.tls) as client:
        await client.send(older[:-3])
        at = 0
        while at == 0:  # until the older request has begun
            told = await other.speaking(protocol).head(path)
            assert told.status // 100 == 2
            at = int(told["Upload-Offset"])
        answer = await client.answer()
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
