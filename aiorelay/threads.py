"""Work in threads, seen through to its end: what a thread still uses is not taken away under it."""

import asyncio
import contextlib
from concurrent.futures import Future
from typing import Any, TypeVar

__all__ = ["ended", "outcome"]

_Result = TypeVar("_Result")


async def outcome(job: Future[_Result]) -> _Result:
    """Wait for the result of ``job``. One that is there already costs the loop no wake-up."""
    return job.result() if job.done() else await asyncio.wrap_future(job)


async def ended(job: asyncio.Future[Any]) -> None:
    """Wait until ``job`` has ended, well or not; ``job.result()`` says which.

    A cancellation meanwhile does not reach the job, which could not be stopped anyhow: it is raised once the
    job has ended. A job whose result nobody asks for is not reported as never retrieved.
    """
    cancelled: asyncio.CancelledError | None = None
    while not job.done():
        try:
            await asyncio.wait([job])
        except asyncio.CancelledError as cancellation:
            cancelled = cancellation
    with contextlib.suppress(asyncio.CancelledError):
        job.exception()
    if cancelled is not None:
        raise cancelled
