"""Store files in a directory, completely or not at all.

    receive()              file(), write() …, close()          keep()
    .incoming-X created ──▶ .incoming-X/name, …           ───▶ renamed to X: <root>/X/name
    and locked              hashed while written               or, without keep(), removed

Each form has its own directory, which one rename publishes: a file at its final path is always complete. A process
that is killed leaves an ``.incoming-*`` directory, and the kernel releases its lock (flock). The next start locks and
removes such directories. A directory that is still locked is in use and is kept. The lock works on one machine only: if
several machines share a store over a network, none may start while another writes. On a filesystem without flock,
nothing is removed at the start.
"""

import asyncio
import os
import re
import secrets
import shutil
from concurrent.futures import Future, ThreadPoolExecutor, wait
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from aiorelay.concurrency.double_buffer import PIECE
from aiorelay.concurrency.threads import result_of, wait_until_done
from aiorelay.errors import StartupError
from aiorelay.files.filenames import numbered, safe
from aiorelay.files.locks import claim, try_lock
from aiorelay.files.writer import FULL, Writer, storage_problems
from aiorelay.observability.logs import log

__all__ = ["DirectoryStore", "stored"]

_THREADS: Final = 8
# Threads that hash. One core is left to the event loop: competing with more threads for it makes uploads slower.
_HASHING_THREADS: Final = max(1, min(_THREADS, (os.cpu_count() or 1) - 1))
# Bytes of one piece of a file while one form arrives. Each change of threads costs the event loop time; two pieces of
# every file are in memory, so the more forms arrive, the smaller the pieces of a new file.
_LARGEST_PIECE: Final = 2 * 1024 * 1024
_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY
_NEW_FILE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL  # O_EXCL also refuses to follow an existing symbolic link
_INCOMING: Final = ".incoming-"
_INCOMING_NAME: Final = re.compile(re.escape(_INCOMING) + "[0-9a-f]{32}")


class DirectoryStore:
    """The directory ``root``, in which the storing server keeps its files.

    With ``fsync``, files and directory entries are on the disk when ``keep()`` returns. Without it, they are in the
    page cache and survive the end of the process but not a power failure.
    """

    def __init__(self, root: Path, *, fsync: bool) -> None:
        self.root = root.absolute()
        self._fsync = fsync
        self._root_fd = -1
        self._threads = _Threads()

    def open(self) -> None:
        """Create the root if it is missing, and remove incomplete uploads of processes that were killed.

        Raises ``StartupError`` if no upload can be written to it. A full disk is not an error here, because space may
        become free.
        """
        try:
            _create_root(self.root, durable=self._fsync)
            self._root_fd = os.open(self.root, _DIRECTORY)
            _sweep(self._root_fd)
            _check_writable(self._root_fd)
        except OSError as error:
            self.close()
            raise StartupError(f"cannot store files in {self.root}: {error.strerror}; see --store") from error

    def close(self) -> None:
        """Close the root. All contexts from ``receive()`` must have ended before."""
        self._threads.shutdown()
        if self._root_fd >= 0:
            os.close(self._root_fd)
            self._root_fd = -1

    def receive(self, _length: int | None = None) -> "_Incoming":
        """Return the context in which one form's files are received."""
        return _Incoming(self.root, self._root_fd, self._threads, fsync=self._fsync)


