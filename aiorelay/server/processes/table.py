"""Which processes live, how many connections each has, and which send to the upload API."""

import mmap
from collections.abc import Mapping
from typing import Final

__all__ = ["ProcessTable"]

_NOT_ACCEPTING: Final = 2**32 - 1
_BYTES: Final = 4


class ProcessTable:
    """The state of ``count`` processes, which forked processes share.

    Each entry has one writer at a time, and writing it is atomic.
    """

    def __init__(self, count: int) -> None:
        entries = memoryview(mmap.mmap(-1, (3 * count + 1) * _BYTES)).cast("I")
        self._pids = entries[:count]
        self._connections = entries[count : 2 * count]
        self._relaying = entries[2 * count : 3 * count]
        self._stopping = entries[3 * count :]
        for process in range(count):
            self.ended(process)

    def started(self, process: int, pid: int) -> None:
        """Enter a process that has started. Its relay may send to any process."""
        self._pids[process] = pid
        self._relaying[process] = True

    def ended(self, process: int) -> None:
        """Remove a process that has ended."""
        self._pids[process] = 0
        self._connections[process] = _NOT_ACCEPTING
        self._relaying[process] = False

    @property
    def stopping(self) -> bool:
        """Whether all processes were told to stop."""
        return bool(self._stopping[0])

    def stop(self) -> None:
        """Enter that all processes are told to stop."""
        self._stopping[0] = True

    def relaying_ended(self, process: int) -> None:
        """Enter that the relay of a process sends nothing more."""
        self._relaying[process] = False

    def is_any_relaying(self) -> bool:
        """Whether the relay of any process may still send something."""
        return any(self._relaying)

    def pids(self) -> Mapping[int, int]:
        """Return the process ids of those that live, by their numbers."""
        return {process: pid for process, pid in enumerate(self._pids) if pid}

    def set_connections(self, process: int, number: int | None) -> None:
        """Set how many connections a process has; None if it accepts no more."""
        self._connections[process] = _NOT_ACCEPTING if number is None else number

    def fewest_connections(self) -> int:
        """Return the smallest number of connections of those that accept some."""
        return min(self._connections)
