import bz2
import contextlib
import gzip
import io
import lzma
import os
import stat
import struct
import subprocess
import tarfile
import tempfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from archive_files import (
    DOCX,
    END_OF_TAR,
    LIMITS,
    NOISE,
    PASSES,
    PLAIN,
    TREE,
    Tarred,
    Zipped,
    as_id,
    deflated,
    end64_records,
    end_record,
    extension,
    link_zip,
    make_tar,
    make_zip,
    pax_record,
    python_zip,
    tar_header,
    unicode_path,
    verdict,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import PACKAGES, program

from aiorelay.checks.archives.check import UnpackLimits, inspect
from aiorelay.checks.archives.formats import is_archive
from aiorelay.checks.archives.rules import leads_out, link_leads_out
from aiorelay.errors import ArchiveRefused

KIB, MIB = 1 << 10, 1 << 20


# --- Making archives, valid and malicious ones ----------------------------------------------------------------------


def extended_tar(pax_header: bytes) -> bytes:
    return extension(b"x", pax_header) + tar_header() + END_OF_TAR


# --- Accepted files -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", PASSES.values(), ids=PASSES)
def test_passes(make: Callable[[], bytes]) -> None:
    assert verdict(make()) is None


def test_the_files_position_does_not_matter() -> None:
    file = io.BytesIO(make_tar(Tarred("../a")))
    file.seek(700)
    with pytest.raises(ArchiveRefused, match="leads out"):
        inspect(file, LIMITS)


COMMANDS = {
    "zip": "zip -qr - .",
    "zip with links": "zip -qry ../out . && cat ../out.zip",
    "zip into a file": "zip -qr ../out . && cat ../out.zip",
    "zip, stored": "zip -q0r ../out . && cat ../out.zip",
    "zip, descriptors": "zip -qr -fd ../out . && cat ../out.zip",
    "zip, zip64": "zip -qr -fz ../out . && cat ../out.zip",
    "zip of a pipe": "cat a.txt | zip -q - - | cat",
    "zip, bzip2": "zip -qr -Z bzip2 ../out . && cat ../out.zip",
    "zip, self-extracting": "zip -qr ../out . && cat a.txt ../out.zip",
    "zip, adjusted": "zip -qr ../out . && cat a.txt ../out.zip > ../sfx.zip && zip -qA ../sfx.zip && cat ../sfx.zip",
    **{f"tar, {layout}": f"tar c --format={layout} ." for layout in ("gnu", "oldgnu", "pax", "ustar", "v7")},
    **{f"tar c{letter}": f"tar c{letter} ." for letter in "zjJ"},
    "tar, sparse gnu": "tar cS --format=gnu .",
    **{f"tar, sparse pax {v}": f"tar cS --format=pax --sparse-version={v} ." for v in ("0.0", "0.1", "1.0")},
    "tar, many blocks": "tar c -b 200 .",
    "tar, gzip in pieces": "tar c . > ../out.tar && gzip -c ../out.tar && true",
    "bsdtar, zip": "bsdtar -c --format zip -f - .",
    "bsdtar, pax": "bsdtar -c --format pax -f - .",
    "bsdtar, xz": "bsdtar -cJf - .",
    "7z, zip": "7z a -bd ../out.zip . >/dev/null && cat ../out.zip",
    **{f"7z, {m}": f"7z a -bd -mm={m} ../out.zip . >/dev/null && cat ../out.zip" for m in ("BZip2", "LZMA")},
    "bsdtar, stored zip": "bsdtar -c --format zip --options zip:compression=store -f - .",
    "bsdtar, lzma": "bsdtar -c --lzma -f - .",
    "jar": "jar cf ../out.jar . && cat ../out.jar",
    "jar, stored": "jar c0f ../out.jar . && cat ../out.jar",
    "zip, an entry deleted": "zip -qr - . | cat > ../out.zip && zip -qd ../out.zip a.txt && cat ../out.zip",
    "7z, tar": "7z a -bd ../out.tar . >/dev/null && cat ../out.tar",
}


@pytest.mark.needs("7z", "bsdtar", "jar", "zip")
@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_what_other_programs_pack_passes(command: str, tmp_path: Path) -> None:
    for word in PACKAGES.keys() & command.split():
        program(word)
    here = tmp_path / "here"
    (here / "d" / "e").mkdir(parents=True)
    (here / "a.txt").write_text("hello")
    (here / "empty").touch()
    (here / "größe 日本.txt").write_text("x" * 500)
    (here / "d" / "e" / "noise").write_bytes(NOISE)
    (here / "d" / "link").symlink_to("../a.txt")
    (here / "hard").hardlink_to(here / "a.txt")
    with (here / "holes").open("wb") as holes:
        for at in range(0, 64 * KIB, 8 * KIB):
            holes.seek(at)
            holes.write(NOISE[at % 9999 :][:4096])
    packed = subprocess.run(["sh", "-c", command], cwd=here, check=True, stdout=subprocess.PIPE).stdout
    assert verdict(packed) is None


# --- Refused files -------------------------------------------------------------------------------------------------


def bomb_of_overlaps(files: int, size: int) -> bytes:
    """Make a zip whose entries share the same compressed data (zip bomb with overlapping entries)."""
    kernel = Zipped(b"0", bytes(size))
    sharing = [Zipped(b"%d" % n, bytes(size), offset=0, local={}) for n in range(1, files)]
    return make_zip(kernel, *sharing)


def quoted_overlap() -> bytes:
    """Make a zip whose first entry contains the second's local header in a stored deflate block (zbsm)."""
    inner = Zipped(b"b", NOISE[:100])
    quoted = inner.local_header()
    cover = struct.pack("<BHH", 0, 600, 600 ^ 0xFFFF) + NOISE[:600]
    packed = cover + struct.pack("<BHH", 0, len(quoted), len(quoted) ^ 0xFFFF) + quoted + inner.contents()
    outer = Zipped(b"a", NOISE[:600] + quoted + inner.data, packed=packed)
    at = len(outer.local_header()) + len(cover) + 5
    return make_zip(outer, Zipped(b"b", inner.data, offset=at))


def lies(*, central: dict[str, Any] | None = None, local: dict[str, Any] | None = None, **truth: Any) -> bytes:
    return make_zip(Zipped(**truth, central=central or {}, local=local or {}))


def misplaced_end64(prefix: bytes) -> bytes:
    entry = Zipped()
    offset = len(make_zip(entry, end=b"")) - len(entry.central_header(0))
    records = end64_records(1, len(entry.central_header(0)), offset, at=9)
    return prefix + make_zip(entry, end=records + end_record(1, 0xFFFFFFFF, 0xFFFFFFFF))


INNER = python_zip(("a.txt", b"hello"))
STREAMED = {"flags": 8, "local": {"crc": 0, "size": 0, "packed": 0}}
DISAGREE = "header and the directory disagree"
NESTED = "is itself an archive"
OUT = "path that leads out"
LINK_OUT = "link that leads out"

REFUSED: dict[str, tuple[Callable[[], bytes], str]] = {
    # limits
    "a zip over the ratio": (lambda: python_zip(("a", bytes(MIB))), "more than 100 times"),
    "a gzip over the ratio": (lambda: gzip.compress(bytes(MIB)), "more than 100 times"),
    "a bzip2 over the ratio": (lambda: bz2.compress(bytes(MIB)), "more than 100 times"),
    "an xz over the ratio": (lambda: lzma.compress(bytes(MIB)), "more than 100 times"),
    **{
        f"a tar{mode} over the ratio": (partial(make_tar, Tarred(data=bytes(MIB)), mode="w" + mode), "times")
        for mode in (":gz", ":bz2", ":xz")
    },
    "zeros after a tar over the ratio": (lambda: gzip.compress(make_tar(Tarred()) + bytes(4 * MIB)), "times"),
    "a sparse tar, gnu": (
        lambda: tar_header(b"s", kind=b"S", magic=b"ustar  \0", at483=b"77777777777\0") + END_OF_TAR,
        "100 times",
    ),
    "a sparse tar, pax": (
        lambda: make_tar(Tarred(pax={"GNU.sparse.major": "1", "GNU.sparse.realsize": "9999999"})),
        "100 times",
    ),
    "a sparse tar, old pax": (lambda: make_tar(Tarred(pax={"GNU.sparse.size": "9999999"})), "100 times"),
    "a size of many exabytes": (
        lambda: lies(
            data=NOISE,
            central={"size": 0xFFFFFFFF, "extra": struct.pack("<2HQ", 1, 8, 1 << 63)},
        ),
        "more than 10737418240 bytes",
    ),
    # paths
    **{
        f"the path {as_id(path)} in a {kind}": (partial(make, path), OUT)
        for path in (
            "../a",
            "a/../../b",
            "a/..",
            "/etc/passwd",
            "..\\a",
            "\\a",
            "\\\\host\\a",
            "C:\\a",
            "c:a",
            "a\\..\\b",
        )
        for kind, make in [("zip", lambda p: make_zip(Zipped(p.encode()))), ("tar", lambda p: make_tar(Tarred(p)))]
    },
    "a path in a long gnu name": (
        lambda: make_tar(Tarred("a/" * 60 + "../" * 70 + "b"), layout=tarfile.GNU_FORMAT),
        OUT,
    ),
    "a path in a pax name": (lambda: make_tar(Tarred("a/" * 60 + "../" * 70 + "b")), OUT),
    "a path in a pax record": (lambda: make_tar(Tarred(pax={"path": "../a"})), OUT),
    "a path that a pax record hides": (
        lambda: extension(b"x", pax_record(b"path", b"nice")) + tar_header(b"../a") + END_OF_TAR,
        OUT,
    ),
    "a path in pax of Solaris": (
        lambda: extension(b"X", pax_record(b"path", b"../a")) + tar_header(b"nice") + END_OF_TAR,
        OUT,
    ),
    "a path in a sparse name": (lambda: make_tar(Tarred(pax={"GNU.sparse.name": "../a"})), OUT),
    "a path in a ustar prefix": (lambda: tar_header(b"a", at345=b"..") + END_OF_TAR, OUT),
    "a path of a directory": (lambda: python_zip(("../", b"")), OUT),
    "a path in a unicode field": (lambda: make_zip(Zipped(b"a", extra=unicode_path(b"a", b"../a"))), OUT),
    "a name with NUL in a zip": (lambda: make_zip(Zipped(b"a\0b")), "invalid name"),
    "a name with NUL in a tar": (lambda: make_tar(Tarred(pax={"path": "a\0b"})), "invalid name"),
    "a name without end in a zip": (lambda: make_zip(Zipped(b"n" * 60_000)), "invalid name"),
    "a name without end in a tar": (lambda: make_tar(Tarred("n" * 60_000)), "invalid name"),
    # links and devices
    **{
        f"a link {name} to {as_id(target)} in a {kind}": (partial(make, name, target), LINK_OUT)
        for name, target in [
            *(("l", ".."), ("l", "../a"), ("a/l", "../../b"), ("l", "/etc"), ("l", "C:\\"), ("l", "..\\a")),
            *(("a/l", "b/../.."), ("l", "a/.."), ("./l", "../a"), ("a//l", "../../a"), (".", "a"), ("l", "\\a")),
        ]
        for kind, make in [
            ("zip", link_zip),
            ("deflated zip", lambda n, t: link_zip(n, t, 8)),
            ("tar", lambda n, t: make_tar(Tarred(n, kind=tarfile.SYMTYPE, target=t))),
        ]
    },
    "a link to nowhere": (lambda: link_zip("l", ""), LINK_OUT),
    "a link with NUL": (lambda: link_zip("l", "a\0/../.."), LINK_OUT),
    "a link without end": (lambda: link_zip("l", "a/" * 5000), LINK_OUT),
    "a link in a rare compression": (lambda: make_zip(Zipped(b"l", b"a", 9, mode=stat.S_IFLNK)), "method 9"),
    **{
        f"a hard link to {target}": (
            partial(make_tar, Tarred("a/l", kind=tarfile.LNKTYPE, target=target)),
            LINK_OUT,
        )
        for target in ("../a", "/etc/passwd", "a/../../b")
    },
    "a hard link to nowhere": (lambda: tar_header(kind=b"1") + END_OF_TAR, LINK_OUT),
    "a long link": (lambda: make_tar(Tarred("l", kind=tarfile.SYMTYPE, target="../" * 60)), LINK_OUT),
    "a long link, gnu": (
        lambda: make_tar(Tarred("l", kind=tarfile.SYMTYPE, target="../" * 60), layout=tarfile.GNU_FORMAT),
        LINK_OUT,
    ),
    "a file behind a link": (
        lambda: make_tar(Tarred("d", kind=tarfile.SYMTYPE, target="e"), Tarred("d/f")),
        "through one of its links",
    ),
    "a file behind a link, in front of it": (
        lambda: make_tar(Tarred("D/x/f"), Tarred("d ", b""), Tarred("d", kind=tarfile.SYMTYPE, target="e")),
        "through one of its links",
    ),
    "a file behind a link in a zip": (
        lambda: make_zip(Zipped(b"d", b"e", 0, mode=stat.S_IFLNK), Zipped(b"d\\f")),
        "through one of its links",
    ),
    "a link behind a link": (
        lambda: make_tar(
            Tarred("a", kind=tarfile.SYMTYPE, target="."), Tarred("a/b", kind=tarfile.SYMTYPE, target="../c")
        ),
        "through one of its links",
    ),
    **{
        f"a device of type {kind.decode()}": (partial(make_tar, Tarred(kind=kind)), "is not a file")
        for kind in (tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE)
    },
    **{
        f"a device of mode {mode:o}": (partial(make_zip, Zipped(mode=mode)), "is not a file")
        for mode in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK)
    },
    # encryption
    **{
        f"encrypted, flag {flags:#x}": (partial(make_zip, Zipped(flags=flags)), "is encrypted")
        for flags in (1, 1 << 6, 1 << 13)
    },
    "encrypted, AES": (lambda: make_zip(Zipped(method=99)), "is encrypted"),
    "encrypted, AES by its field": (lambda: make_zip(Zipped(extra=struct.pack("<2H7x", 0x9901, 7))), "is encrypted"),
    "encrypted, strongly": (lambda: make_zip(Zipped(extra=struct.pack("<2H", 0x0017, 0))), "is encrypted"),
    "encrypted only by its own header": (lambda: lies(local={"flags": 1}), DISAGREE),
    # archives inside
    **{
        f"{name} in a {kind}": (partial(make, name), NESTED)
        for name in ("a.zip", "b/c.TAR", "d.tar.gz", "e.tgz", "f.7z", "g.rar", "h.jar", "i.xz", "j.bz2", "k.zst")
        for kind, make in [("zip", lambda n: make_zip(Zipped(n.encode()))), ("tar", lambda n: make_tar(Tarred(n)))]
    },
    **{
        f"a renamed {name} in a {kind}": (partial(make, inner), NESTED)
        for name, inner in {
            "zip": INNER,
            "empty zip": python_zip(),
            "tar": make_tar(Tarred()),
            "v7 tar": tar_header(magic=b""),
            "gzip": gzip.compress(b"x"),
            "bzip2": bz2.compress(b"x"),
            "xz": lzma.compress(b"x"),
            "7z": b"7z\xbc\xaf\x27\x1c\0\4",
            "rar": b"Rar!\x1a\x07\1\0",
            "docx": DOCX,
        }.items()
        for kind, make in [
            ("deflated zip", lambda i: make_zip(Zipped(b"innocent.dat", i))),
            ("stored zip", lambda i: make_zip(Zipped(b"innocent.dat", i, 0))),
            ("tar", lambda i: make_tar(Tarred("innocent.dat", i))),
            ("tar.gz", lambda i: make_tar(Tarred("innocent.dat", i), mode="w:gz")),
            ("gzip", gzip.compress),
            ("xz", lzma.compress),
        ]
        if (name, kind) not in {("tar", "gzip"), ("tar", "xz"), ("v7 tar", "gzip"), ("v7 tar", "xz")}  # plain tar.gz
    },
    "a zip that calls itself docx": (lambda: make_zip(Zipped(b"a.docx", INNER)), NESTED),
    "a zip hidden behind empty deflate blocks": (
        lambda: make_zip(Zipped(b"a", INNER, packed=b"\0\0\0\xff\xff" * 5000 + deflated(INNER))),
        NESTED,
    ),
    "a sheaf of zips, as 42.zip": (
        lambda: python_zip(*((f"lib {n}.zip", INNER) for n in range(16))),
        NESTED,
    ),
    # overlaps
    "entries that share a header": (lambda: bomb_of_overlaps(20, 100), "two entries overlap"),
    "an entry quoted in another": (quoted_overlap, NESTED),
    "an entry that reaches into the directory": (
        lambda: lies(data=b"hello", method=0, central={"packed": 90, "size": 90}, local={"packed": 90, "size": 90}),
        "overlaps the directory|ends too early",
    ),
    "an entry that is the directory": (lambda: make_zip(Zipped(), Zipped(b"b", offset=43)), "does not exist|overlap"),
    # false declarations
    "another name": (lambda: lies(local={"name": b"b.txt"}), DISAGREE),
    "another method": (lambda: lies(local={"method": 0}), DISAGREE),
    "another size": (lambda: lies(local={"size": 6}), "disagree about its size"),
    "another packed size": (lambda: lies(local={"packed": 6}), "disagree about its size"),
    "another checksum": (lambda: lies(local={"crc": 6}), "disagree about its size"),
    "no sizes ahead, without the flag": (lambda: lies(local={"size": 0, "packed": 0}), "disagree about its size"),
    "another size, with the flag": (lambda: lies(flags=8, local={"size": 6}), "disagree about its size"),
    "no descriptor": (lambda: make_zip(Zipped(**STREAMED)), "a data descriptor"),  # type: ignore[arg-type]
    "another size in the descriptor": (
        lambda: make_zip(Zipped(**STREAMED, descriptor=struct.pack("<3L", zlib.crc32(b"hello"), 7, 6))),  # type: ignore[arg-type]
        "a data descriptor",
    ),
    "two sizes of a stored entry": (
        lambda: lies(method=0, central={"size": 6}, local={"size": 6}),
        "has two sizes",
    ),
    "more than deflate can do": (
        lambda: make_zip(
            Zipped(packed=b"x" * 10, central={"size": 10_321}, local={"size": 10_321}), Zipped(b"b", NOISE)
        ),
        "cannot be inflated",
    ),
    "less than it inflates to": (
        lambda: lies(central={"size": 4}, local={"size": 4}),
        "size or checksum of an entry is wrong",
    ),
    "more than it inflates to": (
        lambda: lies(central={"size": 6}, local={"size": 6}),
        "size or checksum of an entry is wrong",
    ),
    "what cannot be inflated": (lambda: lies(packed=b"\xff" * 7), "cannot be inflated"),
    "a field longer than the file": (
        lambda: (whole := make_zip(Zipped()))[:28] + b"\xff\xff" + whole[30:],
        "ends too early",
    ),
    "a zip64 size that is missing": (lambda: lies(central={"size": 0xFFFFFFFF}), "lacks its zip64 sizes"),
    "two zip64 fields": (lambda: lies(extra=struct.pack("<2HQ", 1, 8, 5) * 2), "two zip64 fields"),
    "another disk": (lambda: lies(central={"disk": 1}), "on another disk"),
    "an offset before the file": (lambda: make_zip(Zipped(), prefix=b"x" * 9, shift=-5), "is invalid"),
    "an offset behind the file": (lambda: make_zip(Zipped(), Zipped(offset=99_999)), "does not exist"),
    # entries that only some programs find
    "an entry that is not listed": (lambda: make_zip(Zipped(), gap=Zipped(b"b").local_header()), "does not list"),
    "an entry that is not listed, in front": (
        lambda: make_zip(Zipped(), prefix=Zipped(b"b").local_header() + b"x"),
        "does not list",
    ),
    "an entry that is not listed, in the middle": (
        lambda: make_zip(Zipped(descriptor=Zipped(b"b").local_header()), Zipped(b"c")),
        "does not list",
    ),
    "two zips, one behind the other": (lambda: INNER + INNER, "two directories"),
    "fewer entries than it says": (lambda: make_zip(Zipped(), count=2), "fewer entries than declared"),
    "more entries than it says": (lambda: make_zip(Zipped(), Zipped(b"b"), count=1), "more entries than declared"),
    "no directory": (lambda: make_zip(Zipped())[:60], "no directory"),
    "only a header": (lambda: b"PK\3\4", "no directory"),
    "data after its end": (lambda: make_zip(Zipped()) + b"x", "data after its end"),
    "a second end in the comment": (lambda: make_zip(Zipped(), comment=end_record(0, 0, 0)), "several directories"),
    "a second end after it": (lambda: make_zip(Zipped()) + end_record(0, 0, 0), "does not list"),
    "a comment that is cut": (lambda: make_zip(Zipped(), comment=b"comment")[:-1], "data after its end"),
    "several disks": (lambda: make_zip(Zipped(), end=end_record(1, 51, 42, disk=1)), "is invalid"),
    "a directory for those who adjust offsets, another for those who do not": (
        lambda: make_zip(Zipped(b"bad"), prefix=make_zip(Zipped())[:-22], shift=len(make_zip(Zipped())) - 22),
        "does not list|two directories",
    ),
    "a zip64 end that is missing": (
        lambda: make_zip(Zipped(), end=end_record(1, 0xFFFFFFFF, 0xFFFFFFFF)),
        "zip64 end record is missing",
    ),
    "a zip64 end elsewhere": (partial(misplaced_end64, b""), "not where it should be"),
    "a zip64 end elsewhere, behind data": (partial(misplaced_end64, b"#!/bin/sh\n"), "two directories"),
    "a zip64 end that disagrees": (
        lambda: make_zip(Zipped(), zip64=True, end=None)[:-22] + end_record(2, 0xFFFFFFFF, 0xFFFFFFFF),
        "end records of the zip disagree",
    ),
    "a locator without its record": (
        lambda: make_zip(Zipped(), end=struct.pack("<4sLQL", b"PK\6\7", 0, 0, 1) + end_record(1, 51, 42)),
        "not where it should be",
    ),
    "a zip with a hidden bomb behind other data": (
        lambda: b"GIF89a" + python_zip(("a", bytes(MIB))) + b"x",
        "more than 100 times",
    ),
    "many zips behind one another behind other data": (lambda: b"GIF89a" + INNER * 20, "too many zips"),
    # damaged tars
    "a tar with a broken header": (lambda: b"x" + make_tar(Tarred())[1:], "header is damaged"),
    "a tar with a broken second header": (
        lambda: tar_header() + b"x" + tar_header(b"b")[1:] + END_OF_TAR,
        "header is damaged",
    ),
    "a tar cut in a header": (lambda: tar_header() + tar_header()[:300], "header is damaged"),
    "a tar cut in data": (lambda: tar_header(size=b"00000001000\0") + bytes(511), "ends too early"),
    "a tar cut further on in data": (lambda: tar_header(size=b"00000002000\0") + bytes(600), "ends too early"),
    "a tar cut after an extension": (lambda: extension(b"x", pax_record(b"path", b"a")), "ends too early"),
    "a tar with data after its end": (lambda: make_tar(Tarred()) + make_tar(Tarred("b")), "data follow its end"),
    "a tar with a lone zero block": (lambda: tar_header() + bytes(512) + tar_header(b"b") + END_OF_TAR, "data follow"),
    "a negative size": (lambda: tar_header(size=b"\xff" * 12) + END_OF_TAR, "header is damaged"),
    "a size that is no number": (lambda: tar_header(size=b"0x1f\0") + END_OF_TAR, "header is damaged"),
    "a directory with a size": (
        lambda: tar_header(b"d", b"00000001000\0", b"5") + bytes(512),
        "type without data has a size",
    ),
    "a v7 directory with a size": (
        lambda: tar_header(b"d/", b"00000001000\0") + bytes(512),
        "type without data has a size",
    ),
    "a link with a size": (
        lambda: tar_header(b"l", b"00000001000\0", b"2") + bytes(512),
        "type without data has a size",
    ),
    "another size in a pax record": (
        lambda: extension(b"x", pax_record(b"size", b"512")) + tar_header() + tar_header(b"b") + END_OF_TAR,
        "has two sizes",
    ),
    "another name in a pax record": (
        lambda: extension(b"L", b"a\0") + extension(b"x", pax_record(b"path", b"b")) + tar_header() + END_OF_TAR,
        "has two names",
    ),
    "two pax headers": (
        lambda: extension(b"x", pax_record(b"path", b"a")) * 2 + tar_header() + END_OF_TAR,
        "same header twice",
    ),
    "a name twice in a pax header": (
        lambda: extension(b"x", pax_record(b"path", b"a") * 2) + tar_header() + END_OF_TAR,
        "same key twice",
    ),
    "a name for all": (lambda: make_tar(Tarred(), pax={"path": "b"}), "sets a name or a size"),
    "a header for all within one": (
        lambda: extension(b"x", pax_record(b"path", b"a")) + extension(b"g", b"") + END_OF_TAR,
        "within the headers of an entry",
    ),
    **{
        f"a pax header with {what}": (partial(extended_tar, data), "pax header")
        for what, data in {
            "no length": b"x",
            "a length beyond its end": b"99 path=a\n",
            "a length of 0": b"0 path=a\n",
            "a length that is too short": b"8 path=a\n",
            "no equals sign": b"10 pathaa\n",
            "no newline": b"10 path=aa",
            "a negative length": b"-1 path=a\n",
            "a length of 5000 digits": b"9" * 5000,
            "a length with many zeros": b"000000010 path=a\n",
            "a negative size": pax_record(b"size", b"-1"),
            "a fractional size": pax_record(b"size", b"1e9"),
            "an empty size": pax_record(b"size", b""),
            "1001 records": pax_record(b"a", b"b") * 1001,
        }.items()
    },
    "a name of 2 MiB": (lambda: extension(b"L", b"a/" * MIB) + tar_header() + END_OF_TAR, "header is too long"),
    "a pax header of 2 MiB": (
        lambda: extension(b"x", pax_record(b"path", b"a" * 2 * MIB)) + tar_header() + END_OF_TAR,
        "header is too long",
    ),
    "one volume of several": (lambda: tar_header(kind=b"M", size=b"00000000005\0") + bytes(512), "one volume"),
    # unsupported formats
    "a 7z": (lambda: b"7z\xbc\xaf\x27\x1c" + NOISE, "cannot be inspected"),
    # damaged compression
    "a gzip that is cut": (lambda: gzip.compress(NOISE)[:-1], "ends too early"),
    "a bzip2 that is cut": (lambda: bz2.compress(NOISE)[:-1], "ends too early"),
    "an xz that is cut": (lambda: lzma.compress(NOISE)[:-1], "ends too early"),
    "a gzip with another checksum": (lambda: gzip.compress(NOISE)[:-8] + bytes(8), "cannot be inflated"),
    "a bzip2 with noise in it": (lambda: bz2.compress(NOISE)[:500] + NOISE, "cannot be inflated"),
    "an xz with noise in it": (lambda: lzma.compress(NOISE)[:500] + NOISE, "cannot be inflated"),
    "a gzip before data": (lambda: gzip.compress(NOISE) + b"x", "data follow its end"),
    "a gzip before a zip": (lambda: gzip.compress(NOISE) + INNER, "data follow its end"),
    "a swarm of members": (lambda: gzip.compress(b"") * 10_001, "too many members"),
    "an xz that wants gigabytes of memory": (
        lambda: lzma.compress(b"x", filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 28, "mode": lzma.MODE_FAST}]),
        "cannot be inflated",
    ),
}


