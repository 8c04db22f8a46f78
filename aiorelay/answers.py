"""Answers of a server's own, which a client must take in time: aiohttp would wait for ever until they are taken."""

import asyncio

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

__all__ = ["response_timeout"]

_BLOCK = 64 * 1024


def response_timeout(idle: float) -> Middleware:
    """A middleware that drops a client which takes longer than ``idle`` seconds for 64 KiB of an answer, on average.

    Answers that are streamed are for whoever streams them to watch.
    """

    @web.middleware
    async def send(request: web.Request, handler: Handler) -> web.StreamResponse:
        response = await handler(request)
        if isinstance(response, web.Response):
            try:
                async with asyncio.timeout(idle * (1 + (response.content_length or 0) // _BLOCK)):
                    await response.prepare(request)
                    await response.write_eof()
            except TimeoutError:
                if request.transport is not None:
                    request.transport.abort()
        return response

    return send
