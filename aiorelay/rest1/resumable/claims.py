"""Let one request at a time be the writer of an upload: the newest.

    a newer request    in the same process: sets ``superseded`` of every older one
                       in another process: writes its token to ID.claim, which those that wait or write look at
    an older request   writes down what it has, and gives back the lock (flock) of the data

A writer that delivers is not superseded: newer requests wait for it.
"""

import asyncio
import contextlib
import os
import secrets
from collections import defaultdict
from collections.abc import AsyncGenerator, Iterator
from typing import Final

from aiorelay.errors import Gone, Superseded, UploadLocked
from aiorelay.files.locks import try_lock
from aiorelay.files.writer import storage_problems
from aiorelay.rest1.resumable.files import UploadFiles

__all__ = ["Claim", "Claims"]

# How often a request tries to take the lock that it waits for, in seconds.
_RETRY_INTERVAL: Final = 0.05
# How long it waits for one that ought to give way, in seconds.
_LONGEST_WAIT: Final = 5.0
# How often requests look whether one in another process is newer, in seconds.
_POLL_INTERVAL: Final = 0.2
_SUPERSEDED: Final = "A newer request has taken over the upload; ask for its offset, and go on from there."


class Claim:
    """One request's claim to be the only writer of an upload.

    ``superseded`` is set once a newer request has claimed it. ``released`` is set at the end.
    """

    def __init__(self, identity: str) -> None:
        self.identity = identity
        self.token = secrets.token_hex(16)
        self.superseded = asyncio.Event()
        self.released = asyncio.Event()
        self.delivering = False

    def supersede(self) -> None:
        """End it, unless it delivers: what is on its way upstream cannot be taken back."""
        if not self.delivering:
            self.superseded.set()

    def check(self) -> None:
        if self.superseded.is_set():
            raise Superseded(_SUPERSEDED)


class Claims:
    """The claims of this process. ``files`` show them to others."""

    def __init__(self, files: UploadFiles) -> None:
        self._files = files
        self._claims: defaultdict[str, list[Claim]] = defaultdict(list)  # those that are newest are last
        self._poll_timer: asyncio.TimerHandle | None = None

    def __contains__(self, identity: str) -> bool:
        return identity in self._claims

    def close(self) -> None:
        """Look no more at other processes' claims."""
        if self._poll_timer is not None:
            self._poll_timer.cancel()

    @contextlib.asynccontextmanager
    async def hold(self, identity: str, *, unless_delivering: bool = False) -> AsyncGenerator[tuple[Claim, int], None]:
        """Hold the lock of an upload, and its data open to append to.

        Raises ``Superseded``, ``UploadLocked``, ``Gone`` if there is no data, and ``Internal``. ``unless_delivering``
        does not wait for a delivery: the context is entered without the lock.
        """
        claim, others = Claim(identity), self._claims[identity]
        for other in others:
            other.supersede()
        others.append(claim)
        try:
            self._schedule_poll()
            with self._opened(identity) as fd:
                await self._take_lock(claim, fd, unless_delivering=unless_delivering)
                yield claim, fd
        finally:
            others.remove(claim)
            if not others:
                del self._claims[identity]
            claim.released.set()
            with contextlib.suppress(OSError):
                self._files.remove_claim(identity, claim.token)

    @contextlib.contextmanager
    def _opened(self, identity: str) -> Iterator[int]:
        with storage_problems():
            try:
                fd = self._files.open_for_append(identity)
            except FileNotFoundError:
                raise Gone("The upload has ended; begin a new upload.") from None
        try:
            yield fd
        finally:
            os.close(fd)

    async def _take_lock(self, claim: Claim, fd: int, *, unless_delivering: bool) -> None:
        clock = asyncio.get_running_loop().time
        deadline = clock() + _LONGEST_WAIT
        before = self._claims[claim.identity][:-1]
        waiting = False
        while not _locked(fd):
            claim.check()
            if self._files.is_delivering(claim.identity):
                if unless_delivering:
                    return
                deadline = clock() + _LONGEST_WAIT
            self._show(claim, shown=waiting, needed=True)
            waiting = True
            if clock() >= deadline:
                raise UploadLocked("Another request does not let go of the upload; try again.")
            await _pause(claim, before)
        claim.check()
        self._show(claim, shown=waiting, needed=False)

    def _show(self, claim: Claim, *, shown: bool, needed: bool) -> None:
        """Let other processes know of the claim, unless a newer one has replaced what was ``shown`` of it.

        Another's token that was there before us is of an older request, or of a process that died: it is replaced.
        """
        with storage_problems():
            newest = self._files.newest_claim(claim.identity)
            if newest == claim.token:
                return
            if newest is not None and shown:
                claim.superseded.set()
                claim.check()
            if newest is not None or needed:
                self._files.write_claim(claim.identity, claim.token)

    def _schedule_poll(self) -> None:
        if self._poll_timer is None:
            self._poll_timer = asyncio.get_running_loop().call_later(_POLL_INTERVAL, self._poll)

    def _poll(self) -> None:
        """Give way to newer requests of other processes, and look again as long as there are claims."""
        self._poll_timer = None
        for identity, claims in self._claims.items():
            with contextlib.suppress(OSError):
                newest = self._files.newest_claim(identity)
                if newest is not None and newest not in {claim.token for claim in claims}:
                    for claim in claims:
                        claim.supersede()
        if self._claims:
            self._schedule_poll()


def _locked(fd: int) -> bool:
    with storage_problems():
        return try_lock(fd)


async def _pause(claim: Claim, before: list[Claim]) -> None:
    """Wait until the lock may be free, or is to be tried again: another process may have it."""
    held = [other for other in before if not other.released.is_set()]
    event = held[0].released if held else claim.superseded
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_RETRY_INTERVAL):
            await event.wait()
