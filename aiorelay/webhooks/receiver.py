"""Send one event to the receiver, and tell what became of it.

Only addresses that may be dialled are (see ``sources.address_rules``). Redirects are not followed, the proxies of the
environment are not used, and of an answer at most 64 KiB are read.
"""

import asyncio
import socket
import ssl
import time
from collections.abc import AsyncGenerator, Collection, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import aiohttp
from aiohttp import hdrs
from yarl import URL

from aiorelay.sources.address_rules import IPNetwork, Listener, refusal
from aiorelay.sources.fetch.dial import Lookup, Resolver, is_local, system_lookup
from aiorelay.webhooks.schedule import retry_after
from aiorelay.webhooks.signatures import Secrets

__all__ = ["AT_ONCE", "Attempt", "Outcome", "Receiver"]

AT_ONCE: Final = 8
"""The most deliveries at once."""

Outcome: TypeAlias = Literal["accepted", "rejected", "timeout", "unreachable", "address-refused"]

_DNS_TIMEOUT: Final = 5.0
_CONNECT_TIMEOUT: Final = 5.0
_ANSWER_TIMEOUT: Final = 15.0
# What is read of an answer, and for how long, so that its connection can be used again.
_MOST_OF_BODY: Final = 64 * 1024
_BODY_TIMEOUT: Final = 2.0
# A gateway without a server behind it, and a receiver that asks for a pause (RFC 9110, section 15.6; RFC 6585).
_AWAY: Final = frozenset({429, 502, 503, 504})
_ASKS_FOR_A_PAUSE: Final = frozenset({429, 503})
_GONE: Final = 410
_PAUSE_IF_GONE: Final = 3600.0
# aiohttp's own messages contain addresses. The first match counts, so subclasses stand before their bases.
_IN_PLAIN_WORDS: Final[tuple[tuple[type[Exception], str], ...]] = (
    (aiohttp.ClientConnectorDNSError, "its host has no address in DNS"),
    (aiohttp.ClientConnectorCertificateError, "its TLS certificate is not trusted, or not for that name"),
    (aiohttp.ClientConnectorSSLError, "the TLS handshake failed"),
    (aiohttp.ClientConnectorError, "it could not be reached"),
    (aiohttp.ClientConnectionError, "it closed the connection before it answered"),
)


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of a delivery, and ``why`` in words.

    ``away`` says that other events would fare no better. ``pause`` are the seconds that the receiver asks for. ``gone``
    says that it wants no more events.
    """

    outcome: Outcome
    why: str = ""
    away: bool = False
    pause: float | None = None
    gone: bool = False


class Receiver:
    """Sends events to ``url``, signed with ``secrets``.

    Addresses in ``allowed`` may be dialled although they are not public; ``own`` are the relay's listeners, which may
    not unless they are in ``allowed``. ``tls`` verifies the receiver; None means the system's CA certificates.
    ``lookup`` resolves names. ``timeout`` is that of an answer, in seconds.
    """

    def __init__(
        self,
        url: URL,
        secrets: Secrets,
        *,
        allowed: Sequence[IPNetwork] = (),
        own: Collection[Listener] = (),
        tls: ssl.SSLContext | None = None,
        lookup: Lookup = system_lookup,
        timeout: float = _ANSWER_TIMEOUT,
    ) -> None:
        self.host = str(url.raw_host)
        self._url = url
        self._secrets = secrets
        self._allowed = allowed
        self._own = own
        self._tls = tls
        self._lookup = lookup
        self._timeout = timeout
        self._refusal: str | None = None

    @asynccontextmanager
    async def connecting(self) -> AsyncGenerator[None, None]:
        """Keep connections for ``post`` during the context."""
        resolver = Resolver(self._lookup, _DNS_TIMEOUT)
        connector = aiohttp.TCPConnector(
            ssl=self._context(),
            resolver=resolver,
            use_dns_cache=False,
            limit=AT_ONCE,
            socket_factory=self._socket,
        )
        try:
            async with aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                trust_env=False,
                auto_decompress=False,
                read_bufsize=_MOST_OF_BODY,
                timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT),
            ) as self._session:
                yield
        finally:
            resolver.stop()

    def _context(self) -> ssl.SSLContext | bool:
        if self._url.scheme != "https":
            return True
        return self._tls or ssl.create_default_context()

    async def post(self, identity: str, body: bytes) -> Attempt:
        """Send an event once; twice if a connection that was kept turns out to be closed."""
        try:
            async with asyncio.timeout(self._timeout):
                try:
                    response = await self._request(identity, body)
                except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as broken:
                    if isinstance(broken, aiohttp.ClientConnectorError):
                        raise
                    response = await self._request(identity, body)
        except TimeoutError:
            return Attempt("timeout", f"it did not answer in {self._timeout:g} s", away=True)
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            return self._failed(failure)
        try:
            return _judged(response)
        finally:
            await _finish(response)

    async def _request(self, identity: str, body: bytes) -> aiohttp.ClientResponse:
        now = int(time.time())
        headers = {
            hdrs.CONTENT_TYPE: "application/json",
            hdrs.ACCEPT: "*/*",
            hdrs.ACCEPT_ENCODING: "identity",
            hdrs.USER_AGENT: "aiorelay",
            "webhook-id": identity,
            "webhook-timestamp": str(now),
            "webhook-signature": self._secrets.signature(identity, now, body),
        }
        return await self._session.post(self._url, data=body, headers=headers, allow_redirects=False)

    def _socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """Return a socket for one address if that may be dialled (a ``socket_factory`` of aiohttp)."""
        family, kind, protocol, _, address = info
        refused = refusal(str(address[0]), int(address[1]), allowed=self._allowed, own=self._own, local=is_local)
        self._refusal = refused
        if refused:
            raise OSError(refused)
        return socket.socket(family, kind, protocol)

    def _failed(self, failure: Exception) -> Attempt:
        if isinstance(failure, aiohttp.ClientConnectorError) and self._refusal:
            why = (
                f"it is at an address that webhooks may not have: {self._refusal}. "
                "--webhook-allow-net permits a network"
            )
            return Attempt("address-refused", why, away=True)
        words = (words for kind, words in _IN_PLAIN_WORDS if isinstance(failure, kind))
        return Attempt("unreachable", next(words, "it gave no valid HTTP answer"), away=True)


def _judged(response: aiohttp.ClientResponse) -> Attempt:
    status = response.status
    if 200 <= status < 300:
        return Attempt("accepted")
    why = f"it answered {status}"
    if status == _GONE:
        return Attempt("rejected", why, away=True, pause=_PAUSE_IF_GONE, gone=True)
    pause = retry_after(response.headers.get(hdrs.RETRY_AFTER), time.time()) if status in _ASKS_FOR_A_PAUSE else None
    return Attempt("rejected", why, away=status in _AWAY, pause=pause)


async def _finish(response: aiohttp.ClientResponse) -> None:
    """Read a short answer to its end, so that its connection can be used again. Close that of any other."""
    size = 0
    with suppress(aiohttp.ClientError, OSError, TimeoutError):
        async with asyncio.timeout(_BODY_TIMEOUT):
            async for block in response.content.iter_any():
                size += len(block)
                if size > _MOST_OF_BODY:
                    break
            else:
                response.release()
                return
    response.close()
