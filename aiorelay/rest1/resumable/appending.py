"""The only writer of an upload, for as long as a request appends to it or its bytes are delivered.

    claimed ─▶ lock taken, offset right ─▶ write … flush … ─▶ left: all is written down, the lock given back
       └───────────────┴── a newer claim: Superseded

The next request for the upload ends this one, even from another process: see ``claims``.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from aiorelay.concurrency.threads import to_its_end, wait_until_done
from aiorelay.errors import Internal, Problem, StorageFull
from aiorelay.files.writer import Writer, storage_problems
from aiorelay.rest1.resumable.claims import Claim
from aiorelay.rest1.resumable.files import UploadFiles
from aiorelay.rest1.resumable.unfinished import Upload

__all__ = ["Disk", "FileAppending", "Quota"]

_Result = TypeVar("_Result")

# Bytes after which a long append is synced, so that a kill costs no more than these; in the background.
_SYNC_INTERVAL: Final = 16 * 1024 * 1024
_READ: Final = 512 * 1024


class Quota:
    """The bytes that unfinished uploads may take on this disk, and those that they take."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> None:
        """Count ``size`` more bytes. Raises ``StorageFull``, and counts none then."""
        self.check(size)
        self.used += size

    def give_back(self, size: int) -> None:
        self.used = max(self.used - size, 0)

    def check(self, size: int) -> None:
        """Raise ``StorageFull`` if there is no room for ``size`` more bytes."""
        if self.used + size > self.limit:
            raise StorageFull("The server keeps as many bytes of unfinished uploads as it may; try again later.")


