"""Detect archives by file name and first bytes. Pure.

The name of an uploaded file does not count. For an entry inside an archive, the name alone is sufficient.
"""

import re
from typing import Literal

__all__ = [
    "HEAD",
    "UUENCODED",
    "ZIP_HEADS",
    "Compression",
    "compression",
    "has_tar_checksum",
    "is_archive",
    "is_document",
    "is_tar_header",
    "is_unreadable",
]

HEAD = 512
"""Number of bytes at a file's beginning that are needed: the length of a tar header."""

ZIP_HEADS = (b"PK\x03\x04", b"PK\x05\x06")

Compression = Literal["gzip", "bzip2", "xz", "lzma", "zstd"]

_ENDINGS = re.compile(
    r"\.(?:zip|zipx|jar|war|ear|aar|apk|tar|tgz|taz|tbz2?|tb2|txz|tlz|tzst|gz|bz2|xz|lzma|lz|lz4|zst|z|7z|rar|cab|arj|lzh|cpio)",
    re.IGNORECASE,
)
_UNREADABLE = re.compile(
    rb"7z\xbc\xaf\x27\x1c|Rar!\x1a\x07|MSCF\0\0\0\0|xar!|..-l[hz][0-9ds]-|07070[127][0-9A-Fa-f]{6}"
    rb"|\xed\xab\xee\xdb|\x1f\x9d|\x04\x22\x4d\x18|\x02\x21\x4c\x18|LZIP\x01|LRZI|\x89LZO\0\r\n"
    rb"|[\x50-\x5f]\x2a\x4d\x18|(?:[ \t]*#[^\n]*\n|[ \t]*\r?\n)*(?:#mtree|[^<\n]* type=(?:file|dir|link)[ \r\n])",
    re.DOTALL,
)
"""7z, rar, cab, xar, lzh, cpio, rpm; compress, lz4 (and its legacy format), lzip, lrzip, lzop, skippable frames of
lz4 and zstd; mtree, a text from which bsdtar creates files of any size."""

UUENCODED = re.compile(
    rb"(?:^|\n)begin(?: [0-7]{3,4} [^\n]{1,255}\n[!-`][ -`]{1,84}"
    rb"|-base64 [0-7]{3,4} [^\n]{1,255}\n[A-Za-z0-9+/=]{4,128})\r?\n"
)
"""Uuencoded and base64 data, which bsdtar decodes if they are among the first lines of a text."""

_COMPRESSIONS: dict[Compression, re.Pattern[bytes]] = {
    "gzip": re.compile(rb"\x1f\x8b\x08"),
    "bzip2": re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"),
    "xz": re.compile(rb"\xfd7zXZ\0"),
    "lzma": re.compile(rb"\x5d\0\0.[\0-\x08](?:\xff{8}|.{5}\0{3})", re.DOTALL),  # with the usual lc, lp and pb
    "zstd": re.compile(rb"\x28\xb5\x2f\xfd"),
}
_CHECKSUM = re.compile(rb"[ \0]*([0-7]+)(?:[ \0].*)?", re.DOTALL)
_ASCII = bytes(range(128))
_SIZE = re.compile(rb"[ \0]*[0-7]*(?:[ \0].*)?|[\x80\xff].*", re.DOTALL)
# Office files often embed one another: a chart in a presentation is a workbook.
_DOCUMENT_NAME = re.compile(r".*\.(?:(?:doc|dot|xls|xlt|ppt|pot|pps)[xm]|xlsb|vsdx|od[tspgfb]|epub)", re.IGNORECASE)
_DOCUMENT_HEAD = re.compile(
    rb"PK\x03\x04.{26}(?:\[Content_Types\]\.xml|mimetype|(?:_rels|docProps|word|xl|ppt)/)", re.DOTALL
)


def compression(head: bytes) -> Compression | None:
    """Return the compression of a file that begins with ``head``, if a supported Python version can decompress it."""
    return next((kind for kind, magic in _COMPRESSIONS.items() if magic.match(head)), None)


def is_unreadable(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is archived or compressed in an unsupported format."""
    return _UNREADABLE.match(head) is not None


def is_tar_header(block: bytes) -> bool:
    """Whether ``block`` can be a tar header, by its magic (POSIX.1-1988, ustar) or its checksum (v7 tar).

    The checksum is the sum of all bytes, with its own field as spaces. Some old programs sum signed bytes.
    """
    if len(block) < HEAD:
        return False
    if block[257:262] == b"ustar":
        return True
    return has_tar_checksum(block, 0)


def has_tar_checksum(data: bytes, at: int) -> bool:
    """Whether there is a tar header at ``at``, by its checksum and size fields, which every tar program reads."""
    field = _CHECKSUM.fullmatch(data, at + 148, at + 156)
    if field is None or _SIZE.fullmatch(data, at + 124, at + 136) is None:
        return False
    return int(field[1], 8) in tar_checksums(data[at : at + HEAD])


def tar_checksums(block: bytes) -> tuple[int, int]:
    """Return the sums of the header ``block`` as unsigned and as signed bytes."""
    summed = block[:148] + b" " * 8 + block[156:HEAD]
    unsigned = sum(summed)
    return unsigned, unsigned - 256 * len(summed.translate(None, _ASCII))


def is_document(name: str, head: bytes) -> bool:
    """Whether an entry is an Office document or an e-book (a zip file), by its extension and its first bytes."""
    return _DOCUMENT_NAME.fullmatch(name) is not None and _DOCUMENT_HEAD.match(head) is not None


def is_archive(name: str, head: bytes) -> bool:
    """Whether an entry is archived or compressed, by its extension or its first bytes."""
    ending = name[name.rfind(".") :] if "." in name else ""
    return (
        _ENDINGS.fullmatch(ending) is not None
        or head.startswith((*ZIP_HEADS, b"PK\x07\x08", b"PK00"))
        or compression(head) is not None
        or is_unreadable(head)
        or is_tar_header(head)
    )
