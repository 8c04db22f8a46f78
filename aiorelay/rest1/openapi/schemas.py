"""JSON Schemas (2020-12) of requests and responses."""

from typing import Any

from aiorelay import errors
from aiorelay.errors import Problem

__all__ = ["PROBLEMS", "components", "reference", "urn"]

PROBLEMS: tuple[type[Problem], ...] = tuple(
    each
    for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, Problem) and hasattr(each, "code")
)
"""Every problem class with a code."""

_FILE = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
_COUNT = {"type": "integer", "minimum": 0}
_LOCATION = {
    "type": "string",
    "description": "An absolute path below a `local-root`, an http(s) URL, or `s3://BUCKET/KEY` in an `s3-source`.",
    "pattern": "^(/|[Hh][Tt][Tt][Pp][Ss]?://|s3://)",
}
# Names that every form parser reads alike.
_NAME = {"pattern": r"^[^\\\u0000]+$"}
# A multipart type would nest a form in a form.
_MEDIA_TYPE = (
    "^(?![Mm][Uu][Ll][Tt][Ii][Pp][Aa][Rr][Tt]/)"
    r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+/[!#$%&'*+\-.^_`|~0-9A-Za-z]+[ \t]*(;[\t -~]*)?$"
)


def reference(name: str) -> dict[str, str]:
    """Return a reference to one of the ``components``."""
    return {"$ref": f"#/components/schemas/{name}"}


def urn(problem: type[Problem]) -> str:
    """Return the ``type`` of a problem."""
    return problem.type_uri or f"urn:aiorelay:{problem.code}"


def components(field: str) -> dict[str, Any]:
    """Return every schema by name; ``field`` is the form field, and the JSON member, of files."""
    return {
        "Form": form(field),
        "Ingest": _ingest(field),
        "Source": _source(),
        "Problem": _problem(),
        "Job": _job(),
        "Answer": _answer(),
        "Status": _status(),
    }


def _status() -> dict[str, Any]:
    schema = _object({"status": {"type": "string"}})
    paths = {"type": "array", "items": {"type": "string"}}
    schema["properties"] |= {
        "unreachable": paths | {"description": "The paths whose upload APIs cannot be reached."},
        "state": {"const": "unreachable", "description": "The shared state cannot be reached. Jobs need it."},
    }
    return schema


def _object(members: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return an object schema that requires all of ``members``."""
    return {"type": "object", "required": list(members), "properties": members, **more}


def form(field: str) -> dict[str, Any]:
    return {
        "type": "object",
        "description": "All parts are passed on in order.",
        "required": [field],
        "properties": {field: {"type": "array", "items": _FILE, "minItems": 1, "description": "The files."}},
        "additionalProperties": {"description": "A field, or a file in another field."},
        "propertyNames": _NAME,
    }


def _ingest(field: str) -> dict[str, Any]:
    several = {"type": "array", "items": reference("Source"), "minItems": 1}
    return {
        "type": "object",
        "description": "Is sent as a form: first the other members as fields, then each source as a file.",
        "required": [field],
        "properties": {field: {"oneOf": [reference("Source"), several]}},
        "additionalProperties": {"type": "string"},
        "propertyNames": _NAME,
        "examples": [
            {field: "https://files.example/report.pdf"},
            {field: {"source": "/srv/files/a.bin", "filename": "report.pdf"}, "folder": "reports"},
        ],
    }


def _source() -> dict[str, Any]:
    members = {
        "source": _LOCATION,
        "filename": {"type": "string", "description": "Replaces the source's file name."},
        "content_type": {"type": "string", "pattern": _MEDIA_TYPE, "description": "Replaces the source's media type."},
        "sha256": {
            "type": "string",
            "pattern": "^[0-9A-Fa-f]{64}$",
            "description": "The SHA-256 that the file must have, in hexadecimal.",
        },
    }
    full = {"type": "object", "required": ["source"], "properties": members, "additionalProperties": False}
    return {"description": "A local file that the relay reads, or a URL that it fetches.", "oneOf": [_LOCATION, full]}


def _problem() -> dict[str, Any]:
    titles = "\n".join(f"- {each.status} `{each.code}`: {each.title}" for each in PROBLEMS)
    members = {
        "type": {"type": "string", "enum": sorted(urn(each) for each in PROBLEMS)},
        "title": {"type": "string", "enum": sorted({each.title for each in PROBLEMS})},
        "status": {"type": "integer", "enum": sorted({each.status for each in PROBLEMS})},
        "detail": {"type": "string", "description": "What is wrong and what to do about it."},
        "instance": {"type": "string", "description": "The request's id, as in `X-Request-ID`."},
    }
    return _object(members, description=f"A problem (RFC 9457). The `type` ends with one of these codes:\n\n{titles}")


def _job() -> dict[str, Any]:
    members = {
        "id": {"type": "string"},
        "state": {
            "type": "string",
            "enum": ["running", "done", "failed", "cancelled", "lost"],
            "description": "`done`: `answer` is set, whatever its status. `failed`: `problem` is set. `lost`: the "
            "relay process ended before the job did.",
        },
        "received": _COUNT | {"description": "Bytes of files received from the sources."},
        "forwarded": _COUNT | {"description": "Bytes sent to the upload API, including those of the form."},
        "total": {"type": ["integer", "null"], "minimum": 0, "description": "Bytes of all files; null while unknown."},
        "answer": {"anyOf": [reference("Answer"), {"type": "null"}]},
        "problem": {"anyOf": [reference("Problem"), {"type": "null"}]},
    }
    return _object(members, description="An upload that continues after the answer to its request.")


def _answer() -> dict[str, Any]:
    pair = {"type": "array", "items": {"type": "string"}, "minItems": 2, "maxItems": 2}
    members = {
        "status": {"type": "integer"},
        "headers": {"type": "array", "items": pair, "description": "Names and values, in order."},
        "body": {"type": "string"},
        "body_encoding": {"type": "string", "enum": ["utf-8", "base64"]},
        "truncated": {"type": "boolean", "description": "Whether the body was longer and has been cut off."},
    }
    return _object(members, description="The upload API's answer.")
