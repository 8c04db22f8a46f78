"""The OpenAPI 3.1 description of rest1. Pure, except for the route that serves it.

errors ──▶ responses ─┐
           schemas ───┼─▶ operations ──▶ document ──▶ GET /openapi.json
routes ───────────────┘
"""

import json
from collections.abc import Iterable
from importlib.metadata import version
from typing import Any

from aiohttp import web

from aiorelay.rest1.openapi import operations, responses, schemas

__all__ = ["add_to", "document"]

PATH = "/openapi.json"

_DESCRIPTION = """\
Takes files as forms, as raw bodies or by their addresses, checks them while they stream, and sends them on as one
form to an upload API, whose answer is the client's.

No upload is whole at the upload API before every check has passed. What the relay itself refuses is told as
`application/problem+json` (RFC 9457), with a `type` that begins with `urn:aiorelay:`. Any other answer to an upload
is the upload API's own, whatever its status.

Every path that is not described here is answered 404 `not-found`, every other method 405 `method-not-allowed`, and
what is not HTTP at all 400 in plain text."""


def add_to(router: web.UrlDispatcher, field: str) -> None:
    """Serve at /openapi.json the description of what ``router`` routes; ``field`` is the form field of files."""

    async def serve(_request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    router.add_get(PATH, serve)
    routed = ((route.method, route.resource.canonical) for route in router.routes() if route.resource is not None)
    body = json.dumps(document(routed, field), ensure_ascii=False).encode()


def document(routes: Iterable[tuple[str, str]], field: str) -> dict[str, Any]:
    """The description of those of ``routes`` (method and path) that are for programs; ``field`` is that of files."""
    described = operations.described(field)
    paths: dict[str, dict[str, Any]] = {}
    for method, path in routes:
        operation = described.get(("GET" if method == "HEAD" else method, path))
        if operation is not None:
            operation = operations.without_content(operation) if method == "HEAD" else operation
            paths.setdefault(path, {})[method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "aiorelay",
            "version": version("aiorelay"),
            "summary": "A streaming upload relay",
            "description": _DESCRIPTION,
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": ".", "description": "where this document comes from"}],
        "tags": operations.TAGS,
        "paths": paths,
        "components": {
            "schemas": schemas.components(field),
            "headers": responses.HEADERS,
            "securitySchemes": {
                "token": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "Wanted where the relay was started with `token-file`. With `client-ca` every "
                    "request needs a client certificate, whether or not it has a token.",
                }
            },
        },
    }
