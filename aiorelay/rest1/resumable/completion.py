"""Deliver complete uploads to the upload API, and keep how that ended.

last bytes come ─▶ sent on while they are written down ─▶ the answer ─┬▶ stored, or refused: the upload ends
└▶ the upload API fails: received to the end,   └▶ 5xx or no answer: the upload stays, and
sent once more from the disk                    its last byte is not acknowledged
"""

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, replace
from typing import Any, Final, TypeVar

from aiorelay.checks.digests import expect_digests
from aiorelay.checks.pipeline import Check, through_checks
from aiorelay.checks.wanted_digests import RunningDigest
from aiorelay.errors import Problem, Superseded, UpstreamProblem
from aiorelay.http.problem_details import problem_details
from aiorelay.observability.logs import log, request_id
from aiorelay.rest1.answers import serialize_response
from aiorelay.rest1.progress import ProgressRecorder
from aiorelay.rest1.relay import Relay, RelayedAnswer
from aiorelay.rest1.request_forms import Body, FormReader
from aiorelay.rest1.resumable.reception import FIRST_BYTES, Reception, unless_superseded
from aiorelay.rest1.resumable.representation import Representation
from aiorelay.rest1.resumable.unfinished import Appending
from aiorelay.rest1.upload_request import UploadRequest

__all__ = ["Completion", "Outcome", "Submission", "refuses"]

MAX_ANSWER: Final = 1024 * 1024
"""The most bytes of an answer's body that are kept of an upload."""

# Answers of an upload API that may be another one next time (RFC 9110, sections 15.5.9 and 15.6; RFC 6585; RFC 8470).
_PASSING: Final = frozenset({408, 425, 429})

_Result = TypeVar("_Result")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a delivery ended: the upload API's ``answer``, serialized, or the ``problem`` that came first.

    ``stored`` tells whether the answer means that the upload API has the file. After a ``final`` outcome the upload has
    ended; after any other it can be delivered again. ``length`` are the upload's bytes, as far as they are known.
    """

    answer: dict[str, Any] | None
    problem: Problem | None
    stored: bool
    final: bool
    length: int = 0

    def to_json(self, sent: int) -> dict[str, Any]:
        """The outcome as it is kept, in the members of a job; ``sent`` are the bytes written upstream."""
        problem = None if self.problem is None else problem_details(self.problem, request_id.get())
        return {
            "state": "failed" if self.answer is None else "done",
            "forwarded": sent,
            "answer": self.answer,
            "problem": problem,
            "stored": self.stored,
        }


@dataclass(frozen=True, slots=True)
class Submission:
    """What is to be delivered, but for its bytes: what they are, what is asked for, and where progress is recorded."""

    representation: Representation
    asked: UploadRequest
    progress: ProgressRecorder


class _PrefixEndedError(Exception):
    """There are no more first bytes to look at."""


def refuses(problem: Problem) -> bool:
    """Whether a problem that is not the client's connection means that an upload can never be delivered."""
    return problem.status < 500 and not isinstance(problem, Superseded)


