"""Store unfinished uploads: create, find, append to, read, end and expire them.

    create ─▶ unfinished ──▶ ended, with its outcome ──▶ forgotten after an hour
                  ├───────▶ removed  ┐
                  └───────▶ expired  ┴▶ Gone ─────────▶ NotFound after an hour

Nothing is kept in memory of an upload that nobody appends to. Processes may share the directory.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Self

from aiorelay.errors import Gone, Problem, StartupError, StorageFull, Superseded
from aiorelay.files.writer import storage_problems
from aiorelay.observability.logs import log
from aiorelay.rest1.resumable.appending import Disk, FileAppending, Quota
from aiorelay.rest1.resumable.claims import Claims
from aiorelay.rest1.resumable.files import UploadFiles
from aiorelay.rest1.resumable.unfinished import (
    Upload,
    UploadProtocol,
    check_kept,
    check_offset,
    check_unfinished,
    no_such_upload,
)

__all__ = ["FileUploads"]

_THREADS: Final = 8
_HOUR: Final = 3600.0
# How often, at most, the bytes of other processes' uploads are counted because of a new upload, in seconds.
_COUNT_INTERVAL: Final = 1.0
_LONGEST_SWEEP_INTERVAL: Final = 60.0


class FileUploads:
    """The unfinished uploads in ``directory``; see ``Uploads``.

    With ``fsync`` what is acknowledged is on the disk; without, it is in the page cache, safe from a kill but not from
    a power cut. At most ``quota`` bytes are kept, each upload for ``expiry`` seconds since its last byte, and the
    record of an ended one for ``kept`` seconds. Bytes that other processes append count once this one has looked.
    """

    def __init__(self, directory: Path, *, fsync: bool, quota: int, expiry: float, kept: float = _HOUR) -> None:
        self._directory = directory
        self._fsync = fsync
        self._expiry = expiry
        self._kept = kept
        self._files = UploadFiles(directory, fsync=fsync)
        self._pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="uploads")
        self._disk = Disk(self._files, self._pool, Quota(quota))
        self._claims = Claims(self._files)
        self._counted = 0.0
        self._sweeping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Make the directory if there is none, and sweep it from now on. Raises ``StartupError``."""
        try:
            self._files.open()
            self._disk.quota.used = self._sweep()
        except OSError as error:
            self._pool.shutdown()
            raise StartupError(
                f"cannot keep unfinished uploads in {self._directory}: {error.strerror}; "
                "choose another place with --state-dir"
            ) from error
        self._sweeping = asyncio.create_task(self._sweep_regularly())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop sweeping. Every ``appending`` must have been left before."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait([self._sweeping])
        self._claims.close()
        self._pool.shutdown()

    async def create(
        self,
        *,
        owner: str | None,
        protocol: UploadProtocol,
        request: dict[str, Any],
        length: int | None = None,
        partial: bool = False,
    ) -> Upload:
        if time.monotonic() >= self._counted + _COUNT_INTERVAL:
            self._counted = time.monotonic()
            self._disk.quota.used = await self._disk.run(self._files.used)
        self._disk.quota.check(length or 1)
        if length is not None and length > await self._disk.run(self._files.free):
            raise StorageFull("The server's disk has no room for an upload of this length; try again later.")
        upload = Upload(
            id="", owner=owner, protocol=protocol, created=time.time(), length=length, request=request, partial=partial
        )
        made = await self._disk.run(self._files.create, upload)
        return await self.find(made.id, owner)

    async def create_ended(
        self,
        *,
        owner: str | None,
        protocol: UploadProtocol,
        request: dict[str, Any],
        length: int,
        outcome: dict[str, Any],
    ) -> Upload:
        upload = Upload(
            id="",
            owner=owner,
            protocol=protocol,
            created=time.time(),
            length=length,
            request=request,
            size=length,
        )
        made = await self._disk.run(self._files.create, upload)
        return await self._disk.run(self._files.end, made, outcome)

    async def find(self, identity: str, owner: str | None, protocol: UploadProtocol | None = None) -> Upload:
        with storage_problems():
            upload = self._files.read(identity)
            if upload is None or upload.owner != owner or protocol not in {None, upload.protocol}:
                raise no_such_upload()
            if upload.ended is None:
                try:
                    size, written = self._files.last_byte(identity)
                except FileNotFoundError:  # it has ended since we read its record
                    upload = self._files.read(identity) or upload
                else:
                    upload = replace(upload, size=size, expires=written + self._expiry)
        if upload.ended is not None:
            upload = replace(upload, expires=upload.ended + self._kept)
        check_kept(upload, time.time(), is_held=upload.id in self._claims)
        return upload

    @contextlib.asynccontextmanager
    async def appending(
        self, identity: str, owner: str | None, offset: int | None = None
    ) -> AsyncGenerator[FileAppending, None]:
        await self._unfinished(identity, owner)
        async with self._claims.hold(identity) as (claim, fd):
            upload = await self._begin(identity, owner, fd, offset)
            appending = FileAppending(upload, fd, claim, self._disk, fsync=self._fsync)
            try:
                yield appending
            except BaseException:
                with contextlib.suppress(Problem):
                    await appending.close()
                raise
            await appending.close()

    async def interrupt(self, identity: str, owner: str | None) -> Upload:
        if (await self.find(identity, owner)).ended is None:
            with contextlib.suppress(Gone, Superseded):
                async with self._claims.hold(identity, unless_delivering=True):
                    pass
        return await self.find(identity, owner)

    async def remove(self, identity: str, owner: str | None) -> None:
        upload = await self.find(identity, owner)
        if upload.ended is not None:
            await self._disk.run(self._files.end, upload, None)
            return
        async with self.appending(identity, owner) as appending:
            await appending.end(None)

    async def read(self, upload: Upload, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yield bytes of an upload from ``start`` to ``end``, or all that it had when it was found.

        Raises ``Gone`` if they were removed, and ``Internal``.
        """
        try:
            fd = self._files.open_for_reading(upload.id)
        except FileNotFoundError:
            raise Gone("The bytes of the upload were removed; begin a new upload.") from None
        last = upload.size if end is None else end
        async with contextlib.aclosing(self._disk.read(fd, start, last)) as blocks:
            async for block in blocks:
                yield block

    async def _unfinished(self, identity: str, owner: str | None) -> Upload:
        return check_unfinished(await self.find(identity, owner))

    async def _begin(self, identity: str, owner: str | None, fd: int, offset: int | None) -> Upload:
        """Return the upload as its new writer finds it: nothing in it that was not acknowledged, if ``offset`` is."""
        upload = await self._unfinished(identity, owner)  # again: it may have ended while we waited
        upload = replace(upload, size=await self._disk.run(self._files.settle, identity, fd))
        if offset is None:
            return upload
        check_offset(upload, offset)
        if offset < upload.size:  # the last byte comes again, to be delivered again
            await self._disk.run(self._files.truncate, identity, fd, offset)
        return replace(upload, size=offset)

    def _sweep(self) -> int:
        """Remove what is over; return how many bytes are kept."""
        used = 0
        for identity in self._files.identities():
            try:
                used += self._files.sweep(identity, expiry=self._expiry, kept=self._kept)
            except FileNotFoundError:
                pass  # removed meanwhile
            except OSError as error:
                log.warning("cannot sweep an unfinished upload (%s)", error.strerror)
        return used

    async def _sweep_regularly(self) -> None:
        while True:
            await asyncio.sleep(min(self._expiry / 10, _LONGEST_SWEEP_INTERVAL))
            try:
                self._disk.quota.used = await self._disk.run(self._sweep)
            except Problem as problem:
                log.warning("cannot sweep unfinished uploads (%s)", problem.__cause__)
