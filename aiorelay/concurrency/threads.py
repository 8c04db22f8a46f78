"""Run work in threads and wait for its end, even when cancelled, so that a thread keeps the resources it uses."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from concurrent.futures import Executor, Future
from itertools import count
from queue import SimpleQueue
from threading import Semaphore, Thread
from typing import Any, TypeVar

__all__ = ["Threads", "result_of", "to_its_end", "wait_until_done"]

_Result = TypeVar("_Result")


async def result_of(job: Future[_Result]) -> _Result:
    """Return the result of ``job``, without yielding to the event loop if it is done.

    Cancelling the wait does not cancel the job, even if the job has not begun.
    """
    return job.result() if job.done() else await asyncio.shield(asyncio.wrap_future(job))


async def wait_until_done(job: asyncio.Future[Any]) -> None:
    """Wait until ``job`` has ended; it may have failed, see ``job.result()``.

    A cancellation of the wait is raised after the job has ended: a thread cannot be stopped. The event loop does not
    report the exception of the job as never retrieved.
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


async def to_its_end(work: Coroutine[Any, Any, _Result]) -> _Result:
    """Do ``work`` although we are cancelled meanwhile, and return or raise what it did."""
    task = asyncio.create_task(work)
    await wait_until_done(task)
    return task.result()


class Threads(Executor):
    """An executor without a limit: work starts at once, in an idle thread or in a new one.

    For work that may hang: a thread that never returns delays neither other work nor the end of the process.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._work: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._idle = Semaphore(0)
        self._started = count(1)
        self._threads: list[Thread] = []

    def submit(self, fn: Callable[..., _Result], /, *args: Any, **kwargs: Any) -> Future[_Result]:
        future: Future[_Result] = Future()

        def run() -> None:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(fn(*args, **kwargs))
                except BaseException as error:  # noqa: BLE001 - the future raises it
                    future.set_exception(error)

        self._work.put(run)
        if not self._idle.acquire(blocking=False):
            thread = Thread(target=self._serve, name=f"{self._name}_{next(self._started)}", daemon=True)
            self._threads.append(thread)
            thread.start()
        return future

    def shutdown(self, wait: bool = False, *, cancel_futures: bool = False) -> None:  # noqa: ARG002, FBT001, FBT002 - Executor's
        """End idle threads now, and others when their work is done. Does not wait: a thread may hang."""
        for _ in self._threads:
            self._work.put(None)

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            work()
            del work  # so that its objects are released before the next work arrives
            self._idle.release()
