"""Form bodies: malformed ones are refused, valid ones are parsed exactly, for any division into blocks."""

import itertools
import re

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from multipart_readers import READERS

from aiorelay.errors import MalformedForm, Problem, TooLarge, TooManyParts, Truncated
from aiorelay.multipart.framing import frame
from aiorelay.multipart.parser import FormLimits, read_form

WIDE = FormLimits(parts=100, fields_size=1024 * 1024)
FIELD = b'Content-Disposition: form-data; name="a"\r\n\r\n'
FILE = b'Content-Disposition: form-data; name="f"; filename="a.txt"\r\n\r\n'


def a_form(*blocks, boundary="b", length=None, limits=WIDE):
    """A form whose body is read in these blocks."""
    rest = iter(blocks)

    async def read():
        return next(rest, b"")

    return read_form(f"multipart/form-data; boundary={boundary}", length, read, limits)


async def parts_of(form):
    return [
        (part.name, part.filename, part.media_type, b"".join([chunk async for chunk in part.chunks]))
        async for part in form.parts
    ]


async def contents(*blocks, **options):
    return [content for *_, content in await parts_of(a_form(*blocks, **options))]


def cut(body, sizes):
    """Cut the body into blocks of these sizes, repeatedly."""
    if not sizes:
        return [body]
    turns, at, blocks = itertools.cycle(sizes), 0, []
    while at < len(body):
        size = next(turns)
        blocks.append(body[at : at + size])
        at += size
    return blocks


def body_of(*parts, boundary=b"b", end=b"\r\n"):
    return b"".join(b"--%b\r\n%b\r\n" % (boundary, part) for part in parts) + b"--%b--%b" % (boundary, end)


BODIES = pytest.mark.parametrize("sizes", [[], [1], [2], [3, 1]], ids=["whole", "bytes", "pairs", "uneven"])


@BODIES
@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        (b"--b\r\n" + FILE + b"x\r\n--b--\r\n", [b"x"]),
        (b"--b\r\n" + FILE + b"x\r\n--b--", [b"x"]),
        (b"--b\r\n" + FILE + b"\r\n--b--\r\n", [b""]),
        (b"--b\r\n" + FIELD + b"\r\n--b\r\n" + FILE + b"\r\n--b--", [b"", b""]),
        (b"--b\r\n" + FIELD + b"1\r\n--b\r\n" + FILE + b"2\r\n--b\r\n" + FIELD + b"3\r\n--b--", [b"1", b"2", b"3"]),
        (b"--b--\r\n", []),
        (b"--b--", []),
        # content similar to a boundary
        *(
            (b"--b\r\n" + FILE + content + b"\r\n--b--", [content])
            for content in (
                b"\r",
                b"\n",
                b"\r\n",
                b"\r\n\r\n",
                b"\r\r\r",
                b"\r\n-",
                b"\r\n--",
                b"\r\n--\r\n--",
                b"\r\n-b",
                b"\r\n--B",
                b"\n-",
                b"\r--",
                b"\r\r\n--a",
                b"-",
                b"--",
                b"x--b",
                b"x--b--",
                b"x--b\r\n",
                b"\r\n --b",
                b"\r\n---b",
                b"\x0b--b",
                b"\x0c--b",
                b"\x85--b",
                b"\0--b",
                b"\0" * 99,
            )
        ),
    ],
)
async def test_a_part_extends_from_its_head_to_the_next_boundary(body, wanted, sizes):
    assert await contents(*cut(body, sizes)) == wanted


