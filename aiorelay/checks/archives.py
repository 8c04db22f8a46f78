r"""Looking into archives: what a zip or a tar (also .tar.gz, .tar.bz2, .tar.xz) would unpack to, before it may pass.

    inspect          a whole file → nothing, or ``ArchiveRefused`` with a plain reason

Refused: more bytes, entries, or times its own size than the limits allow; paths and links that lead out of the
archive (absolute, ``..``, a drive letter, ``\`` as ``/``), devices, encrypted entries; overlapping entries, headers
that disagree, data that only some programs would see; and archives directly inside, told by their ending or by their
first bytes (Office documents and e-books inside are documents). A file that is only compressed counts as an archive
of one entry. What is no such archive, by its content and whatever its name, passes untouched; so do other formats
(7z, rar, zst).

    archives ─▶ archive_zip, archive_tar ─▶ archive_rules ─▶ archive_kinds
             └▶ archive_inflate
"""

from collections.abc import Iterator
from io import SEEK_END
from typing import BinaryIO

from aiorelay.checks.archive_inflate import PIECE, inflated
from aiorelay.checks.archive_kinds import HEAD, compression, is_tar_header
from aiorelay.checks.archive_rules import Limits, Tally
from aiorelay.checks.archive_tar import inspect_tar
from aiorelay.checks.archive_zip import find_directories, inspect_zip

__all__ = ["Limits", "inspect"]

_TAR_PADDING = 10_240
"""Bytes that a tar of nothing is long: they inflate from next to none, and are not held against the ratio."""


def inspect(file: BinaryIO, limits: Limits) -> None:
    """Judge a complete file, seekable and read from its beginning whatever its position. Slow: for a thread.

    Raises ``ArchiveRefused``, and OSError where ``file`` cannot be read. Takes time in proportion to the file and to
    what a compressed tar inflates to within ``limits``, and memory to its number of entries.
    """
    size = file.seek(0, SEEK_END)
    file.seek(0)
    head = file.read(HEAD)
    if kind := compression(head):
        tally = Tally(limits, size)
        _inspect_stream(_counted(inflated(file, kind), tally), tally)
    elif is_tar_header(head):
        file.seek(0)
        inspect_tar(iter(lambda: file.read(PIECE), b""), Tally(limits, size))
    for directory in find_directories(file, size):  # also behind other data, so whatever the head says
        inspect_zip(file, directory, Tally(limits, size))


def _inspect_stream(pieces: Iterator[bytes], tally: Tally) -> None:
    """Judge what a compressed file inflates to: a tar, or one file that must be no archive itself."""
    head = b""
    while len(head) < HEAD and (piece := next(pieces, b"")):
        head += piece
    if is_tar_header(head):
        inspect_tar(_chain(head, pieces), tally)
        return
    tally.entry(0)  # its size is counted while it inflates
    tally.content("", head)
    for _ in pieces:
        pass


def _counted(pieces: Iterator[bytes], tally: Tally) -> Iterator[bytes]:
    total = 0
    for piece in pieces:
        total += len(piece)
        tally.inflated(total, uncounted=_TAR_PADDING)
        yield piece


def _chain(head: bytes, pieces: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from pieces
