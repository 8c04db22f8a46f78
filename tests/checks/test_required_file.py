"""A form must have a file in the form field that carries one."""

import pytest

from aiorelay.checks.pipeline import checked
from aiorelay.checks.required_file import RequiredFile
from aiorelay.errors import MissingFile, Truncated
from aiorelay.multipart.parser import FormLimits, read_form

FIELD = b'Content-Disposition: form-data; name="a"\r\n\r\n'
FILE = b'Content-Disposition: form-data; name="f"; filename="a.txt"\r\n\r\n'
EMPTY_INPUT = b'Content-Disposition: form-data; name="f"; filename=""\r\nContent-Type: application/octet-stream\r\n\r\n'


def body_of(*parts: bytes) -> bytes:
    return b"".join(b"--b\r\n" + part + b"\r\n" for part in parts) + b"--b--\r\n"


async def requiring(body: bytes, field: str = "f") -> list[str]:
    blocks = iter([body])

    async def read() -> bytes:
        return next(blocks, b"")

    required = RequiredFile(field)
    form = read_form("multipart/form-data; boundary=b", None, read, FormLimits(parts=100, fields_size=1024))
    names = []
    async for part in checked(form, [required], [required.form_ended]).parts:
        names.append(part.name)
        async for _ in part.chunks:
            pass
    return names


@pytest.mark.parametrize(
    "parts",
    [
        [FILE],
        [FILE + b"x"],
        [EMPTY_INPUT + b"x"],
        [EMPTY_INPUT, FILE],
        [FIELD, FILE, FIELD],
        [FILE, EMPTY_INPUT],
    ],
    ids=["empty file", "file", "nameless file", "empty input and file", "file among fields", "file and empty input"],
)
async def test_a_file_in_the_field_is_enough(parts: list[bytes]) -> None:
    assert len(await requiring(body_of(*parts))) == len(parts)


@pytest.mark.parametrize(
    "parts",
    [
        [],
        [FIELD],
        [EMPTY_INPUT],
        [EMPTY_INPUT, EMPTY_INPUT, FIELD],
        [FIELD.replace(b'"a"', b'"f"') + b"not a file"],
        [FILE.replace(b'"f"', b'"g"') + b"x"],
        [FILE.replace(b'"f"', b'"F"') + b"x"],
    ],
    ids=["no part", "field", "empty input", "empty inputs", "field of the name", "other field", "other case"],
)
async def test_a_form_without_a_file_in_the_field_is_refused_at_its_end(parts: list[bytes]) -> None:
    with pytest.raises(MissingFile, match="'f'"):
        await requiring(body_of(*parts))


async def test_a_malformed_form_without_a_file_is_reported_as_malformed() -> None:
    with pytest.raises(Truncated):
        await requiring(body_of(FIELD)[:-5])
