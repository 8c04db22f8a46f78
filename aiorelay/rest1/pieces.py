"""Detect uploads that are one piece of a file: checks would judge the piece, not the file."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import aclosing
from typing import Final
from urllib.parse import parse_qsl

from aiorelay.errors import PartialUpload
from aiorelay.multipart.form import Form, Part
from aiorelay.observability.logs import log

__all__ = ["is_piece", "refuse_piece", "warn_of_piece", "watch_fields"]

# Form fields or query parameters that uploaders send with each piece: the piece's index, and the field with the number
# of pieces. Most send them with a file in one piece too.
_COUNT_BESIDE: Final = {
    "dzchunkindex": "dztotalchunkcount",  # Dropzone
    "resumableChunkNumber": "resumableTotalChunks",  # Resumable.js
    "flowChunkNumber": "flowTotalChunks",  # Flow.js
    "qqpartindex": "qqtotalparts",  # Fine Uploader
}
_LONGEST_COUNT = 20


def is_piece(headers: Mapping[str, str], query: str, *, resumable: bool = False) -> bool:
    """Whether a request says in its head that its body is not the whole file.

    ``Content-Range`` is for answers, and never means a whole file in a request (RFC 9110, section 14.5);
    ``Upload-Offset`` and ``Upload-Length`` come from FilePond and from clients of resumable uploads, which say
    ``Upload-Complete: ?1`` where the body is the whole file.
    """
    if "Content-Range" in headers:
        return True
    if resumable:
        return _tells_of_pieces(dict(parse_qsl(query)))
    complete = headers.get("Upload-Complete")
    if complete is not None:
        return complete.strip() != "?1" or headers.get("Upload-Offset", "0").strip() != "0"
    return "Upload-Offset" in headers or "Upload-Length" in headers or _tells_of_pieces(dict(parse_qsl(query)))


async def watch_fields(form: Form, on_piece: Callable[[], None]) -> AsyncGenerator[Part, None]:
    """Pass a form's parts on; call ``on_piece``, which may raise, once its fields tell that its file is a piece."""
    told: dict[str, str] = {}
    is_told = False

    def tell() -> None:
        nonlocal is_told
        if not is_told:
            is_told = True
            on_piece()

    async def noting(name: str, chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        value = b""
        async for chunk in chunks:
            value += chunk[: _LONGEST_COUNT - len(value)]
            yield chunk
        told[name] = value.decode(errors="replace")
        if name in _COUNT_BESIDE.values() and told[name] != "1":
            tell()

    async with aclosing(form.parts) as parts:
        async for part in parts:
            if not part.is_file and (part.name in _COUNT_BESIDE or part.name in _COUNT_BESIDE.values()):
                part.chunks = noting(part.name, part.chunks)
            yield part
    if _tells_of_pieces(told):
        tell()


def refuse_piece() -> None:
    """Raise ``PartialUpload``."""
    raise PartialUpload(
        "This is one piece of a file, and checks must see the whole: send each file in one request "
        "(switch chunking off in the uploader)."
    )


def warn_of_piece() -> None:
    """Log that a piece is let through."""
    log.warning("a piece of a file is let through (allow-pieces): the checks see the piece alone")


def _tells_of_pieces(fields: Mapping[str, str]) -> bool:
    return any(index in fields and fields.get(count) != "1" for index, count in _COUNT_BESIDE.items())
