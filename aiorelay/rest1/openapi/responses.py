"""Describe the responses of an operation: its problems by status, and their header fields."""

from collections.abc import Iterable
from typing import Any

from aiorelay import errors
from aiorelay.errors import (
    Internal,
    OffsetMismatch,
    Problem,
    ProtocolVersion,
    QuotaExceeded,
    RateLimited,
    ScopeMissing,
    TooManyJobs,
    Unauthenticated,
    UnknownHost,
    UpstreamProblem,
)
from aiorelay.rest1.openapi.schemas import reference, urn

__all__ = ["HEADERS", "HTML", "JSON", "RATE_LIMIT", "TOKEN_PROBLEMS", "UPLOAD_PROBLEMS", "answer", "others", "problems"]

TOKEN_PROBLEMS: tuple[type[Problem], ...] = (errors.Unauthenticated, errors.ScopeMissing, errors.StateUnavailable)
"""The problems of a request whose token is not accepted."""

UPLOAD_PROBLEMS: tuple[type[Problem], ...] = (
    *TOKEN_PROBLEMS,
    errors.OriginRefused,
    errors.MalformedForm,
    errors.MissingFile,
    errors.Truncated,
    errors.BadDigest,
    errors.PartialUpload,
    errors.TooSlow,
    errors.TooLarge,
    errors.TooManyParts,
    errors.WrongContentType,
    errors.TypeRefused,
    errors.Refused,
    errors.ArchiveRefused,
    errors.Infected,
    errors.DigestMismatch,
    errors.Unscannable,
    errors.RateLimited,
    errors.QuotaExceeded,
    errors.UpstreamFailed,
    errors.StorageFailed,
    errors.StorageUnavailable,
    errors.Busy,
    errors.ScannerUnavailable,
    errors.ShuttingDown,
    errors.UpstreamTimeout,
    errors.StorageFull,
)
"""The problems that an upload can end in, whatever its body is."""

HTML = "text/html"
JSON = "application/json"
_PROBLEM = "application/problem+json"

_TEXT = {"type": "string"}
_COUNT = {"type": "integer", "minimum": 0}
RATE_LIMIT = ("RateLimit", "RateLimit-Policy")
"""The fields on answers to uploads if ``rate-limit`` is set."""
HEADERS: dict[str, Any] = {
    "X-Request-ID": {"schema": _TEXT, "description": "The request's id: the client's if valid, else a new one."},
    "Aiorelay-Digest": {
        "schema": _TEXT,
        "description": "The digest of each file, as FIELD=ALGORITHM=:BASE64:, if Want-Repr-Digest requested it.",
    },
    "Location": {"schema": _TEXT, "description": "The path of the job, or the URL of the resumable upload."},
    "Preference-Applied": {
        "schema": {"const": "respond-async"},
        "description": "The preference that was applied (RFC 7240).",
    },
    "RateLimit": {
        "schema": _TEXT,
        "description": "How many uploads are available now, and in how many seconds one more, if `rate-limit` is set.",
    },
    "RateLimit-Policy": {"schema": _TEXT, "description": "The rate limit, if `rate-limit` is set."},
    "Retry-After": {"schema": _TEXT, "description": "In seconds, if the relay sends it."},
    "Proxy-Status": {"schema": _TEXT, "description": "The kind of failure of the upload API (RFC 9209)."},
    "Accept-Patch": {"schema": _TEXT, "description": "The media type with which an upload is continued (RFC 5789)."},
    "Upload-Offset": {"schema": _COUNT, "description": "The bytes that are acknowledged."},
    "Upload-Length": {"schema": _COUNT, "description": "The bytes of the whole upload, if known."},
    "Upload-Complete": {"schema": _TEXT, "description": "`?1` if the upload has ended, else `?0`."},
    "Upload-Limit": {"schema": _TEXT, "description": "The largest size in bytes, and the remaining time in seconds."},
    "Upload-Expires": {"schema": _TEXT, "description": "The time at which the upload is removed."},
    "Upload-Defer-Length": {"schema": _TEXT, "description": "`1` if the length is not known yet."},
    "Upload-Metadata": {"schema": _TEXT, "description": "As it was sent."},
    "Upload-Concat": {"schema": _TEXT, "description": "As it was sent."},
    "Tus-Resumable": {"schema": _TEXT, "description": "The version of tus."},
    "Tus-Version": {"schema": _TEXT, "description": "The versions of tus that are supported."},
    "Tus-Extension": {"schema": _TEXT, "description": "The extensions of tus that are supported."},
    "Tus-Max-Size": {"schema": _COUNT, "description": "The largest size in bytes."},
    "Tus-Checksum-Algorithm": {"schema": _TEXT, "description": "The algorithms that Upload-Checksum may name."},
    "WWW-Authenticate": {"schema": _TEXT, "description": "Bearer with the error of the token (RFC 6750), and Basic."},
}
_NOT_HTTP = {"text/plain": {"schema": _TEXT}}


