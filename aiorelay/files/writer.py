"""Write and hash one file in a thread.

    write(block) … ─▶ a piece ─▶ a thread: SHA-256, writev      close() ─▶ name, size, SHA-256

A file that never fills a piece is written on the event loop, where the write costs less than a change of threads,
unless it must be synced.
"""

import errno
import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import Executor, Future
from contextlib import AbstractContextManager
from typing import Final, NamedTuple

from aiorelay.concurrency.double_buffer import PIECE, DoubleBuffer
from aiorelay.errors import Internal, StorageFull

__all__ = ["FULL", "StoredFile", "Writer", "storage_problems"]

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""The error numbers of a full disk and of an exhausted quota."""

# Bytes of a file that will be synced after which the disk begins to write. Otherwise all of it waits for the sync.
_WRITE_BACK: Final = 8 * 1024 * 1024


class StoredFile(NamedTuple):
    """A file that was written: its name in its directory, its size in bytes, and its SHA-256 in hexadecimal.

    ``sha256`` is empty if the file was not hashed.
    """

    name: str
    size: int
    sha256: str


class Writer:
    """One file being written to the descriptor ``fd``, which it closes, in threads of ``pool``.

    Pieces have ``piece`` bytes. ``piece_pool`` is the pool for all but the last one, if it is another: the last piece
    may wait for the disk (``fsync``), the others need a core for their digest. ``complete`` is true once ``close`` has
    returned. ``write`` and ``close`` raise ``StorageFull`` or ``Internal``.
    """

    def __init__(
        self,
        name: str,
        fd: int,
        pool: Executor,
        *,
        fsync: bool,
        hashed: bool = True,
        piece: int = PIECE,
        piece_pool: Executor | None = None,
    ) -> None:
        self.name = name
        self.complete = False
        self._fd = fd
        self._fsync = fsync
        self._digest = hashlib.sha256() if hashed else None
        self._size = 0
        self._written = 0
        self._written_back = 0
        self._buffer = DoubleBuffer(
            self._put, piece_pool or pool, piece=piece, last_pool=pool, inline=0 if fsync else PIECE
        )

    @property
    def pending(self) -> Future[None] | None:
        """The work that a thread was last given for this file."""
        return self._buffer.in_work

    async def write(self, block: bytes) -> None:
        """Append ``block``. Waits only while a piece is full and the one before it is not yet written."""
        self._size += len(block)
        await self._buffer.feed(block)

    async def close(self) -> StoredFile:
        """Write the rest and close the file; with ``fsync`` it is on the disk then."""
        await self._buffer.finish()
        self.complete = True
        return StoredFile(self.name, self._size, self._digest.hexdigest() if self._digest else "")

    def abandon(self) -> None:
        """Close the descriptor if the file was not closed. No thread may be working on the file."""
        if self._fd >= 0:
            self._release()

    def _put(self, piece: list[bytes], last: bool, /) -> None:  # noqa: FBT001 - executors pass no keywords
        """Write a piece. A sync that failed is never repeated: the kernel may have dropped the pages."""
        with storage_problems():
            if self._digest is not None:
                for block in piece:
                    self._digest.update(block)
            _write_all(self._fd, piece)
            self._written += sum(map(len, piece))
            if last:
                if self._fsync:
                    os.fsync(self._fd)
                self._release()
            elif self._fsync and self._written - self._written_back >= _WRITE_BACK:
                self._begin_write_back()

    def _begin_write_back(self) -> None:
        """Make the kernel write what is new to the disk, without waiting. The sync at the end reports errors."""
        start, self._written_back = self._written_back, self._written
        if hasattr(os, "posix_fadvise"):
            # Linux starts to write dirty pages, and drops only clean ones: what was just written stays in the cache.
            os.posix_fadvise(self._fd, start, self._written - start, os.POSIX_FADV_DONTNEED)

    def _release(self) -> None:
        fd, self._fd = self._fd, -1  # the descriptor is released even if close fails
        os.close(fd)


class _StorageProblems(AbstractContextManager[object]):
    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, OSError):
            if error.errno in FULL:
                raise StorageFull("The server has no room for the file. Try again later.") from error
            raise Internal("The server could not store the file; its log says why.") from error


_STORAGE_PROBLEMS = _StorageProblems()


def storage_problems() -> AbstractContextManager[object]:
    """Turn an OSError into the ``StorageFull`` or ``Internal`` that the client gets, with the error as its cause."""
    return _STORAGE_PROBLEMS


def _write_all(fd: int, piece: Sequence[bytes | memoryview]) -> None:
    while piece:
        written = os.writev(fd, piece)
        rest: list[bytes | memoryview] = []
        for block in piece:
            if written < len(block):
                rest.append(memoryview(block)[written:])
            written = max(0, written - len(block))
        piece = rest
