"""Read the records of a zip file that locate its entries; they must agree (APPNOTE 6.3, sections 4.3 to 4.5).

find_directories   end records → the central directories; none if the file is no zip
entries            the entries that a directory lists
extent             local header → start of the data and end of the entry
"""

import re
import struct
from collections.abc import Iterator
from itertools import chain, islice
from typing import BinaryIO, NamedTuple

from aiorelay.checks.archives.embedded import END_RECORD, LONGEST_END, SEARCHED, search
from aiorelay.checks.archives.formats import ZIP_HEADS
from aiorelay.checks.archives.inflate import STORED
from aiorelay.checks.archives.rules import damaged

__all__ = ["LONGEST_PATH", "Directory", "Entry", "entries", "extent", "find_directories", "peek"]

_LOCAL, _CENTRAL, _END64, _LOCATOR = (b"PK" + mark for mark in (b"\3\4", b"\1\2", b"\6\6", b"\6\7"))
_DESCRIPTOR = b"PK\7\10"
_ANY_DESCRIPTOR = re.compile(_DESCRIPTOR)
_FULL_16, _FULL_32 = 0xFFFF, 0xFFFFFFFF  # the value is in the zip64 field

_FLAG_ENCRYPTED, _FLAG_DESCRIPTOR, _FLAG_STRONG, _FLAG_UTF8, _FLAG_MASKED = 1, 1 << 3, 1 << 6, 1 << 11, 1 << 13
_AES = 99
_EXTRA_ZIP64, _EXTRA_STRONG, _EXTRA_UNICODE_PATH, _EXTRA_AES = 0x0001, 0x0017, 0x7075, 0x9901
_FLAGS_ENCRYPTED = _FLAG_ENCRYPTED | _FLAG_STRONG | _FLAG_MASKED
_EXTRAS_ENCRYPTED = {_EXTRA_STRONG, _EXTRA_AES}
LONGEST_PATH = 4096  # bytes; PATH_MAX on Linux

# flags, method, crc, packed, size, lengths of name and extra; the directory: …, of comment, disk, attributes, offset
_LOCAL_HEADER = struct.Struct("<4x 2x 2H 4x 3L 2H")
_CENTRAL_HEADER = struct.Struct("<4x 4x 2H 4x 3L 4H 2x 2L")
_END_LENGTH, _LOCATOR_LENGTH, _END64_LENGTH = 22, 20, 56
_MOST_DIRECTORIES = 16


class Directory(NamedTuple):
    """The central directory: its start and end in the file, and its number of entries.

    Its offsets are relative to byte ``shift`` of the file. The bytes before ``shift`` belong to another format.
    """

    start: int
    end: int
    entries: int
    shift: int


class Entry(NamedTuple):
    """One entry as listed in the directory. ``offset`` is relative to the start of the file."""

    offset: int
    name: bytes
    other_name: bytes | None
    flags: int
    method: int
    crc: int
    packed: int
    size: int
    mode: int
    encrypted: bool

    @property
    def path(self) -> str:
        return self.name.decode("utf-8" if self.flags & _FLAG_UTF8 else "cp437", "surrogateescape")


def find_directories(file: BinaryIO, size: int, *, is_tar: bool = False) -> list[Directory]:
    """Find the central directories in a file of ``size`` bytes. Return an empty list if it is no zip.

    A file that begins with a zip signature must have exactly one directory, and its end record must end the file;
    trailing zeros are allowed because some writers fill a block. Other files may contain several zips, as
    self-extracting archives and polyglots do: most programs search the tail, 7-Zip searches the beginning. In a tar
    only the last one counts, which the former find. Raises ``ArchiveRefused`` if two programs could find different
    directories, or if a zip has none.
    """
    tail_start = max(0, size - LONGEST_END)
    tail = (at for at in search(file, END_RECORD, tail_start, size) if at + _END_LENGTH <= size)
    if not peek(file, 0, 4).startswith(ZIP_HEADS):
        head = search(file, END_RECORD, 0, 0 if is_tar else min(SEARCHED, tail_start))
        found = (at for at in chain(head, tail) if _ends_directory(file, at))
        ends = list(found)[-1:] if is_tar else list(islice(found, _MOST_DIRECTORIES + 1))
        if len(ends) > _MOST_DIRECTORIES:
            raise damaged("it contains too many zips")
        return [_directory(file, at) for at in ends]
    ends = list(tail)
    if not ends:
        raise damaged("the zip has no directory")
    whole = [at for at in ends if _ends_file(_read(file, at, size - at))]
    if whole != ends[-1:]:
        raise damaged("the zip has several directories, or data after its end")
    return [_directory(file, whole[0])]


