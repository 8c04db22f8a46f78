"""Jobs in threads are seen through to their end."""

import asyncio
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

import pytest

from aiorelay.concurrency.threads import result_of, wait_until_done


async def test_the_outcome_of_a_job_is_its_result_now_or_later() -> None:
    job: Future[str] = Future()
    asyncio.get_running_loop().call_soon(job.set_result, "done")
    assert await result_of(job) == "done"
    assert await result_of(job) == "done"


async def test_job_in_the_queue_is_done_although_who_waits_is_cancelled() -> None:
    busy = Event()
    with ThreadPoolExecutor(1) as pool:
        pool.submit(busy.wait)
        job = pool.submit(lambda: "done")
        waiting = asyncio.create_task(result_of(job))
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        busy.set()
        assert job.result() == "done"


async def test_a_cancellation_waits_for_the_job_and_is_raised_after_it() -> None:
    job: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    waiting = asyncio.create_task(wait_until_done(job))
    for _ in range(3):
        await asyncio.sleep(0)
        waiting.cancel()
    await asyncio.sleep(0)
    assert not waiting.done()
    job.set_result("done")
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert job.result() == "done"


async def test_a_failed_job_ends_without_raising() -> None:
    job: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    job.set_exception(OSError())
    await wait_until_done(job)


async def test_a_cancelled_job_has_ended() -> None:
    job: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    job.cancel()
    await wait_until_done(job)
