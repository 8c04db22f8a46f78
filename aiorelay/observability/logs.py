"""Logging: one line per upload, as text or JSON, with the request's id.

The log must not contain tokens, query values or contents of files.
"""

import json
import logging
import random
import re
import sys
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Final, TextIO, TypeVar

from multidict import MultiMapping

from aiorelay.errors import Problem, UpstreamProblem

__all__ = [
    "PHASES",
    "REQUEST_ID",
    "ServerLog",
    "Stopwatch",
    "UploadRecord",
    "configure",
    "ignore_writes_to_broken_connections",
    "log",
    "request_id",
    "set_request_id",
]

REQUEST_ID = "X-Request-ID"
_WORDS = re.compile(r"(?:\s*[\w().,;-]+(?![\w'\"]))*")
# Decimals of durations in seconds. Python and JSON would write numbers below 0.0001 with an exponent.
_DECIMALS = 4
_ACCEPTABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")

T = TypeVar("T")

log = logging.getLogger("aiorelay")

request_id: ContextVar[str] = ContextVar("request_id", default="-")
"""The id of the request that the current task handles."""


def set_request_id(headers: "MultiMapping[str]") -> str:
    """Set and return ``request_id``: the client's X-Request-ID if it is acceptable, else a new one."""
    given = headers.get(REQUEST_ID, "")
    identity = given if _ACCEPTABLE_ID.fullmatch(given) else f"{random.getrandbits(128):032x}"
    request_id.set(identity)
    return identity


def configure(form: str, level: str, stream: TextIO | None = None) -> None:
    """Write the log to ``stream`` (default: stderr). ``form`` is ``text``, or ``json`` for one object per line."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(_JsonFormatter() if form == "json" else _TextFormatter())
    log.handlers = [handler]
    log.setLevel(level.upper())
    log.propagate = False
    spans = logging.getLogger("opentelemetry")
    spans.handlers = [_ForwardToLog()]
    spans.propagate = False
    ignore_writes_to_broken_connections()


def ignore_writes_to_broken_connections() -> None:
    """Silence the warning that asyncio logs for them: the writer gets an exception as well."""
    logging.getLogger("asyncio").setLevel(logging.ERROR)


PHASES: Final = ("receive", "check", "forward", "wait")
"""What an upload spends its time in."""


class Stopwatch:
    """The time an upload spends in each of ``PHASES``. ``lap`` adds the time since the last lap to a phase."""

    def __init__(self) -> None:
        self.phases = dict.fromkeys(PHASES, 0.0)
        self._mark = time.monotonic()

    def lap(self, phase: str) -> None:
        now = time.monotonic()
        self.phases[phase] += now - self._mark
        self._mark = now

    async def measure(self, blocks: AsyncIterator[T]) -> AsyncGenerator[T, None]:
        """Yield ``blocks``. The time until a block arrives counts as checking, the time after it as forwarding."""
        async for block in blocks:
            self.lap("check")
            yield block
            self.lap("forward")


@dataclass(slots=True)
class UploadRecord:
    """The data of one upload for its line in the log.

    ``continues`` says that the upload can go on with another request, whatever becomes of this one. ``seconds`` is the
    duration, once the record has ended. ``on_end`` is called then.
    """

    endpoint: str
    client: str
    files: list[str] = field(default_factory=list)
    bytes: int = 0
    status: int = 0
    outcome: str = "aborted"
    refused_by: str | None = None
    upstream_error: str | None = None
    who: str | None = None
    watch: Stopwatch = field(default_factory=Stopwatch)
    started: float = field(default_factory=time.monotonic)
    continues: bool = False
    seconds: float = 0.0
    on_end: "Callable[[UploadRecord], object] | None" = None

    def answered(self, status: int, *, stored: bool) -> None:
        """Record the upstream's status, and whether it means that the upload is stored."""
        self.status = status
        self.outcome = "stored" if stored else "upstream-refused"

    def failed(self, problem: Problem) -> None:
        """Record the problem with which the upload is answered."""
        self.status = problem.status
        self.refused_by = problem.code
        self.upstream_error = problem.error if isinstance(problem, UpstreamProblem) else None
        self.outcome = problem.code if problem.status in {500, 502, 504} else "refused"

    def unfinished(self, status: int) -> None:
        """Record the status of an answer after which the upload continues with another request."""
        self.status = status
        self.outcome = "unfinished"

    def repeated(self, status: int) -> None:
        """Record that the answer about a stored upload was sent again. The request stored nothing."""
        self.status = status
        self.outcome = "repeated"

    def end(self) -> None:
        """Write the log line and call ``on_end``, once: before the answer goes out, or when the context ends."""
        on_end, self.on_end = self.on_end, None
        if on_end is not None:
            self.seconds = round(time.monotonic() - self.started, _DECIMALS)
            self.write()
            on_end(self)

    def members(self) -> dict[str, Any]:
        """Return what is known of the upload, as the log shows it."""
        members: dict[str, Any] = {
            "endpoint": self.endpoint,
            "client": self.client,
            "who": self.who,
            "files": self.files,
            "bytes": self.bytes,
            "seconds": self.seconds,
            "phases": {phase: round(spent, _DECIMALS) for phase, spent in self.watch.phases.items()},
            "status": self.status,
            "outcome": self.outcome,
        }
        if self.refused_by is not None:
            members["refused_by"] = self.refused_by
        return members

    def write(self) -> None:
        """Write the log line."""
        level = logging.WARNING if self.status >= 500 else logging.INFO
        if log.isEnabledFor(level):
            log.log(level, "upload %s", self.outcome, extra={"members": self.members()})


