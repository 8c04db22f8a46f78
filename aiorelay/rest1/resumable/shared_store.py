"""Store unfinished uploads that relays share: their records in Redis, their bytes in segments.

What was acknowledged survives every relay, and any relay continues it. It does not survive a Redis that forgets it.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any, Final, Self

from aiorelay.errors import Gone, Problem, Superseded
from aiorelay.observability.logs import log
from aiorelay.rest1.resumable.segments import Segments
from aiorelay.rest1.resumable.shared_appending import SharedAppending, remove_segments
from aiorelay.rest1.resumable.shared_claims import SharedClaim, SharedClaims
from aiorelay.rest1.resumable.unfinished import (
    Upload,
    UploadProtocol,
    check_kept,
    check_offset,
    check_unfinished,
    no_such_upload,
)
from aiorelay.rest1.resumable.upload_records import ID, FoundUpload, Lives, UploadRecords
from aiorelay.state.server import StateServer

__all__ = ["SharedUploads"]

_BYTES_OF_ID: Final = 24
_HOUR: Final = 3600.0
_LEASE: Final = 3.0
_LONGEST_SWEEP_INTERVAL: Final = 60.0
# How long a segment that no record names is left alone: it may be written down in a moment.
_LONGEST_WRITE: Final = 3600.0
# How often one of the relays lists all segments. Object storage bills each thousand of them, and they need not be gone
# soon after ``_LONGEST_WRITE``.
_LISTING_INTERVAL: Final = 600.0


class SharedUploads:
    """The unfinished uploads of all relays that share ``server`` and ``storage``; see ``Uploads``.

    All together have at most ``quota`` bytes. Each is kept for ``expiry`` seconds since its last byte, and the record
    of an ended one for ``kept`` seconds. An upload whose relay has died can be continued after ``lease`` seconds. One
    of the relays lists all segments every ``listing_interval`` seconds, to remove those that no upload has.
    """

    def __init__(
        self,
        server: StateServer,
        storage: Segments,
        *,
        quota: int,
        expiry: float,
        kept: float = _HOUR,
        lease: float = _LEASE,
        listing_interval: float = _LISTING_INTERVAL,
    ) -> None:
        self._storage = storage
        self._lives = Lives(expiry=expiry, kept=kept, lease=lease)
        self._records = UploadRecords(server, quota, self._lives)
        self._claims = SharedClaims(self._records)
        self._listing_interval = listing_interval
        self._sweeping: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Sweep from now on."""
        self._sweeping = asyncio.create_task(self._sweep_regularly())
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop sweeping. Every ``appending`` must have been left before."""
        if self._sweeping is not None:
            self._sweeping.cancel()
            await asyncio.wait([self._sweeping])

    async def create(
        self,
        *,
        owner: str | None,
        protocol: UploadProtocol,
        request: dict[str, Any],
        length: int | None = None,
        partial: bool = False,
    ) -> Upload:
        upload = Upload(
            id=secrets.token_urlsafe(_BYTES_OF_ID),
            owner=owner,
            protocol=protocol,
            created=time.time(),
            length=length,
            request=request,
            partial=partial,
        )
        return await self._create(upload)

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
            id=secrets.token_urlsafe(_BYTES_OF_ID),
            owner=owner,
            protocol=protocol,
            created=time.time(),
            length=length,
            request=request,
            size=length,
        )
        made = await self._create(upload)
        ended = await self._records.end(made.id, 0, outcome)
        return replace(made, ended=ended, outcome=outcome, expires=ended + self._lives.kept)

    async def find(self, identity: str, owner: str | None, protocol: UploadProtocol | None = None) -> Upload:
        found = await self._find(identity)
        if found is None or found.upload.owner != owner or protocol not in {None, found.upload.protocol}:
            raise no_such_upload()
        check_kept(found.upload, found.now, is_held=found.is_held)
        return found.upload

    @contextlib.asynccontextmanager
    async def appending(
        self, identity: str, owner: str | None, offset: int | None = None
    ) -> AsyncGenerator[SharedAppending, None]:
        await self._unfinished(identity, owner)
        async with self._claims.hold(identity) as claim:
            appending = await self._begin(identity, owner, claim, offset)
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
            await self._records.end(identity, 0, None)
            return
        async with self.appending(identity, owner) as appending:
            await appending.end(None)

    async def _create(self, upload: Upload) -> Upload:
        now = await self._records.create(upload)
        return replace(upload, expires=now + self._lives.expiry)

    async def _find(self, identity: str) -> FoundUpload | None:
        return await self._records.find(identity) if ID.fullmatch(identity) else None

    async def _unfinished(self, identity: str, owner: str | None) -> Upload:
        return check_unfinished(await self.find(identity, owner))

    async def _begin(self, identity: str, owner: str | None, claim: SharedClaim, offset: int | None) -> SharedAppending:
        """Return the writer of an upload: nothing is in the upload that was not acknowledged, if ``offset`` is."""
        upload = await self._unfinished(identity, owner)  # again: it may have ended while we waited
        segments = await self._records.segments(identity)
        appending = SharedAppending(upload, segments, claim, self._records, self._storage)
        if offset is None:
            return appending
        check_offset(upload, offset)
        if offset < upload.size:  # the last byte comes again, to be delivered again
            await appending.truncate(offset)
        return appending

    async def _sweep_regularly(self) -> None:
        while True:
            await asyncio.sleep(min(self._lives.expiry / 10, _LONGEST_SWEEP_INTERVAL))
            try:
                await self._remove_expired()
                if await self._records.may_list(self._listing_interval):
                    await self._remove_unknown_segments(_LONGEST_WRITE)
            except Problem as problem:
                log.warning("cannot sweep unfinished uploads (%s)", problem.code)

    async def sweep(self, *, longest_write: float = _LONGEST_WRITE) -> None:
        """Remove the uploads that have expired, and segments that no upload has had for ``longest_write`` seconds."""
        await self._remove_expired()
        await self._remove_unknown_segments(longest_write)

    async def _remove_expired(self) -> None:
        seen: set[str] = set()
        while due := set(await self._records.due()) - seen:  # it returns some of them
            seen |= due
            for identity in due:
                await self._expire(identity)

    async def _remove_unknown_segments(self, longest_write: float) -> None:
        known: dict[str, set[str]] = {}
        garbage: set[str] = set()
        async with contextlib.aclosing(self._storage.older_than(longest_write)) as names:
            async for name in names:
                identity = name.partition("/")[0]
                if identity not in known:
                    known[identity] = {segment.name for segment in await self._records.segments(identity)}
                if name not in known[identity]:
                    garbage.add(name)
        await remove_segments(self._storage, garbage)

    async def _expire(self, identity: str) -> None:
        try:
            async with self._claims.hold(identity, unless_delivering=True) as claim:
                found = await self._records.find(identity)
                if found is None or found.upload.ended is not None:
                    await self._records.forget(identity)
                elif found.upload.expires <= found.now:
                    segments = await self._records.segments(identity)
                    if await self._records.end(identity, claim.number, None) >= 0:
                        await remove_segments(self._storage, {segment.name for segment in segments})
        except Gone:
            await self._records.forget(identity)
        except Superseded:
            pass  # a request has it now, or another relay that removes it
