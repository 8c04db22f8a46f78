"""The events that a process has to deliver, and which of them is due next. Pure.

Only ids, sizes and times are in memory; the payloads are in the outbox.
"""

import heapq
from dataclasses import dataclass
from itertools import count
from typing import Final

__all__ = ["MOST_BYTES", "MOST_EVENTS", "Entry", "Queue"]

MOST_EVENTS: Final = 50_000  # each takes half a KiB of memory
MOST_BYTES: Final = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Entry:
    """An event in the outbox: its id, the bytes of its payload, and since when it waits (seconds since the epoch)."""

    id: str
    size: int
    since: float


@dataclass(slots=True)
class _Known:
    """An event, when it is given up, and the number of its item in the heap: 0 while it is being sent."""

    entry: Entry
    until: float
    number: int = 0


class Queue:
    """The events of one process. Due times are of any one clock; the times of entries are since the epoch."""

    def __init__(self) -> None:
        self.size = 0
        self._known: dict[str, _Known] = {}
        self._heap: list[tuple[float, int, str]] = []
        self._numbers = count(1)

    def __len__(self) -> int:
        return len(self._known)

    @property
    def is_full(self) -> bool:
        return len(self) >= MOST_EVENTS or self.size >= MOST_BYTES

    @property
    def oldest(self) -> float | None:
        """The time since when the oldest event waits; None if there are no events."""
        return min((known.entry.since for known in self._known.values()), default=None)

    @property
    def next_due(self) -> float | None:
        """When the next event is due; None if none waits."""
        while self._heap and not self._is_current(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def add(self, entry: Entry, due: float, until: float) -> None:
        """Add an event that is given up at the time ``until``. One that is known already stays as it is."""
        if entry.id not in self._known:
            self.size += entry.size
            self._known[entry.id] = _Known(entry, until)
            self.postpone(entry.id, due)

    def pop(self, now: float) -> Entry | None:
        """Return the event that is due first, if one is due. It is being sent until ``postpone`` or ``remove``."""
        due = self.next_due
        if due is None or due > now:
            return None
        _, _, identity = heapq.heappop(self._heap)
        known = self._known[identity]
        known.number = 0
        return known.entry

    def postpone(self, identity: str, due: float) -> None:
        """Let an event that was sent wait again."""
        self._known[identity].number = number = next(self._numbers)
        heapq.heappush(self._heap, (due, number, identity))

    def remove(self, identity: str) -> None:
        """Forget an event, if it is known."""
        known = self._known.pop(identity, None)
        if known is not None:
            self.size -= known.entry.size

    def is_given_up(self, identity: str, now: float) -> bool:
        """Whether the time of an event is over."""
        return self._known[identity].until <= now

    def given_up(self, now: float) -> list[Entry]:
        """Return the waiting events whose time is over."""
        return [known.entry for known in self._known.values() if known.number and known.until <= now]

    def _is_current(self, item: tuple[float, int, str]) -> bool:
        _, number, identity = item
        known = self._known.get(identity)
        return known is not None and known.number == number
