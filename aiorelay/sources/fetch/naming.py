"""The name and media type of a fetched file, from its response or its URL. Pure."""

import re
import unicodedata
from urllib.parse import unquote_to_bytes

from yarl import URL

from aiorelay.files.filenames import last_component, media_type_by_extension

__all__ = ["filename", "media_type"]

_TCHARS = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # a token of RFC 9110, section 5.6.2
_PARAMETER = re.compile(
    rf'\s*;\s*(?:({_TCHARS})\s*=\s*("(?:[^"\\]|\\.)*"|[^;]*))?'
)  # RFC 6266, but unquoted spaces too
_EXTENDED = re.compile(r"(UTF-8|ISO-8859-1)'[^']*'(.*)", re.IGNORECASE)  # RFC 8187, section 3.2
_MEDIA_TYPE = re.compile(rf"{_TCHARS}/{_TCHARS}[ \t]*(?:;[\t -~]*)?")
# Control characters, halves of characters, line and paragraph separators. What a file system or a shell minds
# is the storing server's affair.
_DROPPED = frozenset({"Cc", "Cs", "Zl", "Zp"})


def filename(disposition: str | None, url: URL) -> str | None:
    """Name the file by its Content-Disposition (RFC 6266), else by the URL's last segment, decoded once.

    The name is one path component without control characters, or None where neither gives one.
    """
    return _usable(_of_disposition(disposition or "")) or _usable(_of_path(url))


def media_type(content_type: str | None, name: str | None) -> str | None:
    """Return the server's Content-Type with its parameters, else the type by the name's ending, else None."""
    if content_type and _MEDIA_TYPE.fullmatch(content_type.strip()):
        return content_type.strip()
    return media_type_by_extension(name) if name else None


def _of_disposition(value: str) -> str:
    found: dict[str, str] = {}
    position = (value + ";").index(";")  # behind the type; whether it says inline or attachment is no matter
    while match := _PARAMETER.match(value, position):
        position = match.end()
        if match[1]:
            found.setdefault(match[1].lower(), match[2])
    return _extended(found.get("filename*", "")) or _plain(found.get("filename", ""))


def _extended(value: str) -> str:
    match = _EXTENDED.fullmatch(value.strip().strip('"'))
    if not match:
        return ""
    try:
        return unquote_to_bytes(match[2]).decode(match[1])
    except UnicodeError:  # also where the header itself held bytes that are no UTF-8
        return ""


def _plain(value: str) -> str:
    value = value.strip()
    if value.startswith('"'):
        value = re.sub(r"\\(.)", r"\1", value[1:].removesuffix('"'))
    # aiohttp decodes header bytes as UTF-8 and keeps what is none as surrogates; that is Latin-1 then.
    return _decoded(value.encode("utf-8", "surrogateescape"))


def _of_path(url: URL) -> str:
    return _decoded(unquote_to_bytes(url.raw_path.rpartition("/")[2]))


def _decoded(octets: bytes) -> str:
    try:
        return octets.decode()
    except UnicodeDecodeError:
        return octets.decode("latin-1")


def _usable(name: str) -> str | None:
    kept = "".join(character for character in last_component(name) if unicodedata.category(character) not in _DROPPED)
    kept = kept.strip()
    return None if kept in {"", ".", ".."} else kept
