"""Answers to requests of tus: in its statuses, whatever the upload API's are."""

from collections.abc import Mapping
from typing import Final

from aiohttp import hdrs, web

from aiorelay.errors import Gone, NotAppendable
from aiorelay.observability.logs import UploadRecord
from aiorelay.rest1.resumable.completion import Outcome
from aiorelay.rest1.resumable.outcomes import http_date, outcome_response, stored_outcome
from aiorelay.rest1.resumable.representation import Representation
from aiorelay.rest1.resumable.unfinished import Upload

__all__ = ["OFFSET", "concatenated", "expires", "refused", "repeated", "stored"]

OFFSET: Final = "Upload-Offset"
_EXPIRES: Final = "Upload-Expires"
# Statuses that mean something else to clients of tus when the upload API answers with them.
_TUS_STATUSES: Final = frozenset({409, 423, 460})


def expires(upload: Upload) -> dict[str, str]:
    """The header field that tells when an upload is removed, if it has not ended."""
    return {} if upload.ended is not None else {_EXPIRES: http_date(upload.expires)}


def repeated(upload: Upload, record: UploadRecord) -> web.StreamResponse:
    """The answer to an append to an upload that has ended: the client may not have seen the first one."""
    if (upload.outcome or {}).get("into"):
        raise Gone("The upload is part of another one by now.")
    if (Representation.from_json(upload.request).concat or "").startswith("final"):
        raise NotAppendable("A concatenated upload cannot be appended to.")
    response = stored(stored_outcome(upload))
    record.repeated(response.status)
    return response


def stored(outcome: Outcome, headers: Mapping[str, str] | None = None, *, status: int | None = None) -> web.Response:
    """The upload API's answer to what it has stored; ``status`` and ``headers`` replace its own."""
    response = outcome_response(outcome, {OFFSET: str(outcome.length), **(headers or {})})
    if response.status >= 300:  # no success to a client of tus, who would follow it elsewhere
        response.headers.popall(hdrs.LOCATION, None)
        status = status or 200
    if status is not None:
        response.set_status(status)
    return response


def refused(outcome: Outcome) -> web.Response:
    """The upload API's refusal, or a problem; not with a status that means something else in tus."""
    response = outcome_response(outcome, {})
    response.headers.popall(hdrs.LOCATION, None)
    received = response.status
    if outcome.answer is not None and (received in _TUS_STATUSES or 300 <= received < 400):
        response.set_status(422 if received in _TUS_STATUSES else 502)
        response.headers["Proxy-Status"] = f"aiorelay; received-status={received}"
    return response


def concatenated(outcome: Outcome, location: str) -> web.Response:
    """The answer to a concatenation; ``location`` is the URL of the upload that it made."""
    if outcome.stored:
        return stored(outcome, {hdrs.LOCATION: location}, status=201)
    return refused(outcome)
