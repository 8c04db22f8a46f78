"""``archive-*``: files are kept aside while they stream, and looked into once they are whole.

The upstream has all but the end of its request by then, as with every check.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import Executor

from aiorelay.checks import Check, CheckFactory
from aiorelay.checks.archives import UnpackLimits, inspect
from aiorelay.spool import Spool
from aiorelay.threads import wait_until_done
from aiorelay.upload import Part

__all__ = ["archive_check"]


def archive_check(limits: UnpackLimits, spool: Callable[[], Spool], pool: Executor) -> CheckFactory:
    """Refuse, with ``ArchiveRefused``, archives beyond ``limits``. They are kept in what ``spool`` makes."""

    def make(part: Part) -> Check | None:
        return _ArchiveCheck(limits, spool(), pool) if part.is_file else None

    return make


class _ArchiveCheck:
    def __init__(self, limits: UnpackLimits, spool: Spool, pool: Executor) -> None:
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
            await wait_until_done(self._looking)
        await self._spool.close()
