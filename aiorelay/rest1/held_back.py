"""Hold back the last bytes of a body until the verdict on it, and send them slowly meanwhile.

    look_ahead ─▶ ended: the body is whole, judged, and the upload API has not heard of it
               └▶ more than LIMIT bytes: what exceeds LIMIT is sent, the rest kept back

A verdict may take minutes: a virus scanner, a validator that asks somebody. Meanwhile the upload API sees a slow
client, not a silent one, whose request its own timeouts would end. The closing boundary is not among the bytes kept
back: the iterator of blocks gives it only after the verdict.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Final

from aiorelay.errors import UpstreamTimeout

__all__ = ["LIMIT", "HeldBack"]

LIMIT: Final = 256 * 1024
"""Bytes that are looked ahead, and kept back of a longer body."""

# Seconds without a block after which the bytes kept back begin to be passed on, and between two of their pieces.
_TICK: Final = 1.0
# Bytes a second. Apache's mod_reqtimeout is often set to want 500.
_RATE: Final = 1024
# The last so many bytes are passed on one at a time: a verdict that takes long still finds something to send.
_RESERVE: Final = 1024

Put = Callable[[bytes | memoryview], Awaitable[object]]


class HeldBack:
    """The ``blocks`` of one body on their way upstream. Raises what they raise."""

    def __init__(self, blocks: AsyncIterator[bytes]) -> None:
        self._blocks = blocks
        self._held: deque[bytes | memoryview] = deque()
        self._size = 0
        self._ended = False
        self._waiting_since: float | None = None
        self._dripped = 0

    async def look_ahead(self) -> None:
        """Read until more than ``LIMIT`` bytes are held, or to the body's end."""
        while not self._ended and self._size <= LIMIT:
            await self._read()

    async def write_to(self, put: Put) -> None:
        """Give the whole body to ``put``, in order. While a block is awaited, ``put`` is called by another task."""
        if not self._ended:
            dripping = asyncio.create_task(self._drip(put))
            try:
                while not self._ended:
                    await self._read()
                    while self._held and self._size - len(self._held[0]) >= LIMIT:
                        await put(self._take(len(self._held[0])))
            finally:
                dripping.cancel()
        if self._held:
            await put(self._held[0] if len(self._held) == 1 else b"".join(self._held))

    async def _read(self) -> None:
        self._waiting_since = asyncio.get_running_loop().time()
        self._dripped = 0
        block = await anext(self._blocks, None)
        self._waiting_since = None
        if block is None:
            self._ended = True
        else:
            self._held.append(block)
            self._size += len(block)

    async def _drip(self, put: Put) -> None:
        """Pass on slowly what is held, whenever a block is awaited for longer than a tick."""
        loop = asyncio.get_running_loop()
        # The upload API is gone or takes no more: whoever writes the blocks learns of it, too, and tells.
        with suppress(OSError, UpstreamTimeout):
            while True:
                await asyncio.sleep(_TICK)
                if self._waiting_since is None:
                    continue
                waited = loop.time() - self._waiting_since
                if waited >= _TICK and (due := self._due(waited)):
                    await put(self._take(due))

    def _due(self, waited: float) -> int:
        """How many bytes to pass on after a wait of ``waited`` seconds: what exceeds ``LIMIT``, then ``_RATE``."""
        surplus = max(0, self._size - LIMIT)
        owed = int(_RATE * (waited + _TICK)) - self._dripped
        slowly = min(owed, self._size - surplus - _RESERVE)
        if slowly <= 0:
            slowly = min(1, self._size - surplus)
        self._dripped += slowly
        return surplus + slowly

    def _take(self, size: int) -> bytes | memoryview:
        """Take ``size`` bytes, of those held, from the front."""
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
