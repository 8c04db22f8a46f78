"""Archives whose entries only some programs find."""

import bz2
import gzip
import lzma
import struct
import subprocess
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

from archive_files import (
    DOCX,
    NOISE,
    Tarred,
    Zipped,
    as_id,
    deflated,
    make_tar,
    make_zip,
    python_zip,
    tar_header,
    unicode_path,
)
from programs import PACKAGES, program

KIB, MIB = 1 << 10, 1 << 20
MOST_BYTES, MOST_ENTRIES = MIB, 50
BOMB = bytes(3 * MIB)
HIDDEN = python_zip(("hidden", BOMB))
HIDDEN_ENTRY = Zipped(b"hidden", BOMB)
TAR = make_tar(Tarred("hidden", BOMB))
SMALL_TAR = make_tar(Tarred("hidden", b"hello"))
GIF = b"GIF89a" + NOISE[:1018]
DAMAGED = "damaged or ambiguous"
NESTED = "is itself an archive"
HIDDEN_TAR = "hidden tar"
UNLISTED = "does not list"
UNREADABLE = "cannot be inspected"
TOO_MUCH = "unpacks to more than"


def zip_lzma(data: bytes) -> bytes:
    """Compress as a zip entry of method 14, as ``zipfile`` does."""
    packed = python_zip(("a", data), method=zipfile.ZIP_LZMA)
    return packed[31 : packed.index(b"PK\1\2")]


IN_METHOD: dict[int, Callable[[bytes], bytes]] = {
    0: lambda data: data,
    8: deflated,
    12: bz2.compress,
    14: zip_lzma,
}


COMPRESSORS: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "bzip2": bz2.compress, "xz": lzma.compress}


def entry_of(data: bytes, method: int, name: bytes = b"innocent.dat") -> Zipped:
    return Zipped(name, data, method, packed=IN_METHOD[method](data))


def declaring(size: int, method: int) -> bytes:
    """Make a zip whose only entry unpacks to the bomb and declares, in both its headers, ``size`` bytes."""
    entry = entry_of(BOMB, method)
    entry.local = entry.central = {"size": size, "crc": zlib.crc32(bytes(size))}
    return make_zip(entry, Zipped(b"noise", NOISE, 0))


def with_early_descriptor() -> bytes:
    """Make a streamed, stored entry whose data contain a descriptor and a bomb, for programs that read forwards."""
    start = b"start"
    quoted = struct.pack("<4s3L", b"PK\7\10", zlib.crc32(start), len(start), len(start))
    data = start + quoted + HIDDEN_ENTRY.local_header() + HIDDEN_ENTRY.contents()
    true = struct.pack("<4s3L", b"PK\7\10", zlib.crc32(data), len(data), len(data))
    return make_zip(Zipped(b"a", data, 0, 8, local={"crc": 0, "size": 0, "packed": 0}, descriptor=true))


def with_long_local_sizes() -> bytes:
    """Make a stored entry whose zip64 field gives other sizes than its header, which Java believes."""
    return make_zip(Zipped(data=NOISE, method=0, local={"extra": struct.pack("<2H2Q", 1, 16, 100, 100)}))


def wrong_checksum(tar: bytes) -> bytes:
    return tar[:148] + b"777777\0 " + tar[156:]


def document(*entries: Zipped) -> bytes:
    return make_zip(Zipped(b"[Content_Types].xml", b"<Types/>"), *entries)


def document_in(kind: str, inner: bytes) -> bytes:
    return make_tar(Tarred("a.docx", inner)) if kind == "tar" else make_zip(Zipped(b"a.docx", inner))


def matryoshka(depth: int) -> bytes:
    inner = DOCX
    for _ in range(depth):
        inner = document(Zipped(b"word/embeddings/a.docx", inner, 0))
    return inner


def made_by(command: str, content: bytes) -> bytes:
    """Run a shell command in a directory with one file, and return its standard output."""
    for word in PACKAGES.keys() & command.split():
        program(word)
    with tempfile.TemporaryDirectory() as outside:
        directory = Path(outside, "here")
        directory.mkdir()
        (directory / "hidden").write_bytes(content)
        return subprocess.run(["sh", "-c", command], cwd=directory, check=True, stdout=subprocess.PIPE).stdout


