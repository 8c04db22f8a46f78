"""Parse a multipart body strictly into a Form (RFC 2046, section 5.1; RFC 7578).

A form that two parsers could read differently is refused with the reason. aiohttp's MultipartReader is not used: it
ignores data before the first and after the last boundary, accepts malformed forms, and does not provide the bytes of a
head, which are needed to compute the length of the upstream request.

Blocks are scanned for the boundary with ``bytes.find``. Only a tail that could be the beginning of a boundary line is
kept, so that nearly all blocks are passed on without a copy. A bare LF or CR also ends a line, because some parsers
accept it and would find parts that were not checked.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from aiorelay.errors import MalformedForm, TooLarge, TooManyParts, Truncated
from aiorelay.multipart.form import Form, Part
from aiorelay.multipart.part_head import read_boundary, read_head

__all__ = ["FormLimits", "read_form"]

_MAX_HEAD = 16 * 1024


@dataclass(frozen=True, slots=True)
class FormLimits:
    """The maximum number of parts, and the maximum size in bytes of all fields (parts without a file) together."""

    parts: int
    fields_size: int


def read_form(content_type: str, length: int | None, read: Callable[[], Awaitable[bytes]], limits: FormLimits) -> Form:
    """Parse a multipart/form-data body into a Form.

    ``content_type`` is that of the request, ``length`` its Content-Length in bytes or None. ``read`` returns the next
    block of the body, or ``b""`` at its end. Raises ``MalformedForm`` if the boundary is invalid. The form's iterators
    raise ``MalformedForm``, ``Truncated``, ``TooManyParts``, ``TooLarge`` and whatever ``read`` raises.
    """
    boundary = read_boundary(content_type)
    return Form(boundary, _Scanner(boundary, read, limits).parts(), length)


class _Scanner:
    """Scan a form's body once. ``_block[_at:]`` has been read but not yet used."""

    def __init__(self, boundary: bytes, read: Callable[[], Awaitable[bytes]], limits: FormLimits) -> None:
        self._delimiter = b"\r\n--" + boundary
        self._read = read
        self._limits = limits
        self._block = b""
        self._at = 0
        self._in_part = False
        self._preamble = b""
        self._fields_size = 0

    async def parts(self) -> AsyncGenerator[Part, None]:
        await self._expect_first_boundary()
        count = 0
        while await self._part_follows():
            count += 1
            if count > self._limits.parts:
                raise TooManyParts(f"The form has more than {self._limits.parts} parts.")
            part = await self._part()
            self._preamble = b""
            yield part
            if self._in_part:
                raise AssertionError(f"the part {part.name!r} was not read to its end")
        if self._at < len(self._block):
            raise MalformedForm("The form has bytes after its last boundary.")

    async def _part(self) -> Part:
        raw = await self._head()
        head = read_head(raw[:-4])
        self._in_part = True
        chunks = self._chunks()
        if head.filename is None:
            chunks = self._field(chunks)
        if head.size is not None:
            chunks = _of_size(chunks, head.size, head.name)
        return Part(
            name=head.name,
            filename=head.filename,
            media_type=head.media_type,
            size=head.size,
            chunks=chunks,
            headers=head.headers,
            head=self._preamble + raw,
            faithful=head.faithful,
        )

    async def _expect_first_boundary(self) -> None:
        opening = self._delimiter[2:]
        self._preamble = await self._skip_crlfs()
        while not self._block.startswith(opening, self._at):
            if not opening.startswith(self._block[self._at :]):
                raise MalformedForm("The form does not begin with its boundary.")
            await self._more()
        self._at += len(opening)

    async def _part_follows(self) -> bool:
        """Read the bytes after a boundary. Return true if another part follows, false after the closing boundary."""
        while len(self._block) - self._at < 2:
            await self._more()
        after = self._block[self._at : self._at + 2]
        self._at += 2
        if after == b"\r\n":
            return True
        if after != b"--":
            raise MalformedForm("A line begins with the boundary but is not a delimiter.")
        await self._skip_crlfs()
        return False

    async def _skip_crlfs(self) -> bytes:
        """Skip CRLFs up to other bytes or the end, and return them. Clients send up to two before and after a form."""
        skipped = 0
        while True:
            if len(rest := self._block[self._at : self._at + 2]) < 2:
                block = await self._read()
                if not block:
                    break
                self._block, self._at = rest + block, 0
            elif rest != b"\r\n" or skipped >= _MAX_HEAD:
                break
            else:
                self._at += 2
                skipped += 2
        return b"\r\n" * (skipped // 2)

    async def _head(self) -> bytes:
        """A part's head with the blank line that ends it."""
        self._at -= 2  # start at the CRLF of the boundary line, to find a blank line directly after it
        sought = self._at
        while (end := self._block.find(b"\r\n\r\n", sought)) < 0 and len(self._block) - self._at < _MAX_HEAD + 4:
            sought = max(0, len(self._block) - self._at - 3)
            await self._more()
        if end < 0 or end - self._at > _MAX_HEAD:
            raise MalformedForm(f"A part's head is longer than {_MAX_HEAD} bytes.")
        if end == self._at:
            raise MalformedForm("A part has no head.")
        head = self._block[self._at + 2 : end + 4]
        self._at = end + 4
        return head

    async def _chunks(self) -> AsyncGenerator[bytes, None]:
        """Yield the content up to the next boundary, and read that boundary."""
        delimiter = self._delimiter
        # Include the last CRLF of the head: for some parsers, a boundary directly after it ends the part.
        lead = 2
        self._at -= lead
        while True:
            block, at = self._block, self._at
            end = _find(delimiter, block, at)
            if lead and end == at:
                raise MalformedForm("A part's content begins with the boundary.")
            if end >= 0:
                self._at = end + len(delimiter)
                self._in_part = False
                if end > at + lead:
                    yield block[at + lead : end]
                return
            cut = len(block) - _possible_delimiter(delimiter, block, at)
            self._block, self._at = block[cut:], 0
            if cut > at:
                if cut > at + lead:
                    yield block[at + lead : cut]
                lead = 0
            await self._more()

    async def _field(self, chunks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
        async for chunk in chunks:
            self._fields_size += len(chunk)
            if self._fields_size > self._limits.fields_size:
                raise TooLarge(f"The form's fields together are larger than {self._limits.fields_size} bytes.")
            yield chunk

    async def _more(self) -> None:
        """Read another block and append it to the unused bytes."""
        block = await self._read()
        if not block:
            raise Truncated("The form ends before its closing boundary.")
        self._block = self._block[self._at :] + block if self._at < len(self._block) else block
        self._at = 0


async def _of_size(chunks: AsyncGenerator[bytes, None], size: int, name: str) -> AsyncGenerator[bytes, None]:
    """Yield the content of a part. Raise ``MalformedForm`` if its size differs from the part's Content-Length."""
    left = size
    async for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            break
        yield chunk
    if left:
        raise MalformedForm(f"The length of the part {name!r} differs from its Content-Length.")


def _find(delimiter: bytes, block: bytes, start: int) -> int:
    """Return the index of the first ``delimiter`` in ``block[start:]``, or -1.

    Raises ``MalformedForm`` if the boundary after a bare CR or LF precedes it: PHP and Werkzeug read that as a
    delimiter.
    """
    dashes = delimiter[2:]
    first = block.find(dashes, start)
    if first < 0:
        return -1
    line_end = max(start, first - 1)  # of the line that the first dashes may follow
    after_lf = block.find(b"\n" + dashes, line_end)
    after_cr = block.find(b"\r" + dashes, line_end, len(block) if after_lf < 0 else after_lf)
    if after_cr < 0 and after_lf < 0:
        return -1
    if after_cr >= 0 or after_lf == start or block[after_lf - 1 : after_lf] != b"\r":
        raise MalformedForm("A line that begins with the boundary comes after a bare CR or LF.")
    return after_lf - 1


def _possible_delimiter(delimiter: bytes, block: bytes, start: int) -> int:
    """Return how many bytes at the end of ``block[start:]`` could be the beginning of a boundary line."""
    tail = block[max(start, len(block) - len(delimiter) + 1) :]
    line_end = max(tail.rfind(b"\r"), tail.rfind(b"\n"))
    if line_end < 0 or not delimiter.startswith(tail[line_end + 1 :], 2):
        return 0
    if tail[: line_end + 1].endswith(b"\r\n"):
        line_end -= 1
    return len(tail) - line_end
