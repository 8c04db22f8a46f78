"""Timeouts that cost one timer for many waits, and the minimum rate of a sender."""

import asyncio
from types import TracebackType
from typing import Final

__all__ = ["MinimumRate", "Watchdog"]


class Watchdog:
    """Limits each of many waits to ``seconds``: ``with watchdog.watching(): await …``. For use in one event loop."""

    def __init__(self, seconds: float) -> None:
        self.seconds: Final = seconds
        self.loop: asyncio.AbstractEventLoop | None = None  # after the first wait; in Python 3.11 it costs time to find
        self._waits: dict[_Wait, float] = {}  # with their deadlines, in order of both
        self._timer: asyncio.TimerHandle | None = None

    def watching(self, times: int = 1) -> "_Wait":
        """Return a context manager that raises ``TimeoutError`` after ``times * seconds``; it can be entered once.

        As with ``asyncio.timeout``, the code within is cancelled and the error is raised on leaving.
        """
        return _Wait(self, times)

    def begin(self, wait: "_Wait", loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waits[wait] = deadline = loop.time() + self.seconds
        if self._timer is None:
            self._timer = loop.call_at(deadline, self._look, loop)

    def end(self, wait: "_Wait") -> None:
        self._waits.pop(wait, None)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """End or prolong the waits whose deadline has passed, and call again at the next deadline."""
        now = loop.time()
        for wait, deadline in list(self._waits.items()):
            if deadline > now:
                break
            del self._waits[wait]
            if wait.is_prolonged():
                self._waits[wait] = now + self.seconds
            else:
                wait.cut_short()
        self._timer = None
        if self._waits:
            self._timer = loop.call_at(next(iter(self._waits.values())), self._look, loop)


class _Wait:
    """One wait of the task that enters it. It ends as ``asyncio.Timeout`` does."""

    __slots__ = ("_cancelling", "_is_cut_short", "_task", "_times", "_watchdog")

    def __init__(self, watchdog: Watchdog, times: int) -> None:
        self._watchdog = watchdog
        self._times = times
        self._is_cut_short = False

    def __enter__(self) -> None:
        task = asyncio.current_task(self._watchdog.loop)
        if task is None:
            raise RuntimeError("only a task can be watched")
        self._task = task
        self._cancelling = task.cancelling()
        self._watchdog.begin(self, task.get_loop())

    def __exit__(
        self, _kind: type[BaseException] | None, failure: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        self._watchdog.end(self)
        # If the task was cancelled by others too, CancelledError is raised, not TimeoutError.
        if (
            self._is_cut_short
            and self._task.uncancel() <= self._cancelling
            and isinstance(failure, asyncio.CancelledError)
        ):
            raise TimeoutError from failure

    def is_prolonged(self) -> bool:
        """Whether the wait goes on for another time, now that one has passed."""
        self._times -= 1
        return self._times > 0

    def cut_short(self) -> None:
        self._is_cut_short = True
        self._task.cancel()


class MinimumRate:
    """Checks that one sender sends at least ``min_rate`` bytes a second, averaged over a minute of waiting.

    Only the time spent waiting for the sender counts, not the time in which the receiver is slow.
    """

    WINDOW = 60.0

    def __init__(self, min_rate: int) -> None:
        self._min_rate = min_rate
        self._waited = 0.0
        self._arrived = 0

    def is_met(self, waited: float, arrived: int) -> bool:
        """Record that ``arrived`` bytes came after ``waited`` seconds. False if the last full minute was too slow."""
        self._waited += waited
        self._arrived += arrived
        if self._waited < self.WINDOW:
            return True
        enough = self._arrived >= self._min_rate * self._waited
        self._waited, self._arrived = 0.0, 0
        return enough
