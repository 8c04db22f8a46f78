"""Requests that the next server could read differently: refused, for who disagrees on where one ends lets a second in.

aiohttp's parser turns down most of what is not HTTP by itself, repeated Host and Content-Length among it, and answers
400 in plain text. So does this, for what it lets through.
"""

import re
from collections.abc import Iterable

from aiohttp import hdrs, web
from aiohttp.http import HttpVersion, HttpVersion11
from aiohttp.typedefs import Handler

from aiorelay.telemetry import log

__all__ = ["LARGEST_HEAD", "fault", "refuse_ambiguous"]

LARGEST_HEAD = 32 * 1024
"""The most bytes that a request line and its header fields may have together."""

# What a line has beside its text, in bytes: SP and SP, or colon and SP, and CRLF.
_AROUND = 4
# RFC 9110, section 7.2, and RFC 3986, section 3.2: uri-host [ ":" port ], the host a name or an address, perhaps empty.
# What is none would stand in the Forwarded that the upload API is told, and could speak for others there.
_HOST = re.compile(rb"(?:\[[0-9A-Fa-f:.]+\]|(?:%[0-9A-Fa-f]{2}|[0-9A-Za-z\-._~!$&'()*+,;=])*)(?::[0-9]*)?")


def fault(method: str, target: str, version: HttpVersion, fields: Iterable[tuple[bytes, bytes]]) -> str | None:
    """What is wrong with the head of a request, in a sentence; None if nothing is."""
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
    if size > LARGEST_HEAD:
        return f"The head of the request is larger than {LARGEST_HEAD} bytes."
    if codings and version < HttpVersion11:  # RFC 9112, section 6.1
        return "HTTP/1.0 knows no Transfer-Encoding."
    if codings not in ([], [b"chunked"]):  # RFC 9112, section 6.1: the relay would have to undo the other codings
        return "The only Transfer-Encoding that is understood is chunked."
    return None


@web.middleware
async def refuse_ambiguous(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer 400 in place of ``handler`` where there is a ``fault``, and close the connection."""
    found = fault(request.method, request.raw_path, request.version, request.raw_headers)
    if found is None:
        return await handler(request)
    log.warning("what came is not HTTP: %s", found)
    response = web.Response(status=400, text=f"{found}\n")
    response.force_close()
    return response
