"""Build operations and their parameters."""

from typing import Any

__all__ = [
    "OPTIONAL_TOKEN",
    "TEXT",
    "header",
    "identity",
    "plain",
    "query",
    "request_id",
    "trace",
    "without_content",
    "without_token",
]

OPTIONAL_TOKEN: list[dict[str, list[str]]] = [{}, {"token": []}]
TEXT: dict[str, Any] = {"type": "string"}


def without_content(operation: dict[str, Any]) -> dict[str, Any]:
    """Return the HEAD operation that belongs to a GET ``operation``."""
    responses = {
        status: {name: value for name, value in response.items() if name != "content"}
        for status, response in operation["responses"].items()
    }
    return operation | {"operationId": f"{operation['operationId']}Head", "responses": responses}


def plain(name: str, tag: str, summary: str, responses: dict[str, Any], *parameters: Any) -> dict[str, Any]:
    """Return an operation that requires a token if ``token-file`` is set."""
    return without_token(name, tag, summary, responses, *parameters) | {"security": OPTIONAL_TOKEN}


def without_token(name: str, tag: str, summary: str, responses: dict[str, Any], *parameters: Any) -> dict[str, Any]:
    """Return an operation that requires no token."""
    return {
        "operationId": name,
        "tags": [tag],
        "summary": summary,
        "security": [],
        "parameters": [*parameters, request_id()],
        "responses": responses,
    }


def query() -> dict[str, Any]:
    """Return the parameter for the query string."""
    return {
        "name": "query",
        "in": "query",
        "description": "The query string is passed on unchanged.",
        # Without a default, Swagger UI sends an invented member.
        "schema": {"type": "object", "additionalProperties": True, "default": {}},
        "style": "form",
        "explode": True,
    }


def trace() -> list[dict[str, Any]]:
    """Return the parameters that identify a request: its id, then its trace."""
    return [request_id(), header("traceparent", "Passed on (W3C Trace Context).")]


def identity() -> dict[str, Any]:
    """Return the path parameter of a job or an upload."""
    return {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "pattern": "^[^/]+$"}}


def request_id() -> dict[str, Any]:
    """Return the parameter for the id of a request."""
    return header(
        "X-Request-ID", "The request's id, at most 128 characters of `A-Za-z0-9._-`. Other values are replaced."
    )


def header(name: str, description: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the parameter for a header field."""
    return {"name": name, "in": "header", "description": description, "schema": schema or TEXT}
