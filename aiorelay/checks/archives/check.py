"""The archive check: spool a file while it streams, inspect it when it is complete.

It refuses archives that exceed the limits on unpacked bytes, entries or ratio; paths and links that lead out of the
archive; devices and encrypted entries; conflicting headers, overlapping entries and data that only some programs find;
archives within archives. A compressed file counts as an archive of one entry. Other files pass.
"""

import asyncio
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from io import SEEK_END
from itertools import chain
from typing import BinaryIO

from aiorelay.checks.archives.embedded import SEARCHED, Detector, search
from aiorelay.checks.archives.formats import HEAD, UUENCODED, ZIP_HEADS, compression, is_tar_header, is_unreadable
from aiorelay.checks.archives.inflate import PIECE, InflatedPart, inflated, inflated_until_damaged
from aiorelay.checks.archives.rules import ArchiveBudget, UnpackLimits, damaged
from aiorelay.checks.archives.tar import inspect_tar
from aiorelay.checks.archives.zip import inspect_content, inspect_zips
from aiorelay.checks.pipeline import Check, CheckFactory
from aiorelay.concurrency.threads import wait_until_done
from aiorelay.errors import ArchiveRefused
from aiorelay.files.spool import Spool
from aiorelay.multipart.form import Part

__all__ = ["UnpackLimits", "archive_check", "inspect"]


def archive_check(limits: UnpackLimits, spool: Callable[[], Spool], pool: Executor) -> CheckFactory:
    """Refuse archives that exceed ``limits`` with ``ArchiveRefused``. Each file is kept in a spool from ``spool``."""

    def make(part: Part) -> Check | None:
        return _ArchiveCheck(limits, spool(), pool) if part.is_file else None

    return make


class _ArchiveCheck:
    def __init__(self, limits: UnpackLimits, spool: Spool, pool: Executor) -> None:
        self._limits = limits
        self._spool = spool
        self._pool = pool
        self._inspection: asyncio.Future[None] | None = None

    async def feed(self, chunk: bytes) -> None:
        await self._spool.write(chunk)

    async def finish(self) -> None:
        await self._spool.end()
        loop = asyncio.get_running_loop()
        self._inspection = loop.run_in_executor(self._pool, inspect, self._spool.file(), self._limits)
        await asyncio.shield(self._inspection)

    async def close(self) -> None:
        if self._inspection is not None:
            await wait_until_done(self._inspection)
        await self._spool.close()


_TAR_PADDING = 10_240
"""Length of an empty tar in bytes. It compresses to almost nothing, so the ratio does not count it."""

_COMPRESSED = re.compile(rb"\x1f\x8b\x08[\0-\x1f].{4}[\0\2\4]|BZh[1-9]1AY&SY|\xfd7zXZ\0", re.DOTALL)
"""The beginning of compressed data that 7-Zip finds inside a file of another format."""

_UNREADABLE = re.compile(
    rb"7z\xbc\xaf\x27\x1c\0[\2-\4].{10}\0\0|Rar!\x1a\x07(?:\0..\x73|\x01\0.{4}[\3-\x7f][\1\4])", re.DOTALL
)
"""The beginning of a 7z or rar archive that 7-Zip finds inside other data. A signature alone would also match programs
that read these formats."""

_BEGINNING = 128 << 10  # bytes in which bsdtar searches for uuencoded data
_DISC_AT, _DISC = 32_769, b"CD001"  # ISO 9660: several directory entries may share the same data


def inspect(file: BinaryIO, limits: UnpackLimits) -> None:
    """Inspect a complete, seekable file from its beginning. This blocks and may be slow: call it in a thread.

    Raises ``ArchiveRefused``, and OSError if ``file`` cannot be read or an embedded document cannot be copied. Time is
    proportional to the size of the file and of its unpacked content within ``limits``, memory to the number of entries,
    and disk space (in ``TMPDIR``) to the size of the largest documents nested in each other.
    """
    size = file.seek(0, SEEK_END)
    budget = ArchiveBudget(limits, size)
    beginning = InflatedPart(file, 0, size).read(_BEGINNING)
    head = beginning[:HEAD]
    if is_unreadable(head) or UUENCODED.search(beginning) or beginning.startswith(_DISC, _DISC_AT):
        raise _unreadable()
    is_tar = is_tar_header(head)
    if kind := compression(head):
        _inspect_stream(_counted(inflated(file, kind), budget), budget)
    elif is_tar:
        inspect_tar(_pieces(file, size), budget)
    elif not head.startswith(ZIP_HEADS):
        _inspect_hidden_streams(file, size, budget)
    # A budget of its own: a program unpacks either the zips in a file or the rest of it.
    inspect_zips(file, size, ArchiveBudget(limits, size), is_tar=is_tar)
    if not is_tar:
        _refuse_hidden_tar(_pieces(file, size))


def _inspect_stream(pieces: Iterator[bytes], budget: ArchiveBudget) -> None:
    """Inspect the content of a compressed file: a tar, or one file that must not be an archive."""
    head = b""
    while len(head) < HEAD and (piece := next(pieces, b"")):
        head += piece
    pieces = chain([head] if head else [], pieces)
    if is_tar_header(head):
        inspect_tar(pieces, budget)
        return
    budget.entry(0)  # its size is counted while it is inflated
    inspect_content("", pieces, budget)


def _inspect_hidden_streams(file: BinaryIO, size: int, budget: ArchiveBudget) -> None:
    """Count the size of compressed data that follow other data. Refuse those in a format that cannot be read."""
    if next(search(file, _UNREADABLE, 0, min(SEARCHED, size)), None) is not None:
        raise _unreadable()
    for at in search(file, _COMPRESSED, 0, min(SEARCHED, size)):
        kind = compression(InflatedPart(file, at, size).read(16))
        if kind is not None:
            for piece in inflated_until_damaged(InflatedPart(file, at, size), kind):
                budget.inflated_more(len(piece))


def _unreadable() -> ArchiveRefused:
    return ArchiveRefused(
        "The file is or contains an archive in a format that cannot be inspected. Send a zip or a tar."
    )


def _refuse_hidden_tar(pieces: Iterator[bytes]) -> None:
    detector = Detector()
    for piece in pieces:
        detector.feed(piece)
    if detector.tar:
        raise damaged("it contains a hidden tar")


def _pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    part = InflatedPart(file, 0, size)
    return iter(lambda: part.read(PIECE), b"")


def _counted(pieces: Iterator[bytes], budget: ArchiveBudget) -> Iterator[bytes]:
    total = 0
    for piece in pieces:
        total += len(piece)
        budget.inflated(total, uncounted=_TAR_PADDING)
        yield piece
