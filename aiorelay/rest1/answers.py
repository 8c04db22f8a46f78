"""An upstream's answer: passed back to the client as it comes, or serialized to be shown by a job."""

import base64
import codecs
from collections.abc import Container, Iterable
from typing import Any, Final

import aiohttp
from aiohttp import hdrs, web
from aiohttp.http import HttpVersion11

from aiorelay.concurrency.timeouts import Watchdog
from aiorelay.errors import UpstreamFailed, UpstreamTimeout
from aiorelay.http.fields import end_to_end, replace_all
from aiorelay.observability.logs import log
from aiorelay.rest1.upstream_exchange import UpstreamAnswer

__all__ = ["MAX_SERIALIZED_BODY", "SerializedAnswer", "pass_back", "serialize_response", "strip_default_headers"]


async def pass_back(
    request: web.Request, answer: UpstreamAnswer, added: Iterable[tuple[str, str]], watchdog: Watchdog
) -> web.StreamResponse:
    """Give ``answer`` to the client of ``request``, with the headers ``added``.

    An answer that breaks off breaks off for the client too, and so does one of which it takes no block in the time of
    ``watchdog``.
    """
    response = _UpstreamResponse(answer)
    replace_all(response.headers, added)
    try:
        await response.prepare(request)
        if answer.content.is_eof():
            with watchdog.watching():
                await response.write_eof(answer.content.read_nowait())
        else:
            async for block in answer.content.iter_any():
                with watchdog.watching():
                    await response.write(block)
            await response.write_eof()
    except (aiohttp.ClientError, OSError, TimeoutError) as broken:
        log.warning("the answer could not be passed back whole: %s", type(broken).__name__)
        if request.transport is not None:
            request.transport.abort()
    return response


class _UpstreamResponse(web.StreamResponse):
    """The upstream's status and end-to-end headers. ``unsaid`` are those that aiohttp would add to them."""

    def __init__(self, answer: UpstreamAnswer) -> None:
        super().__init__(status=answer.status, reason=answer.reason, headers=end_to_end(answer.headers))
        self.unsaid = _unsaid(answer.headers)
        # One that is here whole leaves in one write. Private to aiohttp; were it to go, there would be two.
        self._send_headers_immediately = not answer.content.is_eof()


class SerializedAnswer(web.Response):
    """An upstream's answer that was kept: its status, header fields and body."""

    def __init__(self, status: int, headers: Iterable[tuple[str, str]], body: bytes) -> None:
        super().__init__(status=status, body=body)
        self.headers.popall(hdrs.CONTENT_TYPE, None)
        self.headers.extend(headers)
        self.unsaid = _unsaid(self.headers)


def _unsaid(headers: Container[str]) -> list[str]:
    return [name for name in (hdrs.CONTENT_TYPE, hdrs.SERVER) if name not in headers]


def strip_default_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Remove what aiohttp adds to an answer by default.

    To an HTTP/1.0 client, an answer of unknown length ends with the connection (RFC 9112, section 6.3), which aiohttp
    would keep open if asked to.
    """
    for name in response.unsaid if isinstance(response, _UpstreamResponse | SerializedAnswer) else (hdrs.SERVER,):
        response.headers.pop(name, None)
    if request.version < HttpVersion11 and response.content_length is None:
        response.force_close()


MAX_SERIALIZED_BODY: Final = 64 * 1024
"""The most bytes of an answer's body that are kept: a thousand jobs may be."""


async def serialize_response(
    answer: UpstreamAnswer, added: Iterable[tuple[str, str]], *, most: int = MAX_SERIALIZED_BODY
) -> dict[str, Any]:
    """The ``status``, ``headers`` (pairs, so that repeated ones stay) and ``body`` of an answer, read to its end.

    The headers ``added`` are among them. ``body_encoding`` is ``utf-8`` for a body that is text, and ``base64`` for any
    other; ``truncated`` says whether the body is longer than ``most`` bytes, of
    which the first are kept. Raises ``UpstreamFailed`` or
    ``UpstreamTimeout`` if it breaks off.
    """
    body = await _read_beginning(answer, most)
    truncated = len(body) > most
    try:  # a character that is cut in half at the end does not make the rest binary
        text, encoding = (
            codecs.getincrementaldecoder("utf-8")().decode(body[:most], final=not truncated),
            "utf-8",
        )
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(body[:most]).decode(), "base64"
    headers = end_to_end(answer.headers)
    replace_all(headers, added)
    return {
        "status": answer.status,
        "headers": [list(pair) for pair in headers.items()],
        "body": text,
        "body_encoding": encoding,
        "truncated": truncated,
    }


async def _read_beginning(answer: UpstreamAnswer, most: int) -> bytes:
    body = bytearray()
    try:
        async for block in answer.content.iter_any():
            body += block
            if len(body) > most:
                break
    except TimeoutError:
        raise UpstreamTimeout("The upload API fell silent in its answer.", error="http_response_timeout") from None
    except (aiohttp.ClientError, OSError) as broken:
        raise UpstreamFailed("The upload API's answer broke off.", error="http_response_incomplete") from broken
    return bytes(body)
