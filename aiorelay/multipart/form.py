"""Form and Part: a form is parts in order, a part is a named stream of bytes that is read once.

    request ─▶ Form ─▶ checked Form ─▶ one upstream request

Back-pressure is the iterator: nothing here buffers, and a refusal is an exception raised out of it.
"""

from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass

__all__ = ["FileInfo", "Form", "Part"]


@dataclass(slots=True)
class Part:
    """One part of a form (RFC 7578, section 4).

    ``filename`` is None for a plain field. ``size`` is the exact length in bytes where it is known before
    the bytes are. ``chunks`` yields non-empty blocks and is read once, to its end, before the next part is
    asked for; it raises a ``Problem`` where the bytes turn out not to be what was promised.

    ``headers`` are the part's other head lines, in order. ``head`` is the head as it was received, blank
    line included, and before it the CRLFs that preceded the form's first boundary; it is None for a part that was
    never in a form. ``faithful`` says that those bytes, sent on
    as they are, read just as the other members say.
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
        """Whether this part is a file input, if only an empty one."""
        return self.filename is not None


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What is known of a file before its bytes: the members of its part, without the stream.

    ``size`` is None where the length is not known before the end.
    """

    name: str
    filename: str
    media_type: str | None
    size: int | None


@dataclass(slots=True)
class Form:
    """Parts in order, as they will be framed.

    ``boundary`` separates them (RFC 2046, section 5.1.1, without the leading dashes). ``length`` is the
    exact length in bytes of the whole body, as received (or, for parts that were never in a form, as
    framed canonically), or None where it is not known. Closing ``parts`` lets go of whatever is behind them.
    """

    boundary: bytes
    parts: AsyncGenerator[Part, None]
    length: int | None
