"""File names: the last component, a name that is safe to store, and the media type of an extension.

Pure functions that accept every string a client can send. The relay passes on the last component of a client's file
name. The store uses a name that is valid on every common filesystem and not misread by shells or listings.
"""

import mimetypes
import re
import unicodedata
from typing import Final

__all__ = ["LONGEST", "last_component", "media_type_by_extension", "numbered", "safe"]

LONGEST: Final = 200
"""Maximum size of a safe name in bytes of UTF-8. Filesystems allow 255; the rest is for a number or a suffix."""

_LONGEST_EXTENSION: Final = 20
_DEFAULT_NAME: Final = "file"

# Control and format characters (bidi overrides, zero-width marks), line and paragraph separators: they are invisible
# and can make a name look like another in terminals and logs.
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Zl", "Zp"})
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_RESERVED: Final = re.compile(r'[<>:"|?*]')
_SPACES: Final = " \u00a0\u1680\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
# Leading dots hide a file. A name with a leading dash can be read as a command-line option.
_STRIPPED_AT_START: Final = _SPACES + ".-"
# Windows removes these silently, so that different names become equal.
_STRIPPED_AT_END: Final = _SPACES + "."
# Device names, with any extension and in any case, and with the superscript digits of Latin-1 ("Naming Files, Paths,
# and Namespaces" of the Windows documentation).
_WINDOWS_DEVICE: Final = re.compile(
    r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(?:COM|LPT)[0-9\u00b9\u00b2\u00b3])\s*(?:\.|\Z)", re.IGNORECASE
)


def last_component(name: str) -> str:
    r"""Return the part of a client's file name after the last ``/`` or ``\``. It may be empty."""
    return name.replace("\\", "/").rpartition("/")[2]


def safe(name: str) -> str:
    """Return the name under which a file that the client calls ``name`` is stored.

    The result is one path component of 1 to ``LONGEST`` bytes of UTF-8 in NFC. It is not ``.``, ``..`` or a Windows
    device name. It has no invisible characters or characters forbidden on Windows, no leading dots, dashes or spaces,
    and no trailing dots or spaces. The function is idempotent.
    """
    name = _SURROGATE.sub("\ufffd", last_component(name))
    if not name.isprintable():
        name = "".join(character for character in name if unicodedata.category(character) not in _INVISIBLE)
    name = _RESERVED.sub("_", unicodedata.normalize("NFC", name))
    name = _truncated(name.lstrip(_STRIPPED_AT_START).rstrip(_STRIPPED_AT_END))
    if _WINDOWS_DEVICE.match(name):
        name = _truncated(f"_{name}")
    return name or _DEFAULT_NAME


def numbered(name: str, number: int) -> str:
    """Return ``name`` with ``-number`` before its extension, for files with the same name in one form."""
    stem, dot, extension = name.rpartition(".")
    return f"{stem}-{number}.{extension}" if dot else f"{name}-{number}"


def _truncated(name: str) -> str:
    """Truncate a long name before its extension, between two characters."""
    if len(name.encode()) <= LONGEST:
        return name
    stem, dot, extension = name.rpartition(".")
    extension = dot + extension
    if not stem or len(extension.encode()) > _LONGEST_EXTENSION:
        stem, extension = name, ""
    kept = stem.encode()[: LONGEST - len(extension.encode())].decode(errors="ignore")
    return kept.rstrip(_STRIPPED_AT_END) + extension


# Media types of what `mimetypes` returns as an encoding: `.tar.gz` is a gzip file, not a tar file.
_CODINGS = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "compress": "application/x-compress",
    "br": "application/octet-stream",
}


def media_type_by_extension(name: str) -> str | None:
    """Return the media type of a file named ``name`` (one path component), or None if its extension is unknown."""
    # With a leading letter, no part of the name is read as the scheme of a URL.
    guess, coding = mimetypes.guess_type(f"a{name}", strict=False)
    return _CODINGS.get(coding) if coding else guess
