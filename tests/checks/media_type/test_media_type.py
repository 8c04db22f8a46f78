"""``accept``: types by content, extensions by name; the table of signatures with and without libmagic."""

import io
import logging
import re
import struct
import sys
import tarfile
import threading
import zipfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiorelay.checks.media_type.accept import Accept, accept, canonical, libmagic
from aiorelay.checks.media_type.signatures import HEAD, NAMES, detect_media_type
from aiorelay.checks.pipeline import checked
from aiorelay.errors import TypeRefused
from aiorelay.multipart.form import Form, Part

OFFICE = "application/vnd.openxmlformats-officedocument."
DOCX = OFFICE + "wordprocessingml.document"
XLSX = OFFICE + "spreadsheetml.sheet"
PPTX = OFFICE + "presentationml.presentation"
ODF = "application/vnd.oasis.opendocument."
JAR, APK, ZIP = "application/java-archive", "application/vnd.android.package-archive", "application/zip"
EVERYTHING = ("application/*", "audio/*", "image/*", "inode/*", "text/*")
PE, ICO = "application/vnd.microsoft.portable-executable", "image/vnd.microsoft.icon"
BINARY = bytes(range(256))


class Unseekable(io.RawIOBase):
    """A pipe. zipfile writes data descriptors to it, because it cannot seek."""

    def __init__(self) -> None:
        self.written = b""

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]
        self.written += bytes(data)
        return len(data)


def zipped(
    *names: str, method: int = zipfile.ZIP_DEFLATED, streamed: bool = False, contents: Mapping[str, bytes] | None = None
) -> bytes:
    file: io.BytesIO | Unseekable = Unseekable() if streamed else io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name in names:
            archive.writestr(name, (contents or {}).get(name, name.encode() * 20))
    return file.written if isinstance(file, Unseekable) else file.getvalue()


def declared(media_type: str, method: int = zipfile.ZIP_STORED) -> bytes:
    return zipped("mimetype", "content.xml", method=method, contents={"mimetype": media_type.encode()})


def ftyp(major: bytes, *compatible: bytes) -> bytes:
    brands = major + bytes(4) + b"".join(compatible)
    return struct.pack(">L4s", 8 + len(brands), b"ftyp") + brands + struct.pack(">L4s", 8, b"mdat")


def tarred(kind: int) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=kind) as archive:
        info = tarfile.TarInfo("a.txt")
        info.size = 5
        archive.addfile(info, io.BytesIO(b"hello"))
    return file.getvalue()


BMP = b"BM" + struct.pack("<LHHLLLLHHL", 70, 0, 0, 54, 40, 2, 2, 1, 24, 0) + bytes(40)

