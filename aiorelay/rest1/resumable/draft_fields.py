"""Parse and render the header fields of draft-ietf-httpbis-resumable-upload. Pure.

Upload-Complete: ?1                              whether the content is the end of the upload
Upload-Offset: 70                                where the content begins
Upload-Length: 100                               the length of the upload
Upload-Limit: max-size=1000, max-age=86400       a dictionary of integers
Upload-Draft-Interop-Version: 8                  the draft that the client speaks

They are structured fields (RFC 9651). The draft wants a field of another type to be ignored, so nothing is raised here
for one that is malformed.
"""

from collections.abc import Mapping
from typing import Any

import http_sf

from aiorelay.errors import InconsistentLength
from aiorelay.http.structured_fields import parse_item

__all__ = [
    "INTEROP_VERSIONS",
    "PARTIAL_UPLOAD",
    "declared_length",
    "parse_complete",
    "parse_interop_version",
    "parse_size",
    "render_complete",
    "render_limits",
]

PARTIAL_UPLOAD = "application/partial-upload"
"""The media type of what is appended."""

INTEROP_VERSIONS = frozenset({6, 7, 8})
"""The drafts that are spoken: -04 and -05, which tus-js-client speaks, -06 to -08, and -09 and later."""


def parse_complete(value: str | None) -> bool | None:
    """Read Upload-Complete. None if it is missing or no boolean."""
    item = _bare_item(value)
    return item if isinstance(item, bool) else None


def parse_size(value: str | None) -> int | None:
    """Read Upload-Offset or Upload-Length, in bytes. None if it is missing or no integer of at least 0."""
    item = _bare_item(value)
    return item if isinstance(item, int) and not isinstance(item, bool) and item >= 0 else None


def parse_interop_version(value: str | None) -> int | None:
    """Read Upload-Draft-Interop-Version. None if it is missing or not spoken: that client gets no 104."""
    version = parse_size(value)
    return version if version in INTEROP_VERSIONS else None


def render_complete(complete: bool) -> str:  # noqa: FBT001 - the one value of the field
    """Write Upload-Complete."""
    return http_sf.ser(complete)


def render_limits(limits: Mapping[str, int]) -> str:
    """Write Upload-Limit: sizes in bytes (``max-size``, ``max-append-size``), ages in seconds (``max-age``).

    Raises ``ValueError`` for a number of more than 15 digits.
    """
    return http_sf.ser(dict(limits))


def declared_length(
    *, known: int | None, upload_length: int | None, complete: bool, offset: int, content_length: int | None
) -> int | None:
    """The length of an upload in bytes, after a request for it; None if nobody has told it yet.

    ``known`` is what earlier requests told, ``upload_length`` what this one tells. One that is ``complete`` and has a
    ``content_length`` tells the length too, for its content begins at ``offset``. Raises ``InconsistentLength`` if they
    differ.
    """
    end = offset + content_length if complete and content_length is not None else None
    told = {length for length in (known, upload_length, end) if length is not None}
    if len(told) > 1:
        lengths = " and ".join(map(str, sorted(told)))
        raise InconsistentLength(f"The length of the upload is given as {lengths} bytes. Begin a new upload.")
    return next(iter(told), None)


def _bare_item(value: str | None) -> Any:
    """The bare item of an Item, whatever its parameters; None if there is no valid one."""
    try:
        return None if value is None else parse_item(value)
    except ValueError:
        return None
