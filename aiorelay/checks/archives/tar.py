"""Read tar files from front to back (POSIX.1-2001 pax and ustar, GNU, and the v7 format).

    inspect_tar      checks every entry, and that no data follow the end

The standard library's ``tarfile`` is not used. It reads long names and pax headers of any size into memory and parses
them in quadratic time (CVE-2024-6232). It also treats a damaged header as the end, where other programs continue.
If two size fields disagree, the archive is refused: one program could find entries in what another reads as data.
"""

import re
from collections.abc import Iterator
from typing import NamedTuple

from aiorelay.checks.archives.formats import tar_checksums
from aiorelay.checks.archives.rules import ArchiveBudget, damaged
from aiorelay.checks.archives.zip import inspect_content

__all__ = ["inspect_tar"]

_BLOCK = 512
_LARGEST_OCTAL = 0o77777777777  # the largest size that fits into the octal field: 8 GiB - 1
_LARGEST_HEADER = 1 << 20  # bytes; extended attributes make the largest pax headers

_MOST_RECORDS = 1000
_LENGTH = re.compile(rb"[0-9]{1,8} ")
_PAX_SIZES = (b"size", b"GNU.sparse.size", b"GNU.sparse.realsize")
_PAX_KEYS = (b"path", b"linkpath", b"GNU.sparse.name", *_PAX_SIZES)

_HARDLINK, _SYMLINK, _DIRECTORY, _SPARSE, _MULTIVOLUME = b"1", b"2", b"5", b"S", b"M"
_SPECIAL = (b"3", b"4", b"6")
_LONG_NAME, _LONG_TARGET, _PAX, _PAX_GLOBAL = b"L", b"K", b"x", b"g"
_WITHOUT_DATA = (_HARDLINK, _SYMLINK, _DIRECTORY, *_SPECIAL)
"""Types for which programs disagree on whether the size field is the length of data."""


class _Header(NamedTuple):
    """The fields of one header block. ``sparse_size`` is the unpacked size of an old GNU sparse file."""

    name: bytes
    target: bytes
    kind: bytes
    size: int
    sparse_size: int | None
    extended: bool


class _Extension(NamedTuple):
    """The values from extension headers, which precede the header of an entry."""

    name: bytes | None = None
    target: bytes | None = None
    size: int | None = None
    sparse_size: int | None = None


def inspect_tar(pieces: Iterator[bytes], budget: ArchiveBudget) -> None:
    """Check every entry of the tar in ``pieces`` against the rules. Raises ``ArchiveRefused``."""
    stream = _Stream(pieces)
    while block := stream.read_up_to(_BLOCK):
        if not any(block):
            stream.expect_zeros()
            break
        _entry(stream, block, budget)
    budget.finish()


def _entry(stream: "_Stream", block: bytes, budget: ArchiveBudget) -> None:
    header = _header(block)
    if header.kind == _PAX_GLOBAL:
        budget.entry(0)  # counted, so that their number is limited too
        if _pax(stream.read(_bounded(header.size), padded=True)) != _Extension():
            raise damaged("a global pax header sets a name or a size")
        return
    extension, header = _extensions(stream, header)
    if extension.size is not None and extension.size != header.size and extension.size <= _LARGEST_OCTAL:
        raise damaged("an entry has two sizes")
    size = header.size if extension.size is None else extension.size
    unpacked = [size, header.sparse_size or 0, extension.sparse_size or 0]
    budget.entry(max(unpacked))
    _check_entry(stream, header, extension, size, budget)


def _check_entry(stream: "_Stream", header: _Header, extension: _Extension, size: int, budget: ArchiveBudget) -> None:
    """Check the names, the type and the data of one entry."""
    names = _texts(extension.name, header.name)  # both, because a program may ignore the extension
    for name in names:
        budget.path(name)
    if header.kind in _WITHOUT_DATA and size:
        raise damaged("an entry of a type without data has a size")
    if header.kind in _SPECIAL:
        budget.special()
    elif header.kind in (_SYMLINK, _HARDLINK):
        for target in _texts(extension.target, header.target):
            if header.kind == _SYMLINK:
                budget.symlink(names[0], target)
            else:
                budget.hardlink(target)
    elif header.kind == _MULTIVOLUME:
        raise damaged("it is one volume of several")
    elif header.kind != _DIRECTORY:
        while header.kind == _SPARSE and header.extended:  # the map of a sparse file continues in further blocks
            header = header._replace(extended=stream.read(_BLOCK)[504] != 0)
        inspect_content(names[0], stream.pieces(size), budget)
        stream.skip(-size % _BLOCK)


def _extensions(stream: "_Stream", header: _Header) -> tuple[_Extension, _Header]:
    """Read extension headers, at most one of each kind. Return their values and the header of the entry."""
    seen: dict[bytes, _Extension] = {}
    while header.kind in (_LONG_NAME, _LONG_TARGET, _PAX):
        if header.kind in seen:
            raise damaged("an entry has the same header twice")
        data = stream.read(_bounded(header.size), padded=True)
        text = data.partition(b"\0")[0]
        match header.kind:
            case b"L":
                seen[header.kind] = _Extension(name=text)
            case b"K":
                seen[header.kind] = _Extension(target=text)
            case _:
                seen[header.kind] = _pax(data)
        header = _header(stream.read(_BLOCK))
    if header.kind == _PAX_GLOBAL:
        raise damaged("a global pax header is within the headers of an entry")
    return _merged(seen), header