LIARS: dict[str, tuple[Callable[[], bytes], str]] = {
    # declared sizes
    **{
        f"a bomb of method {method} that declares {size} bytes": (partial(declaring, size, method), DAMAGED)
        for method, size in [(8, 1000), (12, 100), (14, 100)]
    },
    "deflated data that go on behind their end": (
        lambda: make_zip(Zipped(packed=deflated(b"hello") + deflated(BOMB))),
        "data follow the end",
    ),
    "bzip2 data of two streams": (
        lambda: make_zip(Zipped(method=12, packed=bz2.compress(b"hello") + bz2.compress(BOMB))),
        "data follow the end",
    ),
    "another checksum in both headers": (
        lambda: make_zip(Zipped(local={"crc": 1}, central={"crc": 1})),
        "size or checksum of an entry is wrong",
    ),
    "lzma data cut short": (lambda: make_zip(Zipped(method=14, packed=zip_lzma(b"hello")[:-3])), "ends too early"),
    "lzma data without properties": (lambda: make_zip(Zipped(method=14, packed=b"\0")), "cannot be inflated"),
    "lzma data of impossible properties": (
        lambda: make_zip(Zipped(method=14, packed=b"\0\0\5\0\x2c\0\0\1\0" + NOISE)),
        "cannot be inflated",
    ),
    "lzma data that take gigabytes of memory": (
        lambda: make_zip(Zipped(method=14, packed=b"\0\0\5\0\x5d\0\0\0\x40" + NOISE)),
        "too much memory",
    ),
    **{
        f"an entry of method {method}": (
            partial(lambda m: make_zip(Zipped(method=m, packed=NOISE)), method),
            UNREADABLE,
        )
        for method in (1, 6, 9, 95, 98)
    },
    # entries that only some programs find
    "a descriptor within stored data": (with_early_descriptor, "descriptor within its data"),
    "a zip64 field that disagrees with its header": (with_long_local_sizes, "zip64 field and the directory disagree"),
    "an unlisted entry behind a gap": (
        lambda: make_zip(Zipped(), gap=NOISE[:99] + HIDDEN_ENTRY.local_header() + HIDDEN_ENTRY.contents()),
        UNLISTED,
    ),
    "an unlisted entry behind the mark of a split zip": (
        lambda: b"PK00" + HIDDEN_ENTRY.local_header() + HIDDEN_ENTRY.contents(),
        UNLISTED,
    ),
    "an unlisted entry of any version behind that mark": (
        lambda: b"PK00" + NOISE + HIDDEN_ENTRY.local_header().replace(b"PK\3\4", b"PK\3\4\xff") + b"x",
        UNLISTED,
    ),
    **{
        f"an entry without a directory behind {len(junk)} bytes": (
            partial(lambda j: j + HIDDEN_ENTRY.local_header() + HIDDEN_ENTRY.contents(), junk),
            UNLISTED,
        )
        for junk in (b"x", GIF, NOISE * 60)
    },
    "a zip far from the end of another file": (lambda: GIF + HIDDEN + NOISE * 5, TOO_MUCH),
    "a path that only the first header has": (
        lambda: make_zip(Zipped(b"a", local={"extra": unicode_path(b"a", b"../a")})),
        "header and the directory disagree",
    ),
    "two other names": (
        lambda: make_zip(Zipped(b"a", extra=unicode_path(b"a", b"b") + unicode_path(b"a", b"../c"))),
        "two Unicode names",
    ),
    # archives inside, whatever the method, and behind other data
    **{
        f"a zip behind {len(junk)} bytes in an entry of method {method}": (
            partial(lambda j, m: make_zip(entry_of(j + HIDDEN, m), Zipped(b"n", NOISE * 4, 0)), junk, method),
            NESTED,
        )
        for junk in (b"", b"x", NOISE)
        for method in (0, 8, 12, 14)
    },
    "a zip behind a byte in a tar": (lambda: make_tar(Tarred("a", b"x" + HIDDEN)), NESTED),
    "a zip behind a byte in a gzip": (lambda: gzip.compress(b"x" + HIDDEN), NESTED),
    "a zip that the end alone gives away": (
        lambda: make_tar(Tarred("a", NOISE + python_zip(("b", b"c")).replace(b"PK\3\4\x14", b"PK\3\4\xff"))),
        NESTED,
    ),
    "a tar behind a block in a zip": (lambda: make_zip(Zipped(data=NOISE[:512] + SMALL_TAR)), NESTED),
    "a tar behind a byte in a zip": (lambda: make_zip(Zipped(data=b"x" + SMALL_TAR)), NESTED),
    # documents inside
    **{
        f"a document with {what} in a {kind}": (partial(lambda k, m: document_in(k, m()), kind, make), reason)
        for kind in ("zip", "tar")
        for what, make, reason in [
            ("a bomb", lambda: document(Zipped(b"word/media/a.bmp", BOMB)), TOO_MUCH),
            ("a lie", lambda: document(Zipped(packed=deflated(BOMB))), "size or checksum of an entry is wrong"),
            ("an archive", lambda: document(Zipped(b"a.zip", HIDDEN, 0)), NESTED),
            ("a path out", lambda: document(Zipped(b"../a")), "path that leads out"),
            ("many entries", lambda: document(*(Zipped(b"%d" % n) for n in range(60))), "more than 50 entries"),
            ("data after its end", lambda: document() + b"x", "data after its end"),
            ("a tar in a gap", lambda: make_zip(Zipped(b"mimetype"), gap=bytes(463) + SMALL_TAR), DAMAGED + "|itself"),
            ("documents in documents", lambda: matryoshka(3), "nested in too many documents"),
        ]
    },
    # tars that some programs find
    **{
        f"a tar behind {what}": (partial(bytes.__add__, junk, tar), HIDDEN_TAR)
        for what, junk, tar in [
            ("a block of noise", NOISE[:512], TAR),
            ("many blocks of noise", NOISE[:512] * 4000, SMALL_TAR),
            ("a picture", GIF, TAR),
            ("the head of a picture", b"GIF89a", TAR),
            ("seven bytes", NOISE[:7], TAR),
            ("a block of zeros", bytes(512), TAR),
            ("zeros", bytes(10_240), TAR),
        ]
    },
    "a tar in the comment of a zip": (
        lambda: make_zip(Zipped(data=NOISE[:924], method=0, name=b"a"), comment=TAR[:512] + bytes(512)),
        HIDDEN_TAR,
    ),
    "a wrong checksum": (lambda: wrong_checksum(TAR), DAMAGED),
    "a wrong checksum, then a tar": (lambda: wrong_checksum(SMALL_TAR) + TAR, DAMAGED),
    "a wrong checksum, without a mark": (lambda: wrong_checksum(tar_header(magic=b"")) + TAR, HIDDEN_TAR),
    **{
        f"a tar behind {what}, {kind}": (partial(compress, junk + SMALL_TAR), NESTED + "|" + DAMAGED)
        for what, junk in [("a block of noise", NOISE[:512]), ("a picture", GIF), ("zeros", bytes(512))]
        for kind, compress in COMPRESSORS.items()
    },
    "a wrong checksum, gzip": (lambda: gzip.compress(wrong_checksum(SMALL_TAR)), DAMAGED),
    # compressed data
    "a bomb of several gzip members": (lambda: gzip.compress(bytes(MIB)) * 3, TOO_MUCH),
    "an lzma bomb": (lambda: lzma.compress(BOMB, lzma.FORMAT_ALONE), TOO_MUCH),
    "a tar.lzma bomb": (lambda: lzma.compress(TAR, lzma.FORMAT_ALONE), TOO_MUCH),
    **{
        f"a {kind} bomb behind other data": (partial(lambda c: NOISE[:9] + c(BOMB) + NOISE, compress), TOO_MUCH)
        for kind, compress in COMPRESSORS.items()
    },
    # formats that the check does not read
    **{
        f"what this makes: {as_id(command)}": (partial(made_by, command, BOMB), UNREADABLE)
        for command in (
            "lz4 -cq hidden",
            "7z a -bd ../out.7z . >&2 && cat ../out.7z",
            "7z a -bd ../out.7z . >&2 && cat hidden ../out.7z | tail -c 9000",
            "bsdtar -c --format iso9660 hidden",
            "bsdtar -c --format newc hidden",
            "bsdtar -c --format xar hidden",
            "bsdtar -c --uuencode hidden",
            "printf 'A letter.\\n\\n' && bsdtar -cz --uuencode hidden",
            "bsdtar -c --b64encode hidden",
            "printf 'P*M\\030\\4\\0\\0\\0abcd' && zstd -cq hidden",
            "printf '#mtree\\n./hidden type=file mode=0644 size=3000000\\n'",
            "printf '# A list.\\n\\n./hidden mode=0644 type=file size=3000000\\n'",
            "bsdtar -cZ hidden",
        )
    },
    # a format that the check reads since Python 3.14
    "what this makes: zstd -cq hidden": (partial(made_by, "zstd -cq hidden", BOMB), UNREADABLE + "|" + TOO_MUCH),
}
