"""Open a local file below a root, without following links out of it, as a stream of bytes.

Access is checked on open descriptors, never on names. The path is walked from the root by directory descriptors, one
component at a time, without following links. A link is read, and the walk starts again with the link's target in its
place. So a link that leads out of the root is refused, whatever others change in the tree meanwhile (RESOLVE_BENEATH of
openat2(2), in Python). Only regular files are opened.
"""

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Final

from aiorelay.concurrency.threads import wait_until_done
from aiorelay.errors import BadSource, Internal, PathRefused, Problem, SourceFailed, SourceMissing

__all__ = ["BLOCK", "PIECE", "LocalFile", "open_local"]

BLOCK: Final = 256 * 1024
"""The largest block in bytes."""

PIECE: Final = 2 * BLOCK
"""Bytes that a thread reads at once."""

_DIRECTORY: Final = os.O_PATH | os.O_DIRECTORY
# The file may have been replaced since it was checked. O_NONBLOCK: opening a FIFO must not block. O_NOCTTY: a terminal
# must not become the controlling one.
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
# The most links, and ".." in their targets. Linux follows at most 40 links (path_resolution(7)).
_DETOURS: Final = 40

_MISSING: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
_DENIED: Final = frozenset({errno.EACCES, errno.EPERM, errno.ELOOP})
_EXHAUSTED: Final = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})


async def open_local(path: str, roots: Sequence[Path]) -> "LocalFile":
    """Open the regular file at the absolute ``path`` below one of ``roots``, in a thread.

    A root may be a link or lie below one; ``path`` may begin with either spelling of it. Raises ``BadSource`` if the
    path is not absolute, ``PathRefused`` if it may not be read (whether or not it exists), ``SourceMissing`` if there
    is no file, and ``SourceFailed`` or ``Internal`` if opening fails otherwise.
    """
    opening = asyncio.get_running_loop().run_in_executor(None, _open, path, roots)
    try:
        await wait_until_done(opening)
    except asyncio.CancelledError:
        with contextlib.suppress(Problem):
            await opening.result().close()
        raise
    return opening.result()


class LocalFile:
    """An open file: its last path component, its exact length in bytes, and its blocks, to be read once.

    ``chunks`` yields blocks of at most BLOCK bytes; a thread reads the next piece while the present one is consumed. It
    raises ``SourceFailed`` before the last piece if the file has changed since it was opened: a file that changed its
    length never yields ``size`` bytes.
    """

    def __init__(self, fd: int, name: str) -> None:
        self.name = name
        self._fd = fd
        self._status = os.fstat(fd)
        self.size = self._status.st_size
        self._blocks = self._read_ahead(0)

    @property
    def chunks(self) -> AsyncIterator[bytes]:
        return self._blocks

    def chunks_from(self, offset: int) -> AsyncGenerator[bytes, None]:
        """Yield the blocks from ``offset`` on, as often as it is called. Close the generator before the file."""
        return self._read_ahead(offset)

    async def close(self) -> None:
        """Close the file when no thread reads it any more. Only the task that reads ``chunks`` may call this."""
        try:
            await self._blocks.aclose()
        finally:
            fd, self._fd = self._fd, -1
            if fd >= 0:
                os.close(fd)

    async def _read_ahead(self, start: int) -> AsyncGenerator[bytes, None]:
        reading = self._begin(start)
        try:
            for offset in range(start, max(self.size, start + 1), PIECE):  # an empty file is checked, too
                await wait_until_done(reading)
                piece = reading.result()
                if offset + PIECE < self.size:
                    reading = self._begin(offset + PIECE)
                for block in piece:
                    yield block
        finally:
            await wait_until_done(reading)

    def _begin(self, offset: int) -> asyncio.Future[list[bytes]]:
        return asyncio.get_running_loop().run_in_executor(None, self._read, offset)

    def _read(self, offset: int) -> list[bytes]:
        """Read a piece in blocks. Before the last piece is returned, check that the file has not changed."""
        piece = []
        end = min(offset + PIECE, self.size)
        try:
            while offset < end:
                block = os.pread(self._fd, min(BLOCK, end - offset), offset)
                if not block:
                    raise SourceFailed("The file became shorter while it was read.")
                piece.append(block)
                offset += len(block)
            if end == self.size:
                self._check_unchanged()
        except OSError as error:
            raise SourceFailed("The file could not be read to its end.") from error
        return piece

    def _check_unchanged(self) -> None:
        # Files below /proc have a size of 0 and content.
        if os.pread(self._fd, 1, self.size):
            raise SourceFailed("The file is longer than its length says.")
        now = os.fstat(self._fd)
        if (now.st_size, now.st_mtime_ns) != (self._status.st_size, self._status.st_mtime_ns):
            raise SourceFailed("The file was changed while it was read.")


