"""The declared length is the length sent, and the closing boundary is sent only after all parts have ended."""

import asyncio
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiorelay.errors import MalformedForm, Problem, Refused, Truncated
from aiorelay.multipart.form import Form, Part
from aiorelay.multipart.framing import canonical_length, frame, frame_raw
from aiorelay.multipart.parser import FormLimits, read_form

BOUNDARY = b"bound"
CLOSING = b"\r\n--bound--"
PLAIN = b'Content-Disposition: form-data; name="f"; filename="a.txt"'
FIELD = b'Content-Disposition: form-data; name="a"'
# Heads whose canonical form is longer, shorter, or of the same length.
GROWING = b"Content-Disposition:form-data;name=f;filename=a.txt"
SHRINKING = b'Content-Disposition: form-data; name="f"; filename="C:\\Documents and Settings\\a.txt"'


def body_of(*parts, before=b"", end=b"\r\n"):
    return before + b"".join(b"--bound\r\n%b\r\n\r\n%b\r\n" % part for part in parts) + b"--bound--" + end


def received(body, *, length, size=1 << 16):
    """A form received with a Content-Length of ``length``, in blocks of ``size`` bytes."""
    blocks = iter([body[at : at + size] for at in range(0, len(body), size)])

    async def read():
        return next(blocks, b"")

    return read_form("multipart/form-data; boundary=bound", length, read, FormLimits(100, 1 << 20))


async def sent(form):
    """Return the declared length and the blocks."""
    framed = await frame(form)
    return framed.length, [block async for block in framed.blocks]


async def sent_until_refused(form):
    """Return the bytes sent before an exception, and the exception."""
    out = b""
    try:
        framed = await frame(form)
        async for block in framed.blocks:
            out += block
    except Problem as problem:
        return out, problem
    raise AssertionError("nothing was raised")


def made(*parts, boundary=BOUNDARY):
    """A form of parts that were not received in one. Each is a name, a filename, a declared size and blocks."""

    async def chunks(blocks):
        for block in blocks:
            if isinstance(block, Exception):
                raise block
            yield block

    listed = [Part(name, filename, None, size, chunks(blocks)) for name, filename, size, blocks in parts]

    async def generated():
        for part in listed:
            yield part

    return Form(boundary, generated(), canonical_length(boundary, listed))


# The declared length

NAMES = st.text("ab é日\"%;'", min_size=1, max_size=6)


@st.composite
def heads(draw, *, may_be_field=True):
    name = draw(NAMES)
    escaped = name.replace('"', draw(st.sampled_from(["%22", '\\"'])))
    line = f'Content-Disposition: form-data; name="{escaped}"'
    if draw(st.booleans()) or not may_be_field:
        folder = draw(st.sampled_from(["", "C:\\Users\\me\\", "/home/me/"]))
        line += f'; filename="{folder}{escaped}"'
        line += draw(st.sampled_from(["", "; size=3", "  ;"]))
    lines = [line, *draw(st.lists(st.sampled_from(["X-A: 1", "Content-Type:text/plain", "X-B:2"]), unique=True))]
    return "\r\n".join(lines).encode()


CONTENTS = st.one_of(
    st.binary(max_size=50),
    st.sampled_from([b"", b"\r", b"\r\n--boun", b"\r\n--", b"x" * 40_000, b"x" * 100_000]),
)
FORMS = st.lists(st.tuples(heads(), CONTENTS), min_size=1, max_size=5).filter(
    lambda parts: all(b"\r\n--bound" not in b"\r\n" + content for _, content in parts)
)


CRLFS = st.sampled_from([b"", b"\r\n", b"\r\n\r\n", b"\r\n" * 100])


