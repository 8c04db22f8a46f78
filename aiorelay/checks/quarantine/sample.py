"""The recorded bytes of one file, which are kept or dropped."""

import asyncio
import contextlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Final

from aiorelay.concurrency.threads import wait_until_done
from aiorelay.errors import Problem
from aiorelay.files.locks import claim
from aiorelay.files.writer import Writer, storage_problems

__all__ = ["LostSampleError", "Room", "Sample"]

_IN_MEMORY: Final = 1024 * 1024
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class LostSampleError(Exception):
    """A file cannot be kept. The text says why, for the log."""


class Room:
    """The bytes that a quarantine may have: ``limit`` in all, for kept files and for those being recorded."""

    def __init__(self, limit: int) -> None:
        self.kept = 0
        self._limit = limit
        self._reserved = 0

    def reserve(self, size: int) -> bool:
        """Reserve ``size`` bytes for a file being recorded, if there are as many."""
        if self.kept + self._reserved + size > self._limit:
            return False
        self._reserved += size
        return True

    def release(self, size: int) -> None:
        """Give reserved bytes back."""
        self._reserved -= size


class Sample:
    """The bytes of one file on their way to ``directory``. Threads of ``pool`` write to the disk.

    ``on_kept`` is called when the file was kept and is no longer in use.
    """

    def __init__(self, directory: Path, room: Room, pool: Executor, on_kept: Callable[[], object]) -> None:
        self.id = secrets.token_hex(16)
        self._directory = directory
        self._room = room
        self._pool = pool
        self._on_kept = on_kept
        self._blocks: list[bytes] = []
        self._size = 0
        self._writer: Writer | None = None
        self._lock = -1  # a descriptor whose lock says that the file is in use
        self._lost = ""
        self._kept = False

    async def write(self, block: bytes) -> None:
        """Record ``block``. If that is not possible, the sample is lost, and ``keep`` will say why."""
        if self._lost:
            return
        if not self._room.reserve(len(block)):
            await self._lose("the quarantine is full (quarantine-max-size)")
            return
        self._size += len(block)
        try:
            if self._writer is not None:
                await self._writer.write(block)
            else:
                self._blocks.append(block)
                if self._size > _IN_MEMORY:
                    await self._move_to_disk()
        except Problem as problem:
            await self._lose(_reason(problem))

    async def keep(self, verdict: Mapping[str, object]) -> None:
        """Keep the file, with ``verdict``, its size and its digest in a JSON file. Both are on the disk then.

        Raises ``LostSampleError``.
        """
        if self._lost:
            raise LostSampleError(self._lost)
        try:
            writer = self._writer or await self._move_to_disk()
            stored = await writer.close()
            document = {"id": self.id, **verdict, "size": stored.size, "sha256": stored.sha256}
            publishing = asyncio.get_running_loop().run_in_executor(self._pool, self._publish, document)
            await wait_until_done(publishing)
            publishing.result()
        except Problem as problem:
            await self._lose(_reason(problem))
            raise LostSampleError(self._lost) from problem
        self._kept = True
        self._room.kept += self._size

    async def close(self) -> None:
        """Remove the bytes unless they were kept."""
        writer, self._writer = self._writer, None
        if writer is not None:
            if writer.pending is not None:
                await wait_until_done(asyncio.wrap_future(writer.pending))
            writer.abandon()
            if not self._kept:  # in a thread: removing a large file takes a while
                await wait_until_done(asyncio.get_running_loop().run_in_executor(self._pool, self._remove))
            os.close(self._lock)
            if self._kept:
                self._on_kept()
        self._blocks.clear()
        self._room.release(self._size)
        self._size = 0

    async def _lose(self, reason: str) -> None:
        self._lost = reason
        await self.close()

    async def _move_to_disk(self) -> Writer:
        with storage_problems():
            fd = self._create()
            self._lock = os.dup(fd)
        self._writer = Writer(self.id, fd, self._pool, fsync=True)
        blocks, self._blocks = self._blocks, []
        for block in blocks:
            await self._writer.write(block)
        return self._writer

    def _create(self) -> int:
        while True:
            fd = os.open(self._part(), _NEW_FILE, 0o600)
            if claim(fd):
                return fd
            os.close(fd)

    def _publish(self, document: Mapping[str, object]) -> None:
        """Give the file its final name, then its verdict. A verdict that is there says that the file is complete."""
        with storage_problems():
            self._part().rename(self._directory / self.id)
            fd = os.open(self._part(".json"), _NEW_FILE, 0o600)
            with os.fdopen(fd, "w") as file:
                json.dump(document, file, indent=2)
                file.write("\n")
                file.flush()
                os.fsync(fd)
            self._part(".json").rename(self._directory / f"{self.id}.json")
            directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    def _remove(self) -> None:
        for path in (self._part(), self._directory / self.id, self._part(".json"), self._directory / f"{self.id}.json"):
            with contextlib.suppress(OSError):  # the next start removes it
                path.unlink()

    def _part(self, ending: str = "") -> Path:
        return self._directory / f".{self.id}{ending}.part"


def _reason(problem: Problem) -> str:
    cause = problem.__cause__
    return (cause.strerror if isinstance(cause, OSError) else None) or problem.detail