@BODIES
@pytest.mark.parametrize(
    ("body", "problem", "reason"),
    [
        # before the first boundary
        (b"x--b\r\n" + FILE + b"x\r\n--b--", MalformedForm, "does not begin"),
        (b"\r\n \r\n--b\r\n" + FILE + b"x\r\n--b--", MalformedForm, "does not begin"),
        (b"\r\n\n--b\r\n" + FILE + b"x\r\n--b--", MalformedForm, "does not begin"),
        (b"\r--b\r\n" + FILE + b"x\r\n--b--", MalformedForm, "does not begin"),
        (b"\r\n" * 8193 + b"--b\r\n" + FILE + b"x\r\n--b--", MalformedForm, "does not begin"),
        (b"\n--b\r\n" + FILE + b"x\r\n--b--", MalformedForm, "does not begin"),
        (b" --b\r\n" + FILE + b"x\r\n--b--", MalformedForm, "does not begin"),
        (b"preamble\r\n--b\r\n" + FILE + b"x\r\n--b--", MalformedForm, "does not begin"),
        (b"--B\r\n" + FILE + b"x\r\n--B--", MalformedForm, "does not begin"),
        (b'{"a": 1}', MalformedForm, "does not begin"),
        # after the last one
        *(
            (b"--b\r\n" + FILE + b"x\r\n--b--" + after, MalformedForm, "after its last boundary")
            for after in (
                b" ",
                b"\r",
                b"\n",
                b"\r\n\r",
                b"\r\n\n",
                b"\r\n" * 8193,
                b"\r\nx",
                b"--b--",
                b"\r\n--b--",
                b"\r\n--b\r\n" + FILE,
                b"-",
            )
        ),
        (b"--b--\r\nx", MalformedForm, "after its last boundary"),
        # lines that begin with the boundary
        *(
            (b"--b\r\n" + FILE + b"x\r\n--b" + rest + b"\r\n--b--", MalformedForm, "begins with the boundary")
            for rest in (
                b"c",
                b" \r\n" + FILE,
                b"\t\r\n",
                b"-",
                b"-x",
                b"\r",
                b"\n" + FILE,
                b"\rx",
                b"b--",
                b"\0",
                b" --",
            )
        ),
        (b"--bc\r\n" + FILE + b"x\r\n--b--", MalformedForm, "begins with the boundary"),
        (b"--b \r\n" + FILE + b"x\r\n--b--", MalformedForm, "begins with the boundary"),
        (b"--b\n" + FILE + b"x\r\n--b--", MalformedForm, "begins with the boundary"),
        # Some parsers accept lines that end with a bare LF (PHP, Werkzeug) or CR (Werkzeug).
        *(
            (b"--b\r\n" + FILE + content + b"\r\n--b--", MalformedForm, "bare CR or LF")
            for content in (
                b"x\n--b\r\n" + FILE + b"evil",
                b"x\r--b\r\n" + FILE + b"evil",
                b"x\n--b--",
                b"x\r--b--",
                b"\n--b",
                b"\r--b",
                b"\r\n\n--b",
                b"\r\n\r--b",
                b"\n\r--b",
                b"x--b\n--b",
                b"x--b\r--b\n--b",
            )
        ),
        # the boundary right after the head
        (b"--b\r\n" + FILE + b"--b--\r\n", MalformedForm, "content begins with the boundary"),
        (b"--b\r\n" + FILE + b"--b\r\n" + FIELD + b"x\r\n--b--", MalformedForm, "content begins with the boundary"),
        (b"--b\r\n" + FIELD + b"--bc\r\n--b--", MalformedForm, "content begins with the boundary"),
        # heads
        (b"--b\r\n\r\nx\r\n--b--", MalformedForm, "no head"),
        (b"--b\r\nContent-Type: a/b\r\n\r\nx\r\n--b--", MalformedForm, "no Content-Disposition"),
        (b"--b\r\n--b\r\n" + FILE + b"x\r\n--b--", MalformedForm, "name and a colon"),
        (b"--b\r\n" + FILE[:-4] + b"\n\nx\r\n--b--" + b"\r\n" * 2, MalformedForm, "bare CR, LF"),
        # Content-Length of a part
        *(
            (
                b"--b\r\n" + FILE[:-2] + b"Content-Length: %d\r\n\r\n" % size + content + b"\r\n--b--",
                MalformedForm,
                "its Content-Length",
            )
            for size, content in ((0, b"x"), (1, b""), (2, b"x"), (1, b"xy"), (9, b"x\r\n-"))
        ),
        # missing end
        (b"--b\r\n" + FILE + b"x" * 999, Truncated, "ends before its closing boundary"),
    ],
)
async def test_an_ambiguous_body_is_refused(body, problem, reason, sizes):
    with pytest.raises(problem) as refusal:
        await contents(*cut(body, sizes))
    assert type(refusal.value) is problem
    assert reason in refusal.value.detail


@BODIES
async def test_a_body_cut_at_any_byte_is_truncated(sizes):
    whole = body_of(FIELD + b"1", FILE + b"x", end=b"")
    for length in range(len(whole)):
        with pytest.raises(Truncated, match="ends before its closing boundary"):
            await contents(*cut(whole[:length], sizes))


@pytest.mark.parametrize(
    "boundary",
    [
        "b",
        "-",
        "--",
        "----",
        "b--",
        "x" * 70,
        "-" * 70,
        "'()+_,-./:=?",
        "a b",
        "----WebKitFormBoundary0123456789abcdef",
    ],
)
@BODIES
async def test_every_valid_boundary_works(boundary, sizes):
    body = body_of(FIELD + b"1", FILE + b"2", boundary=boundary.encode())
    assert await contents(*cut(body, sizes), boundary=f'"{boundary}"') == [b"1", b"2"]


