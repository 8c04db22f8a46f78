"""The responses of an operation: its problems grouped by status, and the header fields of each."""

from collections.abc import Iterable
from typing import Any

from aiorelay.errors import Internal, Problem, TooManyJobs, Unauthenticated, UpstreamProblem
from aiorelay.rest1.openapi.schemas import reference, urn

__all__ = ["HEADERS", "HTML", "JSON", "answer", "others", "problems"]

HTML = "text/html"
JSON = "application/json"
_PROBLEM = "application/problem+json"

_TEXT = {"type": "string"}
HEADERS: dict[str, Any] = {
    "X-Request-ID": {"schema": _TEXT, "description": "The request's id: the client's if it was fit, else a new one."},
    "Aiorelay-Digest": {
        "schema": _TEXT,
        "description": "Where Want-Repr-Digest asked for it: each file's digest, as FIELD=ALGORITHM=:BASE64:.",
    },
    "Location": {"schema": _TEXT, "description": "The path of the job."},
    "Preference-Applied": {"schema": {"const": "respond-async"}, "description": "RFC 7240."},
    "Retry-After": {"schema": _TEXT, "description": "In seconds, where it is the relay that says so."},
    "Proxy-Status": {"schema": _TEXT, "description": "How the upload API failed (RFC 9209)."},
    "WWW-Authenticate": {"schema": _TEXT, "description": "Bearer, and what is wrong with the token (RFC 6750)."},
}
_NOT_HTTP = {"text/plain": {"schema": _TEXT}}


def answer(description: str, content_type: str = "", schema: Any = None, headers: Iterable[str] = ()) -> dict[str, Any]:
    """A response; without a ``content_type`` it has no content."""
    described: dict[str, Any] = {"description": description, "headers": _headers(headers)}
    if content_type:
        described["content"] = {content_type: {} if schema is None else {"schema": schema}}
    return described


def problems(*which: type[Problem]) -> dict[str, Any]:
    """The responses by status of an operation that may meet ``which``, ``internal`` and what is not HTTP."""
    by_status: dict[int, list[type[Problem]]] = {400: []}
    meeting: set[type[Problem]] = {*which, Internal}
    for each in sorted(meeting, key=lambda each: (each.status, each.code)):
        by_status.setdefault(each.status, []).append(each)
    return {str(status): _group(status, group) for status, group in by_status.items()}


def others(responses: dict[str, Any]) -> dict[str, Any]:
    """The ``responses`` of an upload, whose every status may as well be the upload API's, with content of its own."""
    any_of_them = {
        status: response | {"content": response["content"] | {"*/*": {}}} for status, response in responses.items()
    }
    return any_of_them | {"default": answer("The upload API's answer, as it is.", "*/*")}


def _group(status: int, group: list[type[Problem]]) -> dict[str, Any]:
    titles = "".join(f"\n- `{each.code}`: {each.title}" for each in group)
    if status == 400:
        titles += "\n- without a problem, in plain text: what came is not HTTP"
    narrowed = {"properties": {"type": {"enum": [urn(each) for each in group]}, "status": {"const": status}}}
    content = {_PROBLEM: {"schema": {"allOf": [reference("Problem"), narrowed]}}} if group else {}
    headers = {name for each in group for name in _sent_with(each)}
    return {
        "description": titles.strip("\n"),
        "headers": _headers(headers, identified=status != 400),
        "content": content | (_NOT_HTTP if status == 400 else {}),
    }


def _sent_with(problem: type[Problem]) -> set[str]:
    """The header fields that answers to ``problem`` have, and others not."""
    if issubclass(problem, UpstreamProblem):
        return {"Proxy-Status"}
    if issubclass(problem, Unauthenticated):
        return {"WWW-Authenticate"}
    return {"Retry-After"} if hasattr(problem, "retry_after") or problem is TooManyJobs else set()


def _headers(names: Iterable[str], *, identified: bool = True) -> dict[str, Any]:
    """References to header fields; X-Request-ID is on every answer, as long as it is one to HTTP (``identified``)."""
    own = HEADERS["X-Request-ID"] | {"required": identified}
    return {"X-Request-ID": own} | {name: {"$ref": f"#/components/headers/{name}"} for name in sorted(names)}
