"""Write a Form as one multipart body: its exact length is known first, its closing boundary is sent last.

    opening (fields, the first file's head) │ content, later heads │ CRLF--boundary--
    read before the first byte is sent      │ as received          │ only after all parts have ended without error

The length is computed: the client's Content-Length, plus the change in size of the heads up to the first file. A later
head is sent with the size in which it was received. The last bytes of the length are reserved for the closing boundary.
Without this, a client that omits its closing boundary could complete the request to the upstream.
"""

from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass

from aiorelay.errors import MalformedForm, Truncated
from aiorelay.multipart.form import Form, Part
from aiorelay.multipart.part_head import pad, write_head

__all__ = ["FramedBody", "canonical_length", "frame", "frame_raw"]

# Bytes. Smaller blocks are joined, so that a small upload is sent in a single write.
_COALESCE = 32 * 1024


@dataclass(slots=True)
class FramedBody:
    """A body ready to be sent.

    ``length`` is its exact length in bytes, or None if it is not known. ``blocks`` yields the body. Exceptions of the
    parts are raised before the first byte of the closing boundary. ``unchanged`` is true if the body is expected to be
    identical to the received one. ``boundary`` is empty for a raw body.
    """

    boundary: bytes
    length: int | None
    blocks: AsyncGenerator[bytes, None]
    unchanged: bool = False


def canonical_length(boundary: bytes, parts: Iterable[Part]) -> int | None:
    """Return the framed length of parts that were not received in a form, or None if a size is unknown."""
    total = len(_closing(boundary))  # plus a final CRLF, minus the CRLF that the first delimiter lacks
    for part in parts:
        if part.size is None:
            return None
        total += len(_delimiter(boundary)) + len(write_head(part)) + part.size
    return total


async def frame(form: Form) -> FramedBody:
    """Read a form up to its first file and compute the length of the whole body.

    The fields before that file are held in memory; the parser has limited their size. Raises what the form's iterators
    raise.
    """
    opening: list[bytes] = []
    growth = 0
    unchanged = form.length is not None  # if the length is not known, later heads are rewritten
    first_file: Part | None = None
    async for part in form.parts:
        head = write_head(part)
        growth += 0 if part.head is None else len(head) - len(part.head)
        unchanged = unchanged and head == part.head
        opening += (_delimiter(form.boundary) if opening else _delimiter(form.boundary)[2:], head)
        if part.is_file:
            first_file = part
            break
        opening += [chunk async for chunk in part.chunks]
    length = None if form.length is None else form.length + growth
    blocks = _blocks(form.boundary, length, opening, first_file, form.parts)
    return FramedBody(form.boundary, length, blocks, unchanged)


async def frame_raw(form: Form) -> FramedBody:
    """Return the content of a form of one file as a body of its own.

    Its last block is held back until the file has ended without error, as the closing boundary of a form is.
    """
    part = await anext(form.parts)
    return FramedBody(b"", part.size, _end_held_back(part, form.parts), unchanged=True)


async def _end_held_back(part: Part, parts: AsyncGenerator[Part, None]) -> AsyncGenerator[bytes, None]:
    held = b""
    async for chunk in part.chunks:
        if held:
            yield held
        held = chunk
    await anext(parts, None)  # raises what can only be known at the end of the form
    if held:
        yield held


async def _blocks(
    boundary: bytes, length: int | None, waiting: list[bytes], part: Part | None, parts: AsyncGenerator[Part, None]
) -> AsyncGenerator[bytes, None]:
    remaining = _Remaining(length, len(_closing(boundary)))
    size = remaining.take(sum(map(len, waiting)))
    while part is not None:
        async for chunk in part.chunks:
            waiting.append(chunk)
            size += remaining.take(len(chunk))
            if size >= _COALESCE:
                yield waiting[0] if len(waiting) == 1 else b"".join(waiting)
                waiting, size = [], 0
        part = await anext(parts, None)
        if part is not None:
            head = write_head(part) if length is None else _head_of_same_length(part)
            waiting += (_delimiter(boundary), head)
            size += remaining.take(len(head) + len(_delimiter(boundary)))
    waiting.append(_closing(boundary) + remaining.epilogue())
    yield b"".join(waiting)


class _Remaining:
    """The remaining bytes of the declared length, without those of the closing boundary."""

    def __init__(self, length: int | None, closing: int) -> None:
        self._left = None if length is None else length - closing

    def take(self, size: int) -> int:
        if self._left is not None:
            self._left -= size
            if self._left < 0:
                raise Truncated("The form ends before its closing boundary.")
        return size

    def epilogue(self) -> bytes:
        """Return the CRLFs after the closing boundary: those that the length includes, or one if it is unknown."""
        if self._left is None:
            return b"\r\n"
        if self._left % 2:
            raise AssertionError(f"{self._left} bytes of the declared length were not sent")
        return b"\r\n" * (self._left // 2)


def _head_of_same_length(part: Part) -> bytes:
    """Return the head of a part with the size that the declared length includes."""
    if part.head is None:
        return write_head(part)  # not received in a form: the length includes the canonical head
    if part.faithful:
        return part.head
    padded = pad(write_head(part), len(part.head))
    if padded is None:
        raise MalformedForm(
            f"The head of {part.name!r} cannot be rewritten without changing the declared length. "
            "Send its file first, or send the form without a Content-Length."
        )
    return padded


def _delimiter(boundary: bytes) -> bytes:
    return b"\r\n--" + boundary + b"\r\n"


def _closing(boundary: bytes) -> bytes:
    return b"\r\n--" + boundary + b"--"
