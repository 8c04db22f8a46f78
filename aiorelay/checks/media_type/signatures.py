"""Detect a media type from a file's first bytes by a table, with the type names of libmagic.

The leading bytes decide: an HTML page after ``GIF89a`` is ``image/gif``, as in browsers.
"""

import re

from aiorelay.checks.media_type import text_types, zip_types

__all__ = ["EMPTY", "GENERIC", "HEAD", "NAMES", "UNKNOWN", "detect_media_type"]

HEAD = 8192
"""Number of bytes at a file's beginning that are examined."""

EMPTY = "inode/x-empty"
UNKNOWN = "application/octet-stream"
_OLE = "application/x-ole-storage"  # Office documents before 2007, and others

GENERIC = frozenset({UNKNOWN, text_types.PLAIN, text_types.XML, zip_types.ZIP, _OLE})
"""The types that name a container or encoding but not the content."""

_STRINGS: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
    (b"II*\0", "image/tiff"),
    (b"MM\0*", "image/tiff"),
    (b"II+\0", "image/tiff"),
    (b"MM\0+", "image/tiff"),
    (b"%PDF-", "application/pdf"),
    (b"\xef\xbb\xbf%PDF-", "application/pdf"),
    (b"\n%PDF-", "application/pdf"),
    (b"\x1f\x8b", "application/gzip"),
    (b"\xfd7zXZ\0", "application/x-xz"),
    (b"\x28\xb5\x2f\xfd", "application/zstd"),
    (b"7z\xbc\xaf\x27\x1c", "application/x-7z-compressed"),
    (b"Rar!\x1a\x07", "application/x-rar"),
    (b"\x7fELF", "application/x-elf"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", _OLE),
    (b"{\\rtf", "text/rtf"),
    (b"fLaC", "audio/flac"),
    (b"ID3", "audio/mpeg"),
)

# The valid bit rates and sampling rates in the third byte of an MPEG audio frame
_MPEG_RATES = "".join(f"\\x{rate:x}0-\\x{rate:x}b" for rate in range(1, 15))

# For formats whose leading string also occurs in text or numbers. Matched at byte 0, in this order.
_PATTERNS: tuple[tuple[re.Pattern[bytes], str], ...] = tuple(
    (re.compile(pattern.encode("ascii"), re.DOTALL), name)
    for pattern, name in (
        (r"RIFF.{4}WEBP", "image/webp"),
        (r"RIFF.{4}WAVE", "audio/x-wav"),
        (r"RIFF.{4}AVI ", "video/x-msvideo"),
        (r"BM.{4}\x00{4}.{4}[\x0c\x28\x34\x38\x40\x6c\x7c]\x00{3}", "image/bmp"),  # the sizes of the second header
        (r"\x00\x00\x01\x00[\x01-\xff]\x00.{3}\x00", "image/vnd.microsoft.icon"),
        (r"BZh[1-9](?:1AY&SY|\x17rE8P\x90)", "application/x-bzip2"),  # pi; its square root if empty
        (r"\x1aE\xdf\xa3.{0,64}?\x42\x82.webm", "video/webm"),  # EBML's DocType
        (r"\x1aE\xdf\xa3", "video/x-matroska"),
        (r"OggS.{23,32}?\x80theora", "video/ogg"),
        (r"OggS.{23,32}?(?:\x01vorbis|OpusHead|Speex   |\x7fFLAC)", "audio/ogg"),
        (r"OggS\x00", "application/ogg"),
        (rf"\xff[\xe2\xe3\xf2\xf3\xfa\xfb][{_MPEG_RATES}]", "audio/mpeg"),  # a frame of layer III
        (r"MZ.{0,62}?\x00", "application/vnd.microsoft.portable-executable"),
        (r".{257}ustar[\x00 ]", "application/x-tar"),
        # ISO base media: the major brand, or the compatible brands eight bytes later
        (r"\x00.{3}ftyp(?:.{8}(?:.{4}){0,12}?)?avi[fs]", "image/avif"),
        (r"\x00.{3}ftyp(?:.{8}(?:.{4}){0,12}?)?(?:hei[cxms]|hev[cx])", "image/heic"),
        (r"\x00.{3}ftyp(?:mif1|msf1)", "image/heif"),
        (r"\x00.{3}ftypqt  ", "video/quicktime"),
        (r"\x00.{3}ftypM4[AB] ", "audio/x-m4a"),
        (r"\x00.{3}ftyp3g", "video/3gpp"),
        (r"\x00.{3}ftyp", "video/mp4"),
        (r"\x00.{3}(?:moov|mdat|wide)", "video/quicktime"),  # older than ftyp
    )
)

NAMES = frozenset({name for _, name in (*_STRINGS, *_PATTERNS)} | text_types.NAMES | zip_types.NAMES)
"""Every media type that has a signature."""


def detect_media_type(head: bytes) -> str:
    """Return the media type of a file from ``head``, its first ``HEAD`` bytes or the whole file."""
    if not head:
        return EMPTY
    for string, name in _STRINGS:
        if head.startswith(string):
            return name
    for pattern, name in _PATTERNS:
        if pattern.match(head):
            return name
    if zip_types.is_zip(head):
        return zip_types.zip_type(head)
    return text_types.text_type(head, cut=len(head) >= HEAD) or UNKNOWN
