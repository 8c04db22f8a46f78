"""OpenTelemetry spans: one for each upload, with a child span for each phase. A no-op if ``otel`` is off.

client's span ─▶ upload ─┬─ receive, check, forward, wait
                         └─ POST ─▶ the upload API's span

The SDK reads the rest of its configuration from its own variables (OTEL_…): endpoint, sampler, service name. It is
imported only if tracing is on, because it is an extra (``[otel]``).
"""

import asyncio
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from typing import TYPE_CHECKING

from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from aiorelay.errors import Problem, StartupError, UpstreamProblem
from aiorelay.observability.logs import Stopwatch, UploadRecord, log, request_id

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

__all__ = ["NO_TRACING", "Tracing", "tracing"]

# The longest wait for the last spans to be sent, in seconds.
_FLUSH_TIMEOUT = 5.0

# The parent of the spans of this task's upload. It is not reset: the next upload of the task overwrites it.
_upload_context: "ContextVar[Context | None]" = ContextVar("upload_context", default=None)


class Tracing:
    """No-op tracer, used when ``otel`` is off."""

    def upload(self, _upload: UploadRecord, _request: web.Request) -> AbstractContextManager[object]:
        """Trace an upload during the context, which may end in another task."""
        return nullcontext()

    def exchange(
        self, _method: str, _url: URL, _headers: "CIMultiDict[str]"
    ) -> AbstractContextManager[Callable[[int], object]]:
        """Trace a request to the upload API. Yields a function to call with the status of the answer."""
        return nullcontext(lambda _status: None)


NO_TRACING = Tracing()


@asynccontextmanager
async def tracing(grace: float) -> AsyncGenerator[Tracing, None]:
    """Trace with OpenTelemetry. On exit, wait up to ``grace`` seconds for the last spans to be sent.

    Raises ``StartupError`` if OpenTelemetry is not installed or rejects its variables.
    """
    provider = _provider()
    try:
        yield _OpenTelemetry(provider)
    finally:
        await _shut_down(provider, min(grace, _FLUSH_TIMEOUT))


def _provider() -> "TracerProvider":
    try:
        from opentelemetry import propagate  # noqa: PLC0415 - optional dependency, also below
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource  # noqa: PLC0415
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415

        propagate.get_global_textmap()
        resource = Resource.create()
        if str(resource.attributes[SERVICE_NAME]).startswith("unknown_service"):
            resource = resource.merge(Resource({SERVICE_NAME: "aiorelay"}))
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    except ImportError as error:
        raise StartupError("otel: OpenTelemetry is not installed. Run: pip install 'aiorelay[otel]'.") from error
    except (ValueError, OSError) as error:
        raise StartupError(
            f"otel: OpenTelemetry cannot use its variables: {error}. Correct the OTEL_… variables."
        ) from error
    return provider


async def _shut_down(provider: "TracerProvider", seconds: float) -> None:
    """Send the remaining spans in a daemon thread, so that a silent collector cannot delay the exit."""
    loop, sent = asyncio.get_running_loop(), asyncio.Event()

    def send() -> None:
        provider.shutdown()
        with suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(sent.set)

    threading.Thread(target=send, name="last spans", daemon=True).start()
    try:
        async with asyncio.timeout(seconds):
            await sent.wait()
    except TimeoutError:
        log.warning("The last spans were not sent: the collector did not accept them in %g s.", seconds)


class _OpenTelemetry(Tracing):
    def __init__(self, provider: "TracerProvider") -> None:
        from importlib.metadata import version  # noqa: PLC0415 - slow

        from opentelemetry import propagate, trace  # noqa: PLC0415 - as above

        self._trace = trace
        self._propagate = propagate
        self._tracer = provider.get_tracer("aiorelay", version("aiorelay"))

    @contextmanager
    def upload(self, upload: UploadRecord, request: web.Request) -> Generator[None, None, None]:
        fields = {name.lower(): request.headers.getall(name) for name in request.headers}
        span = self._tracer.start_span(
            f"{request.method} {upload.endpoint}",
            self._propagate.extract(fields),
            self._trace.SpanKind.SERVER,
            {
                "http.request.method": request.method,
                "http.route": upload.endpoint,
                "url.scheme": request.scheme,
                "url.path": request.rel_url.raw_path,
                "client.address": upload.client,
                "aiorelay.request_id": request_id.get(),
            },
        )
        parent = self._trace.set_span_in_context(span)
        _upload_context.set(parent)
        upload.watch = watch = _TracedStopwatch()
        failure = None
        try:
            yield
        except BaseException as error:
            failure = type(error).__name__
            raise
        finally:
            for phase, (begun, ended) in watch.spans.items():
                self._tracer.start_span(phase, parent, start_time=begun).end(ended)
            span.set_attributes({"aiorelay.outcome": upload.outcome, "aiorelay.bytes": upload.bytes})
            if upload.status:
                span.set_attribute("http.response.status_code", upload.status)
                failure = upload.refused_by or (str(upload.status) if upload.status >= 500 else None)
            self._end(span, failure, is_error=not 0 < upload.status < 500)

    @contextmanager
    def exchange(
        self, method: str, url: URL, headers: "CIMultiDict[str]"
    ) -> Generator[Callable[[int], object], None, None]:
        parent = _upload_context.get()
        span = self._tracer.start_span(
            method,
            parent,
            self._trace.SpanKind.CLIENT,
            {
                "http.request.method": method,
                "server.address": url.host or "",
                "server.port": url.port or 0,
                "url.full": str(url.with_query(None)),
            },
        )
        self._propagate.inject(headers, self._trace.set_span_in_context(span, parent))
        failure: str | None = None

        def answered(status: int) -> None:
            nonlocal failure
            span.set_attribute("http.response.status_code", status)
            failure = str(status) if status >= 400 else None

        try:
            yield answered
        except BaseException as error:
            failure = failure or _name(error)
            raise
        finally:
            self._end(span, failure, is_error=failure is not None)

    def _end(self, span: "Span", failure: str | None, *, is_error: bool) -> None:
        if failure is not None:
            span.set_attribute("error.type", failure)
        if is_error:
            span.set_status(self._trace.StatusCode.ERROR)
        span.end()


def _name(error: BaseException) -> str:
    """Return the ``error.type``: the type of RFC 9209, the code of a problem, or the exception's class."""
    if isinstance(error, UpstreamProblem):
        return error.error
    return error.code if isinstance(error, Problem) else type(error).__name__


class _TracedStopwatch(Stopwatch):
    """A stopwatch that also records the start and the end of each phase, in nanoseconds since 1970.

    The phases of one upload overlap: a block is forwarded while the next is received.
    """

    def __init__(self) -> None:
        super().__init__()
        self.spans: dict[str, tuple[int, int]] = {}
        self._noted = time.time_ns()

    def lap(self, phase: str) -> None:
        super().lap(phase)
        begun, self._noted = self._noted, time.time_ns()
        self.spans[phase] = self.spans.get(phase, (begun, 0))[0], self._noted
