"""The public keys that verify JWTs: a JSON Web Key Set (RFC 7517), from a file or from a URL.

    FileKeys    read again when the file changes
    UrlKeys     fetched in the background, now and then, and when a token names an unknown key

    no keys yet ──fetched──▶ keys ──fetched──▶ newer keys
                              └─ the fetch fails: the keys stay

PyJWT is imported only when keys are parsed, because it is an extra (``[jwt]``).
"""

import asyncio
import json
import math
import ssl
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import aiohttp
from aiohttp import hdrs
from yarl import URL

from aiorelay.errors import StartupError
from aiorelay.observability.logs import log

if TYPE_CHECKING:
    from jwt import PyJWK

__all__ = ["ALGORITHMS", "FileKeys", "KeySet", "KeySource", "UrlKeys", "parse_key_set"]

ALGORITHMS: Final = ("ES256", "EdDSA", "RS256")
"""The algorithms of signatures that are accepted. Each is for one type of public key; none is for a shared secret."""

_ALGORITHM_OF: Final = {("RSA", None): "RS256", ("EC", "P-256"): "ES256", ("OKP", "Ed25519"): "EdDSA"}
_LEAST_RSA_BITS: Final = 2048  # RFC 7518, section 3.3
_MOST_BYTES: Final = 256 * 1024
_MOST_KEYS: Final = 100
_FETCH_TIMEOUT: Final = 10.0
_FETCH_INTERVAL: Final = 300.0
_UNKNOWN_KEY_INTERVAL: Final = 10.0


@dataclass(frozen=True, slots=True)
class KeySet:
    """Public keys, each with the only algorithm that it verifies. ``kid`` may be None, and need not be unique."""

    keys: tuple[tuple[str | None, str, "PyJWK"], ...] = ()

    def find(self, kid: str | None, algorithm: str) -> "PyJWK | None":
        """Return the key ``kid`` for ``algorithm``. A token without a ``kid`` gets the key if there is only one."""
        found = [key for known, fits, key in self.keys if fits == algorithm and kid in (None, known)]
        return found[0] if len(found) == 1 else None

    def __contains__(self, kid: object) -> bool:
        return any(kid == known for known, _, _ in self.keys)


def parse_key_set(document: bytes) -> KeySet:
    """Return the keys in a JWK Set that can verify one of ``ALGORITHMS``; the others are left out.

    Raises ``ValueError`` if there is none. The text says why, and contains nothing of the document.
    """
    if len(document) > _MOST_BYTES:
        raise ValueError(f"it is larger than {_MOST_BYTES} bytes")
    try:
        listed = json.loads(document)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ValueError("it is not a JSON object with the member keys") from None
    if not isinstance(listed, list) or len(listed) > _MOST_KEYS:
        raise ValueError(f"it is not a list of at most {_MOST_KEYS} keys")
    keys = tuple(key for each in listed if isinstance(each, dict) and (key := _parse_key(each)) is not None)
    if not keys:
        raise ValueError(f"it has no public key for {', '.join(ALGORITHMS)}")
    return KeySet(keys)


def _parse_key(jwk: dict[str, Any]) -> "tuple[str | None, str, PyJWK] | None":
    from jwt import PyJWK, PyJWTError  # noqa: PLC0415 - an extra

    kid, operations = jwk.get("kid"), jwk.get("key_ops", ["verify"])
    algorithm = _ALGORITHM_OF.get((str(jwk.get("kty")), jwk.get("crv") if isinstance(jwk.get("crv"), str) else None))
    usable = (
        algorithm is not None
        and jwk.get("alg", algorithm) == algorithm
        and jwk.get("use", "sig") == "sig"
        and isinstance(operations, list)
        and "verify" in operations
        and isinstance(kid, str | None)
    )
    if not usable or algorithm is None:
        return None
    public = {name: value for name, value in jwk.items() if name in {"kty", "crv", "n", "e", "x", "y"}}
    try:
        key = PyJWK(public, algorithm)
    except (PyJWTError, ValueError, TypeError, KeyError):
        return None
    if algorithm == "RS256" and key.key.key_size < _LEAST_RSA_BITS:
        return None
    return kid, algorithm, key


class KeySource(Protocol):
    """Where keys come from. ``keys`` are the newest, None if there have been none yet."""

    keys: KeySet | None

    def refresh(self) -> None:
        """Load what has changed on the disk."""

    async def prepare(self, kid: str) -> None:
        """Wait for the key ``kid`` for a moment, if it is unknown and may have been added."""


