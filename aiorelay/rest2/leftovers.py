"""Abort the multipart uploads of processes that were killed.

The key of an object begins with the mark of the process that writes it: <prefix>/<mark><random>/<name>. Each process
holds a lock on a file of that name in the state directory, which the kernel releases when the process ends. So the next
start with the same state directory knows at once which uploads nobody continues. An upload whose mark is unknown here
is of another machine or of a state directory that is gone: it is aborted after a day without a new part.
"""

import asyncio
import datetime as dt
import hashlib
import os
import re
import secrets
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Final, Self

from aiorelay.errors import StartupError
from aiorelay.files.locks import claim, try_lock
from aiorelay.object_storage.client import Client, Patience
from aiorelay.object_storage.multipart_uploads import abort_all, abort_upload, unfinished
from aiorelay.object_storage.requests import ObjectStorageError, Request, Unfinished, newest_part, text_of
from aiorelay.observability.logs import log

__all__ = ["Leftovers"]

_MARK: Final = 12  # hexadecimal digits
_ABANDONED_AFTER: Final = dt.timedelta(days=1)
_SWEEP_INTERVAL: Final = 3600.0  # seconds
_RETRY_INTERVAL: Final = 60.0
_PATIENCE: Final = Patience(5.0, 5.0)
_PERMISSIONS: Final = (
    "s3:PutObject",
    "s3:DeleteObject",
    "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
    "s3:ListBucketMultipartUploads",
)
_NEW_FILE: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


class Leftovers:
    """The unfinished uploads below ``prefix``, used as an asynchronous context manager for as long as a process stores.

    ``state_dir`` has the marks of the processes of this machine. ``owner`` is the mark of this process.
    """

    def __init__(self, client: Client, bucket: str, prefix: str, state_dir: Path) -> None:
        self.owner = ""
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""
        # One directory for each store: the uploads of another one are not seen here.
        place = hashlib.sha256(f"{bucket}/{prefix}".encode()).hexdigest()[:16]
        self._directory = state_dir / "object-storage" / place
        self._key = re.compile(f"{re.escape(self._prefix)}([0-9a-f]{{{_MARK}}})[0-9a-f]{{20}}/[^/]+")
        self._fd = -1
        self._remain = False
        self._sweeping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Mark this process as living, and abort what others left. Raises ``StartupError``."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._mark()
        except OSError as error:
            raise StartupError(
                f"Cannot write to {self._directory}: {error.strerror}. Choose another directory with --state-dir."
            ) from error
        try:
            delay = await self._first_sweep()
        except BaseException:
            self._forget()
            raise
        self._sweeping = asyncio.create_task(self._sweep_again(delay))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait([self._sweeping])
        self._forget()

    def remain(self) -> None:
        """Keep the mark of this process at its end, so that the next start aborts what it could not."""
        self._remain = True

    async def abort_all(self, prefix: str, patience: Patience) -> None:
        """Abort all uploads whose keys begin with ``prefix``. Raises ``ObjectStorageError``."""
        await abort_all(self._client, self._bucket, prefix, patience)

    def _mark(self) -> None:
        while True:
            self.owner = secrets.token_hex(_MARK // 2)
            self._fd = os.open(self._directory / self.owner, _NEW_FILE, 0o600)
            if claim(self._fd):
                return
            os.close(self._fd)

    def _forget(self) -> None:
        if not self._remain:
            with suppress(OSError):
                (self._directory / self.owner).unlink()
        os.close(self._fd)

    async def _first_sweep(self) -> float:
        """Sweep, and return the time until the next sweep in seconds. Raises ``StartupError``."""
        try:
            await self._sweep()
        except ObjectStorageError as error:
            if not error.is_temporary:
                raise StartupError(error.refusal("store", self._bucket, *_PERMISSIONS)) from error
            log.warning("s3://%s does not answer (%s); uploads fail until it does", self._bucket, error)
            return _RETRY_INTERVAL
        return _SWEEP_INTERVAL

    async def _sweep_again(self, delay: float) -> None:
        while True:
            await asyncio.sleep(delay)
            delay = _SWEEP_INTERVAL
            try:
                await self._sweep()
            except ObjectStorageError as error:
                log.warning("cannot look for incomplete uploads in s3://%s (%s)", self._bucket, error)
                delay = _RETRY_INTERVAL

    async def _sweep(self) -> None:
        """Abort the uploads of dead processes. Raises ``ObjectStorageError``."""
        with _Marks(self._directory, self.owner) as marks:
            async for upload in unfinished(self._client, self._bucket, self._prefix, _PATIENCE):
                match = self._key.fullmatch(upload.key)
                if match is None or match[1] in marks.living:
                    continue
                if match[1] in marks.dead or await self._is_abandoned(upload):
                    await abort_upload(self._client, self._bucket, upload.key, upload.upload_id, _PATIENCE)
            marks.remove_dead()

    async def _is_abandoned(self, upload: Unfinished) -> bool:
        """Whether an upload has had no new part for a day."""
        before = dt.datetime.now(dt.UTC) - _ABANDONED_AFTER
        if upload.initiated > before:
            return False
        query = {"uploadId": upload.upload_id, "part-number-marker": "0"}
        newest: dt.datetime | None = None
        while True:
            try:
                answer = await self._client.send(self._bucket, Request("GET", upload.key, query), _PATIENCE)
            except ObjectStorageError as error:
                if error.status == 404:
                    return False
                raise
            newest = newest_part(answer.body) or newest
            marker = text_of(answer.body, "NextPartNumberMarker")
            if text_of(answer.body, "IsTruncated") != "true" or not marker or marker == query["part-number-marker"]:
                return newest is None or newest < before
            query["part-number-marker"] = marker


class _Marks:
    """The marks of the processes of this machine: those of living ones, and those of dead ones, which it locks.

    A process that has just made its mark finds it locked, and makes another.
    """

    def __init__(self, directory: Path, own: str) -> None:
        self.living = {own}
        self.dead: dict[str, int] = {}
        self._directory = directory

    def __enter__(self) -> Self:
        for path in self._directory.iterdir():
            if path.name not in self.living:
                with suppress(OSError):  # removed meanwhile, or there are no locks: a day decides
                    self._look_at(path)
        return self

    def __exit__(self, *_: object) -> None:
        for fd in self.dead.values():
            os.close(fd)

    def _look_at(self, path: Path) -> None:
        fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        with ExitStack() as unless_dead:
            unless_dead.callback(os.close, fd)
            if try_lock(fd):
                self.dead[path.name] = fd
                unless_dead.pop_all()
            else:
                self.living.add(path.name)

    def remove_dead(self) -> None:
        """Remove the marks of dead processes, whose uploads are aborted."""
        for name in self.dead:
            (self._directory / name).unlink(missing_ok=True)
