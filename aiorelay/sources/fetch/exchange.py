"""Send one GET over its own connection, with timeouts. Exceptions of aiohttp become problems here."""

import asyncio
import ssl
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import aiohttp
from yarl import URL

from aiorelay import errors
from aiorelay.concurrency.timeouts import MinimumRate, Watchdog
from aiorelay.sources.address_rules import IPNetwork, Listener
from aiorelay.sources.fetch.dial import Dialler, Resolver

__all__ = ["BrokenOffError", "Exchange", "Exchanges", "FetchLimits"]

_READ_AHEAD = 2**18  # bytes; large reads make streams fast
# The same fields for every origin: nothing of a request can leak to the target of a redirect.
_HEADERS = {"Accept": "*/*", "Accept-Encoding": "identity", "User-Agent": "aiorelay"}

# aiohttp's own messages contain addresses. The first match counts, so subclasses stand before their bases.
_IN_PLAIN_WORDS: tuple[tuple[type[Exception], str], ...] = (
    (aiohttp.ClientConnectorDNSError, "The host of {who} has no address in DNS."),
    (aiohttp.ClientConnectorCertificateError, "The TLS certificate of {who} is not trusted, or not for that name."),
    (aiohttp.ClientConnectorSSLError, "The TLS handshake with {who} failed."),
    (aiohttp.ClientConnectorError, "{who} could not be reached."),
    (aiohttp.ClientConnectionError, "{who} closed the connection before it answered."),
)
_NOT_HTTP = "{who} gave no valid HTTP answer."


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Longest waits in seconds: for DNS, for one connection, and for a byte of the source (``idle``).

    ``idle`` bounds the response head as a whole, and each read of the body. ``min_rate`` is the least bytes a second
    (see ``MinimumRate``).
    """

    dns: float = 5.0
    connect: float = 5.0
    idle: float = 30.0
    min_rate: int = 0


class BrokenOffError(Exception):
    """The connection ended before the body did."""


class Exchange:
    """A request and its response. Connections are not pooled: the address of a reused one would not be checked."""

    def __init__(self, *, dialler: Dialler, resolver: Resolver, tls: ssl.SSLContext, limits: FetchLimits) -> None:
        self._dialler = dialler
        self._limits = limits
        self._minimum_rate = MinimumRate(limits.min_rate)
        self._watchdog = Watchdog(limits.idle)
        self._deadline = asyncio.timeout(None)
        trace = aiohttp.TraceConfig()
        trace.on_connection_create_end.append(self._connected)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=tls, resolver=resolver, use_dns_cache=False, force_close=True, socket_factory=dialler.socket
            ),
            headers=_HEADERS,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=_READ_AHEAD,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=limits.connect),
            trace_configs=[trace],
        )
        self._response: aiohttp.ClientResponse | None = None
        self._transport: asyncio.Transport | None = None

    async def get(self, url: URL, headers: Mapping[str, str], who: str) -> aiohttp.ClientResponse:
        """Request ``url`` and return the response, whatever its status, when its head has arrived.

        ``who`` names the source in the details of ``AddressRefused``, ``SourceFailed`` and ``SourceTimeout``.
        """
        self._deadline = asyncio.timeout(self._limits.dns + self._limits.connect)
        try:
            async with self._deadline:
                self._response = await self._session.get(url, headers=headers, allow_redirects=False)
        except TimeoutError:
            raise errors.SourceTimeout(f"{who} could not be reached or did not answer in time.") from None
        except (aiohttp.ClientError, OSError, ValueError) as failure:
            raise self._problem(failure, who) from failure
        if self._response.connection:
            self._transport = self._response.connection.transport
        return self._response

    async def read(self, who: str) -> bytes:
        """Return the bytes of the body that have arrived, at least one, or ``b""`` at its end.

        Raises ``BrokenOffError``, and ``SourceTimeout`` if nothing arrives in time.
        """
        if self._response is None:
            raise BrokenOffError
        started = time.monotonic()
        try:
            with self._watchdog.watching():
                block = await self._response.content.readany()
        except TimeoutError:
            raise errors.SourceTimeout(f"{who} stopped sending in the middle of the file.") from None
        except (aiohttp.ClientError, OSError) as failure:
            raise BrokenOffError from failure
        if not self._minimum_rate.is_met(time.monotonic() - started, len(block)):
            raise errors.SourceTimeout(f"{who} sends too slowly.")
        return block

    async def close(self) -> None:
        """Close the connection at once, without TLS's close_notify."""
        if self._transport is not None:
            self._transport.abort()
        await self._session.close()
        if self._response is not None:
            self._response.close()

    async def _connected(self, *_: object) -> None:
        self._deadline.reschedule(asyncio.get_running_loop().time() + self._limits.idle)

    def _problem(self, failure: Exception, who: str) -> errors.Problem:
        if isinstance(failure, aiohttp.ClientConnectorError) and self._dialler.refusal:
            return errors.AddressRefused(
                f"{who} is at an address that sources may not have: {self._dialler.refusal}. "
                "The operator can open networks with --allow-net."
            )
        words = next((words for kind, words in _IN_PLAIN_WORDS if isinstance(failure, kind)), _NOT_HTTP)
        return errors.SourceFailed(words.format(who=who))


class Exchanges:
    """Makes an ``Exchange`` for each request, all with the same rules.

    ``own`` is read at each dial, so listeners may be added later, when their ports are known. If ``tls`` is None,
    servers are verified with the system's CA certificates.
    """

    def __init__(
        self,
        *,
        allowed: Sequence[IPNetwork],
        own: Collection[Listener],
        resolver: Resolver,
        tls: ssl.SSLContext | None,
        limits: FetchLimits,
    ) -> None:
        self._allowed = allowed
        self._own = own
        self._resolver = resolver
        self._tls = tls
        self._limits = limits

    def new(self) -> Exchange:
        dialler = Dialler(self._allowed, self._own)
        if self._tls is None:  # not at the start: loading the system's certificates is slow
            self._tls = ssl.create_default_context()
        return Exchange(dialler=dialler, resolver=self._resolver, tls=self._tls, limits=self._limits)
