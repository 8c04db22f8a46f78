"""rest1, the relay: routes and handlers.

POST /upload1   a form          ┐
POST /upload2   JSON sources    ├─▶ Form ─▶ relay ─▶ the upload API's answer
POST /upload    either          │
PUT  /upload/…  a raw body      ┘
POST /upload2   with Prefer: respond-async (RFC 7240): the same as a job, which the answer names; /jobs/… are its routes
GET  /healthz, /readyz, /metrics, /openapi.json
"""

from contextlib import ExitStack
from typing import Any

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from aiorelay.http.cross_origin import SitePolicy
from aiorelay.http.middleware import (
    add_catch_all_route,
    add_request_id,
    defer_100_continue,
    identify_and_time,
)
from aiorelay.http.problem_details import problem_middleware
from aiorelay.http.request_smuggling import FROM_CLIENTS, reject_ambiguous_requests
from aiorelay.observability.logs import UploadRecord
from aiorelay.observability.metrics import CONTENT_TYPE as METRICS_TYPE
from aiorelay.rest1 import openapi
from aiorelay.rest1.answers import pass_back, serialize_response, strip_default_headers
from aiorelay.rest1.health import Health
from aiorelay.rest1.intake import Intake
from aiorelay.rest1.jobs.registry import Job, Jobs
from aiorelay.rest1.jobs.routes import JobRoutes, started_job_response
from aiorelay.rest1.progress import ProgressRecorder
from aiorelay.rest1.relay import Relay
from aiorelay.rest1.request_forms import Body, FormFactory, FormReader, dispatch_on_content_type
from aiorelay.rest1.resumable.routes import ResumableRoutes
from aiorelay.rest1.routes import Routes
from aiorelay.rest1.upload_request import FORM, JSON, UploadRequest
from aiorelay.rest1.web.pages import Pages

__all__ = ["Rest1"]


class Rest1:
    """The relay's application: requests that ``intake`` takes in become forms by ``forms``, which ``relay`` sends.

    Without a ``relay`` there are only the uploads of ``routes``. ``jobs`` are the uploads that go on after their
    request was answered. ``resumable`` has the routes of resumable uploads, where these are wanted.
    ``sites`` says what web pages may send.
    """

    def __init__(
        self,
        intake: Intake,
        forms: FormReader,
        relay: Relay | None,
        jobs: Jobs,
        pages: Pages,
        resumable: ResumableRoutes | None,
        routes: Routes,
        sites: SitePolicy,
    ) -> None:
        self._intake = intake
        self._forms = forms
        self._relay = relay
        self._jobs = jobs
        self._pages = pages
        self._resumable = resumable
        self._routes = routes
        self._sites = sites

    def app(self, track: Middleware, health: Health) -> web.Application:
        """The application. ``track`` keeps account of the requests in flight, ``health`` has routes of its own."""
        app = web.Application(
            middlewares=[
                track,
                identify_and_time(self._intake.timeouts.answers),
                reject_ambiguous_requests(FROM_CLIENTS),
                problem_middleware,
                self._sites.guard,
                *self._intake.access.middlewares,
            ]
        )
        app.on_response_prepare.append(self._prepare_answer)
        health.add_to(app.router)
        app.router.add_get("/metrics", self._show_metrics)
        self._routes.add_exact(app.router)
        if self._relay is not None:
            self._add_uploads(app.router, self._relay)
        if self._resumable is not None:
            self._resumable.add_to(app)
        JobRoutes(self._jobs, self._intake.access.who, idle=self._intake.timeouts.idle).add_to(app.router)
        self._pages.add_to(app.router)
        self._routes.add_prefixes(app.router)
        token_header = self._intake.access.token_header
        openapi.add_to(app.router, self._forms.field, self._routes.described, token_header=token_header)
        add_catch_all_route(app.router)
        return app

    def _add_uploads(self, router: web.UrlDispatcher, relay: Relay) -> None:
        for path, factories in (
            ("/upload", {FORM: self._forms.form, JSON: self._forms.json}),
            ("/upload1", {FORM: self._forms.form}),
            ("/upload2", {JSON: self._forms.json}),
        ):
            handler = self._upload(relay, path, dispatch_on_content_type(factories), jobs=JSON in factories)
            if FORM in factories:
                handler = self._or_resumable(path, handler)
            router.add_post(path, handler, expect_handler=defer_100_continue)
        raw = self._or_resumable("/upload/", self._upload(relay, "/upload/", self._forms.raw))
        router.add_put("/upload/{filename:[^/]*}", raw, expect_handler=defer_100_continue)

    def drain(self) -> None:
        """Take no more uploads; those under way go on, and the events of jobs end."""
        self._intake.draining = True
        self._jobs.drain()

    async def _prepare_answer(self, request: web.Request, response: web.StreamResponse) -> None:
        """Complete the header fields of any answer; a signal handler for ``on_response_prepare``."""
        await self._intake.await_events(request)
        await add_request_id(request, response)
        strip_default_headers(request, response)
        self._intake.limits.add_fields(request, response)
        self._sites.add_fields(request, response)

    async def _show_metrics(self, request: web.Request) -> web.Response:
        self._intake.access.who(request)
        return web.Response(body=self._intake.metrics.render(), headers={hdrs.CONTENT_TYPE: METRICS_TYPE})

    def _upload(self, relay: Relay, endpoint: str, make: FormFactory, *, jobs: bool = False) -> Handler:
        """A handler that relays the form that ``make`` makes, and logs how it went.

        Where ``jobs`` are offered, it makes a job of a JSON request whose client prefers one.
        """

        async def handler(request: web.Request) -> web.StreamResponse:
            with ExitStack() as under_way:
                asked, upload = under_way.enter_context(self._intake.under_way(endpoint, request))
                reads_sources = jobs and asked.media_type == JSON
                await self._intake.limits.admit(request, asked.principal, request.content_length)
                async with self._intake.body(request, asked, self._intake.digest_checks(asked)) as body:
                    if reads_sources and asked.respond_async:
                        return await self._start_job(relay, asked, body, upload, under_way)
                    form = await make(asked, body)
                    if reads_sources:
                        form = self._intake.metered(form, asked)
                    progress = ProgressRecorder(upload, self._intake.metrics)
                    async with relay.send(form, asked, progress) as answer:
                        upload.end()
                        return await pass_back(request, answer.response, answer.added, self._intake.timeouts.answers)

        return handler

    def _or_resumable(self, endpoint: str, handler: Handler) -> Handler:
        """A handler of those requests that create a resumable upload; ``handler`` has the others."""
        resumable = self._resumable
        if resumable is None:
            return handler

        async def choose(request: web.Request) -> web.StreamResponse:
            if resumable.is_creation(request):
                return await resumable.create(endpoint, request)
            return await handler(request)

        return choose

    async def _start_job(
        self, relay: Relay, asked: UploadRequest, body: Body, upload: UploadRecord, under_way: ExitStack
    ) -> web.Response:
        """Start a job that does what the JSON ``body`` asks for. The job takes over what is ``under_way``."""
        ingest = await self._forms.ingest(body)
        await self._forms.judge(ingest)

        async def work(job: Job) -> dict[str, Any]:
            with job_context:
                progress = ProgressRecorder(upload, self._intake.metrics, job)
                form = self._intake.metered(await self._forms.ingested(ingest, on_total=progress.total), asked)
                async with relay.send(form, asked, progress) as answer:
                    return await serialize_response(answer.response, answer.added)

        job = await self._jobs.start(work, asked.who)
        job_context = under_way.pop_all()  # before the work begins
        return started_job_response(job)
