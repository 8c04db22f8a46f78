"""``Expect: 100-continue``, left to those who know whether they want the body (RFC 9110, section 10.1.1).

aiohttp would answer it at once, before any handler runs, and where no handler is at all.
"""

from aiohttp import hdrs, web

__all__ = ["add_catch_all_route", "defer_100_continue"]


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
