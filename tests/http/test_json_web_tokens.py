"""JWTs: each attack of RFC 8725, and what a valid token must say."""

import base64
import hashlib
import hmac
import json
import time

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_web_tokens import AUDIENCE, ISSUER, Key, claims, key_set

from aiorelay.errors import ScopeMissing, StateUnavailable
from aiorelay.http.json_web_keys import parse_key_set
from aiorelay.http.json_web_tokens import JwtRules, JwtVerifier

RSA, EC, ED = (Key.make(algorithm, algorithm) for algorithm in ("RS256", "ES256", "EdDSA"))
OTHER = Key.make("RS256", "RS256")
RULES = JwtRules(issuer=ISSUER, audience=AUDIENCE)
NOW = int(time.time())
KEYS = parse_key_set(key_set(RSA, EC, ED))


class Keys:
    """A source whose keys never change."""

    def __init__(self, keys=KEYS):
        self.keys = keys

    def refresh(self):
        """Do nothing."""

    async def prepare(self, _kid):
        """Do nothing."""


def who(token, rules=RULES, keys=KEYS):
    return JwtVerifier(Keys(keys), rules).who(token)


def encoded(part) -> str:
    raw = part if isinstance(part, bytes) else json.dumps(part).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unsigned(header) -> str:
    return f"{encoded(header)}.{encoded(claims())}."


def signed(payload) -> str:
    """Return a token with any payload: PyJWT signs no wrong one."""
    text = f"{encoded({'alg': 'EdDSA', 'kid': ED.kid})}.{encoded(payload)}"
    return f"{text}.{encoded(ED.private.sign(text.encode()))}"


def with_public_key_as_secret(key: Key, secret: bytes) -> str:
    signed = f"{encoded({'alg': 'HS256', 'typ': 'JWT', 'kid': key.kid})}.{encoded(claims())}"
    return f"{signed}.{encoded(hmac.digest(secret, signed.encode(), hashlib.sha256))}"


def tampered() -> str:
    head, _, signature = RSA.sign().split(".")
    return f"{head}.{encoded(claims(sub='root'))}.{signature}"


def signature_of_another() -> str:
    return f"{RSA.sign().rpartition('.')[0]}.{OTHER.sign().rpartition('.')[2]}"


VALID = {
    "RS256": RSA.sign,
    "ES256": EC.sign,
    "EdDSA": ED.sign,
    "signed by hand": lambda: signed(claims()),
    "without kid where one key fits": lambda: EC.sign({"kid": None}),
    "typ JWT": lambda: RSA.sign({"typ": "JWT"}),
    "typ application/at+jwt": lambda: RSA.sign({"typ": "application/AT+JWT"}),
    "without typ": lambda: RSA.sign({"typ": None}),
    "audience in a list": lambda: RSA.sign(aud=["other", AUDIENCE]),
    "expired 50 s ago": lambda: RSA.sign(exp=int(time.time()) - 50),
    "valid in 50 s": lambda: RSA.sign(nbf=int(time.time()) + 50),
    "issued in 50 s": lambda: RSA.sign(iat=int(time.time()) + 50),
    "without iat": lambda: RSA.sign(iat=None),
    "with a header of its own": lambda: RSA.sign({"x": "y"}),
}
INVALID = {
    "nothing": lambda: "",
    "two dots": lambda: "..",
    "not base64": lambda: "a!.b.c",
    "no JSON": lambda: f"{encoded(b'[')}.{encoded(claims())}.a",
    "header is a list": lambda: f"{encoded([])}.{encoded(claims())}.a",
    "deeply nested JSON": lambda: f"{encoded(b'[' * 5000)}.a.a",
    "five parts": lambda: "a.b.c.d.e",
    "alg none": lambda: unsigned({"alg": "none", "kid": RSA.kid}),
    "alg NONE": lambda: unsigned({"alg": "NONE", "kid": RSA.kid}),
    "alg missing": lambda: unsigned({"kid": RSA.kid}),
    "alg RS256 without signature": lambda: unsigned({"alg": "RS256", "kid": RSA.kid}),
    "alg HS256 with the public key in PEM": lambda: with_public_key_as_secret(RSA, RSA.pem),
    "alg HS256 with the modulus": lambda: with_public_key_as_secret(RSA, RSA.jwk["n"].encode()),
    "alg HS256 with an empty secret": lambda: with_public_key_as_secret(RSA, b""),
    "alg RS512 of the same key": lambda: jwt.encode(claims(), RSA.private, "RS512", {"kid": RSA.kid}),
    "alg PS256 of the same key": lambda: jwt.encode(claims(), RSA.private, "PS256", {"kid": RSA.kid}),
    "kid of a key of another type": lambda: RSA.sign({"kid": EC.kid}),
    "kid unknown": lambda: RSA.sign({"kid": "unknown"}),
    "kid is a path": lambda: RSA.sign({"kid": "../../dev/null"}),
    "kid empty": lambda: RSA.sign({"kid": ""}),
    "key of another": OTHER.sign,
    "key in the header": lambda: OTHER.sign({"kid": None, "jwk": OTHER.jwk}),
    "key by a URL in the header": lambda: OTHER.sign({"jku": "https://127.0.0.1:1/jwks"}),
    "changed claims": tampered,
    "another's signature": signature_of_another,
    "issuer wrong": lambda: RSA.sign(iss="https://evil.example.org"),
    "issuer with a slash": lambda: RSA.sign(iss=ISSUER + "/"),
    "issuer in a list": lambda: signed({**claims(), "iss": [ISSUER]}),
    "issuer missing": lambda: RSA.sign(iss=None),
    "audience wrong": lambda: RSA.sign(aud="https://other.example.org"),
    "audience begins alike": lambda: RSA.sign(aud=AUDIENCE + ".evil.example"),
    "audience missing": lambda: RSA.sign(aud=None),
    "audience empty": lambda: RSA.sign(aud=[]),
    "subject missing": lambda: RSA.sign(sub=None),
    "subject empty": lambda: RSA.sign(sub=""),
    "subject with a line break": lambda: RSA.sign(sub="alice\nroot"),
    "expired 70 s ago": lambda: RSA.sign(exp=int(time.time()) - 70),
    "without expiry": lambda: RSA.sign(exp=None),
    "expiry in words": lambda: RSA.sign(exp="tomorrow"),
    "expiry infinite": lambda: RSA.sign(exp=float("inf")),
    "valid in 70 s": lambda: RSA.sign(nbf=int(time.time()) + 70),
    "issued in 70 s": lambda: RSA.sign(iat=int(time.time()) + 70),
    "larger than 8 KiB": lambda: RSA.sign(x="y" * 8000),
    "claims are a list": lambda: signed([]),
    "claims are a text": lambda: signed("alice"),
    "nested, by cty": lambda: RSA.sign({"cty": "JWT"}),
    "nested, by its payload": lambda: jwt.api_jws.encode(
        RSA.sign().encode(), RSA.private, "RS256", headers={"kid": RSA.kid}
    ),
    "crit unknown": lambda: RSA.sign({"crit": ["x"], "x": 1}),
    "crit empty": lambda: RSA.sign({"crit": []}),
    "crit b64": lambda: RSA.sign({"crit": ["b64"], "b64": True}),
    "typ of a logout token": lambda: RSA.sign({"typ": "logout+jwt"}),
    "typ of a proof": lambda: RSA.sign({"typ": "dpop+jwt"}),
}


