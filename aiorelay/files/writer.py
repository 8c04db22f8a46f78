"""Write and hash one file in a thread.

    write(block) … ─gathers─▶ a piece ─▶ a thread: SHA-256, writev      close() ─▶ name, size, SHA-256

A piece goes to the thread while the next one gathers: one hop per piece, not per block, and at most two pieces of
memory per file. A file that never fills a piece is written where we stand, because the hop would cost more than
the write, unless it must be synced.
"""

import contextlib
import errno
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, Future
from typing import Final, NamedTuple

from aiorelay.concurrency.threads import result_of
from aiorelay.errors import Internal, StorageFull

__all__ = ["FULL", "PIECE", "StoredFile", "Writer", "storage_problems"]

PIECE: Final = 512 * 1024
"""Bytes that are handed to a thread at once."""

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""The error numbers of a disk that has no room left, for anybody or for us."""

# Blocks in a piece, so that a client who sends byte by byte does not make us keep half a million objects, and a
# piece fits one writev (IOV_MAX is 1024 on Linux).
_BLOCKS: Final = 512


class StoredFile(NamedTuple):
    """A file that is written: its name in its directory, its bytes, and their SHA-256 in hexadecimal.

    The last is empty where nobody wanted it.
    """

    name: str
    size: int
    sha256: str


class Writer:
    """One file being written. ``pending`` is the work that a thread was last given for it."""

    def __init__(self, name: str, fd: int, pool: Executor, *, fsync: bool, hashed: bool = True) -> None:
        self.name = name
        self.complete = False
        self.pending: Future[None] | None = None
        self._fd = fd
        self._pool = pool
        self._fsync = fsync
        self._digest = hashlib.sha256() if hashed else None
        self._size = 0
        self._gathered: list[bytes] = []
        self._gathered_size = 0

    async def write(self, block: bytes) -> None:
        """Append ``block``. Waits only while a piece is full and the one before it is not yet written."""
        self._gathered.append(block)
        self._gathered_size += len(block)
        if self._gathered_size >= PIECE or len(self._gathered) >= _BLOCKS:
            await self._wait_for_pending()
            self.pending = self._pool.submit(self._put, self._piece())

    async def close(self) -> StoredFile:
        """End the file: it is written (with ``fsync``: on the disk), though not yet kept."""
        await self._wait_for_pending()
        if self.pending is None and not self._fsync:
            with storage_problems():
                self._finish(self._piece())
        else:
            self.pending = self._pool.submit(self._finish, self._piece())
            await self._wait_for_pending()
        self.complete = True
        return StoredFile(self.name, self._size, self._digest.hexdigest() if self._digest else "")

    def abandon(self) -> None:
        """Give the descriptor back, if the file was not closed. No thread may be working for it."""
        if self._fd >= 0:
            self._release()

    async def _wait_for_pending(self) -> None:
        """Wait for the piece in flight; raise what it raised, and again whenever asked."""
        if self.pending is not None:
            with storage_problems():
                await result_of(self.pending)

    def _piece(self) -> list[bytes]:
        piece, self._gathered = self._gathered, []
        self._size += self._gathered_size
        self._gathered_size = 0
        return piece

    def _put(self, piece: list[bytes]) -> None:
        if self._digest is not None:
            for block in piece:
                self._digest.update(block)
        _write_all(self._fd, piece)

    def _finish(self, piece: list[bytes]) -> None:
        """Write the last piece. A sync that failed is never tried again: the kernel may have dropped the pages."""
        self._put(piece)
        if self._fsync:
            os.fsync(self._fd)
        self._release()

    def _release(self) -> None:
        fd, self._fd = self._fd, -1  # gone even if closing it fails
        os.close(fd)


@contextlib.contextmanager
def storage_problems() -> Iterator[None]:
    """Turn an OSError of storing into the ``Problem`` that the client gets, with the error as its cause."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL:
            raise StorageFull("The server has no room for the file; try again when it has been given some") from error
        raise Internal("The server could not store the file; its log says why") from error


def _write_all(fd: int, piece: Sequence[bytes | memoryview]) -> None:
    while piece:
        written = os.writev(fd, piece)
        rest: list[bytes | memoryview] = []
        for block in piece:
            if written < len(block):
                rest.append(memoryview(block)[written:])
            written = max(0, written - len(block))
        piece = rest
