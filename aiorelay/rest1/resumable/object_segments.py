"""Keep the segments of unfinished uploads in object storage, for the relays of several machines.

A segment is an object of its own, <prefix>/<upload>/<segment>, written by one PUT. So a segment may be as small as what
a request brought, there is no multipart upload whose parts have a least size, and a kill leaves no half of anything.
"""

import asyncio
import contextlib
import datetime as dt
import hashlib
import re
from collections.abc import AsyncGenerator, Collection
from typing import Final

from aiorelay.errors import Gone, Internal, Problem, StartupError, StateUnavailable, StorageFull
from aiorelay.object_storage.client import Client, Patience
from aiorelay.object_storage.requests import Answer, ObjectStorageError, Request, listed_objects, text_of
from aiorelay.observability.logs import log

__all__ = ["ObjectSegments"]

# Clients wait meanwhile.
_PATIENCE: Final = Patience(4.0, 2.0)
_PAUSES: Final = (0.1, 0.3, 1.0)  # seconds before a read is resumed
_AT_ONCE: Final = 16
_PERMISSIONS: Final = ("s3:PutObject", "s3:GetObject", "s3:DeleteObject", "s3:ListBucket")
_NAME: Final = re.compile(r"[A-Za-z0-9_-]+/[A-Za-z0-9_-]+")


class ObjectSegments:
    """The segments below ``prefix`` in ``bucket``.

    Methods raise ``StorageFull``, ``StateUnavailable`` if another attempt may succeed, and ``Internal``.
    """

    largest: Final = 4 * 2**20
    """The most bytes of a segment."""

    def __init__(self, client: Client, bucket: str, prefix: str) -> None:
        self._client = client
        self._bucket = bucket
        self._prefix = f"{prefix}/" if prefix else ""

    async def check(self) -> None:
        """Raise ``StartupError`` if the bucket cannot be used. One that does not answer may come back."""
        page = {"list-type": "2", "prefix": self._prefix, "max-keys": "1"}
        try:
            await self._client.send(self._bucket, Request("GET", query=page), _PATIENCE)
        except ObjectStorageError as error:
            if not error.is_temporary:
                raise StartupError(error.refusal("spool", self._bucket, *_PERMISSIONS)) from error
            log.warning("s3://%s does not answer (%s); resumable uploads fail until it does", self._bucket, error)

    async def put(self, name: str, content: bytes) -> None:
        """Keep a segment. When this returns, every relay can read it."""
        sha256 = await asyncio.to_thread(lambda: hashlib.sha256(content).hexdigest())
        await self._send(Request("PUT", self._prefix + name, body=content, sha256=sha256))

    async def read(self, name: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes from ``start`` to ``end``. Raises ``Gone`` if there is no such segment."""
        pauses = iter(_PAUSES)
        while start < end:
            failure = ObjectStorageError("the answer is too short", temporary=True)
            try:
                async with contextlib.aclosing(self._range(name, start, end)) as blocks:
                    async for block in blocks:
                        start += len(block)
                        yield block
            except ObjectStorageError as error:
                failure = error
            if start < end:
                pause = next(pauses, None)
                if pause is None or not failure.is_temporary:
                    raise self._problem(failure) from failure
                await asyncio.sleep(pause)

    async def remove(self, names: Collection[str]) -> None:
        """Remove those of the segments that are there."""
        waiting = list(names)
        while waiting:
            some, waiting = waiting[:_AT_ONCE], waiting[_AT_ONCE:]
            await asyncio.gather(*(self._send(Request("DELETE", self._prefix + name)) for name in some))

    async def older_than(self, seconds: float) -> AsyncGenerator[str, None]:
        """Yield the names of the segments that were put at least so long ago."""
        before = dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds)
        page = {"list-type": "2", "prefix": self._prefix}
        while True:
            answer = await self._send(Request("GET", query=page))
            for key, modified in listed_objects(answer.body):
                name = key.removeprefix(self._prefix)
                if modified <= before and _NAME.fullmatch(name):
                    yield name
            token = text_of(answer.body, "NextContinuationToken")
            if text_of(answer.body, "IsTruncated") != "true" or token == page.get("continuation-token"):
                return
            page["continuation-token"] = token

    async def _range(self, name: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        """Yield the bytes that one answer brings. Raises ``ObjectStorageError``."""
        request = Request("GET", self._prefix + name, headers={"Range": f"bytes={start}-{end - 1}"})
        download = await self._client.open(self._bucket, request, _PATIENCE.stall)
        try:
            if download.status != 206:
                raise ObjectStorageError("ranges are not supported", download.status, temporary=False)
            while block := await download.read(_PATIENCE.budget):
                yield block
        finally:
            download.close()

    async def _send(self, request: Request) -> Answer:
        try:
            return await self._client.send(self._bucket, request, _PATIENCE)
        except ObjectStorageError as error:
            raise self._problem(error) from error

    def _problem(self, error: ObjectStorageError) -> Problem:
        log.warning(
            "cannot use the spool in s3://%s: %s%s", self._bucket, error, f"; {error.hint}" if error.hint else ""
        )
        if error.status == 404 and error.code != "NoSuchBucket":
            return Gone("The bytes of the upload were removed; begin a new upload.")
        if error.is_full:
            return StorageFull("The object storage has no room for the upload. Try again later.")
        if error.is_temporary:
            return StateUnavailable("The object storage does not answer. Try again later.")
        return Internal("The object storage refused the upload; the server's log says why.")