@given(FORMS, CRLFS, CRLFS, st.sampled_from([1, 7, 100, 1 << 16]))
async def test_a_form_is_sent_in_exactly_the_declared_length(parts, before, end, size):
    body = body_of(*parts, before=before, end=end)
    if len(body) > 9999 and size < 100:
        size = 100
    try:
        length, blocks = await sent(received(body, length=len(body), size=size))
    except MalformedForm as refusal:
        assert "cannot be rewritten" in refusal.detail  # noqa: PT017 - one refusal is right here, no other
        return
    assert length == sum(map(len, blocks))


@given(FORMS, CRLFS, CRLFS)
async def test_a_form_of_unknown_length_is_never_refused_and_has_the_same_parts(parts, before, end):
    body = body_of(*parts, before=before, end=end)
    length, blocks = await sent(received(body, length=None))
    assert length is None
    assert b"".join(blocks).endswith(CLOSING + b"\r\n")
    again = received(b"".join(blocks), length=None)
    assert [b"".join([chunk async for chunk in part.chunks]) async for part in again.parts] == [
        content for _, content in parts
    ]


@given(st.lists(st.tuples(NAMES, st.none() | NAMES, st.lists(st.binary(min_size=1)), st.booleans()), min_size=1))
async def test_the_length_of_other_parts_is_known_if_all_their_sizes_are(parts):
    form = made(
        *((name, filename, sum(map(len, blocks)) if known else None, blocks) for name, filename, blocks, known in parts)
    )
    length, blocks = await sent(form)
    if all(known for *_, known in parts):
        assert length == form.length == sum(map(len, blocks))
    else:
        assert length is None


@pytest.mark.parametrize("end", [b"", b"\r\n"])
@pytest.mark.parametrize(
    ("head", "growth"), [(PLAIN, 0), (GROWING, len(PLAIN) - len(GROWING)), (SHRINKING, len(PLAIN) - len(SHRINKING))]
)
async def test_the_first_head_is_canonical_and_its_growth_is_in_the_length(head, growth, end):
    body = body_of((FIELD, b"1"), (head, b"x"), end=end)
    length, blocks = await sent(received(body, length=len(body)))
    assert length == len(body) + growth
    assert b"".join(blocks) == body_of((FIELD, b"1"), (PLAIN, b"x"), end=end)


@pytest.mark.parametrize("head", [PLAIN, GROWING])
@pytest.mark.parametrize("end", [b"", b"\r\n", b"\r\n\r\n"])
async def test_crlfs_before_a_form_are_dropped_and_those_after_it_are_kept(head, end):
    body = body_of((head, b"x"), before=b"\r\n\r\n", end=end)
    framed = await frame(received(body, length=len(body)))
    out = b"".join([block async for block in framed.blocks])
    assert out == body_of((PLAIN, b"x"), end=end)
    assert framed.length == len(out)
    assert not framed.unchanged


async def test_heads_of_fields_before_the_file_are_canonical():
    body = body_of((b"X-A:1\r\ncontent-disposition:form-data;name=a", b"1"), (PLAIN, b"x"))
    length, blocks = await sent(received(body, length=len(body)))
    assert b"".join(blocks) == body_of((FIELD + b"\r\nX-A: 1", b"1"), (PLAIN, b"x"))
    assert length == len(b"".join(blocks))


# Heads after the first file


@pytest.mark.parametrize(
    "late",
    [
        FIELD,
        PLAIN,
        GROWING,
        b"Content-Type: text/plain\r\nCONTENT-DISPOSITION: form-data; name=a",
        b"Content-Disposition: form-data; name=f; filename=a.txt; filename*=utf-8''a.txt",
    ],
)
async def test_a_faithful_late_head_is_sent_unchanged(late):
    body = body_of((GROWING, b"1"), (late, b"2"))
    length, blocks = await sent(received(body, length=len(body)))
    assert b"".join(blocks) == body_of((PLAIN, b"1"), (late, b"2"))
    assert length == len(b"".join(blocks))


