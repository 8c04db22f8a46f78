"""Run checks over a form while it streams: one protocol for the built-in ones and the user's own.

    factory(part) ─▶ Check or None      feed · feed · … · finish        close, always
                     │
                     └─ ThreadedCheck ─▶ Validator: plain functions, run in a thread, a large piece at a time

    size             at most so many bytes
    media_type       the type that the first bytes show (``signatures`` is its table)
    digests          the checksum that the client gave
    wanted_digests   the checksum that the client asks for
    required_file    a file in the form field that must carry one
    archives         what a zip or tar would unpack to
    clamav           the verdict of a ClamAV daemon
    validators       the user's own, named ``package.module:name``

A check rejects a part by raising a ``Problem``; it cannot change the bytes. Bytes are passed on once they were fed to
every check: the verdict need only come before the closing boundary, which is held back until every part has been read.
"""

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import Executor
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from traceback import walk_tb
from typing import Protocol

from aiorelay.concurrency.double_buffer import DoubleBuffer
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
    """A validator of one file: plain functions that may block. They run in a thread, never two at once.

    It refuses the file by raising ``Refused("why")`` from either method or from the callable that makes it.
    """

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the file, at least one."""

    def finish(self) -> None:
        """Give the verdict: the file has ended."""


class Check(Protocol):
    """A check of one part, on the event loop. It rejects the part by raising a ``Problem``."""

    async def feed(self, chunk: bytes) -> None:
        """Take the next bytes, before they are passed on."""

    async def finish(self) -> None:
        """Give the verdict: the part has ended. Not called once anything has failed."""

    async def close(self) -> None:
        """Release all resources. Called exactly once, also after a failure or a cancellation; never raises."""


CheckFactory = Callable[[Part], Check | None]
"""Makes the check of one part, or returns None if it does not apply to it; may raise a ``Problem`` at once."""


def checked(form: Form, factories: Sequence[CheckFactory], at_end: Sequence[Callable[[], object]] = ()) -> Form:
    """Return ``form`` with the bytes of each part passing through the checks that ``factories`` make for it.

    A file input with an empty name is a file only if it has bytes: factories are called for it when its first bytes
    have arrived, and not at all if there are none. When all parts have ended, ``at_end`` are called in order; each may
    raise a ``Problem``.
    """
    if not factories and not at_end:
        return form
    return Form(form.boundary, _checked_parts(form.parts, factories, at_end), form.length)


def with_checks(part: Part, checks: Sequence[Check]) -> Part:
    """Return ``part`` with its bytes passing through ``checks``, which are closed with its chunks."""
    return replace(part, chunks=through_checks(part.chunks, checks))


def through_checks(chunks: AsyncIterator[bytes], checks: Sequence[Check]) -> AsyncGenerator[bytes, None]:
    """Pass blocks through ``checks``, which are closed at the end of the generator."""
    return _through(chunks, checks, list(checks))


class FirstBytesCheck:
    """A check of a file's first bytes. No bytes are passed on until it has decided.

    ``judge`` is awaited with the first ``length`` bytes, or with all of a shorter file. It rejects the file by raising
    a ``Problem``.
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
    """A check that runs a ``Validator`` in a thread of ``pool``, a large piece at a time (see ``DoubleBuffer``).

    A file smaller than ``inline`` bytes is judged on the event loop.

    An exception of the validator that is none of its ``objections`` becomes ``Internal``; the log has ``name``, the
    exception's type and where it was raised. So does a piece that takes longer than ``timeout`` seconds: its thread is
    left alone, and ``on_timeout`` is called.
    """

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
        self._validator = validator
        self._buffer = DoubleBuffer(self._run, pool, inline=inline, timeout=timeout)
        self._name = name
        self._objections = objections
        self._timeout = timeout
        self._on_timeout = on_timeout
        self._stopped = False

    async def feed(self, chunk: bytes) -> None:
        try:
            await self._buffer.feed(chunk)
        except TimeoutError as late:
            raise self._too_slow() from late

    async def finish(self) -> None:
        try:
            await self._buffer.finish()
        except TimeoutError as late:
            raise self._too_slow() from late

    async def close(self) -> None:
        """Drop the pieces that have not begun. The one in work ends after its present block."""
        self._stopped = True
        self._buffer.drop()

    def _too_slow(self) -> Internal:
        log.error("%s gave no verdict for %g s; its thread is given up", self._name, self._timeout)
        self._on_timeout()
        return Internal("A check of the file took too long; the log of the relay says which.")

    def _run(self, piece: list[bytes], last: bool, /) -> None:  # noqa: FBT001 - executors pass no keywords
        try:
            for chunk in piece:
                if self._stopped:
                    return
                self._validator.feed(chunk)
            if last:
                self._validator.finish()
        except self._objections:
            raise
        # All exceptions: a future cannot carry StopIteration (it would never be done), and a SystemExit out of one
        # would end the loop. The message is not logged: it may quote the file.
        except BaseException as unexpected:  # noqa: BLE001 - as said
            log.error("%s failed: %s at %s", self._name, type(unexpected).__name__, _trail(unexpected))
            raise Internal("A check of the file failed; the log of the relay says which.") from None


def _trail(exception: BaseException) -> str:
    """The lines that ``exception`` passed, innermost last, as ``file.py:LINE > file.py:LINE``, without any values."""
    steps = walk_tb(exception.__traceback__)
    return " > ".join(f"{Path(frame.f_code.co_filename).name}:{line}" for frame, line in steps)


async def _checked_parts(
    parts: AsyncGenerator[Part, None], factories: Sequence[CheckFactory], at_end: Sequence[Callable[[], object]]
) -> AsyncGenerator[Part, None]:
    async with aclosing(parts):
        async for part in parts:
            still_open: list[Check] = []
            try:
                if part.filename != "" or await _has_bytes(part):
                    for factory in factories:
                        if (check := factory(part)) is not None:
                            still_open.append(check)  # noqa: PERF401 - to be closed if the next factory raises
                if still_open:
                    part.chunks = _through(part.chunks, tuple(still_open), still_open)
                yield part
            finally:
                # Here too: if reading ends before a part's first block, the generator of its chunks never starts.
                await _close(still_open)
    for verdict in at_end:
        verdict()


async def _has_bytes(part: Part) -> bool:
    """Wait for the first block of ``part``, which remains its first. Return false if there is none."""
    first = await anext(part.chunks, None)
    if first is None:
        return False
    part.chunks = _preceded(first, part.chunks)
    return True


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
    """Close each check of ``still_open`` once, even if called twice."""
    while still_open:
        await still_open.pop().close()


async def _ended(stream: AsyncIterator[object]) -> None:
    """Close ``stream`` now if it is a generator, not when it is garbage-collected: it may hold a connection."""
    if isinstance(stream, AsyncGenerator):
        await stream.aclose()
