"""Describe the operations of resumable uploads: the HTTP draft at /uploads/, tus at /files/."""

from typing import Any

from aiorelay import errors
from aiorelay.rest1.openapi.builders import TEXT, header, identity, plain, trace, without_content, without_token
from aiorelay.rest1.openapi.responses import JSON, TOKEN_PROBLEMS, UPLOAD_PROBLEMS, answer, others, problems
from aiorelay.rest1.openapi.schemas import reference

__all__ = ["resumable_operations"]

_TAG = "resumable uploads"
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_COUNT = {"type": "integer", "minimum": 0}

_FOUND = (*TOKEN_PROBLEMS, errors.NotFound, errors.Gone)
_LOCKED = (*_FOUND, errors.Superseded, errors.UploadLocked)
_APPEND = (
    *UPLOAD_PROBLEMS,
    *_LOCKED,
    errors.MalformedField,
    errors.CompletedUpload,
    errors.InconsistentLength,
    errors.OffsetMismatch,
    errors.TooManyJobs,
)
_TUS = (errors.ProtocolVersion,)


def resumable_operations() -> dict[tuple[str, str], dict[str, Any]]:
    """Return every operation by method and path."""
    return {**_draft(), **_tus()}


def _draft() -> dict[tuple[str, str], dict[str, Any]]:
    limits = {"204": answer("What can be appended, and the limits.", headers=["Accept-Patch", "Upload-Limit"])}
    targets = {
        "/upload": "upload",
        "/upload1": "uploadForm",
        "/upload/{filename}": "uploadRaw",
        "/uploads/{id}": "append",
    }
    names = {
        "/upload/{filename}": [{"name": "filename", "in": "path", "required": True, "schema": TEXT}],
        "/uploads/{id}": [identity()],
    }
    options = {
        ("OPTIONS", path): without_token(
            f"{name}Options", _TAG, "Show the limits of resumable uploads", limits | problems(), *names.get(path, [])
        )
        for path, name in targets.items()
    }
    fields = ["Upload-Offset", "Upload-Length", "Upload-Complete", "Upload-Limit"]
    progress = {"204": answer("How far the upload has come.", headers=fields)}
    return {
        **options,
        ("HEAD", "/uploads/{id}"): without_content(
            plain("progress", _TAG, "Show the offset of an upload", progress | problems(*_LOCKED), identity())
        ),
        ("PATCH", "/uploads/{id}"): _append(),
        ("GET", "/uploads/{id}"): _describe("draftUpload"),
        ("DELETE", "/uploads/{id}"): _remove("removeUpload", _LOCKED),
    }


def _append() -> dict[str, Any]:
    going_on = answer("The content is kept, and the upload continues.", headers=["Upload-Offset", "Upload-Complete"])
    stored = answer("The upload API's answer to the whole upload.", "*/*", headers=["Upload-Offset", "Upload-Complete"])
    parameters = [
        identity(),
        _needed("Upload-Offset", "Where the content begins.", _COUNT),
        _needed("Upload-Complete", "Whether the content ends the upload.", TEXT | {"enum": ["?0", "?1"]}),
        header("Upload-Length", "The bytes of the whole upload.", _COUNT),
        header("Content-Digest", "The digest of the content. Content with another digest is discarded."),
        header("Prefer", "With `respond-async`, the last request is answered 202 with a job."),
        *trace()[1:],
    ]
    operation = plain("append", _TAG, "Continue an upload", {}, *parameters)
    return operation | {
        "requestBody": {"required": True, "content": {"application/partial-upload": _BINARY}},
        "responses": {"200": stored, "202": _job(), "204": going_on} | others(problems(*_APPEND)),
    }