class FileKeys:
    """The keys in the file at ``path``, which is read again when it changes.

    The constructor raises ``StartupError``. If the file is wrong later, the keys stay as they were, and the log says
    so.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._seen = self._version()
            self.keys: KeySet | None = parse_key_set(path.read_bytes())
        except (OSError, ValueError) as error:
            raise StartupError(f"jwks: {path} cannot be used: {_why(error)}. Name a file with a JWK Set.") from None

    def refresh(self) -> None:
        try:
            version = self._version()
        except OSError:
            version = None
        if version == self._seen:
            return
        self._seen = version
        try:
            self.keys = parse_key_set(self._path.read_bytes())
            log.info("The keys for JWTs were read again.")
        except (OSError, ValueError) as error:
            log.error("The keys for JWTs stay as they were: %s cannot be used: %s.", self._path, _why(error))

    async def prepare(self, kid: str) -> None:
        """Do nothing: a file is read again as soon as it changes."""

    def _version(self) -> tuple[int, int, int] | None:
        status = self._path.stat()
        return status.st_ino, status.st_size, status.st_mtime_ns


class UrlKeys:
    """The keys at ``url``, fetched every ``interval`` seconds within the context ``fetching``.

    An unknown key has them fetched sooner, but at most once in ``unknown_interval`` seconds, however many tokens name
    unknown keys. All of their requests wait for the same fetch. Redirects are not followed.
    """

    def __init__(
        self,
        url: URL,
        context: ssl.SSLContext,
        *,
        interval: float = _FETCH_INTERVAL,
        unknown_interval: float = _UNKNOWN_KEY_INTERVAL,
        timeout: float = _FETCH_TIMEOUT,
    ) -> None:
        self.keys: KeySet | None = None
        self._url = url
        self._context = context
        self._interval = interval
        self._unknown_interval = unknown_interval
        self._timeout = aiohttp.ClientTimeout(total=timeout)
        self._asked = -math.inf  # when an unknown key last began a fetch
        self._fetch: asyncio.Task[None] | None = None
        self._failing = False

    def refresh(self) -> None:
        """Do nothing: the keys are fetched in the background."""

    async def prepare(self, kid: str) -> None:
        if self.keys is not None and kid in self.keys:
            return
        if self._fetch is None:
            now = time.monotonic()
            if now - self._asked < self._unknown_interval:
                return
            self._asked = now
        await asyncio.shield(self._begin())

    @asynccontextmanager
    async def fetching(self) -> AsyncGenerator[None, None]:
        """Fetch the keys now and in the background. A source that cannot be reached is tried again later."""
        connector = aiohttp.TCPConnector(ssl=self._context, limit=1)
        async with aiohttp.ClientSession(
            connector=connector, cookie_jar=aiohttp.DummyCookieJar(), trust_env=False
        ) as self._session:
            await self._begin()
            regularly = asyncio.create_task(self._fetch_regularly())
            try:
                yield
            finally:
                for task in (regularly, self._fetch):
                    if task is not None:
                        task.cancel()
                        await asyncio.wait([task])

    async def _fetch_regularly(self) -> None:
        while True:
            await asyncio.sleep(self._interval if self.keys else min(self._interval, self._unknown_interval))
            await asyncio.shield(self._begin())

    def _begin(self) -> asyncio.Task[None]:
        """Begin to fetch the keys, unless they are being fetched."""
        if self._fetch is None:
            self._fetch = asyncio.create_task(self._fetch_once())
        return self._fetch

    async def _fetch_once(self) -> None:
        try:
            self.keys = parse_key_set(await self._read())
            if self._failing:
                log.info("The keys for JWTs were fetched again.")
            self._failing = False
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            if not self._failing:
                stay = "there are none yet" if self.keys is None else "the old ones stay"
                log.error("The keys for JWTs cannot be fetched, %s: %s.", stay, _why(error))
            self._failing = True
        finally:
            self._fetch = None

    async def _read(self) -> bytes:
        headers = {hdrs.ACCEPT: "application/jwk-set+json, application/json"}
        async with self._session.get(
            self._url, headers=headers, timeout=self._timeout, allow_redirects=False
        ) as answer:
            if answer.status != 200:
                raise ValueError(f"the status is {answer.status}")
            document = bytearray()
            async for block in answer.content.iter_any():
                document += block
                if len(document) > _MOST_BYTES:
                    break
            return bytes(document)


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) if type(error) is ValueError else type(error).__name__
