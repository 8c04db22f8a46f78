"""A body on disk first: nothing goes upstream before all of it is there, and then it can go more than once.

blocks ─▶ memory, beyond 1 MiB a file without a name ─▶ POST, and again where that cannot do it twice
"""

import asyncio
import os
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager
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
# Answers of an upstream that is overloaded or away, not of one that refuses (RFC 9110, section 15.6).
_PASSING = frozenset({502, 503, 504})
_BROKEN = "connection_terminated"


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
        try:
            if self._writer is not None and self._writer.flight is not None:
                await ended(asyncio.wrap_future(self._writer.flight))
        finally:
            if self._writer is not None:
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
    has an Idempotency-Key, also after a broken connection or an answer of 502, 503 or 504. ``backoff`` seconds are
    waited before the second try, twice as many before the third. And before its first byte each try waits ``notice``
    seconds on its connection: an upstream that accepts only to hang up has done so by then, and once a byte was sent
    nobody can tell whether it was read.
    """

    def __init__(
        self,
        upstream: Upstream,
        spool: Callable[[], Spool],
        spooled: str,
        *,
        backoff: float = 0.5,
        notice: float = 0.005,
    ) -> None:
        self.reachable = upstream.reachable
        self._upstream = upstream
        self._spool = spool
        self._spooled = spooled
        self._backoff = backoff
        self._notice = notice

    @asynccontextmanager
    async def post(
        self,
        framed: Framed,
        headers: "CIMultiDict[str]",
        query: str,
        on_sent: Callable[[int], object] = lambda _bytes: None,
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """Send a body as ``Upstream.post`` does. Raises what that and ``Spool.fill`` raise."""
        async with AsyncExitStack() as stack:
            if self._spooled == "never" or (self._spooled == "unknown-length" and framed.length is not None):
                yield await stack.enter_async_context(self._upstream.post(framed, headers, query, on_sent))
                return
            spool = await stack.enter_async_context(self._spool())
            await spool.fill(framed.blocks)

            @asynccontextmanager
            async def one_try() -> AsyncGenerator[aiohttp.ClientResponse, None]:
                async with aclosing(self._blocks(spool)) as blocks:
                    body = Framed(framed.boundary, spool.size, blocks)
                    async with self._upstream.post(body, headers.copy(), query, on_sent) as answer:
                        yield answer

            yield await self._answer(one_try, stack, repeatable="Idempotency-Key" in headers)

    async def _answer(
        self,
        one_try: Callable[[], AbstractAsyncContextManager[aiohttp.ClientResponse]],
        stack: AsyncExitStack,
        *,
        repeatable: bool,
    ) -> aiohttp.ClientResponse:
        """Try until there is an answer to pass back, which ``stack`` keeps open."""
        for attempt in range(1, _TRIES):
            async with AsyncExitStack() as trying:
                try:
                    answer = await trying.enter_async_context(one_try())
                except UpstreamProblem as problem:
                    if problem.reached and not (repeatable and problem.error == _BROKEN):
                        raise
                    why = problem.error
                else:
                    if not repeatable or answer.status not in _PASSING:
                        stack.push_async_exit(trying.pop_all())
                        return answer
                    why = f"status {answer.status}"
            log.warning("the upstream did not take a spooled upload (%s); trying again", why)
            await asyncio.sleep(self._backoff * 2 ** (attempt - 1))
        return await stack.enter_async_context(one_try())

    async def _blocks(self, spool: Spool) -> AsyncGenerator[bytes, None]:
        await asyncio.sleep(self._notice)  # the first block is asked for once there is a connection
        async with aclosing(spool.read()) as blocks:
            async for block in blocks:
                yield block
