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
    """A problem in the members of RFC 9457; ``instance`` is the id of the request that met it."""
    return {
        "type": problem.type_uri or f"urn:aiorelay:{problem.code}",
        "title": problem.title,
        "status": problem.status,
        "detail": problem.detail,
        "instance": instance,
        **problem.members,
    }


def problem_response(problem: Problem, instance: str) -> web.Response:
    """The answer that a problem is; ``instance`` is the id of the request that met it."""
    return web.Response(
        status=problem.status,
        reason=problem.title if problem.status not in _PHRASES else HTTPStatus(problem.status).phrase,
        headers=problem.headers,
        content_type="application/problem+json",
        body=json.dumps(problem_details(problem, instance), ensure_ascii=False).encode("utf-8", "replace"),
    )


@web.middleware
async def problem_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn whatever a handler raises into its answer; what nobody foresaw becomes ``internal`` and is logged."""
    try:
        return await handler(request)
    except Problem as problem:
        return problem_response(problem, request_id.get())
    except web.HTTPNotFound:
        return problem_response(NotFound(f"There is no {request.path}."), request_id.get())
    except web.HTTPMethodNotAllowed as refused:
        allowed = refused.headers[hdrs.ALLOW]
        not_allowed = MethodNotAllowed(f"{request.path} answers only {allowed}.", headers={"Allow": allowed})
        return problem_response(not_allowed, request_id.get())
    except ClientGone:
        return web.Response(status=400)  # for nobody: aiohttp wants one, and finds the connection closed
    except Exception:  # noqa: BLE001 - the last resort: logged with its traceback, and told to nobody
        log.exception("Unforeseen failure of %s %s", request.method, request.path)
        return problem_response(Internal("The log of the relay has the rest."), request_id.get())
