"""The keys that verify JWTs: which are usable, from a file, from a URL."""

import asyncio
import contextlib
import json
import ssl

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import rsa
from json_web_tokens import Issuer, Key, key_set
from peers import eventually
from yarl import URL

from aiorelay.errors import StartupError
from aiorelay.http.json_web_keys import FileKeys, UrlKeys, parse_key_set

pytestmark = pytest.mark.slow

A, B = Key.make("ES256", "a"), Key.make("ES256", "b")
RSA = Key.make("RS256", "rsa")


def kids(document: bytes) -> list[str | None]:
    return [kid for kid, _, _ in parse_key_set(document).keys]


def alone(**changed) -> bytes:
    jwk = {name: value for name, value in {**A.jwk, **changed}.items() if value is not None}
    return json.dumps({"keys": [jwk, {**B.jwk, "kid": "other"}]}).encode()


@pytest.mark.parametrize(
    ("changed", "usable"),
    [
        ({}, True),
        ({"alg": None, "use": None}, True),
        ({"kid": None}, True),
        ({"key_ops": ["verify"]}, True),
        ({"d": "private"}, True),
        ({"use": "enc"}, False),
        ({"key_ops": ["sign"]}, False),
        ({"key_ops": 7}, False),
        ({"alg": "ES384"}, False),
        ({"alg": "HS256"}, False),
        ({"alg": ["ES256"]}, False),
        ({"crv": "P-384"}, False),
        ({"crv": ["P-256"]}, False),
        ({"kty": "oct", "crv": None, "k": "AAAA", "alg": None}, False),
        ({"kty": "RSA", "crv": None, "alg": None}, False),
        ({"kty": None}, False),
        ({"x": "AAAA"}, False),
        ({"x": 7}, False),
        ({"kid": 7}, False),
    ],
    ids=str,
)
def test_which_keys_are_usable(changed, usable):
    assert (len(kids(alone(**changed))) == 2) is usable


def test_a_short_rsa_key_is_not_usable():
    short = Key("RS256", "short", rsa.generate_private_key(65537, 1024))  # noqa: S505 - that is the point
    assert kids(key_set(short, RSA)) == ["rsa"]


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[]",
        b"{}",
        b"\xff",
        b'{"keys": {}}',
        b'{"keys": []}',
        b'{"keys": [7, null]}',
        b'{"keys": [{"kty": "oct", "k": "AAAA"}]}',
        b"[" * 100_000,
        key_set(*[A] * 101),
        key_set(A) + b" " * 300_000,
    ],
    ids=["empty", "list", "no keys", "binary", "object", "none", "no objects", "secret", "nested", "many", "large"],
)
def test_any_other_document_is_refused(document):
    with pytest.raises(ValueError, match=r"^it "):
        parse_key_set(document)


class TestFile:
    def test_it_is_read_again_when_it_changes(self, tmp_path):
        path = tmp_path / "jwks.json"
        path.write_bytes(key_set(A))
        source = FileKeys(path)
        path.write_bytes(key_set(RSA))
        source.refresh()
        assert "rsa" in source.keys
        assert "a" not in source.keys

    @pytest.mark.parametrize(
        "spoil", [lambda path: path.write_text("{}"), lambda path: path.unlink()], ids=["broken", "gone"]
    )
    def test_its_keys_stay_if_it_is_wrong_later(self, tmp_path, spoil):
        path = tmp_path / "jwks.json"
        path.write_bytes(key_set(A))
        source = FileKeys(path)
        spoil(path)
        source.refresh()
        assert "a" in source.keys

    @pytest.mark.parametrize("content", [None, b"", b"{}"], ids=["missing", "empty", "no keys"])
    def test_a_wrong_file_is_a_startup_error(self, tmp_path, content):
        path = tmp_path / "jwks.json"
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(StartupError, match=r"^jwks: .*jwks.json cannot be used: .*Name a file with a JWK Set\.$"):
            FileKeys(path)


@contextlib.asynccontextmanager
async def fetched(issuer: Issuer, **options):
    source = UrlKeys(URL(issuer.url), ssl.create_default_context(), **options)
    async with source.fetching():
        yield source


class TestUrl:
    async def test_the_keys_are_there_from_the_beginning(self):
        async with Issuer(A) as issuer, fetched(issuer) as source:
            assert "a" in source.keys

    async def test_a_new_key_is_fetched_when_a_token_names_it(self):
        async with Issuer(A) as issuer, fetched(issuer) as source:
            issuer.publish(A, B)
            await source.prepare("b")
            assert "b" in source.keys

    async def test_a_known_key_is_not_fetched_again(self):
        async with Issuer(A) as issuer, fetched(issuer, unknown_interval=0) as source:
            await source.prepare("a")
            assert issuer.asked == 1

    async def test_a_thousand_unknown_keys_are_one_fetch(self):
        async with Issuer(A) as issuer, fetched(issuer, unknown_interval=3600) as source:
            await asyncio.gather(*(source.prepare(f"unknown {number}") for number in range(1000)))
            await source.prepare("another")
            assert issuer.asked == 2

    async def test_a_caller_that_leaves_does_not_stop_the_fetch(self):
        async with Issuer(A) as issuer, fetched(issuer, unknown_interval=0) as source:
            issuer.publish(A, B)
            waiting = asyncio.create_task(source.prepare("b"))
            await asyncio.sleep(0)
            waiting.cancel()
            await eventually(lambda: "b" in source.keys)

    async def test_a_key_that_was_withdrawn_is_unknown_after_the_next_fetch(self):
        async with Issuer(A, B) as issuer, fetched(issuer, interval=0.01) as source:
            issuer.publish(A)
            await eventually(lambda: "b" not in source.keys)
            assert "a" in source.keys

    @pytest.mark.parametrize(
        "answer",
        [
            lambda: web.Response(status=500),
            lambda: web.Response(body=b"{}"),
            lambda: web.Response(body=b" " * 10_000_000),
            lambda: web.HTTPFound("http://127.0.0.1:1/"),
            lambda: asyncio.sleep(3600),
        ],
        ids=["error", "no keys", "huge", "redirect", "silence"],
    )
    async def test_the_keys_stay_through_an_outage_and_come_back(self, answer):
        async with Issuer(A) as issuer, fetched(issuer, unknown_interval=0, timeout=0.2) as source:
            issuer.answer = answer
            await source.prepare("b")
            assert "a" in source.keys
            issuer.publish(A, B)
            await source.prepare("b")
            assert "b" in source.keys

    async def test_it_starts_without_keys_and_gets_them_later(self):
        async with Issuer(A) as issuer:
            issuer.answer = lambda: web.Response(status=503)
            async with fetched(issuer, unknown_interval=0.01) as source:
                assert source.keys is None
                issuer.publish(A)
                await eventually(lambda: source.keys is not None)

    async def test_nothing_is_left_behind(self):
        async with Issuer(A) as issuer:
            issuer.answer = lambda: asyncio.sleep(3600)
            before = asyncio.all_tasks()
            async with fetched(issuer, unknown_interval=0, timeout=0.05) as source:
                waiting = asyncio.create_task(source.prepare("b"))
                await eventually(lambda: issuer.asked > 1)
            await asyncio.wait([waiting])
            assert source not in before
