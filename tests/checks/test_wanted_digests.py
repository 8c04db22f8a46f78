"""Want-Repr-Digest: the digest algorithm that a client prefers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiorelay.checks.wanted_digests import preferred_algorithm


@pytest.mark.parametrize(
    ("lines", "algorithm"),
    [
        (["sha-256=1"], "sha-256"),
        (["sha-512=1"], "sha-512"),
        (["sha-256=10"], "sha-256"),
        (["sha-512=3, sha-256=10, unixsum=0"], "sha-256"),
        (["sha-256=3,sha-512=10"], "sha-512"),
        (["sha-256=3\t ,\tsha-512=10"], "sha-512"),
        (["sha-256=3", "sha-512=10"], "sha-512"),
        (["sha-256=5, sha-512=5"], "sha-256"),
        (["sha-256=0, sha-512=1"], "sha-512"),
        (["sha-256=1, sha-256=0, sha-512=1"], "sha-512"),
        (["sha-256=1;q=1;r"], "sha-256"),
        (["crc32c=10, sha-512=1"], "sha-512"),
        (["sha-256=0"], None),
        (["unixsum=10"], None),
        (["sha-256=11"], None),
        (["sha-256=-1"], None),
        (["sha-256=1.5"], None),
        (["sha-256=01"], "sha-256"),
        (["sha-256=?1"], None),
        (["sha-256=1", "md5=:AAAA:"], None),
        (["sha-256"], None),
        (["SHA-256=1"], None),
        (["sha-256=:AAAA:"], None),
        (["sha-256=1 sha-512=1"], None),
        (["sha-256=1,"], None),
        ([","], None),
        ([""], None),
        ([], None),
    ],
)
def test_the_preferred_algorithm(lines, algorithm):
    assert preferred_algorithm(lines) == algorithm


@given(st.integers(0, 10), st.integers(0, 10))
def test_the_greater_preference_wins_or_the_shorter_digest_if_equal(short, long):
    best = max(short, long)
    expected = None if not best else "sha-256" if short == best else "sha-512"
    assert preferred_algorithm([f"sha-512={long}, sha-256={short}"]) == expected


@given(st.lists(st.text()))
def test_any_text_is_parsed_or_ignored(lines):
    assert preferred_algorithm(lines) in {None, "sha-256", "sha-512"}
