"""Where files are stored. The storing server does not know which kind of store it has.

    async with store.receive(length) as incoming:
        writer = incoming.file(name, media_type)   write() …, close()       for each file
        location = await incoming.keep()           all files are visible, or none

``directory`` and ``bucket`` have the two kinds.
"""

from contextlib import AbstractAsyncContextManager
from typing import Protocol

from aiorelay.files.writer import StoredFile

__all__ = ["FileWriter", "Incoming", "Store"]


class FileWriter(Protocol):
    """One file being written. Both methods raise a ``Problem`` if the storage fails."""

    async def write(self, block: bytes, /) -> None:
        """Append ``block``. Waits while the storage is slower than the client."""

    async def close(self) -> StoredFile:
        """Write the rest, and return the file's name, size and digest."""


class Incoming(Protocol):
    """The files of one form. Nothing of them is visible before ``keep()`` has begun."""

    def file(self, filename: str, media_type: str | None, /) -> FileWriter:
        """Create a file under the safe form of ``filename``, with a number if the form has that name twice."""

    async def keep(self) -> str:
        """Publish all files, and return the location that their names are appended to.

        Every writer must have been closed. After the return, the files are not removed. Raises a ``Problem``.
        """


class Store(Protocol):
    """A store of files."""

    def receive(self, length: int | None, /) -> AbstractAsyncContextManager[Incoming]:
        """Return the context in which one form's files are received. Leaving it before ``keep()`` removes them.

        ``length`` is the length of the form in bytes, if it is known.
        """
