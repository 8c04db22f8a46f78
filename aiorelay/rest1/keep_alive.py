"""Learn for how long an idle connection can be reused from how long the server leaves one open. Pure."""

from collections.abc import Callable
from typing import Final

__all__ = ["LONGEST", "WATCH", "KeepAlive"]

LONGEST: Final = 1.5  # seconds that a connection may be idle and be used again, however long the server keeps it
WATCH: Final = 2 * LONGEST  # seconds for which it pays to watch an idle connection
_WORTH: Final = 1.0  # a server that hangs up sooner may do so while a busy machine has not yet sent what it meant to
_AGAIN: Final = 60.0  # seconds after which a hang-up is looked into again: the server may only have been started anew


class KeepAlive:
    """What is known of one server's idle connections.

    Servers hang up on idle connections without notice, each after a time of its own, and nobody knows whether a request
    that meets the hang-up was read (RFC 9112, section 9.3.1). So a connection is used again only within half of the
    time for which one has been seen to stay open; until then each request has a connection of its own. ``clock`` gives
    seconds; ``seen`` is the time that is known at the beginning.
    """

    def __init__(self, clock: Callable[[], float], seen: float = 0.0) -> None:
        self._clock = clock
        self._seen = seen  # seconds for which an idle connection stayed open
        self._watched_since: float | None = None
        self._learn_after = clock()

    def limit(self) -> float:
        """How long a connection may have been idle to be used again, in seconds; 0 where none may."""
        seen = max(self._seen, self._watched())
        return min(seen / 2, LONGEST) if seen >= _WORTH else 0.0

    def wants_watch(self) -> bool:
        """Whether there is more to learn from an idle connection, and none is watched."""
        return self._watched_since is None and self._seen < WATCH and self._clock() >= self._learn_after

    def watch(self) -> None:
        """A connection that has just become idle is watched from now on."""
        self._watched_since = self._clock()

    def end_watch(self, *, is_open: bool) -> None:
        """The watch has ended: with the connection open, or because the server has hung up."""
        watched, self._watched_since = self._watched(), None
        if is_open:
            self._seen = max(self._seen, watched)
        else:
            self.hung_up(watched)

    def hung_up(self, idle: float) -> None:
        """The server has hung up on a connection that was idle for so many seconds."""
        self._seen = min(self._seen, idle) if self._seen else idle
        self._learn_after = self._clock() + _AGAIN

    def forget(self) -> None:
        """A connection broke in use: what was learnt may not hold any more."""
        self._seen = 0.0
        self._learn_after = self._clock()
        if self._watched_since is not None:
            self._watched_since = self._clock()

    def _watched(self) -> float:
        return 0.0 if self._watched_since is None else self._clock() - self._watched_since
