"""rest1, the relay: routes and handlers.

POST /upload1   a form          ┐
POST /upload2   JSON sources    ├─▶ Form ─▶ checked ─▶ framed ─▶ upstream ─▶ its answer
POST /upload    either          │
PUT  /upload/…  a raw body      ┘
POST /upload2   with Prefer: respond-async (RFC 7240): the same as a job, which the answer names; /jobs/… are its routes
GET  /healthz, /readyz, /metrics, /openapi.json
"""

from collections.abc import AsyncGenerator, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, ExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import replace
from typing import Any

import aiohttp
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from multidict import CIMultiDict

from aiorelay.checks.digests import expect_digests, parse_digest_field
from aiorelay.checks.pipeline import CheckFactory, checked
from aiorelay.checks.wanted_digests import WantedDigests, preferred_algorithm
from aiorelay.errors import Busy, ShuttingDown
from aiorelay.http.authentication import Access
from aiorelay.http.fields import CONTENT_DIGESTS, add_trace, drop_client_claims, end_to_end
from aiorelay.http.middleware import add_catch_all_route, defer_100_continue, response_timeout
from aiorelay.http.problem_details import problem_middleware
from aiorelay.http.request_body import BodyTimeouts, RequestBody
from aiorelay.http.request_smuggling import FROM_CLIENTS, reject_ambiguous_requests
from aiorelay.multipart.form import Form
from aiorelay.multipart.framing import FramedBody, frame
from aiorelay.multipart.parser import FormLimits, require_file
from aiorelay.observability.logs import UploadRecord, log, request_id, set_request_id
from aiorelay.observability.metrics import CONTENT_TYPE as METRICS_TYPE
from aiorelay.observability.metrics import Metrics
from aiorelay.observability.tracing import Tracing
from aiorelay.rest1 import openapi
from aiorelay.rest1.answers import pass_back, serialize_response, strip_default_headers
from aiorelay.rest1.delivery import Delivery
from aiorelay.rest1.jobs.registry import Job, Jobs
from aiorelay.rest1.jobs.routes import JobRoutes, job_path, job_response
from aiorelay.rest1.pieces import is_piece, refuse_piece, watch_fields
from aiorelay.rest1.preferences import remove_preference, split_preference
from aiorelay.rest1.progress import ProgressRecorder
from aiorelay.rest1.request_forms import FORM, JSON, FormFactory, FormReader, content_type, dispatch_on_content_type
from aiorelay.rest1.web.pages import Pages
from aiorelay.settings.kinds import StatusRange
from aiorelay.sources.ingest import Ingest, Sources

__all__ = ["Rest1"]

# What describes the client's body and not the form that is made of it.
_BODY_FIELDS = CONTENT_DIGESTS | {"content-language", "content-location", "content-disposition", "content-encoding"}
_FRAMING = {"host", "expect", "content-length", "content-type"}
_WANTED = "Want-Repr-Digest"
_PREFER, _ASYNC = "Prefer", "respond-async"


