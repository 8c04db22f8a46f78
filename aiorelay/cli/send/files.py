"""Open a file or standard input as a Part."""

import asyncio
import os
import stat
import sys
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass

from aiorelay.cli.send.results import SendError
from aiorelay.files.filenames import media_type_by_extension
from aiorelay.files.local import BLOCK, LocalFile

__all__ = ["STDIN", "OpenedFile", "opened"]

STDIN = "-"
# Opening a named pipe must not wait for its writer, or nothing could interrupt it.
_HOW = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_OCTETS = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """An open source: ``size`` is its length in bytes, None where only its end tells."""

    filename: str
    media_type: str
    size: int | None
    chunks: AsyncIterator[bytes]


@asynccontextmanager
async def opened(name: str) -> AsyncGenerator[OpenedFile, None]:
    """Open the file ``name``, or standard input as it is passed on by a shell: a pipe, a terminal, or a file.

    A file that is changed while it is read makes ``chunks`` raise a ``Problem``. Raises ``SendError``.
    """
    if name == STDIN and sys.stdin is None:  # its number may long be that of something else
        raise SendError("Standard input is closed")
    try:
        descriptor = os.dup(0) if name == STDIN else os.open(name, _HOW)
    except OSError as error:
        raise SendError(_words(error)) from error
    filename = "stdin" if name == STDIN else os.fsencode(os.path.basename(name)).decode(errors="replace")  # noqa: PTH119 - a Path would take "a/." for "a"
    media_type = media_type_by_extension(filename) or _OCTETS
    kind = os.fstat(descriptor)
    if stat.S_ISREG(kind.st_mode) and os.lseek(descriptor, 0, os.SEEK_CUR) == 0:
        file = LocalFile(descriptor, filename)
        try:
            yield OpenedFile(filename, media_type, file.size, file.chunks)
        finally:
            await file.close()
        return
    try:
        if stat.S_ISDIR(kind.st_mode):
            raise SendError("It is a directory; send the files in it, or an archive of it")
        async with aclosing(_as_it_comes(descriptor)) as chunks:
            yield OpenedFile(filename, media_type, None, chunks)
    finally:
        os.close(descriptor)


async def _as_it_comes(descriptor: int) -> AsyncGenerator[bytes, None]:
    while True:
        await _until_readable(descriptor)
        try:
            block = os.read(descriptor, BLOCK)
        except BlockingIOError:  # somebody else took it
            continue
        except OSError as error:
            raise SendError(_words(error)) from error
        if not block:
            return
        yield block


async def _until_readable(descriptor: int) -> None:
    """Wait until reading does not block.

    It is not made non-blocking: standard input may be a terminal, which others use with the same setting. And a thread
    that waits in a read could not be interrupted.
    """
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    try:
        loop.add_reader(descriptor, readable.set)
    except PermissionError:  # of epoll: files and devices that never make wait
        await asyncio.sleep(0)
        return
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)


def _words(error: OSError) -> str:
    return error.strerror or type(error).__name__
