"""rest2, the embedded upload API: one route that stores each file of a form, whole or not at all."""

from collections.abc import Sequence
from contextlib import aclosing
from pathlib import Path

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from aiorelay.access import Neighbourhood
from aiorelay.ambiguity import FROM_RELAYS, refusing_ambiguous
from aiorelay.answers import taken_in_time
from aiorelay.body import Body, Patience
from aiorelay.checks import Maker, checked
from aiorelay.errors import MissingFile, ShuttingDown, WrongContentType
from aiorelay.expectation import leave_expectation, refuse_unrouted
from aiorelay.form import Limits, read_form
from aiorelay.problems import middleware
from aiorelay.store import Incoming, Store
from aiorelay.telemetry import REQUEST_ID, identify, request_id
from aiorelay.upload import Form, Part
from aiorelay.writer import StoredFile

__all__ = ["Rest2"]


class Rest2:
    """The storing server; ``checks`` judge every file, clients are waited for with ``patience``.

    ``door``, if there is one, says who may come in.
    """

    def __init__(
        self, store: Store, door: Neighbourhood | None, *, limits: Limits, checks: Sequence[Maker], patience: Patience
    ) -> None:
        self._draining = False
        self._store = store
        self._door = door
        self._limits = limits
        self._checks = checks
        self._patience = patience

    def app(self) -> web.Application:
        in_time = taken_in_time(self._patience.idle)
        app = web.Application(middlewares=[in_time, _identified, refusing_ambiguous(FROM_RELAYS), middleware])
        app.router.add_post("/upload", self._upload, expect_handler=leave_expectation)
        refuse_unrouted(app.router)
        return app

    def drain(self) -> None:
        """Take no more uploads; those under way go on."""
        self._draining = True

    async def _upload(self, request: web.Request) -> web.Response:
        if self._door is not None:
            self._door.admit(request)
        if self._draining:
            raise ShuttingDown("The server takes no more uploads; try again soon.")
        if request.content_type != "multipart/form-data":
            raise WrongContentType("/upload takes a multipart/form-data body.")
        body = Body(request, self._patience)
        form = read_form(request.headers[hdrs.CONTENT_TYPE], body.length, body.read, self._limits)
        form = checked(form, self._checks)
        async with self._store.receive() as incoming, aclosing(form.parts):
            files = await _receive(form, incoming)
            if not files:
                raise MissingFile("The form carries no file.")
            directory = await incoming.keep()
        described = [_described(part, directory / file.name, file) for part, file in files]
        return web.json_response({"status": "done", "path": described[0]["path"], "files": described})


async def _receive(form: Form, incoming: Incoming) -> list[tuple[Part, StoredFile]]:
    files = []
    async for part in form.parts:
        block = await anext(part.chunks, b"")
        if part.filename is None or not (part.filename or block):  # a field, or an input that nobody filled in
            async for _ in part.chunks:
                pass
            continue
        writer = incoming.file(part.filename or part.name)
        while block:
            await writer.write(block)
            block = await anext(part.chunks, b"")
        files.append((part, await writer.close()))
    return files


def _described(part: Part, path: Path, file: StoredFile) -> dict[str, str | int]:
    return {
        "field": part.name,
        "filename": part.filename or "",
        "path": str(path),
        "size": file.size,
        "sha256": file.sha256,
        "content_type": part.media_type or "application/octet-stream",
    }


@web.middleware
async def _identified(request: web.Request, handler: Handler) -> web.StreamResponse:
    identify(request.headers)
    response = await handler(request)
    response.headers[REQUEST_ID] = request_id.get()
    return response
