"""The header fields of draft-ietf-httpbis-resumable-upload."""

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiorelay.errors import InconsistentLength
from aiorelay.rest1.resumable.draft_fields import (
    INTEROP_VERSIONS,
    declared_length,
    parse_complete,
    parse_interop_version,
    parse_size,
    render_complete,
    render_limits,
)


@pytest.mark.parametrize(
    ("value", "complete"),
    [
        ("?1", True),
        ("?0", False),
        (" ?1 ", True),
        ("?1;note=a", True),
        (None, None),
        ("", None),
        ("1", None),
        ("true", None),
        ("?2", None),
        ("?", None),
        ("?1, ?1", None),
        ("?1 ?0", None),
        ("(?1)", None),
        ('"?1"', None),
        ("?1;", None),
        ("?1\xff", None),
        ("?1\udcff", None),
    ],
)
def test_upload_complete(value, complete):
    assert parse_complete(value) is complete


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("0", 0),
        ("-0", 0),
        ("100", 100),
        ("007", 7),
        (" 100 ", 100),
        ("100;unit=bytes", 100),
        ("9" * 15, 10**15 - 1),
        ("9" * 16, None),
        ("-1", None),
        ("1.0", None),
        ("?1", None),
        ("@1", None),
        ("1, 1", None),
        ("1,", None),
        ("one", None),
        ('"1"', None),
        ("+1", None),
        ("1 1", None),
        ("٣", None),
        ("", None),
        (None, None),
    ],
)
def test_a_size(value: str | None, size: int | None) -> None:
    assert parse_size(value) == size


@given(st.text(st.characters(blacklist_characters="\0\r\n")))
def test_any_field_is_read_or_ignored(value: str) -> None:
    assert parse_complete(value) in {True, False, None}
    size = parse_size(value)
    assert size is None or 0 <= size < 10**15


@given(st.booleans(), st.integers(0, 10**15 - 1))
def test_what_is_written_is_read(complete: bool, size: int) -> None:  # noqa: FBT001
    assert parse_complete(render_complete(complete)) is complete
    assert parse_size(str(size)) == size


@pytest.mark.parametrize(
    ("value", "version"),
    [("6", 6), ("7", 7), ("8", 8), ("5", None), ("999", None), ("8.0", None), ("", None), (None, None)],
)
def test_the_interop_version(value: str | None, version: int | None) -> None:
    assert parse_interop_version(value) == version
    assert version is None or version in INTEROP_VERSIONS


def test_limits() -> None:
    assert render_limits({"max-size": 1000, "max-age": 86400}) == "max-size=1000, max-age=86400"
    with pytest.raises(ValueError, match="range"):
        render_limits({"max-size": 10**15})


@pytest.mark.parametrize(
    ("known", "upload_length", "complete", "content_length", "length"),
    [
        (None, None, False, None, None),
        (None, None, False, 7, None),
        (None, None, True, None, None),  # chunked
        (None, None, True, 7, 17),
        (None, None, True, 0, 10),
        (None, 17, True, 7, 17),
        (None, 20, False, 7, 20),
        (20, None, False, 7, 20),
        (17, 17, True, 7, 17),
        (20, None, True, None, 20),
    ],
)
def test_the_length(known, upload_length, complete, content_length, length):
    told = declared_length(
        known=known, upload_length=upload_length, complete=complete, offset=10, content_length=content_length
    )
    assert told == length


@pytest.mark.parametrize(
    ("known", "upload_length", "complete", "content_length"),
    [(20, 21, False, None), (None, 20, True, 7), (20, None, True, 7), (17, 18, True, 7)],
)
def test_lengths_that_differ(known, upload_length, complete, content_length):
    with pytest.raises(InconsistentLength):
        declared_length(
            known=known, upload_length=upload_length, complete=complete, offset=10, content_length=content_length
        )


def test_every_contradiction_is_found():
    for known, upload_length, content in product((None, 1, 2), repeat=3):
        told = {each for each in (known, upload_length, content) if each is not None}
        arguments = {"known": known, "upload_length": upload_length, "complete": True, "offset": 0}
        if len(told) > 1:
            with pytest.raises(InconsistentLength):
                declared_length(**arguments, content_length=content)
        else:
            assert declared_length(**arguments, content_length=content) == (told.pop() if told else None)
