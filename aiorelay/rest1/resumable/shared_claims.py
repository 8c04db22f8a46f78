"""Let one request at a time be the writer of an upload that relays share: the newest, of whichever relay.

    a newer request    claims the upload, of which a message tells all others, and waits until it is given back
    an older request   writes down what it has, and gives it back
    a relay that died  does not renew its lease, which ends within seconds

A writer that delivers is not superseded: newer requests wait for it.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Final

from aiorelay.concurrency.threads import wait_until_done
from aiorelay.errors import Gone, StateUnavailable, Superseded, UploadLocked
from aiorelay.observability.logs import log
from aiorelay.rest1.resumable.upload_records import DELIVERING, OVER, SUPERSEDED, TAKEN, UploadRecords, channel

__all__ = ["SharedClaim", "SharedClaims"]

# How often a request tries to take the upload that it waits for, in seconds, if no message comes.
_RETRY_INTERVAL: Final = 0.2
# How long it waits for one that ought to give way: longer than the lease of a relay that has died.
_PATIENCE: Final = 2.0
_SUPERSEDED: Final = "A newer request has taken over the upload; ask for its offset, and go on from there."


class SharedClaim:
    """One request's claim to be the only writer of an upload. ``number`` is greater than those of older claims.

    ``superseded`` is set once a newer request has claimed it, or once the lease has ended.
    """

    def __init__(self, records: UploadRecords, identity: str) -> None:
        self.identity = identity
        self.number = 0
        self.superseded = asyncio.Event()
        self.delivering = False
        self._records = records

    def check(self) -> None:
        """Raise ``Superseded`` if a newer request has claimed the upload."""
        if self.superseded.is_set():
            raise Superseded(_SUPERSEDED)

    def held(self, result: float) -> None:
        """Raise ``Superseded`` if the result of a call says that this claim does not hold the upload any more."""
        if result == -1:
            self.superseded.set()
            self.check()

    async def take(self, *, unless_delivering: bool) -> bool:
        """Take the upload, and return whether it was taken: not from one that delivers if so asked.

        Raises ``Superseded``, ``UploadLocked`` and ``Gone``.
        """
        clock = asyncio.get_running_loop().time
        async with self._records.channels.listening(channel(self.identity)) as heard:
            deadline = clock() + self._records.lives.lease + _PATIENCE
            while True:
                heard.clear()
                self.number, result = await self._records.claim(self.identity, self.number)
                if result == TAKEN:
                    return True
                self._check(result)
                if result == DELIVERING:
                    if unless_delivering:
                        return False
                    deadline = clock() + self._records.lives.lease + _PATIENCE
                if clock() >= deadline:
                    raise UploadLocked("Another request does not let go of the upload; try again.")
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_RETRY_INTERVAL):
                        await heard.wait()

    def _check(self, result: int) -> None:
        if result == OVER:
            raise Gone("The upload has ended; begin a new upload.")
        if result == SUPERSEDED:
            self.superseded.set()
            self.check()

    async def renew(self) -> None:
        """Hold the upload for another lease, and see whether a newer request has claimed it."""
        newest = await self._records.renew(self.identity, self.number, delivering=self.delivering)
        if newest != self.number and not self.delivering:
            self.superseded.set()

    async def begin_delivery(self) -> None:
        """Let newer requests wait from now on. Raises ``Superseded`` if there is one already."""
        self.delivering = True
        try:
            newest = await self._records.renew(self.identity, self.number, delivering=True)
            if newest != self.number:
                self.superseded.set()
                self.check()
        except BaseException:
            self.delivering = False
            raise

    async def keep(self) -> None:
        """Renew the lease until cancelled, and at once if a message comes."""
        lease = self._records.lives.lease
        clock = asyncio.get_running_loop().time
        renewed = clock()
        async with self._records.channels.listening(channel(self.identity)) as heard:
            while True:
                heard.clear()
                try:
                    await self.renew()
                    renewed = clock()
                except StateUnavailable:
                    if clock() - renewed > lease and not self.delivering:
                        self.superseded.set()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(lease / 4):
                        await heard.wait()


class SharedClaims:
    """Claims of the requests of this relay, in ``records``."""

    def __init__(self, records: UploadRecords) -> None:
        self._records = records

    @contextlib.asynccontextmanager
    async def hold(self, identity: str, *, unless_delivering: bool = False) -> AsyncGenerator[SharedClaim, None]:
        """Hold an upload.

        Raises ``Superseded``, ``UploadLocked``, ``Gone`` if it has ended, and ``StateUnavailable``.
        ``unless_delivering`` does not wait for a delivery: the context is entered without the upload.
        """
        claim = SharedClaim(self._records, identity)
        keeping: asyncio.Task[None] | None = None
        try:
            if await claim.take(unless_delivering=unless_delivering):
                keeping = asyncio.create_task(claim.keep())
            yield claim
        finally:
            if keeping is not None:
                keeping.cancel()
            if claim.number:
                releasing = asyncio.create_task(self._release(claim))
                await wait_until_done(releasing)

    async def _release(self, claim: SharedClaim) -> None:
        try:
            await self._records.release(claim.identity, claim.number)
        except StateUnavailable:
            log.debug("an upload could not be given back; its lease ends soon")
