"""Resume a body: what to request, and whether a response continues it (RFC 9110, section 14). Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime

__all__ = ["StrongValidator", "continuation", "strong_validator"]

_STRONG_ETAG = re.compile(r'"[^"]*"')
_CONTENT_RANGE = re.compile(r"bytes ([0-9]+)-([0-9]+)/([0-9]+)", re.IGNORECASE)
# RFC 9110, section 8.8.2.2 wants one second; RFC 7232 wanted a minute, which allows for clocks that differ.
_SETTLED = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class StrongValidator:
    """A strong validator of a representation: the response field ``name`` and its ``value``."""

    name: str
    value: str

    def range_headers(self, start: int) -> dict[str, str]:
        """Request fields for the bytes from ``start`` on, if nothing has changed (RFC 9110, section 13.1.5)."""
        return {"Range": f"bytes={start}-", "If-Range": self.value}

    def agrees(self, headers: Mapping[str, str]) -> bool:
        """Whether a response has the same validator. A 206 must repeat an ETag, but not a date."""
        return headers.get(self.name, self.value if self.name == "Last-Modified" else None) == self.value


def strong_validator(headers: Mapping[str, str]) -> StrongValidator | None:
    """Return a response's strong validator: its ETag, or a Last-Modified that is a minute older than its Date."""
    etag = headers.get("ETag", "")
    if _STRONG_ETAG.fullmatch(etag):
        return StrongValidator("ETag", etag)
    modified, sent = _date(headers.get("Last-Modified")), _date(headers.get("Date"))
    if modified and sent and sent - modified >= _SETTLED:
        return StrongValidator("Last-Modified", headers["Last-Modified"])
    return None


def continuation(content_range: str, start: int, total: int | None) -> tuple[int, int] | None:
    """Return the length of a 206's body and that of the whole file, or None if it does not fit.

    It fits if it begins at ``start`` and has the length ``total`` of the whole file, if that is known.
    """
    match = _CONTENT_RANGE.fullmatch(content_range)
    if not match:
        return None
    first, last, complete = map(int, match.groups())
    if first != start or not first <= last < complete or total not in (None, complete):
        return None
    return last - first + 1, complete


def _date(value: str | None) -> datetime | None:
    try:
        date = parsedate_to_datetime(value or "")
    except ValueError:
        return None
    return date if date.tzinfo else None
