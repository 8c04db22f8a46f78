"""Keep each unfinished upload in files, so that what was acknowledged survives the process.

    <directory>/ID.json         its record, replaced atomically; kept for a while after the upload's end
    <directory>/ID.data         its bytes, appended only; locked (flock) by the request that appends
    <directory>/ID.synced       how many of them are on the disk, if they are synced
    <directory>/ID.claim        the token of the newest request for the lock, while another has it
    <directory>/ID.delivering   the holder of the lock cannot be interrupted
    <directory>/ID.new          a record that is being written, by the holder of the lock

Without ``fsync`` the size of the data is the offset. With it the offset is what ID.synced says, which is written
after the data was synced: after a power cut a file may have its size without its content.
"""

import contextlib
import json
import os
import re
import secrets
import time
from collections.abc import Iterable
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Final

from aiorelay.files.locks import claim, try_lock
from aiorelay.files.writer import FULL
from aiorelay.observability.logs import log
from aiorelay.rest1.resumable.unfinished import Upload

__all__ = ["UploadFiles"]

_BYTES_OF_ID: Final = 24
_ID: Final = re.compile(r"[A-Za-z0-9_-]{32}")
_JSON: Final = "json"
_DATA: Final = "data"
_SYNCED: Final = "synced"
_CLAIM: Final = "claim"
_DELIVERING: Final = "delivering"
_NEW: Final = "new"
_WORKING: Final = (_DATA, _SYNCED, _CLAIM, _DELIVERING, _NEW)
# How often a number that is being written is read.
_READS: Final = 100
_ENDINGS: Final = (*_WORKING, _JSON)


