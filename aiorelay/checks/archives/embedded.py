"""Find archives inside other data, as programs do that search for signatures.

    Detector          detects a tar or a zip at any offset in the bytes it is fed
    search            offsets of a pattern in a part of a file

7-Zip searches for zip, tar and compressed data at every offset of the first 8 MiB. GNU tar skips blocks until one is a
header. unzip, Python and Go search for a zip's end record in the last 65,557 bytes and allow any data before the zip.
"""

import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

from aiorelay.checks.archives.formats import HEAD, has_tar_checksum

__all__ = ["END_RECORD", "LONGEST_END", "SEARCHED", "ZIP_ENTRY", "Detector", "is_zip_entry", "search"]

SEARCHED = 8 << 20
"""Number of bytes at a file's beginning in which 7-Zip searches for signatures."""

END_RECORD = re.compile(b"PK\5\6")
LONGEST_END = 22 + 0xFFFF
"""Longest end record of a zip in bytes, comment included: programs search that far from a file's end."""

ZIP_ENTRY = re.compile(b"PK\3\4")

_ENTRY = re.compile(
    rb"PK\x03\x04[\0-\x7f].{3}[\0-\x63]\0.{16}(?:[\1-\xff][\0-\x0f]|\0[\1-\x0f])..[^\0-\x1f]", re.DOTALL
)
"""A local header with a version below 128, a known method, and a valid first character of the name."""

_USTAR = re.compile(b"ustar")
_USTAR_AT = 257  # bytes from a header's beginning
_LEAST_DIRECTORY = 46  # bytes: one entry with an empty name
_FULL_32 = 0xFFFFFFFF  # the value is in the zip64 record
_PIECE = 1 << 20
_NAME_READ = 255  # bytes of a name that must not contain NUL
_LONGEST_MATCH = 32


class Detector:
    """Search the pieces of a file for archives at any offset."""

    def __init__(self) -> None:
        self._read = 0
        self._carried = b""
        self._tail = b""
        self._zip_entry = False
        self.tar = False
        """Whether some tar program would find a header, the first block included."""

    def feed(self, piece: bytes) -> None:
        """Search the next bytes, at least one."""
        window = self._carried + piece
        start = self._read - len(self._carried)
        self._read += len(piece)
        self._tail = (self._tail + piece)[-LONGEST_END:]
        self._carried = window[-(HEAD - 1) :]  # so that every header is complete in one window
        headers = range(-start % HEAD, len(window) - HEAD + 1, HEAD)
        self.tar = self.tar or any(has_tar_checksum(window, at) for at in headers)
        if start < SEARCHED:
            self._zip_entry = self._zip_entry or any(
                is_zip_entry(window, match.start()) for match in ZIP_ENTRY.finditer(window)
            )
            ustars = (match.start() - _USTAR_AT for match in _USTAR.finditer(window))
            self.tar = self.tar or any(at >= 0 and has_tar_checksum(window, at) for at in ustars)

    @property
    def zip(self) -> bool:
        """Whether some zip program would find an entry in the bytes fed so far."""
        return self._zip_entry or any(map(self._ends_zip, END_RECORD.finditer(self._tail)))

    def _ends_zip(self, match: re.Match[bytes]) -> bool:
        """Whether the directory may precede the end record, by any of the ways in which programs compute its offset."""
        fields = self._tail[match.start() + 12 : match.start() + 20]
        if len(fields) < 8:
            return False
        length, offset = struct.unpack("<2L", fields)
        position = self._read - len(self._tail) + match.start()
        return (
            _FULL_32 in (length, offset)
            or _LEAST_DIRECTORY <= length <= position
            or offset + _LEAST_DIRECTORY <= position
        )


def is_zip_entry(data: bytes, at: int) -> bool:
    """Whether 7-Zip would read a local header at ``at``. The signature alone also occurs in executables."""
    if _ENTRY.match(data, at) is None:
        return False
    name_length = int.from_bytes(data[at + 26 : at + 28], "little")
    return b"\0" not in data[at + 30 : at + 30 + min(name_length, _NAME_READ)]


def search(file: BinaryIO, pattern: re.Pattern[bytes], start: int, stop: int) -> Iterator[int]:
    """Yield the offset of each match from ``start`` to ``stop``. A match has at most ``_LONGEST_MATCH`` bytes."""
    carried = b""
    while start < stop:
        file.seek(start)
        piece = file.read(min(_PIECE, stop - start))
        if not piece:
            return
        window = carried + piece
        base, start = start - len(carried), start + len(piece)
        carried = window[-(_LONGEST_MATCH - 1) :]
        # A match completely within the carried bytes is found again in the next window.
        last = len(window) - len(carried) if start < stop else len(window)
        yield from (base + match.start() for match in pattern.finditer(window) if match.start() < last)
