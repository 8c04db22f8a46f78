"""Open a client's URL as a ``Remote``. Redirects are followed here, each checked as the first URL was."""

import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp
from yarl import URL

from aiorelay import errors
from aiorelay.sources.address_rules import HostRules, IPNetwork, Listener
from aiorelay.sources.fetch.body import RemoteBody
from aiorelay.sources.fetch.dial import Lookup, Resolver, system_lookup
from aiorelay.sources.fetch.exchange import Exchanges, FetchLimits
from aiorelay.sources.fetch.location import check_url, parse_url, redirect_target
from aiorelay.sources.fetch.naming import filename, media_type

__all__ = ["Fetcher", "Remote"]

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MOST_REDIRECTS = 5


@dataclass(frozen=True, slots=True)
class Remote:
    """A remote file whose response head has been read.

    ``filename`` is one path component, ``media_type`` includes the server's parameters, ``size`` is in bytes; each is
    None if unknown. ``chunks`` can be read once; it ends only after the last byte, and raises otherwise.
    """

    filename: str | None
    media_type: str | None
    size: int | None
    chunks: AsyncIterator[bytes]


class Fetcher:
    """Opens remote files.

    ``allowed`` networks may be dialled although they are not public. ``own`` are the relay's listeners, read at each
    dial. ``hosts``, if any, are the only hosts that may be asked (``example.org``, ``*.example.org``). ``tls`` verifies
    servers; None means the system's CA certificates. ``lookup`` resolves names. Call ``close`` at the end.
    """

    def __init__(
        self,
        *,
        allowed: Sequence[IPNetwork] = (),
        own: Collection[Listener] = (),
        hosts: Iterable[str] = (),
        tls: ssl.SSLContext | None = None,
        limits: FetchLimits | None = None,
        lookup: Lookup = system_lookup,
    ) -> None:
        limits = limits or FetchLimits()
        self._rules = HostRules(hosts)
        self._resolver = Resolver(lookup, limits.dns)
        self._exchanges = Exchanges(
            allowed=allowed,
            own=own,
            resolver=self._resolver,
            tls=tls,
            limits=limits,
        )

    def close(self) -> None:
        """Release the DNS threads. Nothing can be opened afterwards."""
        self._resolver.stop()

    def judge(self, source: str) -> None:
        """Check the URL ``source`` without using the network.

        Raises ``BadSource``, ``HostRefused`` or ``AddressRefused``. ``open`` checks again, and addresses too.
        """
        check_url(parse_url(source), self._rules)

    @asynccontextmanager
    async def open(self, source: str) -> AsyncGenerator[Remote, None]:
        """Request the URL ``source``; leaving the context closes the connection at once.

        Raises ``BadSource``, ``HostRefused``, ``AddressRefused``, ``SourceFailed`` and ``SourceTimeout``. The file is
        named after ``source``, not after the target of a redirect.
        """
        first = check_url(parse_url(source), self._rules)
        body, headers = await self._follow(first)
        try:
            name = filename(headers.get("Content-Disposition"), first)
            yield Remote(name, media_type(headers.get("Content-Type"), name), body.size, body)
        finally:
            await body.close()

    async def _follow(self, url: URL) -> tuple[RemoteBody, Mapping[str, str]]:
        """Return the body and the headers of the 200 response that ``url`` leads to."""
        who = first = str(url.raw_host)
        for _ in range(_MOST_REDIRECTS + 1):
            exchange = self._exchanges.new()
            try:
                response = await exchange.get(url, {}, who)
                if response.status == 200:
                    return RemoteBody(self._exchanges, exchange, response, who), response.headers
                url = self._next(url, response, who)
            except BaseException:
                await exchange.close()
                raise
            await exchange.close()
            who = f"{first} (after a redirect)"
        raise errors.SourceFailed(f"{first} redirects more than {_MOST_REDIRECTS} times.")

    def _next(self, url: URL, response: aiohttp.ClientResponse, who: str) -> URL:
        if response.status not in _REDIRECTS:
            raise errors.SourceFailed(f"{who} answered {response.status}, not 200.")
        location = response.headers.get("Location")
        if not location:
            raise errors.SourceFailed(f"{who} answered {response.status} without a Location.")
        return redirect_target(url, location, self._rules)
