"""Run checks over a form while it streams: one protocol for the built-in ones and the user's own.

    maker(part) ─▶ Check or None        feed · feed · … · finish        close, come what may
                     │
                     └─ ThreadedCheck ─▶ Validator: plain functions, run in a thread, a large piece at a time

    size         at most so many bytes
    media_type   what the first bytes look like (signatures: the table for it)
    digest       the checksum that was promised
    wanted       the checksum that the client wants to be told
    archives     what a zip or tar would unpack to
    clamav       what a ClamAV daemon says
    own          the user's validators, named ``package.module:name``

A check may only object, by raising a ``Problem``. Bytes are passed on as soon as they were fed: the verdict need only
come before the form's closing boundary, which is held back until every part has been read to its end.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from traceback import walk_tb
from typing import Protocol

from aiorelay.errors import Internal, Problem
from aiorelay.multipart.form import Form, Part
from aiorelay.observability.logs import log

__all__ = [
    "Check",
    "CheckFactory",
    "FirstBytesCheck",
    "ThreadedCheck",
    "Validator",
    "checked",
    "through_checks",
    "with_checks",
]


class Validator(Protocol):
    """A judge of one file, in plain functions that may be slow: they run in a thread, never two at once.

    It refuses the file by raising ``Refused("why")``, from either method or from the callable that makes it.
    """

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the file, which are never none."""

    def finish(self) -> None:
        """Give the verdict: the file has ended."""


class Check(Protocol):
    """A judge of one part, on the event loop; it objects by raising a ``Problem``."""

    async def feed(self, chunk: bytes) -> None:
        """Take the next bytes, before they are passed on."""

    async def finish(self) -> None:
        """Give the verdict: the part has ended. Not called once anything has failed."""

    async def close(self) -> None:
        """Let go of everything. Called exactly once, also after a failure or a cancellation; never raises."""


CheckFactory = Callable[[Part], Check | None]
"""Makes the check of one part, or None where it has nothing to say about it; may raise a ``Problem`` at once."""


def checked(form: Form, factories: Sequence[CheckFactory]) -> Form:
    """Give ``form`` again, its parts' bytes passing through the checks that ``factories`` make for them.

    A part that no check is made for is the same object. A file input without a name is a file only if it has
    bytes: makers see it once its first bytes are there, and never if it has none.
    """
    return Form(form.boundary, _checked_parts(form.parts, factories), form.length) if factories else form


def with_checks(part: Part, checks: Sequence[Check]) -> Part:
    """Give ``part`` again, its bytes passing through ``checks``, which are closed with its chunks."""
    return replace(part, chunks=through_checks(part.chunks, checks))


def through_checks(chunks: AsyncIterator[bytes], checks: Sequence[Check]) -> AsyncGenerator[bytes, None]:
    """Pass blocks through ``checks``, which are closed at the end of the generator."""
    return _through(chunks, checks, list(checks))


class FirstBytesCheck:
    """A check that judges a file by its first bytes alone: none are passed on until it has.

    ``judge`` is awaited with the first ``length`` bytes, or all there are, and raises a ``Problem`` to object.
    """

    def __init__(self, judge: Callable[[bytes], Awaitable[None]], length: int) -> None:
        self._judge = judge
        self._length = length
        self._head = b""
        self.decided = False

    async def feed(self, chunk: bytes) -> None:
        if not self.decided:
            self._head += chunk[: self._length - len(self._head)]
            if len(self._head) == self._length:
                await self._decide()

    async def finish(self) -> None:
        if not self.decided:
            await self._decide()

    async def close(self) -> None:
        self._head = b""

    async def _decide(self) -> None:
        await self._judge(self._head)
        self.decided = True


