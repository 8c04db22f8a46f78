"""Keep a body until all of it has arrived: in memory up to 1 MiB, then in an unnamed file."""

import asyncio
import io
import os
import tempfile
from collections.abc import AsyncGenerator
from concurrent.futures import Executor
from pathlib import Path
from typing import BinaryIO, Self

from aiorelay.concurrency.threads import wait_until_done
from aiorelay.errors import TooLarge
from aiorelay.files.local import LocalFile
from aiorelay.files.writer import Writer, storage_problems

__all__ = ["Spool"]

_IN_MEMORY = 1024 * 1024


class Spool:
    """At most ``quota`` bytes, kept in ``directory`` until the spool is closed. A context manager closes it.

    ``size`` is the number of bytes written. Write everything and call ``end`` before reading. Threads of ``pool`` write
    to the disk.
    """

    def __init__(self, directory: Path, quota: int, pool: Executor) -> None:
        self.size = 0
        self._directory = directory
        self._quota = quota
        self._pool = pool
        self._blocks: list[bytes] = []
        self._file: BinaryIO | None = None
        self._writer: Writer | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Discard the bytes when no thread writes them any more."""
        try:
            if self._writer is not None and self._writer.pending is not None:
                await wait_until_done(asyncio.wrap_future(self._writer.pending))
        finally:
            if self._writer is not None:
                self._writer.abandon()
            if self._file is not None:
                self._file.close()

    async def write(self, block: bytes) -> None:
        """Append ``block``. Raises ``TooLarge``, ``StorageFull`` or ``Internal``."""
        self.size += len(block)
        if self.size > self._quota:
            raise TooLarge("The upload is larger than the spool may hold (max-size).")
        if self._writer is not None:
            await self._writer.write(block)
            return
        self._blocks.append(block)
        if self.size > _IN_MEMORY:
            await self._move_to_disk()

    async def end(self) -> None:
        """Finish writing. Raises what ``write`` raises."""
        if self._writer is not None:
            await self._writer.close()

    async def read(self) -> AsyncGenerator[bytes, None]:
        """Yield the blocks; every call begins at the first."""
        if self._file is None:
            for block in self._blocks:
                yield block
            return
        file = LocalFile(os.dup(self._file.fileno()), "spool")
        try:
            async for block in file.chunks:
                yield block
        finally:
            await file.close()

    def file(self) -> BinaryIO:
        """Return the bytes as a seekable file, which is closed with the spool."""
        return io.BytesIO(b"".join(self._blocks)) if self._file is None else self._file

    async def _move_to_disk(self) -> None:
        with storage_problems():
            self._file = tempfile.TemporaryFile(dir=self._directory)  # noqa: SIM115 - closed with the spool
            self._writer = Writer("spool", os.dup(self._file.fileno()), self._pool, fsync=False, hashed=False)
        blocks, self._blocks = self._blocks, []
        for block in blocks:
            await self._writer.write(block)
