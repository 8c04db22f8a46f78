"""The grammar of header field values: tables with the neighbours just outside, and what is written is read."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiorelay.http.grammar import (
    decode_extended,
    essence,
    is_media_type,
    is_token,
    read_parameters,
    split_list,
    split_list_from_end,
    unquote,
)

TCHARS = "!#$%&'*+-.^_`|~" + string.digits + string.ascii_letters
TOKENS = st.text(TCHARS, min_size=1)
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\r\n"))


def quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def test_a_token_is_letters_digits_and_fifteen_symbols() -> None:
    assert "".join(filter(is_token, map(chr, range(0x180)))) == "".join(sorted(TCHARS))


@pytest.mark.parametrize("text", ["", "a b", "a\n", "a/b", '"a"', "ä", "a,"])
def test_what_is_no_token(text: str) -> None:
    assert not is_token(text)


@pytest.mark.parametrize("text", ["a/b", "text/plain; charset=utf-8", 'a/b;c="d;e"', "A/B \t;", "a/*", "x.y+z/1"])
def test_a_media_type(text: str) -> None:
    assert is_media_type(text)


@pytest.mark.parametrize(
    "text", ["", "a", "a/", "/b", "a/b/c", "a/b c", " a/b", "a/b; ä", "a/b;\r\nc", "a /b", "a/b,c/d"]
)
def test_what_is_no_media_type(text: str) -> None:
    assert not is_media_type(text)


@pytest.mark.parametrize(
    ("value", "bare"),
    [
        ("Text/HTML; charset=utf-8", "text/html"),
        (" a/b ", "a/b"),
        ("a/b;c;d", "a/b"),
        ("nonsense", "nonsense"),
        ("", ""),
    ],
)
def test_the_essence_of_a_media_type(value: str, bare: str) -> None:
    assert essence(value) == bare


@pytest.mark.parametrize(
    ("value", "content"),
    [('"a b"', "a b"), (r'"a\"b\\c"', 'a"b\\c'), ('""', ""), ("a", "a"), ("", ""), ('"open', "open"), ('a"b"', 'a"b"')],
)
def test_unquoted(value: str, content: str) -> None:
    assert unquote(value) == content


@given(TEXTS)
def test_what_is_quoted_is_unquoted(text: str) -> None:
    assert unquote(quoted(text)) == text


LISTS = [
    ("", []),
    (" , ,", []),
    ("a", ["a"]),
    ("a, b;c=d ,\te", ["a", "b;c=d", "e"]),
    ('a="b,c", d', ['a="b,c"', "d"]),
    (r'a="b\",c", d', [r'a="b\",c"', "d"]),
    (r'a="b\\", d', [r'a="b\\"', "d"]),
    ('"a,b""c,d",e', ['"a,b""c,d"', "e"]),
]


@pytest.mark.parametrize(("line", "elements"), LISTS)
def test_a_list_is_split_outside_of_quotes(line: str, elements: list[str]) -> None:
    assert split_list(line) == elements


@pytest.mark.parametrize(("line", "elements"), LISTS)
def test_a_list_is_the_same_from_its_end(line: str, elements: list[str]) -> None:
    assert list(split_list_from_end(line)) == elements[::-1]


@pytest.mark.parametrize("line", ['a, b="c', '", a', 'a"b"c", d'])
def test_a_list_with_an_open_quote_is_one_element(line: str) -> None:
    assert split_list(line) == [line]


@pytest.mark.parametrize(
    ("line", "elements"),
    [
        ('a="x, b', ["b", 'a="x']),
        ('a="x, b="y"', ['b="y"', 'a="x']),
        ('a, b="x, c="y,z"', ['c="y,z"', 'a, b="x']),
        (r'a="x,b;c=\"y"', [r'a="x,b;c=\"y"']),
        (r"a\, b", ["b", "a\\"]),
        ('a"', ['a"']),
    ],
)
def test_from_its_end_a_list_is_read_as_far_as_it_is_whole(line: str, elements: list[str]) -> None:
    assert list(split_list_from_end(line)) == elements


@given(st.lists(st.tuples(TOKENS, TEXTS)))
def test_a_list_that_is_written_is_read_from_both_ends(pairs: list[tuple[str, str]]) -> None:
    elements = [f"{name}={quoted(text)}" for name, text in pairs]
    line = ", ".join(elements)
    assert split_list(line) == elements
    assert list(split_list_from_end(line)) == elements[::-1]


@given(TEXTS, TOKENS, TEXTS)
def test_no_beginning_changes_what_is_appended(beginning: str, name: str, text: str) -> None:
    appended = f"{name}={quoted(text)}"
    assert next(split_list_from_end(f"{beginning},{appended}")) == appended


@pytest.mark.parametrize(
    ("text", "parameters"),
    [
        ("a", {}),
        ("a; b=c", {"b": "c"}),
        ('a;B="c;d" ; e = f g ;;h=', {"b": "c;d", "e": "f g", "h": ""}),
        ("a; b=1; B=2", {"b": "1"}),
        ("a; b; c=1", {}),
        ('a; b="c', {"b": "c"}),
        ("a; b=1 2=3; c=4", {"b": "1 2=3", "c": "4"}),
        ("a; f*=utf-8''x", {"f*": "utf-8''x"}),
    ],
)
def test_parameters_are_read_leniently(text: str, parameters: dict[str, str]) -> None:
    assert read_parameters(text) == parameters


@given(st.dictionaries(TOKENS.map(str.lower), TEXTS))
def test_parameters_that_are_written_are_read(parameters: dict[str, str]) -> None:
    text = "a" + "".join(f"; {name}={quoted(value)}" for name, value in parameters.items())
    assert read_parameters(text) == parameters


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("UTF-8''%c2%a3%20and%20%e2%82%ac%20rates", "£ and € rates"),  # RFC 8187, section 3.2.3
        ("iso-8859-1'en'%A3%20rates", "£ rates"),
        ("utf-8''", ""),
        ("utf-8'de-CH'a!#$&+-.^_`|~", "a!#$&+-.^_`|~"),
        ("utf-8''%00", "\0"),
    ],
)
def test_an_extended_value(value: str, text: str) -> None:
    assert decode_extended(value) == text


@pytest.mark.parametrize(
    "value",
    ["", "a", "utf-8'a", "utf-8''a b", "utf-8''%", "utf-8''%4", "utf-8''%4g", "utf-8''%FF", "utf-16''a", "''a"]
    + [f"utf-8''{symbol}" for symbol in "*'()/:;<=>?@[]\\{}\",ä"],
)
def test_what_is_no_extended_value(value: str) -> None:
    assert decode_extended(value) is None


@given(TEXTS)
def test_any_text_can_be_an_extended_value(text: str) -> None:
    encoded = "".join(f"%{octet:02x}" for octet in text.encode())
    assert decode_extended(f"UTF-8'en'{encoded}") == text


@given(st.text(st.characters()))
def test_any_value_is_read_or_not(text: str) -> None:
    split_list(text)
    list(split_list_from_end(text))
    read_parameters(text)
    decode_extended(text)
