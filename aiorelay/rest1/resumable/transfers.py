"""Take the content of one request into an upload, whichever protocol it came by, and deliver what is complete."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from aiorelay.checks.pipeline import Check
from aiorelay.errors import Problem, TooLarge
from aiorelay.observability.logs import UploadRecord
from aiorelay.rest1.intake import Intake
from aiorelay.rest1.jobs.registry import Job, Jobs
from aiorelay.rest1.progress import ProgressRecorder
from aiorelay.rest1.resumable.completion import Completion, Outcome, Submission, refuses
from aiorelay.rest1.resumable.reception import Reception, unless_superseded
from aiorelay.rest1.resumable.representation import Representation
from aiorelay.rest1.resumable.unfinished import Appending, Upload, Uploads
from aiorelay.rest1.upload_request import UploadRequest

__all__ = ["SizeLimits", "Transfer", "Transfers", "append_offset"]


@dataclass(frozen=True, slots=True)
class SizeLimits:
    """The most bytes of a file, and of a form with its fields and framing."""

    file: int
    form: int

    def of(self, representation: Representation) -> int:
        return self.form if representation.kind == "form" else self.file

    def check(self, representation: Representation, length: int | None) -> None:
        """Raise ``TooLarge`` for an upload that is to have ``length`` bytes."""
        most = self.of(representation)
        if length is not None and length > most:
            raise TooLarge(f"The upload is to have {length} bytes, and at most {most} are accepted.")


async def _nothing() -> None:
    """Do nothing: the default of ``Transfer.on_written``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """The content of ``request`` for the upload ``id``, to be appended at ``offset`` (None: where the upload ends).

    ``asked`` is what the request asks for, ``record`` is for its line in the log. ``checks`` judge this content.
    ``length`` is the upload's, if this request tells it. ``last`` says that the content ends the upload. ``status`` is
    that of the answer if the upload goes on with another request. ``on_written`` is awaited with the upload after each
    block.
    """

    request: web.Request
    id: str
    offset: int | None
    asked: UploadRequest
    record: UploadRecord
    checks: Sequence[Check] = ()
    length: int | None = None
    last: bool
    status: int
    on_written: Callable[[Appending], Awaitable[None]] = lambda _appending: _nothing()


def append_offset(upload: Upload, offset: int, content_length: int | None) -> int | None:
    """Where to append: None at the end of a complete upload, to deliver it without more content."""
    at_the_end = upload.complete and offset == upload.size and content_length == 0
    return None if at_the_end else offset