BINARIES = [
    ("image/png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"),
    ("image/jpeg", b"\xff\xd8\xff\xe0\0\x10JFIF\0"),
    ("image/gif", b"GIF89a\1\0\1\0"),
    ("image/gif", b"GIF87a\1\0\1\0"),
    ("image/webp", b"RIFF\x24\0\0\0WEBPVP8 "),
    ("image/bmp", BMP),
    ("image/tiff", b"II*\0\x08\0\0\0"),
    ("image/tiff", b"MM\0*\0\0\0\x08"),
    (ICO, b"\0\0\1\0\1\0\x10\x10\0\0\1\0\x20\0"),
    ("image/avif", ftyp(b"avif", b"avif", b"mif1")),
    ("image/avif", ftyp(b"mif1", b"mif1", b"avif")),
    ("image/heic", ftyp(b"heic", b"mif1", b"heic")),
    ("image/heic", ftyp(b"mif1", b"mif1", b"heic")),
    ("image/heif", ftyp(b"mif1", b"mif1")),
    ("application/pdf", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"),
    ("application/pdf", b"\xef\xbb\xbf%PDF-1.4\n"),
    ("application/gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\x03"),
    ("application/x-bzip2", b"BZh91AY&SY" + BINARY),
    ("application/x-xz", b"\xfd7zXZ\0\0\x04"),
    ("application/zstd", b"\x28\xb5\x2f\xfd\x04\x58"),
    ("application/x-7z-compressed", b"7z\xbc\xaf\x27\x1c\0\4"),
    ("application/x-rar", b"Rar!\x1a\x07\x00"),
    ("application/x-rar", b"Rar!\x1a\x07\x01\x00"),
    ("application/x-tar", tarred(tarfile.USTAR_FORMAT)),
    ("application/x-tar", tarred(tarfile.GNU_FORMAT)),
    ("application/x-tar", tarred(tarfile.PAX_FORMAT)),
    ("video/mp4", ftyp(b"isom", b"isom", b"avc1", b"mp41")),
    ("video/mp4", ftyp(b"mp42")),
    ("video/quicktime", ftyp(b"qt  ", b"qt  ")),
    ("video/quicktime", b"\0\0\0\x08wide\0\0\x01\0mdat"),
    ("audio/x-m4a", ftyp(b"M4A ", b"isom")),
    ("video/3gpp", ftyp(b"3gp4", b"isom")),
    ("video/webm", b"\x1aE\xdf\xa3\x9fB\x86\x81\1B\xf7\x81\1B\xf2\x81\4B\xf3\x81\x08B\x82\x84webmB\x87\x81\2"),
    ("video/x-matroska", b"\x1aE\xdf\xa3\xa3B\x86\x81\1B\xf7\x81\1B\xf2\x81\4B\xf3\x81\x08B\x82\x88matroska"),
    ("video/x-msvideo", b"RIFF\x24\0\0\0AVI LIST"),
    ("audio/mpeg", b"ID3\4\0\0\0\0\0\0"),
    ("audio/mpeg", b"\xff\xfb\x90\x64" + bytes(100)),
    ("audio/ogg", b"OggS\0\2" + bytes(20) + b"\1\x1e\1vorbis"),
    ("audio/ogg", b"OggS\0\2" + bytes(20) + b"\1\x13OpusHead"),
    ("video/ogg", b"OggS\0\2" + bytes(20) + b"\1\x2a\x80theora"),
    ("application/ogg", b"OggS\0\2" + bytes(20) + b"\1\x2aunheard"),
    ("audio/flac", b"fLaC\0\0\0\x22"),
    ("audio/x-wav", b"RIFF\x24\0\0\0WAVEfmt "),
    ("application/x-elf", b"\x7fELF\2\1\1\0"),
    (PE, b"MZ\x90\0\3\0\0\0" + bytes(52) + b"\x80\0\0\0" + bytes(64) + b"PE\0\0"),
    ("application/x-ole-storage", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(16)),
    ("application/octet-stream", BINARY),
    ("application/octet-stream", b"\0"),
    ("application/octet-stream", b"\xff\xff\xff\xff" + BINARY),  # not a valid frame of MPEG audio
]

ZIPS = [
    (ZIP, zipped("a.txt")),
    (ZIP, zipped()),
    (ZIP, b"PK\x07\x08" + zipped("a.txt")),
    (ZIP, zipped("word/notes.txt", "xl", "pptx/a.xml")),
    (ZIP, zipped("a.txt", "mimetype", contents={"mimetype": b"application/epub+zip"})),  # it must come first
    (ZIP, declared("image/png")),
    (ZIP, declared(ODF + "text", zipfile.ZIP_DEFLATED)),
    (ZIP, zipped("[Content_Types].xml")),
    (ZIP, zipped("inner.docx", method=zipfile.ZIP_STORED, contents={"inner.docx": zipped("word/document.xml")})),
    (DOCX, zipped("[Content_Types].xml", "_rels/.rels", "word/document.xml")),
    (DOCX, zipped("word/document.xml", "[Content_Types].xml")),
    (DOCX, zipped("docProps/app.xml", "word/_rels/document.xml.rels", streamed=True)),
    (XLSX, zipped("[Content_Types].xml", "_rels/.rels", "xl/workbook.xml")),
    (XLSX, zipped("xl/worksheets/sheet1.xml", contents={"xl/worksheets/sheet1.xml": bytes(2**24)})),
    (XLSX, zipped("docProps/app.xml", "docProps/core.xml", "xl/theme/theme1.xml", streamed=True)),
    (PPTX, zipped("[Content_Types].xml", "_rels/.rels", "ppt/presentation.xml")),
    (ODF + "text", declared(ODF + "text")),
    (ODF + "spreadsheet", declared(ODF + "spreadsheet")),
    (ODF + "presentation", declared(ODF + "presentation")),
    ("application/epub+zip", declared("application/epub+zip")),
    (APK, zipped("AndroidManifest.xml", "classes.dex")),
    (APK, zipped("META-INF/MANIFEST.MF", "res/a.xml", "AndroidManifest.xml")),
    (APK, zipped("META-INF/com/android/build/gradle/app-metadata.properties")),
    (JAR, zipped("META-INF/", "META-INF/MANIFEST.MF", "A.class")),
    (JAR, zipped("META-INF/MANIFEST.MF", "word/document.xml")),
    (ZIP, b"PK\x03\x04"),
    (ZIP, zipped("word/document.xml")[:40]),
]

SVG, HTML, PHP, SHELL = "image/svg+xml", "text/html", "text/x-php", "text/x-shellscript"
XML, JSON, TEXT, OCTETS = "text/xml", "application/json", "text/plain", "application/octet-stream"

TEXTS: list[tuple[str, bytes | str]] = [
    (SVG, "<svg xmlns='http://www.w3.org/2000/svg'/>"),
    (SVG, "\n\t <SVG>"),
    (SVG, b"\xef\xbb\xbf<svg/>"),
    (SVG, "<?xml version='1.0'?>\n<!-- a > b -->\n<svg:svg xmlns:svg='http://www.w3.org/2000/svg'>"),
    (SVG, '<?xml version="1.0"?><!DOCTYPE svg PUBLIC "-//W3C//DTD SVG 1.1//EN" "http://x/svg11.dtd">\n<svg>'),
    (SVG, '<!DOCTYPE svg [ <!ENTITY a "b>"> ] >\n<svg>'),
    (SVG, "<!-- made by hand -->\n\n<svg width='1'>"),
    (SVG, "<?xml version='1.0'?><svg>".encode("utf-16")),
    (SVG, b"<svg>\xff\0"),
    (XML, "<?xml version='1.0'?><svgs/>"),
    (XML, "<?xml version='1.0' encoding='UTF-8'?>\n<feed/>"),
    (XML, "<?xml version='1.0'?><!-- " + "x" * HEAD),
    (HTML, "<!DOCTYPE html><p>"),
    (HTML, "\r\n\x0c<!doctype   HTML PUBLIC '-//W3C//DTD HTML 4.01//EN'>"),
    (HTML, "<html lang=en>"),
    (HTML, "<HtMl>"),
    (HTML, "<!-- a comment --><!-- and one --><html>"),
    (HTML, "<!-- only a comment -->"),
    (HTML, "<!-- " + "x" * HEAD),
    (HTML, "<script>alert(1)</script>"),
    (HTML, "<img src=x onerror=alert(1)>"),
    (HTML, "<?xml version='1.0'?><!DOCTYPE html><html xmlns='http://www.w3.org/1999/xhtml'>"),
    (HTML, "<html>".encode("utf-16")),
    (HTML, b"\xfe\xff" + "<html>".encode("utf-16-be")),
    (HTML, b"<html>\xe9\xff\0"),  # invalid bytes do not hide it
    (PHP, "<?php system($_GET[0]);"),
    (PHP, "\n<?PHP\n"),
    (PHP, "<?= 1 ?>"),
    (PHP, "#!/usr/bin/env php\n<?php"),
    (PHP, "#!/usr/bin/php8.2 -q\n"),
    (SHELL, "#!/bin/sh\necho"),
    (SHELL, "#! /usr/bin/env python3\n"),
    (JSON, '{"a": [1, -2.5e3, true, null, "x\\"y"]}'),
    (JSON, "  []\n"),
    (JSON, b'\xef\xbb\xbf{"a":1}'),
    (JSON, '["' + "é" * HEAD),
    (JSON, "[" + "123, " * HEAD),
    (TEXT, "[section]\nkey = value\n"),
    (TEXT, "[1] Smith, 2020"),
    (TEXT, "{ not: json }"),
    (TEXT, "{{ template }}"),
    (TEXT, "hello"),
    (TEXT, "Grüße, 世界 🎈"),
    (TEXT, "世" * HEAD),  # the head ends within a character
    (TEXT, "Grüße".encode("utf-16")),
    (TEXT, b"\xff\xfe\0\0" + "Grüße".encode("utf-32-le")),
    (TEXT, b"\xef\xbb\xbf"),
    (TEXT, " \r\n\t"),
    (TEXT, "\x1b[1mbold\x1b[0m"),
    (TEXT, "a <b> and <svg> further on"),
    (TEXT, "BM is no bitmap, MZ no program, and this is long enough"),
    (TEXT, "MZ is no program, and this is long enough to be sure of that, is it not?"),
    (TEXT, "#![allow(dead_code)]\n"),
    (TEXT, "<b2b> is no tag"),
    ("text/rtf", "{\\rtf1\\ansi"),
    (OCTETS, b"hello\0world"),
    (OCTETS, "Grüße".encode("latin-1")),
    (OCTETS, b"caf\xc3"),  # the file, not the head, ends within a character
    (OCTETS, "hello".encode("utf-16-le") * 2),
]

POLYGLOTS = [
    ("image/gif", b"GIF89a=1;/*<html><script>alert(1)</script>*/"),
    ("application/pdf", b"%PDF-1.4\n<html>"),
    ("image/jpeg", b"\xff\xd8\xff\xe0<?php system(1);"),
    (HTML, b"<html>%PDF-1.4"),
]


def briefly(value: object) -> str:
    """Name a case by its type, or by the letters at the beginning of its content."""
    if isinstance(value, str) and re.fullmatch(r"[a-z]+/[\w.+-]+", value):
        return value
    return "".join(re.findall(r"[A-Za-z0-9]", re.sub(r"\\x..|\\u....|\\.|^b", " ", ascii(value)[:24]))) or "binary"


def as_bytes(content: bytes | str) -> bytes:
    return content.encode() if isinstance(content, str) else content


@pytest.mark.parametrize(
    ("media_type", "content"), [*BINARIES, *ZIPS, *TEXTS, *POLYGLOTS, ("inode/x-empty", b"")], ids=briefly
)
def test_the_type_of_a_file_is_detected_by_its_first_bytes(media_type: str, content: bytes | str) -> None:
    assert detect_media_type(as_bytes(content)[:HEAD]) == media_type


def test_every_name_of_the_table_has_an_example() -> None:
    shown = {media_type for media_type, _ in [*BINARIES, *ZIPS, *TEXTS]}
    assert NAMES - shown == set()


@given(st.binary(max_size=300) | st.text('<!-?xmlsvghtphp[]{}"\\ \n>/#:=', max_size=300).map(str.encode))
def test_any_bytes_have_a_type(head: bytes) -> None:
    assert "/" in detect_media_type(head)


# Patterns


@pytest.mark.parametrize(
    ("entries", "media_type", "fits"),
    [
        (["image/png"], "image/png", True),
        (["image/png"], "image/jpeg", False),
        (["IMAGE/PNG"], "image/png", True),
        (["image/*"], "image/svg+xml", True),
        (["image/*"], "video/mp4", False),
        (["Image/*"], "image/png", True),
        (["application/pdf", "image/*"], "image/gif", True),
        ([".csv"], "text/csv", False),
        (["application/gzip"], "application/x-gzip", True),
        (["application/x-zip-compressed"], "application/zip", True),
        (["application/xml"], "text/xml", True),
        (["audio/wav"], "audio/x-wav", True),
        (["application/vnd.rar"], "application/x-rar", True),
        (["image/x-icon"], ICO, True),
        (["application/x-dosexec"], PE, True),
        (["application/x-executable"], "application/x-elf", True),
        (["inode/x-empty"], "inode/x-empty", True),
    ],
)
def test_patterns_match_types(entries: list[str], media_type: str, fits: bool) -> None:  # noqa: FBT001
    assert Accept.parse(entries).has_type(media_type) is fits


@pytest.mark.parametrize(
    ("entries", "filename", "fits"),
    [
        ([".csv"], "a.csv", True),
        ([".csv"], "A.CSV", True),
        ([".CSV"], "a.csv", True),
        ([".csv"], "a.csv.exe", False),
        ([".csv"], "csv", False),
        ([".csv"], "", False),
        ([".tar.gz"], "a.tar.gz", True),
        ([".tar.gz"], "a.gz", False),
        (["image/*", ".csv", ".tsv"], "a.tsv", True),
        (["text/csv"], "a.csv", False),
    ],
)
def test_extensions_match_names(entries: list[str], filename: str, fits: bool) -> None:  # noqa: FBT001
    assert Accept.parse(entries).has_extension(filename) is fits


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("Text/HTML; charset=utf-8", "text/html"),
        ("application/x-gzip", "application/gzip"),
        ("application/rtf", "text/rtf"),
        ("nonsense", "nonsense/"),
    ],
)
def test_media_types_are_compared_by_one_spelling(written: str, name: str) -> None:
    assert canonical(written) == name


