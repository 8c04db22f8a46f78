"""Render errors as ``application/problem+json`` (RFC 9457)."""

import json
from http import HTTPStatus

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from aiorelay.errors import ClientGone, Internal, MethodNotAllowed, NotFound, Problem
from aiorelay.observability.logs import log, request_id

__all__ = ["problem_details", "problem_middleware", "problem_response"]


_PHRASES = frozenset(HTTPStatus)  # 460 is not among them: it is a status of tus


def problem_details(problem: Problem, instance: str) -> dict[str, str | int]:
    """Return the members of RFC 9457 for a problem. ``instance`` is the ID of the request."""
    return {
        "type": problem.type_uri or f"urn:aiorelay:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "instance": instance,
        **problem.members,
    }


def problem_response(problem: Problem, instance: str) -> web.Response:
    """Return the response for a problem. ``instance`` is the ID of the request."""
    return web.Response(
        status=problem.status,
        reason=problem.title if problem.status not in _PHRASES else HTTPStatus(problem.status).phrase,
        headers=problem.headers,
        content_type="application/problem+json",
        body=json.dumps(problem_details(problem, instance), ensure_ascii=False).encode("utf-8", "replace"),
    )


@web.middleware
async def problem_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Convert exceptions of a handler to responses. Unexpected exceptions are logged and become ``internal``."""
    try:
        return await handler(request)
    except Problem as problem:
        return problem_response(problem, request_id.get())
    except web.HTTPNotFound:
        return problem_response(NotFound(f"There is no resource at {request.path}."), request_id.get())
    except web.HTTPMethodNotAllowed as refused:
        allowed = ", ".join(refused.headers[hdrs.ALLOW].split(","))
        not_allowed = MethodNotAllowed(f"{request.path} supports only {allowed}.", headers={"Allow": allowed})
        return problem_response(not_allowed, request_id.get())
    except ClientGone:
        return web.Response(status=400)  # aiohttp requires a response, but the connection is closed
    except Exception:  # noqa: BLE001 - the last handler: the traceback is logged, and not sent to the client
        log.exception("Unexpected failure of %s %s", request.method, request.path)
        return problem_response(
            Internal("An unexpected error occurred. The log of the relay has the details."), request_id.get()
        )