@dataclass(frozen=True)
class Disk:
    """Where uploads are kept: files, the threads that work on them, and the room that there is."""

    files: UploadFiles
    pool: Executor
    quota: Quota

    async def run(self, work: Callable[..., _Result], *args: Any) -> _Result:
        """Run ``work`` in a thread to its end, even if cancelled. Raises ``StorageFull`` or ``Internal``."""
        job = asyncio.get_running_loop().run_in_executor(self.pool, work, *args)
        await wait_until_done(job)
        with storage_problems():
            return job.result()

    async def read(self, fd: int, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a file in blocks, the next one being read meanwhile, and close it."""
        reading = self._begin(fd, start, end)
        try:
            while start < end:
                await wait_until_done(reading)
                with storage_problems():
                    block = reading.result()
                if not block:
                    raise Internal("The bytes of the upload became fewer while they were read; its log says why.")
                start += len(block)
                if start < end:
                    reading = self._begin(fd, start, end)
                yield block
        finally:
            try:
                await wait_until_done(reading)
            finally:
                os.close(fd)

    def _begin(self, fd: int, start: int, end: int) -> asyncio.Future[bytes]:
        return asyncio.get_running_loop().run_in_executor(self.pool, os.pread, fd, min(_READ, end - start), start)


class FileAppending:
    """The only writer of ``upload``, made by ``FileUploads.appending``; see ``Appending``."""

    def __init__(self, upload: Upload, fd: int, claim: Claim, disk: Disk, *, fsync: bool) -> None:
        self._upload = upload
        self._fd = fd
        self._claim = claim
        self._disk = disk
        self._fsync = fsync
        self._writer: Writer | None = None
        self._received = self._synced = self._sync_begun = upload.size
        self._syncing: asyncio.Future[int] | None = None
        self._failure: Problem | None = None

    @property
    def upload(self) -> Upload:
        """The upload as it is now: its ``size`` are the bytes that are written (with ``fsync``: on the disk)."""
        return self._upload if self._upload.ended else replace(self._upload, size=self.written)

    @property
    def written(self) -> int:
        """The bytes that survive a kill of the process; with ``fsync``, those that survive a power cut."""
        return self._synced if self._fsync else os.fstat(self._fd).st_size

    @property
    def received(self) -> int:
        return self._received

    @property
    def is_delivering(self) -> bool:
        return self._claim.delivering

    @property
    def superseded(self) -> asyncio.Event:
        return self._claim.superseded

    async def write(self, block: bytes) -> None:
        if self._failure is not None:
            raise self._failure
        self._claim.check()
        length = self._upload.length
        if length is not None and self._received + len(block) > length:
            raise ValueError("more bytes than the upload's length")
        try:
            self._disk.quota.take(len(block))
            self._received += len(block)
            await self._write(block)
        except Problem as problem:
            with contextlib.suppress(Problem):
                await self.flush()
            self._count(os.fstat(self._fd).st_size)
            self._failure = problem
            raise

    async def flush(self) -> Upload:
        await to_its_end(self._flush())
        return self.upload

    async def truncate(self, size: int) -> None:
        await self.flush()
        await self._disk.run(self._disk.files.truncate, self._upload.id, self._fd, size)
        self._synced = min(self._synced, size)
        self._count(size)

    async def set_length(self, length: int) -> None:
        self._disk.quota.check(length - self._received)
        upload = replace(self._upload, length=length)
        await self._disk.run(self._disk.files.write, upload)
        self._upload = upload

    @contextlib.asynccontextmanager
    async def delivering(self) -> AsyncGenerator[None, None]:
        self._claim.check()
        with storage_problems():
            self._disk.files.set_delivering(self._upload.id, delivering=True)
        self._claim.delivering = True
        try:
            yield
        finally:
            self._claim.delivering = False
            with contextlib.suppress(OSError):
                self._disk.files.set_delivering(self._upload.id, delivering=False)

    async def read(self, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        last = os.fstat(self._fd).st_size if end is None else end
        with storage_problems():
            fd = self._disk.files.open_for_reading(self._upload.id)  # no duplicate of ours: that would share the lock
        async with contextlib.aclosing(self._disk.read(fd, start, last)) as blocks:
            async for block in blocks:
                yield block

    async def end(self, outcome: dict[str, Any] | None) -> Upload:
        await self.flush()
        self._upload = await self._disk.run(self._disk.files.end, self.upload, outcome)
        self._count(0)
        return self._upload

    async def close(self) -> None:
        """Write down what was gathered, and give the lock back. Raises as ``flush`` does."""
        if self._upload.ended is not None:
            return
        try:
            await self.flush()
        finally:
            self._count(os.fstat(self._fd).st_size)

    def _count(self, size: int) -> None:
        """Note that the upload has ``size`` bytes now, not as many as it was to have."""
        self._disk.quota.give_back(self._received - size)
        self._received = size

    async def _write(self, block: bytes) -> None:
        if self._writer is None:
            with storage_problems():
                own = os.dup(self._fd)
            self._writer = Writer(self._upload.id, own, self._disk.pool, fsync=False, hashed=False)
        await self._writer.write(block)
        if self._fsync and self._received - self._sync_begun >= _SYNC_INTERVAL:
            await self._sync()

    async def _sync(self) -> None:
        """Begin to sync what is written, once the sync before has ended."""
        await self._wait_for_sync()
        self._sync_begun = self._received
        self._syncing = asyncio.get_running_loop().run_in_executor(
            self._disk.pool, self._disk.files.sync, self._upload.id, self._fd
        )

    async def _wait_for_sync(self) -> None:
        if self._syncing is not None:
            await wait_until_done(self._syncing)
            with storage_problems():
                self._synced = self._syncing.result()

    async def _flush(self) -> None:
        writer, self._writer = self._writer, None
        try:
            if writer is not None:
                await _close(writer)
        finally:
            # A sync that failed stays as it is and fails again: the kernel may have dropped what it had to write.
            await self._wait_for_sync()
            if self._fsync and writer is not None:
                await self._sync()
                await self._wait_for_sync()


async def _close(writer: Writer) -> None:
    try:
        await writer.close()
    finally:
        writer.abandon()
