"""An upstream's answer, written down to be told later."""

import base64
import codecs
from collections.abc import Iterable
from typing import Any, Final

import aiohttp

from aiorelay.errors import UpstreamFailed, UpstreamTimeout
from aiorelay.headers import end_to_end, replace_all

__all__ = ["MAX_SERIALIZED_BODY", "serialize_response"]

MAX_SERIALIZED_BODY: Final = 64 * 1024
"""The most bytes of an answer's body that are kept: a thousand jobs may be."""


async def serialize_response(answer: aiohttp.ClientResponse, added: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """The ``status``, ``headers`` (pairs, so that repeated ones stay) and ``body`` of an answer, read to its end.

    The headers ``added`` are among them. ``body_encoding`` is ``utf-8`` for a body that is text, and ``base64`` for any
    other; ``truncated`` says whether the answer goes on after the first BODY bytes. Raises ``UpstreamFailed`` or
    ``UpstreamTimeout`` if it breaks off.
    """
    body = await _read_beginning(answer)
    truncated = len(body) > MAX_SERIALIZED_BODY
    try:  # a character that is cut in half at the end does not make the rest binary
        text, encoding = (
            codecs.getincrementaldecoder("utf-8")().decode(body[:MAX_SERIALIZED_BODY], final=not truncated),
            "utf-8",
        )
    except UnicodeDecodeError:
        text, encoding = base64.b64encode(body[:MAX_SERIALIZED_BODY]).decode(), "base64"
    headers = end_to_end(answer.headers)
    replace_all(headers, added)
    return {
        "status": answer.status,
        "headers": [list(pair) for pair in headers.items()],
        "body": text,
        "body_encoding": encoding,
        "truncated": truncated,
    }


async def _read_beginning(answer: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    try:
        async for block in answer.content.iter_any():
            body += block
            if len(body) > MAX_SERIALIZED_BODY:
                break
    except TimeoutError:
        raise UpstreamTimeout("The upload API fell silent in its answer.", error="http_response_timeout") from None
    except (aiohttp.ClientError, OSError) as broken:
        raise UpstreamFailed("The upload API's answer broke off.", error="http_response_incomplete") from broken
    return bytes(body)
