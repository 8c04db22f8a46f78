"""Receive the bytes of a resumable upload: write them down, and refuse early what can be refused early.

client's blocks ─▶ Appending ─▶ the first bytes are checked, once they are there
└──▶ and, of the last request, passed on to be delivered while they come
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from typing import Final

from aiorelay.errors import InconsistentLength, Superseded, TooLarge
from aiorelay.rest1.request_forms import Body
from aiorelay.rest1.resumable.unfinished import Appending

__all__ = ["FIRST_BYTES", "Reception", "unless_superseded"]

FIRST_BYTES: Final = 64 * 1024
"""Bytes of an upload that are looked at before the others have come."""

_SUPERSEDED: Final = "A newer request has taken over the upload; ask for its offset and continue from there."


class Reception:
    """Receives the content of one request, ``body``, into ``appending``.

    At most ``limit`` bytes are taken of an upload, and none beyond its length. ``last`` says that the content ends the
    upload. ``check_first_bytes`` is awaited once the upload's first bytes have been written down, and raises a
    ``Problem`` to refuse it. ``on_written`` is called after each block. ``size`` are the bytes of the content that were
    received. ``interrupted`` tells that reading the content failed: what came before is kept.
    """

    def __init__(
        self,
        appending: Appending,
        body: Body,
        *,
        limit: int,
        last: bool,
        check_first_bytes: Callable[[], Awaitable[None]],
        on_written: Callable[[], Awaitable[None]],
    ) -> None:
        self.interrupted = False
        self.ended = False
        self.size = 0
        self._appending = appending
        self._body = body
        self._limit = limit
        self._last = last
        self._check_first_bytes = check_first_bytes
        self._on_written = on_written
        self._unchecked = appending.received < FIRST_BYTES

    async def receive(self) -> None:
        """Write the content down to its end. Raises what reading and writing raise, and what the checks raise."""
        while await self._next():
            if self._unchecked and self._appending.received >= FIRST_BYTES:
                await self._look()
        if self._unchecked and self._appending.received:
            await self._look()

    async def through(self) -> AsyncGenerator[bytes, None]:
        """Yield all bytes of the upload: those that were written before, then the content as it comes."""
        async with aclosing(self._appending.read(0, self._appending.received)) as blocks:
            async for block in blocks:
                yield block
        while block := await self._next():
            yield block

    async def _next(self) -> bytes:
        """Receive one block; ``b""`` at the end, by when all is written down."""
        if self.ended:
            return b""
        try:
            block = await self._body.read()
        except Exception:
            self.interrupted = True
            raise
        if not block:
            await self._end()
            return b""
        received, length = self._appending.received + len(block), self._appending.upload.length
        if length is not None and received > length:
            raise InconsistentLength("The content goes beyond the length of the upload. Begin a new upload.")
        if received > self._limit:
            raise TooLarge(f"The upload is larger than {self._limit} bytes.")
        await self._appending.write(block)
        self.size += len(block)
        await self._on_written()
        return block

    async def _end(self) -> None:
        length = self._appending.upload.length
        if self._last and length not in {None, self._appending.received}:
            raise InconsistentLength("The content ends before the length of the upload. Begin a new upload.")
        self.ended = True
        await self._appending.flush()
        if self._last and length is None:
            await self._appending.set_length(self._appending.received)

    async def _look(self) -> None:
        self._unchecked = False
        await self._appending.flush()
        await self._check_first_bytes()


@asynccontextmanager
async def unless_superseded(appending: Appending) -> AsyncGenerator[None, None]:
    """Cancel what is done within the context once a newer request claims the upload. Raises ``Superseded`` then."""
    claimed = asyncio.create_task(appending.superseded.wait())
    try:
        async with asyncio.timeout(None) as doing:

            def stop(claimed: "asyncio.Task[bool]") -> None:
                if not claimed.cancelled():
                    with suppress(RuntimeError):  # it had ended by itself
                        doing.reschedule(0)

            claimed.add_done_callback(stop)
            yield
    except TimeoutError:
        if doing.expired():
            raise Superseded(_SUPERSEDED) from None
        raise
    finally:
        claimed.cancel()
