"""Cancellation of a task that is in the code of others."""

import asyncio
import contextlib

import pytest

from aiorelay.concurrency.cancellation import cancellable


async def swallows(failure: Exception | None = None) -> str:
    """Take a cancellation for nothing."""
    with contextlib.suppress(asyncio.CancelledError):
        await asyncio.Event().wait()
    if failure is not None:
        raise failure
    return "result"


async def test_result_and_failure_are_those_of_the_work():
    assert await cancellable(asyncio.sleep(0, "result")) == "result"
    with pytest.raises(TypeError):
        await cancellable(asyncio.to_thread(int, None))


@pytest.mark.parametrize("failure", [None, OSError()], ids=["result", "failure"])
async def test_swallowed_cancellation_is_raised(failure):
    task = asyncio.create_task(cancellable(swallows(failure)))
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()


async def test_timeout_around_it_is_a_timeout():
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await cancellable(swallows())


async def test_cancellation_of_before_is_not_raised_again():
    async def cancelled_before() -> str:
        await swallows()
        return await cancellable(asyncio.sleep(0, "result"))

    task = asyncio.create_task(cancelled_before())
    await asyncio.sleep(0)
    task.cancel()
    assert await task == "result"