@pytest.mark.parametrize(("make", "reason"), REFUSED.values(), ids=REFUSED)
def test_refused(make: Callable[[], bytes], reason: str) -> None:
    with pytest.raises(ArchiveRefused, match=reason):
        inspect(io.BytesIO(make()), LIMITS)


# --- Boundary values of limits -------------------------------------------------------------------------------------


@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda count: python_zip(*((f"{n}", b"") for n in range(count))),
        lambda count: make_tar(*(Tarred(f"{n}", b"") for n in range(count))),
        lambda count: make_tar(*(Tarred(f"{n}", b"") for n in range(count)), mode="w:gz"),
    ],
    ids=["zip", "tar", "tar.gz"],
)
def test_entries_are_limited_exactly(make: Callable[[int], bytes], *, over: bool) -> None:
    reason = verdict(make(51 if over else 50), max_entries=50, max_ratio=10**6)
    assert reason == ("The archive has more than 50 entries." if over else None)


def test_a_directory_of_ten_thousand_entries_passes() -> None:
    assert verdict(python_zip(*((f"{n}", b"x") for n in range(10_000)))) is None


def test_headers_for_all_entries_count_as_entries() -> None:
    assert "more than 50" in str(verdict(extension(b"g", b"") * 51 + END_OF_TAR, max_entries=50))


