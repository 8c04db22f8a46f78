"""Detect uploads of one piece of a file: the checks would see only that piece."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final
from urllib.parse import parse_qsl

from aiorelay.checks.pipeline import Check
from aiorelay.errors import PartialUpload
from aiorelay.multipart.form import Part
from aiorelay.observability.logs import log
from aiorelay.rest1.resumable.draft_fields import parse_complete, parse_size

__all__ = ["PieceFields", "is_piece", "refuse_piece", "warn_of_piece"]

# Form fields or query parameters that uploaders send with each piece: the index of the piece, and the field with the
# number of pieces. Most also send them for a file in one piece.
_COUNT_BESIDE: Final = {
    "dzchunkindex": "dztotalchunkcount",  # Dropzone
    "resumableChunkNumber": "resumableTotalChunks",  # Resumable.js
    "flowChunkNumber": "flowTotalChunks",  # Flow.js
    "qqpartindex": "qqtotalparts",  # Fine Uploader
}
_COUNTS: Final = frozenset(_COUNT_BESIDE.values())
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
        return _query_declares_several(query)
    complete = parse_complete(headers.get("Upload-Complete"))
    if complete is not None:
        return not complete or bool(parse_size(headers.get("Upload-Offset")))
    return "Upload-Offset" in headers or "Upload-Length" in headers or _query_declares_several(query)


class PieceFields:
    """A ``CheckFactory`` that reads the fields of one form, and calls ``on_piece`` once if they declare a piece.

    ``on_piece`` may raise. ``form_ended`` is to be called when all parts have ended.
    """

    def __init__(self, on_piece: Callable[[], None]) -> None:
        self._on_piece = on_piece
        self._values: dict[str, str] = {}
        self._is_reported = False

    def __call__(self, part: Part) -> Check | None:
        if part.is_file or (part.name not in _COUNT_BESIDE and part.name not in _COUNTS):
            return None
        return _ValueReader(partial(self._note, part.name))

    def form_ended(self) -> None:
        if self._values and _declares_several(self._values):
            self._report()

    def _note(self, name: str, value: str) -> None:
        self._values[name] = value
        if name in _COUNTS and value != "1":
            self._report()

    def _report(self) -> None:
        if not self._is_reported:
            self._is_reported = True
            self._on_piece()


class _ValueReader:
    """A check that calls ``note`` with the value of a field, of which it reads only the beginning."""

    def __init__(self, note: Callable[[str], None]) -> None:
        self._note = note
        self._value = b""

    async def feed(self, chunk: bytes) -> None:
        self._value += chunk[: _LONGEST_COUNT - len(self._value)]

    async def finish(self) -> None:
        self._note(self._value.decode(errors="replace"))

    async def close(self) -> None:
        """Do nothing: there are no resources to release."""


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


def _query_declares_several(query: str) -> bool:
    return query != "" and _declares_several(dict(parse_qsl(query)))


def _declares_several(fields: Mapping[str, str]) -> bool:
    return any(index in fields and fields.get(count) != "1" for index, count in _COUNT_BESIDE.items())