def entries(file: BinaryIO, directory: Directory) -> Iterator[Entry]:
    """Read the directory, which must contain exactly the declared number of entries."""
    at = directory.start
    for _ in range(directory.entries):
        header = peek(file, at, _CENTRAL_HEADER.size)
        if not header.startswith(_CENTRAL) or len(header) < _CENTRAL_HEADER.size:
            raise damaged("the directory has fewer entries than declared")
        (flags, method, crc, packed, size, name_length, extra_length, comment_length, disk, attributes, offset) = (
            _CENTRAL_HEADER.unpack(header)
        )
        name = _read(file, at + _CENTRAL_HEADER.size, min(name_length, LONGEST_PATH + 1))
        extra = _extra(_read(file, at + _CENTRAL_HEADER.size + name_length, extra_length))
        size, packed, offset = _with_zip64((size, packed, offset), extra)
        if disk not in (0, _FULL_16):
            raise damaged("an entry is on another disk")
        yield Entry(
            offset=directory.shift + offset,
            name=name,
            other_name=_other_name(extra),
            flags=flags,
            method=method,
            crc=crc,
            packed=packed,
            size=size,
            mode=attributes >> 16,
            encrypted=bool(flags & _FLAGS_ENCRYPTED or method == _AES or _EXTRAS_ENCRYPTED & extra.keys()),
        )
        at += _CENTRAL_HEADER.size + name_length + extra_length + comment_length
    if at != directory.end:
        raise damaged("the directory has more entries than declared")


def extent(file: BinaryIO, entry: Entry) -> tuple[int, int]:
    """Compare a local header with the directory. Return the start of the data and the end of the entry."""
    header = peek(file, entry.offset, _LOCAL_HEADER.size)
    if not header.startswith(_LOCAL) or len(header) < _LOCAL_HEADER.size:
        raise damaged("the directory lists an entry that does not exist")
    flags, method, crc, packed, size, name_length, extra_length = _LOCAL_HEADER.unpack(header)
    name = _read(file, entry.offset + _LOCAL_HEADER.size, name_length)
    extra = _extra(_read(file, entry.offset + _LOCAL_HEADER.size + name_length, extra_length))
    local = (crc, *_with_zip64((size, packed), extra))
    listed = (entry.crc, entry.size, entry.packed)
    streamed = bool(flags & _FLAG_DESCRIPTOR)  # sizes and checksum may be 0 here and follow the data
    if (name, method, _other_name(extra)) != (entry.name, entry.method, entry.other_name) or (
        flags ^ entry.flags
    ) & _FLAGS_ENCRYPTED:
        raise damaged("an entry's header and the directory disagree")
    if any(a != b and not (streamed and a == 0) for a, b in zip(local, listed, strict=True)):
        raise damaged("an entry's header and the directory disagree about its size or checksum")
    wide = extra.get(_EXTRA_ZIP64, b"")[:16]
    if len(wide) == 16 and struct.unpack("<2Q", wide) not in ((entry.size, entry.packed), (0, 0) if streamed else ()):
        # Java reads the field even if the header has the values.
        raise damaged("an entry's zip64 field and the directory disagree")
    if method == STORED and entry.packed != entry.size:
        raise damaged("an entry that is not compressed has two sizes")
    start = entry.offset + _LOCAL_HEADER.size + name_length + extra_length
    end = start + entry.packed
    if streamed:
        if method == STORED:
            _no_early_descriptor(file, start, end)
        end += _descriptor_length(file, end, entry, needed=local != listed)
    return start, end


def _directory(file: BinaryIO, at: int) -> Directory:
    """Read the end record at ``at`` and the zip64 one, if present. They must agree and name one disk."""
    disk, first_disk, here, count, length, offset, _ = struct.unpack("<4H2LH", _read(file, at + 4, 18))
    end, end64_offset = at, None
    if at >= _LOCATOR_LENGTH and (locator := _read(file, at - _LOCATOR_LENGTH, _LOCATOR_LENGTH)).startswith(_LOCATOR):
        _, end64_offset, _ = struct.unpack("<LQL", locator[4:])
        end = at - _LOCATOR_LENGTH - _END64_LENGTH
        record = _read(file, end, _END64_LENGTH) if end >= 0 else b""
        if not record.startswith(_END64) or record[4:12] != struct.pack("<Q", 44):
            raise damaged("the zip64 end record is not where it should be")
        small = (disk, first_disk, here, count, length, offset)
        large = struct.unpack("<2L4Q", record[16:])
        full = (_FULL_16,) * 4 + (_FULL_32,) * 2
        if any(a not in (b, c) for a, b, c in zip(small, large, full, strict=True)):
            raise damaged("the end records of the zip disagree")
        disk, first_disk, here, count, length, offset = large
    elif _FULL_32 in (length, offset):
        raise damaged("the zip64 end record is missing")
    shift = end - length - offset
    if disk or first_disk or here != count or shift < 0:
        raise damaged("the end record of the zip is invalid")
    if shift and (end64_offset not in (None, end - shift) or _read(file, offset, 4) == _CENTRAL):
        raise damaged("the zip has two directories, depending on where it begins")
    if not shift and end64_offset not in (None, end):
        raise damaged("the zip64 end record is not where it should be")
    return Directory(end - length, end, count, shift)


