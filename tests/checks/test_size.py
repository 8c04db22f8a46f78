"""``max-size``."""

from collections.abc import AsyncGenerator, AsyncIterator

import pytest

from aiorelay.checks.pipeline import checked
from aiorelay.checks.size import format_size, max_size
from aiorelay.errors import TooLarge
from aiorelay.multipart.form import Form, Part


def a_form(*blocks: bytes, filename: str | None = "a", size: int | None = None) -> Form:
    async def chunks() -> AsyncIterator[bytes]:
        for block in blocks:
            yield block

    async def parts() -> AsyncGenerator[Part, None]:
        yield Part("somefile", filename, None, size, chunks())

    return Form(b"b", parts(), None)


async def passed(form: Form, limit: int) -> bytes:
    got = b""
    async for part in checked(form, [max_size(limit)]).parts:
        async for chunk in part.chunks:
            got += chunk
    return got


@pytest.mark.parametrize("blocks", [[], [b"12345678"], [b"1234", b"5678"]])
@pytest.mark.parametrize("declared", [True, False])
async def test_a_file_of_the_limit_passes(blocks: list[bytes], declared: bool) -> None:  # noqa: FBT001
    size = sum(map(len, blocks)) if declared else None
    assert await passed(a_form(*blocks, size=size), 8) == b"".join(blocks)


async def test_a_declared_length_beyond_the_limit_is_refused_before_a_byte_is_read() -> None:
    form = checked(a_form(b"123456789", size=9), [max_size(8)])
    with pytest.raises(TooLarge, match="at most 8 bytes"):
        await anext(form.parts)


async def test_the_block_that_exceeds_the_limit_is_not_passed_on() -> None:
    part = await anext(checked(a_form(b"1234", b"5678", b"9"), [max_size(8)]).parts)
    assert [await anext(part.chunks), await anext(part.chunks)] == [b"1234", b"5678"]
    with pytest.raises(TooLarge, match="max-size"):
        await anext(part.chunks)


async def test_bytes_are_counted_even_if_a_small_length_is_declared() -> None:
    with pytest.raises(TooLarge):
        await passed(a_form(b"123456789", size=1), 8)


async def test_a_field_is_not_limited() -> None:
    assert await passed(a_form(b"123456789", filename=None), 8) == b"123456789"


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1000, "1 KB"),
        (1023, "1023 bytes"),
        (1024, "1 KiB"),
        (1536, "1536 bytes"),
        (1024**2, "1 MiB"),
        (10 * 1024**3, "10 GiB"),
        (10**9, "1 GB"),
        (2 * 1024**4, "2 TiB"),
    ],
)
def test_sizes_are_formatted_in_the_largest_exact_unit(size: int, words: str) -> None:
    assert format_size(size) == words
