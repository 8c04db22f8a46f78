"""rest1, the relay: routes and handlers, no more.

POST /upload1   a form          ┐
POST /upload2   JSON sources    ├─▶ Form ─▶ checked ─▶ framed ─▶ upstream ─▶ its answer
POST /upload    either          │
PUT  /upload/…  a raw body      ┘
POST /upload2   with Prefer: respond-async (RFC 7240): the same as a job, which the answer names; /jobs/… are its routes
GET  /healthz, /readyz
"""

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack, ExitStack, aclosing, asynccontextmanager, contextmanager
from typing import Any
from urllib.parse import unquote

import aiohttp
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from multidict import CIMultiDict

from aiorelay.body import Body, Patience, leave_expectation
from aiorelay.checks import Check, Maker, checked
from aiorelay.checks.digest import expect, parse_digest_field
from aiorelay.checks.wanted import WantedDigests, preferred_algorithm
from aiorelay.delivery import Delivery
from aiorelay.errors import BadSource, Busy, Problem, ShuttingDown, TooLarge, WrongContentType
from aiorelay.form import Limits, read_form, requiring_file
from aiorelay.framing import Framed, frame
from aiorelay.headers import CONTENT_DIGESTS, add_trace, end_to_end, replace_all
from aiorelay.job_routes import JobRoutes, location, shown
from aiorelay.jobs import Job, Jobs
from aiorelay.prefer import preferred
from aiorelay.problems import middleware
from aiorelay.recorded import recorded
from aiorelay.sources import Ingest, Sources, raw_form, read_ingest
from aiorelay.telemetry import REQUEST_ID, Upload, identify, log, request_id
from aiorelay.upload import Form, Part

__all__ = ["Rest1"]

_FORM, _JSON = "multipart/form-data", "application/json"
_MAX_JSON = 1024 * 1024
# What describes the client's body and not the form that is made of it.
_OF_THE_BODY = CONTENT_DIGESTS | {"content-language", "content-location", "content-disposition", "content-encoding"}
_FRAMING = {"host", "expect", "content-length", "content-type"}
_WANTED = "Want-Repr-Digest"
_PREFER, _ASYNC = "Prefer", "respond-async"

_Make = Callable[[web.Request, Body], Awaitable[Form]]