class _Threads:
    """The threads of a store: ``hashing`` for the pieces of files, ``waiting`` for work that waits for the disk.

    ``forms`` is the number of forms that are arriving.
    """

    def __init__(self) -> None:
        self.forms = 0
        self.hashing = ThreadPoolExecutor(_HASHING_THREADS, thread_name_prefix="store-hashing")
        self.waiting = ThreadPoolExecutor(_THREADS, thread_name_prefix="store")

    @property
    def piece(self) -> int:
        """The size of the pieces of a new file in bytes."""
        return max(PIECE, _LARGEST_PIECE // max(1, self.forms))

    def shutdown(self) -> None:
        self.hashing.shutdown()
        self.waiting.shutdown()


class _Incoming:
    """The files of one form, in a temporary directory that ``keep()`` publishes.

    Entering the context creates the directory. Leaving it before ``keep()`` has returned removes the directory and its
    files; the exit waits for the removal even if it is cancelled. Every method raises ``StorageFull`` or ``Internal``,
    with the OSError as its cause.
    """

    def __init__(self, root: Path, root_fd: int, threads: _Threads, *, fsync: bool) -> None:
        self._root = root
        self._root_fd = root_fd
        self._threads = threads
        self._fsync = fsync
        self._writers: list[Writer] = []
        self._numbers: dict[str, int] = {}
        self._publishing: Future[None] | None = None
        self._published = False
        self._kept = False

    async def __aenter__(self) -> Self:
        with storage_problems():
            self._name, self._fd = _create_incoming(self._root_fd)
        self._final = self._name.removeprefix(_INCOMING)
        self._threads.forms += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.forms -= 1
        if self._kept:
            os.close(self._fd)
        else:
            removal = asyncio.wrap_future(self._threads.waiting.submit(self._remove))
            await wait_until_done(removal)
            removal.result()

    def file(self, filename: str, _media_type: str | None = None) -> "Writer":
        """Create a file under the safe form of ``filename``, with a number if the form has that name twice."""
        with storage_problems():
            name, fd = self._create(safe(filename))
        threads = self._threads
        writer = Writer(name, fd, threads.waiting, fsync=self._fsync, piece=threads.piece, piece_pool=threads.hashing)
        self._writers.append(writer)
        return writer

    async def keep(self) -> str:
        """Publish all files at once, and return the path of their final directory.

        Every writer must have been closed. After the return, the files are not removed by this object.
        """
        if not all(writer.complete for writer in self._writers):
            raise RuntimeError("a file of the form is not complete")
        with storage_problems():
            if self._fsync:
                self._publishing = self._threads.waiting.submit(self._publish)
                await result_of(self._publishing)
            else:
                self._publish()
        self._kept = True
        return f"{self._root}/{self._final}"

    def _create(self, wanted: str) -> tuple[str, int]:
        name, number = wanted, self._numbers.get(wanted, 1)
        while True:
            try:
                fd = os.open(name, _NEW_FILE, 0o666, dir_fd=self._fd)
            except FileExistsError:
                number += 1
                name = numbered(wanted, number)
            else:
                self._numbers[wanted] = number
                return name, fd

    def _publish(self) -> None:
        if self._fsync:
            os.fsync(self._fd)
        os.rename(self._name, self._final, src_dir_fd=self._root_fd, dst_dir_fd=self._root_fd)
        self._published = True
        if self._fsync:
            os.fsync(self._root_fd)

    def _remove(self) -> None:
        """Remove the directory, in a thread, after the pending jobs of this form.

        Those jobs were queued before this one, or for other threads, so waiting for them here cannot block them.
        """
        wait(job for job in (self._publishing, *(writer.pending for writer in self._writers)) if job is not None)
        try:
            for writer in self._writers:
                writer.abandon()
            if self._published:  # keep() was cancelled after the rename
                os.rename(self._final, self._name, src_dir_fd=self._root_fd, dst_dir_fd=self._root_fd)
            for writer in self._writers:
                os.unlink(writer.name, dir_fd=self._fd)
            os.rmdir(self._name, dir_fd=self._root_fd)
        except FileNotFoundError:
            pass  # already removed by someone else
        except OSError as error:
            log.warning("cannot remove %s (%s); the next start removes it", self._root / self._name, error.strerror)
        finally:
            os.close(self._fd)


def stored(root: Path) -> list[Path]:
    """Return all files kept below ``root``, sorted, without incomplete uploads."""
    # Incoming directories are not listed: they may disappear meanwhile.
    kept = (path for path in root.glob("*") if not path.name.startswith(_INCOMING))
    return sorted(path for directory in kept for path in directory.glob("*") if path.is_file())


def _create_root(root: Path, *, durable: bool) -> None:
    missing = [directory for directory in (root, *root.parents) if not directory.exists()]
    root.mkdir(parents=True, exist_ok=True)
    if durable:
        for created in missing:
            _sync_directory(created.parent)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, _DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _create_incoming(root_fd: int) -> tuple[str, int]:
    """Create an incoming directory. Return its name and its locked file descriptor."""
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


def _check_writable(root_fd: int) -> None:
    """Create and remove an incoming directory. Raises OSError, except for a full disk."""
    try:
        name, fd = _create_incoming(root_fd)
    except OSError as error:
        if error.errno not in FULL:
            raise
    else:
        os.rmdir(name, dir_fd=root_fd)
        os.close(fd)


def _sweep(root_fd: int) -> None:
    for name in os.listdir(root_fd):
        if _INCOMING_NAME.fullmatch(name):
            try:
                _sweep_one(root_fd, name)
            except FileNotFoundError:
                pass  # kept or removed meanwhile by another process
            except OSError as error:
                log.warning("cannot remove %s from the store (%s)", name, error.strerror)


def _sweep_one(root_fd: int, name: str) -> None:
    fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=root_fd)
    try:
        if not try_lock(fd):
            return  # in use by another process
        # If the upload was kept between open and flock, the lock was free. Check that the name still refers to this
        # directory; it cannot change now, because only the holder of the lock renames.
        if os.path.samestat(os.fstat(fd), os.stat(name, dir_fd=root_fd, follow_symlinks=False)):
            shutil.rmtree(name, dir_fd=root_fd)
    finally:
        os.close(fd)
