"""Find the name and media type of a fetched file in its response or its URL. Pure."""

import unicodedata
from urllib.parse import unquote_to_bytes

from yarl import URL

from aiorelay.files.filenames import last_component, media_type_by_extension
from aiorelay.http.grammar import decode_extended, is_media_type, read_parameters

__all__ = ["filename", "media_type"]

# Control characters, surrogates, line and paragraph separators. The storing server removes what its file system
# forbids.
_DROPPED = frozenset({"Cc", "Cs", "Zl", "Zp"})


def filename(disposition: str | None, url: URL) -> str | None:
    """Name the file by its Content-Disposition (RFC 6266), else by the URL's last segment, decoded once.

    The name is one path component without control characters, or None if neither gives one.
    """
    return _usable(_of_disposition(disposition or "")) or _usable(_of_path(url))


def media_type(content_type: str | None, name: str | None) -> str | None:
    """Return the server's Content-Type with its parameters, else the type by the name's ending, else None."""
    if content_type and is_media_type(content_type.strip()):
        return content_type.strip()
    return media_type_by_extension(name) if name else None


def _of_disposition(value: str) -> str:
    """``filename*``, else ``filename`` (RFC 6266, section 4.3), else nothing; the disposition type does not matter."""
    parameters = read_parameters(value)
    extended = decode_extended(parameters.get("filename*", ""))
    # aiohttp decodes a header field as UTF-8 and keeps other bytes as surrogates; those are Latin-1.
    return extended or _decoded(parameters.get("filename", "").encode("utf-8", "surrogateescape"))


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
