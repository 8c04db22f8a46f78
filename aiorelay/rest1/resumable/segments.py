"""Where the bytes of unfinished uploads are kept that relays share: in segments, one after the other.

A segment has some consecutive bytes of one upload. Which segments an upload has, and how many bytes of each count, is
written down in Redis (``upload_records``), after the segment is kept. So a segment that nobody knows of is garbage, and
no order of failures makes bytes appear twice or in the wrong place.
"""

from collections.abc import AsyncGenerator, Collection
from typing import Protocol

__all__ = ["Segments"]


class Segments(Protocol):
    """Keeps segments under names, such as ``UPLOAD/RANDOM`` (of A-Z, a-z, 0-9, "-", "_" and one "/").

    An implementation promises:

    - What ``put`` has returned from is read by every relay, and survives the end of every relay.
    - A name is used for one content only. ``put`` may be called again with both, after a failure.
    - Methods may be cancelled at any time. A cancelled ``put`` may have kept the segment or not, but never half of it.
    - Methods raise ``StorageFull``, ``StateUnavailable`` or ``Internal``, and no other exceptions.

    The implementation retries what may succeed, for less than a few seconds: clients wait.
    """

    @property
    def largest(self) -> int:
        """The most bytes of a segment. Twice as many are gathered in memory for each request."""

    async def put(self, name: str, content: bytes) -> None:
        """Keep a segment of 1 to ``largest`` bytes."""

    def read(self, name: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a segment from ``start`` to ``end``, which are in it, in blocks of any size.

        Raises ``Gone`` if the segment is not there.
        """

    async def remove(self, names: Collection[str]) -> None:
        """Remove those of the segments that are there."""

    def older_than(self, seconds: float) -> AsyncGenerator[str, None]:
        """Yield the names of all segments that were put at least so long ago, to find those that nobody knows of."""