def test_an_invalid_boundary_is_refused_immediately():
    with pytest.raises(MalformedForm):
        a_form(boundary="x" * 71)


def test_a_form_keeps_boundary_and_length():
    form = a_form(boundary="x", length=7)
    assert (form.boundary, form.length) == (b"x", 7)


async def test_a_part_has_its_head_as_received():
    async for part in a_form(b"--b\r\n" + FILE + b"\r\n--b--").parts:
        assert part.head == FILE
        assert [chunk async for chunk in part.chunks] == []


async def test_a_part_with_a_correct_content_length_keeps_it():
    async for part in a_form(b"--b\r\n" + FILE[:-2] + b"Content-Length: 3\r\n\r\nx\r\n\r\n--b--").parts:
        assert part.size == 3
        assert b"".join([chunk async for chunk in part.chunks]) == b"x\r\n"


async def test_blocks_of_a_file_are_passed_on_unchanged():
    """Without a copy: the same objects."""
    first, *blocks = [b"x" * 1000, b"y\n" * 1000 + b"y", b"-" * 1000]
    async for part in a_form(b"--b\r\n" + FILE + first, *blocks, b"\r\n--b--").parts:
        _, *seen = [chunk async for chunk in part.chunks]
    assert all(chunk is block for chunk, block in zip(seen, blocks, strict=True))


async def test_the_next_part_is_not_available_before_this_one_was_read():
    parts = a_form(body_of(FILE + b"1", FILE + b"2")).parts
    await anext(parts)
    with pytest.raises(AssertionError):
        await anext(parts)


# Limits


async def test_the_number_of_parts_is_limited():
    limits = FormLimits(parts=3, fields_size=99)
    assert len(await contents(body_of(*[FIELD] * 3), limits=limits)) == 3
    with pytest.raises(TooManyParts):
        await contents(body_of(*[FIELD] * 4), limits=limits)


@BODIES
async def test_the_total_size_of_fields_is_limited(sizes):
    limits = FormLimits(parts=9, fields_size=10)
    fits = body_of(FIELD + b"x" * 4, FILE + b"x" * 99, FIELD + b"y" * 6, FIELD)
    assert [len(content) for content in await contents(*cut(fits, sizes), limits=limits)] == [4, 99, 6, 0]
    with pytest.raises(TooLarge):
        await contents(*cut(body_of(FIELD + b"x" * 4, FIELD + b"y" * 7), sizes), limits=limits)


def head_of(size):
    """A head of ``size`` bytes, without its blank line and the CRLF before that."""
    start = FILE[:-4] + b"\r\nX-Pad: "
    return start + b"x" * (size - len(start))


@pytest.mark.parametrize("sizes", [[], [1], [4096], [16384], [7]])
async def test_a_head_may_have_16_kib(sizes):
    longest = 16 * 1024 - 2
    assert await contents(*cut(body_of(head_of(longest) + b"\r\n\r\n"), sizes)) == [b""]
    for over in (1, 2, 3, 4, 9999):
        with pytest.raises(MalformedForm, match="longer than 16384 bytes"):
            await contents(*cut(body_of(head_of(longest + over) + b"\r\n\r\n"), sizes))


async def test_an_endless_head_is_refused_while_it_is_received():
    read = 0

    async def endless():
        nonlocal read
        read += 1
        return b"--b\r\n" if read == 1 else b"X-Pad: " + b"x" * 4000 + b"\r\n"

    form = read_form("multipart/form-data; boundary=b", None, endless, WIDE)
    with pytest.raises(MalformedForm):
        await parts_of(form)
    assert read < 9


# Properties

BOUNDARY = b"bound"
# Content that is difficult for a parser of blocks, at the edges of blocks and within them.
BITS = [
    b"\r",
    b"\n",
    b"\r\n",
    b"-",
    b"--",
    b"\r\n-",
    b"\r\n--",
    b"\r\n--b",
    b"\r\n--boun",
    b"--bound",
    b"bound",
    b"x",
    b"\0",
]
CONTENT = st.one_of(
    st.lists(st.sampled_from(BITS), max_size=8).map(b"".join),
    st.integers(0, 300).map(lambda size: b"\r" * size),
    st.integers(0, 300).map(lambda size: b"\r\n" * size),
    st.binary(max_size=100),
)
SIZES = st.lists(st.integers(1, 40) | st.just(1), max_size=5)
TEXTS = st.text("abc äß日😀\"%;,='* ", min_size=1, max_size=8)
TYPES = st.sampled_from([None, "text/plain", "application/octet-stream", "text/plain; charset=utf-8"])