@pytest.mark.parametrize("over", [False, True])
@pytest.mark.parametrize(
    "make",
    [
        lambda size: python_zip(("a", bytes(size - 10)), ("b", bytes(10))),
        lambda size: make_tar(Tarred("a", bytes(size - 10)), Tarred("b", bytes(10))),
        lambda size: gzip.compress(bytes(size)),
    ],
    ids=["zip", "tar", "gzip"],
)
def test_the_size_is_limited_exactly(make: Callable[[int], bytes], *, over: bool) -> None:
    reason = verdict(make(100_001 if over else 100_000), max_size=100_000, max_ratio=10**6)
    assert reason == ("The archive unpacks to more than 100000 bytes." if over else None)


@pytest.mark.parametrize("over", [False, True])
def test_the_ratio_is_that_of_the_whole_file(*, over: bool) -> None:
    """One entry may exceed the ratio: the limit applies to the whole file."""
    packed = python_zip(("zeros", bytes(100_000)), ("noise", NOISE))
    ratio = 120_000 / len(packed)
    assert (verdict(packed, max_ratio=ratio - 0.01 if over else ratio) is not None) == over


def zeros_in_gzip(head: bytes, mebibytes: int) -> bytes:
    """Compress ``head`` and many zeros quickly, by repeating one piece of the stream."""
    compressor = zlib.compressobj(9, wbits=31)
    start = compressor.compress(head) + compressor.flush(zlib.Z_FULL_FLUSH)
    piece = compressor.compress(bytes(MIB)) + compressor.flush(zlib.Z_FULL_FLUSH)
    return start + piece * mebibytes + compressor.flush()


