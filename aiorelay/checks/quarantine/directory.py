"""The directory of refused files: ``ID`` with the bytes and ``ID.json`` with the verdict, nothing else of ours."""

import asyncio
import contextlib
import os
import re
import time
from collections import defaultdict
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import Executor
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import BinaryIO, Final, Self

from aiorelay.checks.quarantine.sample import Room, Sample
from aiorelay.errors import StartupError
from aiorelay.files.locks import claim, try_lock
from aiorelay.files.writer import FULL
from aiorelay.observability.logs import log

__all__ = ["Quarantine"]

_OURS: Final = re.compile(r"\.([0-9a-f]{32})((?:\.json)?\.part)|([0-9a-f]{32})((?:\.json)?)")
_INTERVAL: Final = 600.0  # seconds between removals of expired files, at most


class Quarantine:
    """The directory ``root``: at most ``limit`` bytes, each file for ``expiry`` seconds.

    Other files in the directory are left alone. Threads of ``pool`` write to the disk. ``changed`` is set when a file
    was kept.
    """

    def __init__(self, root: Path, *, limit: int, expiry: float, pool: Executor) -> None:
        self.changed: Final = asyncio.Event()
        self._root = root
        self._expiry = expiry
        self._pool = pool
        self._room = Room(limit)

    @asynccontextmanager
    async def opened(self) -> AsyncGenerator[Self, None]:
        """Make the directory if it is missing, and remove what expires for as long as the context lasts.

        Files that a killed process has left incomplete are removed first. Raises ``StartupError`` if the directory
        cannot be used. A full disk is not an error: space may become free.
        """
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            _check_writable(self._root)
            self._clean(incomplete=True)
        except OSError as error:
            raise StartupError(f"quarantine: cannot keep files in {self._root}: {error.strerror}.") from error
        upkeep = asyncio.create_task(self._clean_repeatedly())
        try:
            yield self
        finally:
            upkeep.cancel()
            await asyncio.gather(upkeep, return_exceptions=True)

    def sample(self) -> Sample:
        """Return the record of a new file."""
        return Sample(self._root, self._room, self._pool, self.changed.set)

    def kept(self) -> list[str]:
        """Return the ids of all kept files. Raises OSError."""
        return sorted(name for name, endings in _entries(self._root).items() if ".json" in endings)

    @contextmanager
    def claimed(self, name: str) -> Generator[BinaryIO | None, None, None]:
        """Open a kept file, for this process alone. None if another uses it or it was removed. Raises OSError."""
        try:
            file = (self._root / name).open("rb")
        except FileNotFoundError:
            yield None
            return
        with file:
            yield file if claim(file.fileno()) else None

    def verdict(self, name: str) -> bytes:
        """Return the verdict of a kept file. Raises OSError."""
        return (self._root / f"{name}.json").read_bytes()

    def age(self, name: str) -> float:
        """Return the time in seconds since a file was kept. Raises OSError."""
        return time.time() - (self._root / f"{name}.json").stat().st_mtime

    async def remove(self, name: str) -> None:
        """Remove a kept file and its verdict. Raises OSError."""
        self._room.kept -= await asyncio.to_thread(self._remove, name)

    def _remove(self, name: str) -> int:
        """Remove a kept file, its verdict first: without a verdict it is not taken for complete. Return its size."""
        file = self._root / name
        size = file.stat().st_size
        (self._root / f"{name}.json").unlink(missing_ok=True)
        file.unlink()
        return size

    async def _clean_repeatedly(self) -> None:
        while True:
            await asyncio.sleep(min(_INTERVAL, self._expiry))
            try:
                await asyncio.to_thread(self._clean)
            except OSError as error:
                log.error("cannot remove expired files from the quarantine: %s", error.strerror)

    def _clean(self, *, incomplete: bool = False) -> None:
        """Remove expired files and, if wanted, incomplete ones. Measure the others. Raises OSError."""
        kept = 0
        for name, endings in _entries(self._root).items():
            if ".json" in endings:
                kept += self._expired_or_size(name)
            elif incomplete:
                self._remove_incomplete(name, endings)
        self._room.kept = kept

    def _expired_or_size(self, name: str) -> int:
        """Remove a file and its verdict if they have expired. Return the file's size otherwise."""
        file, verdict = self._root / name, self._root / f"{name}.json"
        with contextlib.suppress(FileNotFoundError):  # removed meanwhile, by people or another process
            if verdict.stat().st_mtime + self._expiry > time.time():
                return file.stat().st_size
            file.unlink(missing_ok=True)
            verdict.unlink()
        return 0

    def _remove_incomplete(self, name: str, endings: set[str]) -> None:
        """Remove what there is of a file without a verdict, unless a process still uses it."""
        paths = [self._root / (f".{name}{ending}" if ending.endswith("part") else name) for ending in sorted(endings)]
        with contextlib.ExitStack() as stack:
            try:
                for path in paths:
                    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
                    stack.callback(os.close, fd)
                    if not try_lock(fd):
                        return
                # The verdict may have been written since the directory was read.
                if not (self._root / f"{name}.json").exists():
                    for path in paths:
                        path.unlink()
            except FileNotFoundError:
                pass  # kept or removed meanwhile by another process
            except OSError as error:
                log.warning("cannot remove %s from the quarantine (%s)", name, error.strerror)


def _entries(root: Path) -> dict[str, set[str]]:
    """Return the endings of the files of each id: an empty one, ``.json``, ``.part`` and ``.json.part``."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in root.iterdir():
        if match := _OURS.fullmatch(path.name):
            found[match[1] or match[3]].add(match[2] or match[4] or "")
    return found


def _check_writable(root: Path) -> None:
    """Create and remove a file. Raises OSError, except for a full disk."""
    path = root / f".{os.urandom(16).hex()}.part"
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        if error.errno not in FULL:
            raise
    else:
        path.unlink()