def _tus() -> dict[tuple[str, str], dict[str, Any]]:
    fields = ["Tus-Resumable", "Tus-Version", "Tus-Extension", "Tus-Max-Size", "Tus-Checksum-Algorithm"]
    supported = {"204": answer("What is supported.", headers=fields)}
    told = [
        "Tus-Resumable",
        "Upload-Offset",
        "Upload-Length",
        "Upload-Defer-Length",
        "Upload-Metadata",
        "Upload-Concat",
    ]
    progress = {"200": answer("How far the upload has come.", headers=[*told, "Upload-Expires"])}
    options = {
        ("OPTIONS", path): without_token(name, _TAG, "Show what is supported of tus", supported | problems(), *names)
        for path, name, names in (
            ("/files", "tusOptionsAtFiles", []),
            ("/files/", "tusOptions", []),
            ("/files/{id}", "tusUploadOptions", [identity()]),
        )
    }
    return {
        **options,
        ("POST", "/files"): _tus_create("tusCreateAtFiles"),
        ("POST", "/files/"): _tus_create("tusCreate"),
        ("HEAD", "/files/{id}"): without_content(
            plain(
                "tusProgress",
                _TAG,
                "Show the offset of an upload",
                progress | problems(*_LOCKED, *_TUS),
                identity(),
                _version(),
            )
        ),
        ("PATCH", "/files/{id}"): _tus_append("tusAppend"),
        ("POST", "/files/{id}"): _tus_append("tusOverride", _needed("X-HTTP-Method-Override", "The method.", TEXT)),
        ("GET", "/files/{id}"): _describe("tusUpload"),
        ("DELETE", "/files/{id}"): _remove("tusRemove", (*_LOCKED, *_TUS), _version()),
    }


def _tus_create(name: str) -> dict[str, Any]:
    created = answer(
        "The upload is created. If it is complete, the content is that of the upload API's answer.",
        "*/*",
        headers=["Location", "Tus-Resumable", "Upload-Offset", "Upload-Expires"],
    )
    parameters = [
        _version(),
        header("Upload-Length", "The bytes of the upload.", _COUNT),
        header("Upload-Defer-Length", "`1` if the length is told later."),
        header("Upload-Metadata", "`filename` and `filetype` describe the file; other pairs become form fields."),
        header("Upload-Concat", "`partial`, or `final;` and the URLs of partial uploads."),
        header("Upload-Checksum", "The digest of the content: sha1, sha256 or md5."),
        *trace()[1:],
    ]
    which = (*_APPEND, *_TUS, errors.ChecksumMismatch)
    return plain(name, _TAG, "Create an upload (tus)", {}, *parameters) | {
        "requestBody": {"required": False, "content": {"application/offset+octet-stream": _BINARY}},
        "responses": {"201": created} | others(problems(*which)),
    }


def _tus_append(name: str, *more: dict[str, Any]) -> dict[str, Any]:
    headers = ["Tus-Resumable", "Upload-Offset"]
    parameters = [
        identity(),
        _version(),
        _needed("Upload-Offset", "Where the content begins.", _COUNT),
        header("Upload-Length", "The bytes of the upload, if its creation did not tell them.", _COUNT),
        header("Upload-Checksum", "The digest of the content: sha1, sha256 or md5."),
        header("Prefer", "With `respond-async`, the last request is answered 202 with a job."),
        *more,
        *trace()[1:],
    ]
    responses = {
        "200": answer("The upload API's answer to the whole upload.", "*/*", headers=headers),
        "202": _job(),
        "204": answer("The content is kept, and the upload continues.", headers=[*headers, "Upload-Expires"]),
    }
    which = (*_APPEND, *_TUS, errors.ChecksumMismatch, errors.NotAppendable)
    return plain(name, _TAG, "Continue an upload (tus)", {}, *parameters) | {
        "requestBody": {"required": True, "content": {"application/offset+octet-stream": _BINARY}},
        "responses": responses | others(problems(*which)),
    }


def _describe(name: str) -> dict[str, Any]:
    description = {"200": answer("The upload, in the members of a job.", JSON, reference("Job"))}
    return plain(name, _TAG, "Show how an upload ended", description | problems(*_FOUND), identity())


def _remove(name: str, which: tuple[type[errors.Problem], ...], *parameters: dict[str, Any]) -> dict[str, Any]:
    removed = {"204": answer("The upload is removed.")}
    return plain(
        name, _TAG, "Remove an upload", removed | problems(*which, errors.StorageFull), identity(), *parameters
    )


def _job() -> dict[str, Any]:
    return answer("The job.", JSON, reference("Job"), ["Location", "Preference-Applied"])


def _version() -> dict[str, Any]:
    return _needed("Tus-Resumable", "The version of tus.", {"const": "1.0.0"})


def _needed(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return header(name, description, schema) | {"required": True}
