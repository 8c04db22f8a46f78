"""``Expect: 100-continue``, left to those who know whether they want the body (RFC 9110, section 10.1.1).

aiohttp would answer it at once, before any handler runs, and where no handler is at all.
"""

from aiohttp import web

__all__ = ["leave_expectation", "refuse_unrouted"]


async def leave_expectation(_request: web.Request) -> None:
    """Let the handler answer ``Expect``: an ``expect_handler`` for aiohttp's routes."""


def refuse_unrouted(router: web.UrlDispatcher) -> None:
    """Give ``router``, whose routes are all there, one for all that they do not lead to: 404 or 405, body unread."""
    routed = list(router.resources())

    async def refuse(request: web.Request) -> web.StreamResponse:
        allowed: set[str] = set()
        for resource in routed:
            allowed |= (await resource.resolve(request))[1]
        raise web.HTTPMethodNotAllowed(request.method, allowed) if allowed else web.HTTPNotFound

    router.add_route("*", "/{path:.*}", refuse, expect_handler=leave_expectation)
