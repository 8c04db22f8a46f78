"""The operations of rest1: parameters, bodies and responses of each request."""

from typing import Any

from aiorelay import errors
from aiorelay.rest1.openapi.responses import HTML, JSON, answer, others, problems
from aiorelay.rest1.openapi.schemas import reference

__all__ = ["TAGS", "described", "without_content"]

TAGS = [
    {"name": "uploads", "description": "Files in, the upload API's answer out."},
    {"name": "jobs", "description": "Uploads that go on after their request was answered."},
    {"name": "operators", "description": "How the relay is doing."},
    {"name": "pages", "description": "For people."},
]

_OPTIONAL_TOKEN: list[dict[str, list[str]]] = [{}, {"token": []}]
_TEXT = {"type": "string"}
_DIGEST = {
    "type": "string",
    "pattern": r"^(sha-256=:[A-Za-z0-9+/]{43}=:|sha-512=:[A-Za-z0-9+/]{86}==:)$",
    "examples": ["sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"],
}

_UPLOAD = (
    errors.MalformedForm,
    errors.MissingFile,
    errors.Truncated,
    errors.BadDigest,
    errors.PartialUpload,
    errors.Unauthenticated,
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
    errors.UpstreamFailed,
    errors.Busy,
    errors.ScannerUnavailable,
    errors.ShuttingDown,
    errors.UpstreamTimeout,
    errors.StorageFull,
)
_INGEST = (
    *_UPLOAD,
    errors.MalformedJson,
    errors.BadSource,
    errors.PathRefused,
    errors.AddressRefused,
    errors.HostRefused,
    errors.SourceMissing,
    errors.SourceFailed,
    errors.SourceTimeout,
    errors.TooManyJobs,
)
_JOB = (errors.Unauthenticated, errors.NotFound)