# The check


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


Finer = Callable[[bytes], str] | None


@pytest.fixture(params=["table alone", pytest.param("with libmagic", marks=pytest.mark.needs("libmagic"))])
def finer(request: pytest.FixtureRequest) -> Finer:
    return libmagic() if request.param == "with libmagic" else None


class Upload:
    """One file through ``accept``."""

    def __init__(self, pool: ThreadPoolExecutor, finer: Finer, *entries: str) -> None:
        self.maker = accept(Accept.parse(entries), pool, finer)
        self.passed: list[bytes] = []

    async def send(self, *blocks: bytes, filename: str | None = "a.bin", claimed: str | None = None) -> bytes:
        async def chunks() -> AsyncIterator[bytes]:
            for block in blocks:
                yield block

        async def parts() -> AsyncGenerator[Part, None]:
            yield Part("somefile", filename, claimed, None, chunks())

        async for part in checked(Form(b"b", parts(), None), [self.maker]).parts:
            async for chunk in part.chunks:
                self.passed.append(chunk)
        return b"".join(self.passed)


@pytest.mark.parametrize(
    ("media_type", "content"), [*BINARIES, *ZIPS, *TEXTS, *POLYGLOTS, ("inode/x-empty", b"")], ids=briefly
)
async def test_types_in_the_table_are_accepted_with_and_without_libmagic(
    pool: ThreadPoolExecutor, finer: Finer, media_type: str, content: bytes | str
) -> None:
    data = as_bytes(content)
    assert await Upload(pool, finer, media_type).send(*([data] if data else [])) == data