def _descriptor_length(file: BinaryIO, at: int, entry: Entry, *, needed: bool) -> int:
    """Return the length of the data descriptor at ``at`` (4.3.9: with or without signature, 32 or 64 bits).

    Raises ``ArchiveRefused`` if it is ``needed`` and missing or wrong.
    """
    found = peek(file, at, 24)
    sizes = [struct.pack("<LQQ", entry.crc, entry.packed, entry.size)]
    if max(entry.packed, entry.size) <= _FULL_32:
        sizes.append(struct.pack("<3L", entry.crc, entry.packed, entry.size))
    for descriptor in (*(_DESCRIPTOR + form for form in sizes), *sizes):
        if found.startswith(descriptor):
            return len(descriptor)
    if needed:
        raise damaged("a data descriptor and the directory disagree about a size or checksum")
    return 0


def _no_early_descriptor(file: BinaryIO, start: int, end: int) -> None:
    """Refuse stored data in which a program that searches for the descriptor would find an earlier end."""
    for at in search(file, _ANY_DESCRIPTOR, start, end):
        size = peek(file, at + 8, 8)
        if at - start in (int.from_bytes(size[:4], "little"), int.from_bytes(size, "little")):
            raise damaged("an entry has a data descriptor within its data")


def _extra(field: bytes) -> dict[int, bytes]:
    """Split an extra field (4.5). A rest too short for a header is padding."""
    extra: dict[int, bytes] = {}
    at = 0
    while at + 4 <= len(field):
        tag, length = struct.unpack_from("<2H", field, at)
        if tag in extra and tag in (_EXTRA_ZIP64, _EXTRA_UNICODE_PATH):
            raise damaged("an entry has two zip64 fields or two Unicode names")
        extra[tag] = field[at + 4 : at + 4 + length]
        at += 4 + length
    return extra


def _other_name(extra: dict[int, bytes]) -> bytes | None:
    field = extra.get(_EXTRA_UNICODE_PATH)
    return None if field is None else field[5 : 5 + LONGEST_PATH + 1]


def _with_zip64(values: tuple[int, ...], extra: dict[int, bytes]) -> tuple[int, ...]:
    """Replace the values that are 0xFFFFFFFF by those of the zip64 field, in order (4.5.3)."""
    wide = extra.get(_EXTRA_ZIP64, b"")
    result = []
    for value in values:
        if value == _FULL_32:
            if len(wide) < 8:
                raise damaged("an entry lacks its zip64 sizes")
            result.append(int.from_bytes(wide[:8], "little"))
            wide = wide[8:]
        else:
            result.append(value)
    return tuple(result)


def _ends_directory(file: BinaryIO, at: int) -> bool:
    """Whether the end record at ``at`` has a directory at one of the offsets that programs try."""
    length, offset = struct.unpack("<2L", _read(file, at + 12, 8))
    return _CENTRAL in (peek(file, at - length, 4) if length <= at else b"", peek(file, offset, 4)) or (
        at >= _LOCATOR_LENGTH and peek(file, at - _LOCATOR_LENGTH, 4) == _LOCATOR
    )


def _ends_file(record: bytes) -> bool:
    """Whether ``record``, an end record and all bytes after it, has only its comment and zeros after it."""
    end = _END_LENGTH + int.from_bytes(record[20:22], "little")
    return end <= len(record) and not record[end:].strip(b"\0")


def peek(file: BinaryIO, at: int, length: int) -> bytes:
    """Read up to ``length`` bytes at ``at``."""
    file.seek(at)
    return file.read(length)


def _read(file: BinaryIO, at: int, length: int) -> bytes:
    found = peek(file, at, length)
    if len(found) < length:
        raise damaged("it ends too early")
    return found
