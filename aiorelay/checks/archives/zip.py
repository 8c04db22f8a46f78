"""Check zip files by their central directory and by the data around it.

    inspect_zips       checks both headers and the data of every entry, and that there are no unlisted entries
    inspect_content    checks the content of one entry of a zip or tar: no archive, but possibly an Office document

Every entry is inflated to verify the size in both headers and to find archives in it.
"""

import stat
import tempfile
import zlib
from collections.abc import Iterator
from itertools import chain
from typing import BinaryIO

from aiorelay.checks.archives.embedded import SEARCHED, ZIP_ENTRY, Detector, is_zip_entry, search
from aiorelay.checks.archives.formats import HEAD, ZIP_HEADS, is_document
from aiorelay.checks.archives.inflate import InflatedPart, unpacked
from aiorelay.checks.archives.rules import ArchiveBudget, damaged
from aiorelay.checks.archives.zip_records import LONGEST_PATH, Directory, Entry, entries, extent, find_directories, peek

__all__ = ["inspect_content", "inspect_zips"]


def inspect_zips(file: BinaryIO, size: int, budget: ArchiveBudget, *, is_tar: bool = False) -> None:
    """Inspect every zip in a file of ``size`` bytes, usually the file itself. Raises ``ArchiveRefused``.

    Programs that read front to back must find no entry outside of these zips. bsdtar reads so if the file begins with
    ``PK``. 7-Zip does at the beginning of any file except a tar, whose entries are checked separately.
    """
    head = peek(file, 0, 4)
    streamed = head.startswith(b"PK")
    searched = size if streamed else min(SEARCHED, size)
    end = 0
    for directory in find_directories(file, size, is_tar=is_tar):
        start = _inspect_zip(file, directory, budget.for_archive())
        if not is_tar:
            _no_hidden_entry(file, end, min(start, searched), full_header=not streamed)
        end = directory.end
    if not is_tar and not head.startswith(ZIP_HEADS):
        _no_hidden_entry(file, end, searched, full_header=not streamed)


def inspect_content(name: str, pieces: Iterator[bytes], budget: ArchiveBudget) -> None:
    """Inspect the content of the last entry and read all of ``pieces``. Raises ``ArchiveRefused``."""
    head = b""
    while len(head) < HEAD and (piece := next(pieces, b"")):
        head += piece
    detector = Detector()
    pieces = chain([head] if head else [], pieces)
    if is_document(name, head):
        within = budget.for_document()
        with tempfile.TemporaryFile() as copy:
            for piece in pieces:
                detector.feed(piece)
                copy.write(piece)
            inspect_zips(copy, copy.tell(), within)
        if detector.tar:
            budget.nested()
        return
    budget.content(name, head)
    for piece in pieces:
        detector.feed(piece)
    if detector.tar or detector.zip:
        budget.nested()


def _inspect_zip(file: BinaryIO, directory: Directory, budget: ArchiveBudget) -> int:
    """Check every entry against the rules. Return the offset of the first one."""
    budget.declared(directory.entries)
    listed = sorted(entries(file, directory), key=lambda entry: entry.offset)
    first = end = listed[0].offset if listed else directory.start
    for entry in listed:
        budget.entry(entry.size)
        budget.path(entry.path)
        if entry.other_name is not None:
            budget.path(entry.other_name.decode("utf-8", "surrogateescape"))
        if entry.encrypted:
            budget.encrypted()
        if entry.offset < end:
            raise damaged("two entries overlap")
        _no_hidden_entry(file, end, entry.offset)
        start, end = extent(file, entry)
        if end > directory.start:
            raise damaged("an entry overlaps the directory")
        _inspect_entry(file, entry, start, budget)
    _no_hidden_entry(file, end, directory.start)
    budget.finish()
    return first


def _no_hidden_entry(file: BinaryIO, start: int, stop: int, *, full_header: bool = False) -> None:
    """Refuse unlisted entries that a program reading front to back would find.

    ``full_header``: only those with a complete header, as 7-Zip requires.
    """
    for at in search(file, ZIP_ENTRY, start, stop):
        if not full_header or is_zip_entry(peek(file, at, HEAD), 0):
            raise damaged("it has an entry that the directory does not list")


def _inspect_entry(file: BinaryIO, entry: Entry, start: int, budget: ArchiveBudget) -> None:
    """Check the type and the content of one entry."""
    kind = stat.S_IFMT(entry.mode)
    content = _content(file, entry, start)
    if kind == stat.S_IFLNK:
        target = b"" if entry.size > LONGEST_PATH else b"".join(content)
        budget.symlink(entry.path, target.decode("utf-8", "surrogateescape"))
    elif kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK):  # not S_IFIFO: zip sets it for files read from a pipe
        budget.special()
    else:
        inspect_content(entry.path, content, budget)


def _content(file: BinaryIO, entry: Entry, start: int) -> Iterator[bytes]:
    """Unpack an entry. Raise ``ArchiveRefused`` if its size or checksum differs from its headers."""
    size = checksum = 0
    for piece in unpacked(InflatedPart(file, start, start + entry.packed), entry.method):
        size += len(piece)
        checksum = zlib.crc32(piece, checksum)
        if size > entry.size:
            break
        yield piece
    if (size, checksum) != (entry.size, entry.crc):
        raise damaged("the size or checksum of an entry is wrong")
