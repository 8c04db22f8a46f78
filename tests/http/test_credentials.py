"""The token in a request's header fields, and the challenge."""

import base64

import pytest
from multidict import CIMultiDict

from aiorelay.http.credentials import TokenField


def basic(text: str | bytes) -> str:
    return "Basic " + base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


@pytest.mark.parametrize(
    ("value", "token"),
    [
        ("Bearer abc", "abc"),
        ("bearer  abc== ", "abc=="),
        ("BEARER a.b-c_d~e+f/g", "a.b-c_d~e+f/g"),
        ("Bearer", ""),
        ("Bearer ", ""),
        ("Bearer a b", ""),
        ("Bearer =", ""),
        ("abc", ""),
        ("Token abc", ""),
        ("Digest abc", ""),
        (basic("me:abc"), "abc"),
        (basic(":abc"), "abc"),
        (basic("me:a:b"), "a:b"),
        (basic("me:"), ""),
        (basic("abc"), ""),
        (basic(b"me:\xff"), ""),
        ("Basic !", ""),
        ("Basic a", ""),
        ("", ""),
    ],
    ids=ascii,
)
def test_the_token_in_authorization(value, token):
    assert TokenField().token(CIMultiDict({"authorization": value})) == token


@pytest.mark.parametrize(
    ("value", "token"),
    [
        ("abc", "abc"),
        ("Bearer abc", "abc"),
        (" abc ", "abc"),
        ("Bearer", "Bearer"),
        (basic("me:abc"), ""),
        ("a b", ""),
        ("", ""),
    ],
)
def test_the_token_in_a_header_of_its_own(value, token):
    headers = CIMultiDict({"x-relay-token": value, "Authorization": "Bearer theirs"})
    assert TokenField("X-Relay-Token").token(headers) == token


def test_there_may_be_no_token():
    assert TokenField().token(CIMultiDict({"X-Relay-Token": "abc"})) is None


def test_two_fields_are_no_token():
    assert TokenField().token(CIMultiDict([("Authorization", "Bearer a"), ("Authorization", "Bearer a")])) == ""


@pytest.mark.parametrize(
    ("headers", "error", "challenge"),
    [
        ({}, "", 'Bearer realm="aiorelay", Basic realm="aiorelay", charset="UTF-8"'),
        (
            {"Sec-Fetch-Dest": "document"},
            "invalid_token",
            'Bearer realm="aiorelay", error="invalid_token", Basic realm="aiorelay", charset="UTF-8"',
        ),
        ({"Sec-Fetch-Dest": "empty"}, "", 'Bearer realm="aiorelay"'),
    ],
    ids=["a program", "a page", "a script"],
)
def test_the_challenge_offers_basic_except_to_scripts_in_browsers(headers, error, challenge):
    assert TokenField().challenge(CIMultiDict(headers), error) == challenge
