"""Detect uploads of one piece of a file: the checks would see only that piece."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Final
from urllib.parse import parse_qsl

from aiorelay.errors import PartialUpload
from aiorelay.multipart.form import Form, Part
from aiorelay.observability.logs import log
from aiorelay.rest1.resumable.draft_fields import parse_complete, parse_size

__all__ = ["is_piece", "refuse_piece", "warn_of_piece", "watch_fields"]

# Form fields or query parameters that uploaders send with each piece: the index of the piece, and the field with the
# number of pieces. Most also send them for a file in one piece.
_COUNT_BESIDE: Final = {
    "dzchunkindex": "dztotalchunkcount",  # Dropzone
    "resumableChunkNumber": "resumableTotalChunks",  # Resumable.js
    "flowChunkNumber": "flowTotalChunks",  # Flow.js
    "qqpartindex": "qqtotalparts",  # Fine Uploader
}
_LONGEST_COUNT = 20


def is_piece(headers: Mapping[str, str], query: str, *, resumable: bool = False) -> bool:
    """Whether the head of a request declares that its body is not a whole file.

    ``Content-Range`` in a request means a partial PUT (RFC 9110, section 14.5). ``Upload-Offset`` and ``Upload-Length``
    are sent by FilePond and by clients of resumable uploads. The latter send ``Upload-Complete: ?1`` if the body is the
    whole file. With ``resumable``, these fields are ignored.
    """
    if "Content-Range" in headers:
        return True
    if resumable:
        return _declares_several(dict(parse_qsl(query)))
    complete = parse_complete(headers.get("Upload-Complete"))
    if complete is not None:
        return not complete or bool(parse_size(headers.get("Upload-Offset")))
    return "Upload-Offset" in headers or "Upload-Length" in headers or _declares_several(dict(parse_qsl(query)))


async def watch_fields(form: Form, on_piece: Callable[[], None]) -> AsyncGenerator[Part, None]:
    """Yield the parts of a form. Call ``on_piece`` once, which may raise, if its fields declare a piece of a file."""
    values: dict[str, str] = {}
    is_reported = False

    def report() -> None:
        nonlocal is_reported
        if not is_reported:
            is_reported = True
            on_piece()

    async def record_value(name: str, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        value = b""
        async for chunk in chunks:
            value += chunk[: _LONGEST_COUNT - len(value)]
            yield chunk
        values[name] = value.decode(errors="replace")
        if name in _COUNT_BESIDE.values() and values[name] != "1":
            report()

    async with aclosing(form.parts) as parts:
        async for part in parts:
            if not part.is_file and (part.name in _COUNT_BESIDE or part.name in _COUNT_BESIDE.values()):
                part.chunks = record_value(part.name, part.chunks)
            yield part
    if _declares_several(values):
        report()


def refuse_piece(*, resumable: bool) -> None:
    """Raise ``PartialUpload``. ``resumable`` says that the relay accepts resumable uploads."""
    instead = (
        ", or as a resumable upload: tus at /files/, or Upload-Complete at /upload1 and /upload/" if resumable else ""
    )
    raise PartialUpload(
        "The upload is one piece of a file, but the checks need the whole file. "
        f"Send each file in one request (disable chunking in the uploader){instead}."
    )


def warn_of_piece() -> None:
    """Log that a piece of a file is accepted."""
    log.warning("accepted a piece of a file (allow-pieces); the checks see only the piece")


def _declares_several(fields: Mapping[str, str]) -> bool:
    return any(index in fields and fields.get(count) != "1" for index, count in _COUNT_BESIDE.items())