@pytest.mark.parametrize(
    ("late", "meant"),
    [
        (SHRINKING, b'form-data; name="f"; filename="a.txt"'),
        (b'Content-Disposition: form-data; name="a"; x="\\"; filename=\\"evil"', b'form-data; name="a"'),
        (
            b"Content-Disposition: form-data; name=f; filename=\"=?utf-8?B?w6Q=?=\"; filename*=utf-8''%C3%A4",
            b'form-data; name="f"; filename="\xc3\xa4"',
        ),
        (
            b'Content-Disposition: form-data; name="f"; filename="a?.txt"; filename*=UTF-8\'\'a%C3%BC.txt',
            b'form-data; name="f"; filename="a\xc3\xbc.txt"',
        ),
        (
            (
                b'Content-Disposition: form-data; name="f"; filename="=?UTF-8?Q?a=C3=BC.txt?="; '
                b"filename*=UTF-8''a%C3%BC.txt"
            ),
            b'form-data; name="f"; filename="a\xc3\xbc.txt"',
        ),
    ],
)
async def test_another_late_head_is_rewritten_with_the_same_length(late, meant):
    body = body_of((PLAIN, b"1"), (late, b"2"))
    length, blocks = await sent(received(body, length=len(body)))
    padded = b"Content-Disposition: " + b" " * (len(late) - len(b"Content-Disposition: ") - len(meant)) + meant
    assert b"".join(blocks) == body_of((PLAIN, b"1"), (padded, b"2"))
    assert length == len(body)


@pytest.mark.parametrize(
    "late",
    [
        b'Content-Disposition: form-data; name="f"; filename="a\\"b"',  # %22 is one byte longer
        b'Content-Disposition: form-data; name="f"; filename="\xff\xff"',
        b"content-disposition:form-data;name=f;\tfilename=a",
    ],
)
async def test_a_late_head_that_would_grow_is_refused_with_advice(late):
    body = body_of((PLAIN, b"1" * 99), (late, b"2"))
    out, problem = await sent_until_refused(received(body, length=len(body)))
    assert isinstance(problem, MalformedForm)
    assert "Send its file first" in problem.detail
    assert CLOSING not in out


async def test_a_late_head_is_canonical_if_no_length_is_declared():
    body = body_of((PLAIN, b"1"), (GROWING, b"2"), (SHRINKING, b"3"))
    _, blocks = await sent(received(body, length=None))
    assert b"".join(blocks) == body_of((PLAIN, b"1"), (PLAIN, b"2"), (PLAIN, b"3"))


# The closing boundary is held back


@given(
    st.sampled_from([PLAIN, GROWING, SHRINKING]),
    st.integers(0, 60),
    st.sampled_from([b"", b"\r\n", b"\r\n--", b"\r\n--bound", b"\r\n--bound-", b"\r", b"x" * 40_000]),
    st.sampled_from([b"", b"\r\n", b"\r\n" * 100]),
    st.sampled_from([1 << 16, 10_000]),
)
async def test_a_form_without_closing_boundary_never_fills_the_declared_length(head, more, tail, before, size):
    """For any data in its place and any Content-Length."""
    body = before + (b"--bound\r\n%b\r\n\r\n" % head) + b"x" * more + tail
    growth = (0 if head is PLAIN else len(PLAIN) - len(head)) - len(before)
    out, problem = await sent_until_refused(received(body, length=len(body), size=size))
    assert isinstance(problem, Truncated)
    assert len(out) <= len(body) + growth - len(CLOSING)