@pytest.mark.parametrize("head", [tar_header(size=b"10000000000\0"), b""], ids=["tar", "one file"])
@pytest.mark.parametrize(
    "limits", [LIMITS, UnpackLimits(max_ratio=10**6, max_size=50 * MIB, max_entries=1)], ids=["by ratio", "by size"]
)
@pytest.mark.slow
def test_a_gibibyte_of_zeros_is_refused_early_and_never_in_memory(head: bytes, limits: UnpackLimits) -> None:
    file = io.BytesIO(zeros_in_gzip(head, 1024))
    length = len(file.getvalue())
    tracemalloc.start()
    try:
        with pytest.raises(ArchiveRefused, match="unpacks to more"):
            inspect(file, limits)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * MIB
    assert file.tell() < length / 5


# --- Pure functions -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "out"),
    [
        *((path, False) for path in ("", ".", "a", "a/b", "./a", "a//b", "...", "..a", "a..", "a/..b", "ab:c", "é:a")),
        *(
            (path, True)
            for path in ("..", "../a", "a/../b", "a/..", "/", "/a", "//a", "\\a", "..\\a", "a\\..", "a:", "Z:/")
        ),
    ],
)
def test_a_path_leads_out(path: str, *, out: bool) -> None:
    assert leads_out(path) == out


