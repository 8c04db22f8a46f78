"""Make the form of one file: a stream for unknown lengths, or bytes that can be sent from any offset."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from aiorelay.cli.send.files import OpenedFile
from aiorelay.files.local import LocalFile
from aiorelay.multipart.form import Form, Part
from aiorelay.multipart.framing import FramedBody, canonical_length, frame

__all__ = ["FormFields", "SeekableForm", "call_at_end", "form_of", "once"]


@dataclass(frozen=True, slots=True)
class FormFields:
    """The form field of the file, and the names and values of the fields before it."""

    file: str
    others: tuple[tuple[str, str], ...] = ()

    def parts(self) -> list[Part]:
        """Return the parts before that of the file."""
        encoded = [(name, value.encode("utf-8", "surrogateescape")) for name, value in self.others]
        return [Part(name, None, None, len(value), once(value)) for name, value in encoded]


def form_of(boundary: bytes, fields: FormFields, file: OpenedFile) -> Form:
    """Return the form of ``file``, which can be read once."""
    return _form(boundary, [*fields.parts(), Part(fields.file, file.filename, file.media_type, file.size, file.chunks)])


class SeekableForm:
    """A form of one local file, of ``length`` bytes. The same ``boundary`` makes the same bytes."""

    def __init__(self, boundary: bytes, opening: bytes, file: LocalFile) -> None:
        self.boundary = boundary
        self._opening = opening
        self._closing = _closing(boundary)
        self._file = file
        self.length = len(opening) + file.size + len(self._closing)

    @classmethod
    async def of(cls, boundary: bytes, fields: FormFields, file: OpenedFile, local: LocalFile) -> "SeekableForm":
        """Return the form of ``file``, whose content is that of ``local``."""
        empty = Part(fields.file, file.filename, file.media_type, 0, once(b""))
        framed = await frame(_form(boundary, [*fields.parts(), empty]))
        whole = b"".join([block async for block in framed.blocks])
        return cls(boundary, whole.removesuffix(_closing(boundary)), local)

    def framed(self, offset: int) -> FramedBody:
        """Return the bytes from ``offset`` to the end. They raise a ``Problem`` if the file was changed."""
        return FramedBody(self.boundary, self.length - offset, self._blocks(offset))

    async def _blocks(self, offset: int) -> AsyncGenerator[bytes, None]:
        if offset < len(self._opening):
            yield self._opening[offset:]
        start = min(max(offset - len(self._opening), 0), self._file.size)
        async with aclosing(self._file.chunks_from(start)) as chunks:
            async for chunk in chunks:
                yield chunk
        yield self._closing[max(offset - len(self._opening) - self._file.size, 0) :]


async def once(block: bytes) -> AsyncGenerator[bytes, None]:
    """Yield one block, unless it is empty."""
    if block:
        yield block


async def call_at_end(blocks: AsyncGenerator[bytes, None], ended: Callable[[], object]) -> AsyncGenerator[bytes, None]:
    """Yield ``blocks``, and call ``ended`` after the last one was taken."""
    async with aclosing(blocks):
        async for block in blocks:
            yield block
    ended()


def _form(boundary: bytes, parts: Sequence[Part]) -> Form:
    async def in_order() -> AsyncGenerator[Part, None]:
        for part in parts:
            yield part

    return Form(boundary, in_order(), canonical_length(boundary, parts))


def _closing(boundary: bytes) -> bytes:
    return b"\r\n--" + boundary + b"--\r\n"
