"""File names: the last component, a name that is safe to store, and the media type that an extension implies.

Pure functions, total over every string a client can send. What is passed on is the last component of a client's file
name; what is stored is a name that every common filesystem takes and that no shell or listing misreads.
"""

import mimetypes
import re
import unicodedata
from typing import Final

__all__ = ["LONGEST", "last_component", "media_type_by_extension", "numbered", "safe"]

LONGEST: Final = 200
"""Bytes of UTF-8 in a safe name; filesystems take 255, the rest is room for a number or somebody's suffix."""

_LONGEST_ENDING: Final = 20
_NAMELESS: Final = "file"

# Control, format (bidi overrides, zero-width marks), line and paragraph separators: invisible, and misread
# by terminals, logs and people.
_INVISIBLE: Final = frozenset({"Cc", "Cf", "Zl", "Zp"})
_SURROGATE: Final = re.compile("[\ud800-\udfff]")
_RESERVED: Final = re.compile(r'[<>:"|?*]')
_SPACES: Final = " \u00a0\u1680\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
# Leading dots hide a file, leading dashes make it an option of whatever is run on it.
_LEADING: Final = _SPACES + ".-"
# Windows drops these silently, and two names become one.
_TRAILING: Final = _SPACES + "."
# "Naming Files, Paths, and Namespaces" of the Windows documentation: with any ending, in any case, and with the
# superscript digits of Latin-1 too.
_DEVICE: Final = re.compile(
    r"(?:CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(?:COM|LPT)[0-9\u00b9\u00b2\u00b3])\s*(?:\.|\Z)", re.IGNORECASE
)


def last_component(name: str) -> str:
    r"""Return what follows the last ``/`` or ``\`` of a client's file name; it may be empty."""
    return name.replace("\\", "/").rpartition("/")[2]


def safe(name: str) -> str:
    """Return the name under which a file that the client calls ``name`` is stored.

    It is one path component of 1 to ``LONGEST`` bytes of UTF-8 in NFC, never ``.`` or ``..``, without
    characters that Windows forbids or nobody sees, without leading dots, dashes and spaces or trailing dots
    and spaces, and no Windows device. A safe name is its own safe name.
    """
    name = _SURROGATE.sub("\ufffd", last_component(name))
    name = "".join(character for character in name if unicodedata.category(character) not in _INVISIBLE)
    name = _RESERVED.sub("_", unicodedata.normalize("NFC", name))
    name = _shortened(name.lstrip(_LEADING).rstrip(_TRAILING))
    if _DEVICE.match(name):
        name = _shortened(f"_{name}")
    return name or _NAMELESS


def numbered(name: str, number: int) -> str:
    """Return ``name`` with ``-number`` before its ending, for the second file of that name in one form."""
    stem, dot, ending = name.rpartition(".")
    return f"{stem}-{number}.{ending}" if dot else f"{name}-{number}"


def _shortened(name: str) -> str:
    """Cut a long name before its ending, between two characters."""
    if len(name.encode()) <= LONGEST:
        return name
    stem, dot, ending = name.rpartition(".")
    ending = dot + ending
    if not stem or len(ending.encode()) > _LONGEST_ENDING:
        stem, ending = name, ""
    kept = stem.encode()[: LONGEST - len(ending.encode())].decode(errors="ignore")
    return kept.rstrip(_TRAILING) + ending


# A type of the coding for what `mimetypes` takes for one: `.tar.gz` is a gzip file, not a tar file.
_CODINGS = {
    "gzip": "application/gzip",
    "bzip2": "application/x-bzip2",
    "xz": "application/x-xz",
    "compress": "application/x-compress",
    "br": "application/octet-stream",
}


def media_type_by_extension(name: str) -> str | None:
    """The media type of a file called ``name``, which is one path component; None where its ending tells none."""
    # Behind a letter, no part of the name can look like the scheme of a URL.
    guess, coding = mimetypes.guess_type(f"a{name}", strict=False)
    return _CODINGS.get(coding) if coding else guess
