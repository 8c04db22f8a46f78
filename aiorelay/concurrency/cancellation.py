"""Await code that may swallow a cancellation."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

__all__ = ["cancellable"]

_Result = TypeVar("_Result")


async def cancellable(work: Awaitable[_Result]) -> _Result:
    """Await ``work``, and raise ``CancelledError`` if the task is cancelled meanwhile, whatever the work makes of it.

    Before Python 3.12, ``asyncio.wait_for`` returns a result that comes in the moment of the cancellation, which is
    then lost (gh-86296). redis-py uses it for everything that it sends.
    """
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - only tasks await
    before = task.cancelling()
    try:
        return await work
    finally:
        if task.cancelling() > before:
            raise asyncio.CancelledError
