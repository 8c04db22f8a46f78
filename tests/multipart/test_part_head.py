"""Part heads: refused ones, parsed ones, and their canonical form."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiorelay.errors import MalformedForm
from aiorelay.multipart.form import Part
from aiorelay.multipart.part_head import Head, pad, read_boundary, read_head, write_head

PLAIN = b'Content-Disposition: form-data; name="f"; filename="a.txt"'


def part(head: Head) -> Part:
    async def chunks():
        yield b""

    return Part(head.name, head.filename, head.media_type, head.size, chunks(), head.headers, None, head.faithful)


def canonical(raw: bytes) -> bytes:
    return write_head(part(read_head(raw)))


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        # names
        (b"Content-Type: text/plain", "no Content-Disposition"),
        (b"Content-Disposition: form-data", "no name"),
        (b"Content-Disposition: form-data;", "no name"),
        (b'Content-Disposition: form-data; filename="a"', "no name"),
        (b'Content-Disposition: form-data; name=""', "no name"),
        (b'Content-Disposition: attachment; name="f"', "not form-data"),
        (b'Content-Disposition: form-data-x; name="f"', "not form-data"),
        (b'Content-Disposition: form data; name="f"', "not form-data"),
        (b'Content-Disposition: ; name="f"', "not form-data"),
        (b'Content-Disposition: form-data, name="f"', "not form-data"),
        (b'Content-Disposition: form-data; name="\xe4"', "not UTF-8"),
        (b'Content-Disposition: form-data; name="a\\b"', "backslash"),
        (b'Content-Disposition: form-data; name="a\\\\b"', "backslash"),
        # duplicates
        (PLAIN + b"\r\n" + PLAIN, "two"),
        (PLAIN + b"\r\ncontent-disposition: attachment", "two"),
        (PLAIN + b"\r\nContent-Type: a/b\r\ncontent-type: a/b", "two"),
        (PLAIN + b"\r\nContent-Length: 1\r\nContent-Length: 1", "two"),
        (PLAIN + b"\r\nContent-Transfer-Encoding: 8bit\r\nContent-Transfer-Encoding: 8bit", "two"),
        (b'Content-Disposition: form-data; name="a"; name="a"', "repeats"),
        (b'Content-Disposition: form-data; name="a"; NAME="b"', "repeats"),
        (b'Content-Disposition: form-data; name="a"; filename="x"; filename="y"', "repeats"),
        (b"Content-Disposition: form-data; name=a; filename*=utf-8''x; filename*=utf-8''x", "repeats"),
        (b'Content-Disposition: form-data; name="a"; x=1; x=2', "repeats"),
        # extended parameters
        (b"Content-Disposition: form-data; name=a; filename*=x", "RFC 8187"),
        (b"Content-Disposition: form-data; name=a; filename*=utf-8'x", "RFC 8187"),
        (b"Content-Disposition: form-data; name=a; filename*=utf-8''%x", "RFC 8187"),
        (b"Content-Disposition: form-data; name=a; filename*=utf-8''%FF", "RFC 8187"),
        (b"Content-Disposition: form-data; name=a; filename*=utf-7''x", "RFC 8187"),
        (b"Content-Disposition: form-data; name=a; filename*=utf-8''x.php%00.jpg", "NUL"),
        (b"Content-Disposition: form-data; name=a; filename*=\"utf-8''x y\"", "RFC 8187"),
        (b'Content-Disposition: form-data; name=a; filename*0="x"', "not for forms"),
        (b"Content-Disposition: form-data; name=a; filename*0*=utf-8''x; filename*1=y", "not for forms"),
        (b"Content-Disposition: form-data; name=a; filename=x; filename*1=y", "not for forms"),
        (b"Content-Disposition: form-data; name*=utf-8''a", "not for forms"),
        (b"Content-Disposition: form-data; name=a; name*=utf-8''b", "not for forms"),
        (b"Content-Disposition: form-data; name*0=a; name*1=b", "not for forms"),
        # malformed parameters
        (b'Content-Disposition: form-data; name="a', "parameter"),
        (b'Content-Disposition: form-data; name="a"b', "parameter"),
        (b'Content-Disposition: form-data; name="a" b', "parameter"),
        (b'Content-Disposition: form-data; name="a"; b', "parameter"),
        (b'Content-Disposition: form-data; name = "a"', "parameter"),
        (b"Content-Disposition: form-data; name=", "parameter"),
        (b"Content-Disposition: form-data; name=a b", "parameter"),
        (b"Content-Disposition: form-data; name=\xc3\xa4", "parameter"),
        (b'Content-Disposition: form-data;; name="a"', "parameter"),
        (b'Content-Disposition: form-data; name="a"; filename="b"; c"', "parameter"),
        (b'Content-Disposition: form-data; name="a\\"; filename="b"', "parameter"),
        ('Content-Disposition: form-data; n\u0430me="a"; name="a"'.encode(), "parameter"),
        ('Content-Disposition: form-data; name="a"; \ufb01lename="b"'.encode(), "parameter"),
        # lines
        (PLAIN + b"\r\n X: folded", "folded"),
        (PLAIN + b"\r\n\tfolded", "folded"),
        (b'Content-Disposition: form-data;\r\n name="f"', "folded"),
        (b" " + PLAIN, "folded"),
        (PLAIN + b"\nX: y", "bare CR, LF or NUL"),
        (PLAIN + b"\rX: y", "bare CR, LF or NUL"),
        (b'Content-Disposition: form-data; name="a\nb"', "bare CR, LF or NUL"),
        (b'Content-Disposition: form-data; name="a\rb"', "bare CR, LF or NUL"),
        (b'Content-Disposition: form-data; name="a\0b"', "bare CR, LF or NUL"),
        (b'Content-Disposition: form-data; name="a"; filename="b.php\0.png"', "bare CR, LF or NUL"),
        (PLAIN + b"\r", "bare CR, LF or NUL"),
        (PLAIN + b"\r\nno colon", "begin with a name"),
        (PLAIN + b"\r\n: no name", "begin with a name"),
        (PLAIN + b"\r\nContent-Type : text/plain", "begin with a name"),
        (PLAIN + b"\r\nContent Type: text/plain", "begin with a name"),
        (PLAIN + b"\r\nC\xc3\xb6ntent-Type: text/plain", "begin with a name"),
        (PLAIN + b"\r\n\r\nX: y", "begin with a name"),
        (PLAIN + b"\r\nContent-Type: te\xffxt/plain", "not UTF-8"),
        (PLAIN + b"\r\nX-Note: \xe4", "not UTF-8"),
        # codings, nesting, length
        *(
            (PLAIN + b"\r\nContent-Transfer-Encoding: " + coding, "must be binary, 8bit or 7bit")
            for coding in (b"base64", b"quoted-printable", b"x-uuencode", b"", b"binary, base64", b"gzip")
        ),
        (PLAIN + b"\r\nContent-Type: multipart/mixed; boundary=x", "itself a multipart"),
        (PLAIN + b"\r\nContent-Type:Multipart/Form-Data", "itself a multipart"),
        *(
            (PLAIN + b"\r\nContent-Length: " + size, "not a number")
            for size in (b"", b"-1", b"+1", b"1 1", b"0x1", b"1,1", b"1e3", "\u0661".encode(), b"9" * 19)
        ),
    ],
)
def test_an_ambiguous_head_is_refused(raw, reason):
    with pytest.raises(MalformedForm) as refusal:
        read_head(raw)
    assert reason in refusal.value.detail


@pytest.mark.parametrize(
    ("raw", "name", "filename", "head"),
    [
        pytest.param(
            b'Content-Disposition: form-data; name="f"; filename="a.txt"\r\nContent-Type: text/plain',
            "f",
            "a.txt",
            b'Content-Disposition: form-data; name="f"; filename="a.txt"\r\nContent-Type: text/plain',
            id="curl",
        ),
        pytest.param(
            b'Content-Disposition: form-data; name="f"',
            "f",
            None,
            b'Content-Disposition: form-data; name="f"',
            id="a field",
        ),
        pytest.param(
            b'Content-Disposition: form-data; name="f"; filename=""\r\nContent-Type: application/octet-stream',
            "f",
            "",
            b'Content-Disposition: form-data; name="f"; filename=""\r\nContent-Type: application/octet-stream',
            id="an input that nobody filled in",
        ),
        pytest.param(
            b'Content-Disposition: form-data; name="f"; filename="C:\\Documents and Settings\\me\\a.txt"',
            "f",
            "a.txt",
            b'Content-Disposition: form-data; name="f"; filename="a.txt"',
            id="IE 6 sends the full path",
        ),
        pytest.param(
            b'Content-Disposition: form-data; name="f"; filename="\\\\server\\share\\a.txt"',
            "f",
            "a.txt",
            b'Content-Disposition: form-data; name="f"; filename="a.txt"',
            id="IE 7 sends the path of a share",
        ),
        pytest.param(
            b'Content-Disposition: form-data; name="f"; filename="C:\\dir\\"',
            "f",
            "f",
            b'Content-Disposition: form-data; name="f"; filename="f"',
            id="nothing is left of a path",
        ),
        pytest.param(
            b'Content-Disposition: form-data; name="f"; filename="../.."',
            "f",
            "f",
            b'Content-Disposition: form-data; name="f"; filename="f"',
            id="the parent directory is no name",
        ),
        pytest.param(
            b'Content-Disposition: form-data; name="f"; filename="../../etc/passwd"',
            "f",
            "passwd",
            b'Content-Disposition: form-data; name="f"; filename="passwd"',
            id="a path upwards",
        ),
        pytest.param(
            b'Content-Disposition: form-data; name="f"; filename="a\\"b.txt"',
            "f",
            'a"b.txt',
            b'Content-Disposition: form-data; name="f"; filename="a%22b.txt"',
            id="Firefox 3 and old curl escape a quote",
        ),
        pytest.param(
            b'Content-Disposition: form-data; name="x\\"y"; filename="a.txt"',
            'x"y',
            "a.txt",
            b'Content-Disposition: form-data; name="x%22y"; filename="a.txt"',
            id="an escaped quote in a name",
        ),
        pytest.param(
            b'Content-Disposition: form-data; name="x%22y"; filename="a%22%0D%0Ab.txt"',
            "x%22y",
            "a%22%0D%0Ab.txt",
            b'Content-Disposition: form-data; name="x%22y"; filename="a%22%0D%0Ab.txt"',
            id="browsers and new curl, as the HTML standard quotes",
        ),
        pytest.param(
            b'Content-Disposition: form-data; name="f"; filename="100%.txt"',
            "f",
            "100%.txt",
            b'Content-Disposition: form-data; name="f"; filename="100%.txt"',
            id="no other percent sign is touched",
        ),
        pytest.param(
            'Content-Disposition: form-data; name="größe"; filename="日本 😀.txt"'.encode(),
            "größe",
            "日本 😀.txt",
            'Content-Disposition: form-data; name="größe"; filename="日本 😀.txt"'.encode(),
            id="raw UTF-8",
        ),
        pytest.param(
            b'Content-Disposition: form-data; name="f"; filename="na\xefve.txt"',
            "f",
            "na\ufffdve.txt",
            'Content-Disposition: form-data; name="f"; filename="na\ufffdve.txt"'.encode(),
            id="Opera 8 on a Latin-1 page",
        ),
        pytest.param(
            b"content-disposition: FORM-DATA; Name=f; FileName=a.txt",
            "f",
            "a.txt",
            b'Content-Disposition: form-data; name="f"; filename="a.txt"',
            id="any case",
        ),
        pytest.param(
            b"Content-Disposition: form-data; name=f",
            "f",
            None,
            b'Content-Disposition: form-data; name="f"',
            id=".NET leaves names unquoted",
        ),
        pytest.param(
            b"Content-Type: text/plain\r\n"
            b"Content-Disposition: form-data; name=f; filename=a.txt; filename*=utf-8''a.txt",
            "f",
            "a.txt",
            b'Content-Disposition: form-data; name="f"; filename="a.txt"\r\nContent-Type: text/plain',
            id=".NET",
        ),
        pytest.param(
            b"Content-Disposition: form-data; name=f; "
            b"filename=\"=?utf-8?B?bmHDr3ZlLnR4dA==?=\"; filename*=utf-8''na%C3%AFve.txt",
            "f",
            "naïve.txt",
            'Content-Disposition: form-data; name="f"; filename="naïve.txt"'.encode(),
            id=".NET, beyond ASCII",
        ),
        pytest.param(
            b'Content-Disposition: form-data; name="f"; filename="=?UTF-8?Q?na=C3=AFve.txt?="; '
            b"filename*=UTF-8''na%C3%AFve.txt",
            "f",
            "naïve.txt",
            'Content-Disposition: form-data; name="f"; filename="naïve.txt"'.encode(),
            id="Spring, beyond ASCII",
        ),
        pytest.param(
            b'Content-Disposition: form-data; name="f"; filename="na?ve.txt"; filename*=UTF-8\'\'na%C3%AFve.txt',
            "f",
            "naïve.txt",
            'Content-Disposition: form-data; name="f"; filename="naïve.txt"'.encode(),
            id="an approximation beside filename*",
        ),
        pytest.param(
            b"Content-Disposition: form-data; name=\"f\"; filename*=utf-8''na%C3%AFve.txt",
            "f",
            "naïve.txt",
            'Content-Disposition: form-data; name="f"; filename="naïve.txt"'.encode(),
            id="requests of old",
        ),
        pytest.param(
            b'Content-Disposition: form-data; name="f"; filename*="ISO-8859-1\'en\'na%EFve.txt"',
            "f",
            "naïve.txt",
            'Content-Disposition: form-data; name="f"; filename="naïve.txt"'.encode(),
            id="the other charset of RFC 8187, quoted",
        ),
        pytest.param(
            b"Content-Disposition: form-data; name=\"f\"; filename*=utf-8''..%2F..%2Fetc%2Fpasswd",
            "f",
            "passwd",
            b'Content-Disposition: form-data; name="f"; filename="passwd"',
            id="a path in percent signs",
        ),
        pytest.param(
            b'Content-Disposition: form-data; name="f"; filename="x; name=evil; filename=y.php"',
            "f",
            "x; name=evil; filename=y.php",
            b'Content-Disposition: form-data; name="f"; filename="x; name=evil; filename=y.php"',
            id="semicolons in quotes",
        ),
        pytest.param(
            b'Content-Disposition: form-data; size=3; name="f"; creation-date="x; y"; filename="a"',
            "f",
            "a",
            b'Content-Disposition: form-data; name="f"; filename="a"',
            id="other parameters are left out",
        ),
        pytest.param(
            b'Content-Disposition:\t form-data ; name="f"\t;filename="a" ; ',
            "f",
            "a",
            b'Content-Disposition: form-data; name="f"; filename="a"',
            id="white space, and a last semicolon",
        ),
        pytest.param(
            b'Content-Disposition: form-data; name="f"; filename="a"\r\n'
            b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: Binary\r\nContent-ID: <1>\r\n"
            b"Content-Length: 12\r\nX-A: 1\r\nX-A:2",
            "f",
            "a",
            b'Content-Disposition: form-data; name="f"; filename="a"\r\n'
            b"Content-Type: application/octet-stream\r\nContent-Transfer-Encoding: Binary\r\nContent-ID: <1>\r\n"
            b"Content-Length: 12\r\nX-A: 1\r\nX-A: 2",
            id="Java: other lines stay, in order",
        ),
        pytest.param(
            b'Content-Type: text/plain; charset=utf-8\r\nContent-Disposition: form-data; name="f"',
            "f",
            None,
            b'Content-Disposition: form-data; name="f"\r\nContent-Type: text/plain; charset=utf-8',
            id="aiohttp puts the type first",
        ),
    ],
)
def test_a_head_is_parsed_and_written_in_canonical_form(raw, name, filename, head):
    read = read_head(raw)
    assert (read.name, read.filename) == (name, filename)
    assert write_head(part(read)) == head + b"\r\n\r\n"


def test_a_head_may_declare_its_content_length():
    assert read_head(PLAIN + b"\r\nContent-Length: 12").size == 12
    assert read_head(PLAIN).size is None


@pytest.mark.parametrize(
    ("raw", "faithful"),
    [
        (PLAIN, True),
        (b"Content-Type: a/b\r\ncontent-disposition:form-data;name=f;filename=a.txt", True),
        (b"Content-Disposition: form-data; name=f; filename=a.txt; filename*=utf-8''a.txt", True),
        (b'Content-Disposition: form-data; name="f"; filename=""', True),
        (b'Content-Disposition: form-data; name="f"; filename="a%22b"', True),
        ('Content-Disposition: form-data; name="f"; filename="\ufffd"'.encode(), True),
        (b"Content-Disposition: form-data; name=f; filename*=utf-8''a.txt", False),
        (b"Content-Disposition: form-data; name=f; filename=\"=?utf-8?B?YQ==?=\"; filename*=utf-8''a", False),
        (b'Content-Disposition: form-data; name="f"; filename="C:\\a.txt"', False),
        (b'Content-Disposition: form-data; name="f"; filename="d/a.txt"', False),
        (b'Content-Disposition: form-data; name="f"; filename=".."', False),
        (b'Content-Disposition: form-data; name="f"; filename="a\\"b"', False),
        (b'Content-Disposition: form-data; name="f\\"g"', False),
        (b'Content-Disposition: form-data; name="f"; filename="\xff"', False),
        # Parsers that do not support the escape find a file name in this parameter.
        (b'Content-Disposition: form-data; name="f"; x="\\"; filename=\\"evil"', False),
        (b'Content-Disposition: form-data; name="f"; x!="; name=evil"', False),
        (b'Content-Disposition: form-data;\tname="f"', False),
    ],
)
def test_only_a_head_whose_bytes_have_the_parsed_meaning_is_faithful(raw, faithful):
    assert read_head(raw).faithful is faithful


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\t\\"), min_size=1)
FILENAMES = st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\t\\/")).filter(
    lambda name: name not in {".", ".."}
)
TOKENS = st.text("abcXYZ019-_.!", min_size=1)
VALUES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\r\n"), max_size=20).map(
    lambda value: value.strip(" \t")
)
OTHERS = st.lists(st.tuples(TOKENS.map(lambda name: "X-" + name), VALUES), max_size=3).map(tuple)
# Tabs are kept, but a head with tabs is not faithful.
HEADS = st.builds(
    Head, NAMES, FILENAMES, st.none() | st.just("text/plain; charset=utf-8"), st.none(), OTHERS, st.just(True)
)


def quoted(name):
    return name and name.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")


@given(HEADS)
def test_a_written_head_is_parsed_to_the_same_values(head):
    read = read_head(write_head(part(head))[:-4])
    assert (read.name, read.filename) == (quoted(head.name), quoted(head.filename))
    assert (read.media_type, read.headers) == (head.media_type, head.headers)
    assert read.faithful


@given(HEADS, st.integers(0, 500))
def test_a_padded_head_has_the_length_asked_for_and_reads_the_same(head, more):
    written = write_head(part(head))
    padded = pad(written, len(written) + more)
    assert len(padded) == len(written) + more
    assert read_head(padded[:-4]) == read_head(written[:-4])


def test_a_head_cannot_be_padded_to_less_than_it_is():
    written = canonical(PLAIN)
    assert pad(written, len(written) - 1) is None
    assert pad(written, len(written)) == written


@pytest.mark.parametrize(("name", "out"), [("a\ud800b", "a\ufffdb"), ("\U0001f600", "\U0001f600")])
def test_a_lone_surrogate_is_written_as_a_replacement_character(name, out):
    head = write_head(part(Head(name, name, None, None, (), True)))
    assert head == f'Content-Disposition: form-data; name="{out}"; filename="{out}"\r\n\r\n'.encode()


DISPOSITION_BITS = st.sampled_from(
    [
        b"form-data",
        b"; ",
        b";",
        b" ",
        b"\t",
        b"name",
        b"filename",
        b"filename*",
        b"=",
        b'"',
        b"\\",
        b"a",
        b"'",
        b"%41",
        b"utf-8''",
        b"*0",
        b"\xff",
        b"\xc3\xa4",
        b"=?utf-8?B?",
        b"YQ==",
        b"?=",
        b"\r\n",
        b"\r",
        b"\n",
        b"\x00",
        b":",
        b'; name="f"',
        b'; filename="',
        b"Content-Disposition: form-data",
        b"Content-Type: ",
        b"Content-Length: 1",
    ]
)


@given(st.lists(DISPOSITION_BITS, max_size=20).map(b"".join) | st.binary(max_size=60))
def test_any_bytes_are_a_head_or_malformed_and_what_is_written_of_them_reads_the_same(rest):
    for raw in (rest, b'Content-Disposition: form-data; name="f"' + rest):
        try:
            head = read_head(raw)
        except MalformedForm:
            continue
        again = read_head(write_head(part(head))[:-4])
        assert (again.name, again.filename) == (quoted(head.name), quoted(head.filename))
        assert again.faithful


@pytest.mark.timeout(60)
def test_parsing_a_head_takes_linear_time():
    """With quadratic time, this test would not end."""
    size = 1024 * 1024
    hostile = [
        PLAIN + b"\r\nX: " + b" " * size + b"x",
        PLAIN + b"\r\nX:" + b"\t" * size,
        b"Content-Disposition: form-data" + b" " * size + b"x",
        b'Content-Disposition: form-data; name="' + b'\\"' * (size // 2),
        b'Content-Disposition: form-data; name="' + b"\\" * size,
        b'Content-Disposition: form-data; name="f"' + b";" * size,
        b'Content-Disposition: form-data; name="f"' + b"".join(b";a%d=b" % n for n in range(size // 8)),
        b"Content-Disposition: form-data; name=f; filename*=utf-8''" + b"%41" * (size // 3) + b"%",
    ]
    for raw in hostile:
        with suppress(MalformedForm):
            read_head(raw)


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=x", b"x"),
        ("multipart/form-data;boundary=x", b"x"),
        ("Multipart/Form-Data ; Boundary=x ; ", b"x"),
        ('multipart/form-data; boundary="x y"', b"x y"),
        ('multipart/form-data; boundary="----=_Part_1_2.3"', b"----=_Part_1_2.3"),
        ("multipart/form-data; boundary=----=_Part_1_2.3", b"----=_Part_1_2.3"),
        ("multipart/form-data; boundary=----WebKitFormBoundaryAbC", b"----WebKitFormBoundaryAbC"),
        ("multipart/form-data; boundary=---------------------------7d33a816d302b6", b"-" * 27 + b"7d33a816d302b6"),
        ("multipart/form-data; charset=UTF-8; boundary=x", b"x"),
        ("multipart/form-data; boundary=x; charset=ISO-8859-1", b"x"),
        ('multipart/form-data; boundary=x; charset="us-ascii"', b"x"),
        ("multipart/form-data; boundary=" + "x" * 70, b"x" * 70),
        ("multipart/form-data; boundary=0'()+_-./:=?", b"0'()+_-./:=?"),
        ('multipart/form-data; boundary=",x"', b",x"),
    ],
)
def test_valid_boundaries_are_parsed(content_type, boundary):
    assert read_boundary(content_type) == boundary


@pytest.mark.parametrize(
    ("content_type", "reason"),
    [
        ("multipart/form-data", "names no boundary"),
        ("multipart/form-data;", "names no boundary"),
        ("multipart/form-data; charset=utf-8", "names no boundary"),
        ('multipart/form-data; boundary=""', "outside the grammar"),
        ("multipart/form-data; boundary=", "parameter"),
        ("multipart/form-data; boundary=" + "x" * 71, "outside the grammar"),
        ('multipart/form-data; boundary="x "', "outside the grammar"),
        ("multipart/form-data; boundary=x@y", "outside the grammar"),
        ("multipart/form-data; boundary=x_ä", "outside the grammar"),
        ("multipart/form-data; boundary=x\udcff", "outside the grammar"),
        ("multipart/form-data; boundary=x*", "outside the grammar"),
        ("multipart/form-data; boundary=x y", "parameter"),
        ("multipart/form-data; boundary=x,y", "parameter"),
        ("multipart/form-data; boundary", "parameter"),
        ("multipart/form-data; boundary = x", "parameter"),
        ('multipart/form-data; boundary="x', "parameter"),
        ('multipart/form-data; boundary="x\\y"', "parameter"),
        ("multipart/form-data; boundary=x; boundary=x", "repeats"),
        ("multipart/form-data; boundary=x; BOUNDARY=y", "repeats"),
        # A parser that searches for the word only, as PHP does, would find the wrong one.
        ("multipart/form-data; xboundary=y; boundary=x", "boundary twice"),
        ('multipart/form-data; x="; boundary=y"; boundary=x', "boundary twice"),
        ("multipart/form-data; boundary=x; boundary*=utf-8''y", "boundary twice"),
        ("multipart/form-data; boundary*0=x; boundary*1=y; boundary=z", "boundary twice"),
        # Parsers that support the parameter would decode names with another charset.
        ("multipart/form-data; boundary=x; charset=utf-7", "charset"),
        ("multipart/form-data; boundary=x; charset=utf-16", "charset"),
    ],
)
def test_invalid_boundaries_are_refused(content_type, reason):
    with pytest.raises(MalformedForm) as refusal:
        read_boundary(content_type)
    assert reason in refusal.value.detail
