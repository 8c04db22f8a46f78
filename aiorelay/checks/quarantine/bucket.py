"""Move the kept files of a quarantine from its directory to object storage, in the background.

    refused ─▶ ID, ID.json in the directory ─▶ PREFIX/ID ─▶ PREFIX/ID.json ─▶ removed from the directory

Each step can be repeated: keys are random, and an object is overwritten by the same bytes. So a file whose move was
interrupted, by a kill too, is moved as a whole later.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import BinaryIO, Final, Literal

from aiorelay.checks.quarantine.directory import Quarantine
from aiorelay.errors import StartupError
from aiorelay.object_storage.client import Client, Patience
from aiorelay.object_storage.multipart_uploads import put_file
from aiorelay.object_storage.requests import ObjectStorageError, Request
from aiorelay.observability.logs import log
from aiorelay.settings.buckets import S3Location

__all__ = ["MoveOutcome", "QuarantineBucket"]

MoveOutcome = Literal["moved", "delayed", "lost"]

_PERMISSIONS: Final = ("s3:PutObject", "s3:AbortMultipartUpload", "s3:ListBucketMultipartUploads")
_PATIENCE: Final = Patience(90.0, 45.0)  # completing an upload can take long: some storages copy the parts
_AT_START: Final = Patience(5.0, 5.0)
_INTERVAL: Final = 600.0  # seconds until a file is tried again
_WAIT_AT_END: Final = 5.0


class QuarantineBucket:
    """The objects below ``place``, to which the kept files of ``directory`` are moved, one after the other.

    A file is given up if it is older than ``expiry`` seconds and cannot be moved. ``on_outcome`` is called for each
    attempt.
    """

    def __init__(
        self,
        client: Client,
        place: S3Location,
        directory: Quarantine,
        *,
        expiry: float,
        on_outcome: Callable[[MoveOutcome], None],
    ) -> None:
        self._client = client
        self._place = place
        self._prefix = f"{place.prefix}/" if place.prefix else ""
        self._directory = directory
        self._expiry = expiry
        self._on_outcome = on_outcome
        self._retry_at: dict[str, float] = {}
        self._ending = False

    @asynccontextmanager
    async def moving(self) -> AsyncGenerator[None, None]:
        """Move files for as long as the context lasts, and for a few seconds at its end.

        What cannot be moved by then stays in the directory. Raises ``StartupError`` if the bucket cannot be used. A
        storage that does not answer is not an error: it may come back.
        """
        await self._check()
        moving = asyncio.create_task(self._move_repeatedly())
        try:
            yield
        finally:
            self._ending = True
            self._directory.changed.set()
            await asyncio.wait([moving], timeout=_WAIT_AT_END)
            moving.cancel()
            await asyncio.wait([moving])

    async def _check(self) -> None:
        query = {"uploads": "", "prefix": self._prefix, "max-uploads": "1"}
        try:
            await self._client.send(self._place.bucket, Request("GET", query=query), _AT_START)
        except ObjectStorageError as error:
            if not error.is_temporary:
                raise StartupError(error.refusal("quarantine", self._place.bucket, *_PERMISSIONS)) from error
            log.warning("%s does not answer (%s); files of the quarantine wait until it does", self._place, error)

    async def _move_repeatedly(self) -> None:
        ending = False
        while not ending:
            ending = self._ending
            self._directory.changed.clear()
            try:
                await self._move_all()
            except OSError as error:
                log.error("cannot list the files of the quarantine: %s", error.strerror)
            if not ending:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_INTERVAL):
                        await self._directory.changed.wait()

    async def _move_all(self) -> None:
        clock = asyncio.get_running_loop().time
        for name in await asyncio.to_thread(self._directory.kept):
            if self._retry_at.get(name, 0.0) > clock():
                continue
            try:
                with self._directory.claimed(name) as file:
                    if file is not None:  # one that is still in use sets ``changed`` at its end
                        self._retry_at[name] = clock() + _INTERVAL
                        await self._move(name, file)
            except OSError as error:
                log.error("cannot read or remove the quarantined file %s: %s", name, error.strerror)

    async def _move(self, name: str, file: BinaryIO) -> None:
        """Move a file, or give it up if it has expired. Raises OSError."""
        try:
            await self._put(name, file)
        except ObjectStorageError as error:
            if self._directory.age(name) < self._expiry:
                log.warning("the quarantined file %s waits, for it cannot be moved to %s: %s", name, self._place, error)
                self._on_outcome("delayed")
                return
            log.error("the quarantined file %s expired before it could be moved to %s: %s", name, self._place, error)
            self._on_outcome("lost")
        else:
            log.info("the quarantined file %s was moved to %s", name, self._place)
            self._on_outcome("moved")
        await self._directory.remove(name)
        del self._retry_at[name]

    async def _put(self, name: str, file: BinaryIO) -> None:
        bucket, key = self._place.bucket, f"{self._prefix}{name}"
        await put_file(self._client, bucket, key, file, _PATIENCE)
        # After the file: a verdict that is there says that the file is complete.
        headers, verdict = {"Content-Type": "application/json"}, self._directory.verdict(name)
        await self._client.send(bucket, Request("PUT", f"{key}.json", {}, headers, verdict), _PATIENCE)
