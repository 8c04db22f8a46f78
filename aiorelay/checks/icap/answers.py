"""Parse the answers of an ICAP service incrementally (RFC 3507, section 4.3 and 4.4). Does no I/O.

    Head ─▶ Section, … ─▶ bytes of the body, … ─▶ End
     └ of 100 Continue: the next Head follows

An answer that is malformed or too long raises ``MalformedAnswer``. The limits are those of real services many times
over: a service lists each file of an archive in X-Violations-Found.
"""

import re
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Final, TypeAlias

from aiorelay.http.grammar import TOKEN, split_list

__all__ = ["MAX_HEAD", "MAX_LINE", "AnswerParser", "End", "Event", "Head", "MalformedAnswer", "Section"]

MAX_HEAD: Final = 64 * 1024
"""The longest head of an answer, in bytes; also the longest heads that it encapsulates, and the longest trailer."""

MAX_LINE: Final = 8 * 1024
"""The longest line of a head, in bytes."""

_MAX_CHUNK_LINE: Final = 1024
_MAX_INTERIM: Final = 8
_STATUS_LINE = re.compile(r"ICAP/1\.[0-9] ([1-5][0-9]{2})(?: ([\t -~\x80-\xff]*))?", re.ASCII)
_FIELD = re.compile(rf"({TOKEN}):[ \t]*(.*?)[ \t]*", re.DOTALL)
_ENCAPSULATED = re.compile(r"(req-hdr|res-hdr|req-body|res-body|opt-body|null-body)=([0-9]{1,7})", re.ASCII)
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[\t -~\x80-\xff]*)?")


class MalformedAnswer(ValueError):  # noqa: N818 - the field's term
    """An answer that is none by RFC 3507. The message says why, for the log."""


@dataclass(frozen=True, slots=True)
class Head:
    """The head of an answer.

    ``fields`` holds the value of each field by its lower-case name; lines of a folded value are separated by newlines,
    values of repeated fields by a comma. ``sections`` are the members of Encapsulated in order, the body included.
    """

    status: int
    reason: str
    fields: dict[str, str]
    sections: tuple[tuple[str, int], ...] = ()

    @property
    def body(self) -> str | None:
        """The name of the body in Encapsulated, or None if the answer has none."""
        name = self.sections[-1][0] if self.sections else "null-body"
        return None if name == "null-body" else name

    @property
    def keeps_connection(self) -> bool:
        """Whether the service keeps the connection open after the answer."""
        return "close" not in {option.lower() for option in split_list(self.fields.get("connection", ""))}


@dataclass(frozen=True, slots=True)
class Section:
    """An encapsulated HTTP head (``req-hdr`` or ``res-hdr``), as sent."""

    name: str
    content: bytes


@dataclass(frozen=True, slots=True)
class End:
    """The end of an answer."""


Event: TypeAlias = Head | Section | bytes | End


