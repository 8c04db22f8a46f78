"""Form and Part: a form is a sequence of parts, a part is a named stream of bytes that is read once.

    request ─▶ Form ─▶ checked Form ─▶ one upstream request

The iterators provide back-pressure: nothing is buffered. A refusal is an exception raised by an iterator.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

__all__ = ["FileInfo", "Form", "Part"]


@dataclass(slots=True)
class Part:
    """One part of a form (RFC 7578, section 4).

    ``filename`` is None for a plain field. ``size`` is the exact length in bytes, or None if it is not known in
    advance. ``chunks`` yields non-empty blocks. It is read once, to its end, before the next part is requested. It
    raises a ``Problem`` if the content differs from what was declared.

    ``headers`` are the other header fields of the part, in order. ``head`` is the head as received, including the
    blank line and, for the first part, the CRLFs before the form's first boundary. It is None for a part that was not
    received in a form. ``faithful`` is true if ``head`` can be sent unchanged without changing the meaning of the part.
    """

    name: str
    filename: str | None
    media_type: str | None
    size: int | None
    chunks: AsyncIterator[bytes]
    headers: tuple[tuple[str, str], ...] = ()
    head: bytes | None = None
    faithful: bool = True

    @property
    def is_file(self) -> bool:
        """Whether this part is a file input. An empty one counts."""
        return self.filename is not None


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What is known of a file before its content: the members of its part, without the stream.

    ``size`` is None if the length is not known in advance.
    """

    name: str
    filename: str
    media_type: str | None
    size: int | None


@dataclass(slots=True)
class Form:
    """A form: its parts in order, its boundary and its length.

    ``boundary`` separates the parts (RFC 2046, section 5.1.1, without the leading dashes). ``length`` is the exact
    length of the body in bytes, or None if it is not known: the length as received or, if the parts were not received
    in a form, the length when framed canonically. Closing ``parts`` releases the resources of all parts.
    """

    boundary: bytes
    parts: AsyncGenerator[Part, None]
    length: int | None
