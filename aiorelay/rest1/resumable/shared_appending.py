"""The only writer of an upload that relays share, for as long as a request appends to it or it is delivered.

write ─▶ gathered ─▶ a full segment is kept, while the next is gathered ─▶ written down in the record: acknowledged
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import replace
from typing import Any, Final

from aiorelay.concurrency.threads import to_its_end, wait_until_done
from aiorelay.errors import Problem, StateUnavailable
from aiorelay.observability.logs import log
from aiorelay.rest1.resumable.segments import Segments
from aiorelay.rest1.resumable.shared_claims import SharedClaim
from aiorelay.rest1.resumable.unfinished import Upload
from aiorelay.rest1.resumable.upload_records import Segment, UploadRecords

__all__ = ["SharedAppending", "first_bytes", "read_segments", "remove_segments"]

# Bytes and seconds after which what was gathered is kept although it fills no segment: a kill costs no more than these.
_SMALL: Final = 256 * 1024
_LONGEST_WAIT: Final = 5.0

# How often it is tried to write down how a delivery ended, and the seconds between.
_ATTEMPTS: Final = 5
_PAUSE: Final = 0.5


class SharedAppending:
    """The only writer of ``upload``, which has ``segments``, while it holds ``claim``; see ``Appending``."""

    def __init__(
        self,
        upload: Upload,
        segments: Sequence[Segment],
        claim: SharedClaim,
        records: UploadRecords,
        storage: Segments,
    ) -> None:
        self._upload = upload
        self._segments = list(segments)
        self._claim = claim
        self._records = records
        self._storage = storage
        self._gathered = bytearray()
        self._kept_at = asyncio.get_running_loop().time()
        self._received = self._written = upload.size
        self._keeping: asyncio.Task[None] | None = None
        self._failure: Problem | None = None

    @property
    def upload(self) -> Upload:
        return self._upload if self._upload.ended else replace(self._upload, size=self.written)

    @property
    def written(self) -> int:
        return self._written

    @property
    def received(self) -> int:
        return self._received

    @property
    def is_delivering(self) -> bool:
        return self._claim.delivering

    @property
    def superseded(self) -> asyncio.Event:
        return self._claim.superseded

    async def write(self, block: bytes) -> None:
        if self._failure is not None:
            raise self._failure
        self._claim.check()
        length = self._upload.length
        if length is not None and self._received + len(block) > length:
            raise ValueError("more bytes than the upload's length")
        try:
            rest = memoryview(block)
            while rest:
                taken = rest[: self._storage.largest - len(self._gathered)]
                self._gathered += taken
                self._received += len(taken)
                rest = rest[len(taken) :]
                if self._is_due():
                    await self._keep_next()
        except Problem as problem:
            self._fail(problem)
            raise

    async def flush(self) -> Upload:
        try:
            await to_its_end(self._flush())
        except Problem as problem:
            self._fail(problem)
            raise
        return self.upload

    async def truncate(self, size: int) -> None:
        await self.flush()
        kept = first_bytes(self._segments, size)
        self._claim.held(await self._records.truncate(self._upload.id, self._claim.number, kept))
        names = {segment.name for segment in self._segments} - {segment.name for segment in kept}
        self._segments = kept
        self._written = self._received = size
        await remove_segments(self._storage, names)

    async def set_length(self, length: int) -> None:
        self._claim.held(await self._records.set_length(self._upload.id, self._claim.number, length))
        self._upload = replace(self._upload, length=length)

    @contextlib.asynccontextmanager
    async def delivering(self) -> AsyncGenerator[None, None]:
        self._claim.check()
        await self._claim.begin_delivery()
        try:
            yield
        finally:
            self._claim.delivering = False

    async def read(self, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        segments = first_bytes(self._segments, self.written if end is None else end)
        async with contextlib.aclosing(read_segments(self._storage, segments, start)) as blocks:
            async for block in blocks:
                yield block

    async def end(self, outcome: dict[str, Any] | None) -> Upload:
        self._gathered.clear()
        with contextlib.suppress(Problem):  # what was not kept is not needed any more
            await to_its_end(self._wait())
        if outcome is None:
            ended = await to_its_end(self._records.end(self._upload.id, self._claim.number, None))
            self._claim.held(ended)
        else:
            ended = await to_its_end(self._record_outcome(outcome))
        self._upload = replace(self.upload, ended=ended, outcome=outcome)
        await remove_segments(self._storage, {segment.name for segment in self._segments})
        self._received = self._written
        return self._upload

    async def _record_outcome(self, outcome: dict[str, Any]) -> float:
        """Write down how a delivery ended, and return the time.

        The client is told the outcome in any case, because the upload API may have the file.
        """
        for _ in range(_ATTEMPTS):
            with contextlib.suppress(StateUnavailable):
                ended = await self._records.end(self._upload.id, 0, outcome)
                if ended >= 0:
                    return ended
                break
            await asyncio.sleep(_PAUSE)
        log.error("the end of an upload could not be recorded; its client could deliver it again")
        return time.time()

    async def close(self) -> None:
        """Write down what was gathered. Raises as ``flush`` does."""
        if self._upload.ended is None:
            await self.flush()

    def _is_due(self) -> bool:
        waited = asyncio.get_running_loop().time() - self._kept_at
        gathered = len(self._gathered)
        return gathered >= self._storage.largest or (gathered >= _SMALL and waited >= _LONGEST_WAIT)

    async def _keep_next(self) -> None:
        """Begin to keep what was gathered, once the segment before is kept."""
        await self._wait()
        content, self._gathered = bytes(self._gathered), bytearray()
        self._kept_at = asyncio.get_running_loop().time()
        if content:
            self._keeping = asyncio.create_task(self._keep(content))

    async def _keep(self, content: bytes) -> None:
        segment = Segment(len(content), f"{self._upload.id}/{secrets.token_urlsafe(12)}")
        await self._storage.put(segment.name, content)
        size = await self._records.append(self._upload.id, self._claim.number, segment)
        self._claim.held(size)
        self._written = size
        self._segments.append(segment)

    async def _wait(self) -> None:
        keeping, self._keeping = self._keeping, None
        if keeping is not None:
            await wait_until_done(keeping)
            keeping.result()

    async def _flush(self) -> None:
        if self._failure is None:
            await self._keep_next()
        await self._wait()

    def _fail(self, problem: Problem) -> None:
        """Keep nothing more: a gap would be left."""
        self._failure = problem
        self._gathered.clear()
        self._received = self.written


def first_bytes(segments: Sequence[Segment], size: int) -> list[Segment]:
    """Return the segments that have the first ``size`` bytes."""
    kept: list[Segment] = []
    for segment in segments:
        if size <= 0:
            break
        kept.append(Segment(min(segment.size, size), segment.name))
        size -= segment.size
    return kept


async def read_segments(storage: Segments, segments: Sequence[Segment], start: int) -> AsyncGenerator[bytes, None]:
    """Yield the bytes of segments from ``start`` on."""
    for segment in segments:
        if start < segment.size:
            async with contextlib.aclosing(storage.read(segment.name, start, segment.size)) as blocks:
                async for block in blocks:
                    yield block
        start = max(start - segment.size, 0)


async def remove_segments(storage: Segments, names: set[str]) -> None:
    """Remove segments that no record names any more. What cannot be removed is swept later."""
    try:
        if names:
            await storage.remove(names)
    except Problem as problem:
        log.warning("segments of unfinished uploads could not be removed (%s); they are removed later", problem.code)
