"""Structured fields: the bare values of items and dictionaries; everything else is an error."""

from typing import Any

import pytest

from aiorelay.http.structured_fields import parse_dictionary, parse_item


@pytest.mark.parametrize(
    ("value", "item"), [("1", 1), ("?1", True), (" :YQ==: ", b"a"), ('"a"', "a"), ("1;a=2", 1), ("01", 1)]
)
def test_an_item_is_read_without_its_parameters(value: str, item: object) -> None:
    assert parse_item(value) == item


@pytest.mark.parametrize(
    ("value", "members"),
    [
        ("", {}),
        ("a", {"a": True}),
        ("a=1;b=2, c=:YQ==:", {"a": 1, "c": b"a"}),
        ("a=1,a=2", {"a": 2}),
        ("a=(1 2);b", {"a": [(1, {}), (2, {})]}),
    ],
)
def test_a_dictionary_is_read_without_its_parameters(value: str, members: dict[str, Any]) -> None:
    assert parse_dictionary(value) == members


@pytest.mark.parametrize("value", ["", "1 2", "1,", "(1)", '"ä"', '"\udcff"', "\t1"])
def test_what_is_no_item_is_an_error(value: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_item(value)


@pytest.mark.parametrize("value", ["a=1,", ",", "A=1", "a = 1", "a=1 b=2", "a=ä", '"a"'])
def test_what_is_no_dictionary_is_an_error(value: str) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        parse_dictionary(value)
