"""Whatever happens to an unfinished upload, it has the bytes that were acknowledged, and no others."""

import asyncio
import contextlib
import itertools
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from unfinished_uploads import OWNER, append, content_of, created, opened

from aiorelay.errors import OffsetMismatch, Superseded
from aiorelay.rest1.resumable.store import FileUploads
from aiorelay.rest1.resumable.unfinished import Upload

pytestmark = pytest.mark.slow

SIZES = st.one_of(st.integers(0, 20), st.integers(0, 2_000_000))


@dataclass
class State:
    """An upload, two stores that share it as two processes would, and the content that it must have."""

    directory: Path
    stores: list[FileUploads]
    upload: Upload
    fsync: bool
    expected: bytes = b""


def block_of(number: int, size: int) -> bytes:
    return (number.to_bytes(3, "big") * (size // 3 + 1))[:size]


async def append_whole(state: State, number: int, which: int, size: int) -> None:
    block = block_of(number, size)
    now = await append(state.stores[which], state.upload, block, len(state.expected))
    state.expected += block
    assert now.offset == len(state.expected)


async def append_at_wrong_offset(state: State, number: int, which: int, size: int) -> None:
    with pytest.raises(OffsetMismatch) as caught:
        await append(state.stores[which], state.upload, block_of(number, size), len(state.expected) + 1 + size)
    assert caught.value.offset == len(state.expected)


async def truncate(state: State, number: int, which: int, size: int) -> None:
    async with state.stores[which].appending(state.upload.id, OWNER) as appending:
        await appending.write(block_of(number, size))
        keep = (len(state.expected) + size) // 2
        await appending.truncate(keep)
        await appending.write(b"after")
    state.expected = (state.expected + block_of(number, size))[:keep] + b"after"


async def cancel(state: State, number: int, which: int, size: int) -> None:
    """Cancel an append after some steps of the loop."""
    passed = len(state.expected)
    block = block_of(number, size)

    async def append_on() -> None:
        nonlocal passed
        async with state.stores[which].appending(state.upload.id, OWNER) as appending:
            for start in range(0, size, 70_000):
                passed += len(block[start : start + 70_000])
                await appending.write(block[start : start + 70_000])

    task = asyncio.create_task(append_on())
    for _ in range(number * 7 % 40):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    state.expected = (state.expected + block)[:passed]


async def take_over(state: State, number: int, which: int, size: int) -> None:
    """Begin to append, and let another request do so meanwhile."""
    block = block_of(number, size)
    appending_now = asyncio.Event()

    async def older() -> None:
        with contextlib.suppress(Superseded):
            async with state.stores[which].appending(state.upload.id, OWNER) as appending:
                await appending.write(block)
                appending_now.set()
                await appending.superseded.wait()
                await appending.write(b"never")

    task = asyncio.create_task(older())
    await appending_now.wait()
    newer = state.stores[number % 2]
    now = await newer.interrupt(state.upload.id, OWNER)
    state.expected += block
    assert now.offset == len(state.expected)
    await task


async def lose_power(state: State, number: int, which: int, size: int) -> None:  # noqa: ARG001 - as the others
    """With fsync: leave bytes behind that were never synced."""
    if state.fsync:
        with (state.directory / f"{state.upload.id}.data").open("ab") as file:
            file.write(bytes(size))


async def restart(state: State, number: int, which: int, size: int) -> None:  # noqa: ARG001 - as the others
    await state.stores[which].__aexit__()
    state.stores[which] = opened(state.directory, fsync=state.fsync)
    await state.stores[which].__aenter__()


Step = Callable[[State, int, int, int], Any]
STEPS: list[Step] = [append_whole, append_at_wrong_offset, truncate, cancel, take_over, lose_power, restart]


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 1), SIZES), max_size=8), fsync=st.booleans())
@pytest.mark.slow
def test_content_is_what_was_acknowledged(steps: list[tuple[Step, int, int]], *, fsync: bool) -> None:
    async def run() -> None:
        with tempfile.TemporaryDirectory() as name:
            directory = Path(name)
            stores = [opened(directory, fsync=fsync) for _ in range(2)]
            for store in stores:
                await store.__aenter__()
            state = State(directory, stores, await created(stores[0]), fsync)
            try:
                for number, (step, which, size) in zip(itertools.count(1), steps, strict=False):
                    await step(state, number, which, size)
                    found = await state.stores[1].find(state.upload.id, OWNER)
                    assert found.offset == len(state.expected)
                    assert await content_of(state.stores[0], state.upload) == state.expected
            finally:
                for store in state.stores:
                    await store.__aexit__()

    asyncio.run(run())