TOLD_APART = [
    (DOCX, zipped("a.txt")),
    (ZIP, zipped("[Content_Types].xml", "word/document.xml")),
    (ZIP, zipped("AndroidManifest.xml")),
    (ZIP, declared("application/epub+zip")),
    (TEXT, b"<html>"),
    (TEXT, b"<svg/>"),
    (TEXT, b"<?php"),
    (TEXT, b"#!/bin/sh\n"),
    (TEXT, b"hello\0"),
    ("image/*", b"%PDF-1.4"),
    ("image/png", b"GIF89a"),
    ("application/pdf", b"<html>%PDF-1.4"),
    ("image/*", b""),
    (".csv", b"a,b\n"),
]


@pytest.mark.parametrize(("accepted", "content"), TOLD_APART, ids=briefly)
async def test_other_types_are_refused_with_and_without_libmagic(
    pool: ThreadPoolExecutor, finer: Finer, accepted: str, content: bytes
) -> None:
    with pytest.raises(TypeRefused):
        await Upload(pool, finer, accepted).send(*([content] if content else []), claimed="image/png", filename="a.png")


async def test_a_refusal_names_the_detected_and_the_accepted_types(pool: ThreadPoolExecutor) -> None:
    with pytest.raises(TypeRefused) as refusal:
        await Upload(pool, None, "image/*", ".csv").send(b"<html>s3cret")
    assert refusal.value.detail == "The file looks like text/html. Accepted types: image/*, .csv."


