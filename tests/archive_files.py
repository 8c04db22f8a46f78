"""Archives that tests write field by field."""

import bz2
import gzip
import io
import lzma
import random
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from aiorelay.checks.archives.check import UnpackLimits, inspect
from aiorelay.errors import ArchiveRefused

LIMITS = UnpackLimits(max_ratio=100, max_size=10 << 30, max_entries=10_000)
NOISE = random.Random(1).randbytes(20_000)  # incompressible, so that the ratio limit does not apply  # noqa: S311


def as_id(text: str) -> str:
    """Return the words of a path or command, for a test id that can be typed."""
    return " ".join(re.findall(r"[\w.,:/=+*-]+", text.replace("\\", " backslash ")))[:75]


def verdict(data: bytes, **limits: float) -> str | None:
    """Return the reason of the refusal, or None."""
    try:
        inspect(io.BytesIO(data), replace(LIMITS, **limits))  # type: ignore[arg-type]  # integers where they are wanted
    except ArchiveRefused as refusal:
        return refusal.detail
    return None


def deflated(data: bytes) -> bytes:
    compressor = zlib.compressobj(9, zlib.DEFLATED, -15)
    return compressor.compress(data) + compressor.flush()


@dataclass
class Zipped:
    """One entry of a zip. ``local`` and ``central`` replace correct values of these headers."""

    name: bytes = b"a.txt"
    data: bytes = b"hello"
    method: int = 8
    flags: int = 0
    mode: int = stat.S_IFREG | 0o644
    extra: bytes = b""
    packed: bytes | None = None
    descriptor: bytes = b""
    offset: int | None = None
    local: dict[str, Any] = field(default_factory=dict)
    central: dict[str, Any] = field(default_factory=dict)

    def truth(self) -> dict[str, Any]:
        packed = self.contents()
        return {
            "name": self.name,
            "flags": self.flags,
            "method": self.method,
            "crc": zlib.crc32(self.data),
            "packed": len(packed),
            "size": len(self.data),
            "extra": self.extra,
        }

    def contents(self) -> bytes:
        if self.packed is not None:
            return self.packed
        return deflated(self.data) if self.method == 8 else self.data

    def local_header(self) -> bytes:
        h = self.truth() | self.local
        sizes = (h["crc"], h["packed"], h["size"], len(h["name"]), len(h["extra"]))
        head = struct.pack("<4s5H3L2H", b"PK\3\4", 20, h["flags"], h["method"], 0, 33, *sizes)
        return b"".join([head, h["name"], h["extra"]])

    def central_header(self, offset: int) -> bytes:
        h = self.truth() | {"offset": offset, "disk": 0} | self.central
        sizes = (h["crc"], h["packed"], h["size"], len(h["name"]), len(h["extra"]), 0, h["disk"], 0)
        head = struct.pack("<4s6H3L5H", b"PK\1\2", 0x0314, 20, h["flags"], h["method"], 0, 33, *sizes)
        return b"".join([head, struct.pack("<2L", self.mode << 16, h["offset"]), h["name"], h["extra"]])


def end_record(count: int, length: int, offset: int, comment: bytes = b"", disk: int = 0) -> bytes:
    return struct.pack("<4s4H2LH", b"PK\5\6", disk, 0, count, count, length, offset, len(comment)) + comment


def end64_records(count: int, length: int, offset: int, at: int) -> bytes:
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, offset)
    return record + struct.pack("<4sLQL", b"PK\6\7", 0, at, 1)


