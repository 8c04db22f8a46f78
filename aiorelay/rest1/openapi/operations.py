"""Describe the operations of rest1: parameters, request bodies and responses."""

from collections.abc import Iterable
from typing import Any

from aiorelay import errors
from aiorelay.rest1.openapi.builders import OPTIONAL_TOKEN, TEXT, header, identity, plain, query, trace, without_token
from aiorelay.rest1.openapi.responses import (
    HTML,
    JSON,
    RATE_LIMIT,
    TOKEN_PROBLEMS,
    UPLOAD_PROBLEMS,
    answer,
    others,
    problems,
)
from aiorelay.rest1.openapi.resumable import resumable_operations
from aiorelay.rest1.openapi.schemas import form, reference
from aiorelay.settings.routes import Route

__all__ = ["TAGS", "described", "routed"]

TAGS = [
    {"name": "uploads", "description": "Upload files and get the upload API's answer."},
    {"name": "resumable uploads", "description": "Upload files in several requests (the HTTP draft, and tus 1.0.0)."},
    {"name": "jobs", "description": "Uploads that continue after the answer to their request."},
    {"name": "webhooks", "description": "Events that the relay sends to a receiver."},
    {"name": "operators", "description": "Health, metrics and this description."},
    {"name": "pages", "description": "HTML pages."},
]

_DIGEST = {
    "type": "string",
    "pattern": r"^(sha-256=:[A-Za-z0-9+/]{43}=:|sha-512=:[A-Za-z0-9+/]{86}==:)$",
    "examples": ["sha-256=:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=:"],
}

_CHANGE = (errors.OriginRefused,)
_INGEST = (
    *UPLOAD_PROBLEMS,
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
_JOB = (*TOKEN_PROBLEMS, errors.NotFound)


def described(field: str) -> dict[tuple[str, str], dict[str, Any]]:
    """Return every operation by method and path; ``field`` is the form field of files."""
    one_form = {"multipart/form-data": {"schema": reference("Form")}}
    ingest = {JSON: {"schema": reference("Ingest")}}
    return {
        ("POST", "/upload1"): _upload(
            "uploadForm",
            "Upload a form",
            "Sends the form to the upload API, with all parts in order.",
            one_form,
            UPLOAD_PROBLEMS,
        ),
        ("POST", "/upload2"): _ingest("uploadSources", "Upload local files or URLs", ingest),
        ("POST", "/upload"): _ingest("upload", "Upload a form, local files or URLs", one_form | ingest),
        ("PUT", "/upload/{filename}"): _raw(field),
        **resumable_operations(),
        **_jobs(),
        **_for_operators(),
        **_for_people(),
    }


def routed(routes: Iterable[tuple[Route, str]]) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the operations at the paths of other upload APIs, each with the form field of its files."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for number, (route, field) in enumerate(routes, 1):
        raw = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}} if route.raw else {}
        description = "Checks the files of a form and sends it to the upload API of this path."
        if route.raw:
            description += " Any other body is one file, which is sent as it is."
        path = route.path if route.prefix is None else f"{route.prefix}{{rest}}"
        rest = {"name": "rest", "in": "path", "required": True, "schema": TEXT}
        which = (*UPLOAD_PROBLEMS, errors.MalformedField, errors.NotFound, errors.TokenRefused)
        for method in ("POST", "PUT") if route.raw else ("POST",):
            content = {"multipart/form-data": {"schema": form(field)}} if method == "POST" else {}
            summary = f"Upload to {route.path}"
            operation = _upload(f"route{number}{method.title()}", summary, description, content | raw, which)
            if route.raw:  # no body is an empty file
                operation["requestBody"] |= {"required": False}
            if route.prefix is not None:
                operation["parameters"] = [rest, *operation["parameters"]]
            found[method, path] = operation
    return found


