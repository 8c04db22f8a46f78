"""Learn how long an idle connection can be reused, from how long the server keeps connections open. Pure."""

from collections.abc import Callable
from typing import Final

__all__ = ["LONGEST", "WATCH", "KeepAlive"]

LONGEST: Final = 1.5  # seconds; no connection that was idle for longer is reused
WATCH: Final = 2 * LONGEST  # seconds; a longer watch of an idle connection would not change the limit
# Seconds. If a server closes sooner, a delay on a busy machine could be enough to miss its limit.
_SHORTEST: Final = 1.0
# Seconds after a close by the server until it is measured again: the server may have been restarted.
_MEASURE_AGAIN: Final = 60.0


class KeepAlive:
    """The measured lifetime of one server's idle connections.

    Servers close idle connections without notice, after different times. If a request is sent at that moment, the
    client cannot know whether it was processed (RFC 9112, section 9.3.1). A connection is therefore reused only within
    half of the time for which one was observed to stay open. Before such an observation, each request uses a new
    connection. ``clock`` returns seconds. ``seen`` is an initially known time in seconds.
    """

    def __init__(self, clock: Callable[[], float], seen: float = 0.0) -> None:
        self._clock = clock
        self._seen = seen  # seconds for which an idle connection stayed open
        self._watched_since: float | None = None
        self._measure_after = clock()

    def limit(self) -> float:
        """Return how long in seconds a connection may be idle before reuse, or 0 to reuse none."""
        seen = max(self._seen, self._watched())
        return min(seen / 2, LONGEST) if seen >= _SHORTEST else 0.0

    def wants_watch(self) -> bool:
        """Whether an idle connection should be watched."""
        return self._watched_since is None and self._seen < WATCH and self._clock() >= self._measure_after

    def watch(self) -> None:
        """Record that the watch of an idle connection begins."""
        self._watched_since = self._clock()

    def end_watch(self, *, is_open: bool) -> None:
        """Record the end of the watch: the connection is still open, or the server has closed it."""
        watched, self._watched_since = self._watched(), None
        if is_open:
            self._seen = max(self._seen, watched)
        else:
            self.server_closed(watched)

    def server_closed(self, idle: float) -> None:
        """Record that the server closed a connection after ``idle`` seconds."""
        self._seen = min(self._seen, idle) if self._seen else idle
        self._measure_after = self._clock() + _MEASURE_AGAIN

    def reset(self) -> None:
        """Discard the measurement, because a connection failed in use."""
        self._seen = 0.0
        self._measure_after = self._clock()
        if self._watched_since is not None:
            self._watched_since = self._clock()

    def _watched(self) -> float:
        return 0.0 if self._watched_since is None else self._clock() - self._watched_since