def make_zip(
    *entries: Zipped,
    prefix: bytes = b"",
    shift: int = 0,
    gap: bytes = b"",
    count: int | None = None,
    comment: bytes = b"",
    zip64: bool = False,
    end: bytes | None = None,
) -> bytes:
    """Make a zip of ``entries``; its offsets do not count the last ``shift`` bytes of ``prefix``."""
    body, directory = prefix, b""
    for entry in entries:
        directory += entry.central_header(len(body) - shift if entry.offset is None else entry.offset)
        if entry.offset is None:
            body += entry.local_header() + entry.contents() + entry.descriptor
    body += gap
    fields = (len(entries) if count is None else count, len(directory), len(body) - shift)
    tail = directory
    if zip64:
        tail += end64_records(*fields, at=len(body) + len(directory) - shift)
        fields = (0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    return body + tail + (end_record(*fields, comment) if end is None else end)


def python_zip(
    *entries: tuple[str, bytes], method: int = zipfile.ZIP_DEFLATED, comment: bytes = b"", streamed: bool = False
) -> bytes:
    class Unseekable(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            return packed.write(bytes(data))

    packed = io.BytesIO()
    with zipfile.ZipFile(Unseekable() if streamed else packed, "w", method) as archive:
        archive.comment = comment
        for name, data in entries:
            archive.writestr(name, data)
    return packed.getvalue()


def link_zip(name: str, target: str, method: int = 0) -> bytes:
    return make_zip(Zipped(name.encode(), target.encode(), method, mode=stat.S_IFLNK | 0o777))


@dataclass
class Tarred:
    """One entry of a tar, as ``tarfile`` writes it."""

    name: str = "a.txt"
    data: bytes = b"hello"
    kind: bytes = tarfile.REGTYPE
    target: str = ""
    pax: dict[str, str] = field(default_factory=dict)


def make_tar(*entries: Tarred, mode: str = "w", layout: int = tarfile.PAX_FORMAT, pax: Any = None) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(mode=mode, fileobj=packed, format=layout, pax_headers=pax) as archive:  # type: ignore[call-overload]
        for entry in entries:
            info = tarfile.TarInfo(entry.name)
            info.type, info.linkname, info.pax_headers = entry.kind, entry.target, dict(entry.pax)
            info.size = len(entry.data) if entry.kind in tarfile.REGULAR_TYPES else 0
            archive.addfile(info, io.BytesIO(entry.data))
    return packed.getvalue()


def tar_header(
    name: bytes = b"a.txt",
    size: bytes = b"00000000000\0",
    kind: bytes = b"0",
    *,
    magic: bytes = b"ustar\x0000",
    **at: bytes,
) -> bytes:
    """Make one header block; ``at`` overwrites fields by their offset, as ``at345=b"…"``."""
    block = bytearray(512)
    for offset, value in {0: name, 100: b"0000644\0", 124: size, 156: kind, 257: magic}.items():
        block[offset : offset + len(value)] = value
    for key, value in at.items():
        offset = int(key.removeprefix("at"))
        block[offset : offset + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def blocks(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def extension(kind: bytes, data: bytes) -> bytes:
    return tar_header(b"extension", b"%011o\0" % len(data), kind) + blocks(data)


def pax_record(key: bytes, value: bytes) -> bytes:
    length = len(key) + len(value) + 3
    length += len(str(length + len(str(length))))
    return b"%d %s=%s\n" % (length, key, value)


END_OF_TAR = bytes(1024)
TREE = [
    Tarred("top", kind=tarfile.DIRTYPE),
    Tarred("top/a.txt"),
    Tarred("top/deep/er/b.bin", NOISE),
    Tarred("top/empty", b""),
    Tarred("top/deep/link", kind=tarfile.SYMTYPE, target="../a.txt"),
    Tarred("top/deep/there", kind=tarfile.SYMTYPE, target="er/b.bin"),
    Tarred("top/hard", kind=tarfile.LNKTYPE, target="top/a.txt"),
]
PLAIN = [("a.txt", b"hello"), ("deep/", b""), ("deep/b.bin", NOISE), ("größe/日本.txt", b"x" * 300), ("empty", b"")]
OFFICE = [("[Content_Types].xml", b"<Types/>"), ("word/document.xml", b"<w:document/>" * 9)]
DOCX = python_zip(*OFFICE)
PASSES: dict[str, Callable[[], bytes]] = {
    "a zip": lambda: python_zip(*PLAIN),
    "a stored zip": lambda: python_zip(*PLAIN, method=zipfile.ZIP_STORED),
    "a bzip2 zip": lambda: python_zip(*PLAIN, method=zipfile.ZIP_BZIP2),
    "an lzma zip": lambda: python_zip(*PLAIN, method=zipfile.ZIP_LZMA),
    "a streamed zip": lambda: python_zip(*PLAIN, streamed=True),
    "a streamed, stored zip": lambda: python_zip(*PLAIN, streamed=True, method=zipfile.ZIP_STORED),
    "a zip with a comment": lambda: python_zip(*PLAIN, comment=b"a comment"),
    "a zip with the longest comment": lambda: python_zip(*PLAIN, comment=b"c" * 65535),
    "a zip with a comment that names the record": lambda: python_zip(*PLAIN, comment=b"PK\5"),
    "an empty zip": python_zip,
    "a docx": lambda: DOCX,
    "a jar": lambda: python_zip(("META-INF/", b""), ("META-INF/MANIFEST.MF", b"1"), ("A.class", b"\xca\xfe\xba\xbe")),
    "a docx in a zip": lambda: python_zip(("letter.docx", DOCX), method=zipfile.ZIP_STORED),
    "a docx in a zip, deflated": lambda: python_zip(("letter.DOCX", DOCX)),
    "a docx in a tar": lambda: make_tar(Tarred("letter.docx", DOCX)),
    "a directory with an archive's name": lambda: python_zip(("old.zip/", b""), ("old.zip/a", b"a")),
    "a zip64": lambda: make_zip(Zipped(), zip64=True),
    "a zip64 with a comment": lambda: make_zip(Zipped(), zip64=True, comment=b"comment"),
    "a zip64 behind data": lambda: make_zip(Zipped(), zip64=True, prefix=b"#!/bin/sh\n", shift=10),
    "zip64 sizes": lambda: make_zip(
        Zipped(
            local={"size": 0xFFFFFFFF, "packed": 0xFFFFFFFF, "extra": struct.pack("<2H2Q", 1, 16, 5, 7)},
            central={
                "size": 0xFFFFFFFF,
                "packed": 0xFFFFFFFF,
                "offset": 0xFFFFFFFF,
                "disk": 0xFFFF,
                "extra": struct.pack("<2H3QL", 1, 28, 5, 7, 0, 0),
            },
        )
    ),
    "data before, offsets without them": lambda: make_zip(Zipped(), prefix=b"MZ" + NOISE, shift=len(NOISE) + 2),
    "data before, offsets with them": lambda: make_zip(Zipped(), prefix=b"#!/usr/bin/env python3\n"),
    "zeros after a zip": lambda: make_zip(Zipped()) + bytes(5000),
    "a gap before the directory": lambda: make_zip(Zipped(), gap=b"APK Sig Block 42"),
    "a zip in another file": lambda: b"\xd0\xcf\x11\xe0" + make_zip(Zipped()) + b"and more",
    "a descriptor of 64 bits": lambda: make_zip(
        Zipped(
            flags=8,
            local={"crc": 0, "size": 0, "packed": 0},
            descriptor=struct.pack("<LQQ", zlib.crc32(b"hello"), 7, 5),
        )
    ),
    "a descriptor of only what was unknown": lambda: make_zip(
        Zipped(
            flags=8,
            local={"crc": 0, "packed": 0},
            descriptor=struct.pack("<4s3L", b"PK\7\10", zlib.crc32(b"hello"), 7, 5),
        )
    ),
    "sizes ahead in spite of the flag": lambda: make_zip(Zipped(flags=8)),
    "padding in an extra field": lambda: make_zip(Zipped(local={"extra": b"\0\0\0"})),
    "a name in Shift-JIS": lambda: make_zip(Zipped("表.txt".encode("shift-jis"))),
    "a name in broken UTF-8": lambda: make_zip(Zipped(b"\xff.txt", flags=1 << 11)),
    "a link inside a zip": lambda: link_zip("a/b/link", "../c"),
    "a deflated link": lambda: link_zip("link", "a/" * 50 + "b", method=8),
    "a zip of a pipe": lambda: make_zip(Zipped(b"-", mode=stat.S_IFIFO | 0o600)),
    "backslashes inside": lambda: make_zip(Zipped(b"a\\b\\c.txt")),
    "dots that do not climb": lambda: python_zip(("..a/b../c...d", b""), ("./e", b"")),
    **{
        f"a tar, {name}{mode[1:]}": partial(make_tar, *TREE, layout=layout, mode=mode)
        for name, layout in [("ustar", tarfile.USTAR_FORMAT), ("gnu", tarfile.GNU_FORMAT), ("pax", tarfile.PAX_FORMAT)]
        for mode in ("w", "w:gz", "w:bz2", "w:xz")
    },
    "an empty tar": make_tar,
    **{f"an empty tar{mode}": partial(make_tar, mode="w" + mode) for mode in (":gz", ":bz2", ":xz")},
    "long names, gnu": lambda: make_tar(
        Tarred("n" * 300), Tarred("l" * 200, kind=tarfile.SYMTYPE, target="t" * 300), layout=tarfile.GNU_FORMAT
    ),
    "long names, pax": lambda: make_tar(
        Tarred("n" * 300), Tarred("größe" * 60, kind=tarfile.SYMTYPE, target="日本" * 100)
    ),
    "a long name, ustar": lambda: make_tar(Tarred("p/" * 70 + "n" * 90), layout=tarfile.USTAR_FORMAT),
    "a pax comment for all": lambda: make_tar(Tarred(), pax={"comment": "0123456789abcdef"}),
    "extended attributes": lambda: make_tar(Tarred(pax={"SCHILY.xattr.user.x": "v" * 60_000})),
    "the size in both headers": lambda: (
        extension(b"x", pax_record(b"size", b"5")) + tar_header(size=b"00000000005\0") + blocks(b"hello") + END_OF_TAR
    ),
    "a v7 tar": lambda: tar_header(b"d/", magic=b"") + tar_header(b"d/a", magic=b"") + END_OF_TAR,
    "a signed checksum": lambda: (
        bytes((block := bytearray(tar_header(b"\xff", magic=b""))[:148]) + b"%06o\0 " % (sum(block) + 256 + 48 - 256))
        + bytes(356)
        + END_OF_TAR
    ),
    "a size in base 256": lambda: tar_header(size=b"\x80" + (5).to_bytes(11)) + blocks(b"hello") + END_OF_TAR,
    "a tar without an end": lambda: tar_header(size=b"00000000005\0") + blocks(b"hello"),
    "a sparse file, gnu": lambda: (
        tar_header(b"s", b"00000001000\0", b"S", magic=b"ustar  \0", at482=b"\1", at483=b"00000010000\0")
        + bytes(504)
        + b"\1"
        + bytes(7)
        + bytes(512)
        + b"x" * 512
        + END_OF_TAR
    ),
    "a file of an unknown type": lambda: tar_header(kind=b"Z", size=b"00000000005\0") + blocks(b"hello") + END_OF_TAR,
    "a gzip of one file": lambda: gzip.compress(NOISE),
    "a gzip of nothing": lambda: gzip.compress(b""),
    "a gzip of several members": lambda: gzip.compress(NOISE) * 3,
    "a gzip before zeros": lambda: gzip.compress(NOISE) + bytes(40_000),
    "zeros between members": lambda: bz2.compress(NOISE) + bytes(40_000) + bz2.compress(NOISE),
    "a bzip2 of one file": lambda: bz2.compress(NOISE),
    "a bzip2 of nothing": lambda: bz2.compress(b""),
    "an xz of one file": lambda: lzma.compress(NOISE),
    "an xz of several streams": lambda: lzma.compress(NOISE) * 2 + bytes(4),
    "nothing": lambda: b"",
    "a byte": lambda: b"P",
    "text": lambda: b"PK is not a zip, nor is " * 1000,
    "noise": lambda: NOISE,
    "zeros": lambda: bytes(10_240),
    "a record that ends nothing": lambda: NOISE + end_record(1, 46, 0) + NOISE,
    "many records that end nothing": lambda: b"x" + end_record(1, 46, 0) * 2000,
    "a bitmap that begins like bzip2": lambda: b"BZh9" + NOISE,
}


def unicode_path(name: bytes, path: bytes) -> bytes:
    return struct.pack("<2HBL", 0x7075, 5 + len(path), 1, zlib.crc32(name)) + path
