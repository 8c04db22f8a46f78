"""The test uploads: small, harmless forms with recognisable file names, framed as the relay frames them."""

import mimetypes
import secrets
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from dataclasses import field as dataclass_field

from aiorelay.multipart.form import Part
from aiorelay.multipart.part_head import write_head

__all__ = ["EXTRA_FIELD", "FILENAMES", "ProbeUpload"]

EXTRA_FIELD = "aiorelay-probe"

# Kinds of special characters in file names: the text between the recognisable part and the extension.
FILENAMES = {"plain": "", "spaces": " two words", "utf-8": "-é-日本", "quotes": '-"quoted"', "semicolons": ";v=1"}

_CONTENT = b"Sent by `aiorelay probe` to learn what this upload API accepts. It can be deleted.\n" * 40


@dataclass(frozen=True, slots=True)
class ProbeUpload:
    """A form with a small file in ``field`` and optionally another field before or after it.

    The file's name is ``mark``, which is unique, then ``special`` and ``ending``. ``fields`` are fields that the API
    requires, sent before the file. ``content`` replaces the default content, which contains the name. No API should
    accept an upload with ``has_file`` false. The boundary must not occur in the content: some servers split at the
    bare boundary, without its dashes and line break.
    """

    field: str
    mark: str
    special: str = ""
    extra_before: bool = False
    extra_after: bool = False
    ending: str = ".txt"
    fields: tuple[tuple[str, str], ...] = ()
    content: bytes | None = None
    has_file: bool = True
    boundary: str = dataclass_field(default_factory=lambda: secrets.token_hex(16))

    @property
    def filename(self) -> str:
        return f"{self.mark}{self.special}{self.ending}"

    @property
    def spellings(self) -> tuple[str, str]:
        """The file's name, plain and as encoded by the HTML standard ("multipart/form-data encoding algorithm")."""
        return self.filename, self.filename.replace('"', "%22")

    @property
    def extra_value(self) -> str:
        return f"value-{self.mark}"

    @property
    def content_type(self) -> str:
        return f"multipart/form-data; boundary={self.boundary}"

    @property
    def body(self) -> bytes:
        """The complete form."""
        return (self._delimited + self._closing)[2:]

    @property
    def unfinished(self) -> bytes:
        """The form without its closing boundary: the most that the relay sends of an upload that it aborts."""
        return self._delimited[2:]

    @property
    def _delimited(self) -> bytes:
        return self._delimiter.join((b"", *self._parts()))

    @property
    def _delimiter(self) -> bytes:
        return b"\r\n--" + self.boundary.encode() + b"\r\n"

    @property
    def _closing(self) -> bytes:
        return b"\r\n--" + self.boundary.encode() + b"--\r\n"

    def _parts(self) -> list[bytes]:
        extra = _part(EXTRA_FIELD, None, None, self.extra_value.encode())
        wanted = [_part(name, None, None, value.encode()) for name, value in self.fields]
        content = f"{self.filename}\n".encode() + _CONTENT if self.content is None else self.content
        media_type = mimetypes.guess_type(self.filename)[0] or "application/octet-stream"
        file = [_part(self.field, self.filename, media_type, content)] * self.has_file
        return wanted + [extra] * self.extra_before + file + [extra] * self.extra_after


def _part(name: str, filename: str | None, media_type: str | None, content: bytes) -> bytes:
    return write_head(Part(name, filename, media_type, len(content), _once(content))) + content


async def _once(content: bytes) -> AsyncGenerator[bytes, None]:
    yield content
