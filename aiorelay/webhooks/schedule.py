"""How long to wait: between two deliveries of an event, and before a receiver that is away is tried again. Pure.

Times are in seconds. ``age`` is that of an event, so pauses grow over restarts too, and no count has to be kept.
"""

import email.utils
from dataclasses import dataclass
from typing import Final

__all__ = ["DAY", "ReceiverState", "Schedule", "retry_after"]

HOUR: Final = 3600.0
DAY: Final = 24 * HOUR
_MOST_DOUBLINGS: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The pauses after a delivery that was not accepted, and after how long an event is given up.

    An event is tried for at least ``least`` seconds by the process that has it: the relay may have been stopped.
    """

    first: float = 5.0
    longest: float = HOUR
    given_up: float = DAY
    least: float = HOUR

    def pause(self, age: float) -> float:
        """Return the pause until the next delivery, which doubles the age of the event: 5 s, 5 s, 10 s, … 1 h."""
        return min(max(age, self.first), self.longest)

    def until(self, since: float, now: float) -> float:
        """Return the time at which an event is given up that a process gets ``now``."""
        return max(since + self.given_up, now + self.least)


class ReceiverState:
    """Whether the receiver is away, and until when it is left alone.

    Away is a receiver that cannot be reached, does not answer, or asks for a pause. Then one event is sent after each
    pause, which doubles up to ``longest``; the others wait.
    """

    def __init__(self, longest: float = 60.0) -> None:
        self.failures = 0
        self.resting_until = 0.0
        self._longest = longest

    @property
    def is_away(self) -> bool:
        return self.failures > 0

    def accepted(self) -> None:
        self.failures = 0

    def failed(self, now: float, pause: float | None) -> None:
        """Leave the receiver alone, for ``pause`` seconds at least if that is given.

        Deliveries that fail during a pause had begun before it, and do not make the next one longer.
        """
        if now >= self.resting_until:
            self.resting_until = now + min(2.0**self.failures, self._longest)
            self.failures = min(self.failures + 1, _MOST_DOUBLINGS)
        if pause is not None:
            self.resting_until = max(self.resting_until, now + pause)


def retry_after(value: str | None, now: float) -> float | None:
    """Return the seconds that a Retry-After field asks for (RFC 9110, section 10.2.3), at most a day.

    ``now`` is in seconds since the epoch. None if there is no valid value.
    """
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text[:9]), DAY)
    try:
        at = email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    return min(max(at - now, 0.0), DAY)
