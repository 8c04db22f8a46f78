"""Sign JWTs in tests, and publish the keys that verify them."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import jwt
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

ISSUER = "https://login.example.org"
AUDIENCE = "https://relay.example.org"

_MAKERS: dict[str, Callable[[], Any]] = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}


@dataclass(frozen=True)
class Key:
    """A private key for ``algorithm``, known as ``kid``."""

    algorithm: str
    kid: str
    private: Any = field(repr=False)

    @classmethod
    def make(cls, algorithm: str, kid: str = "a") -> "Key":
        return cls(algorithm, kid, _MAKERS[algorithm]())

    @property
    def jwk(self) -> dict[str, Any]:
        """The public key."""
        public = get_default_algorithms()[self.algorithm].to_jwk(self.private.public_key(), as_dict=True)
        return {**public, "kid": self.kid, "use": "sig", "alg": self.algorithm}

    @property
    def pem(self) -> bytes:
        """The public key in PEM."""
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        pem: bytes = self.private.public_key().public_bytes(serialization.Encoding.PEM, form)
        return pem

    def sign(self, headers: dict[str, Any] | None = None, **changed: Any) -> str:
        """Return a valid token, with claims and header parameters ``changed``. None leaves one out."""
        named = {"kid": self.kid, "typ": "at+jwt", **(headers or {})}
        named = {name: value for name, value in named.items() if value is not None}
        return jwt.encode(claims(**changed), self.private, algorithm=self.algorithm, headers=named)


def claims(**changed: Any) -> dict[str, Any]:
    now = int(time.time())
    valid = {"iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 300, **changed}
    return {name: value for name, value in valid.items() if value is not None}


def key_set(*keys: Key) -> bytes:
    return json.dumps({"keys": [key.jwk for key in keys]}).encode()


class Issuer:
    """A server of a key set, at ``url``. ``answer`` is what it answers, and ``asked`` counts the requests."""

    def __init__(self, *keys: Key) -> None:
        self.answer: Callable[[], Any] = lambda: web.Response(body=key_set(*keys), content_type="application/json")
        self.asked = 0

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/jwks", self._serve)
        self._server = TestServer(app, host="127.0.0.1")
        await self._server.start_server()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.close()

    @property
    def url(self) -> str:
        return str(self._server.make_url("/jwks"))

    def publish(self, *keys: Key) -> None:
        self.answer = lambda: web.Response(body=key_set(*keys), content_type="application/json")

    async def _serve(self, _request: web.Request) -> web.StreamResponse:
        self.asked += 1
        answer = self.answer()
        return answer if isinstance(answer, web.StreamResponse) else await answer
