"""Record the bytes of each file while it is checked, and keep them if it is refused."""

import time
from collections.abc import Callable
from typing import Final, Literal

from aiorelay.checks.pipeline import Check, CheckFactory
from aiorelay.checks.quarantine.directory import Quarantine
from aiorelay.checks.quarantine.sample import LostSampleError, Sample
from aiorelay.concurrency.threads import to_its_end
from aiorelay.errors import ArchiveRefused, Infected, Problem, Refused, Unscannable
from aiorelay.multipart.form import Part
from aiorelay.observability.logs import log, request_id

__all__ = ["QuarantineOutcome", "with_quarantine"]

QuarantineOutcome = Literal["kept", "lost"]

# Refusals of the content itself. After others, such as an unavailable scanner, the client tries again.
_KEPT: Final = (ArchiveRefused, Infected, Refused, Unscannable)


def with_quarantine(
    factory: CheckFactory, quarantine: Quarantine, on_outcome: Callable[[QuarantineOutcome], None]
) -> CheckFactory:
    """Return a factory of the same checks, by which ``quarantine`` keeps the files that they refuse.

    ``on_outcome`` is called for each refused file.
    """

    def make(part: Part) -> Check | None:
        check = factory(part)
        return None if check is None else _RecordedCheck(check, quarantine.sample(), part, on_outcome)

    return make


class _RecordedCheck:
    def __init__(
        self, check: Check, sample: Sample, part: Part, on_outcome: Callable[[QuarantineOutcome], None]
    ) -> None:
        self._check = check
        self._sample = sample
        self._part = part
        self._on_outcome = on_outcome

    async def feed(self, chunk: bytes) -> None:
        await self._sample.write(chunk)
        try:
            await self._check.feed(chunk)
        except _KEPT as refusal:
            await self._keep(refusal, complete=False)
            raise

    async def finish(self) -> None:
        try:
            await self._check.finish()
        except _KEPT as refusal:
            await self._keep(refusal, complete=True)
            raise

    async def close(self) -> None:
        try:
            await self._check.close()
        finally:
            await self._sample.close()

    async def _keep(self, refusal: Problem, *, complete: bool) -> None:
        """Keep the file, also if the client disconnects meanwhile. A failure is logged: the refusal stays as it is."""
        verdict = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "request_id": request_id.get(),
            "code": refusal.code,
            "detail": refusal.detail,
            "field": self._part.name,
            "filename": self._part.filename,
            "media_type": self._part.media_type,
            "complete": complete,
        }
        try:
            await to_its_end(self._sample.keep(verdict))
        except LostSampleError as lost:
            log.warning("a refused file was not kept in quarantine: %s", lost)
            self._on_outcome("lost")
        else:
            log.info("a refused file was kept in quarantine as %s", self._sample.id)
            self._on_outcome("kept")
