"""Compressed streams, inflated in small pieces: gzip (RFC 1952), bzip2 and xz, of one member or of many.

inflated     the file's bytes, inflated, no more than a piece at a time in memory
"""

import bz2
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import BinaryIO, Protocol

from aiorelay.checks.archive_kinds import Compression, compression
from aiorelay.checks.archive_rules import damaged

__all__ = ["PIECE", "inflated"]

PIECE = 64 * 1024
"""Most bytes that one step inflates to."""

_BLOCK = 16 * 1024  # bytes read at once: what follows a member's end is copied, for each member
_MOST_MEMORY = 128 << 20  # bytes that an xz decoder may take; xz -9 wants 65 MiB
_FREE_MEMBERS = 10_000
_LEAST_A_MEMBER = 4096  # bytes inflated that a member holds on average, beyond that many of them


class _Decompressor(Protocol):
    """What bz2 and lzma have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class _Gunzip:
    """zlib's decompressor, shaped as those are."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(zlib.MAX_WBITS + 16)

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


_DECOMPRESSORS: dict[Compression, Callable[[], _Decompressor]] = {
    "gzip": _Gunzip,
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_MOST_MEMORY),
}


def inflated(file: BinaryIO, kind: Compression) -> Iterator[bytes]:
    """Inflate ``file`` from its beginning, in pieces of at most ``PIECE`` bytes.

    Members may follow one another, and zeros the last (tape blocks, xz's padding); anything else after the end,
    damage, an early end and a swarm of tiny members raise ``ArchiveRefused``.
    """
    file.seek(0)
    rest = file.read(_BLOCK)
    members = total = 0
    while rest:
        decompressor = _DECOMPRESSORS[kind]()
        for piece in _member(decompressor, file, rest):
            total += len(piece)
            yield piece
        members += 1
        if members > _FREE_MEMBERS and total < members * _LEAST_A_MEMBER:
            raise damaged("it is cut into too many pieces")
        rest = _next_member(file, decompressor.unused_data)
        if rest and compression(rest) != kind:
            raise damaged("data follow its end")


def _member(decompressor: _Decompressor, file: BinaryIO, data: bytes) -> Iterator[bytes]:
    while not decompressor.eof:
        at_end = not data and decompressor.needs_input
        try:
            piece = decompressor.decompress(data, PIECE)
        # bz2 raises OSError and ValueError for bad data; nothing here reads from a disk.
        except (zlib.error, lzma.LZMAError, OSError, ValueError, EOFError):
            raise damaged("it cannot be inflated") from None
        if piece:
            yield piece
        elif at_end and not decompressor.eof:
            raise damaged("it ends too early")
        data = file.read(_BLOCK) if decompressor.needs_input and not decompressor.eof else b""


def _next_member(file: BinaryIO, rest: bytes) -> bytes:
    """Skip zeros; return the beginning of what follows them, at least the 10 bytes that tell what it is, if any."""
    rest = rest.lstrip(b"\0")
    while not rest and (block := file.read(_BLOCK)):
        rest = block.lstrip(b"\0")
    return rest + file.read(_BLOCK) if 0 < len(rest) < 16 else rest
