"""Reject requests that are ambiguous to other HTTP implementations (request smuggling, RFC 9112, section 11.2).

aiohttp's parser rejects most malformed requests, such as those with several Host or Content-Length fields, with 400 in
plain text. This module rejects ambiguous requests that the parser accepts, in the same way.
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
    """Limits of a request head: ``size`` of the head and of one ``line`` in bytes, and number of ``fields``."""

    size: int
    line: int
    fields: int


FROM_CLIENTS = HeadLimits(size=32 * 1024, line=8190, fields=128)
# The relay makes a head larger: it converts ISO 8859-1 to UTF-8 and adds fields such as Forwarded. The embedded upload
# API must accept every head that the relay accepts. The parser's memory is limited by line * fields.
FROM_RELAYS = HeadLimits(size=96 * 1024, line=20 * 1024, fields=160)

# Bytes of a line besides its text: two SP, or colon and SP, and CRLF.
_LINE_OVERHEAD = 4
# RFC 9110, section 7.2, and RFC 3986, section 3.2: uri-host [ ":" port ]. The host is a name or an address, or empty.
# The Host is copied to Forwarded for the upload API, where other characters could forge parameters.
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|(?:%[0-9A-Fa-f]{2}|[0-9A-Za-z\-._~!$&'()*+,;=])*)(?::[0-9]*)?")


def find_ambiguity(
    method: str, target: str, version: HttpVersion, fields: Iterable[tuple[bytes, bytes]], largest: int
) -> str | None:
    """Return a sentence about the ambiguity of a request head, or None. ``largest`` is its maximum size in bytes."""
    if method == hdrs.METH_CONNECT:
        return "CONNECT is not supported."
    size = len(method) + len(target) + _LINE_OVERHEAD
    codings = []
    for name, value in fields:
        size += len(name) + len(value) + _LINE_OVERHEAD
        lower = name.lower()
        if lower == b"transfer-encoding":
            codings.append(value.lower())
        if lower == b"host" and not _HOST.fullmatch(value):  # RFC 9112, section 3.2
            return "The Host is not a valid name or address."
    if size > largest:
        return f"The head of the request is larger than {largest} bytes."
    if codings and version < HttpVersion11:  # RFC 9112, section 6.1
        return "Transfer-Encoding is not allowed in HTTP/1.0."
    if codings not in ([], [b"chunked"]):  # RFC 9112, section 6.1: other codings would have to be decoded
        return "The only supported Transfer-Encoding is chunked."
    return None


def reject_ambiguous_requests(limits: HeadLimits) -> Middleware:
    """Return a middleware that answers 400 to ambiguous requests and closes the connection.

    It applies the size of ``limits``. The parser applies the other limits.
    """

    @web.middleware
    async def refuse(request: web.Request, handler: Handler) -> web.StreamResponse:
        found = find_ambiguity(request.method, request.raw_path, request.version, request.raw_headers, limits.size)
        if found is None:
            return await handler(request)
        log.warning("rejected an invalid request: %s", found)
        response = web.Response(status=400, text=f"{found}\n")
        response.force_close()
        return response

    return refuse
