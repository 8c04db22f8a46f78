"""Verify JWTs (RFC 7519) as RFC 8725 and RFC 9068 require. PyJWT is imported here only at use: it is an extra.

token ─▶ header: its algorithm and key ─▶ signature ─▶ issuer, audience, times, subject ─▶ scope ─▶ the subject
"""

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from aiohttp import hdrs

from aiorelay.errors import ScopeMissing, StartupError, StateUnavailable
from aiorelay.http.json_web_keys import ALGORITHMS, KeySet, KeySource
from aiorelay.observability.logs import log

__all__ = ["JwtRules", "JwtVerifier", "check_installed"]

LEEWAY: Final = 60
"""Seconds by which the clocks of the issuer and the relay may differ."""

_LONGEST: Final = 8192
# Of other kinds, a JWT of the same issuer must not pass for an access token (RFC 8725, section 3.11).
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/at+jwt"})
_REQUIRED: Final = ["iss", "aud", "sub", "exp"]


def check_installed() -> None:
    """Raise ``StartupError`` unless PyJWT is installed, with the algorithms of public keys."""
    try:
        import_module("jwt")
    except ImportError as error:
        raise StartupError("jwks: PyJWT is not installed. Run: pip install 'aiorelay[jwt]'.") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class JwtRules:
    """What a token must say: its ``issuer``, the ``audience`` that it is for, and a ``scope``, unless that is None."""

    issuer: str
    audience: str
    scope: str | None = None


class JwtVerifier:
    """Knows JWTs that are signed by one of the keys in ``source`` and follow ``rules``."""

    def __init__(self, source: KeySource, rules: JwtRules) -> None:
        self._source = source
        self._rules = rules

    def who(self, token: str) -> str | None:
        """Return the subject of ``token``, or None if the token is not valid.

        Raises ``ScopeMissing``, and ``StateUnavailable`` if no key could be fetched yet.
        """
        header = _header(token)
        if header is None:
            return None
        self._source.refresh()
        if self._source.keys is None:
            raise StateUnavailable("The keys that verify tokens cannot be fetched. Try again later.")
        claims = _claims(token, header, self._source.keys, self._rules)
        if claims is None:
            return None
        if self._rules.scope is not None and self._rules.scope not in _scopes(claims):
            challenge = f'Bearer realm="aiorelay", error="insufficient_scope", scope="{self._rules.scope}"'
            detail = f"The token lacks the scope {self._rules.scope}. Get a token that has it."
            raise ScopeMissing(detail, headers={hdrs.WWW_AUTHENTICATE: challenge})
        subject: str = claims["sub"]
        return subject

    def refresh(self) -> None:
        """Load what has changed on the disk."""
        self._source.refresh()

    async def prepare(self, token: str) -> None:
        """Wait for a moment if ``token`` names a key that the issuer may have added."""
        header = _header(token)
        if header is not None and isinstance(header.get("kid"), str):
            await self._source.prepare(header["kid"])


def _header(token: str) -> dict[str, Any] | None:
    """Return the header of a token that may be a JWT for this relay, without verifying anything."""
    if token.count(".") != 2 or len(token) > _LONGEST:
        return None
    import jwt  # noqa: PLC0415 - an extra

    try:
        header = jwt.get_unverified_header(token)
    except Exception:  # noqa: BLE001 - whatever hostile bytes make a parser raise, the token is not valid
        return None
    acceptable = (
        header.get("alg") in ALGORITHMS
        and "crit" not in header  # no extension is understood (RFC 7515, section 4.1.11)
        and "cty" not in header  # a nested token
        and str(header.get("typ", "JWT")).lower() in _TYPES
    )
    return header if acceptable else None


def _claims(token: str, header: dict[str, Any], keys: KeySet, rules: JwtRules) -> dict[str, Any] | None:
    """Return the claims of a token, or None if it is not valid."""
    import jwt  # noqa: PLC0415 - an extra

    # The algorithm is the key's: what the token names only selects among keys (RFC 8725, section 3.1).
    algorithm = header["alg"]
    key = keys.find(header.get("kid"), algorithm)
    if key is None:
        log.info("A JWT is not valid: no key of jwks has its kid and alg.")
        return None
    try:
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[key.algorithm_name],
            issuer=rules.issuer,
            audience=rules.audience,
            leeway=LEEWAY,
            options={"require": _REQUIRED},
        )
    except Exception as error:  # noqa: BLE001 - as in _header
        log.info("A JWT is not valid: %s.", type(error).__name__)
        return None
    return claims if claims["sub"] and claims["sub"].isprintable() else None


def _scopes(claims: dict[str, Any]) -> list[str]:
    """Return the scopes of a token: ``scope`` (RFC 9068), or ``scp``, as some providers name it."""
    found = claims.get("scope", claims.get("scp", ""))
    return found.split(" ") if isinstance(found, str) else found if isinstance(found, list) else []
