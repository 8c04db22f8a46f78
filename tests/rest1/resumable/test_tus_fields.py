"""The header fields of tus 1.0.0."""

import base64
import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiorelay.errors import BadDigest, MalformedField
from aiorelay.rest1.resumable.tus_fields import (
    CHECKSUM_ALGORITHMS,
    parse_checksum,
    parse_concat,
    parse_creation_length,
    parse_integer,
    parse_metadata,
)

FILES = "/files/"
HEADER_TEXT = st.text(st.characters(blacklist_characters="\0\r\n", max_codepoint=0x2FF))


def encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


# Numbers


@pytest.mark.parametrize(("value", "number"), [("0", 0), ("007", 7), ("100", 100), ("9" * 18, 10**18 - 1)])
def test_a_number(value: str, number: int) -> None:
    assert parse_integer(value, "Upload-Offset") == number


@pytest.mark.parametrize("value", ["", "-1", "+1", "1.0", "0x1", "1 ", " 1", "1_0", "1e3", "٣", "²", "9" * 19, "1,1"])
def test_no_number(value: str) -> None:
    with pytest.raises(MalformedField, match=r"^Upload-Offset is not a number"):
        parse_integer(value, "Upload-Offset")


@pytest.mark.parametrize(("length", "deferred", "told"), [("0", None, 0), ("5", None, 5), (None, "1", None)])
def test_the_length_at_creation(length: str | None, deferred: str | None, told: int | None) -> None:
    assert parse_creation_length(length, deferred) == told


@pytest.mark.parametrize(
    ("length", "deferred"), [(None, None), ("5", "1"), (None, "0"), (None, ""), (None, "2"), ("x", None), ("5", "0")]
)
def test_no_length_at_creation(length: str | None, deferred: str | None) -> None:
    with pytest.raises(MalformedField):
        parse_creation_length(length, deferred)


# Upload-Metadata

METADATA = [
    ("", []),
    (" ", []),
    ("filename cmVwb3J0LnBkZg==", [("filename", "report.pdf")]),
    ("filename d29ybGRfZG9taW5hdGlvbl9wbGFuLnBkZg==,is_confidential", [
        ("filename", "world_domination_plan.pdf"),
        ("is_confidential", ""),
    ]),
    ("b Yg==,a YQ==", [("b", "b"), ("a", "a")]),
    ("empty ,other YQ==", [("empty", ""), ("other", "a")]),
    ("a YQ== , b Yg==", [("a", "a"), ("b", "b")]),
    ("name Z3LDtsOfZQ==", [("name", "größe")]),
    ("relative;path= YQ==", [("relative;path=", "a")]),
    ("crlf DQo=", [("crlf", "\r\n")]),
]  # fmt: skip

BAD_METADATA = [
    ",",
    "a YQ==,",
    ",a YQ==",
    "a YQ==,,b Yg==",
    "a YQ==,a YQ==",  # repeated
    "a,a",
    "a YQ",  # without its padding
    "a YQ===",
    "a YQ==YQ==",
    "a Y Q==",
    "a  YQ==",
    "a Y-_=",  # the alphabet of URLs
    "a !",
    "a //79",  # not UTF-8
    "größe YQ==",
    "a\tb YQ==",
    "a\x7f YQ==",
]


@pytest.mark.parametrize(("value", "pairs"), METADATA)
def test_metadata(value: str, pairs: list[tuple[str, str]]) -> None:
    assert parse_metadata(value) == pairs


@pytest.mark.parametrize("value", BAD_METADATA)
def test_no_metadata(value: str) -> None:
    with pytest.raises(MalformedField):
        parse_metadata(value)


KEYS = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E, blacklist_characters=","), min_size=1)


@given(st.dictionaries(KEYS, st.text(st.characters(exclude_categories=["Cs"]))))
def test_metadata_arrives_as_it_was(pairs: dict[str, str]) -> None:
    value = ",".join(f"{key} {encoded(text.encode())}" for key, text in pairs.items())
    assert parse_metadata(value) == list(pairs.items())


@given(HEADER_TEXT)
def test_any_metadata_is_read_or_refused(value: str) -> None:
    try:
        pairs = parse_metadata(value)
    except MalformedField:
        return
    assert len({key for key, _ in pairs}) == len(pairs)


# Upload-Checksum


@pytest.mark.parametrize("algorithm", CHECKSUM_ALGORITHMS)
def test_a_checksum(algorithm: str) -> None:
    digest = hashlib.new(algorithm, b"hello world").digest()
    assert parse_checksum(f"{algorithm} {encoded(digest)}") == (algorithm, digest)


@pytest.mark.parametrize(
    "value",
    [
        "",
        "sha1",
        "sha1 ",
        "sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0",
        "sha1  Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "sha1 YQ==",
        "sha256 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "SHA1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=",
        "crc32 AAAAAA==",
        "shake_128 YQ==",
        "sha1 größe",
    ],
)
def test_no_checksum(value: str) -> None:
    with pytest.raises(BadDigest):
        parse_checksum(value)


@given(HEADER_TEXT)
def test_any_checksum_is_read_or_refused(value: str) -> None:
    with pytest.raises(BadDigest):
        parse_checksum("sha1 " + value)


# Upload-Concat

CONCAT = [
    ("partial", ()),
    ("final;/files/a /files/b", ("/files/a", "/files/b")),
    ("final;/files/b /files/a /files/b", ("/files/b", "/files/a", "/files/b")),
    ("final;https://relay.example:8080/files/a http://[::1]/files/b", ("/files/a", "/files/b")),
    ("final;//relay.example/files/a", ("/files/a",)),
    ("final; /files/a  b", ("/files/a", "/files/b")),
    ("final;a ../other/b", ("/files/a", "/other/b")),
    ("final;/files/a?x#y", ("/files/a",)),
]


@pytest.mark.parametrize(("value", "paths"), CONCAT)
def test_concatenation(value: str, paths: tuple[str, ...]) -> None:
    assert parse_concat(value, FILES) == paths


@pytest.mark.parametrize(
    "value",
    ["", "final", "final;", "final; ", "Partial", "partial;", "partial;/files/a", "last;/files/a", "final;http://[x/a",
     "final;file:///files/a", "final;javascript:a"],
)  # fmt: skip
def test_no_concatenation(value: str) -> None:
    with pytest.raises(MalformedField):
        parse_concat(value, FILES)


@given(HEADER_TEXT)
def test_any_concatenation_is_read_or_refused(value: str) -> None:
    try:
        assert parse_concat("final;" + value, FILES)
    except MalformedField:
        return