async def test_an_empty_file_passes_by_its_extension_only(pool: ThreadPoolExecutor) -> None:
    assert await Upload(pool, None, ".csv", "text/plain").send(filename="a.csv") == b""
    with pytest.raises(TypeRefused, match=r"The file is empty\. Accepted"):
        await Upload(pool, None, ".csv", "text/plain").send(filename="a.txt")


@pytest.mark.parametrize("blocks", [[b"<html>" * 5000, b"more"], [b"<ht", b"ml>"], [b"<"] + [b"html>"] * 5000])
async def test_no_byte_of_a_refused_file_is_passed_on(pool: ThreadPoolExecutor, blocks: list[bytes]) -> None:
    upload = Upload(pool, None, "image/*")
    with pytest.raises(TypeRefused):
        await upload.send(*blocks)
    assert upload.passed == []


@pytest.mark.parametrize("size", [1, 7, HEAD, 3 * HEAD])
async def test_a_file_in_blocks_of_any_size_passes_byte_for_byte(pool: ThreadPoolExecutor, size: int) -> None:
    data = b"\x89PNG\r\n\x1a\n" + BINARY * 100
    blocks = [data[start : start + size] for start in range(0, len(data), size)]
    assert await Upload(pool, None, "image/png").send(*blocks) == data


