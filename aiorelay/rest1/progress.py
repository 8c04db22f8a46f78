"""Record the progress of an upload: its files, its bytes on both legs, the time spent in each phase."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable

from aiorelay.checks.pipeline import Check
from aiorelay.errors import Problem
from aiorelay.multipart.form import Part
from aiorelay.observability.logs import Stopwatch, UploadRecord
from aiorelay.observability.metrics import Metrics
from aiorelay.rest1.jobs.registry import Job

__all__ = ["ProgressRecorder"]


class ProgressRecorder:
    """Records for the log (``upload``), for ``metrics``, and for the upload's ``job`` if it is one."""

    def __init__(self, upload: UploadRecord, metrics: Metrics, job: Job | None = None) -> None:
        self.is_job = job is not None
        self._upload = upload
        self._metrics = metrics
        self._job = job
        self.sent = 0

    def received(self, part: Part) -> Check | None:
        """Make the first check of a file, which counts its bytes and the time spent waiting for them."""
        if not part.is_file:
            return None
        self._upload.files.append(part.filename or "")
        return _LapCheck(self._upload.watch, "receive", self._note_received)

    def checked(self, part: Part) -> Check | None:
        """Make the last check of a file, which measures the time that the other checks take."""
        return _LapCheck(self._upload.watch, "check") if part.is_file else None

    def timed(self, blocks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Pass the blocks of a framed body on, measuring the time spent checking and forwarding."""
        return self._upload.watch.measure(blocks)

    def answered(self, status: int, *, stored: bool) -> None:
        """Record the upload API's answer, and whether it means that the upload is stored."""
        self._upload.watch.lap("wait")
        self._upload.answered(status, stored=stored)

    def failed(self, problem: Problem) -> None:
        """Record the problem that the upload ended in."""
        self._upload.failed(problem)

    def ended(self) -> None:
        """Record that the upload has ended, before anybody is told."""
        self._upload.continues = False
        self._upload.end()

    def restart(self) -> None:
        """Record that the upload is sent from its beginning, perhaps after a try that failed."""
        self._upload.files.clear()
        self._upload.bytes = 0
        self._upload.refused_by = None

    def total(self, size: int) -> None:
        """Record the bytes of all files together, once they are known."""
        if self._job is not None:
            self._job.note(total=size)

    def forwarded(self, sent: int) -> None:
        """Record that ``sent`` bytes of the body have been written upstream. A spooled body may begin anew."""
        self._metrics.forwarded.inc(max(0, sent - self.sent))
        self.sent = sent
        if self._job is not None:
            self._job.note(forwarded=sent)

    def _note_received(self, size: int) -> None:
        self._upload.bytes += size
        self._metrics.received.inc(size)
        if self._job is not None:
            self._job.note(received=self._upload.bytes)


class _LapCheck:
    """A check that never refuses. It adds the time until now to ``phase``, and calls ``note`` with a block's size."""

    def __init__(self, watch: Stopwatch, phase: str, note: Callable[[int], None] | None = None) -> None:
        self._watch = watch
        self._phase = phase
        self._note = note

    async def feed(self, chunk: bytes) -> None:
        self._watch.lap(self._phase)
        if self._note is not None:
            self._note(len(chunk))

    async def finish(self) -> None:
        self._watch.lap(self._phase)

    async def close(self) -> None:
        """Nothing is held."""
