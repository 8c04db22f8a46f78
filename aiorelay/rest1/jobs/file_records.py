"""Keep the records of jobs in files, for the processes of one machine.

Processes look at each other's files at intervals. Each process counts, and forgets, the jobs that it ran or took over.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from aiorelay.errors import Problem
from aiorelay.observability.logs import log
from aiorelay.rest1.jobs.files import JobFiles
from aiorelay.rest1.jobs.records import Record, lost, too_many_jobs

__all__ = ["FileJobRecords"]

_HOUR: Final = 3600.0
# The interval in seconds at which processes look at each other's files.
_POLL_INTERVAL: Final = 1.0


class FileJobRecords:
    """The records of at most ``most`` jobs of this process, in ``files``; see ``JobRecords``.

    Each is kept for ``kept`` seconds after its job has ended. ``on_lost`` is called with each job that is taken over
    from a process that has ended.
    """

    interval = _POLL_INTERVAL

    def __init__(
        self,
        files: JobFiles,
        *,
        most: int,
        kept: float = _HOUR,
        on_lost: Callable[[Record], object] = lambda _record: None,
    ) -> None:
        self._files = files
        self._most = most
        self._kept = kept
        self._on_lost = on_lost
        self._running: set[str] = set()
        self._ended: dict[str, tuple[Record, asyncio.TimerHandle]] = {}  # those that ended first are first

    async def open(self) -> None:
        self._files.open()
        for record in sorted(self._files.orphans(), key=lambda record: record.ended or time.time()):
            self._take_over(record)

    async def close(self) -> None:
        for _, expiry in self._ended.values():
            expiry.cancel()
        self._files.close()

    async def start(self, record: Record) -> None:
        while len(self._running) + len(self._ended) >= self._most:
            if not self._ended:
                raise too_many_jobs()
            self._forget(next(iter(self._ended)))
        self._write(record)
        self._running.add(record.id)

    async def end(self, record: Record) -> None:
        self._running.discard(record.id)
        self._expire(record, self._kept)
        try:
            self._write(record)
        except Problem as problem:
            log.warning("the end of a job could not be recorded: %s", problem.detail)

    async def renew(self, running: Sequence[Record]) -> set[str]:
        return {record.id for record in running if self._files.is_cancellation_requested(record.id)}

    async def find(self, identity: str) -> Record | None:
        if identity in self._ended:
            return self._ended[identity][0]
        record = self._files.read(identity)
        if record is None or record.ended is None:
            return record if record is None or self._files.is_alive(record.process) else lost(record)
        return None if record.ended + self._kept <= time.time() else record

    async def news(self, identity: str, version: int) -> Record | None:
        while True:
            await asyncio.sleep(_POLL_INTERVAL)
            record = await self.find(identity)
            if record is None or record.version > version:
                return record

    async def request_cancellation(self, identity: str) -> None:
        self._files.request_cancellation(identity)

    def _take_over(self, record: Record) -> None:
        if record.ended is None:
            record = replace(lost(record), ended=time.time())
            self._on_lost(record)
            with contextlib.suppress(Problem):  # on a full disk the next start tries again
                self._write(record)
        left = (record.ended or 0) + self._kept - time.time()
        if left <= 0:
            self._files.remove(record.id)
            return
        if len(self._ended) >= self._most:
            self._forget(next(iter(self._ended)))
        self._expire(record, left)

    def _write(self, record: Record) -> None:
        self._files.write(replace(record, process=self._files.process))

    def _expire(self, record: Record, seconds: float) -> None:
        self._ended[record.id] = record, asyncio.get_running_loop().call_later(seconds, self._forget, record.id)

    def _forget(self, identity: str) -> None:
        _, expiry = self._ended.pop(identity)
        expiry.cancel()
        self._files.remove(identity)
