"""The test uploads: small forms as bytes, framed as the relay frames them, harmless and recognisable by name."""

from collections.abc import AsyncGenerator
from dataclasses import dataclass

from aiorelay.head import write_head
from aiorelay.upload import Part

__all__ = ["EXTRA_FIELD", "FILENAMES", "Upload"]

EXTRA_FIELD = "aiorelay-probe"

# Forms of file names, by what is special about them: what stands between the recognisable part and the ending.
FILENAMES = {"plain": "", "spaces": " two words", "utf-8": "-é-日本", "quotes": '-"quoted"', "semicolons": ";v=1"}

_CONTENT = b"Sent by `aiorelay probe` to learn what this upload API accepts. It can be deleted.\n" * 40


@dataclass(frozen=True, slots=True)
class Upload:
    """A form with a small file in ``field``, and perhaps another field before or after it.

    ``mark`` begins the file's name, and is in no other upload's; ``special`` goes on from there.
    """

    field: str
    mark: str
    special: str = ""
    extra_before: bool = False
    extra_after: bool = False

    @property
    def filename(self) -> str:
        return f"{self.mark}{self.special}.txt"

    @property
    def spellings(self) -> tuple[str, str]:
        """The file's name, and as the form carries it (HTML standard, "multipart/form-data encoding algorithm")."""
        return self.filename, self.filename.replace('"', "%22")

    @property
    def extra_value(self) -> str:
        return f"value-{self.mark}"

    @property
    def content_type(self) -> str:
        return f"multipart/form-data; boundary={self.mark}"

    @property
    def body(self) -> bytes:
        """The whole form."""
        return self.unfinished + self._closing

    @property
    def unfinished(self) -> bytes:
        """The form without its closing boundary: what an upstream has when the relay breaks off at the latest."""
        return self._delimiter.join((b"", *self._parts()))[2:]

    @property
    def _delimiter(self) -> bytes:
        return b"\r\n--" + self.mark.encode() + b"\r\n"

    @property
    def _closing(self) -> bytes:
        return b"\r\n--" + self.mark.encode() + b"--\r\n"

    def _parts(self) -> list[bytes]:
        extra = _part(EXTRA_FIELD, None, None, self.extra_value.encode())
        file = _part(self.field, self.filename, "text/plain", _CONTENT)
        return [extra] * self.extra_before + [file] + [extra] * self.extra_after


def _part(name: str, filename: str | None, media_type: str | None, content: bytes) -> bytes:
    return write_head(Part(name, filename, media_type, len(content), _once(content))) + content


async def _once(content: bytes) -> AsyncGenerator[bytes, None]:
    yield content