@pytest.mark.parametrize(
    ("name", "target", "out"),
    [
        ("l", "a", False),
        ("l", "./a/b", False),
        ("d/l", "../a", False),
        ("d/e/l", "../../a", False),
        ("d/e/l", ".././../a", False),
        ("d/l", "..", False),
        ("d/e/l", "../../../a", True),
        ("l", "..", True),
        ("d/l", "a/../b", True),
        ("d/l", "", True),
        ("d\\l", "..\\a", False),
    ],
)
def test_a_link_leads_out(name: str, target: str, *, out: bool) -> None:
    assert link_leads_out(name, target) == out


@pytest.mark.parametrize(
    ("name", "head", "nested"),
    [
        ("a.txt", b"hello", False),
        ("zip", b"", False),
        ("a.zip.txt", b"", False),
        ("a.zip", b"", True),
        ("", b"PK\3\4", True),
        ("a.gz/b", b"", False),
        ("sheet.xls", DOCX[:512], True),
        ("sheet.xlsx", INNER[:512], True),
    ],
)
def test_a_nested_archive_is_detected_by_extension_or_bytes(name: str, head: bytes, *, nested: bool) -> None:
    assert is_archive(name, head) == nested


def test_a_refusal_does_not_contain_a_name() -> None:
    assert (
        verdict(make_zip(Zipped(b"x"), Zipped(b"../secret")))
        == "Entry 2 of the archive has a path that leads out of the archive."
    )


