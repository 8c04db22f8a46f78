"""Make the events of uploads and jobs: types, ids and payloads.

A payload has the members that Standard Webhooks names: ``type``, ``timestamp`` and ``data``.
"""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from aiorelay.errors import Busy, RateLimited, ScopeMissing, ShuttingDown, Unauthenticated
from aiorelay.observability.logs import UploadRecord

__all__ = ["JOB_STATES", "UPLOAD_TYPES", "Event", "job_event", "upload_event", "upload_type"]

UPLOAD_TYPES: Final = ("upload.stored", "upload.refused", "upload.failed")
JOB_STATES: Final = ("done", "failed", "cancelled", "lost")
"""The states in which a job ends. Its event is named after its state: ``job.done``."""

# These requests stored nothing and refused nothing: the upload goes on, or has ended before.
_NO_END: Final = frozenset({"unfinished", "repeated"})
# These requests were turned away unread. A flood of them must not become a flood of events.
_TURNED_AWAY: Final = frozenset(each.code for each in (Unauthenticated, ScopeMissing, RateLimited, Busy, ShuttingDown))


@dataclass(frozen=True, slots=True)
class Event:
    """An event: its id, which is the same in every delivery, and its payload as JSON."""

    id: str
    body: bytes


def upload_type(record: UploadRecord) -> str | None:
    """Return the type of the event of an upload, or None if it has none.

    Refused are uploads with a status below 500. Failed are those with another status, and those whose client has left.
    """
    if record.continues or record.outcome in _NO_END or record.refused_by in _TURNED_AWAY:
        return None
    if record.outcome == "stored":
        return "upload.stored"
    return "upload.refused" if 0 < record.status < 500 else "upload.failed"


def upload_event(record: UploadRecord, request_id: str) -> Event | None:
    """Return the event of an upload that has ended, with the members of its log line; None if it has none."""
    kind = upload_type(record)
    if kind is None:
        return None
    return Event(f"msg_{secrets.token_hex(16)}", _payload(kind, {"request_id": request_id, **record.members()}))


def job_event(document: Mapping[str, Any], *, who: str | None, request_id: str | None) -> Event:
    """Return the event of a job that has ended. ``document`` is the job as clients see it.

    Of the upload API's answer it has the status only. ``request_id`` is None if it is not known any more.
    """
    answer = document["answer"]
    data = {
        "request_id": request_id,
        "id": document["id"],
        "who": who,
        **{member: document[member] for member in ("state", "received", "forwarded", "total")},
        "status": None if answer is None else answer["status"],
        "problem": document["problem"],
    }
    # Always the same id for the same end: two processes may find the same lost job.
    return Event(f"msg_{document['id']}_{document['state']}", _payload(f"job.{document['state']}", data))


def _payload(kind: str, data: Mapping[str, Any]) -> bytes:
    timestamp = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    document = {"type": kind, "timestamp": timestamp, "data": data}
    # Not as ASCII: many JSON parsers refuse the escapes of undecodable bytes in file names.
    return json.dumps(document, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")
