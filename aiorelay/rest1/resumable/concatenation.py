"""Concatenate uploads of tus into one, which is delivered at once.

partial uploads, held ─▶ their bytes in order ─▶ relay ─┬▶ a final outcome: kept under a name of its own
└▶ any other: the partial uploads stay as they are
"""

from collections.abc import Sequence
from contextlib import AsyncExitStack, ExitStack
from dataclasses import dataclass
from typing import Final

from aiorelay.errors import Gone, MalformedField, NotFound
from aiorelay.observability.logs import UploadRecord
from aiorelay.observability.metrics import Metrics
from aiorelay.rest1.progress import ProgressRecorder
from aiorelay.rest1.resumable.completion import Completion, Outcome, Submission
from aiorelay.rest1.resumable.outcomes import raise_if_refused, stored_outcome
from aiorelay.rest1.resumable.representation import Representation
from aiorelay.rest1.resumable.transfers import SizeLimits
from aiorelay.rest1.resumable.unfinished import Appending, Upload, Uploads
from aiorelay.rest1.upload_request import UploadRequest

__all__ = ["Concatenation", "FinalUpload"]

_INTO: Final = "into"


@dataclass(frozen=True, slots=True)
class FinalUpload:
    """How the delivery of a concatenation ended, and the upload that it became (empty if it did not end)."""

    id: str
    outcome: Outcome


class Concatenation:
    """Delivers concatenated ``uploads`` by ``completion``."""

    def __init__(self, uploads: Uploads, completion: Completion, metrics: Metrics, limits: SizeLimits) -> None:
        self._uploads = uploads
        self._completion = completion
        self._metrics = metrics
        self._limits = limits

    async def deliver(
        self,
        paths: Sequence[str],
        representation: Representation,
        asked: UploadRequest,
        record: UploadRecord,
        under_way: ExitStack,
    ) -> FinalUpload:
        """Deliver the partial uploads at ``paths``, in order. The same request again is given the same outcome.

        The delivery takes over what is ``under_way``, and goes on if the caller is cancelled. Raises
        ``MalformedField`` if one of them cannot be concatenated, ``TooLarge``, and what ``Uploads.appending`` raises.
        """
        identities = [path.rpartition("/")[2] for path in paths]
        if len(set(identities)) < len(identities):
            raise MalformedField("Upload-Concat names an upload twice.")
        work = self._deliver(identities, representation, asked, record, under_way.pop_all())
        return await self._completion.run(work)

    async def _deliver(
        self,
        identities: Sequence[str],
        representation: Representation,
        asked: UploadRequest,
        record: UploadRecord,
        under_way: ExitStack,
    ) -> FinalUpload:
        with under_way:
            async with AsyncExitStack() as holding:
                try:
                    parts = await self._hold_all(identities, asked.who, holding)
                except Gone:
                    record.repeated(200)
                    return await self._ended(identities[0], representation, asked.who)
                length = sum(part.received for part in parts)
                self._limits.check(representation, length)
                progress = ProgressRecorder(record, self._metrics)
                outcome = await self._completion.concatenate(
                    [part.read() for part in parts],
                    length,
                    Submission(representation, representation.asked(asked), progress),
                )
                return await self._keep(outcome, parts, length, representation, progress)

    async def _hold_all(self, identities: Sequence[str], who: str | None, holding: AsyncExitStack) -> list[Appending]:
        """Hold the partial uploads: always in the same order, so that no two requests wait for each other."""
        held = {identity: await self._hold(identity, who, holding) for identity in sorted(identities)}
        return [held[identity] for identity in identities]

    async def _hold(self, identity: str, who: str | None, holding: AsyncExitStack) -> Appending:
        """Keep other requests off a partial upload, and see whether it is complete."""
        try:
            appending = await holding.enter_async_context(self._uploads.appending(identity, who))
        except NotFound:
            raise MalformedField("Upload-Concat names an upload that is not there.") from None
        if not (appending.upload.partial and appending.upload.complete):
            raise MalformedField("Upload-Concat names an upload that is not partial, or not complete.")
        await holding.enter_async_context(appending.delivering())
        return appending

    async def _keep(
        self,
        outcome: Outcome,
        parts: Sequence[Appending],
        length: int,
        representation: Representation,
        progress: ProgressRecorder,
    ) -> FinalUpload:
        if not outcome.final:
            return FinalUpload("", outcome)
        progress.ended()
        owner = parts[0].upload.owner
        made = await self._uploads.create_ended(
            owner=owner,
            protocol="tus",
            request=representation.to_json(),
            length=length,
            outcome=outcome.to_json(progress.sent),
        )
        for part in parts:
            await part.end({_INTO: made.id, "state": "done"})
        return FinalUpload(made.id, outcome)

    async def _ended(self, identity: str, representation: Representation, who: str | None) -> FinalUpload:
        """The final upload that a partial one has become a part of, if the same was asked for."""
        first = await self._uploads.find(identity, who)
        final = await self._final(first, who)
        made = Representation.from_json(final.request)
        if (made.concat, made.metadata) != (representation.concat, representation.metadata):
            raise MalformedField("Upload-Concat names an upload that is part of another one.")
        return FinalUpload(final.id, stored_outcome(final))

    async def _final(self, part: Upload, who: str | None) -> Upload:
        into = (part.outcome or {}).get(_INTO)
        if into is None:
            raise Gone("A part of the upload was removed. Begin a new upload.")
        final = await self._uploads.find(into, who)
        raise_if_refused(final)
        return final