class ThreadedCheck:
    """A check that runs a ``Validator`` in a thread of ``pool``.

    Bytes are gathered into pieces of ``PIECE`` and handed over whole, one piece in work while the next gathers: no
    hop per block, and never more than two pieces in memory (and the blocks that complete them). A file smaller than
    ``inline`` bytes is judged on the loop, which for mere arithmetic is cheaper than the hop.

    What the validator raises that is none of its ``objections`` becomes ``Internal``; the log has ``name``, which
    exception it was and where. So does a piece that takes longer than ``timeout`` seconds, if that is given: its thread
    is left to itself, and ``on_timeout`` called.
    """

    PIECE = 512 * 1024

    def __init__(
        self,
        validator: Validator,
        pool: Executor,
        *,
        name: str,
        inline: int = 0,
        objections: type[Problem] = Problem,
        timeout: float | None = None,
        on_timeout: Callable[[], object] = lambda: None,
    ) -> None:
        self._timeout = timeout
        self._on_timeout = on_timeout
        self._validator = validator
        self._pool = pool
        self._name = name
        self._inline = inline
        self._objections = objections
        self._gathered: list[bytes] = []
        self._size = 0
        self._in_work: asyncio.Future[None] | None = None
        self._handed_over = False
        self._stopped = False

    async def feed(self, chunk: bytes) -> None:
        self._gathered.append(chunk)
        self._size += len(chunk)
        if self._size >= self.PIECE:
            await self._hand_over(last=False)
        elif self._in_work is not None and self._in_work.done():
            await self._settle()  # an objection is not kept waiting for the next piece

    async def finish(self) -> None:
        if not self._handed_over and self._size < self._inline:
            self._run(self._gathered, last=True)
            return
        await self._hand_over(last=True)
        await self._settle()

    async def close(self) -> None:
        """Drop what has not begun; what has, ends by itself after the block it is at."""
        self._stopped = True
        self._gathered = []
        if self._in_work is not None:
            self._in_work.cancel()

    async def _hand_over(self, *, last: bool) -> None:
        await self._settle()
        piece, self._gathered, self._size = self._gathered, [], 0
        self._handed_over = True
        self._in_work = asyncio.get_running_loop().run_in_executor(self._pool, self._run_piece, piece, last)

    async def _settle(self) -> None:
        in_work, self._in_work = self._in_work, None
        if in_work is None:
            return
        try:
            async with asyncio.timeout(self._timeout):
                await in_work
        except TimeoutError as late:
            log.error("%s gave no verdict for %g s; its thread is given up", self._name, self._timeout)
            self._on_timeout()
            raise Internal("A check of the file took too long; the log of the relay says which.") from late

    def _run_piece(self, piece: Iterable[bytes], last: bool) -> None:  # noqa: FBT001 - executors pass no keywords
        self._run(piece, last=last)

    def _run(self, piece: Iterable[bytes], *, last: bool) -> None:
        try:
            for chunk in piece:
                if self._stopped:
                    return
                self._validator.feed(chunk)
            if last:
                self._validator.finish()
        except self._objections:
            raise
        # Everything: a future cannot carry StopIteration (it would never be done), and a SystemExit out of one would
        # end the loop. Not its message, which may quote the file.
        except BaseException as unexpected:  # noqa: BLE001 - as said
            log.error("%s failed: %s at %s", self._name, type(unexpected).__name__, _trail(unexpected))
            raise Internal("A check of the file failed; the log of the relay says which.") from None


def _trail(exception: BaseException) -> str:
    """Where ``exception`` passed, innermost last, as ``file.py:LINE > file.py:LINE``: lines, and no values."""
    steps = walk_tb(exception.__traceback__)
    return " > ".join(f"{Path(frame.f_code.co_filename).name}:{line}" for frame, line in steps)


async def _checked_parts(
    parts: AsyncGenerator[Part, None], factories: Sequence[CheckFactory]
) -> AsyncGenerator[Part, None]:
    async with aclosing(parts):
        async for part in parts:
            begun = part if part.filename != "" else await _begun(part)
            if begun is None:
                yield part
                continue
            still_open: list[Check] = []
            try:
                for factory in factories:
                    if (check := factory(begun)) is not None:
                        still_open.append(check)  # noqa: PERF401 - open already if the next maker objects
                checks = tuple(still_open)
                yield replace(begun, chunks=_through(begun.chunks, checks, still_open)) if checks else begun
            finally:
                # Here too: a reader that is cut off before a part's first block never starts its generator.
                await _close(still_open)


async def _begun(part: Part) -> Part | None:
    """Read the first block of ``part``: None if there is none."""
    first = await anext(part.chunks, None)
    return None if first is None else replace(part, chunks=_preceded(first, part.chunks))


async def _preceded(first: bytes, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    try:
        yield first
        async for chunk in chunks:
            yield chunk
    finally:
        await _ended(chunks)


async def _through(
    chunks: AsyncIterator[bytes], checks: Sequence[Check], still_open: list[Check]
) -> AsyncGenerator[bytes, None]:
    undecided = [check for check in checks if isinstance(check, FirstBytesCheck)]
    held: list[bytes] = []
    try:
        async for chunk in chunks:
            for check in checks:
                await check.feed(chunk)
            held.append(chunk)
            if undecided and not all(check.decided for check in undecided):
                continue
            undecided = []
            for judged in held:
                yield judged
            held.clear()
        for check in checks:
            await check.finish()
        for judged in held:
            yield judged
    finally:
        await _close(still_open)
        await _ended(chunks)


async def _close(still_open: list[Check]) -> None:
    """Close what is ``still_open``, each check once, whoever else is asked to."""
    while still_open:
        await still_open.pop().close()


async def _ended(stream: AsyncIterator[object]) -> None:
    """End ``stream`` now if it can be told to, not whenever it is collected: it may hold a connection."""
    if isinstance(stream, AsyncGenerator):
        await stream.aclose()
