"""What counts as an archive, told from a name and from the first bytes: pure.

No format is believed because of a name alone; an entry *inside* an archive is suspected because of one.
"""

import re
from typing import Literal

__all__ = ["HEAD", "ZIP_HEADS", "Compression", "compression", "is_archive", "is_tar_header"]

HEAD = 512
"""Bytes of a file's beginning that all this takes: a tar header is that long."""

ZIP_HEADS = (b"PK\x03\x04", b"PK\x05\x06")

Compression = Literal["gzip", "bzip2", "xz"]

_ENDINGS = re.compile(
    r"\.(?:zip|zipx|jar|war|ear|aar|apk|tar|tgz|taz|tbz2?|tb2|txz|tlz|tzst|gz|bz2|xz|lzma|lz|lz4|zst|z|7z|rar|cab|arj|lzh|cpio)",
    re.IGNORECASE,
)
_MAGIC = (
    *(*ZIP_HEADS, b"PK\x07\x08", b"\x1f\x9d", b"7z\xbc\xaf\x27\x1c"),
    *(b"Rar!\x1a\x07", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18", b"LZIP\x01", b"MSCF\0\0\0\0"),
)
_BZIP2 = re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)")
# Office files embed one another as a matter of course: a chart in a presentation is a workbook.
_DOCUMENT_NAME = re.compile(r".*\.(?:(?:doc|dot|xls|xlt|ppt|pot|pps)[xm]|xlsb|vsdx|od[tspgfb]|epub)", re.IGNORECASE)
_DOCUMENT_HEAD = re.compile(
    rb"PK\x03\x04.{26}(?:\[Content_Types\]\.xml|mimetype|(?:_rels|docProps|word|xl|ppt)/)", re.DOTALL
)


def compression(head: bytes) -> Compression | None:
    """Tell what a file that begins with ``head`` is compressed with, of what can be looked into."""
    if head.startswith(b"\x1f\x8b\x08"):
        return "gzip"
    if head.startswith(b"\xfd7zXZ\0"):
        return "xz"
    return "bzip2" if _BZIP2.match(head) else None


def is_tar_header(block: bytes) -> bool:
    """Whether a tar could begin with ``block``: it says so itself, or its checksum fits (POSIX.1-1988, ustar; v7 tar).

    The checksum adds up all bytes, signed in some old programs, its own field taken as spaces.
    """
    if len(block) < HEAD:
        return False
    if block[257:262] == b"ustar":
        return True
    field = re.fullmatch(rb"[ \0]*([0-7]+)[ \0]*", block[148:156])
    return field is not None and int(field[1], 8) in tar_checksums(block)


def tar_checksums(block: bytes) -> tuple[int, int]:
    """Add up the header ``block`` as unsigned and as signed bytes."""
    summed = block[:148] + b" " * 8 + block[156:HEAD]
    unsigned = sum(summed)
    return unsigned, unsigned - 256 * sum(byte > 127 for byte in summed)


def is_archive(name: str, head: bytes) -> bool:
    """Whether an entry is an archive or compressed, by its ending or by its first bytes.

    Office documents and e-books are zip files, but count as the documents that they are, if name and content agree.
    """
    if _ENDINGS.fullmatch(name[name.rfind(".") :] if "." in name else ""):
        return True
    if _DOCUMENT_NAME.fullmatch(name) and _DOCUMENT_HEAD.match(head):
        return False
    return head.startswith(_MAGIC) or compression(head) is not None or is_tar_header(head)
