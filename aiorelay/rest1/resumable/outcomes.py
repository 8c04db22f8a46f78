"""Answers about resumable uploads: how one ended, how far it has come, where it is."""

import base64
import re
from collections.abc import Mapping
from email.utils import formatdate
from typing import Any, Final

from aiohttp import hdrs, web

from aiorelay.errors import Gone
from aiorelay.http.problem_details import problem_response
from aiorelay.observability.logs import request_id
from aiorelay.rest1.answers import SerializedAnswer
from aiorelay.rest1.resumable.completion import Outcome
from aiorelay.rest1.resumable.unfinished import Upload
from aiorelay.rest1.upload_request import UploadRequest

__all__ = ["absolute_url", "description", "http_date", "outcome_response", "raise_if_refused", "stored_outcome"]

# RFC 3986, section 3.3: segments of a path.
_PREFIX: Final = re.compile(r"(?:/[A-Za-z0-9\-._~!$&'()*+,;=:@%]+)*")


def outcome_response(outcome: Outcome, headers: Mapping[str, str]) -> web.Response:
    """The answer to the request that completed an upload; ``headers`` replace those of the upload API."""
    if outcome.problem is not None:
        response = problem_response(outcome.problem, request_id.get())
    else:
        response = answer_response(outcome.answer or {})
    response.headers.update(headers)
    return response


def answer_response(answer: Mapping[str, Any]) -> web.Response:
    """An answer of the upload API that was serialized."""
    body = answer["body"].encode() if answer["body_encoding"] == "utf-8" else base64.b64decode(answer["body"])
    pairs = [(name, value) for name, value in answer["headers"] if name.lower() != "content-length"]
    return SerializedAnswer(answer["status"], pairs, body)


def raise_if_refused(upload: Upload) -> None:
    """Raise ``Gone`` for an upload that has ended, but is neither stored nor part of one that is."""
    outcome = upload.outcome or {}
    if upload.ended is not None and not (outcome.get("stored") or outcome.get("into")):
        raise Gone("The upload was refused, as GET tells. Begin a new upload.")


def stored_outcome(upload: Upload) -> Outcome:
    """The outcome of an upload that is stored, as it was kept."""
    answer = (upload.outcome or {}).get("answer")
    return Outcome(answer, None, stored=True, final=True, length=upload.size)


def description(upload: Upload) -> web.Response:
    """The answer that describes an upload in the members of a job."""
    outcome = upload.outcome or {}
    document = {
        "id": upload.id,
        "state": outcome.get("state", "running"),
        "received": upload.size,
        "forwarded": outcome.get("forwarded", 0),
        "total": upload.length,
        "answer": outcome.get("answer"),
        "problem": outcome.get("problem"),
    }
    return web.json_response(document, headers={hdrs.CACHE_CONTROL: "no-store"})


def absolute_url(asked: UploadRequest, path: str) -> str:
    """The URL of ``path`` at the scheme, host and path prefix that the client used, as far as they are known."""
    scheme, host = (
        asked.fields.get(name, "").partition(",")[0].strip() for name in ("X-Forwarded-Proto", "X-Forwarded-Host")
    )
    prefix = asked.fields.get("X-Forwarded-Prefix", "").rstrip("/")
    if not _PREFIX.fullmatch(prefix):
        prefix = ""
    return f"{scheme}://{host}{prefix}{path}" if scheme and host else prefix + path


def http_date(at: float) -> str:
    """A time in seconds since the epoch as HTTP writes it (RFC 9110, section 5.6.7)."""
    return formatdate(at, usegmt=True)
