"""rest2, the embedded upload API: one route that stores each file of a form, completely or not at all."""

from collections.abc import Sequence
from contextlib import aclosing

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from aiorelay.checks.pipeline import CheckFactory, checked
from aiorelay.errors import MissingFile, ShuttingDown, WrongContentType
from aiorelay.files.writer import StoredFile
from aiorelay.http.authentication import LoopbackOrToken
from aiorelay.http.cross_origin import SitePolicy
from aiorelay.http.middleware import (
    add_catch_all_route,
    add_request_id,
    defer_100_continue,
    identify_and_time,
)
from aiorelay.http.problem_details import problem_middleware
from aiorelay.http.request_body import BodyTimeouts, RequestBody
from aiorelay.http.request_smuggling import FROM_RELAYS, reject_ambiguous_requests
from aiorelay.multipart.form import Form, Part
from aiorelay.multipart.parser import FormLimits, read_form
from aiorelay.rest2.store import Incoming, Store

__all__ = ["Rest2"]


class Rest2:
    """The storing server.

    ``checks`` run on every file. ``timeouts`` apply to requests and responses. ``access`` authenticates clients, if
    given. ``sites`` says what web pages may send.
    """

    def __init__(
        self,
        store: Store,
        access: LoopbackOrToken | None,
        sites: SitePolicy,
        *,
        limits: FormLimits,
        checks: Sequence[CheckFactory],
        timeouts: BodyTimeouts,
    ) -> None:
        self._draining = False
        self._store = store
        self._access = access
        self._sites = sites
        self._limits = limits
        self._checks = checks
        self._timeouts = timeouts

    def app(self, track: Middleware) -> web.Application:
        """Return the application. ``track`` is the middleware that counts the requests in progress."""
        app = web.Application(
            middlewares=[
                track,
                identify_and_time(self._timeouts.answers),
                reject_ambiguous_requests(FROM_RELAYS),
                problem_middleware,
                self._refuse_pages,
            ]
        )
        app.on_response_prepare.append(add_request_id)
        app.router.add_post("/upload", self._upload, expect_handler=defer_100_continue)
        add_catch_all_route(app.router)
        return app

    def drain(self) -> None:
        """Refuse new uploads. Uploads in progress continue."""
        self._draining = True

    @property
    def _refuse_pages(self) -> Middleware:
        @web.middleware
        async def refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
            # The relay has judged what it passes on. Pages cannot set Via (Fetch, "forbidden request-header").
            if hdrs.VIA not in request.headers:
                self._sites.check(request)
            return await handler(request)

        return refuse

    async def _upload(self, request: web.Request) -> web.Response:
        if self._access is not None:
            await self._access.admit(request)
        if self._draining:
            raise ShuttingDown("The server is shutting down and accepts no more uploads. Try again later.")
        if request.content_type != "multipart/form-data":
            raise WrongContentType("/upload requires a multipart/form-data body.")
        body = RequestBody(request, self._timeouts)
        form = read_form(request.headers[hdrs.CONTENT_TYPE], body.length, body.read, self._limits)
        form = checked(form, self._checks)
        async with self._store.receive(form.length) as incoming, aclosing(form.parts):
            files = await _receive(form, incoming)
            if not files:
                raise MissingFile("The form contains no file. Send at least one.")
            location = await incoming.keep()
        descriptions = [_describe(part, f"{location}/{file.name}", file) for part, file in files]
        return web.json_response({"status": "done", "path": descriptions[0]["path"], "files": descriptions})


async def _receive(form: Form, incoming: Incoming) -> list[tuple[Part, StoredFile]]:
    files = []
    async for part in form.parts:
        block = await anext(part.chunks, b"")
        if part.filename is None or not (part.filename or block):  # a field, or a file input that was not filled in
            async for _ in part.chunks:
                pass
            continue
        writer = incoming.file(part.filename or part.name, part.media_type)
        while block:
            await writer.write(block)
            block = await anext(part.chunks, b"")
        files.append((part, await writer.close()))
    return files


def _describe(part: Part, path: str, file: StoredFile) -> dict[str, str | int]:
    return {
        "field": part.name,
        "filename": part.filename or "",
        "path": path,
        "size": file.size,
        "sha256": file.sha256,
        "content_type": part.media_type or "application/octet-stream",
    }