class Completion:
    """Delivers uploads by ``relay``, as the forms that ``forms`` makes of them; ``pool`` computes checksums.

    ``tasks`` are the deliveries under way, to be waited for at the end.
    """

    def __init__(self, relay: Relay, forms: FormReader, pool: Executor) -> None:
        self.tasks: set[asyncio.Task[object]] = set()
        self._relay = relay
        self._forms = forms
        self._pool = pool

    async def run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        """Do ``work`` in a task of its own, which goes on if the caller is cancelled: the client has left."""
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._ended)
        return await asyncio.shield(task)

    async def check_first_bytes(
        self, appending: Appending, representation: Representation, asked: UploadRequest
    ) -> None:
        """Raise the ``Problem`` that the first bytes of an upload show, as far as they are written."""
        length = appending.upload.length
        async with aclosing(appending.read(0, min(appending.received, FIRST_BYTES))) as blocks:

            async def read() -> bytes:
                block = await anext(blocks, None)
                if block is None:
                    raise _PrefixEndedError
                return block

            try:
                form = await representation.form(self._forms, asked, Body(length, read))
                await self._relay.check_first_bytes(form)
            except _PrefixEndedError:
                return

    async def deliver(
        self, appending: Appending, submission: Submission, reception: Reception | None = None
    ) -> Outcome:
        """Deliver an upload whose last bytes ``reception`` receives, or which is complete; keep a final outcome.

        Raises what interrupts the reception: then the upload stays as far as it has come.
        """
        async with AsyncExitStack() as delivering:
            async with unless_superseded(appending):
                outcome = None
                if reception is not None:
                    outcome = await self._while_received(appending, submission, reception, delivering)
                if outcome is None:
                    if reception is None:
                        await delivering.enter_async_context(appending.delivering())
                    blocks = appending.read(0, appending.received)
                    outcome = await self._attempt(submission, blocks, appending.received)
            outcome = replace(outcome, length=appending.received)
            if outcome.final:
                submission.progress.ended()
                await appending.end(outcome.to_json(submission.progress.sent))
        return outcome

    async def concatenate(
        self, parts: Sequence[AsyncGenerator[bytes, None]], length: int, submission: Submission
    ) -> Outcome:
        """Deliver the bytes of several uploads, ``length`` together, as one."""

        async def blocks() -> AsyncGenerator[bytes, None]:
            for part in parts:
                async with aclosing(part):
                    async for block in part:
                        yield block

        outcome = await self._attempt(submission, blocks(), length)
        return replace(outcome, length=length)

    async def _while_received(
        self, appending: Appending, submission: Submission, reception: Reception, delivering: AsyncExitStack
    ) -> Outcome | None:
        """Send an upload on while its last bytes come. None if it has to be sent again, now that all are there."""

        async def blocks() -> AsyncGenerator[bytes, None]:
            async with aclosing(reception.through()) as received:
                async for block in received:
                    yield block
            await delivering.enter_async_context(appending.delivering())

        length = appending.upload.length
        outcome = await self._attempt(submission, blocks(), length, interrupted=lambda: reception.interrupted)
        if outcome.final:
            return outcome
        failure = outcome.problem if isinstance(outcome.problem, UpstreamProblem) else None
        again = failure is not None and (failure.incomplete or not reception.ended)
        await reception.receive()
        if not appending.is_delivering:
            await delivering.enter_async_context(appending.delivering())
        return None if again else outcome

    async def _attempt(
        self,
        submission: Submission,
        blocks: AsyncGenerator[bytes, None],
        length: int | None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> Outcome:
        """Send all ``blocks`` once. Raises ``Superseded``, and any problem if the reception was ``interrupted``."""
        representation, asked, progress = submission.representation, submission.asked, submission.progress
        progress.restart()
        try:
            async with AsyncExitStack() as stack:
                await stack.enter_async_context(aclosing(blocks))
                checks, wanted = self._digest_checks(representation, asked)
                if checks:
                    blocks = await stack.enter_async_context(aclosing(through_checks(blocks, checks)))
                form = await representation.form(self._forms, asked, Body(length, lambda: anext(blocks, b"")))
                answer = await stack.enter_async_context(self._relay.send(form, asked, progress))
                if wanted is not None and wanted.told:
                    answer.added.append(("Repr-Digest", wanted.told))
                return await self._answered(answer)
        except Superseded:
            raise
        except Problem as problem:
            if interrupted():
                raise
            log.info("an upload could not be delivered: %s", problem.code)
            progress.failed(problem)
            return Outcome(None, problem, stored=False, final=refuses(problem))

    def _digest_checks(
        self, representation: Representation, asked: UploadRequest
    ) -> tuple[list[Check], RunningDigest | None]:
        """Checks of the whole representation, and the digest of it that is wanted (RFC 9530)."""
        checks: list[Check] = []
        if digests := representation.expected_digests:
            checks.append(expect_digests(digests, self._pool, field="Repr-Digest"))
        if asked.wanted_digest is None:
            return checks, None
        wanted = RunningDigest(asked.wanted_digest)
        return [*checks, wanted.check(self._pool)], wanted

    async def _answered(self, answer: RelayedAnswer) -> Outcome:
        status = answer.response.status
        stored = self._relay.means_stored(status)
        try:
            serialized = await serialize_response(answer.response, answer.added, most=MAX_ANSWER)
        except UpstreamProblem:
            if not stored:
                raise
            # The upload API has the file, whatever became of its answer: it must not get the file again.
            headers = [list(pair) for pair in answer.added]
            serialized = {"status": status, "headers": headers, "body": "", "body_encoding": "utf-8", "truncated": True}
        refused = 400 <= status < 500 and status not in _PASSING
        return Outcome(serialized, None, stored=stored, final=stored or refused)

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self.tasks.discard(task)
        if not task.cancelled():
            task.exception()  # the client may have left: then nobody asks for it