class AnswerParser:
    """Parses one answer, with the interim ones before it. After ``End``, ``surplus`` is what follows it."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._steps = self._parse()
        self._ended = False

    @property
    def surplus(self) -> bytes:
        """The bytes after the end, without empty lines, which some services append."""
        return bytes(self._buffer).strip(b"\r\n") if self._ended else b""

    def receive(self, data: bytes) -> list[Event]:
        """Take the next bytes. Return the events that they complete. Raises ``MalformedAnswer``."""
        self._buffer += data
        events: list[Event] = []
        while not self._ended and (event := next(self._steps)) is not None:
            events.append(event)
            self._ended = isinstance(event, End)
        return events

    def _parse(self) -> Iterator[Event | None]:
        """Yield each event, and None when more bytes are needed."""
        for _ in range(_MAX_INTERIM):
            raw = yield from self._block("head", skip_empty_lines=True)
            head = _head(raw)
            yield head
            if head.status >= 200:
                break
        else:
            raise MalformedAnswer("it sent interim answers without end")
        for (name, start), (_, end) in pairwise(head.sections):
            while len(self._buffer) < end - start:
                yield None
            yield Section(name, self._take(end - start))
        if head.body is not None:
            yield from self._chunks()
        yield End()

    def _block(self, what: str, *, skip_empty_lines: bool = False) -> Generator[None, None, bytes]:
        """Wait for lines that end with an empty one, and return them."""
        while True:
            if skip_empty_lines:
                del self._buffer[: len(self._buffer) - len(self._buffer.lstrip(b"\r\n"))]
            if self._buffer.startswith(b"\r\n"):  # a trailer without fields
                return self._take(2)
            end = self._buffer.find(b"\r\n\r\n")
            if end > MAX_HEAD or (end < 0 and len(self._buffer) > MAX_HEAD):
                raise MalformedAnswer(f"its {what} is longer than {MAX_HEAD} bytes")
            if end >= 0:
                return self._take(end + 4)
            yield None

    def _chunks(self) -> Iterator[Event | None]:
        while True:
            while (end := self._buffer.find(b"\r\n", 0, _MAX_CHUNK_LINE + 2)) < 0:
                if len(self._buffer) > _MAX_CHUNK_LINE:
                    raise MalformedAnswer("it sent a chunk without a size")
                yield None
            line = self._take(end + 2)[:-2]
            size = _CHUNK_SIZE.fullmatch(line)
            if size is None:
                raise MalformedAnswer("it sent a chunk without a size")
            left = int(size[1], 16)
            if left == 0:
                break
            while left:
                if not self._buffer:
                    yield None
                    continue
                data = self._take(min(left, len(self._buffer)))
                left -= len(data)
                yield data
            while len(self._buffer) < 2:
                yield None
            if self._take(2) != b"\r\n":
                raise MalformedAnswer("it sent a chunk of another length than announced")
        yield from self._block("trailer")

    def _take(self, size: int) -> bytes:
        taken = bytes(self._buffer[:size])
        del self._buffer[:size]
        return taken


def _head(raw: bytes) -> Head:
    lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
    if any(len(line) > MAX_LINE for line in lines):
        raise MalformedAnswer(f"a line of its head is longer than {MAX_LINE} bytes")
    if any(set(line) & {"\r", "\n", "\0"} for line in lines):
        raise MalformedAnswer("its head has control characters")
    found = _STATUS_LINE.fullmatch(lines[0])
    if found is None:
        raise MalformedAnswer(f"it answered {lines[0][:80]!r}")
    fields: dict[str, str] = {}
    for line in _unfolded(lines[1:]):
        field = _FIELD.fullmatch(line)
        if field is None:
            raise MalformedAnswer(f"it sent the line {line[:80]!r}")
        name, value = field[1].lower(), field[2]
        if name == "encapsulated" and name in fields:
            raise MalformedAnswer("it sent Encapsulated twice")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return Head(int(found[1]), found[2] or "", fields, _sections(fields.get("encapsulated")))


def _unfolded(lines: list[str]) -> Iterator[str]:
    """Join each line with the lines that continue it (RFC 2616, section 2.2), with newlines between them."""
    joined: str | None = None
    for line in lines:
        if line.startswith((" ", "\t")):
            if joined is None:
                raise MalformedAnswer("its first field begins with a space")
            joined += "\n" + line.strip(" \t")
            continue
        if joined is not None:
            yield joined
        joined = line
    if joined is not None:
        yield joined


def _sections(encapsulated: str | None) -> tuple[tuple[str, int], ...]:
    """Return the members of Encapsulated (RFC 3507, section 4.4.1): heads in order from offset 0, then one body."""
    if encapsulated is None:
        return ()
    found = [_ENCAPSULATED.fullmatch(member) for member in split_list(encapsulated)]
    sections = tuple((each[1], int(each[2])) for each in found if each)
    names, offsets = [name for name, _ in sections], [offset for _, offset in sections]
    well_formed = (
        sections
        and None not in found
        and all(name.endswith("-hdr") for name in names[:-1])
        and names[-1].endswith("-body")
        and offsets[0] == 0
        and all(start < end for start, end in pairwise(offsets))
        and len(set(names)) == len(names)
    )
    if not well_formed:
        raise MalformedAnswer(f"it sent Encapsulated: {encapsulated[:80]!r}")
    if offsets[-1] > MAX_HEAD:
        raise MalformedAnswer(f"the heads that it encapsulates are longer than {MAX_HEAD} bytes")
    return sections