async def test_a_field_is_not_checked(pool: ThreadPoolExecutor) -> None:
    assert await Upload(pool, None, "image/*").send(b"value", filename=None) == b"value"


@pytest.mark.parametrize(
    ("accepted", "content"),
    [
        ("text/csv", b"a,b,c\n1,2,3\n4,5,6\n7,8,9\n1,2,3\n4,5,6\n7,8,9\n1,2,3\n4,5,6\n7,8,9\n1,2,3\n"),
        ("application/vnd.sqlite3", b"SQLite format 3\0" + b"\x10\0\1\1\0\x40\x20\x20" + bytes(80)),
    ],
)
@pytest.mark.needs("libmagic")
async def test_libmagic_names_finer_types_in_a_thread(pool: ThreadPoolExecutor, accepted: str, content: bytes) -> None:
    judge, threads = libmagic(), []
    assert judge is not None, "the tests need python-magic and libmagic1"

    def finer(head: bytes) -> str:
        threads.append(threading.current_thread())
        return judge(head)

    assert await Upload(pool, finer, accepted).send(content) == content
    assert threading.main_thread() not in threads
    assert len(threads) == 1
    with pytest.raises(TypeRefused):
        await Upload(pool, None, accepted).send(content)


async def test_libmagic_is_not_used_for_types_in_the_table(pool: ThreadPoolExecutor) -> None:
    def finer(_: bytes) -> str:
        raise AssertionError

    assert await Upload(pool, finer, "image/png").send(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(TypeRefused):
        await Upload(pool, finer, "image/png").send(b"GIF89a")


def test_without_python_magic_libmagic_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "magic", None)
    assert libmagic() is None


@pytest.mark.parametrize(
    ("claimed", "content", "logged"),
    [
        ("image/png", b"GIF89a", "claimed to be 'image/png' looks like image/gif"),
        ("image/png", b"hello", "claimed to be 'image/png' looks like text/plain"),
        ("text/plain", b"<html>", "claimed to be 'text/plain' looks like text/html"),
        ("text/csv", b"\x7fELF\2", "claimed to be 'text/csv' looks like application/x-elf"),
        ("x\r\ny", b"\x7fELF\2", r"claimed to be 'x\r\ny' looks like application/x-elf"),
        ("image/gif", b"GIF89a", ""),
        ("image/gif; a=b", b"GIF89a", ""),
        ("audio/wav", b"RIFF\x24\0\0\0WAVEfmt ", ""),
        (None, b"GIF89a", ""),
        ("application/octet-stream", b"GIF89a", ""),
        ("text/csv", b"a,b", ""),
        ("application/x-unheard", BINARY, ""),
        ("application/x-unheard", zipped("a"), ""),
        ("image/png", b"", ""),
    ],
)
async def test_a_contradicted_claim_is_logged(
    pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture, claimed: str | None, content: bytes, logged: str
) -> None:
    with caplog.at_level(logging.INFO, "aiorelay"):
        await Upload(pool, None, *EVERYTHING).send(*([content] if content else []), claimed=claimed)
    assert [record.message for record in caplog.records] == ([f"a file {logged}"] if logged else [])
