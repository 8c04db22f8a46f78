"""Hold back the last bytes of a body until the verdict, and send them slowly meanwhile.

    look_ahead ─▶ at the end: the body is complete and checked before the upload API is contacted
               └▶ more than LIMIT bytes: those that exceed LIMIT are sent, the others held back

A verdict may take minutes, for example of a virus scanner. The upload API must not end the request by its timeouts in
that time, so it receives a few bytes now and then. The closing boundary is not among the bytes held back: the iterator
of blocks yields it only after the verdict.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Final

from aiorelay.errors import UpstreamTimeout

__all__ = ["LIMIT", "HeldBack"]

LIMIT: Final = 256 * 1024
"""Bytes that are read before the upload API is contacted, and held back of a longer body."""

# Seconds without a block after which the slow sending begins, and seconds between two sends.
_TICK: Final = 1.0
# Bytes per second. A common minimum of Apache's mod_reqtimeout is 500.
_RATE: Final = 1024
# The last bytes are sent one per tick, so that some remain during a long wait for the verdict.
_RESERVE: Final = 1024

Put = Callable[[bytes | memoryview], Awaitable[object]]


class HeldBack:
    """Pass the ``blocks`` of one body on, the last ones delayed. Raises what the iterator raises."""

    def __init__(self, blocks: AsyncIterator[bytes]) -> None:
        self._blocks = blocks
        self._held: deque[bytes | memoryview] = deque()
        self._size = 0
        self._ended = False
        self._waiting_since: float | None = None
        self._sent_slowly = 0

    async def look_ahead(self) -> None:
        """Read until more than ``LIMIT`` bytes are held, or to the end of the body."""
        while not self._ended and self._size <= LIMIT:
            await self._read()

    @property
    def is_whole(self) -> bool:
        """Whether the whole body is held."""
        return self._ended

    def take(self) -> bytes:
        """Remove and return the held bytes."""
        held = b"".join(self._held)
        self._held.clear()
        return held

    async def write_to(self, put: Put) -> None:
        """Write the whole body with ``put``, in order. While a block is awaited, another task may call ``put``."""
        if not self._ended:
            loop = asyncio.get_running_loop()
            slow_sending = asyncio.create_task(self._send_slowly(put))
            try:
                while not self._ended:
                    self._waiting_since = loop.time()
                    self._sent_slowly = 0
                    await self._read()
                    self._waiting_since = None
                    while self._held and self._size - len(self._held[0]) >= LIMIT:
                        await put(self._take(len(self._held[0])))
            finally:
                slow_sending.cancel()
        if self._held:
            await put(self._held[0] if len(self._held) == 1 else b"".join(self._held))

    async def _read(self) -> None:
        block = await anext(self._blocks, None)
        if block is None:
            self._ended = True
        else:
            self._held.append(block)
            self._size += len(block)

    async def _send_slowly(self, put: Put) -> None:
        """Send held bytes slowly whenever the next block takes longer than a tick."""
        loop = asyncio.get_running_loop()
        # If the upload API fails, the task that writes the blocks gets the same error and reports it.
        with suppress(OSError, UpstreamTimeout):
            while True:
                await asyncio.sleep(_TICK)
                if self._waiting_since is None:
                    continue
                waited = loop.time() - self._waiting_since
                if waited >= _TICK and (due := self._due(waited)):
                    await put(self._take(due))

    def _due(self, waited: float) -> int:
        """Return how many bytes to send after ``waited`` seconds: those that exceed ``LIMIT``, then at ``_RATE``."""
        surplus = max(0, self._size - LIMIT)
        owed = int(_RATE * (waited + _TICK)) - self._sent_slowly
        slowly = min(owed, self._size - surplus - _RESERVE)
        if slowly <= 0:
            slowly = min(1, self._size - surplus)
        self._sent_slowly += slowly
        return surplus + slowly

    def _take(self, size: int) -> bytes | memoryview:
        """Remove and return the first ``size`` held bytes."""
        self._size -= size
        taken: list[bytes | memoryview] = []
        while size:
            block = self._held.popleft()
            if len(block) > size:
                view = memoryview(block)
                self._held.appendleft(view[size:])
                block = view[:size]
            taken.append(block)
            size -= len(block)
        return taken[0] if len(taken) == 1 else b"".join(taken)
