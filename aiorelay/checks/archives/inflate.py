"""Decompress data in pieces of bounded size: whole files and the entries of zip files.

inflated     a compressed file of one or more members: gzip (RFC 1952), bzip2, xz, lzma or zstd
unpacked     one entry of a zip, by every method in the standard library (APPNOTE 4.4.5)
"""

import bz2
import lzma
import sys
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

from aiorelay.checks.archives.formats import Compression, compression
from aiorelay.checks.archives.rules import damaged
from aiorelay.errors import ArchiveRefused

__all__ = ["PIECE", "STORED", "InflatedPart", "inflated", "inflated_until_damaged", "unpacked"]

PIECE = 64 * 1024
"""Largest piece in bytes that one step inflates."""

STORED = 0
"""Compression method of an uncompressed entry."""

_BLOCK = 16 * 1024  # bytes read at once; the decoder copies the bytes after each member's end
_MOST_MEMORY = 128 << 20  # memory limit in bytes of the xz and lzma decoders; xz -9 needs 65 MiB
_FREE_MEMBERS = 10_000
_LEAST_A_MEMBER = 4096  # inflated bytes per member on average, required of files with more members


class _Readable(Protocol):
    def read(self, length: int, /) -> bytes: ...


class _Decompressor(Protocol):
    """The common interface of the decompressors of bz2, lzma and zstd."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Inflate:
    """zlib's decompressor behind the same interface."""

    def __init__(self, wbits: int) -> None:
        self._inflate = zlib.decompressobj(wbits)

    @property
    def eof(self) -> bool:
        return self._inflate.eof

    @property
    def needs_input(self) -> bool:
        return not self._inflate.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inflate.unused_data

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._inflate.decompress(self._inflate.unconsumed_tail or data, max_length)


def _zip_lzma(packed: _Readable) -> _Decompressor:
    """Read the header of LZMA data in a zip (APPNOTE 5.8.8): version, length, lc/lp/pb, dictionary size."""
    header = packed.read(9)
    if len(header) < 9 or header[2:4] != b"\5\0":
        raise damaged("an entry cannot be inflated")
    rest, lc = divmod(header[4], 9)
    pb, lp = divmod(rest, 5)
    dictionary = max(int.from_bytes(header[5:], "little"), 4096)
    if dictionary > _MOST_MEMORY:
        raise damaged("an entry needs too much memory to be inflated")
    try:
        return lzma.LZMADecompressor(
            lzma.FORMAT_RAW,
            filters=[{"id": lzma.FILTER_LZMA1, "dict_size": dictionary, "lc": lc, "lp": lp, "pb": pb}],
        )
    except (lzma.LZMAError, ValueError):
        raise damaged("an entry cannot be inflated") from None


_FILES: dict[Compression, Callable[[], _Decompressor]] = {
    "gzip": lambda: _Inflate(zlib.MAX_WBITS + 16),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_MEMORY),
    "lzma": lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_MOST_MEMORY),
}
_METHODS: dict[int, Callable[[_Readable], _Decompressor]] = {
    8: lambda _: _Inflate(-zlib.MAX_WBITS),
    12: lambda _: bz2.BZ2Decompressor(),
    14: _zip_lzma,
}
# bz2 raises OSError and ValueError for invalid data.
_ERRORS: tuple[type[Exception], ...] = (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError)
if sys.version_info >= (3, 14):
    from compression.zstd import ZstdDecompressor, ZstdError

    _FILES["zstd"] = ZstdDecompressor
    _METHODS[93] = lambda _: ZstdDecompressor()
    _ERRORS += (ZstdError,)


class InflatedPart:
    """Sequential reader of bytes ``start`` to ``stop`` of a file. The file must not be read by others meanwhile."""

    def __init__(self, file: BinaryIO, start: int, stop: int) -> None:
        file.seek(start)
        self._file = file
        self._left = stop - start

    def read(self, length: int, /) -> bytes:
        """Return up to ``length`` bytes, or ``b""`` at the end."""
        data = self._file.read(min(length, self._left))
        self._left -= len(data)
        return data


def inflated(file: BinaryIO, kind: Compression) -> Iterator[bytes]:
    """Inflate ``file`` from its beginning, in pieces of at most ``PIECE`` bytes.

    Several members are accepted, and zeros after the last one (tape blocks, padding of xz). Raises ``ArchiveRefused``
    for other data after the end, damaged or truncated data, too many small members, and zstd before Python 3.14.
    """
    if kind not in _FILES:
        raise ArchiveRefused(
            f"The file is compressed with {kind}, which cannot be inspected. Send it uncompressed or as gzip."
        )
    file.seek(0)
    rest = file.read(_BLOCK)
    members = total = 0
    while rest:
        decompressor = _FILES[kind]()
        for piece in _member(decompressor, file, rest):
            total += len(piece)
            yield piece
        members += 1
        if members > _FREE_MEMBERS and total < members * _LEAST_A_MEMBER:
            raise damaged("it has too many members")
        rest = _next_member(file, decompressor.unused_data)
        if rest and compression(rest) != kind:
            raise damaged("data follow its end")


def inflated_until_damaged(packed: _Readable, kind: Compression) -> Iterator[bytes]:
    """Inflate one member up to its end or to the first damage, as programs do that keep partial output."""
    try:
        yield from _member(_FILES[kind](), packed, packed.read(_BLOCK))
    except ArchiveRefused:
        return


def unpacked(packed: InflatedPart, method: int) -> Iterator[bytes]:
    """Unpack all bytes of one zip entry, in pieces of at most ``PIECE`` bytes.

    Raises ``ArchiveRefused`` for an unknown method, damaged data, and data after the end of the compressed stream.
    """
    if method == STORED:
        yield from iter(lambda: packed.read(PIECE), b"")
        return
    if method not in _METHODS:
        raise ArchiveRefused(
            f"An entry of the archive uses compression method {method}, which cannot be inspected. Use deflate."
        )
    decompressor = _METHODS[method](packed)
    yield from _member(decompressor, packed, packed.read(_BLOCK))
    if decompressor.unused_data or packed.read(1):
        raise damaged("data follow the end of an entry")


def _member(decompressor: _Decompressor, file: _Readable, data: bytes) -> Iterator[bytes]:
    while not decompressor.eof:
        at_end = not data and decompressor.needs_input
        try:
            piece = decompressor.decompress(data, PIECE)
        except _ERRORS:
            raise damaged("it cannot be inflated") from None
        if piece:
            yield piece
        elif at_end and not decompressor.eof:
            raise damaged("it ends too early")
        data = file.read(_BLOCK) if decompressor.needs_input and not decompressor.eof else b""


def _next_member(file: BinaryIO, rest: bytes) -> bytes:
    """Skip zeros and return the next bytes: empty at the end, otherwise at least the 13 that identify a format."""
    rest = rest.lstrip(b"\0")
    while not rest and (block := file.read(_BLOCK)):
        rest = block.lstrip(b"\0")
    return rest + file.read(_BLOCK) if 0 < len(rest) < 16 else rest
