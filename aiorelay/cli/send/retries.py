"""The pauses between the attempts of a resumable upload. No I/O."""

from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["PATIENCE", "Pauses", "parse_retry_after"]

PATIENCE = 600.0
"""Seconds of pauses without progress after which an upload fails."""

_LONGEST = 30.0


class Pauses:
    """Pauses of 0.25, 0.5, 1 … 30 s, and of ``PATIENCE`` seconds in all unless the upload makes progress.

    Time that passes while the computer is suspended does not count.
    """

    def __init__(self) -> None:
        self._acknowledged = -1
        self._pauses = _growing()

    def after(self, acknowledged: int, retry_after: float | None = None) -> float | None:
        """Return the seconds to wait before the next attempt, None after the last one.

        ``acknowledged`` are the bytes that the server has; ``retry_after`` is the least that it asked for.
        """
        if acknowledged > self._acknowledged:
            self._acknowledged = acknowledged
            self._pauses = _growing()
        pause = next(self._pauses, None)
        return None if pause is None else max(pause, min(retry_after or 0.0, PATIENCE))


def parse_retry_after(value: str | None) -> float | None:
    """Read Retry-After (RFC 9110, section 10.2.3) as seconds from now. None if it is missing or malformed."""
    if value is None:
        return None
    if value.isascii() and value.isdigit():
        return float(value)
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max((at.replace(tzinfo=at.tzinfo or UTC) - datetime.now(UTC)).total_seconds(), 0.0)


def _growing() -> Iterator[float]:
    pause, waited = 0.25, 0.0
    while waited < PATIENCE:
        yield pause
        waited += pause
        pause = min(2 * pause, _LONGEST)
