"""Deliver the events of the outbox in the background.

queue ─▶ an event that is due ─▶ receiver ─┬▶ accepted: removed
├▶ not: waits again, longer and longer
└▶ not, and its time is over, or 410: a dead letter
"""

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from typing import Final

from aiorelay.concurrency.threads import wait_until_done
from aiorelay.observability.logs import log
from aiorelay.observability.metrics import WebhookMetrics
from aiorelay.webhooks.outbox import Outbox
from aiorelay.webhooks.queue import Entry, Queue
from aiorelay.webhooks.receiver import AT_ONCE, Attempt, Receiver
from aiorelay.webhooks.schedule import ReceiverState, Schedule

__all__ = ["Delivery"]

# Seconds between two looks at the outbox for events of processes that have ended.
_LOOK_INTERVAL: Final = 2.0
# The longest wait for events that are due when the relay stops.
_FLUSH_TIMEOUT: Final = 5.0
_MOST_IDS: Final = 3  # in a line of the log


class Delivery:
    """Delivers the events of ``outbox`` that this process has to ``receiver``, a few at once."""

    def __init__(
        self,
        outbox: Outbox,
        receiver: Receiver,
        metrics: WebhookMetrics,
        *,
        schedule: Schedule | None = None,
        look_interval: float = _LOOK_INTERVAL,
    ) -> None:
        self.queue = Queue()
        self._outbox = outbox
        self._receiver = receiver
        self._metrics = metrics
        self._schedule = schedule or Schedule()
        self._look_interval = look_interval
        self._state = ReceiverState()
        self._tasks: set[asyncio.Task[None]] = set()
        self._news = asyncio.Event()
        self._ended = asyncio.Event()

    def add(self, entry: Entry) -> None:
        """Deliver an event that is in the outbox, as soon as possible."""
        self.queue.add(entry, self._now(), self._schedule.until(entry.since, time.time()))
        self._observe()
        self._news.set()

    @asynccontextmanager
    async def running(self, grace: float) -> AsyncGenerator[None, None]:
        """Deliver during the context. At its end, wait up to ``grace`` seconds for the events that are due."""
        with ThreadPoolExecutor(1, "outbox") as pool:
            async with self._receiver.connecting():
                delivering, looking = asyncio.create_task(self._deliver()), asyncio.create_task(self._look(pool))
                try:
                    yield
                    await self._flush(min(grace, _FLUSH_TIMEOUT))
                finally:
                    tasks = {delivering, looking, *self._tasks}
                    for task in tasks:
                        task.cancel()
                    await asyncio.wait(tasks)

    async def _deliver(self) -> None:
        while True:
            entry = await self._next()
            task = asyncio.create_task(self._attempt(entry))
            self._tasks.add(task)
            task.add_done_callback(self._attempted)

    def _attempted(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._observe()
        self._news.set()
        self._ended.set()

    async def _next(self) -> Entry:
        """Wait for the next event that may be sent. While the receiver is away, only one is sent at a time."""
        while True:
            self._news.clear()
            now, due = self._now(), self.queue.next_due
            wait: float | None = None
            if due is not None and len(self._tasks) < (1 if self._state.is_away else AT_ONCE):
                wait = max(due, self._state.resting_until) - now
                if wait <= 0 and (entry := self.queue.pop(now)) is not None:
                    return entry
            with suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._news.wait()

    async def _attempt(self, entry: Entry) -> None:
        """Send an event once. What is unexpected is logged, and the event waits again."""
        try:
            body = self._outbox.read(entry.id)
            if not _is_whole(body):
                log.warning("The webhook event %s is removed: it was not written to its end.", entry.id)
                self._remove(entry)
                return
            attempt = await self._receiver.post(entry.id, body)
            self._metrics.deliveries.labels(attempt.outcome).inc()
            if attempt.outcome == "accepted":
                self._accepted(entry)
            else:
                self._not_accepted(entry, attempt)
        except FileNotFoundError:  # an operator has removed it
            self.queue.remove(entry.id)
        except Exception:  # noqa: BLE001 - the last resort: the other events must go on
            log.exception("Unexpected failure of the delivery of %s.", entry.id)
            self.queue.postpone(entry.id, self._now() + self._schedule.longest)

    def _accepted(self, entry: Entry) -> None:
        if self._state.is_away:
            log.info("The webhook receiver %s accepts events again.", self._receiver.host)
        self._state.accepted()
        self._remove(entry)

    def _remove(self, entry: Entry) -> None:
        self._outbox.remove(entry.id)
        self.queue.remove(entry.id)

    def _not_accepted(self, entry: Entry, attempt: Attempt) -> None:
        now = time.time()
        if attempt.away:
            if not self._state.is_away:
                self._warn(f"The webhook receiver {self._receiver.host} accepts no events: {attempt.why}.")
            self._state.failed(self._now(), attempt.pause)
        if attempt.gone or self.queue.is_given_up(entry.id, now):
            self.queue.remove(entry.id)
            self._give_up([entry])
        else:
            self._postpone(entry, max(now - entry.since, 0.0), attempt)

    def _postpone(self, entry: Entry, age: float, attempt: Attempt) -> None:
        if not attempt.away and age < self._schedule.first:  # the first time only
            self._warn(f"The webhook receiver {self._receiver.host} did not accept {entry.id}: {attempt.why}.")
        pause = self._schedule.pause(age) * random.uniform(0.8, 1.2)  # noqa: S311 - no secret
        self.queue.postpone(entry.id, self._now() + max(pause, attempt.pause or 0.0))

    def _give_up(self, entries: list[Entry]) -> None:
        """Make dead letters of events. Blocks for as long as the renaming of their files takes."""
        given_up = []
        for entry in entries:
            try:
                if not self._outbox.give_up(entry.id):
                    self._metrics.events_lost.inc()
            except FileNotFoundError:  # an operator has removed it
                continue
            except OSError as error:
                log.error("The webhook event %s stays in the outbox: %s.", entry.id, error.strerror)
            else:
                given_up.append(entry.id)
        if given_up:
            ids = ", ".join(given_up[:_MOST_IDS]) + (", …" if len(given_up) > _MOST_IDS else "")
            self._warn(f"{len(given_up)} webhook event{'s were' if len(given_up) > 1 else ' was'} given up: {ids}.")

    def _warn(self, sentence: str) -> None:
        log.warning("%s", sentence)

    async def _look(self, pool: ThreadPoolExecutor) -> None:
        """Look at the outbox now and every few seconds, in a thread: it may hold many events."""
        loop = asyncio.get_running_loop()
        failing: int | None = None
        while True:
            over = self.queue.given_up(time.time()) if self._state.is_away else []
            for entry in over:
                self.queue.remove(entry.id)
            looked = loop.run_in_executor(pool, self._look_once, over)
            await wait_until_done(looked)
            try:
                taken = looked.result()
            except OSError as error:
                if error.errno != failing:
                    log.error("The outbox cannot be read: %s.", error.strerror)
                failing = error.errno
            else:
                failing = None
                for entry in taken:
                    self.add(entry)
            self._observe()
            await asyncio.sleep(self._look_interval)

    def _look_once(self, over: list[Entry]) -> list[Entry]:
        """Give up events whose time is ``over``, count the dead letters, and take over events of ended processes."""
        if over:
            self._give_up(over)
        with suppress(OSError):
            self._outbox.dead_letters.count()
        return self._outbox.take_over()

    def _observe(self) -> None:
        """Set the gauges. Functions of gauges are not called if several processes share their metrics."""
        self._metrics.outbox.set(len(self.queue))
        self._metrics.outbox_age.set(self._age())
        self._metrics.dead_letters.set(self._outbox.dead_letters.number)

    async def _flush(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while not self._state.is_away and (self._tasks or self._is_due()):
                    self._ended.clear()
                    await self._ended.wait()

    def _is_due(self) -> bool:
        due = self.queue.next_due
        return due is not None and due <= self._now()

    def _age(self) -> float:
        oldest = self.queue.oldest
        return 0.0 if oldest is None else max(time.time() - oldest, 0.0)

    def _now(self) -> float:
        return time.monotonic()


def _is_whole(body: bytes) -> bool:
    """Whether a payload was written to its end: its process may have been killed, or the power cut."""
    try:
        json.loads(body)
    except ValueError:
        return False
    return True
