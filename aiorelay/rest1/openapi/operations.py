"""Describe the operations of rest1: parameters, request bodies and responses."""

from typing import Any

from aiorelay import errors
from aiorelay.rest1.openapi.responses import HTML, JSON, answer, others, problems
from aiorelay.rest1.openapi.schemas import reference

__all__ = ["TAGS", "described", "without_content"]

TAGS = [
    {"name": "uploads", "description": "Upload files and get the upload API's answer."},
    {"name": "jobs", "description": "Uploads that continue after the answer to their request."},
    {"name": "operators", "description": "Health, metrics and this description."},
    {"name": "pages", "description": "HTML pages."},
]

_OPTIONAL_TOKEN: list[dict[str, list[str]]] = [{}, {"token": []}]
_TEXT = {"type": "string"}
_DIGEST = {
    "type": "string",
    "pattern": r"^(sha-256=:[A-Za-z0-9+/]{43}=:|sha-512=:[A-Za-z0-9+/]{86}==:)$",
    "examples": ["sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"],
}

_CHANGE = (errors.OriginRefused,)
_UPLOAD = (
    *_CHANGE,
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
    """Return every operation by method and path; ``field`` is the form field of files."""
    form = {"multipart/form-data": {"schema": reference("Form")}}
    ingest = {JSON: {"schema": reference("Ingest")}}
    return {
        ("POST", "/upload1"): _upload(
            "uploadForm", "Upload a form", "Sends the form to the upload API, with all parts in order.", form, _UPLOAD
        ),
        ("POST", "/upload2"): _ingest("uploadSources", "Upload local files or URLs", ingest),
        ("POST", "/upload"): _ingest("upload", "Upload a form, local files or URLs", form | ingest),
        ("PUT", "/upload/{filename}"): _raw(field),
        **_jobs(),
        **_for_operators(),
        **_for_people(),
    }


def without_content(operation: dict[str, Any]) -> dict[str, Any]:
    """Return the HEAD operation that belongs to a GET ``operation``."""
    responses = {
        status: {name: value for name, value in response.items() if name != "content"}
        for status, response in operation["responses"].items()
    }
    return operation | {"operationId": f"{operation['operationId']}Head", "responses": responses}


def _upload(
    name: str, summary: str, description: str, content: dict[str, Any], which: tuple[type[errors.Problem], ...]
) -> dict[str, Any]:
    stored = answer("The upload API's answer, unchanged.", "*/*", headers=["Aiorelay-Digest"])
    return {
        "operationId": name,
        "tags": ["uploads"],
        "summary": summary,
        "description": description,
        "security": _OPTIONAL_TOKEN,
        "parameters": [
            _query(),
            _header(
                "Content-Digest",
                "The digest of the body. It is checked before the end is sent to the upload API.",
                _DIGEST,
            ),
            _header(
                "Want-Repr-Digest",
                "Requests Aiorelay-Digest (RFC 9530).",
                _TEXT | {"examples": ["sha-256=1", "sha-512=3, sha-256=10"]},
            ),
            _header("Idempotency-Key", "Allows the relay to repeat a spooled upload that may have arrived."),
            *_trace(),
        ],
        "requestBody": {"required": True, "content": content},
        "responses": {"200": stored} | others(problems(*which)),
    }


def _ingest(name: str, summary: str, content: dict[str, Any]) -> dict[str, Any]:
    described = (
        "The relay reads or fetches the sources and sends them as one form. `Prefer: respond-async` makes it a job."
    )
    operation = _upload(name, summary, described, content, _INGEST)
    preference = _header(
        "Prefer",
        "With `respond-async` (RFC 7240), a JSON request is answered 202 with a job.",
        _TEXT | {"examples": ["respond-async"]},
    )
    accepted = answer("The job.", JSON, reference("Job"), ["Location", "Preference-Applied"])
    accepted["links"] = {
        f"job {what}": {"operationId": name, "parameters": {"id": "$response.body#/id"}}
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
        f"The body is sent as a file in the form field `{field}`. Any Content-Type except multipart is accepted.",
        {"application/octet-stream": body, "*/*": body},
        tuple({*_UPLOAD} - {errors.MissingFile, errors.TooManyParts}),
    )
    filename = {
        "name": "filename",
        "in": "path",
        "required": True,
        "description": "The name of the file.",
        "schema": {"type": "string", "pattern": "^[^/]+$"},
    }
    digest = _header("Repr-Digest", "The same as Content-Digest, for a raw body.", _DIGEST)
    return operation | {
        "parameters": [filename, *operation["parameters"], digest],
        "requestBody": operation["requestBody"] | {"required": False},  # no body is an empty file
    }


def _jobs() -> dict[tuple[str, str], dict[str, Any]]:
    identity = {"name": "id", "in": "path", "required": True, "schema": {"type": "string", "pattern": "^[^/]+$"}}
    last = _header("Last-Event-ID", "The id of the last event received. Only newer events are sent.")
    job = answer("The job.", JSON, reference("Job"))
    events = {
        "200": answer(
            "Server-sent events until the job has ended. Each is an `event: job` with an id and the job as data.",
            "text/event-stream",
        ),
        "204": answer("The job has ended, and the client has received the last event."),
    }
    cancelled = problems(*_JOB, *_CHANGE, errors.StorageFull)
    return {
        ("GET", "/jobs/{id}"): _plain("job", "jobs", "Show a job", {"200": job} | problems(*_JOB), identity),
        ("GET", "/jobs/{id}/events"): _plain(
            "jobEvents", "jobs", "Follow a job", events | problems(*_JOB), identity, last
        ),
        ("DELETE", "/jobs/{id}"): _plain("cancelJob", "jobs", "Cancel a job", {"200": job} | cancelled, identity),
    }


def _for_operators() -> dict[tuple[str, str], dict[str, Any]]:
    status = reference("Status")
    alive = {"200": answer("The relay is alive.", JSON, status)}
    ready = {
        "200": answer("The relay accepts uploads.", JSON, status),
        "503": answer("The upload API cannot be reached, or the relay is shutting down.", JSON, status),
    }
    metrics = {"200": answer("Metrics in the text format of Prometheus.", "text/plain", _TEXT)}
    document = {"200": answer("The description in OpenAPI 3.1.", JSON, {"type": "object"})}
    return {
        ("GET", "/healthz"): _open("healthz", "operators", "Check that the relay is alive", alive | problems()),
        ("GET", "/readyz"): _open("readyz", "operators", "Check that the relay accepts uploads", ready | problems()),
        ("GET", "/metrics"): _plain(
            "metrics", "operators", "Get the metrics", metrics | problems(errors.Unauthenticated)
        ),
        ("GET", "/openapi.json"): _open("openapi", "operators", "Get this description", document | problems()),
    }


def _for_people() -> dict[tuple[str, str], dict[str, Any]]:
    known = _header("If-None-Match", "The ETag of the client's copy (RFC 9110).")
    page = {"200": answer("The page.", HTML, _TEXT), "304": answer("The client's copy is current.")}
    return {
        ("GET", "/"): _open("page", "pages", "Show the upload page", page | problems(), known),
        ("GET", "/docs"): _open("docs", "pages", "Show the API documentation", page | problems(), known),
    }


def _plain(name: str, tag: str, summary: str, responses: dict[str, Any], *parameters: Any) -> dict[str, Any]:
    return _open(name, tag, summary, responses, *parameters) | {"security": _OPTIONAL_TOKEN}


def _open(name: str, tag: str, summary: str, responses: dict[str, Any], *parameters: Any) -> dict[str, Any]:
    """Return an operation that requires no token."""
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
        "description": "The query string is passed on unchanged.",
        # Without a default, Swagger UI sends an invented member.
        "schema": {"type": "object", "additionalProperties": True, "default": {}},
        "style": "form",
        "explode": True,
    }


def _trace() -> list[dict[str, Any]]:
    return [_request_id(), _header("traceparent", "Passed on (W3C Trace Context).")]


def _request_id() -> dict[str, Any]:
    return _header(
        "X-Request-ID", "The request's id, at most 128 characters of `A-Za-z0-9._-`. Other values are replaced."
    )


def _header(name: str, description: str, schema: dict[str, Any] | None = None) -> dict[str, Any]:
    return {"name": name, "in": "header", "description": description, "schema": schema or _TEXT}
