"""The OpenAPI 3.1 description of rest1, and the route that serves it.

errors ──▶ responses ─┐
           schemas ───┼─▶ webhooks ─────────────────┐
           builders ──┼─▶ operations, resumable ──▶ document ──▶ GET /openapi.json
routes ───────────────┘
"""

import json
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from aiohttp import hdrs, web

from aiorelay.rest1.openapi import operations, responses, schemas
from aiorelay.rest1.openapi.builders import without_content
from aiorelay.rest1.openapi.webhooks import EVENT_SCHEMAS, webhooks
from aiorelay.settings.routes import Route

__all__ = ["add_to", "document"]

PATH = "/openapi.json"

_DESCRIPTION = """\
The relay accepts files as forms, as raw bodies, or by their URLs or local paths. It checks them while they stream, and
sends them as one form to an upload API. The client gets the upload API's answer.

The upload API gets the end of the form only after every check has passed. Errors of the relay are
`application/problem+json` (RFC 9457) with a `type` that begins with `urn:aiorelay:`. Any other answer to an upload is
that of the upload API, whatever its status.

A file can be uploaded in several requests, by the HTTP draft for resumable uploads or by tus 1.0.0. The problem types
of the draft begin with `https://iana.org/assignments/http-problem-types#`. Every answer below `/files` has
`Tus-Resumable`.

Pages of other origins may use the relay if `allow-origin` permits them (CORS).

Other paths are answered 404 `not-found`, other methods 405 `method-not-allowed`. Requests that are not valid HTTP are
answered 400 in plain text."""


def add_to(
    router: web.UrlDispatcher,
    field: str,
    others: Iterable[tuple[Route, str]] = (),
    *,
    token_header: str = hdrs.AUTHORIZATION,
) -> None:
    """Serve the description of ``router`` at /openapi.json.

    ``field`` is the form field of files. ``others`` are the paths of other upload APIs with theirs. ``token_header`` is
    the header field of the token.
    """

    async def serve(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    router.add_get(PATH, serve)
    routed = ((route.method, route.resource.canonical) for route in router.routes() if route.resource is not None)
    body = json.dumps(document(routed, field, others, token_header=token_header), ensure_ascii=False).encode()


def document(
    routes: Iterable[tuple[str, str]],
    field: str,
    others: Iterable[tuple[Route, str]] = (),
    *,
    token_header: str = hdrs.AUTHORIZATION,
) -> dict[str, Any]:
    """Return the description of ``routes`` (method and path); for the other arguments see ``add_to``.

    Routes without an entry in ``operations.described`` are left out.
    """
    described = operations.described(field) | operations.routed(others)
    paths: dict[str, dict[str, Any]] = {}
    for method, path in routes:
        operation = described.get((method, path))
        if operation is None and method == "HEAD" and ("GET", path) in described:
            operation = without_content(described["GET", path])
        if operation is not None:
            paths.setdefault(path, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "aiorelay",
            "version": version("aiorelay"),
            "summary": "A streaming upload relay.",
            "description": _DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": ".", "description": "The server of this document."}],
        "tags": operations.TAGS,
        "paths": paths,
        "webhooks": webhooks(),
        "components": {
            "schemas": schemas.components(field) | EVENT_SCHEMAS,
            "headers": responses.HEADERS,
            "securitySchemes": {"token": _token(token_header)},
        },
    }


def _token(header: str) -> dict[str, str]:
    """Return the security scheme of tokens."""
    description = (
        "Required if `token-file` or `jwks` is set. If `client-ca` is set, every request requires a client "
        "certificate, with or without a token."
    )
    if header.lower() != "authorization":
        return {"type": "apiKey", "in": "header", "name": header, "description": description}
    basic = " Basic authentication with the token as password is accepted too."
    return {"type": "http", "scheme": "bearer", "description": description + basic}
