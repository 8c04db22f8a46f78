"""Middleware and hooks of both servers: request ids, ``Expect: 100-continue``, unrouted paths, slow readers."""

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware

from aiorelay.concurrency.timeouts import Watchdog
from aiorelay.observability.logs import REQUEST_ID, request_id, set_request_id

__all__ = ["add_catch_all_route", "add_request_id", "defer_100_continue", "identify_and_time"]

_BLOCK = 64 * 1024


async def add_request_id(_request: web.Request, response: web.StreamResponse) -> None:
    """Put the request's id on its answer; a signal handler for ``on_response_prepare``."""
    response.headers[REQUEST_ID] = request_id.get()


def identify_and_time(watchdog: Watchdog) -> Middleware:
    """A middleware that gives each request its id for the log, and each answer a timeout.

    The id is the client's own if it is acceptable, else a new one. A client is dropped that takes longer for 64 KiB of
    an answer than ``watchdog`` allows, on average. The handler of a streamed answer has to watch it itself.
    """

    @web.middleware
    async def send(request: web.Request, handler: Handler) -> web.StreamResponse:
        set_request_id(request.headers)
        response = await handler(request)
        if isinstance(response, web.Response):
            try:
                with watchdog.watching(1 + (response.content_length or 0) // _BLOCK):
                    await response.prepare(request)
                    await response.write_eof()
            except TimeoutError:
                if request.transport is not None:
                    request.transport.abort()
        return response

    return send


async def defer_100_continue(_request: web.Request) -> None:
    """Let the handler answer ``Expect``: an ``expect_handler`` for aiohttp's routes."""


def add_catch_all_route(router: web.UrlDispatcher) -> None:
    """Give ``router``, whose routes are all there, one for all that they do not lead to, which leaves bodies unread.

    It answers 404 or 405, and a path with a slash too many 308 (RFC 9110, section 15.4.9).
    """
    routed = list(router.resources())

    async def allowed_at(request: web.Request) -> set[str]:
        return set().union(*[(await resource.resolve(request))[1] for resource in routed])

    async def refuse(request: web.Request) -> web.StreamResponse:
        path, query = request.rel_url.raw_path.rstrip("/"), request.raw_path.partition("?")[2]
        if path != request.rel_url.raw_path and request.method in await allowed_at(request.clone(rel_url=path)):
            return web.Response(status=308, headers={hdrs.LOCATION: f"{path}?{query}" if query else path})
        allowed = await allowed_at(request)
        raise web.HTTPMethodNotAllowed(request.method, allowed) if allowed else web.HTTPNotFound

    router.add_route("*", "/{path:.*}", refuse, expect_handler=defer_100_continue)
