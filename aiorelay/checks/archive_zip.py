"""Zip files, judged by their directory and by what stands around it (PKWARE APPNOTE 6.3, sections 4.3 to 4.5).

    find_directory   end record(s) → where the one directory is, or that this is no zip
    inspect_zip      every entry, in both its headers; nothing unaccounted for that some program would read

No entry is inflated, but for its first bytes (to see whether it is an archive itself) and for the target of a
symbolic link (at most a path's length). So sizes are what both headers of an entry agree on: a program that inflates
more than that ignores the directory, and what its entries can hold at all is bounded by how deflate works.
"""

import stat
import struct
import zlib
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from aiorelay.checks.archive_kinds import HEAD, ZIP_HEADS
from aiorelay.checks.archive_rules import Tally, damaged

__all__ = ["Directory", "find_directory", "inspect_zip"]

_LOCAL, _CENTRAL, _END, _END64, _LOCATOR = (b"PK" + mark for mark in (b"\3\4", b"\1\2", b"\5\6", b"\6\6", b"\6\7"))
_DESCRIPTOR = b"PK\7\10"
_LONGEST_COMMENT = 0xFFFF
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF  # "see the zip64 field"

_FLAG_ENCRYPTED, _FLAG_DESCRIPTOR, _FLAG_STRONG, _FLAG_UTF8, _FLAG_MASKED = 1, 1 << 3, 1 << 6, 1 << 11, 1 << 13
_STORED, _DEFLATED, _AES = 0, 8, 99
_EXTRA_ZIP64, _EXTRA_STRONG, _EXTRA_UNICODE_PATH, _EXTRA_AES = 0x0001, 0x0017, 0x7075, 0x9901
_MOST_DEFLATED = 1032  # times: no deflate stream inflates to more (258 bytes from 2 bits)
_LONGEST_TARGET = 4096


class Directory(NamedTuple):
    """The central directory: where it starts and ends in the file, and how many entries it has.

    Offsets that it gives count from byte ``shift`` of the file: what is before belongs to another format.
    """

    start: int
    end: int
    count: int
    shift: int


class _Entry(NamedTuple):
    """What the directory says of one entry, and the number it has there; ``offset`` counts from the file's start."""

    number: int
    offset: int
    name: bytes
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    mode: int

    @property
    def path(self) -> str:
        return _decoded(self.name, self.flags)


def find_directory(file: BinaryIO, size: int) -> Directory | None:
    """Find the directory of a zip file of ``size`` bytes, None if the file is none.

    It is one if it begins like one, or if somewhere in its tail a record ends a directory: other data may stand in
    front. Raises ``ArchiveRefused`` where two programs could find two directories, or one finds none.
    """
    tail_start = max(0, size - 22 - _LONGEST_COMMENT)
    tail = _read(file, tail_start, size - tail_start)
    ends = [tail_start + at for at in _occurrences(tail, _END) if at + 22 <= len(tail)]
    if not _read(file, 0, min(4, size)).startswith(ZIP_HEADS) and not any(_ends_directory(file, at) for at in ends):
        return None
    if not ends:
        raise damaged("the zip has no directory")
    whole = [at for at in ends if at + 22 + _comment_length(tail, at - tail_start) == size]
    if whole != ends[-1:]:
        raise damaged("the zip has several directories, or data after its end")
    return _directory(file, whole[0])


def inspect_zip(file: BinaryIO, directory: Directory, tally: Tally) -> None:
    """Hold every entry of a zip file against the rules. Raises ``ArchiveRefused``."""
    tally.announced(directory.count)
    entries = sorted(_entries(file, directory, tally), key=lambda entry: entry.offset)
    end = 0
    for entry in entries:
        if entry.offset < end:
            raise damaged(f"entry {entry.number} overlaps another")
        _no_hidden_entry(file, end, entry.offset)
        start, end = _local(file, entry)
        if end > directory.start:
            raise damaged(f"entry {entry.number} overlaps the directory")
        _look_into(file, entry, start, tally)
    _no_hidden_entry(file, end, directory.start)
    tally.finish()


def _directory(file: BinaryIO, at: int) -> Directory:
    """Read the end record at ``at``, and the zip64 one if there is one: they must agree, and there be one disk."""
    disk, first_disk, here, count, length, offset, _ = struct.unpack("<4H2LH", _read(file, at + 4, 18))
    end, end64_offset = at, None
    if at >= 20 and (locator := _read(file, at - 20, 20)).startswith(_LOCATOR):
        _, end64_offset, _ = struct.unpack("<LQL", locator[4:])
        end = at - 20 - 56
        record = _read(file, end, 56) if end >= 0 else b""
        if not record.startswith(_END64) or record[4:12] != struct.pack("<Q", 44):
            raise damaged("the zip64 end record is not where it should be")
        small = (disk, first_disk, here, count, length, offset)
        large = struct.unpack("<2L4Q", record[16:])
        full = (_FULL_16,) * 4 + (_FULL_32,) * 2
        if any(a not in (b, c) for a, b, c in zip(small, large, full, strict=True)):
            raise damaged("the end records of the zip disagree")
        disk, first_disk, here, count, length, offset = large
    elif _FULL_32 in (length, offset) or _FULL_16 in (disk, first_disk, here, count):
        raise damaged("the zip64 end record is missing")
    shift = end - length - offset
    if disk or first_disk or here != count or shift < 0:
        raise damaged("the end record of the zip cannot be true")
    if shift and (end64_offset not in (None, end - shift) or _read(file, offset, 4) == _CENTRAL):
        raise damaged("the zip has two directories, depending on where it is taken to begin")
    if not shift and end64_offset not in (None, end):
        raise damaged("the zip64 end record is not where it should be")
    return Directory(end - length, end, count, shift)


def _entries(file: BinaryIO, directory: Directory, tally: Tally) -> Iterator[_Entry]:
    """Read the directory, entry by entry, and give what it says to ``tally``."""
    at = directory.start
    for number in range(1, directory.count + 1):
        header = _read(file, at, 46) if at + 46 <= directory.end else b""
        if not header.startswith(_CENTRAL):
            raise damaged("the directory of the zip holds fewer entries than it says")
        (_, made_by, _, flags, method, _, _, crc, packed, size, name_length, extra_length, comment_length, disk, _)\
            = struct.unpack("<BBH4H3L5H", header[4:38])
        attributes, offset = struct.unpack("<2L", header[38:])
