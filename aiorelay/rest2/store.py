"""Store files completely or not at all.

    receive()              file(), write() …, close()          keep()
    .incoming-X made  ───▶ .incoming-X/name, …            ───▶ renamed to X: <root>/X/name
    and locked             hashed as they are written          or, left without keep(), all removed

One form is one directory, and one rename publishes all of it: there is no moment at which a file has its final
path and is not complete. Whoever dies leaves an ``.incoming-*`` behind, whose lock (flock) died with its process;
the next start takes that lock and removes the directory. A directory whose lock is held is alive and left alone.
The lock is the kernel's: a store that several machines share over a network must not be swept by one of them
while another writes, and a filesystem without flock is not swept at all.
"""

import asyncio
import os
import re
import secrets
import shutil
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from aiorelay.concurrency.threads import result_of, wait_until_done
from aiorelay.errors import StartupError
from aiorelay.files.filenames import numbered, safe
from aiorelay.files.locks import claim, try_lock
from aiorelay.files.writer import FULL, Writer, storage_problems
from aiorelay.observability.logs import log

__all__ = ["Incoming", "Store", "stored"]

_THREADS: Final = 8
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL  # O_EXCL: nor through a link that lies there
_INCOMING: Final = ".incoming-"
_OURS: Final = re.compile(re.escape(_INCOMING) + "[0-9a-f]{32}")


class Store:
    """Where the storing server keeps its files, below the directory ``root``.

    With ``fsync``, what ``keep()`` has published is on the disk, directory entries included; without, it is
    in the page cache, safe from a kill but not from a power cut.
    """

    def __init__(self, root: Path, *, fsync: bool) -> None:
        self.root = root.absolute()
        self._fsync = fsync
        self._root_fd = -1
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="store")

    def open(self) -> None:
        """Make the root if there is none, and sweep away what a killed process left in it.

        Raises ``StartupError`` if no upload could be written here. A full disk is no such reason: space
        comes back.
        """
        try:
            _make_root(self.root, durable=self._fsync)
            self._root_fd = os.open(self.root, _DIRECTORY)
            _sweep(self._root_fd)
            _try_out(self._root_fd)
        except OSError as error:
            self.close()
            raise StartupError(f"cannot store files in {self.root}: {error.strerror}; see --store") from error

    def close(self) -> None:
        """Let go of the root. Every ``receive()`` must have been left before."""
        self._pool.shutdown()
        if self._root_fd >= 0:
            os.close(self._root_fd)
            self._root_fd = -1

    def receive(self) -> "Incoming":
        """Return the context in which one form's files are received."""
        return Incoming(self.root, self._root_fd, self._pool, fsync=self._fsync)


