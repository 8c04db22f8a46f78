"""Build a Form from a request, by its Content-Type.

multipart/form-data ─ form ┐
application/json ─── json  ├─▶ Form
any other, by PUT ── raw   ┘
"""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, TypeAlias
from urllib.parse import unquote

from aiohttp import hdrs, web

from aiorelay.errors import TooLarge, WrongContentType
from aiorelay.http.request_body import RequestBody
from aiorelay.multipart.form import Form
from aiorelay.multipart.parser import FormLimits, read_form
from aiorelay.sources.ingest import Ingest, Sources, raw_form, read_ingest

__all__ = ["FORM", "JSON", "FormFactory", "FormReader", "content_type", "dispatch_on_content_type"]

FORM: Final = "multipart/form-data"
JSON: Final = "application/json"
_MAX_JSON = 1024 * 1024

FormFactory: TypeAlias = Callable[[web.Request, RequestBody], Awaitable[Form]]


class FormReader:
    """Makes forms; ``field`` is the one that files of JSON and raw bodies are sent in.

    Every method raises the ``Problem`` that the body is, if its beginning tells.
    """

    def __init__(self, sources: Sources, *, field: str, limits: FormLimits) -> None:
        self._sources = sources
        self._field = field
        self._limits = limits

    async def form(self, request: web.Request, body: RequestBody) -> Form:
        return read_form(request.headers[hdrs.CONTENT_TYPE], body.length, body.read, self._limits)

    async def json(self, _request: web.Request, body: RequestBody) -> Form:
        return await self._sources.form(await self.ingest(body), self._limits)

    async def ingest(self, body: RequestBody) -> Ingest:
        """Read what a JSON body asks for, without looking at its sources."""
        document = b""
        if (body.length or 0) > _MAX_JSON:  # told before the body is asked for
            raise TooLarge(f"The JSON is larger than {_MAX_JSON} bytes.")
        while block := await body.read():
            document += block
            if len(document) > _MAX_JSON:
                raise TooLarge(f"The JSON is larger than {_MAX_JSON} bytes.")
        return read_ingest(document, self._field)

    async def raw(self, request: web.Request, body: RequestBody) -> Form:
        return raw_form(
            body.read,
            body.length,
            field=self._field,
            filename=unquote(request.rel_url.raw_path.rpartition("/")[2], errors="replace"),
            media_type=request.headers.get(hdrs.CONTENT_TYPE),
        )


def dispatch_on_content_type(factories: Mapping[str, FormFactory]) -> FormFactory:
    """The maker that a request's Content-Type asks for; it raises ``WrongContentType`` if there is none."""

    async def make(request: web.Request, body: RequestBody) -> Form:
        factory = factories.get(content_type(request))
        if factory is None:
            raise WrongContentType(f"{request.path} takes one Content-Type: {' or '.join(factories)}.")
        return await factory(request, body)

    return make


def content_type(request: web.Request) -> str:
    """The one media type that a request has, in lower case; empty if it has none, or several."""
    given = request.headers.getall(hdrs.CONTENT_TYPE, [])
    return given[0].partition(";")[0].strip().lower() if len(given) == 1 else ""
