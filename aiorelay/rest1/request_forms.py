"""Build a Form from a request, by its Content-Type.

multipart/form-data ─ form ┐
application/json ─── json  ├─▶ Form
any other, by PUT ── raw   ┘
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, NamedTuple, TypeAlias

from aiorelay.errors import TooLarge, TooManyParts, WrongContentType
from aiorelay.multipart.form import Form
from aiorelay.multipart.parser import FormLimits, read_form
from aiorelay.rest1.upload_request import UploadRequest
from aiorelay.sources.ingest import Ingest, Sources, raw_form, read_ingest

__all__ = ["Body", "FormFactory", "FormReader", "dispatch_on_content_type"]

_MAX_JSON: Final = 1024 * 1024


class Body(NamedTuple):
    """The bytes of one representation: their length, where it is known, and ``read``.

    ``read`` gives the next block, or ``b""`` at the end.
    """

    length: int | None
    read: Callable[[], Awaitable[bytes]]


FormFactory: TypeAlias = Callable[[UploadRequest, Body], Awaitable[Form]]


class FormReader:
    """Makes forms within ``limits``; ``field`` is the one that files of JSON and raw bodies are sent in.

    Every method raises the ``Problem`` that the beginning of the body shows.
    """

    def __init__(self, sources: Sources, *, field: str, limits: FormLimits) -> None:
        self.field = field
        self._sources = sources
        self._limits = limits

    async def form(self, asked: UploadRequest, body: Body) -> Form:
        return read_form(asked.content_type or "", body.length, body.read, self._limits)

    async def json(self, _asked: UploadRequest, body: Body) -> Form:
        return await self.ingested(await self.ingest(body))

    async def ingested(self, ingest: Ingest, *, on_total: Callable[[int], object] = lambda _total: None) -> Form:
        """Make the form that ``ingest`` describes; ``on_total`` is told the bytes of all files once they are known."""
        return await self._sources.form(ingest, self._limits, on_total=on_total)

    async def judge(self, ingest: Ingest) -> None:
        """Raise what can be said against ``ingest`` without the network."""
        await self._sources.judge(ingest, self._limits)

    async def ingest(self, body: Body) -> Ingest:
        """Read what a JSON body asks for, without looking at its sources."""
        document = b""
        if (body.length or 0) > _MAX_JSON:  # before 100 (Continue) asks for the body
            raise TooLarge(f"The JSON is larger than {_MAX_JSON} bytes.")
        while block := await body.read():
            document += block
            if len(document) > _MAX_JSON:
                raise TooLarge(f"The JSON is larger than {_MAX_JSON} bytes.")
        return read_ingest(document, self.field)

    async def raw(self, asked: UploadRequest, body: Body, fields: Sequence[tuple[str, str]] = ()) -> Form:
        """Make a form of one file; ``fields`` go before it."""
        if len(fields) >= self._limits.parts:
            raise TooManyParts(f"The upload has more than {self._limits.parts} fields and files.")
        return raw_form(
            body.read,
            body.length,
            field=self.field,
            filename=asked.filename,
            media_type=asked.content_type,
            fields=fields,
        )


def dispatch_on_content_type(factories: Mapping[str, FormFactory]) -> FormFactory:
    """The maker that a request's Content-Type asks for; it raises ``WrongContentType`` if there is none."""

    async def make(asked: UploadRequest, body: Body) -> Form:
        factory = factories.get(asked.media_type)
        if factory is None:
            raise WrongContentType(f"{asked.endpoint} takes one Content-Type: {' or '.join(factories)}.")
        return await factory(asked, body)

    return make
