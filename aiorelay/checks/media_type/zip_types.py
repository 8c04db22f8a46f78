"""Detect the type of a zip file by its first entries: a stream does not show the directory at the end.

Local file header: APPNOTE 4.3.7. ``mimetype`` entry: OpenDocument 1.2, part 3, section 3.3, and OCF 3.3, section 4.2.2.
"""

import re
import struct
from collections.abc import Iterator

__all__ = ["NAMES", "ZIP", "is_zip", "zip_type"]

ZIP = "application/zip"
_APK = "application/vnd.android.package-archive"
_JAR = "application/java-archive"
_OFFICE = "application/vnd.openxmlformats-officedocument."
_DOCX, _XLSX, _PPTX = (
    _OFFICE + "wordprocessingml.document",
    _OFFICE + "spreadsheetml.sheet",
    _OFFICE + "presentationml.presentation",
)

_DECLARED = re.compile(rb"application/(?:vnd\.oasis\.opendocument\.[a-z-]{1,40}|epub\+zip)")
_ANDROID = re.compile(rb"AndroidManifest\.xml|classes\d*\.dex|resources\.arsc|META-INF/com/android/.*")
_OFFICE_PARTS = tuple(
    (re.compile(pattern), name)
    for pattern, name in (
        (rb"word/.+\.(?:xml|rels)", _DOCX),
        (rb"xl/.+\.(?:xml|rels)", _XLSX),
        (rb"ppt/.+\.(?:xml|rels)", _PPTX),
    )
)

NAMES = frozenset(
    {
        ZIP,
        _APK,
        _JAR,
        _DOCX,
        _XLSX,
        _PPTX,
        "application/epub+zip",
        "application/vnd.oasis.opendocument.text",
        "application/vnd.oasis.opendocument.spreadsheet",
        "application/vnd.oasis.opendocument.presentation",
    }
)

_ENTRY = b"PK\x03\x04"
_STARTS = (_ENTRY, b"PK\x05\x06", b"PK\x07\x08" + _ENTRY)  # with entries, empty, first of several volumes
_HEADER = struct.Struct("<4x2xHH2x2x4xL4xHH")
_HAS_DESCRIPTOR = 0x08


def is_zip(head: bytes) -> bool:
    """Whether a file that begins with ``head`` is a zip file, including an empty one."""
    return head.startswith(_STARTS)


def zip_type(head: bytes) -> str:
    """Return the media type of the zip file that begins with ``head``, ``application/zip`` if no other is detected."""
    entries = list(_entries(head))
    names = [name for name, _ in entries]
    if names[:1] == [b"mimetype"] and (declared := _DECLARED.fullmatch(entries[0][1])):
        return declared[0].decode("ascii")
    if any(_ANDROID.fullmatch(name) for name in names):
        return _APK
    if names and names[0].startswith(b"META-INF/"):
        return _JAR
    # In any order: some writers put [Content_Types].xml first, others last.
    return next((kind for name in names for pattern, kind in _OFFICE_PARTS if pattern.fullmatch(name)), ZIP)


def _entries(head: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name and, if it is stored uncompressed, the content of each entry within ``head``."""
    offset = head.find(_ENTRY)
    while offset >= 0 and head.startswith(_ENTRY, offset) and len(head) >= offset + _HEADER.size:
        flags, method, size, name_length, extra_length = _HEADER.unpack_from(head, offset)
        name = offset + _HEADER.size
        content = name + name_length + extra_length
        if content > len(head):
            return
        yield head[name : name + name_length], b"" if method else head[content : content + size]
        unknown = flags & _HAS_DESCRIPTOR and not size
        offset = head.find(_ENTRY, content) if unknown else content + size
