"""Limit how many uploads are under way at once, of all principals together and of each."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Final, Protocol

from aiorelay.errors import Busy, RateLimited

__all__ = ["MemorySlots", "UploadSlots", "busy", "too_many_of_one"]

_PAUSE: Final = 5  # seconds until one of several uploads may have ended


class UploadSlots(Protocol):
    """One slot for each upload under way. Several relays may share them."""

    def hold(self, principal: str) -> AbstractContextManager[None]:
        """Hold a slot for as long as the context lasts. Raises ``Busy`` and ``RateLimited``."""


class MemorySlots:
    """The ``most`` slots of this process, of which one principal may hold ``most_of_one``. None means no such limit."""

    def __init__(self, most: int, most_of_one: int | None = None) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._held = 0
        self._held_by: dict[str, int] = {}

    @contextmanager
    def hold(self, principal: str) -> Iterator[None]:
        held = self._held_by.get(principal, 0)
        if self._held >= self._most:
            raise busy()
        if self._most_of_one is not None and held >= self._most_of_one:
            raise too_many_of_one(self._most_of_one)
        self._held += 1
        self._held_by[principal] = held + 1
        try:
            yield
        finally:
            self._held -= 1
            self._held_by[principal] -= 1
            if not self._held_by[principal]:
                del self._held_by[principal]


def busy() -> Busy:
    """Return the problem for an upload for which there is no slot."""
    return Busy("The relay has as many uploads under way as it may; try again soon.")


def too_many_of_one(most: int) -> RateLimited:
    """Return the problem for a principal that already holds ``most`` slots."""
    detail = f"You have {most} uploads under way, and no more are allowed. Wait until one of them has ended."
    return RateLimited(detail, retry_after=_PAUSE)