def described(field: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Every operation, by method and path; ``field`` is the form field of files."""
    form = {"multipart/form-data": {"schema": reference("Form")}}
    ingest = {JSON: {"schema": reference("Ingest")}}
    return {
        ("POST", "/upload1"): _upload(
            "uploadForm", "Upload a form", "Passes the form on, every part in order.", form, _UPLOAD
        ),
        ("POST", "/upload2"): _ingest("uploadSources", "Upload what the relay reads or fetches", ingest),
        ("POST", "/upload"): _ingest("upload", "Upload a form or sources, by Content-Type", form | ingest),
        ("PUT", "/upload/{filename}"): _raw(field),
        **_jobs(),
        **_for_operators(),
        **_for_people(),
    }


def without_content(operation: dict[str, Any]) -> dict[str, Any]:
    """The HEAD that goes with a GET."""
    responses = {
        status: {name: value for name, value in response.items() if name != "content"}
        for status, response in operation["responses"].items()
    }
    return operation | {"operationId": f"{operation['operationId']}Head", "responses": responses}


def _upload(
    name: str, summary: str, description: str, content: dict[str, Any], which: tuple[type[errors.Problem], ...]
) -> dict[str, Any]:
    stored = answer("The upload API's answer, as it is.", "*/*", headers=["Aiorelay-Digest"])
    return {
        "operationId": name,
        "tags": ["uploads"],
        "summary": summary,
        "description": description,
        "security": _OPTIONAL_TOKEN,
        "parameters": [
            _query(),
            _header("Content-Digest", "The digest of the whole body, checked before its end is sent.", _DIGEST),
            _header(
                "Want-Repr-Digest",
                "Asks for Aiorelay-Digest (RFC 9530).",
                _TEXT | {"examples": ["sha-256=1", "sha-512=3, sha-256=10"]},
            ),
            _header("Idempotency-Key", "Says that a spooled upload may be tried again where it may have arrived."),
            *_trace(),
        ],
        "requestBody": {"required": True, "content": content},
        "responses": {"200": stored} | others(problems(*which)),
    }


def _ingest(name: str, summary: str, content: dict[str, Any]) -> dict[str, Any]:
    described = "Sources are read or fetched and sent on as one form. With `Prefer: respond-async` a job does that."
    operation = _upload(name, summary, described, content, _INGEST)
    preference = _header(
        "Prefer",
        "`respond-async` (RFC 7240): sources are answered 202 with a job.",
        _TEXT | {"examples": ["respond-async"]},
    )
    accepted = answer("The job.", JSON, reference("Job"), ["Location", "Preference-Applied"])
    accepted["links"] = {
        f"its {what}": {"operationId": name, "parameters": {"id": "$response.body#/id"}}
        for what, name in (("state", "job"), ("events", "jobEvents"), ("end", "cancelJob"))
    }
    return operation | {
        "parameters": [*operation["parameters"], preference],
        "responses": {"202": accepted, **operation["responses"]},
    }


def _raw(field: str) -> dict[str, Any]:
    body = {"schema": {"type": "string", "format": "binary"}}
    operation = _upload(
        "uploadRaw",
        "Upload a raw body",
        f"The body becomes the file of the form field `{field}`. Its Content-Type may be any but multipart.",
        {"application/octet-stream": body, "*/*": body},
        tuple({*_UPLOAD} - {errors.MissingFile, errors.TooManyParts}),
    )
    filename = {
        "name": "filename",
        "in": "path",
        "required": True,
        "description": "What the file is to be called.",
        "schema": {"type": "string", "pattern": "^[^/]+$"},
    }
    digest = _header("Repr-Digest", "As Content-Digest: of a raw body both are the same.", _DIGEST)
    return operation | {
        "parameters": [filename, *operation["parameters"], digest],
        "requestBody": operation["requestBody"] | {"required": False},  # nothing is an empty file
    }


def _jobs() -> dict[tuple[str, str], dict[str, Any]]:
    identity = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "pattern": "^[^/]+$"}}
    last = _header("Last-Event-ID", "The last event that was seen: only newer ones are sent.")
    job = answer("The job.", JSON, reference("Job"))
    events = {
        "200": answer(
            "Server-sent events, each an `event: job` with an id and the job as its data, until the job has ended.",
            "text/event-stream",
        ),
        "204": answer("The job has ended, and its last event has been seen."),
    }
    cancelled = problems(*_JOB, errors.StorageFull)
    return {
        ("GET", "/jobs/{id}"): _plain("job", "jobs", "Show a job", {"200": job} | problems(*_JOB), identity),
        ("GET", "/jobs/{id}/events"): _plain(
            "jobEvents", "jobs", "Follow a job", events | problems(*_JOB), identity, last
        ),
        ("DELETE", "/jobs/{id}"): _plain("cancelJob", "jobs", "Cancel a job", {"200": job} | cancelled, identity),
    }


def _for_operators() -> dict[tuple[str, str], dict[str, Any]]:
    status = reference("Status")
    alive = {"200": answer("It is.", JSON, status)}
    ready = {
        "200": answer("Uploads can be taken.", JSON, status),
        "503": answer("They cannot: the upload API cannot be reached, or the relay is shutting down.", JSON, status),
    }
    metrics = {"200": answer("In Prometheus' text format.", "text/plain", _TEXT)}
    document = {"200": answer("OpenAPI 3.1.", JSON, {"type": "object"})}
    return {
        ("GET", "/healthz"): _open("healthz", "operators", "Whether the relay is alive", alive | problems()),
        ("GET", "/readyz"): _open("readyz", "operators", "Whether uploads can be taken", ready | problems()),
        ("GET", "/metrics"): _plain("metrics", "operators", "Metrics", metrics | problems(errors.Unauthenticated)),
        ("GET", "/openapi.json"): _open("openapi", "operators", "This document", document | problems()),
    }


def _for_people() -> dict[tuple[str, str], dict[str, Any]]:
    known = _header("If-None-Match", "The ETag of what the client has (RFC 9110).")
    page = {"200": answer("The page.", HTML, _TEXT), "304": answer("The client has it already.")}
    return {
        ("GET", "/"): _open("page", "pages", "The upload page", page | problems(), known),
        ("GET", "/docs"): _open("docs", "pages", "The page that shows this document", page | problems(), known),
    }


def _plain(name: str, tag: str, summary: str, responses: dict[str, Any], *parameters: Any) -> dict[str, Any]:
    return _open(name, tag, summary, responses, *parameters) | {"security": _OPTIONAL_TOKEN}


def _open(name: str, tag: str, summary: str, responses: dict[str, Any], *parameters: Any) -> dict[str, Any]:
    """An operation that needs no token, ever."""
    return {
        "operationId": name,
        "tags": [tag],
        "summary": summary,
        "security": [],
        "parameters": [*parameters, _request_id()],
        "responses": responses,
    }


def _query() -> dict[str, Any]:
    return {
        "name": "query",
        "in": "query",
        "description": "The whole query string goes on as it came.",
        # Without a default, pages that try requests out make up a member.
        "schema": {"type": "object", "additionalProperties": True, "default": {}},
        "style": "form",
        "explode": True,
    }


def _trace() -> list[dict[str, Any]]:
    return [_request_id(), _header("traceparent", "Passed on (W3C Trace Context).")]


def _request_id() -> dict[str, Any]:
    return _header("X-Request-ID", "The request's id, if it is at most 128 of `A-Za-z0-9._-`.")


def _header(name: str, description: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": description, "schema": schema or _TEXT}
