"""Write a Form as one multipart body: its exact length first, its closing boundary last.

    opening (fields, the first file's head) │ bytes, later heads │ CRLF--boundary--
    read before the first byte goes out     │ as they come       │ only once every part has ended well

The length is arithmetic, not luck: what the client declared, plus what the heads read so far grew or
shrank by. A head that comes after the promise is sent in as many bytes as it was received in. And the last
bytes of the promise, as many as the closing boundary takes, are never filled with anything else: else a
client that leaves its closing boundary out would complete the upstream's request for us.
"""

from collections.abc import AsyncGenerator, Iterable
from dataclasses import dataclass

from aiorelay.errors import MalformedForm, Truncated
from aiorelay.multipart.form import Form, Part
from aiorelay.multipart.part_head import pad, write_head

__all__ = ["FramedBody", "canonical_length", "frame"]

# Blocks smaller than this wait for the next one: a small upload leaves in a single write.
_COALESCE = 32 * 1024


@dataclass(frozen=True, slots=True)
class FramedBody:
    """A body ready to be sent.

    ``length`` is its exact length in bytes, or None where it is not known. ``blocks`` yields the body and
    raises, before the first byte of the closing boundary, whatever its parts raise. ``unchanged`` says that the
    body is, as far as can be known before it is read, the very bytes that were received.
    """

    boundary: bytes
    length: int | None
    blocks: AsyncGenerator[bytes, None]
    unchanged: bool = False


def canonical_length(boundary: bytes, parts: Iterable[Part]) -> int | None:
    """The length of the body that ``frame`` makes of parts which were never in a form; None if one is unknown."""
    total = len(_closing(boundary))  # with a final CRLF, less the one that does not go before the first delimiter
    for part in parts:
        if part.size is None:
            return None
        total += len(_delimiter(boundary)) + len(write_head(part)) + part.size
    return total


async def frame(form: Form) -> FramedBody:
    """Read a form up to its first file and promise the length of its whole body.

    The fields before that file are held in memory: whoever made the form has bounded them. Raises what the
    form's iterators raise.
    """
    opening: list[bytes] = []
    growth = 0
    unchanged = form.length is not None  # else later heads are written anew, whatever they are
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


async def _blocks(
    boundary: bytes, length: int | None, waiting: list[bytes], part: Part | None, parts: AsyncGenerator[Part, None]
) -> AsyncGenerator[bytes, None]:
    promise = _Promise(length, len(_closing(boundary)))
    size = promise.take(sum(map(len, waiting)))
    while part is not None:
        async for chunk in part.chunks:
            waiting.append(chunk)
            size += promise.take(len(chunk))
            if size >= _COALESCE:
                yield waiting[0] if len(waiting) == 1 else b"".join(waiting)
                waiting, size = [], 0
        part = await anext(parts, None)
        if part is not None:
            head = write_head(part) if length is None else _head_of_same_length(part)
            waiting += (_delimiter(boundary), head)
            size += promise.take(len(head) + len(_delimiter(boundary)))
    waiting.append(_closing(boundary) + promise.epilogue())
    yield b"".join(waiting)


class _Promise:
    """What is left of the promised length, without the bytes that belong to the closing boundary."""

    def __init__(self, length: int | None, closing: int) -> None:
        self._left = None if length is None else length - closing

    def take(self, size: int) -> int:
        if self._left is not None:
            self._left -= size
            if self._left < 0:
                raise Truncated("The form ends before its closing boundary.")
        return size

    def epilogue(self) -> bytes:
        """The CRLFs after the closing boundary: as many as the client sent, for they were promised, or else one."""
        if self._left is None:
            return b"\r\n"
        if self._left % 2:
            raise AssertionError(f"{self._left} bytes of the promised length are not accounted for")
        return b"\r\n" * (self._left // 2)


def _head_of_same_length(part: Part) -> bytes:
    """The head of a part whose length is promised already."""
    if part.head is None:
        return write_head(part)  # never in a form: its canonical head is what was promised
    if part.faithful:
        return part.head
    padded = pad(write_head(part), len(part.head))
    if padded is None:
        raise MalformedForm(
            f"The head of {part.name!r} cannot be rewritten without changing the promised length; "
            "send its file first, or the form without a Content-Length."
        )
    return padded


def _delimiter(boundary: bytes) -> bytes:
    return b"\r\n--" + boundary + b"\r\n"


def _closing(boundary: bytes) -> bytes:
    return b"\r\n--" + boundary + b"--"