@st.composite
def heads(draw):
    """A head as sent by some client."""
    name, filename, media_type = draw(TEXTS), draw(st.none() | TEXTS | st.just("")), draw(TYPES)
    escape = draw(st.sampled_from(["%22", '\\"']))
    line = f'Content-Disposition: form-data; name="{name.replace(chr(34), escape)}"'
    if filename is not None:
        folder = draw(st.sampled_from(["", "", "C:\\dir\\", "/home/"])) if filename else ""
        line += f'; filename="{folder}{filename.replace(chr(34), escape)}"'
    line += draw(st.sampled_from(["", "", ";", "; x=1", '; x="; name=y"']))
    lines = [line] if media_type is None else [line, f"Content-Type: {media_type}"]
    if draw(st.booleans()):
        lines.insert(0, "X-Other: 1")
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


PARTS = st.lists(st.tuples(heads(), CONTENT), max_size=4)


def joined(parts, end=b"\r\n"):
    return body_of(*(head + content for head, content in parts), boundary=BOUNDARY, end=end)


def holds_a_boundary(content):
    """Whether a line of the content begins with the boundary, for any line ending that some parser accepts."""
    return re.search(rb"[\r\n]--bound", b"\r\n" + content) is not None


async def outcome(body, sizes):
    """Return the parsed parts, or None if the body is refused. Only 4xx problems are allowed."""
    try:
        return await parts_of(a_form(*cut(body, sizes), boundary="bound"))
    except Problem as problem:
        if problem.status >= 500:
            raise
        return None


@given(PARTS, SIZES, st.sampled_from([b"", b"\r\n"]))
@example([(FILE, b"\r\n--bound\r\n" + FILE)], [1], b"")
@example([(FILE, b"\n--bound")], [1], b"")
async def test_any_parts_cut_anywhere_come_out_byte_for_byte_unless_they_hold_a_boundary(parts, sizes, end):
    read = await outcome(joined(parts, end), sizes)
    if any(holds_a_boundary(content) for _, content in parts):
        assert read is None or [content for *_, content in read] != [content for _, content in parts]
    else:
        assert [content for *_, content in read] == [content for _, content in parts]


CUTS = st.tuples(
    st.integers(0, 400), st.integers(0, 9), st.sampled_from([*BITS, b"", b'"', b"\\", b";", b"=", b"\xff"])
)


def mutated(body, changes):
    for at, size, bit in changes:
        body = body[: at % (len(body) + 1)] + bit + body[at % (len(body) + 1) + size :]
    return body


@given(PARTS, st.lists(CUTS, max_size=4), SIZES)
async def test_refusals_do_not_depend_on_the_blocks(parts, changes, sizes):
    body = mutated(joined(parts), changes)
    assert await outcome(body, sizes) == await outcome(body, [])


@given(st.binary(max_size=300), SIZES)
async def test_any_bytes_are_a_form_or_a_problem(body, sizes):
    await outcome(body, sizes)
    await outcome(b"--bound\r\n" + body, sizes)
    await outcome(b"--bound\r\n" + FILE + body + b"\r\n--bound--", sizes)


def plain(text):
    """Undo the quoting of the HTML standard, which only some parsers do."""
    return text and text.replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")


def alike(found):
    return [(plain(name), plain(filename), media_type, content) for name, filename, media_type, content in found]


@pytest.mark.parametrize("reader", READERS)
@given(parts=PARTS, changes=st.lists(CUTS, max_size=3), knows_length=st.booleans())
@pytest.mark.slow
async def test_other_parsers_read_the_forwarded_form_in_the_same_way(reader, parts, changes, knows_length):
    body = mutated(joined(parts), changes)
    read = await outcome(body, [])
    assume(read)
    try:
        framed = await frame(a_form(body, boundary="bound", length=len(body) if knows_length else None))
        sent = b"".join([block async for block in framed.blocks])
    except Problem:  # a late head that cannot be rewritten
        assume(False)
    assert alike(reader(BOUNDARY, sent)) == alike(read)
    assert await parts_of(a_form(sent, boundary="bound")) == [
        (name.replace('"', "%22"), filename and filename.replace('"', "%22"), *rest) for name, filename, *rest in read
    ]
