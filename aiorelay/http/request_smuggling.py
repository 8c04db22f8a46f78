"""Reject requests that are ambiguous to other HTTP implementations (request smuggling, RFC 9112, section 11.2).

aiohttp's parser rejects most malformed requests by itself, repeated Host and Content-Length fields among them, and
answers 400 in plain text. So does this module for what that parser accepts.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion, HttpVersion11
from aiohttp.typedefs import Handler, Middleware

from aiorelay.observability.logs import log

__all__ = ["FROM_CLIENTS", "FROM_RELAYS", "HeadLimits", "find_ambiguity", "reject_ambiguous_requests"]


@dataclass(frozen=True, slots=True)
class HeadLimits:
    """The most that a request line and its header fields may be: bytes together, bytes of one, how many fields."""

    size: int
    line: int
    fields: int


FROM_CLIENTS = HeadLimits(size=32 * 1024, line=8190, fields=128)
# On its way through the relay a head grows: ISO 8859-1 in UTF-8 is twice as long, and what tells where it came through
# is added. Whatever the relay takes, the upload API has to take. (A line times the fields is what the parser may hold.)
FROM_RELAYS = HeadLimits(size=96 * 1024, line=20 * 1024, fields=160)

# What a line has beside its text, in bytes: SP and SP, or colon and SP, and CRLF.
_AROUND = 4
# RFC 9110, section 7.2, and RFC 3986, section 3.2: uri-host [ ":" port ], the host a name or an address, perhaps empty.
# What is none would stand in the Forwarded that the upload API is told, and could speak for others there.
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|(?:%[0-9A-Fa-f]{2}|[0-9A-Za-z\-._~!$&'()*+,;=])*)(?::[0-9]*)?")


def find_ambiguity(
    method: str, target: str, version: HttpVersion, fields: Iterable[tuple[bytes, bytes]], largest: int
) -> str | None:
    """What is wrong with the head of a request, in a sentence; None if nothing is. ``largest`` is in bytes."""
    if method == hdrs.METH_CONNECT:
        return "This is no proxy: CONNECT leads nowhere."
    size = len(method) + len(target) + _AROUND
    codings = []
    for name, value in fields:
        size += len(name) + len(value) + _AROUND
        if name.lower() == b"transfer-encoding":
            codings.append(value.lower())
        if name.lower() == b"host" and not _HOST.fullmatch(value):  # RFC 9112, section 3.2
            return "The Host is neither a name nor an address."
    if size > largest:
        return f"The head of the request is larger than {largest} bytes."
    if codings and version < HttpVersion11:  # RFC 9112, section 6.1
        return "HTTP/1.0 knows no Transfer-Encoding."
    if codings not in ([], [b"chunked"]):  # RFC 9112, section 6.1: the relay would have to undo the other codings
        return "The only Transfer-Encoding that is understood is chunked."
    return None


def reject_ambiguous_requests(limits: HeadLimits) -> Middleware:
    """A middleware that answers 400 where there is a ``find_ambiguity``, and closes the connection.

    Of the limits only the size is its concern: the others are the parser's.
    """

    @web.middleware
    async def refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
        found = find_ambiguity(request.method, request.raw_path, request.version, request.raw_headers, limits.size)
        if found is None:
            return await handler(request)
        log.warning("what came is not HTTP: %s", found)
        response = web.Response(status=400, text=f"{found}\n")
        response.force_close()
        return response

    return refuse
