"""Remember unfinished uploads, so that a later ``send`` of the same file continues them.

DIRECTORY/KEY    a JSON object: the upload's URL and the boundary of its form; locked while a ``send`` uses it
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from aiorelay.files.locks import claim

__all__ = ["Record", "UnfinishedUpload", "key_of", "record"]

# Longer than relays keep unfinished uploads.
_KEPT = 30 * 86400.0


@dataclass(frozen=True, slots=True)
class UnfinishedUpload:
    """The URL of an upload, and the boundary of the form that is being sent to it."""

    url: str
    boundary: str


class Record:
    """What is known of one file's unfinished upload. Without a descriptor nothing is kept."""

    def __init__(self, path: Path | None = None, fd: int = -1) -> None:
        self._path = path
        self._fd = fd
        self.upload = _read(fd) if fd >= 0 else None

    @property
    def is_kept(self) -> bool:
        """Whether a later ``send`` will find the upload."""
        return self._fd >= 0 and self.upload is not None

    def save(self, upload: UnfinishedUpload) -> None:
        """Keep ``upload``, if the disk permits it."""
        self.upload = upload
        if self._fd >= 0:
            with suppress(OSError):
                os.ftruncate(self._fd, 0)
                os.pwrite(self._fd, json.dumps(asdict(upload)).encode(), 0)

    def forget(self) -> None:
        """Keep nothing: the upload has ended."""
        self.upload = None

    def close(self) -> None:
        """Release the lock. A record of nothing is removed."""
        if self._fd < 0 or self._path is None:
            return
        with suppress(OSError):
            if self.upload is None:
                self._path.unlink()
        os.close(self._fd)


def key_of(path: str, *content: object) -> str | None:
    """Return the name of the record of the file ``path`` as it is now, None if it cannot be read.

    ``content`` is what else makes the upload what it is: its destination and its form fields.
    """
    try:
        status = Path(path).stat()
    except OSError:
        return None
    document = [os.path.realpath(path), status.st_size, status.st_mtime_ns, *content]
    return hashlib.sha256(json.dumps(document, default=str).encode()).hexdigest()


@contextmanager
def record(directory: Path | None, key: str | None) -> Iterator[Record]:
    """Open the record ``key``. It keeps nothing if it is in use, or if ``directory`` cannot be written."""
    opened = Record() if directory is None or key is None else _open(directory, key)
    try:
        yield opened
    finally:
        opened.close()


def _open(directory: Path, key: str) -> Record:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        _sweep(directory)
        fd = os.open(directory / key, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        return Record()
    if not claim(fd):  # another process is sending the same file
        os.close(fd)
        return Record()
    return Record(directory / key, fd)


def _sweep(directory: Path) -> None:
    oldest = time.time() - _KEPT
    for each in directory.iterdir():
        with suppress(OSError):
            if each.stat().st_mtime < oldest:
                each.unlink()


def _read(fd: int) -> UnfinishedUpload | None:
    try:
        document = json.loads(os.pread(fd, 64 * 1024, 0))
        return UnfinishedUpload(str(document["url"]), str(document["boundary"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None
