"""Describe the events that a receiver gets: the section ``webhooks`` of the document, and its schemas."""

from typing import Any, Final

from aiorelay.rest1.openapi.schemas import reference
from aiorelay.webhooks.events import JOB_STATES, UPLOAD_TYPES

__all__ = ["EVENT_SCHEMAS", "webhooks"]

_TEXT: Final = {"type": "string"}
_COUNT: Final = {"type": "integer", "minimum": 0}
_SECONDS: Final = {"type": "number", "minimum": 0}
_WHO: Final = {"type": ["string", "null"], "description": "The name of the client's token; null without tokens."}

_UPLOAD: Final[dict[str, Any]] = {
    "request_id": _TEXT | {"description": "The request's id, as in `X-Request-ID` and in the log."},
    "endpoint": _TEXT | {"description": "The path of the endpoint or route."},
    "client": _TEXT | {"description": "The client's address."},
    "who": _WHO,
    "files": {"type": "array", "items": _TEXT, "description": "The names of the files."},
    "bytes": _COUNT | {"description": "The bytes of all files that were received."},
    "seconds": _SECONDS | {"description": "The duration of the request."},
    "phases": {
        "type": "object",
        "description": "The seconds spent receiving, checking, forwarding, and waiting for the answer.",
        "required": ["receive", "check", "forward", "wait"],
        "additionalProperties": _SECONDS,
    },
    "status": _COUNT | {"description": "The status of the answer; 0 if the client left before."},
    "outcome": _TEXT | {"description": "As in the log: `stored`, `refused`, `upstream-refused`, `aborted`, …"},
    "refused_by": _TEXT | {"description": "The code of the problem, if there is one."},
}
_JOB: Final[dict[str, Any]] = {
    "request_id": {"type": ["string", "null"], "description": "The request's id; null for a lost job."},
    "id": _TEXT | {"description": "The job's id, as in `/jobs/{id}`."},
    "who": _WHO,
    "state": {"type": "string", "enum": list(JOB_STATES)},
    "received": _COUNT | {"description": "Bytes of files received from the sources."},
    "forwarded": _COUNT | {"description": "Bytes sent to the upload API, including those of the form."},
    "total": {"type": ["integer", "null"], "minimum": 0, "description": "Bytes of all files; null if unknown."},
    "status": {"type": ["integer", "null"], "description": "The status of the upload API's answer, if there is one."},
    "problem": {"anyOf": [reference("Problem"), {"type": "null"}]},
}


def _event(types: list[str], members: dict[str, Any], description: str, optional: frozenset[str]) -> dict[str, Any]:
    data = {
        "type": "object",
        "required": [name for name in members if name not in optional],
        "properties": members,
        "additionalProperties": False,
    }
    timestamp = {"type": "string", "format": "date-time", "description": "When it happened (UTC)."}
    return {
        "type": "object",
        "description": description,
        "required": ["type", "timestamp", "data"],
        "properties": {"type": {"type": "string", "enum": types}, "timestamp": timestamp, "data": data},
        "additionalProperties": False,
    }


EVENT_SCHEMAS: Final = {
    "UploadEvent": _event(
        list(UPLOAD_TYPES),
        _UPLOAD,
        "An upload has ended. The data are its log line.",
        frozenset({"refused_by"}),
    ),
    "JobEvent": _event([f"job.{state}" for state in JOB_STATES], _JOB, "A job has ended.", frozenset()),
}

_HEADERS: Final = {
    "webhook-id": (_TEXT, "The event's id. It is the same whenever the event is delivered."),
    "webhook-timestamp": (_TEXT | {"pattern": "^[0-9]+$"}, "The time of this delivery, in seconds since 1970."),
    "webhook-signature": (
        _TEXT | {"pattern": r"^v1,[A-Za-z0-9+/]{43}=( v1,[A-Za-z0-9+/]{43}=)?$"},
        "HMAC-SHA256 over `id.timestamp.body`, with each secret of `webhook-secret-file`.",
    ),
}
_SUMMARIES: Final = {
    "upload.stored": "The upload API has stored an upload",
    "upload.refused": "An upload was refused, by a check or by the upload API",
    "upload.failed": "An upload failed, or its client left",
    "job.done": "The upload API has answered the upload of a job",
    "job.failed": "A job failed",
    "job.cancelled": "A job was cancelled",
    "job.lost": "The relay ended before a job did",
}


def webhooks() -> dict[str, Any]:
    """Return the section ``webhooks``: a path item for each type of event."""
    return {name: {"post": _operation(name, summary)} for name, summary in _SUMMARIES.items()}


def _operation(name: str, summary: str) -> dict[str, Any]:
    schema = reference("UploadEvent" if name.startswith("upload.") else "JobEvent")
    narrowed = {"properties": {"type": {"const": name}}}
    family, _, what = name.partition(".")
    return {
        "operationId": f"{family}{what.title()}Event",
        "tags": ["webhooks"],
        "summary": summary,
        "description": "Sent to the URL in the setting `webhook`, as Standard Webhooks describes it: at least once, in "
        "any order, and again for a day until it is accepted.",
        "security": [],
        "parameters": [
            {"name": header, "in": "header", "required": True, "description": description, "schema": of_header}
            for header, (of_header, description) in _HEADERS.items()
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": {"allOf": [schema, narrowed]}}}},
        "responses": {
            "2XX": {"description": "The event is accepted."},
            "410": {"description": "No more events are wanted. This one is not sent again."},
            "429": {"description": "No more events for the time in `Retry-After`; 503 has the same meaning."},
            "default": {"description": "The event is sent again later. Redirects are not followed."},
        },
    }
