"""The URL of a request to the upload API."""

import pytest
from yarl import URL

from aiorelay.rest1.target import Target, has_dot_segments


@pytest.mark.parametrize(
    ("base", "rest", "query", "url"),
    [
        ("http://a/b", None, "", "http://a/b"),
        ("http://a/b", None, "c=1", "http://a/b?c=1"),
        ("http://a/b?k=v", None, "", "http://a/b?k=v"),
        ("http://a/b?k=v", None, "c=1", "http://a/b?k=v&c=1"),
        ("http://a/b?k=%2F+%20", None, "c=%2f+", "http://a/b?k=%2F+%20&c=%2f+"),
        ("http://a/b", "c", "", "http://a/b/c"),
        ("http://a/b/", "c", "", "http://a/b/c"),
        ("http://a/b", "", "", "http://a/b/"),
        ("http://a", "c/d", "", "http://a/c/d"),
        ("http://a/b?k=v", "c", "d=1", "http://a/b/c?k=v&d=1"),
        ("http://a/b", "%2Fc%20//d;e", "", "http://a/b/%2Fc%20//d;e"),
    ],
)
def test_rest_and_query_are_appended_as_they_were_sent(base, rest, query, url):
    assert str(Target(rest=rest, query=query).url(URL(base, encoded=True))) == url


@pytest.mark.parametrize(
    ("rest", "has"),
    [
        ("", False),
        ("a/b.c/..d/e..", False),
        ("...", False),
        ("a/%2E%2E%2E", False),
        (".", True),
        ("a/..", True),
        ("../a", True),
        ("a/%2e%2E/b", True),
        ("a%2f..%2fb", True),
        ("a\\..\\b", True),
        ("a%5c..", True),
        ("%252e%252e", True),
        ("%25252e%25252e/a", True),
    ],
)
def test_dot_segments_are_found_however_they_are_escaped(rest, has):
    assert has_dot_segments(rest) is has
