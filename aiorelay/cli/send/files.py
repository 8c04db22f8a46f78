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
# O_NONBLOCK: opening a named pipe must not wait for its writer, because the wait could not be interrupted.
# O_NOCTTY: a terminal must not become the controlling one.
_OPEN_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_OCTETS = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class OpenedFile:
    """An open file: ``size`` is its length in bytes, None if unknown. ``local`` is a file that can be read again."""

    filename: str
    media_type: str
    size: int | None
    chunks: AsyncIterator[bytes]
    local: LocalFile | None = None


@asynccontextmanager
async def opened(name: str) -> AsyncGenerator[OpenedFile, None]:
    """Open the file ``name``, or standard input (a pipe, a terminal or a file) for "-".

    Raises ``SendError``. ``chunks`` raises a ``Problem`` if the file is changed while it is read.
    """
    if name == STDIN and sys.stdin is None:  # descriptor 0 may be another file by now
        raise SendError("Standard input is closed. Redirect a file or a pipe to it.")
    try:
        descriptor = os.dup(0) if name == STDIN else os.open(name, _OPEN_FLAGS)
    except OSError as error:
        raise SendError(_message(error)) from error
    filename = "stdin" if name == STDIN else os.fsencode(os.path.basename(name)).decode(errors="replace")  # noqa: PTH119 - a Path would take "a/." for "a"
    media_type = media_type_by_extension(filename) or _OCTETS
    kind = os.fstat(descriptor)
    if stat.S_ISREG(kind.st_mode) and os.lseek(descriptor, 0, os.SEEK_CUR) == 0:
        file = LocalFile(descriptor, filename)
        try:
            yield OpenedFile(filename, media_type, file.size, file.chunks, file)
        finally:
            await file.close()
        return
    try:
        if stat.S_ISDIR(kind.st_mode):
            raise SendError("It is a directory. Send the files in it, or an archive of it.")
        async with aclosing(_read_stream(descriptor)) as chunks:
            yield OpenedFile(filename, media_type, None, chunks)
    finally:
        os.close(descriptor)


async def _read_stream(descriptor: int) -> AsyncGenerator[bytes, None]:
    while True:
        await _until_readable(descriptor)
        try:
            block = os.read(descriptor, BLOCK)
        except BlockingIOError:  # another process has read the data
            continue
        except OSError as error:
            raise SendError(_message(error)) from error
        if not block:
            return
        yield block


async def _until_readable(descriptor: int) -> None:
    """Wait until reading does not block.

    The descriptor is not made non-blocking: standard input may be a terminal, and the flag is shared with other
    processes. A blocking read in a thread could not be interrupted.
    """
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    try:
        loop.add_reader(descriptor, readable.set)
    except PermissionError:  # epoll refuses files and devices that never block
        await asyncio.sleep(0)
        return
    try:
        await readable.wait()
    finally:
        loop.remove_reader(descriptor)


def _message(error: OSError) -> str:
    return f"{error.strerror or type(error).__name__}."