class Incoming:
    """The files of one form, in a directory of their own that nobody takes for theirs before ``keep()``.

    Entering makes the directory. Leaving without ``keep()`` having returned, for whatever reason, removes it
    and what it holds, and returns only when that is done, cancelled or not. Every method raises
    ``StorageFull`` or ``Internal``, with the OSError as its cause.
    """

    def __init__(self, root: Path, root_fd: int, pool: Executor, *, fsync: bool) -> None:
        self._root = root
        self._root_fd = root_fd
        self._pool = pool
        self._fsync = fsync
        self._writers: list[Writer] = []
        self._numbers: dict[str, int] = {}
        self._publishing: Future[None] | None = None
        self._published = False
        self._kept = False

    async def __aenter__(self) -> Self:
        with storage_problems():
            self._name, self._fd = _make_incoming(self._root_fd)
        self._final = self._name.removeprefix(_INCOMING)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._kept:
            os.close(self._fd)
        else:
            removal = asyncio.wrap_future(self._pool.submit(self._remove))
            await wait_until_done(removal)
            removal.result()

    def file(self, filename: str) -> "Writer":
        """Begin a file under the safe name of what the client calls it, numbered if the form has that already."""
        with storage_problems():
            name, fd = self._create(safe(filename))
        writer = Writer(name, fd, self._pool, fsync=self._fsync)
        self._writers.append(writer)
        return writer

    async def keep(self) -> Path:
        """Publish all files at once, and return the directory that they are in from now on.

        Every writer must have been closed. Once this has returned, nothing takes the files away any more.
        """
        if not all(writer.complete for writer in self._writers):
            raise RuntimeError("a file of the form is not written to its end")
        with storage_problems():
            if self._fsync:
                self._publishing = self._pool.submit(self._publish)
                await result_of(self._publishing)
            else:
                self._publish()
        self._kept = True
        return self._root / self._final

    def _create(self, wished: str) -> tuple[str, int]:
        name, number = wished, self._numbers.get(wished, 1)
        while True:
            try:
                fd = os.open(name, _NEW_FILE, 0o666, dir_fd=self._fd)
            except FileExistsError:
                number += 1
                name = numbered(wished, number)
            else:
                self._numbers[wished] = number
                return name, fd

    def _publish(self) -> None:
        if self._fsync:
            os.fsync(self._fd)
        os.rename(self._name, self._final, src_dir_fd=self._root_fd, dst_dir_fd=self._root_fd)
        self._published = True
        if self._fsync:
            os.fsync(self._root_fd)

    def _remove(self) -> None:
        """Take everything away, in a thread, after the threads that still work for this form.

        They stood before us in the pool's queue, so waiting for them here cannot keep them from running.
        """
        wait(job for job in (self._publishing, *(writer.pending for writer in self._writers)) if job is not None)
        try:
            for writer in self._writers:
                writer.abandon()
            if self._published:  # and yet nobody was told so
                os.rename(self._final, self._name, src_dir_fd=self._root_fd, dst_dir_fd=self._root_fd)
            for writer in self._writers:
                os.unlink(writer.name, dir_fd=self._fd)
            os.rmdir(self._name, dir_fd=self._root_fd)
        except FileNotFoundError:
            pass  # somebody emptied the store under us, and that is what we were about to do
        except OSError as error:
            log.warning("cannot remove %s (%s); the next start sweeps it", self._root / self._name, error.strerror)
        finally:
            os.close(self._fd)


def stored(root: Path) -> list[Path]:
    """All files kept below ``root``, sorted; none that is still coming in."""
    # Those that are coming in are not even looked into: they may be gone by then.
    kept = (path for path in root.glob("*") if not path.name.startswith(_INCOMING))
    return sorted(path for directory in kept for path in directory.glob("*") if path.is_file())


def _make_root(root: Path, *, durable: bool) -> None:
    missing = [directory for directory in (root, *root.parents) if not directory.exists()]
    root.mkdir(parents=True, exist_ok=True)
    if durable:
        for made in missing:
            _sync_directory(made.parent)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, _DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _make_incoming(root_fd: int) -> tuple[str, int]:
    """Make an incoming directory; return its name and its descriptor, which holds its lock."""
    while True:
        name = _INCOMING + secrets.token_hex(16)
        os.mkdir(name, dir_fd=root_fd)
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=root_fd)
        except FileNotFoundError:
            continue
        except OSError:
            os.rmdir(name, dir_fd=root_fd)
            raise
        if claim(fd):
            return name, fd
        os.close(fd)


def _try_out(root_fd: int) -> None:
    """Do what every upload begins with."""
    try:
        name, fd = _make_incoming(root_fd)
    except OSError as error:
        if error.errno not in FULL:
            raise
    else:
        os.rmdir(name, dir_fd=root_fd)
        os.close(fd)


def _sweep(root_fd: int) -> None:
    for name in os.listdir(root_fd):
        if _OURS.fullmatch(name):
            try:
                _sweep_one(root_fd, name)
            except FileNotFoundError:
                pass  # kept or removed meanwhile, by whoever shares the store
            except OSError as error:
                log.warning("cannot sweep %s from the store (%s)", name, error.strerror)


def _sweep_one(root_fd: int, name: str) -> None:
    fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=root_fd)
    try:
        if not try_lock(fd):
            return  # alive
        # The lock may be free because the upload was kept between our open and our lock: look whether the name
        # still means this directory. It cannot change any more, for only the lock's holder renames.
        if os.path.samestat(os.fstat(fd), os.stat(name, dir_fd=root_fd, follow_symlinks=False)):
            shutil.rmtree(name, dir_fd=root_fd)
    finally:
        os.close(fd)