async def test_a_form_longer_than_declared_is_cut_before_the_end():
    """The declared length has no room for a closing boundary; data in its place are not sent."""
    body = b"--bound\r\n" + PLAIN + b"\r\n\r\n" + b"x" * 100_000
    out, problem = await sent_until_refused(received(body, length=len(body), size=1000))
    assert isinstance(problem, Truncated)
    assert len(out) <= len(body) - len(CLOSING)


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("before", [0, 100_000])
@pytest.mark.parametrize("fails", [0, 1])
async def test_no_byte_of_the_end_is_sent_before_all_parts_have_ended(known, before, fails):
    """Not even the CRLF of the closing boundary. A refusal is raised unchanged."""
    contents = [[b"x" * before] if before else [] for _ in range(2)]
    contents[fails] = [*contents[fails], Refused("no")]
    form = made(*(("f", "a", before if known else None, content) for content in contents))
    out, problem = await sent_until_refused(form)
    assert isinstance(problem, Refused)
    assert CLOSING[:-2] not in out if fails == 0 else out.count(CLOSING[:-2]) <= 1
    assert not out.endswith(b"\r\n")
    if known:
        assert len(out) <= form.length - len(CLOSING)


async def test_the_end_is_sent_once_the_last_part_has_ended_and_not_before():
    go_on = asyncio.Event()

    async def chunks():
        yield b"x" * 100_000
        await go_on.wait()

    async def parts():
        yield Part("f", "a", None, 100_000, chunks())

    framed = await frame(Form(BOUNDARY, parts(), None))
    first = await anext(framed.blocks)
    assert first.endswith(b"x")
    rest = asyncio.ensure_future(anext(framed.blocks))
    await asyncio.sleep(0)
    assert not rest.done()
    go_on.set()
    assert await rest == CLOSING + b"\r\n"
    assert await anext(framed.blocks, None) is None


async def test_a_body_with_data_after_its_end_is_not_ended():
    body = body_of((PLAIN, b"x")) + b"x"
    out, problem = await sent_until_refused(received(body, length=len(body)))
    assert isinstance(problem, MalformedForm)
    assert CLOSING not in out


# Blocks


@pytest.mark.parametrize("blocks", [[], [b"a"], [b"abc", b"d", b"efg"]])
async def test_a_raw_body_is_sent_as_it_is(blocks):
    framed = await frame_raw(made(("f", "a.txt", len(b"".join(blocks)), blocks)))
    assert framed.length == len(b"".join(blocks))
    assert [block async for block in framed.blocks] == blocks


async def test_the_last_block_of_a_raw_body_is_held_back_until_the_file_has_ended():
    async def chunks():
        yield b"abc"
        yield b"def"
        raise Refused("no")

    async def parts():
        yield Part("f", "a.txt", None, 6, chunks())

    blocks = (await frame_raw(Form(BOUNDARY, parts(), None))).blocks
    assert await anext(blocks) == b"abc"
    with pytest.raises(Refused):
        await anext(blocks)


async def test_a_small_upload_is_one_block():
    body = body_of((FIELD, b"1"), (PLAIN, b"x" * 1000), (FIELD, b"2"))
    _, blocks = await sent(received(body, length=len(body), size=100))
    assert len(blocks) == 1


async def test_large_blocks_are_passed_on_unchanged():
    content = [b"x" * 100_000, b"y" * 100_000]
    _, blocks = await sent(made(("f", "a", 200_000, content)))
    assert blocks[1] is content[1]


async def test_no_block_is_kept_when_the_next_one_is_yielded():
    content = [bytes(100_000) for _ in range(3)]
    before = [sys.getrefcount(block) for block in content]
    framed = await frame(made(("f", "a", 300_000, content)))
    for _ in content:
        await anext(framed.blocks)
    assert [sys.getrefcount(block) for block in content][:2] == before[:2]


async def test_a_file_is_not_read_before_its_first_block_is_requested():
    read = []

    async def chunks():
        read.append(True)
        yield b"x"

    async def parts():
        yield Part("f", "a", None, 1, chunks())

    framed = await frame(Form(BOUNDARY, parts(), None))
    assert not read
    await anext(framed.blocks)
    assert read


async def test_a_refusal_in_fields_before_the_file_precedes_any_block():
    body = body_of((b'Content-Disposition: form-data; name="a"; name="b"', b"1"), (PLAIN, b"x"))
    with pytest.raises(MalformedForm):
        await frame(received(body, length=len(body)))