class UploadFiles:
    """The files below ``directory``. Its methods block and raise ``OSError``, and none keeps anything in memory."""

    def __init__(self, directory: Path, *, fsync: bool) -> None:
        self._directory = directory
        self._fsync = fsync

    def open(self) -> None:
        """Make the directory if there is none, and try a lock: without locks two requests could append at once."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            try_lock(fd, shared=True)
        finally:
            os.close(fd)

    def free(self) -> int:
        """The bytes that the disk has left for us."""
        status = os.statvfs(self._directory)
        return status.f_bavail * status.f_frsize

    # Records

    def create(self, upload: Upload) -> Upload:
        """Make the files of a new upload, and return it with its name. The record comes last: it is what counts."""
        while True:
            named = replace(upload, id=secrets.token_urlsafe(_BYTES_OF_ID))
            fd = os.open(self._path(named.id, _DATA), os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                if claim(fd):
                    if self._fsync:
                        self._note_synced(named.id, 0)
                    self.write(named)
                    return named
            except OSError:
                self.remove(named.id)
                raise
            finally:
                os.close(fd)

    def write(self, upload: Upload) -> None:
        """Put the record in place of the one that is there. Only with the upload's lock."""
        path = self._path(upload.id, _NEW)
        try:
            with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                json.dump(asdict(upload), file)
                if self._fsync:
                    file.flush()
                    os.fsync(file.fileno())
            path.replace(self._path(upload.id, _JSON))
        except OSError:
            path.unlink(missing_ok=True)
            raise
        self._sync_directory()

    def read(self, identity: str) -> Upload | None:
        """The record, ``size`` and ``expires`` as of its writing; None if there is none, whatever ``identity`` is."""
        if not _ID.fullmatch(identity):
            return None
        try:
            members = json.loads(self._path(identity, _JSON).read_bytes())
            return Upload(**{name: value for name, value in members.items() if name in _MEMBERS})
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, AttributeError) as error:
            log.warning("the record of an unfinished upload cannot be understood: %s", type(error).__name__)
            return None

    def end(self, upload: Upload, outcome: dict[str, Any] | None) -> Upload:
        """Write down how the upload ended, and remove its bytes. Only with the lock, or without bytes.

        An end that is not written down would let the upload be delivered again: on a full disk the bytes go first.
        """
        ended = replace(upload, ended=time.time(), outcome=outcome)
        try:
            self.write(ended)
        except OSError as error:
            if error.errno not in FULL:
                raise
            os.truncate(self._path(upload.id, _DATA), 0)
            self.write(ended)
        self.remove_bytes(upload.id)
        return ended

    def remove_bytes(self, identity: str) -> None:
        self._remove(identity, _WORKING)

    def remove(self, identity: str) -> None:
        self._remove(identity, _ENDINGS)

    def identities(self) -> set[str]:
        """The names of all uploads of which there is any file."""
        stems = {path.name.partition(".")[0] for path in self._directory.iterdir()}
        return {stem for stem in stems if _ID.fullmatch(stem)}

    # Bytes

    def last_byte(self, identity: str) -> tuple[int, float]:
        """How many bytes are kept, and when the last one was written. Raises ``FileNotFoundError`` if none are."""
        status = self._path(identity, _DATA).stat()
        return self._kept(identity, status.st_size), status.st_mtime

    def open_for_reading(self, identity: str) -> int:
        return os.open(self._path(identity, _DATA), os.O_RDONLY)

    def open_for_append(self, identity: str) -> int:
        return os.open(self._path(identity, _DATA), os.O_RDWR | os.O_APPEND)

    def settle(self, identity: str, fd: int) -> int:
        """Make the data what is known to be kept, after whatever had happened; return its size. Only with the lock."""
        size = os.fstat(fd).st_size
        kept = self._kept(identity, size)
        if kept < size:
            os.ftruncate(fd, kept)
        self._path(identity, _DELIVERING).unlink(missing_ok=True)
        synced = self._path(identity, _SYNCED)
        if not self._fsync:
            synced.unlink(missing_ok=True)  # it would be wrong from the first byte on
        elif not synced.exists():  # of a process without fsync
            self.sync(identity, fd)
            self._sync_directory()
        return kept

    def sync(self, identity: str, fd: int) -> int:
        """Bring all that is written onto the disk (with ``fsync``); return how many bytes that is, or was before."""
        size = os.fstat(fd).st_size
        if self._fsync:
            os.fdatasync(fd)
            self._note_synced(identity, size)
        return size

    def truncate(self, identity: str, fd: int, size: int) -> None:
        """Forget the bytes after ``size``. Only with the lock."""
        if self._fsync:
            self._note_synced(identity, size)
        os.ftruncate(fd, size)

    def _kept(self, identity: str, size: int) -> int:
        if not self._fsync:
            return size
        try:
            return min(size, self._synced(identity))
        except FileNotFoundError:  # of a process without fsync
            return size

    def _synced(self, identity: str) -> int:
        path = self._path(identity, _SYNCED)
        for _ in range(_READS):
            both = set(path.read_bytes().split())
            if len(both) == 1:
                return int(both.pop())
        return 0

    def _note_synced(self, identity: str, size: int) -> None:
        fd = os.open(self._path(identity, _SYNCED), os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            # Within one sector, so that the disk has it whole or not; twice, so that a reader sees whether it has.
            os.pwrite(fd, b"%020d %020d" % (size, size), 0)
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def _sync_directory(self) -> None:
        if self._fsync:
            fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)

    def used(self) -> int:
        """The bytes of all uploads, as far as they are not removed meanwhile."""
        used = 0
        with os.scandir(self._directory) as entries:
            for entry in entries:
                if entry.name.endswith(f".{_DATA}"):
                    with contextlib.suppress(FileNotFoundError):
                        used += entry.stat(follow_symlinks=False).st_size
        return used

    # Claims

    def newest_claim(self, identity: str) -> str | None:
        """The token of the newest request that waits for the lock, or waited for it."""
        try:
            return self._path(identity, _CLAIM).read_text()
        except FileNotFoundError:
            return None

    def write_claim(self, identity: str, token: str) -> None:
        """Ask the holder of the lock to give it to the request with this ``token``.

        Not replaced atomically: half of a token differs from the holder's own too, which is all that is looked at.
        """
        fd = os.open(self._path(identity, _CLAIM), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            os.write(fd, token.encode())
        finally:
            os.close(fd)

    def remove_claim(self, identity: str, token: str) -> None:
        if self.newest_claim(identity) == token:
            self._path(identity, _CLAIM).unlink(missing_ok=True)

    def is_delivering(self, identity: str) -> bool:
        """Whether the holder of the lock, if there is one, cannot be interrupted."""
        return self._path(identity, _DELIVERING).exists()

    def set_delivering(self, identity: str, *, delivering: bool) -> None:
        path = self._path(identity, _DELIVERING)
        path.touch(0o600) if delivering else path.unlink(missing_ok=True)

    # Sweeping

    def sweep(self, identity: str, *, expiry: float, kept: float) -> int:
        """Remove what is over of an upload; return how many bytes of it are kept.

        ``expiry`` are seconds since its last byte, ``kept`` since its end. An upload whose lock a request has is left
        alone.
        """
        try:
            size, written = self.last_byte(identity)
        except FileNotFoundError:
            self._sweep_record(identity, kept)
            return 0
        upload = self.read(identity)
        if upload is not None and upload.ended is None and written + expiry > time.time():
            return size
        return self._sweep_bytes(identity, expiry)

    def _sweep_record(self, identity: str, kept: float) -> None:
        """Remove the record of an upload without bytes once it was kept long enough. It cannot change any more."""
        upload = self.read(identity)
        if upload is None or (upload.ended is not None and upload.ended + kept <= time.time()):
            self.remove(identity)
        elif upload.ended is None:  # somebody else removed the bytes
            self.end(upload, None)

    def _sweep_bytes(self, identity: str, expiry: float) -> int:
        fd = self.open_for_append(identity)
        try:
            status = os.fstat(fd)
            if not try_lock(fd):
                return status.st_size
            upload = self.read(identity)
            if upload is None:  # of a process that died before there was a record
                self.remove(identity)
            elif upload.ended is not None:  # of a process that died before the bytes were removed
                self.remove_bytes(identity)
            elif os.fstat(fd).st_mtime + expiry <= time.time():
                self.end(upload, None)
            else:
                return os.fstat(fd).st_size
        finally:
            os.close(fd)
        return 0

    def _remove(self, identity: str, endings: Iterable[str]) -> None:
        for ending in endings:
            self._path(identity, ending).unlink(missing_ok=True)

    def _path(self, identity: str, ending: str) -> Path:
        return self._directory / f"{identity}.{ending}"


_MEMBERS: Final = {member.name for member in fields(Upload)}