def _merged(seen: dict[bytes, _Extension]) -> _Extension:
    """Merge the extensions of GNU and pax, which must agree."""
    pax = seen.get(_PAX, _Extension())
    name, target = seen.get(_LONG_NAME, pax).name, seen.get(_LONG_TARGET, pax).target
    if pax.name not in (None, name) or pax.target not in (None, target):
        raise damaged("an entry has two names")
    return pax._replace(name=name, target=target)


def _pax(data: bytes) -> _Extension:
    """Read the records (length, key, value, newline) that hold names and sizes."""
    records: dict[bytes, bytes] = {}
    at = count = 0
    while at < len(data):
        count += 1
        digits = _LENGTH.match(data, at)
        end = at + int(digits[0]) if digits else at
        key, separator, value = data[digits.end() if digits else at : end].partition(b"=")
        if end <= at or end > len(data) or not separator or not value.endswith(b"\n") or count > _MOST_RECORDS:
            raise damaged("a pax header cannot be read")
        if key in records:
            raise damaged("a pax header has the same key twice")
        if key in _PAX_KEYS:
            records[key] = value[:-1]
        at = end
    sizes = {key: _decimal(records[key]) for key in _PAX_SIZES if key in records}
    sparse = [size for key, size in sizes.items() if key != b"size"]
    return _Extension(
        name=records.get(b"GNU.sparse.name", records.get(b"path")),
        target=records.get(b"linkpath"),
        size=sizes.get(b"size"),
        sparse_size=max(sparse, default=None),
    )


def _header(block: bytes) -> _Header:
    if len(block) < _BLOCK or _number(block[148:156]) not in tar_checksums(block):
        raise damaged("a header is damaged")
    name, kind = block[:100].partition(b"\0")[0], block[156:157]
    if block[257:263] == b"ustar\0" and (prefix := block[345:500].partition(b"\0")[0]):
        name = prefix + b"/" + name
    if kind in (b"\0", b"0", b"7") and name.endswith(b"/"):
        kind = _DIRECTORY  # the v7 format of a directory
    if kind == b"X":  # the type that Solaris uses
        kind = _PAX
    return _Header(
        name=name,
        target=block[157:257].partition(b"\0")[0],
        kind=kind,
        size=_number(block[124:136]),
        sparse_size=_number(block[483:495]) if kind == _SPARSE else None,
        extended=kind == _SPARSE and block[482] != 0,
    )


def _number(field: bytes) -> int:
    """Read a header's number: octal digits, or GNU's base 256 where the first bit is set."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:])
    digits = re.fullmatch(rb"[ \0]*([0-7]*)(?:[ \0].*)?", field, re.DOTALL)
    if digits is None:  # a negative number among them
        raise damaged("a header is damaged")
    return int(digits[1] or b"0", 8)


def _decimal(value: bytes) -> int:
    if re.fullmatch(rb"[0-9]{1,20}", value) is None:
        raise damaged("a pax header cannot be read")
    return int(value)


def _bounded(size: int) -> int:
    if size > _LARGEST_HEADER:
        raise damaged("a header is too long")
    return size


def _texts(extended: bytes | None, plain: bytes) -> list[str]:
    """Give a path as an extension has it, if one does, and as the header has it, which may then be nothing."""
    paths = [plain] if extended is None else [extended, plain] if plain else [extended]
    return [path.decode("utf-8", "surrogateescape") for path in paths]


class _Stream:
    """Bytes read in any length from pieces of any length."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = memoryview(b"")

    def read_up_to(self, length: int) -> bytes:
        """Return ``length`` bytes, or fewer at the end."""
        return b"".join(self._take(length))

    def read(self, length: int, *, padded: bool = False) -> bytes:
        """Return exactly ``length`` bytes. With ``padded``, also skip the padding of the last block."""
        data = self.read_up_to(length)
        if len(data) < length:
            raise damaged("it ends too early")
        if padded:
            self.skip(-length % _BLOCK)
        return data

    def skip(self, length: int) -> None:
        if sum(map(len, self._take(length))) < length:
            raise damaged("it ends too early")

    def pieces(self, length: int) -> Iterator[bytes]:
        """Yield exactly ``length`` bytes in pieces."""
        for piece in self._take(length):
            length -= len(piece)
            yield bytes(piece)
        if length:
            raise damaged("it ends too early")

    def expect_zeros(self) -> None:
        """Read to the end and refuse anything but zeros."""
        while piece := self.read_up_to(1 << 16):
            if piece != bytes(len(piece)):
                raise damaged("data follow its end")

    def _take(self, length: int) -> Iterator[memoryview]:
        while length > 0:
            if not self._piece:
                self._piece = memoryview(next(self._pieces, b""))
                if not self._piece:
                    return
            taken, self._piece = self._piece[:length], self._piece[length:]
            length -= len(taken)
            yield taken
