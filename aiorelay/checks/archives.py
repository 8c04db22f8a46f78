r"""Looking into archives: what a zip or a tar (also compressed) would unpack to, before it may pass.

    inspect          a whole file → nothing, or ``ArchiveRefused`` with a plain reason

Refused: more bytes, entries, or times its own size than the limits allow; entries that are not what they declare;
paths and links that lead out of the archive (absolute, ``..``, a drive letter, ``\`` as ``/``), devices, encrypted
entries; overlapping entries, headers that disagree, data that only some programs would see; and archives directly
inside, told by their ending or by what tools find in them. Office documents and e-books inside are looked into. A file
that is only compressed counts as an archive of one entry. Archives and compressions that cannot be looked into (7z,
rar, lz4, and others with a signature of their own) are refused. What is no archive, by its content and whatever its
name, passes untouched.

What some tool would unpack is what counts: archives behind other data are found as well.

    archives ─▶ archive_tar ─▶ archive_zip ─▶ archive_zip_records ─▶ archive_hidden ──▶ archive_kinds
                                                               └▶ archive_inflate ─▶ archive_rules ─▶ archive_kinds
"""

import re
from collections.abc import Iterator
from io import SEEK_END
from itertools import chain
from typing import BinaryIO

from aiorelay.checks.archive_hidden import SEARCHED, Detector, search
from aiorelay.checks.archive_inflate import PIECE, InflatedPart, as_far_as_sound, inflated
from aiorelay.checks.archive_kinds import HEAD, UUENCODED, ZIP_HEADS, compression, is_tar_header, is_unreadable
from aiorelay.checks.archive_rules import ArchiveBudget, UnpackLimits, damaged
from aiorelay.checks.archive_tar import inspect_tar
from aiorelay.checks.archive_zip import inspect_content, inspect_zips
from aiorelay.errors import ArchiveRefused

__all__ = ["UnpackLimits", "inspect"]

_TAR_PADDING = 10_240
"""Bytes that a tar of nothing is long: they inflate from next to none, and are not held against the ratio."""

_COMPRESSED = re.compile(rb"\x1f\x8b\x08[\0-\x1f].{4}[\0\2\4]|BZh[1-9]1AY&SY|\xfd7zXZ\0", re.DOTALL)
"""Where 7-Zip finds compressed data in a file of another format."""

_UNREADABLE = re.compile(
    rb"7z\xbc\xaf\x27\x1c\0[\2-\4].{10}\0\0|Rar!\x1a\x07(?:\0..\x73|\x01\0.{4}[\3-\x7f][\1\4])", re.DOTALL
)
"""Where 7-Zip finds archives of others, by more than their signature: programs that read them hold that, too."""

_BEGINNING = 128 << 10  # bytes in which bsdtar looks for uuencoded data
_DISC_AT, _DISC = 32_769, b"CD001"  # ISO 9660: directory entries may share their data


def inspect(file: BinaryIO, limits: UnpackLimits) -> None:
    """Judge a complete file, seekable and read from its beginning whatever its position. Slow: for a thread.

    Raises ``ArchiveRefused``, and OSError where ``file`` cannot be read or a document in it not be copied. Takes time
    in proportion to the file and to what it unpacks to within ``limits``, memory to its number of entries, and disk
    space (``TMPDIR``) to the largest documents that lie in each other.
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
    inspect_zips(
        file, size, ArchiveBudget(limits, size), is_tar=is_tar
    )  # a program unpacks the zips of a file, or the rest
    if not is_tar:
        _refuse_hidden_tar(_pieces(file, size))


def _inspect_stream(pieces: Iterator[bytes], budget: ArchiveBudget) -> None:
    """Judge what a compressed file inflates to: a tar, or one file that must be no archive itself."""
    head = b""
    while len(head) < HEAD and (piece := next(pieces, b"")):
        head += piece
    pieces = chain([head] if head else [], pieces)
    if is_tar_header(head):
        inspect_tar(pieces, budget)
        return
    budget.entry(0)  # its size is counted while it inflates
    inspect_content("", pieces, budget)


def _inspect_hidden_streams(file: BinaryIO, size: int, budget: ArchiveBudget) -> None:
    """Count what compressed data inflate to that are behind others; refuse those that nothing here reads."""
    if next(search(file, _UNREADABLE, 0, min(SEARCHED, size)), None) is not None:
        raise _unreadable()
    for at in search(file, _COMPRESSED, 0, min(SEARCHED, size)):
        kind = compression(InflatedPart(file, at, size).read(16))
        if kind is not None:
            for piece in as_far_as_sound(InflatedPart(file, at, size), kind):
                budget.more(len(piece))


def _unreadable() -> ArchiveRefused:
    return ArchiveRefused("The file is, or holds, an archive of a format that cannot be looked into.")


def _refuse_hidden_tar(pieces: Iterator[bytes]) -> None:
    detector = Detector()
    for piece in pieces:
        detector.feed(piece)
    if detector.tar:
        raise damaged("a tar is hidden in it")


def _pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    part = InflatedPart(file, 0, size)
    return iter(lambda: part.read(PIECE), b"")


def _counted(pieces: Iterator[bytes], budget: ArchiveBudget) -> Iterator[bytes]:
    total = 0
    for piece in pieces:
        total += len(piece)
        budget.inflated(total, uncounted=_TAR_PADDING)
        yield piece
