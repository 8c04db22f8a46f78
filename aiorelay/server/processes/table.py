"""Which processes live, and how many connections each has."""

import mmap
from collections.abc import Mapping
from typing import Final

__all__ = ["ProcessTable"]

_NOT_ACCEPTING: Final = 2**32 - 1
_BYTES: Final = 4


class ProcessTable:
    """The process ids and numbers of connections of ``count`` processes, which forked processes share.

    Each entry has one writer at a time, and writing it is atomic.
    """

    def __init__(self, count: int) -> None:
        entries = memoryview(mmap.mmap(-1, 2 * count * _BYTES)).cast("I")
        self._pids = entries[:count]
        self._connections = entries[count:]
        for process in range(count):
            self.ended(process)

    def started(self, process: int, pid: int) -> None:
        """Enter a process that has started."""
        self._pids[process] = pid

    def ended(self, process: int) -> None:
        """Remove a process that has ended."""
        self._pids[process] = 0
        self._connections[process] = _NOT_ACCEPTING

    def pids(self) -> Mapping[int, int]:
        """Return the process ids of those that live, by their numbers."""
        return {process: pid for process, pid in enumerate(self._pids) if pid}

    def set_connections(self, process: int, number: int | None) -> None:
        """Set how many connections a process has; None if it accepts no more."""
        self._connections[process] = _NOT_ACCEPTING if number is None else number

    def fewest_connections(self) -> int:
        """Return the smallest number of connections of those that accept some."""
        return min(self._connections)
