"""Keep events in files until the receiver has accepted them, so that they survive the process.

    <state-dir>/outbox/PROCESS/         a directory for each process, locked (flock) for its lifetime
    <state-dir>/outbox/PROCESS/ID.json  the payload of an event; its time of modification says since when it waits
    <state-dir>/dead-letters/ID.json    an event that was given up

A directory whose lock is free belongs to a process that has ended: another process takes its events over. So each
event belongs to one living process, which delivers it.
"""

import contextlib
import os
import re
import secrets
import time
from pathlib import Path
from typing import Final

from aiorelay.errors import StartupError
from aiorelay.files.locks import lock_directory
from aiorelay.observability.logs import log
from aiorelay.webhooks.dead_letters import DeadLetters
from aiorelay.webhooks.events import Event
from aiorelay.webhooks.queue import Entry

__all__ = ["Outbox"]

_JSON: Final = ".json"
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")


class Outbox:
    """The outbox below ``state_dir``. Its methods block and raise ``OSError`` unless they say otherwise.

    With ``fsync``, events are on the disk once ``sync`` has returned for what ``unsynced`` gave.
    """

    def __init__(self, state_dir: Path, *, fsync: bool) -> None:
        self.dead_letters = DeadLetters(state_dir)
        self._root = state_dir / "outbox"
        self.fsync = fsync
        self._own = self._root
        self._lock = -1
        self._unsynced: list[int] = []

    def open(self) -> None:
        """Make the directory of this process, and lock it. Raises ``StartupError``."""
        try:
            self._root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.dead_letters.open()
            while self._lock < 0:
                self._own = self._root / secrets.token_hex(16)
                self._own.mkdir(mode=0o700)
                self._lock = lock_directory(self._own)
        except OSError as error:
            raise StartupError(
                f"webhook: events cannot be kept in {self._root}: {error.strerror}. "
                "Choose a directory on a file system with locks with --state-dir."
            ) from error

    def close(self) -> None:
        """Release the lock. Events that are left belong to the next process."""
        self.sync(self.unsynced())
        with contextlib.suppress(OSError):
            self._own.rmdir()  # fails if events are left
        os.close(self._lock)
        self._lock = -1

    def write(self, event: Event) -> Entry:
        """Write an event down. A kill of the process does not undo that, nor a power cut after ``sync``."""
        path = self._path(event.id)
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        left = event.body
        try:
            while left:
                left = left[os.write(fd, left) :]
        except OSError:
            os.close(fd)
            path.unlink(missing_ok=True)
            raise
        if self.fsync:
            self._unsynced.append(fd)
        else:
            os.close(fd)
        return Entry(event.id, len(event.body), time.time())

    def unsynced(self) -> list[int]:
        """Return what must be synced of the events that were written since the last call."""
        unsynced, self._unsynced = self._unsynced, []
        return unsynced

    def sync(self, unsynced: list[int]) -> None:
        """Bring events onto the disk, for which a thread may be used. Logs errors: the events are written anyway."""
        if not unsynced:
            return
        for fd in unsynced:
            try:
                os.fsync(fd)
            except OSError as error:
                log.error("A webhook event could not be synced: %s.", error.strerror)
            finally:
                os.close(fd)
        with contextlib.suppress(OSError):
            os.fsync(self._lock)

    def read(self, identity: str) -> bytes:
        return self._path(identity).read_bytes()

    def remove(self, identity: str) -> None:
        self._path(identity).unlink(missing_ok=True)

    def give_up(self, identity: str) -> bool:
        """Move an event to the dead letters. False if there is no room for it: then it is lost."""
        return self.dead_letters.take(self._path(identity))

    def take_over(self) -> list[Entry]:
        """Move the events of processes that have ended to this one, and return them, the oldest first."""
        taken: list[Entry] = []
        for directory in self._root.iterdir():
            if directory != self._own:
                try:
                    self._take_over(directory, taken)
                except OSError as error:  # another process was faster, or the next time will do
                    log.debug("the outbox of a process was not taken over: %s", error.strerror)
        return sorted(taken, key=lambda entry: entry.since)

    def _take_over(self, directory: Path, taken: list[Entry]) -> None:
        lock = lock_directory(directory)
        if lock < 0:
            return
        try:
            for path in directory.iterdir():
                identity = path.name.removesuffix(_JSON)
                if not path.name.endswith(_JSON) or not _ID.fullmatch(identity):
                    path.unlink()
                    continue
                status = path.stat()
                path.replace(self._path(identity))
                taken.append(Entry(identity, status.st_size, status.st_mtime))
            directory.rmdir()
        finally:
            os.close(lock)

    def _path(self, identity: str) -> Path:
        return self._own / f"{identity}{_JSON}"
