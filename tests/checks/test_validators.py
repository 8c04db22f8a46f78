"""``validator``: user-supplied checks, from import to verdict."""

import csv
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from aiorelay.checks.pipeline import checked
from aiorelay.checks.validators import load_validator
from aiorelay.errors import Internal, NotFound, Refused
from aiorelay.multipart.form import Form, Part

HEADER = ["id", "name"]


class CsvHeader:
    """Refuse a CSV file with another header line, as in the README."""

    def __init__(self, part: Part) -> None:
        self.wanted = (part.filename or "").endswith(".csv")
        self.head = b""

    def feed(self, chunk: bytes) -> None:
        if self.wanted and b"\n" not in self.head:
            self.head += chunk

    def finish(self) -> None:
        if self.wanted and next(csv.reader(self.head.decode().splitlines()[:1]), None) != HEADER:
            raise Refused("the header line must be: id,name")


class Holder:
    nested = CsvHeader


class Spy:
    threads: list[threading.Thread]


def refusing_maker(_: Part) -> CsvHeader:
    raise Refused("none of these")


def failing_maker(_: Part) -> CsvHeader:
    raise ZeroDivisionError("s3cret")


def problem_maker(_: Part) -> CsvHeader:
    raise NotFound("not a refusal")


def no_validator(_: Part) -> None:
    return None


class Exhausted(CsvHeader):
    def feed(self, chunk: bytes) -> None:
        next(iter(chunk[:0]))


def thread_of_maker(part: Part) -> CsvHeader:
    if threading.current_thread() is threading.main_thread():
        raise Refused("on the loop")
    return CsvHeader(part)


not_callable = "a string"


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


async def upload(name: str, pool: ThreadPoolExecutor, *blocks: bytes, filename: str | None = "a.csv") -> bytes:
    async def chunks() -> AsyncIterator[bytes]:
        for block in blocks:
            yield block

    async def parts() -> AsyncGenerator[Part, None]:
        yield Part("somefile", filename, "text/csv", None, chunks())

    form = checked(Form(b"b", parts(), None), [load_validator(f"{__name__}:{name}", pool)])
    return b"".join([chunk async for part in form.parts async for chunk in part.chunks])


LINES = b"1,x\r\n" * 300_000


@pytest.mark.parametrize("name", ["CsvHeader", "Holder.nested", "thread_of_maker"])
@pytest.mark.parametrize(
    "blocks", [[b"id,name\r\n1,x\r\n"], [b"id,", b"name", b"\r\n"], [b"id,name\r\n", LINES, LINES]]
)
async def test_a_file_that_its_validator_accepts_passes_byte_for_byte(
    pool: ThreadPoolExecutor, name: str, blocks: list[bytes]
) -> None:
    assert await upload(name, pool, *blocks) == b"".join(blocks)


@pytest.mark.parametrize("blocks", [[b"name,id\r\n1,x\r\n"], [b"name,id\r\n", LINES, LINES], []])
async def test_a_refusal_has_the_detail_of_the_validator(pool: ThreadPoolExecutor, blocks: list[bytes]) -> None:
    with pytest.raises(Refused) as refusal:
        await upload("CsvHeader", pool, *blocks)
    assert refusal.value.detail == "the header line must be: id,name"


async def test_a_validator_may_use_the_file_name(pool: ThreadPoolExecutor) -> None:
    assert await upload("CsvHeader", pool, b"anything", filename="a.txt") == b"anything"


async def test_a_field_is_not_passed_to_validators(pool: ThreadPoolExecutor) -> None:
    assert await upload("refusing_maker", pool, b"value", filename=None) == b"value"


async def test_the_callable_may_refuse(pool: ThreadPoolExecutor) -> None:
    with pytest.raises(Refused, match="none of these"):
        await upload("refusing_maker", pool, b"bytes")


@pytest.mark.parametrize(
    ("name", "exception"),
    [
        ("failing_maker", "ZeroDivisionError"),
        ("problem_maker", "NotFound"),
        ("no_validator", "AttributeError"),
        ("Exhausted", "StopIteration"),
    ],
)
async def test_a_validator_that_fails_refuses_and_only_the_log_names_it(
    pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture, name: str, exception: str
) -> None:
    with caplog.at_level(logging.DEBUG, "aiorelay"), pytest.raises(Internal) as refusal:
        await upload(name, pool, b"bytes")
    assert exception not in refusal.value.detail
    assert name not in refusal.value.detail
    assert f"validator {__name__}:{name} failed: {exception} at " in caplog.text
    assert "s3cret" not in caplog.text
