"""Hand a stream over to threads in large pieces: one piece in work while the next one gathers."""

import asyncio
from concurrent.futures import Executor, Future
from typing import Final, Protocol

from aiorelay.concurrency.threads import result_of

__all__ = ["PIECE", "DoubleBuffer", "Work"]

PIECE: Final = 512 * 1024
"""Bytes that are handed to a thread at once, by default."""

# A client that sends byte by byte must not make the buffer keep half a million objects. A piece of this many blocks
# also fits one writev (IOV_MAX is 1024 on Linux).
_MOST_BLOCKS: Final = 512


class Work(Protocol):
    """What is done with each piece, in order and never two at once. ``last`` marks the last one, which may be empty."""

    def __call__(self, piece: list[bytes], last: bool, /) -> None: ...  # noqa: FBT001 - executors pass no keywords


class DoubleBuffer:
    """Gathers blocks into pieces of ``piece`` bytes and does ``work`` on each in a thread of ``pool``.

    That is one change of threads for a piece instead of one for a block, and at most two pieces in memory. A stream of
    fewer than ``inline`` bytes is worked on in the event loop, where that costs less than the change. ``last_pool`` is
    the pool for the last piece, if it is another.

    ``feed`` and ``finish`` raise what the work raised, as soon as that is known and again whenever they are called, and
    ``TimeoutError`` if they wait for a piece longer than ``timeout`` seconds; its thread is left alone.
    """

    def __init__(
        self,
        work: Work,
        pool: Executor,
        *,
        piece: int = PIECE,
        last_pool: Executor | None = None,
        inline: int = 0,
        timeout: float | None = None,
    ) -> None:
        self.in_work: Future[None] | None = None
        self._work = work
        self._pool = pool
        self._piece = piece
        self._last_pool = last_pool or pool
        self._inline = inline
        self._timeout = timeout
        self._blocks: list[bytes] = []
        self._size = 0

    async def feed(self, block: bytes) -> None:
        """Add ``block``. Waits only while a piece is full and the one before it is still in work."""
        self._blocks.append(block)
        self._size += len(block)
        if self._size >= self._piece or len(self._blocks) >= _MOST_BLOCKS:
            await self._hand_over(last=False)
        elif self.in_work is not None and self.in_work.done():
            self.in_work.result()  # a failure does not wait for the next piece

    async def finish(self) -> None:
        """Hand over the last piece and wait until all are done."""
        if self.in_work is None and self._size < self._inline:
            self._work(self._take(), True)
            return
        await self._hand_over(last=True)
        await self._settle()

    def drop(self) -> None:
        """Forget what has not begun. A piece in work is not interrupted."""
        self._take()
        if self.in_work is not None:
            self.in_work.cancel()

    async def _hand_over(self, *, last: bool) -> None:
        await self._settle()
        pool = self._last_pool if last else self._pool
        self.in_work = pool.submit(self._work, self._take(), last)

    async def _settle(self) -> None:
        if self.in_work is not None:
            async with asyncio.timeout(self._timeout):
                await result_of(self.in_work)

    def _take(self) -> list[bytes]:
        piece, self._blocks, self._size = self._blocks, [], 0
        return piece
