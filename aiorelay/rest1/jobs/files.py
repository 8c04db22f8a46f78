"""Store each job in a small file, so that its result outlives the process that ran it.

    <directory>/ID.json         written when a job starts, replaced when it ends, removed when it expires
    <directory>/ID.end          asks the process that runs the job to cancel it
    <directory>/TOKEN.alive     locked (flock) for the lifetime of the process that wrote TOKEN into its records

Processes may share a directory. A process whose lock is free has ended, and its running jobs are lost. On a filesystem
without flock every process counts as alive.
"""

import contextlib
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from aiorelay.errors import StartupError
from aiorelay.files.locks import claim, try_lock
from aiorelay.files.writer import storage_problems
from aiorelay.observability.logs import log
from aiorelay.rest1.jobs.records import ID, Record

__all__ = ["JobFiles"]

_JSON: Final = "json"
_END: Final = "end"
_ALIVE: Final = "alive"


class JobFiles:
    """The files below ``directory``. ``process`` is the token of this process, once the directory is open."""

    def __init__(self, directory: Path) -> None:
        self.process = ""
        self._directory = directory
        self._lock = -1

    def open(self) -> None:
        """Make the directory if it is missing, and lock the file of this process. Raises ``StartupError``."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            while self._lock < 0:
                self.process = secrets.token_hex(16)
                self._lock = _claim(self._path(self.process, _ALIVE))
        except OSError as error:
            raise StartupError(
                f"cannot keep jobs in {self._directory}: {error.strerror}; choose another place with --state-dir"
            ) from error

    def close(self) -> None:
        """Remove the file of this process, and release its lock."""
        with contextlib.suppress(OSError):
            self._path(self.process, _ALIVE).unlink()
        os.close(self._lock)
        self._lock = -1

    def write(self, record: Record) -> None:
        """Write the job's file, replacing an older one. Raises ``StorageFull`` or ``Internal``."""
        made = self._path(record.id, self.process)
        with storage_problems():
            try:
                with os.fdopen(os.open(made, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                    file.write(record.to_json())
                made.replace(self._path(record.id, _JSON))
            except OSError:
                made.unlink(missing_ok=True)
                raise

    def read(self, identity: str) -> Record | None:
        """Return the record of a job, or None if there is none. ``identity`` may be any text."""
        if not ID.fullmatch(identity):
            return None
        try:
            return Record.from_json(self._path(identity, _JSON).read_text())
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, AttributeError) as error:
            log.warning("the file of a job cannot be read: %s", type(error).__name__)
            return None

    def remove(self, identity: str) -> None:
        for ending in (_JSON, _END):
            with contextlib.suppress(OSError):
                self._path(identity, ending).unlink()

    def request_cancellation(self, identity: str) -> None:
        """Ask the process that runs a job to cancel it. Raises ``StorageFull`` or ``Internal``."""
        with storage_problems():
            self._path(identity, _END).touch(0o600)

    def is_cancellation_requested(self, identity: str) -> bool:
        """Whether another process has asked for the cancellation of a job."""
        return self._path(identity, _END).exists()

    def is_alive(self, process: str) -> bool:
        """Whether the process with this token is running."""
        try:
            fd = os.open(self._path(process, _ALIVE), os.O_RDWR)
        except FileNotFoundError:
            return False
        try:
            return not try_lock(fd, shared=True)
        except OSError:  # there are no locks here
            return True
        finally:
            os.close(fd)

    def orphans(self) -> Iterator[Record]:
        """Yield the records of processes that have ended, and remove their other files."""
        paths = list(self._directory.iterdir())
        for path in paths:
            stem, _, ending = path.name.partition(".")
            if ending == _JSON and (record := self.read(stem)) and not self.is_alive(record.process):
                yield record
            elif ending not in {_JSON, _END, _ALIVE} and not self.is_alive(ending):  # half-written
                path.unlink(missing_ok=True)
        for path in paths:  # last: a process that starts meanwhile must still see that the owner has ended
            if path.name.endswith(f".{_ALIVE}"):
                _remove_if_dead(path)

    def _path(self, stem: str, ending: str) -> Path:
        return self._directory / f"{stem}.{ending}"


def _claim(path: Path) -> int:
    """Make and lock the file that says that we live; -1 if somebody swept it away before it was locked."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    if claim(fd):
        return fd
    os.close(fd)
    return -1


def _remove_if_dead(path: Path) -> None:
    """Remove what says that a process lives, unless it does. Removed under its lock, it cannot be claimed meanwhile."""
    try:
        fd = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return
    try:
        if try_lock(fd):
            path.unlink(missing_ok=True)
    except OSError:
        pass
    finally:
        os.close(fd)
