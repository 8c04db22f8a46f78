"""Record the progress of an upload: its files, its bytes on both legs, the time spent in each phase."""

from collections.abc import Callable

from aiorelay.checks.pipeline import Check
from aiorelay.multipart.form import Part
from aiorelay.observability.logs import Stopwatch, UploadRecord
from aiorelay.observability.metrics import Metrics
from aiorelay.rest1.jobs.registry import Job

__all__ = ["ProgressRecorder"]


class ProgressRecorder:
    """Notes for ``upload``'s line in the log, for ``metrics`` and for its ``job``, if it is one."""

    def __init__(self, upload: UploadRecord, metrics: Metrics, job: Job | None) -> None:
        self._upload = upload
        self._metrics = metrics
        self._job = job
        self._sent = 0

    def received(self, part: Part) -> Check | None:
        """The first check of a file: it notes the bytes that come, and until when they were waited for."""
        if not part.is_file:
            return None
        self._upload.files.append(part.filename or "")
        return _LapCheck(self._upload.watch, "receive", self._note_received)

    def checked(self, part: Part) -> Check | None:
        """The last check of a file: it notes until when the others were at it."""
        return _LapCheck(self._upload.watch, "check") if part.is_file else None

    def forwarded(self, sent: int) -> None:
        """Note that ``sent`` bytes of the body have been written upstream; a spooled body may begin anew."""
        self._metrics.forwarded.inc(max(0, sent - self._sent))
        self._sent = sent
        if self._job is not None:
            self._job.note(forwarded=sent)

    def _note_received(self, size: int) -> None:
        self._upload.bytes += size
        self._metrics.received.inc(size)
        if self._job is not None:
            self._job.note(received=self._upload.bytes)


class _LapCheck:
    """A check that objects to nothing: it gives the time until now to ``phase``, and tells ``note`` of each block."""

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