def _upload(
    name: str, summary: str, description: str, content: dict[str, Any], which: tuple[type[errors.Problem], ...]
) -> dict[str, Any]:
    stored = answer("The upload API's answer, unchanged.", "*/*", headers=["Aiorelay-Digest", *RATE_LIMIT])
    return {
        "operationId": name,
        "tags": ["uploads"],
        "summary": summary,
        "description": description,
        "security": OPTIONAL_TOKEN,
        "parameters": [
            query(),
            header(
                "Content-Digest",
                "The digest of the body. It is checked before the end is sent to the upload API.",
                _DIGEST,
            ),
            header(
                "Want-Repr-Digest",
                "Requests Aiorelay-Digest (RFC 9530).",
                TEXT | {"examples": ["sha-256=1", "sha-512=3, sha-256=10"]},
            ),
            header(
                "Upload-Complete",
                "`?0` or `?1` creates a resumable upload of a form or a raw body. It is answered 201 and continued at "
                "its Location, or answered as usual if it is complete.",
                TEXT | {"enum": ["?0", "?1"]},
            ),
            header("Idempotency-Key", "Allows the relay to repeat a spooled upload that may have arrived."),
            *trace(),
        ],
        "requestBody": {"required": True, "content": content},
        "responses": {"200": stored} | others(problems(*which)),
    }


def _ingest(name: str, summary: str, content: dict[str, Any]) -> dict[str, Any]:
    described = (
        "The relay reads or fetches the sources and sends them as one form. `Prefer: respond-async` makes it a job."
    )
    operation = _upload(name, summary, described, content, _INGEST)
    preference = header(
        "Prefer",
        "With `respond-async` (RFC 7240), a JSON request is answered 202 with a job.",
        TEXT | {"examples": ["respond-async"]},
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
        tuple({*UPLOAD_PROBLEMS} - {errors.MissingFile, errors.TooManyParts}),
    )
    filename = {
        "name": "filename",
        "in": "path",
        "required": True,
        "description": "The name of the file.",
        "schema": {"type": "string", "pattern": "^[^/]+$"},
    }
    digest = header("Repr-Digest", "The same as Content-Digest, for a raw body.", _DIGEST)
    return operation | {
        "parameters": [filename, *operation["parameters"], digest],
        "requestBody": operation["requestBody"] | {"required": False},  # no body is an empty file
    }


def _jobs() -> dict[tuple[str, str], dict[str, Any]]:
    last = header("Last-Event-ID", "The id of the last event received. Only newer events are sent.")
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
        ("GET", "/jobs/{id}"): plain("job", "jobs", "Show a job", {"200": job} | problems(*_JOB), identity()),
        ("GET", "/jobs/{id}/events"): plain(
            "jobEvents", "jobs", "Follow a job", events | problems(*_JOB), identity(), last
        ),
        ("DELETE", "/jobs/{id}"): plain("cancelJob", "jobs", "Cancel a job", {"200": job} | cancelled, identity()),
    }


def _for_operators() -> dict[tuple[str, str], dict[str, Any]]:
    status = reference("Status")
    alive = {"200": answer("The relay is alive.", JSON, status)}
    ready = {
        "200": answer("The relay accepts uploads.", JSON, status),
        "503": answer(
            "The upload API, or the shared state that limits need, cannot be reached, or the relay is shutting down.",
            JSON,
            status,
        ),
    }
    metrics = {"200": answer("Metrics in the text format of Prometheus.", "text/plain", TEXT)}
    document = {"200": answer("The description in OpenAPI 3.1.", JSON, {"type": "object"})}
    return {
        ("GET", "/healthz"): without_token("healthz", "operators", "Check that the relay is alive", alive | problems()),
        ("GET", "/readyz"): without_token(
            "readyz", "operators", "Check that the relay accepts uploads", ready | problems()
        ),
        ("GET", "/metrics"): plain("metrics", "operators", "Get the metrics", metrics | problems(*TOKEN_PROBLEMS)),
        ("GET", "/openapi.json"): without_token("openapi", "operators", "Get this description", document | problems()),
    }


def _for_people() -> dict[tuple[str, str], dict[str, Any]]:
    known = header("If-None-Match", "The ETag of the client's copy (RFC 9110).")
    page = {"200": answer("The page.", HTML, TEXT), "304": answer("The client's copy is current.")}
    return {
        ("GET", "/"): without_token("page", "pages", "Show the upload page", page | problems(), known),
        ("GET", "/docs"): without_token("docs", "pages", "Show the API documentation", page | problems(), known),
    }
