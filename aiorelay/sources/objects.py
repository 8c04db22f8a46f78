"""Read an object of object storage completely or fail: a body that breaks off is resumed."""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Final
from urllib.parse import quote

from yarl import URL

from aiorelay import errors
from aiorelay.concurrency.timeouts import MinimumRate
from aiorelay.object_storage.client import Client, Download
from aiorelay.object_storage.requests import ObjectStorageError, Request
from aiorelay.observability.logs import log
from aiorelay.sources.fetch.exchange import FetchLimits
from aiorelay.sources.fetch.fetcher import Remote
from aiorelay.sources.fetch.naming import filename, media_type
from aiorelay.sources.fetch.ranges import continuation

__all__ = ["ObjectSources"]

_BACKOFF: Final = (0.2, 0.5, 1.0)  # seconds before each resumption; as many as there are, for the whole object
_LONGEST_KEY: Final = 1024  # bytes
# What S3 stores if it was told nothing.
_UNKNOWN_TYPES: Final = frozenset({"binary/octet-stream", "application/octet-stream"})
_HEADERS: Final = {"Accept-Encoding": "identity"}


class ObjectSources:
    """Opens objects in ``buckets``. ``client`` is None if there are no such buckets."""

    def __init__(self, client: Client | None, buckets: Collection[str], limits: FetchLimits) -> None:
        self._client = client
        self._buckets = frozenset(buckets)
        self._limits = limits

    def judge(self, source: str) -> None:
        """Check ``s3://BUCKET/KEY`` without using the network. Raises ``BadSource`` or ``HostRefused``."""
        self._place(source)

    @asynccontextmanager
    async def open(self, source: str) -> AsyncGenerator[Remote, None]:
        """Request ``s3://BUCKET/KEY``; leaving the context closes the connection.

        Raises ``BadSource``, ``HostRefused``, ``SourceMissing``, ``SourceFailed`` and ``SourceTimeout``.
        """
        client, bucket, key = self._place(source)
        body = _ObjectBody(client, bucket, key, self._limits)
        headers = await body.begin()
        try:
            name = filename(headers.get("Content-Disposition"), URL("s3:///" + quote(key, safe="/"), encoded=True))
            given = headers.get("Content-Type")
            kind = media_type(None if given in _UNKNOWN_TYPES else given, name)
            yield Remote(name, kind, body.size, body)
        finally:
            body.close()

    def _place(self, source: str) -> tuple[Client, str, str]:
        bucket, _, key = source[len("s3://") :].partition("/")
        if not key or len(key.encode("utf-8", "replace")) > _LONGEST_KEY or not {".", ".."}.isdisjoint(key.split("/")):
            raise errors.BadSource("An object source must be s3://BUCKET/KEY, with a key of at most 1024 bytes.")
        try:
            key.encode()
        except UnicodeEncodeError:
            raise errors.BadSource("The key of an object source must be valid Unicode.") from None
        if self._client is None or bucket not in self._buckets:
            raise errors.HostRefused("The bucket is not on this relay's list of source buckets (--s3-source).")
        return self._client, bucket, key


class _ObjectBody(AsyncIterator[bytes]):
    """Yields the bytes of one object. The iteration ends only after every byte of one version of it."""

    def __init__(self, client: Client, bucket: str, key: str, limits: FetchLimits) -> None:
        self.size = 0
        self._client = client
        self._bucket = bucket
        self._key = key
        self._limits = limits
        self._minimum_rate = MinimumRate(limits.min_rate)
        self._who = f"s3://{bucket}"
        self._etag = ""
        self._received = 0
        self._backoff = iter(_BACKOFF)
        self._download: Download | None = None

    async def begin(self) -> Mapping[str, str]:
        """Request the object, and return the headers of the answer."""
        download = await self._first()
        self._download = download
        self._etag = download.headers.get("ETag", "")
        length = download.headers.get("Content-Length", "")
        if download.headers.get("Content-Encoding", "identity") not in {"identity", ""}:
            raise errors.SourceFailed(f"{self._who} has this object with a Content-Encoding.")
        if not (length.isascii() and length.isdigit()):
            raise errors.SourceFailed(f"{self._who} sent an object without its length.")
        self.size = int(length)
        return download.headers

    async def __anext__(self) -> bytes:
        while self._download is not None:
            try:
                block = await self._read(self._download)
            except ObjectStorageError:
                await self._resume()
                continue
            self._received += len(block)
            if self._received > self.size:
                raise errors.SourceFailed(f"{self._who} sent more bytes than it had declared.")
            if block:
                return block
            if self._received == self.size:
                raise StopAsyncIteration
            await self._resume()
        raise errors.SourceFailed(f"The fetch from {self._who} was cancelled.")

    def close(self) -> None:
        """Close the connection, unless the body was read to its end."""
        download, self._download = self._download, None
        if download is not None:
            download.close()

    async def _first(self) -> Download:
        while True:
            try:
                return await self._get({})
            except ObjectStorageError as error:
                delay = next(self._backoff, None)
                if delay is None or not error.is_temporary or error.is_timeout:
                    raise self._problem(error) from error
            await asyncio.sleep(delay)

    async def _get(self, headers: Mapping[str, str]) -> Download:
        request = Request("GET", self._key, headers={**_HEADERS, **headers})
        return await self._client.open(self._bucket, request, self._limits.idle)

    async def _read(self, download: Download) -> bytes:
        started = time.monotonic()
        try:
            block = await download.read(self._limits.idle)
        except ObjectStorageError as error:
            if error.is_timeout:
                raise errors.SourceTimeout(f"{self._who} stopped sending in the middle of the object.") from error
            raise
        if not self._minimum_rate.is_met(time.monotonic() - started, len(block)):
            raise errors.SourceTimeout(f"{self._who} sends too slowly.")
        return block

    async def _resume(self) -> None:
        """Replace the broken download by one that continues at the next byte of the same version."""
        if self._download is not None:
            self._download.close()
        if not self._etag:
            raise errors.SourceFailed(f"{self._who} broke off and gave no ETag, so the object cannot be resumed.")
        for delay in self._backoff:
            await asyncio.sleep(delay)
            if self._download is None:
                return
            try:
                download = await self._get({"Range": f"bytes={self._received}-", "If-Match": self._etag})
            except ObjectStorageError as error:
                if error.is_temporary:
                    continue
                raise self._problem(error) from error
            self._download = download
            self._check_continuation(download)
            return
        raise errors.SourceFailed(f"{self._who} broke off and could not be resumed in {len(_BACKOFF)} attempts.")

    def _check_continuation(self, download: Download) -> None:
        fit = continuation(download.headers.get("Content-Range", ""), self._received, self.size)
        if download.status != 206 or download.headers.get("ETag") != self._etag or fit is None:
            raise errors.SourceFailed(f"{self._who} broke off, and the object has changed or cannot be resumed.")

    def _problem(self, error: ObjectStorageError) -> errors.Problem:
        log.warning("cannot read from %s: %s%s", self._who, error, f"; {error.hint}" if error.hint else "")
        if error.status == 404:
            return errors.SourceMissing("There is no object with this key.")
        if error.status == 412:
            return errors.SourceFailed(f"{self._who} broke off, and the object has changed.")
        if error.status == 403:
            return errors.SourceFailed(f"{self._who} denies the relay this object, or has none with this key.")
        if error.is_timeout:
            return errors.SourceTimeout(f"{self._who} did not answer in time.")
        return errors.SourceFailed(f"{self._who} failed or could not be reached.")