# --- Random input ------------------------------------------------------------------------------------------------

SAMPLES = [
    python_zip(*PLAIN[:2], ("b", NOISE[:50])),
    python_zip(*PLAIN[:2], streamed=True),
    make_zip(Zipped(), zip64=True, prefix=b"#!\n"),
    link_zip("a/l", "../b"),
    make_tar(*TREE[:2], *TREE[4:]),
    make_tar(Tarred("n" * 120), Tarred("b", NOISE[:600]), layout=tarfile.GNU_FORMAT),
    make_tar(Tarred("n" * 120, pax={"GNU.sparse.realsize": "9"})),
    make_tar(Tarred(), mode="w:gz"),
    make_tar(Tarred(), mode="w:bz2"),
    make_tar(Tarred(), mode="w:xz"),
]


@settings(deadline=None)  # a slow machine is not a failure
@given(
    st.sampled_from([b"", b"PK\3\4", b"PK\5\6", b"\x1f\x8b\x08", b"BZh91AY&SY", b"\xfd7zXZ\0", tar_header()]),
    st.binary(),
)
def test_any_bytes_pass_or_are_refused(head: bytes, data: bytes) -> None:
    verdict(head + data)


@settings(deadline=None)  # a slow machine is not a failure
@given(st.sampled_from(SAMPLES), st.data())
def test_damaged_archives_pass_or_are_refused(sample: bytes, data: st.DataObject) -> None:
    """According to the standard library, accepted archives have harmless names and a correct size."""
    damaged = bytearray(sample)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at : at + data.draw(st.integers(0, 4))] = data.draw(st.binary(max_size=4))
    if verdict(bytes(damaged)) is None:
        for name, size in listed(bytes(damaged)):
            assert not leads_out(name)
            assert size <= 100 * len(damaged) + 10_240


