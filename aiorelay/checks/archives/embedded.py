"""Find archives inside other data, as tools do that search for a signature instead of reading from the start.

    Detector          fed with a file's bytes, says whether a tar or a zip is in it, wherever it starts
    search            offsets of a pattern in a part of a file

7-Zip looks for zip, tar and compressed data at every offset of the first 8 MiB. GNU tar skips blocks until one is a
header. unzip, Python and Go look for a zip's end record in the last 65,557 bytes, whatever precedes the zip.
"""

import re
import struct
from collections.abc import Iterator
from typing import BinaryIO

from aiorelay.checks.archives.formats import HEAD, has_tar_checksum

__all__ = ["END_RECORD", "LONGEST_END", "SEARCHED", "ZIP_ENTRY", "Detector", "is_zip_entry", "search"]

SEARCHED = 8 << 20
"""Bytes of a file's beginning in which 7-Zip searches for signatures."""

END_RECORD = re.compile(b"PK\5\6")
LONGEST_END = 22 + 0xFFFF
"""Longest end record of a zip, comment included: how far from a file's end one is looked for."""

ZIP_ENTRY = re.compile(b"PK\3\4")

_ENTRY = re.compile(
    rb"PK\x03\x04[\0-\x7f].{3}[\0-\x63]\0.{16}(?:[\1-\xff][\0-\x0f]|\0[\1-\x0f])..[^\0-\x1f]", re.DOTALL
)
"""A version below 128, a known method, and a name that a file can have."""

_USTAR = re.compile(b"ustar")
_USTAR_AT = 257  # bytes from a header's beginning
_LEAST_DIRECTORY = 46  # bytes: one entry without a name
_FULL_32 = 0xFFFFFFFF  # "see the zip64 record"
_PIECE = 1 << 20
_NAME_READ = 255  # bytes of a name that must be free of NUL
_LONGEST_MATCH = 32


class Detector:
    """Search the pieces of a file, as they come, for archives that do not start where it starts."""

    def __init__(self) -> None:
        self._read = 0
        self._carried = b""
        self._tail = b""
        self._zip_entry = False
        self.tar = False
        """Whether some tar reader would find a header. The first block counts too."""

    def feed(self, piece: bytes) -> None:
        """Take the next bytes, at least one."""
        window = self._carried + piece
        start = self._read - len(self._carried)
        self._read += len(piece)
        self._tail = (self._tail + piece)[-LONGEST_END:]
        self._carried = window[-(HEAD - 1) :]  # so that each header is whole in one window
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
        """Whether some zip reader would find an entry in what was fed."""
        return self._zip_entry or any(map(self._ends_zip, END_RECORD.finditer(self._tail)))

    def _ends_zip(self, match: re.Match[bytes]) -> bool:
        """Whether the directory that the end record speaks of could be in front of it, as some reader computes it."""
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
    """Whether 7-Zip would take what is at ``at`` for a local header: programs hold the signature alone."""
    if _ENTRY.match(data, at) is None:
        return False
    name_length = int.from_bytes(data[at + 26 : at + 28], "little")
    return b"\0" not in data[at + 30 : at + 30 + min(name_length, _NAME_READ)]


def search(file: BinaryIO, pattern: re.Pattern[bytes], start: int, stop: int) -> Iterator[int]:
    """Give the file offset of each match from ``start`` to ``stop``, of at most ``_LONGEST_MATCH`` bytes."""
    carried = b""
    while start < stop:
        file.seek(start)
        piece = file.read(min(_PIECE, stop - start))
        if not piece:
            return
        window = carried + piece
        base, start = start - len(carried), start + len(piece)
        carried = window[-(_LONGEST_MATCH - 1) :]
        # A match that lies in what is carried on whole would be found twice.
        last = len(window) - len(carried) if start < stop else len(window)
        yield from (base + match.start() for match in pattern.finditer(window) if match.start() < last)
