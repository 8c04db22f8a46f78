"""Prefer (RFC 7240): what is asked for, and what is left for the upstream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiorelay.rest1.preferences import split_preference

ASYNC = "respond-async"

ASKING = [
    ["respond-async"],
    ["Respond-ASYNC"],
    ['respond-async=""'],
    ["respond-async ; foo ; bar=1"],
    ["wait=10, respond-async"],
    ["respond-async,wait=10"],
    [", ,respond-async,"],
    ["return=minimal", "respond-async"],
    ['foo="a\\", b", respond-async'],
    ["respond-async, respond-async=no"],
    ["foo=", "respond-async"],
]

NOT_ASKING = [
    [],
    [""],
    ["respond-asynchronously"],
    ["wait=10"],
    ["respond-async=yes"],
    ["respond-async=no, respond-async"],
    ["foo; respond-async"],
    ["foo=respond-async"],
    ['foo="bar, respond-async, baz"'],
    ['foo="bar, respond-async'],
    ["respond-async respond-async"],
    ["respond async"],
    ['"respond-async"'],
]


@pytest.mark.parametrize("lines", ASKING)
def test_asks(lines: list[str]) -> None:
    assert split_preference(ASYNC, lines)[0]


@pytest.mark.parametrize("lines", NOT_ASKING)
def test_does_not_ask(lines: list[str]) -> None:
    assert not split_preference(ASYNC, lines)[0]


@pytest.mark.parametrize(
    ("lines", "others"),
    [
        (["respond-async"], []),
        (["respond-async, wait=10"], ["wait=10"]),
        (['a="x, y"; b , respond-async', "return=minimal"], ['a="x, y"; b', "return=minimal"]),
        (["respond-async, Respond-Async"], []),
        (['respond-async, foo="open'], ['respond-async, foo="open']),
        (["respond-async", 'foo="open'], ['foo="open']),
    ],
)
def test_other_preferences_stay_as_they_were_written(lines: list[str], others: list[str]) -> None:
    assert split_preference(ASYNC, lines)[1] == others


words = st.from_regex(r"[a-z0-9!#$%&'*+.^_`|~-]{1,8}", fullmatch=True)
quoted = st.text(st.characters(min_codepoint=32, max_codepoint=126)).map(
    lambda text: '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
)
preferences = st.tuples(words.filter(lambda name: name != ASYNC), words | quoted).map("=".join)


@given(st.lists(preferences, max_size=4), st.lists(preferences, max_size=4))
@pytest.mark.slow
def test_preference_is_found_among_any_others(before: list[str], after: list[str]) -> None:
    assert split_preference(ASYNC, [", ".join([*before, ASYNC, *after])]) == (True, before + after)


@given(st.lists(st.text(), max_size=3))
def test_any_text_is_read(lines: list[str]) -> None:
    split_preference(ASYNC, lines)