class Transfers:
    """Takes content that ``intake`` lets in into ``uploads``, and delivers by ``completion``, or in one of ``jobs``."""

    def __init__(
        self, intake: Intake, uploads: Uploads, completion: Completion, jobs: Jobs, limits: SizeLimits
    ) -> None:
        self.limits = limits
        self._intake = intake
        self._uploads = uploads
        self._completion = completion
        self._jobs = jobs

    async def take(self, transfer: Transfer, under_way: ExitStack) -> Upload | Outcome | Job:
        """Take in the content of a request: the upload as it is then, or how its delivery ended, or the job of it.

        The delivery takes over what is ``under_way``, and goes on if the caller is cancelled. Raises what
        ``Uploads.appending``, receiving and the checks raise; after a refusal the upload has ended.
        """
        async with AsyncExitStack() as holding:
            appending = await holding.enter_async_context(
                self._uploads.appending(transfer.id, transfer.asked.who, transfer.offset)
            )
            representation = Representation.from_json(appending.upload.request)
            if transfer.length is not None and appending.upload.length is None:
                self.limits.check(representation, transfer.length)
                await appending.set_length(transfer.length)
            body = await holding.enter_async_context(
                self._intake.body(transfer.request, transfer.asked, transfer.checks)
            )
            reception = Reception(
                appending,
                body,
                limit=self.limits.of(representation),
                last=transfer.last,
                check_first_bytes=lambda: self._check_first_bytes(appending, representation, transfer.asked),
                on_written=lambda: transfer.on_written(appending),
            )
            await holding.enter_async_context(_judged(appending, reception, transfer))
            # Content with a checksum is delivered once that has been verified.
            if transfer.last and not transfer.asked.respond_async and not transfer.checks:
                submission = self._submission(representation, transfer)
                work = self._finish(appending, submission, reception, holding.pop_all(), under_way.pop_all())
                return await self._completion.run(work)
            upload = await self._receive(appending, representation, transfer, reception)
        if not (transfer.last or _is_complete(upload)):
            return upload
        if transfer.asked.respond_async:
            return await self._start_job(upload, representation, transfer, under_way)
        return await self._completion.run(self._deliver(upload, representation, transfer, under_way.pop_all()))

    async def discard(self, upload: Upload) -> None:
        """End an upload that its client cannot continue, once no delivery of it is under way.

        It is ended although the caller is cancelled meanwhile.
        """
        with suppress(Problem):  # it has ended by itself
            await self._completion.run(self._uploads.remove(upload.id, upload.owner))

    def _check_first_bytes(
        self, appending: Appending, representation: Representation, asked: UploadRequest
    ) -> Awaitable[None]:
        if appending.upload.partial:
            return _nothing()  # one of them alone is no file
        return self._completion.check_first_bytes(appending, representation, representation.asked(asked))

    def _submission(self, representation: Representation, transfer: Transfer, job: Job | None = None) -> Submission:
        progress = ProgressRecorder(transfer.record, self._intake.metrics, job)
        return Submission(representation, representation.asked(transfer.asked), progress)

    async def _receive(
        self, appending: Appending, representation: Representation, transfer: Transfer, reception: Reception
    ) -> Upload:
        """Receive content without delivering it meanwhile."""
        record = transfer.record
        files = [representation.filename] if representation.kind == "raw" else []
        record.files.extend(files)
        try:
            async with unless_superseded(appending):
                await reception.receive()
        finally:
            record.bytes = reception.size
        record.unfinished(transfer.status)
        return appending.upload

    async def _finish(
        self,
        appending: Appending,
        submission: Submission,
        reception: Reception,
        holding: AsyncExitStack,
        under_way: ExitStack,
    ) -> Outcome:
        """Receive the last content, and deliver the upload meanwhile."""
        with under_way:
            async with holding:
                return await self._completion.deliver(appending, submission, reception)

    async def _deliver(
        self,
        upload: Upload,
        representation: Representation,
        transfer: Transfer,
        under_way: ExitStack,
        job: Job | None = None,
    ) -> Outcome:
        """Deliver an upload that is complete on the disk."""
        with under_way:
            async with self._uploads.appending(upload.id, upload.owner) as appending:
                return await self._completion.deliver(appending, self._submission(representation, transfer, job))

    async def _start_job(
        self, upload: Upload, representation: Representation, transfer: Transfer, under_way: ExitStack
    ) -> Job:
        async def work(job: Job) -> dict[str, Any]:
            job.note(received=upload.size, total=upload.size)
            outcome = await self._deliver(upload, representation, transfer, job_context, job)
            if outcome.answer is None:
                raise outcome.problem or AssertionError("an outcome is an answer or a problem")
            return outcome.answer

        job = await self._jobs.start(work, transfer.asked.who)
        job_context = under_way.pop_all()  # before the work begins
        return job


def _is_complete(upload: Upload) -> bool:
    """Whether an upload is to be delivered now: tus has no other sign of it."""
    return upload.protocol == "tus" and upload.complete and not upload.partial


@asynccontextmanager
async def _judged(appending: Appending, reception: Reception, transfer: Transfer) -> AsyncGenerator[None, None]:
    """End the upload if its content is refused for good; discard content whose checksum was not verified."""
    start = appending.received
    try:
        yield
    except BaseException as failure:
        if appending.upload.ended is None:
            if isinstance(failure, Problem) and refuses(failure) and not reception.interrupted:
                transfer.record.failed(failure)
                transfer.record.continues = False
                transfer.record.end()
                await appending.end(Outcome(None, failure, stored=False, final=True).to_json(0))
            elif transfer.checks and not reception.ended:
                await appending.truncate(start)
        raise