@pytest.mark.parametrize("make", VALID.values(), ids=VALID)
def test_a_valid_token_is_of_its_subject(make):
    assert who(make()) == "alice"


@pytest.mark.parametrize("make", INVALID.values(), ids=INVALID)
def test_any_other_token_is_of_nobody(make):
    assert who(make()) is None


def test_the_log_says_that_no_key_fits(caplog):
    caplog.set_level("INFO")
    assert who(RSA.sign({"kid": "unknown"})) is None
    assert caplog.messages == ["A JWT is not valid: no key of jwks has its kid and alg."]


def test_a_token_without_kid_is_of_nobody_if_two_keys_fit():
    keys = parse_key_set(key_set(RSA, Key.make("RS256", "b")))
    assert who(RSA.sign({"kid": None}), keys=keys) is None
    assert who(RSA.sign(), keys=keys) == "alice"


@pytest.mark.parametrize(
    "held",
    [{"scope": "upload"}, {"scope": "read upload"}, {"scp": ["read", "upload"]}, {"scp": "upload read"}],
    ids=str,
)
def test_a_token_with_the_scope_is_accepted(held):
    assert who(RSA.sign(**held), JwtRules(issuer=ISSUER, audience=AUDIENCE, scope="upload")) == "alice"


@pytest.mark.parametrize(
    "held",
    [{}, {"scope": ""}, {"scope": "uploads"}, {"scope": "read,upload"}, {"scope": 7}, {"scp": {"upload": 1}}],
    ids=str,
)
def test_a_token_without_the_scope_is_refused_with_its_name(held):
    with pytest.raises(ScopeMissing, match="upload") as refused:
        who(RSA.sign(**held), JwtRules(issuer=ISSUER, audience=AUDIENCE, scope="upload"))
    expected = 'Bearer realm="aiorelay", error="insufficient_scope", scope="upload"'
    assert refused.value.headers["WWW-Authenticate"] == expected


def test_an_invalid_token_is_not_told_about_scopes():
    assert who(OTHER.sign(), JwtRules(issuer=ISSUER, audience=AUDIENCE, scope="upload")) is None


def test_without_keys_a_jwt_has_to_wait_and_any_other_token_is_invalid():
    verifier = JwtVerifier(Keys(None), RULES)
    with pytest.raises(StateUnavailable):
        verifier.who(RSA.sign())
    assert verifier.who("s3cret") is None


@given(st.text(alphabet=st.characters(codec="ascii", categories=["L", "N", "P"]), max_size=60), st.integers(0, 3))
def test_no_text_makes_it_fail(text, dots):
    assert who(text + "." * dots) is None


@given(
    st.recursive(st.none() | st.booleans() | st.text(max_size=5), lambda each: st.lists(each, max_size=3), max_leaves=5)
)
def test_no_header_and_no_claim_makes_it_fail(value):
    for name in ("alg", "kid", "typ", "crit", "cty", "b64", "jwk"):
        assert who(unsigned({"alg": "RS256", "kid": RSA.kid, name: value})) is None
    for name in ("iss", "aud", "exp"):
        assert who(signed({**claims(), name: value})) is None