class Rest1:
    """The relay in front of an upload API, which ``delivery`` delivers to.

    ``jobs`` are the uploads that go on after their request was answered. ``field`` is the form field that must carry a
    file; ``checks`` judge every file; ``max_uploads`` may be under way at once; clients are waited for with
    ``patience``; ``pool`` does the arithmetic of checksums.
    """

    def __init__(  # noqa: PLR0913 - what it relays to and from, and under which rules
        self,
        delivery: Delivery,
        sources: Sources,
        jobs: Jobs,
        *,
        field: str,
        limits: Limits,
        max_uploads: int,
        checks: Sequence[Maker],
        patience: Patience,
        pool: Executor,
    ) -> None:
        self._draining = False
        self._delivery = delivery
        self._sources = sources
        self._jobs = jobs
        self._field = field
        self._limits = limits
        self._max_uploads = max_uploads
        self._checks = checks
        self._patience = patience
        self._pool = pool
        self._in_flight = 0

    def app(self) -> web.Application:
        app = web.Application(middlewares=[_identified, middleware])
        app.on_response_prepare.append(_say_only_what_was_said)
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        for path, makers in (
            ("/upload", {_FORM: self._form, _JSON: self._json}),
            ("/upload1", {_FORM: self._form}),
            ("/upload2", {_JSON: self._json}),
        ):
            handler = self._upload(path, _by_content_type(makers))
            if _JSON in makers:
                handler = self._unless_preferred_async(path, handler)
            app.router.add_post(path, handler, expect_handler=leave_expectation)
        app.router.add_put(
            "/upload/{filename:[^/]*}", self._upload("/upload/", self._raw), expect_handler=leave_expectation
        )
        JobRoutes(self._jobs, _owner, idle=self._patience.idle).add_to(app.router)
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

    def _upload(self, endpoint: str, make: _Make) -> Handler:
        """A handler that relays the form that ``make`` makes, and logs how it went."""

        async def handler(request: web.Request) -> web.StreamResponse:
            with self._under_way(endpoint, request) as upload:
                return await self._relay(request, make, upload)

        return handler

    def _unless_preferred_async(self, endpoint: str, relayed: Handler) -> Handler:
        """A handler that makes a job of JSON where the client prefers that, and does as ``relayed`` otherwise."""

        async def handler(request: web.Request) -> web.StreamResponse:
            is_preferred, _ = preferred(_ASYNC, request.headers.getall(_PREFER, []))
            if not is_preferred or _content_type(request) != _JSON:
                return await relayed(request)
            with ExitStack() as stack:
                upload = stack.enter_context(self._under_way(endpoint, request))
                body = Body(request, self._patience)
                async with self._digests(request, body):
                    ingest = await self._ingest(body)
                await self._sources.judge(ingest, self._limits)

                async def work(job: Job) -> dict[str, Any]:
                    with until_its_end:  # not the request's
                        return await self._relay_later(request, body, ingest, upload, job)

                job = self._jobs.start(work, _owner(request))
                until_its_end = stack.pop_all()
            response = shown(job, status=202)
            response.headers.update({hdrs.LOCATION: location(job), "Preference-Applied": _ASYNC})
            return response

        return handler

    @contextmanager
    def _under_way(self, endpoint: str, request: web.Request) -> Iterator[Upload]:
        """An upload that is counted while it is under way, and logged at its end."""
        upload = Upload(endpoint, client=request.remote or "-")
        try:
            with self._admitted():
                yield upload
        except Problem as problem:
            upload.failed(problem)
            raise
        finally:
            upload.write()

    @contextmanager
    def _admitted(self) -> Iterator[None]:
        if self._draining:
            raise ShuttingDown("The relay takes no more uploads; try again soon.")
        if self._in_flight >= self._max_uploads:
            raise Busy("The relay has as many uploads under way as it may; try again soon.")
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1

    async def _relay(self, request: web.Request, make: _Make, upload: Upload) -> web.StreamResponse:
        body = Body(request, self._patience)
        async with self._digests(request, body):
            wanted = WantedDigests(preferred_algorithm(request.headers.getall(_WANTED, [])), self._pool)
            form = checked(await make(request, body), [wanted])
            async with self._sent(form, request, body, upload) as answer:
                return await self._pass_back(request, answer, wanted.told())

    async def _relay_later(
        self, request: web.Request, body: Body, ingest: Ingest, upload: Upload, job: Job
    ) -> dict[str, Any]:
        """Do as ``_relay`` does once the request has been answered, and give the answer to be told by ``job``."""
        form = await self._sources.form(ingest, self._limits, on_total=lambda total: job.note(total=total))
        async with self._sent(form, request, body, upload, job) as answer:
            return await recorded(answer)

    @asynccontextmanager
    async def _sent(
        self, form: Form, request: web.Request, body: Body, upload: Upload, job: Job | None = None
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        """Send the checked form, and give the answer. How far it has come is noted for ``job``, if it is one."""
        form = checked(form, [_tally(upload, job), *self._checks])
        async with aclosing(requiring_file(form, self._field)) as parts:
            framed = await frame(Form(form.boundary, parts, form.length))
            headers = _headers(request, body, framed)
            if job is not None:
                _take_back_preference(headers)

            def note(sent: int) -> None:
                if job is not None:
                    job.note(forwarded=sent)

            async with self._delivery.post(framed, headers, _query(request), note) as answer:
                upload.answered(answer.status)
                yield answer

    @asynccontextmanager
    async def _digests(self, request: web.Request, body: Body) -> AsyncGenerator[None, None]:
        """Hold the body to the digests that the client gives of it (RFC 9530)."""
        async with AsyncExitStack() as closing:
            # A raw body without a coding is its own representation, so that both fields speak of the same bytes.
            for field in ("Content-Digest", "Repr-Digest") if request.method == hdrs.METH_PUT else ("Content-Digest",):
                given = ", ".join(request.headers.getall(field, []))
                if given and (expected := parse_digest_field(given, field)):
                    check = expect(expected, self._pool, field=field)
                    closing.push_async_callback(check.close)
                    body.check(check)
            yield

    async def _form(self, request: web.Request, body: Body) -> Form:
        return read_form(request.headers[hdrs.CONTENT_TYPE], body.length, body.read, self._limits)

    async def _json(self, _request: web.Request, body: Body) -> Form:
        return await self._sources.form(await self._ingest(body), self._limits)

    async def _ingest(self, body: Body) -> Ingest:
        document = b""
        if (body.length or 0) > _MAX_JSON:  # told before the body is asked for
            raise TooLarge(f"The JSON is larger than {_MAX_JSON} bytes.")
        while block := await body.read():
            document += block
            if len(document) > _MAX_JSON:
                raise TooLarge(f"The JSON is larger than {_MAX_JSON} bytes.")
        return read_ingest(document, self._field)

    async def _raw(self, request: web.Request, body: Body) -> Form:
        if hdrs.CONTENT_RANGE in request.headers:  # RFC 9110, section 14.5: never taken for the whole file
            raise BadSource("A part of a file cannot be uploaded; send it whole, without Content-Range.")
        return raw_form(
            body.read,
            body.length,
            field=self._field,
            filename=unquote(request.rel_url.raw_path.rpartition("/")[2], errors="replace"),
            media_type=request.headers.get(hdrs.CONTENT_TYPE),
        )

    async def _pass_back(
        self, request: web.Request, answer: aiohttp.ClientResponse, added: Iterable[tuple[str, str]]
    ) -> web.StreamResponse:
        """Give the upstream's answer to the client as it is, with the headers ``added``.

        One that breaks off breaks off for the client too.
        """
        response = _PassedBack(answer)
        replace_all(response.headers, added)
        try:
            await response.prepare(request)
            async for block in answer.content.iter_any():
                async with asyncio.timeout(self._patience.idle):
                    await response.write(block)
            await response.write_eof()
        except (aiohttp.ClientError, OSError, TimeoutError) as broken:
            log.warning("the answer could not be passed back whole: %s", type(broken).__name__)
            if request.transport is not None:
                request.transport.abort()
        return response


class _PassedBack(web.StreamResponse):
    """The upstream's answer: its status, its end-to-end headers."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        super().__init__(status=answer.status, reason=answer.reason, headers=end_to_end(answer.headers))
        self.said = frozenset(name.lower() for name in answer.headers)


@web.middleware
async def _identified(request: web.Request, handler: Handler) -> web.StreamResponse:
    identify(request.headers)
    return await handler(request)


async def _say_only_what_was_said(_request: web.Request, response: web.StreamResponse) -> None:
    """Add the request's id to every answer, and take back what aiohttp added to the upstream's."""
    response.headers[REQUEST_ID] = request_id.get()
    said = response.said if isinstance(response, _PassedBack) else {"content-type"}
    for name in {"content-type", "server"} - said:
        response.headers.pop(name, None)


def _by_content_type(makers: Mapping[str, _Make]) -> _Make:
    async def make(request: web.Request, body: Body) -> Form:
        maker = makers.get(_content_type(request))
        if maker is None:
            raise WrongContentType(f"{request.path} takes one Content-Type: {' or '.join(makers)}.")
        return await maker(request, body)

    return make


def _content_type(request: web.Request) -> str:
    """The one media type that a request has; empty if it has none, or several."""
    given = request.headers.getall(hdrs.CONTENT_TYPE, [])
    return given[0].partition(";")[0].strip().lower() if len(given) == 1 else ""


def _owner(_request: web.Request) -> str | None:
    """Whose the jobs are that a request makes, and whose it may see: nobody can be told from anybody else."""
    return None


def _take_back_preference(headers: "CIMultiDict[str]") -> None:
    """Take out of an upstream's request what the relay has done instead."""
    _, others = preferred(_ASYNC, headers.popall(_PREFER))
    if others:
        headers[_PREFER] = ", ".join(others)


def _tally(upload: Upload, job: Job | None) -> Maker:
    """A check that objects to nothing: it notes the files and counts their bytes, for the log and for ``job``."""

    class Tally:
        async def feed(self, chunk: bytes) -> None:
            upload.bytes += len(chunk)
            if job is not None:
                job.note(received=upload.bytes)

        async def finish(self) -> None: ...

        async def close(self) -> None: ...

    def make(part: Part) -> Check | None:
        if not part.is_file:
            return None
        upload.files.append(part.filename or "")
        return Tally()

    return make


def _headers(request: web.Request, body: Body, framed: Framed) -> "CIMultiDict[str]":
    """The head of the upstream's request, without its framing."""
    content_type = request.headers.get(hdrs.CONTENT_TYPE, "")
    without = _FRAMING
    if not content_type.lower().startswith(_FORM):
        content_type = f"{_FORM}; boundary={framed.boundary.decode()}"
        without = _FRAMING | _OF_THE_BODY
    elif framed.length != body.length:
        without = _FRAMING | CONTENT_DIGESTS
    headers = end_to_end(request.headers, without=without)
    headers[hdrs.CONTENT_TYPE] = content_type
    add_trace(headers, client=request.remote, host=request.headers.get(hdrs.HOST), request_id=request_id.get())
    return headers


def _query(request: web.Request) -> str:
    return request.raw_path.partition("?")[2]
