"""The grammar of header field values (RFC 9110, section 5.6; RFC 8187). Pure; no HTTP library is imported.

    token           is_token         TOKEN, TOKEN_SYMBOLS, TOKEN68
    quoted-string   unquote          QUOTED_STRING
    list            split_list, split_list_from_end
    parameters      read_parameters
    media-type      is_media_type, essence
    ext-value       decode_extended

Names in capitals are patterns for regular expressions, to be composed into stricter grammars.
"""

import re
from collections.abc import Iterator
from typing import Final
from urllib.parse import unquote_to_bytes

__all__ = [
    "QUOTED_STRING",
    "RESTRICTED_NAME",
    "TOKEN",
    "TOKEN68",
    "TOKEN_SYMBOLS",
    "decode_extended",
    "essence",
    "is_media_type",
    "is_token",
    "read_parameters",
    "split_list",
    "split_list_from_end",
    "unquote",
]

TOKEN_SYMBOLS: Final = "!#$%&'*+-.^_`|~"  # noqa: S105 - the grammar's word
"""What a token may hold beside ASCII letters and digits (RFC 9110, section 5.6.2)."""

TOKEN: Final = rf"[{re.escape(TOKEN_SYMBOLS)}0-9A-Za-z]+"
"""RFC 9110, section 5.6.2: token = 1*tchar."""

QUOTED_STRING: Final = r'"(?:[^"\\]|\\.)*"'
"""RFC 9110, section 5.6.4: a quoted-string, quotes included. The parser of the message refuses control characters."""

TOKEN68: Final = r"[A-Za-z0-9._~+/-]+=*"
"""RFC 9110, section 11.2: credentials such as a bearer token."""

RESTRICTED_NAME: Final = r"[A-Za-z0-9][A-Za-z0-9!#$&^_.+-]{0,126}"
"""RFC 6838, section 4.2: the type or the subtype of a registered media type."""

_TOKEN = re.compile(TOKEN)
_MEDIA_TYPE = re.compile(rf"{TOKEN}/{TOKEN}[ \t]*(?:;[\t -~]*)?")
_ELEMENT = re.compile(rf'(?:[^,"]|{QUOTED_STRING})+')
_LIST = re.compile(rf'(?:[^"]|{QUOTED_STRING})*')
# An element, read backwards: an escaped quote is one that a backslash follows. Outside of a quoted string there is no
# backslash: one is what is left of a string whose beginning was cut off.
_REVERSED_ELEMENT = re.compile(r'(?:[^",\\]|"(?:[^"]|"(?=\\))*"(?!\\))*')
_PARAMETER = re.compile(rf"\s*;\s*(?:({TOKEN})\s*=\s*({QUOTED_STRING}|[^;]*))?")
# RFC 8187, section 3.2.1: ext-value = charset "'" [ language ] "'" value-chars
_EXTENDED = re.compile(
    r"(utf-8|iso-8859-1)'[0-9A-Za-z-]*'((?:%[0-9A-Fa-f]{2}|[!#$&+\-.^_`|~0-9A-Za-z])*)", re.IGNORECASE | re.ASCII
)


def is_token(text: str) -> bool:
    """Whether ``text`` is a token (RFC 9110, section 5.6.2)."""
    return _TOKEN.fullmatch(text) is not None


def is_media_type(text: str) -> bool:
    """Whether ``text`` is a media type (RFC 9110, section 8.3.1); its parameters may be any printable ASCII."""
    return _MEDIA_TYPE.fullmatch(text) is not None


def essence(media_type: str) -> str:
    """The type and subtype of ``media_type`` in lower case, without parameters; valid or not."""
    return media_type.partition(";")[0].strip().lower()


def unquote(value: str) -> str:
    """The content of a quoted string, its escapes undone; any other ``value`` as it is.

    A closing quote that is missing is assumed at the end.
    """
    return re.sub(r"\\(.)", r"\1", value[1:].removesuffix('"')) if value.startswith('"') else value


def split_list(line: str) -> list[str]:
    """The elements of a comma-separated list (RFC 9110, section 5.6.1), empty ones left out.

    Commas in quoted strings do not separate. A line with a quoted string that does not end is one element.
    """
    if not _LIST.fullmatch(line):
        return [line]
    return [element for each in _ELEMENT.findall(line) if (element := each.strip(" \t"))]


def split_list_from_end(line: str) -> Iterator[str]:
    """The elements of a comma-separated list, the last one first, however malformed those before it are.

    For lists that proxies append to: a quote that a client left open must not swallow what a proxy added. The beginning
    of the line comes out as one element where it is malformed. Empty elements are left out.
    """
    backwards = line[::-1]
    position = 0
    while position < len(backwards) and (match := _REVERSED_ELEMENT.match(backwards, position)):
        end = match.end()
        if backwards[end : end + 1] not in {"", ","}:
            end = len(backwards)
        if element := backwards[position:end][::-1].strip(" \t"):
            yield element
        position = end + 1


def read_parameters(text: str) -> dict[str, str]:
    """The parameters of a field value, from its first semicolon on, by lower-case name; quoted values are unquoted.

    Lenient, for what other servers send: a value without quotes may hold anything but a semicolon. Of a name that is
    repeated the first value counts. Reading stops at what is no parameter.
    """
    found: dict[str, str] = {}
    position = text.find(";")
    while position >= 0 and (match := _PARAMETER.match(text, position)):
        position = match.end()
        if match[1]:
            found.setdefault(match[1].lower(), unquote(match[2].strip()))
    return found


def decode_extended(value: str) -> str | None:
    """The text of an extended parameter value, ``utf-8''%e2%82%ac`` (RFC 8187), or None if it is malformed."""
    match = _EXTENDED.fullmatch(value)
    if match is None:
        return None
    try:
        return unquote_to_bytes(match[2]).decode(match[1])
    except UnicodeDecodeError:
        return None