def listed(archive: bytes) -> Iterable[tuple[str, int]]:
    with contextlib.suppress(zipfile.BadZipFile, NotImplementedError), zipfile.ZipFile(io.BytesIO(archive)) as opened:
        yield from ((info.filename, info.file_size) for info in opened.infolist())
    with (
        contextlib.suppress(tarfile.TarError, zlib.error, EOFError, OSError, ValueError, lzma.LZMAError),
        tarfile.open(fileobj=io.BytesIO(archive)) as opened_tar,
    ):
        yield from ((member.name, member.size) for member in opened_tar)


PATHS = st.lists(st.sampled_from(["a", "b", "A", ".", ".."]), min_size=1, max_size=4).map("/".join)
MEMBERS = st.builds(
    Tarred,
    name=PATHS,
    data=st.just(b"x"),
    kind=st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE]),
    target=PATHS,
)


def unpack_trustingly(members: Iterable[Tarred], root: Path) -> None:
    """Unpack an archive without any checks."""
    for member in members:
        with contextlib.suppress(OSError):
            (root / member.name).parent.mkdir(parents=True, exist_ok=True)
            if member.kind == tarfile.DIRTYPE:
                (root / member.name).mkdir()
            elif member.kind == tarfile.SYMTYPE:
                (root / member.name).symlink_to(member.target)
            elif member.kind == tarfile.LNKTYPE:
                (root / member.name).hardlink_to(root / member.target)
            else:
                (root / member.name).write_bytes(member.data)


@settings(deadline=None)  # a slow machine is not a failure
@given(st.lists(MEMBERS, min_size=1, max_size=6))
def test_accepted_archives_unpack_within_the_directory(members: list[Tarred]) -> None:
    if verdict(make_tar(*members)) is not None:
        return
    with tempfile.TemporaryDirectory() as outside:
        inside = Path(outside, "1", "2", "3", "4", "inside")
        inside.mkdir(parents=True)
        unpack_trustingly(members, inside)
        for directory, directories, files in os.walk(outside):
            if not Path(directory).is_relative_to(inside):
                assert (len(directories), files) == (1, [])
        for path in inside.rglob("*"):
            assert path.parent.resolve().is_relative_to(inside)
            with contextlib.suppress(RuntimeError):  # a link to itself
                assert path.resolve().is_relative_to(inside)
