"""Read a remote file completely or fail: a body that breaks off is resumed."""

import asyncio
from collections.abc import AsyncIterator

import aiohttp

from aiorelay import errors
from aiorelay.sources.fetch.exchange import BrokenOffError, Exchange, Exchanges
from aiorelay.sources.fetch.ranges import StrongValidator, continuation, strong_validator

__all__ = ["RemoteBody", "declared_length"]

_BACKOFF = (0.2, 0.5, 1.0)  # seconds before each resumption; as many as there are, for the whole file


class RemoteBody(AsyncIterator[bytes]):
    """Yields the bytes after the head of a 200 response, in blocks of what has arrived.

    ``size`` is the length that the response declared, or None. The iteration ends only after every byte; otherwise it
    raises ``SourceFailed``, ``SourceTimeout``, or ``AddressRefused`` if the host has moved to an address that may not
    be dialled.
    """

    def __init__(self, exchanges: Exchanges, exchange: Exchange, response: aiohttp.ClientResponse, who: str) -> None:
        self.size = declared_length(response)
        self._exchanges = exchanges
        self._exchange = exchange
        self._url = response.url
        self._who = who
        self._validator: StrongValidator | None = strong_validator(response.headers)
        self._backoff = iter(_BACKOFF)
        self._total = self.size
        self._received = 0
        self._ends_at = self.size
        self._closed = False

    async def __anext__(self) -> bytes:
        while not self._closed:
            try:
                block = await self._exchange.read(self._who)
            except BrokenOffError:
                await self._resume()
                continue
            self._received += len(block)
            if self._ends_at is not None and self._received > self._ends_at:
                raise errors.SourceFailed(f"{self._who} sent more bytes than it had declared.")
            if block:
                return block
            # A chunked body ends with its last chunk, and one of known length only with its last byte.
            if self._total in (None, self._received):
                raise StopAsyncIteration
            await self._resume()
        raise errors.SourceFailed(f"The fetch from {self._who} was cancelled.")

    async def close(self) -> None:
        """Close the connection at once, without reading the rest."""
        self._closed = True
        await self._exchange.close()

    async def _resume(self) -> None:
        """Replace the broken exchange by one that continues at the next byte."""
        await self._exchange.close()
        if self._validator is None:
            raise errors.SourceFailed(
                f"{self._who} broke off and gave no strong validator, so the file cannot be resumed."
            )
        for delay in self._backoff:
            await asyncio.sleep(delay)
            if self._closed:
                return
            self._exchange = self._exchanges.new()
            if await self._continued(self._validator):
                return
            await self._exchange.close()
        raise errors.SourceFailed(f"{self._who} broke off and could not be resumed in {len(_BACKOFF)} attempts.")

    async def _continued(self, validator: StrongValidator) -> bool:
        """Request the rest of the file. False if another attempt makes sense; else raises ``SourceFailed``."""
        try:
            response = await self._exchange.get(self._url, validator.range_headers(self._received), self._who)
        except (errors.SourceFailed, errors.SourceTimeout):
            return False
        if response.status >= 500:
            return False
        if response.status != 206 or not validator.agrees(response.headers):
            raise errors.SourceFailed(f"{self._who} broke off, and the file has changed or cannot be resumed.")
        fit = continuation(response.headers.get("Content-Range", ""), self._received, self._total)
        if fit is None or declared_length(response) not in (None, fit[0]):
            raise errors.SourceFailed(f"{self._who} broke off and resumed at the wrong place.")
        self._ends_at, self._total = self._received + fit[0], fit[1]
        return True


def declared_length(response: aiohttp.ClientResponse) -> int | None:
    """Return the Content-Length of a response in bytes, or None if it is chunked.

    Raises ``SourceFailed`` if the body is coded, or if its end cannot be told from a broken connection.
    """
    host = response.url.raw_host
    if response.headers.get("Content-Encoding", "identity").strip().lower() not in ("identity", ""):
        raise errors.SourceFailed(f"{host} sent the file with a Content-Encoding although none was asked for.")
    lengths, codings = (response.headers.getall(name, []) for name in ("Content-Length", "Transfer-Encoding"))
    if not codings and len(lengths) == 1 and lengths[0].isascii() and lengths[0].isdigit():
        return int(lengths[0])
    if not lengths and [coding.lower() for coding in codings] == ["chunked"]:
        return None
    raise errors.SourceFailed(
        f"{host} sent a body with neither a Content-Length nor chunks, so its end cannot be verified."
    )
