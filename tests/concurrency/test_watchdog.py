"""Waits that are cut short, many with one timer."""

import asyncio

import pytest

from aiorelay.concurrency.timeouts import Watchdog

SOON = 0.02


async def for_ever() -> None:
    await asyncio.get_running_loop().create_future()


async def test_a_wait_that_lasts_too_long_ends_in_a_timeout() -> None:
    with pytest.raises(TimeoutError), Watchdog(SOON).watching():
        await for_ever()
    assert asyncio.current_task().cancelling() == 0


async def test_a_wait_that_ends_in_time_gives_what_it_gave() -> None:
    with Watchdog(60).watching():
        assert await asyncio.sleep(0, "answer") == "answer"


async def test_what_a_wait_raises_is_raised() -> None:
    with pytest.raises(ValueError, match="its own"), Watchdog(60).watching():
        raise ValueError("its own")


async def test_each_wait_has_its_time_from_its_own_beginning() -> None:
    loop, watchdog, ends = asyncio.get_running_loop(), Watchdog(0.1), {}

    async def wait(name: str, before: float) -> None:
        await asyncio.sleep(before)
        began = loop.time()
        with pytest.raises(TimeoutError), watchdog.watching():
            await for_ever()
        ends[name] = loop.time() - began

    await asyncio.gather(wait("late", 0.05), wait("first", 0), wait("early", 0.01))
    assert list(ends) == ["first", "early", "late"]
    assert min(ends.values()) >= 0.1


async def test_a_wait_may_have_the_time_several_times() -> None:
    loop, watchdog, ends = asyncio.get_running_loop(), Watchdog(SOON), {}

    async def wait(name: str, times: int) -> None:
        began = loop.time()
        with pytest.raises(TimeoutError), watchdog.watching(times):
            await for_ever()
        ends[name] = loop.time() - began

    await asyncio.gather(wait("thrice", 3), wait("once", 1), wait("twice", 2))
    assert list(ends) == ["once", "twice", "thrice"]
    assert all(ends[name] >= times * SOON for times, name in enumerate(ends, start=1))


async def test_the_same_watchdog_watches_again_after_it_had_nothing_to_watch() -> None:
    watchdog = Watchdog(SOON)
    for _ in range(3):
        with watchdog.watching():
            await asyncio.sleep(0)
        await asyncio.sleep(2 * SOON)
        with pytest.raises(TimeoutError), watchdog.watching():
            await for_ever()


async def test_a_cancellation_is_no_timeout() -> None:
    entered = asyncio.Event()

    async def wait() -> None:
        with Watchdog(60).watching():
            entered.set()
            await for_ever()

    task = asyncio.create_task(wait())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_cancellation_at_the_same_moment_wins() -> None:
    async def wait() -> None:
        with Watchdog(SOON).watching():
            try:
                await for_ever()
            except asyncio.CancelledError:
                task.cancel()
                raise

    task = asyncio.create_task(wait())
    with pytest.raises(asyncio.CancelledError):
        await task


async def test_a_wait_in_a_wait_ends_alone() -> None:
    outer, inner = Watchdog(60), Watchdog(SOON)
    with outer.watching():
        with pytest.raises(TimeoutError), inner.watching():
            await for_ever()
        assert await asyncio.sleep(0, "the outer one goes on")


async def test_work_that_ends_although_it_was_cut_short_keeps_its_result() -> None:
    async def stubborn() -> str:
        try:
            await for_ever()
        except asyncio.CancelledError:
            return "done all the same"

    with Watchdog(SOON).watching():
        assert await stubborn() == "done all the same"
    assert asyncio.current_task().cancelling() == 0


def test_only_a_task_can_be_watched() -> None:
    loop = asyncio.new_event_loop()
    failures = []

    def outside() -> None:
        try:
            with Watchdog(1).watching():
                pass
        except RuntimeError as failure:
            failures.append(str(failure))
        loop.stop()

    loop.call_soon(outside)
    loop.run_forever()
    loop.close()
    assert failures == ["only a task can be watched"]
