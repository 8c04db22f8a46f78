"""``archive-*``: files are kept aside while they stream, and looked into once they are whole.

The upstream has all but the end of its request by then, as with every check.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

from aiorelay.checks import Check, Maker
from aiorelay.checks.archives import Limits, inspect
from aiorelay.spool import Spool
from aiorelay.threads import ended
from aiorelay.upload import Part

__all__ = ["archives"]


def archives(limits: Limits, spool: Callable[[], Spool], pool: Executor) -> Maker:
    """Refuse, with ``ArchiveRefused``, archives beyond ``limits``. They are kept in what ``spool`` makes."""

    def make(part: Part) -> Check | None:
        return _Kept(limits, spool(), pool) if part.is_file else None

    return make


class _Kept:
    def __init__(self, limits: Limits, spool: Spool, pool: Executor) -> None:
        self._limits = limits
        self._spool = spool
        self._pool = pool
        self._looking: asyncio.Future[None] | None = None

    async def feed(self, chunk: bytes) -> None:
        await self._spool.write(chunk)

    async def finish(self) -> None:
        await self._spool.end()
        loop = asyncio.get_running_loop()
        self._looking = loop.run_in_executor(self._pool, inspect, self._spool.file(), self._limits)
        await asyncio.shield(self._looking)

    async def close(self) -> None:
        if self._looking is not None:
            await ended(self._looking)
        await self._spool.close()
