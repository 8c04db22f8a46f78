"""A body on disk first: nothing goes upstream before all of it is there, and then it can go more than once.

blocks ─▶ memory, beyond 1 MiB a file without a name ─▶ POST, and again where that cannot do it twice
"""

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import IO, Self

import aiohttp
from multidict import CIMultiDict

from aiorelay.errors import TooLarge, UpstreamProblem
from aiorelay.framing import Framed
from aiorelay.local import LocalFile
from aiorelay.telemetry import log
from aiorelay.threads import ended
from aiorelay.upstream import Upstream
from aiorelay.writer import Writer, storage_problems

__all__ = ["Delivery", "Spool"]

_IN_MEMORY = 1024 * 1024
_TRIES = 3
_BACKOFF = 0.5
# Answers of an upstream that is overloaded or away, not of one that refuses (RFC 9110, section 15.6).
_PASSING = frozenset({502, 503, 504})


class Spool:
    """One body of at most ``quota`` bytes, kept in ``directory`` for as long as the context lasts."""

    def __init__(self, directory: Path, quota: int, pool: Executor) -> None:
        self.size = 0
        self._directory = directory
        self._quota = quota
        self._pool = pool
        self._blocks: list[bytes] = []
        self._file: IO[bytes] | None = None
        self._writer: Writer | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._writer is not None:
            if self._writer.flight is not None:
                await ended(asyncio.wrap_future(self._writer.flight))
            self._writer.abandon()
        if self._file is not None:
            self._file.close()

    async def fill(self, blocks: AsyncIterator[bytes]) -> None:
        """Take all of ``blocks``. Raises what they raise, ``TooLarge``, ``StorageFull`` or ``Internal``."""
        async for block in blocks:
            self.size += len(block)
            if self.size > self._quota:
                raise TooLarge("The upload is larger than what is spooled of one (max-size).")
            if self._writer is not None:
                await self._writer.write(block)
                continue
            self._blocks.append(block)
            if self.size > _IN_MEMORY:
                await self._move_to_disk()
        if self._writer is not None:
            await self._writer.close()

    async def read(self) -> AsyncGenerator[bytes, None]:
        """The body's blocks, from its beginning each time."""
        if self._file is None:
            for block in self._blocks:
                yield block
            return
        file = LocalFile(os.dup(self._file.fileno()), "spool")
        try:
            async for block in file.chunks:
                yield block
        finally:
            await file.close()

    async def _move_to_disk(self) -> None:
        with storage_problems():
            self._file = tempfile.TemporaryFile(dir=self._directory, buffering=0)  # noqa: SIM115 - closed on exit
            self._writer = Writer("spool", os.dup(self._file.fileno()), self._pool, fsync=False, hashed=False)
        blocks, self._blocks = self._blocks, []
        for block in blocks:
            await self._writer.write(block)


class Delivery:
    """Sends bodies to ``upstream``, at once or by way of what ``spool`` makes.

    ``spooled`` says which go to disk first: ``never``, those of ``unknown-length``, or ``always``.

    A spooled body is tried three times in all where no byte of it can have reached the upstream, and, if its request
    has an Idempotency-Key, also after a broken connection or an answer of 502, 503 or 504.
    """

    def __init__(self, upstream: Upstream, spool: Callable[[], Spool], spooled: str) -> None:
        self.reachable = upstream.reachable
        self._upstream = upstream
        self._spool = spool
        self._spooled = spooled

    @asynccontextmanager
    async def post(
        self, framed: Framed, headers: "CIMultiDict[str]", query: str
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """Send a body as ``Upstream.post`` does. Raises what that and ``Spool.fill`` raise."""
        async with AsyncExitStack() as stack:
            if self._spooled == "never" or (self._spooled == "unknown-length" and framed.length is not None):
                yield await stack.enter_async_context(self._upstream.post(framed, headers, query))
                return
            spool = await stack.enter_async_context(self._spool())
            await spool.fill(framed.blocks)
            yield await self._send(spool, framed.boundary, headers, query, stack)

    async def _send(
        self, spool: Spool, boundary: bytes, headers: "CIMultiDict[str]", query: str, stack: AsyncExitStack
    ) -> aiohttp.ClientResponse:
        repeatable = "Idempotency-Key" in headers
        for attempt in range(1, _TRIES):
            async with AsyncExitStack() as one_try:
                body = Framed(boundary, spool.size, spool.read())
                try:
                    answer = await one_try.enter_async_context(self._upstream.post(body, headers.copy(), query))
                except UpstreamProblem as problem:
                    if problem.reached and not repeatable:
                        raise
                    why = problem.error
                else:
                    if not repeatable or answer.status not in _PASSING:
                        stack.push_async_exit(one_try.pop_all())
                        return answer
                    why = f"status {answer.status}"
            log.warning("the upstream did not take a spooled upload (%s); trying again", why)
            await asyncio.sleep(_BACKOFF * 2 ** (attempt - 1))
        body = Framed(boundary, spool.size, spool.read())
        return await stack.enter_async_context(self._upstream.post(body, headers, query))