def _open(path: str, roots: Sequence[Path]) -> LocalFile:
    root, names = _placed(path, roots)
    try:
        fd = _open_below(root, names)
    except OSError as error:
        raise _problem(error) from error
    return LocalFile(fd, os.fsencode(_names(path)[-1]).decode(errors="replace"))


def _placed(path: str, roots: Sequence[Path]) -> tuple[Path, list[str]]:
    """Return the root that ``path`` lies below, and the components after it."""
    if not path.startswith("/") or "\0" in path:
        raise BadSource("A local source is an absolute path without NUL characters.")
    try:
        os.fsencode(path)
    except UnicodeEncodeError as error:
        raise BadSource("The path cannot be written in this system's encoding of file names.") from error
    if not roots:
        raise PathRefused("Local files may not be read: the server was started without --local-root.")
    for root in roots:
        names = _beneath(path, root)
        if names is not None and ".." not in names:
            return root, names
    raise PathRefused("The path is not below a directory given with --local-root.")


def _names(path: str) -> list[str]:
    return [name for name in path.split("/") if name not in {"", "."}]


def _beneath(path: str, root: Path) -> list[str] | None:
    """Return the components of ``path`` after ``root``, compared by name alone; None if it does not begin with it."""
    names = _names(path)
    for spelling in (str(root.absolute()), os.path.realpath(root)):
        above = _names(spelling)
        if names[: len(above)] == above:
            return names[len(above) :]
    return None


def _open_below(root: Path, names: list[str]) -> int:
    for _ in range(_DETOURS + 1):
        opened = _walk(root, names)
        if isinstance(opened, int):
            return opened
        names = opened
    raise PathRefused("The path leads through too many links below --local-root.")


def _walk(root: Path, names: list[str]) -> int | list[str]:
    """Open ``names`` one below the other and return the descriptor of the last.

    At the first link or ``..``, return the names to walk instead.
    """
    if not names:
        raise _not_regular()
    here = os.open(root, _DIRECTORY)
    try:
        for position, name in enumerate(names):
            detour = _detour(root, names, position, here)
            if detour is not None:
                return detour
            if position < len(names) - 1:
                below = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=here)
                os.close(here)
                here = below
        return _open_regular(names[-1], here)
    finally:
        os.close(here)


def _detour(root: Path, names: list[str], position: int, here: int) -> list[str] | None:
    """Return ``names`` with the link or ``..`` at ``position`` resolved; None if it is neither.

    ``here`` is the directory that it is in.
    """
    name, rest = names[position], names[position + 1 :]
    if name == "..":  # from a link's target; the name before it is a real directory, which is open
        if position == 0:
            raise _leads_out()
        return names[: position - 1] + rest
    if not stat.S_ISLNK(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode):
        return None
    target = os.readlink(name, dir_fd=here)
    if not target.startswith("/"):
        return names[:position] + _names(target) + rest
    inside = _beneath(target, root)
    if inside is None:
        raise _leads_out()
    return inside + rest


def _open_regular(name: str, here: int) -> int:
    # Other files are not even opened: opening can rewind a tape or wake the writer of a FIFO.
    if not stat.S_ISREG(os.stat(name, dir_fd=here, follow_symlinks=False).st_mode):
        raise _not_regular()
    fd = os.open(name, _FILE, dir_fd=here)
    if not stat.S_ISREG(os.fstat(fd).st_mode):  # it may have been replaced
        os.close(fd)
        raise _not_regular()
    return fd


def _leads_out() -> PathRefused:
    return PathRefused("The path leads out of its --local-root through a link.")


def _not_regular() -> PathRefused:
    return PathRefused("Only regular files below a --local-root may be read.")


def _problem(error: OSError) -> Problem:
    if error.errno in _MISSING:
        return SourceMissing("There is no file at this path.")
    if error.errno in _DENIED:
        return PathRefused("The server has no permission to read this file, although it is below a --local-root.")
    if error.errno in _EXHAUSTED:
        return Internal("The server has no descriptor or memory left to open the file. Try again later.")
    return SourceFailed("The file could not be opened.")