class ServerLog(logging.LoggerAdapter[logging.Logger]):
    """The logger for aiohttp's server. It writes one line without a traceback: invalid HTTP is the client's error."""

    def exception(self, msg: object, *args: object, exc_info: Any = True, **_options: Any) -> None:
        failure = exc_info if isinstance(exc_info, BaseException) else sys.exc_info()[1]
        text = str(msg) % args if args else str(msg)
        self.logger.warning("%s: %s", text, _without_quotes(failure))

    def debug(self, msg: object, *args: object, exc_info: Any = None, **options: Any) -> None:
        if exc_info is None:
            super().debug(msg, *args, **options)
        else:  # aiohttp logs data of another protocol as debug, with a traceback
            self.exception(msg, *args, exc_info=exc_info)


def _without_quotes(failure: BaseException | None) -> str:
    """Return the message of ``failure`` up to the first quoted text, which may contain secrets."""
    words = _WORDS.match(getattr(failure, "message", None) or str(failure))
    return (words and words[0].strip()) or type(failure).__name__


class _ForwardToLog(logging.Handler):
    """Write the warnings of another library to this log, without tracebacks."""

    def emit(self, record: logging.LogRecord) -> None:
        if record.levelno >= logging.WARNING:
            failure = f": {record.exc_info[1]}" if record.exc_info else ""
            log.log(record.levelno, "%s%s", record.getMessage(), failure)


class _TextFormatter(logging.Formatter):
    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(message)s")

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: ARG002, N802 - logging's
        return _timestamp(record)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the name is logging's
        line = super().formatMessage(record)
        members: dict[str, Any] = {"request_id": request_id.get(), **getattr(record, "members", {})}
        return " ".join(
            [line, *(f"{key}={_as_text(value)}" for key, value in members.items() if value not in (None, "-"))]
        )


class _JsonFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        members: dict[str, Any] = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            "request_id": request_id.get(),
            **getattr(record, "members", {}),
        }
        if record.exc_info:
            members["exception"] = self.formatException(record.exc_info)
        return json.dumps(members)


def _timestamp(record: logging.LogRecord) -> str:
    """Return the time of a record in UTC (RFC 3339)."""
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created)) + f".{int(record.msecs):03d}Z"


def _as_text(value: object) -> str:
    if isinstance(value, dict):
        value = [f"{name}:{each}" for name, each in value.items()]
    text = ",".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if re.fullmatch(r"[!#-~]+", text) else json.dumps(text)
