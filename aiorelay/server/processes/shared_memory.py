"""Memory that a process shares with those that it forks."""

import fcntl
import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["SharedMemory"]


class SharedMemory:
    """``size`` bytes, zero at first, and a lock for them.

    The lock belongs to a process, and the kernel releases it when that process ends. It is not a lock between threads.
    """

    def __init__(self, size: int) -> None:
        self._fd = os.memfd_create("aiorelay")
        os.ftruncate(self._fd, size)
        self.memory = mmap.mmap(self._fd, size)

    @contextmanager
    def locked(self) -> Iterator[mmap.mmap]:
        """Hold the lock for the time of the context. Others wait for it, so do not wait for anything in the context."""
        # A record lock (fcntl), because locks of flock belong to all processes that have inherited the file.
        fcntl.lockf(self._fd, fcntl.LOCK_EX)
        try:
            yield self.memory
        finally:
            fcntl.lockf(self._fd, fcntl.LOCK_UN)