def answer(description: str, content_type: str = "", schema: Any = None, headers: Iterable[str] = ()) -> dict[str, Any]:
    """Return a response; without ``content_type`` it has no content."""
    described: dict[str, Any] = {"description": description, "headers": _headers(headers)}
    if content_type:
        described["content"] = {content_type: {} if schema is None else {"schema": schema}}
    return described


def problems(*which: type[Problem]) -> dict[str, Any]:
    """Return the responses by status for the problems ``which``, for those of every request, and for invalid HTTP."""
    by_status: dict[int, list[type[Problem]]] = {400: []}
    meeting: set[type[Problem]] = {*which, Internal, UnknownHost}
    for each in sorted(meeting, key=lambda each: (each.status, each.code)):
        by_status.setdefault(each.status, []).append(each)
    return {str(status): _group(status, group) for status, group in by_status.items()}


def others(responses: dict[str, Any]) -> dict[str, Any]:
    """Add the upload API's answers to the ``responses`` of an upload: any status, any content."""
    any_of_them = {
        status: response | {"content": response["content"] | {"*/*": {}}} for status, response in responses.items()
    }
    return any_of_them | {"default": answer("The upload API's answer, unchanged.", "*/*")}


def _group(status: int, group: list[type[Problem]]) -> dict[str, Any]:
    titles = "".join(f"\n- `{each.code}`: {each.title}" for each in group)
    if status == 400:
        titles += "\n- in plain text, without a problem: the request is not valid HTTP"
    narrowed = {"properties": {"type": {"enum": [urn(each) for each in group]}, "status": {"const": status}}}
    content = {_PROBLEM: {"schema": {"allOf": [reference("Problem"), narrowed]}}} if group else {}
    headers = {name for each in group for name in _sent_with(each)}
    return {
        "description": titles.strip("\n"),
        "headers": _headers(headers, identified=status != 400),
        "content": content | (_NOT_HTTP if status == 400 else {}),
    }


def _sent_with(problem: type[Problem]) -> set[str]:
    """Return the header fields that only answers with ``problem`` have."""
    if issubclass(problem, UpstreamProblem):
        return {"Proxy-Status"}
    if issubclass(problem, Unauthenticated | ScopeMissing):
        return {"WWW-Authenticate"}
    if problem in {OffsetMismatch, ProtocolVersion}:
        return {"Upload-Offset" if problem is OffsetMismatch else "Tus-Version"}
    if problem is RateLimited:
        return {"Retry-After", *RATE_LIMIT}
    return {"Retry-After"} if hasattr(problem, "retry_after") or problem in {QuotaExceeded, TooManyJobs} else set()


def _headers(names: Iterable[str], *, identified: bool = True) -> dict[str, Any]:
    """Return references to header fields.

    X-Request-ID is required if ``identified``. The answer to a request that is not HTTP has none.
    """
    own = HEADERS["X-Request-ID"] | {"required": identified}
    return {"X-Request-ID": own} | {name: {"$ref": f"#/components/headers/{name}"} for name in sorted(names)}
