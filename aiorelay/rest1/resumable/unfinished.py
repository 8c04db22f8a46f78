"""What an unfinished upload is, and what is done with it, wherever it is kept.

There are two makers of ``Uploads`` and ``Appending``: ``store`` keeps uploads in files, for the processes of one
machine. ``shared_store`` keeps them in Redis and in ``Segments``, for the relays of several machines.
"""

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from aiorelay.errors import Gone, NotFound, OffsetMismatch

__all__ = [
    "Appending",
    "Upload",
    "UploadProtocol",
    "Uploads",
    "check_kept",
    "check_offset",
    "check_unfinished",
    "no_such_upload",
]

UploadProtocol = Literal["http", "tus"]
"""The protocol that made an upload: the draft of the IETF, or tus."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """An upload as it was when it was looked at. Times are seconds since the epoch, lengths bytes.

    ``request`` is what its creation asked for and ``outcome`` how it ended, both JSON objects of the caller's own; an
    upload that was removed or has expired has ``ended`` without an outcome. ``partial`` uploads are never delivered
    themselves, but as parts of another. ``size`` are the bytes that are kept, ``expires`` is when they are removed, or
    the record once it has ended.
    """

    id: str
    owner: str | None
    protocol: UploadProtocol
    created: float
    length: int | None
    request: dict[str, Any]
    partial: bool = False
    ended: float | None = None
    outcome: dict[str, Any] | None = None
    size: int = 0
    expires: float = 0.0

    @property
    def complete(self) -> bool:
        """Whether all bytes are kept."""
        return self.size == self.length

    @property
    def remaining(self) -> int:
        """Whole seconds until it expires."""
        return max(int(self.expires - time.time()), 0)

    @property
    def offset(self) -> int:
        """The bytes that clients are told of: not the last one of an upload that must yet be delivered."""
        if self.complete and self.ended is None and not self.partial:
            return max(self.size - 1, 0)
        return self.size


def no_such_upload() -> NotFound:
    """Return the problem for an upload that is not known, or not to this client."""
    return NotFound("There is no such upload, or not any more.")


def check_kept(upload: Upload, now: float, *, is_held: bool) -> None:
    """Raise ``NotFound`` or ``Gone`` for an upload that is over at the time ``now``.

    One that ``is_held`` by a request does not expire.
    """
    if upload.ended is not None and upload.expires <= now:
        raise no_such_upload()
    removed = upload.ended is not None and upload.outcome is None
    expired = upload.ended is None and upload.expires <= now and not is_held
    if removed or expired:
        raise Gone("The upload was removed or has expired; begin a new upload.")


def check_unfinished(upload: Upload) -> Upload:
    """Return an upload that has not ended. Raises ``Gone``."""
    if upload.ended is not None:
        raise Gone("The upload has ended; begin a new upload.")
    return upload


def check_offset(upload: Upload, offset: int) -> None:
    """Raise ``OffsetMismatch`` if the upload does not go on at ``offset``."""
    if offset != upload.offset:
        raise OffsetMismatch(f"The upload goes on at offset {upload.offset}.", offset=upload.offset, provided=offset)


class Appending(Protocol):
    """The only writer of an upload, for as long as a request appends to it or its bytes are delivered.

    Its methods are called by one task at a time. Those that write raise ``StorageFull``, ``Internal``, and
    ``StateUnavailable`` or ``Superseded`` if relays share uploads and this one cannot tell any more that it is the only
    writer.
    """

    @property
    def upload(self) -> Upload:
        """The upload as it is now: its ``size`` are the bytes that are ``written``."""

    @property
    def written(self) -> int:
        """The bytes that may be acknowledged, because they survive what the store promises to survive."""

    @property
    def received(self) -> int:
        """The bytes that the upload will have once all that was passed to ``write`` is written."""

    @property
    def is_delivering(self) -> bool:
        """Whether it is within ``delivering``."""

    @property
    def superseded(self) -> asyncio.Event:
        """Set once a newer request has claimed the upload. To be waited for together with the client's bytes."""

    async def write(self, block: bytes) -> None:
        """Append ``block``, which must not reach beyond the upload's length.

        Waits only while as much is gathered as may be. Raises ``Superseded`` too; then, as after any problem, no more
        can be written, what was written before stays, and ``upload`` says how much that is.
        """

    async def flush(self) -> Upload:
        """Write down all that was passed to ``write``, even if cancelled, and return the upload as it is then."""

    async def truncate(self, size: int) -> None:
        """Discard the bytes after the first ``size``."""

    async def set_length(self, length: int) -> None:
        """Write down the length of an upload that was created without."""

    def delivering(self) -> AbstractAsyncContextManager[None]:
        """Let no newer request end this one meanwhile: it waits. Raises ``Superseded`` if one has already."""

    def read(self, start: int = 0, end: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the bytes from ``start`` to ``end``, or all that are written."""

    async def end(self, outcome: dict[str, Any] | None) -> Upload:
        """Write down how the upload ended and remove its bytes; nothing can be appended any more."""


class Uploads(Protocol):
    """The unfinished uploads: create, find, append to, read, end and expire them.

    Methods raise ``Internal``, and ``StateUnavailable`` if relays share uploads and the state cannot be reached.
    """

    async def create(
        self,
        *,
        owner: str | None,
        protocol: UploadProtocol,
        request: dict[str, Any],
        length: int | None = None,
        partial: bool = False,
    ) -> Upload:
        """Make an upload without bytes; see ``Upload``.

        Raises ``StorageFull`` if there is no room, for its ``length`` if it has one.
        """

    async def create_ended(
        self,
        *,
        owner: str | None,
        protocol: UploadProtocol,
        request: dict[str, Any],
        length: int,
        outcome: dict[str, Any],
    ) -> Upload:
        """Keep the outcome of what was delivered without an upload of its own. Raises as ``create`` does."""

    async def find(self, identity: str, owner: str | None, protocol: UploadProtocol | None = None) -> Upload:
        """Return an upload, or how it ended. The request that appends to it, if one does, goes on.

        Raises ``NotFound`` if there is none, or if it is not for this ``owner`` or of this ``protocol``. Raises
        ``Gone`` if it was removed or has expired.
        """

    def appending(
        self, identity: str, owner: str | None, offset: int | None = None
    ) -> AbstractAsyncContextManager[Appending]:
        """Be the only writer of an upload, from ``offset`` on, or else from wherever it ends.

        Ends the request that is its writer now; waits for one that delivers. Leaving the context writes down what was
        gathered and raises as ``flush`` does, unless another exception is under way.

        Raises what ``find`` does, ``Gone`` also for an upload that has ended, ``OffsetMismatch``, ``Superseded`` by a
        request that is newer still, and ``UploadLocked`` if the writer does not let go of the upload.
        """

    async def interrupt(self, identity: str, owner: str | None) -> Upload:
        """End the request that appends to an upload, unless it delivers, and return the upload as it is then.

        No request that is older appends to it after that. Raises what ``find`` does, and ``UploadLocked``.
        """

    async def remove(self, identity: str, owner: str | None) -> None:
        """Remove an upload, or the outcome of one that has ended: it is ``Gone`` from now on.

        Raises what ``appending`` does.
        """