class Rest1:
    """The relay in front of an upload API, which ``delivery`` delivers to.

    ``jobs`` are the uploads that go on after their request was answered. ``field`` is the form field that must carry a
    file; ``access`` says who may upload; ``checks`` judge every file; ``max_uploads`` may be under way at once; clients
    are waited for with ``timeouts``; ``pool`` does the arithmetic of checksums. ``stored_status`` are the answers of
    the upload API that mean stored. ``allow_pieces`` lets pieces of files through.
    """

    def __init__(  # noqa: PLR0913 - what it relays to and from, and under which rules
        self,
        delivery: Delivery,
        sources: Sources,
        jobs: Jobs,
        access: Access,
        metrics: Metrics,
        tracing: Tracing,
        pages: Pages,
        *,
        field: str,
        limits: FormLimits,
        max_uploads: int,
        checks: Sequence[CheckFactory],
        timeouts: BodyTimeouts,
        pool: Executor,
        stored_status: Sequence[StatusRange],
        allow_pieces: bool,
    ) -> None:
        self._draining = False
        self._delivery = delivery
        self._sources = sources
        self._forms = FormReader(sources, field=field, limits=limits)
        self._jobs = jobs
        self._access = access
        self._metrics = metrics
        self._tracing = tracing
        self._pages = pages
        self._field = field
        self._limits = limits
        self._max_uploads = max_uploads
        self._checks = checks
        self._timeouts = timeouts
        self._pool = pool
        self._stored_status = stored_status
        self._on_piece = _warn_of_piece if allow_pieces else refuse_piece
        self._in_flight = 0

    def app(self) -> web.Application:
        in_time = response_timeout(self._timeouts.idle)
        app = web.Application(
            middlewares=[in_time, _identified, reject_ambiguous_requests(FROM_CLIENTS), problem_middleware]
        )
        app.on_response_prepare.append(strip_default_headers)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._show_metrics)
        for path, factories in (
            ("/upload", {FORM: self._forms.form, JSON: self._forms.json}),
            ("/upload1", {FORM: self._forms.form}),
            ("/upload2", {JSON: self._forms.json}),
        ):
            handler = self._upload(path, dispatch_on_content_type(factories))
            if JSON in factories:
                handler = self._as_job_if_preferred(path, handler)
            app.router.add_post(path, handler, expect_handler=defer_100_continue)
        raw = self._upload("/upload/", self._forms.raw)
        app.router.add_put("/upload/{filename:[^/]*}", raw, expect_handler=defer_100_continue)
        JobRoutes(self._jobs, self._access.who, idle=self._timeouts.idle).add_to(app.router)
        self._pages.add_to(app.router)
        openapi.add_to(app.router, self._field)
        add_catch_all_route(app.router)
        return app

    def drain(self) -> None:
        """Take no more uploads; those under way go on, and the events of jobs end."""
        self._draining = True
        self._jobs.drain()

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _readyz(self, _request: web.Request) -> web.Response:
        if self._draining:
            return web.json_response({"status": "shutting down"}, status=503)
        if not await self._delivery.reachable():
            return web.json_response({"status": "the upload API cannot be reached"}, status=503)
        return web.json_response({"status": "ready"})

    async def _show_metrics(self, request: web.Request) -> web.Response:
        self._access.who(request)
        return web.Response(body=self._metrics.render(), headers={hdrs.CONTENT_TYPE: METRICS_TYPE})

    def _upload(self, endpoint: str, make: FormFactory) -> Handler:
        """A handler that relays the form that ``make`` makes, and logs how it went."""

        async def handler(request: web.Request) -> web.StreamResponse:
            with self._under_way(endpoint, request) as upload:
                return await self._relay(request, make, upload)

        return handler

    def _as_job_if_preferred(self, endpoint: str, relayed: Handler) -> Handler:
        """A handler that makes a job of JSON where the client prefers that, and does as ``relayed`` otherwise."""

        async def handler(request: web.Request) -> web.StreamResponse:
            is_preferred, _ = split_preference(_ASYNC, request.headers.getall(_PREFER, []))
            if not is_preferred or content_type(request) != JSON:
                return await relayed(request)
            with ExitStack() as stack:
                upload = stack.enter_context(self._under_way(endpoint, request))
                body = RequestBody(request, self._timeouts)
                async with self._digests(request, body):
                    ingest = await self._forms.ingest(body)
                await self._sources.judge(ingest, self._limits)

                async def work(job: Job) -> dict[str, Any]:
                    with upload_context:  # not the request's
                        return await self._relay_as_job(request, ingest, upload, job)

                job = self._jobs.start(work, upload.who)
                upload_context = stack.pop_all()
            response = job_response(job, status=202)
            response.headers.update({hdrs.LOCATION: job_path(job), "Preference-Applied": _ASYNC})
            return response

        return handler

    @contextmanager
    def _under_way(self, endpoint: str, request: web.Request) -> Iterator[UploadRecord]:
        """An upload that is counted while it is under way, and logged at its end."""
        upload = UploadRecord(endpoint, client=self._access.client(request))
        with self._tracing.upload(upload, request), upload.under_way(self._metrics.ended):
            upload.who = self._access.who(request)
            if is_piece(request.headers, _query(request)):
                self._on_piece()
            with self._admitted():
                yield upload

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if self._draining:
            raise ShuttingDown("The relay takes no more uploads; try again soon.")
        if self._in_flight >= self._max_uploads:
            raise Busy("The relay has as many uploads under way as it may; try again soon.")
        self._in_flight += 1
        try:
            with self._metrics.uploads_in_flight.track_inprogress():
                yield
        finally:
            self._in_flight -= 1

    async def _relay(self, request: web.Request, make: FormFactory, upload: UploadRecord) -> web.StreamResponse:
        body = RequestBody(request, self._timeouts)
        async with self._digests(request, body):
            wanted = self._wanted(request)
            async with self._sent(await make(request, body), request, upload, wanted) as answer:
                return await pass_back(request, answer, wanted.told(), idle=self._timeouts.idle)

    async def _relay_as_job(
        self, request: web.Request, ingest: Ingest, upload: UploadRecord, job: Job
    ) -> dict[str, Any]:
        """Do as ``_relay`` does once the request has been answered, and give the answer to be told by ``job``."""
        form = await self._sources.form(ingest, self._limits, on_total=lambda total: job.note(total=total))
        wanted = self._wanted(request)
        async with self._sent(form, request, upload, wanted, job) as answer:
            return await serialize_response(answer, wanted.told())

    @asynccontextmanager
    async def _sent(
        self, form: Form, request: web.Request, upload: UploadRecord, wanted: WantedDigests, job: Job | None = None
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """Send the checked form, and give the answer. How far it has come is noted for ``job``, if it is one."""
        progress = ProgressRecorder(upload, self._metrics, job)
        form = checked(form, [progress.received, wanted, *self._checks, progress.checked])
        parts = watch_fields(form, self._on_piece)
        async with aclosing(require_file(Form(form.boundary, parts, form.length), self._field)) as parts:
            framed = await frame(Form(form.boundary, parts, form.length))
            headers = self._headers(request, framed)
            if job is not None:
                remove_preference(_ASYNC, headers)

            timed = replace(framed, blocks=upload.watch.around(framed.blocks))
            async with self._delivery.post(timed, headers, _query(request), progress.forwarded) as answer:
                upload.watch.lap("wait")
                upload.answered(answer.status, stored=self._means_stored(answer.status))
                yield answer

    @asynccontextmanager
    async def _digests(self, request: web.Request, body: RequestBody) -> AsyncGenerator[None, None]:
        """Hold the body to the digests that the client gives of it (RFC 9530)."""
        async with AsyncExitStack() as closing:
            # A raw body without a coding is its own representation, so that both fields speak of the same bytes.
            for field in ("Content-Digest", "Repr-Digest") if request.method == hdrs.METH_PUT else ("Content-Digest",):
                given = ", ".join(request.headers.getall(field, []))
                if given and (expected := parse_digest_field(given, field)):
                    check = expect_digests(expected, self._pool, field=field)
                    closing.push_async_callback(check.close)
                    body.check(check)
            yield

    def _means_stored(self, status: int) -> bool:
        return any(first <= status <= last for first, last in self._stored_status)

    def _wanted(self, request: web.Request) -> WantedDigests:
        return WantedDigests(preferred_algorithm(request.headers.getall(_WANTED, [])), self._pool)

    def _headers(self, request: web.Request, framed: FramedBody) -> "CIMultiDict[str]":
        """The head of the upstream's request, without its framing."""
        media_type = request.headers.get(hdrs.CONTENT_TYPE, "")
        without = _FRAMING
        if not media_type.lower().startswith(FORM):
            media_type = f"{FORM}; boundary={framed.boundary.decode()}"
            without = _FRAMING | _BODY_FIELDS
        elif not framed.unchanged:
            without = _FRAMING | CONTENT_DIGESTS
        if self._access.consumes_authorization:
            without = without | {"authorization"}
        headers = end_to_end(request.headers, without=without)
        headers[hdrs.CONTENT_TYPE] = media_type
        if not self._access.believes(request):
            drop_client_claims(headers)
        add_trace(
            headers,
            version=request.version,
            client=self._access.client(request),
            peer=request.remote,
            host=request.headers.get(hdrs.HOST),
            request_id=request_id.get(),
        )
        return headers


@web.middleware
async def _identified(request: web.Request, handler: Handler) -> web.StreamResponse:
    set_request_id(request.headers)
    return await handler(request)


def _warn_of_piece() -> None:
    log.warning("a piece of a file is let through (allow-pieces): the checks see the piece alone")


def _query(request: web.Request) -> str:
    return request.raw_path.partition("?")[2]
