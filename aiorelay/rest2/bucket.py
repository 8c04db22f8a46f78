"""Store files in object storage, completely or not at all.

    write()        a part is full ─▶ hashed in a thread ─▶ UploadPart, while the next part fills
    close()        the last part; a file that is smaller than a part stays in memory
    keep()         CompleteMultipartUpload for each file, PutObject for each small one
    without keep() AbortMultipartUpload, and DeleteObject for what was published in vain

An object appears when it is complete, and not before ``keep()``. A form of several files has no common moment: a kill
during ``keep()`` can leave some of its objects, each of them whole, without an answer.
"""

import asyncio
import hashlib
import secrets
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

from aiorelay.errors import Problem, StorageFailed, StorageFull, StorageUnavailable
from aiorelay.files.filenames import numbered, safe
from aiorelay.files.writer import StoredFile
from aiorelay.object_storage.client import Client, Patience
from aiorelay.object_storage.multipart_uploads import abort_upload, part_size
from aiorelay.object_storage.requests import Answer, ObjectStorageError, Request, completion, text_of
from aiorelay.observability.logs import log
from aiorelay.rest2.leftovers import Leftovers

__all__ = ["BucketStore", "Timeouts"]

_INLINE: Final = 512 * 1024  # bytes that are hashed faster than a thread is changed
_THREADS: Final = 4
_OCTET_STREAM: Final = "application/octet-stream"

# Seconds. Removal goes on in the background for as long as it takes the storage to come back.
_REMOVAL: Final = Patience(3600.0, 20.0)
_WAIT_FOR_REMOVAL: Final = 5.0
_WAIT_FOR_PART: Final = 5.0


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long the storage may fail: while a form arrives, and when it has arrived."""

    streaming: Patience
    final: Patience

    @classmethod
    def of(cls, *, idle: float, answer: float) -> "Timeouts":
        """Return timeouts that end before those of the relay do, so that the client learns what failed."""
        return cls(Patience.of(0.8 * min(idle, answer)), Patience.of(0.8 * answer))


class BucketStore:
    """The objects below ``prefix`` in ``bucket``, used as an asynchronous context manager.

    ``largest`` is the size of the largest file in bytes. ``leftovers`` are the uploads of processes that were killed.
    """

    def __init__(
        self, client: Client, bucket: str, prefix: str, leftovers: Leftovers, *, largest: int, timeouts: Timeouts
    ) -> None:
        self.client: Final = client
        self.bucket: Final = bucket
        self.timeouts: Final = timeouts
        self.pool: Final = ThreadPoolExecutor(_THREADS, thread_name_prefix="store")
        self._prefix = f"{prefix}/" if prefix else ""
        self._leftovers = leftovers
        self._largest = largest
        self._removals: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._removals:
            late = (await asyncio.wait(self._removals, timeout=_WAIT_FOR_REMOVAL))[1]
            for removal in late:
                removal.cancel()
            if late:
                await asyncio.wait(late)
                self._leftovers.remain()
        self.pool.shutdown()

    def receive(self, length: int | None, /) -> "_Incoming":
        """Return the context in which one form's files are received."""
        largest = self._largest if length is None else min(self._largest, length)
        key = f"{self._prefix}{self._leftovers.owner}{secrets.token_hex(10)}"
        return _Incoming(self, key, part_size(largest))

    async def removed(self, removal: Coroutine[Any, Any, None]) -> None:
        """Run ``removal`` in a task, and wait for it for a few seconds."""
        task = asyncio.create_task(removal)
        self._removals.add(task)
        task.add_done_callback(self._removals.discard)
        await asyncio.wait([task], timeout=_WAIT_FOR_REMOVAL)

    async def abort_uploads_below(self, prefix: str) -> None:
        """Abort all multipart uploads whose keys begin with ``prefix``."""
        await self._leftovers.abort_all(prefix, _REMOVAL)


class _Incoming:
    """The files of one form, whose keys begin with ``key`` and a slash.

    At most two parts are in memory: one that is sent, and one that fills, small files included.
    """

    def __init__(self, store: BucketStore, key: str, part_size: int) -> None:
        self._store = store
        self._key = key
        self._part_size = part_size
        self._files: list[_ObjectWriter] = []
        self._numbers: dict[str, int] = {}
        self._publishing: list[asyncio.Task[None]] = []
        self._kept = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._kept:
            await self._store.removed(self._remove())
        elif any(file.may_have_strays for file in self._files):
            await self._store.removed(self._store.abort_uploads_below(f"{self._key}/"))

    def file(self, filename: str, media_type: str | None, /) -> "_ObjectWriter":
        """Create a file. Nothing is sent before its first part is full."""
        name = self._unused(safe(filename))
        file = _ObjectWriter(self._store, f"{self._key}/{name}", name, media_type, self._part_size, self._free)
        self._files.append(file)
        return file

    async def keep(self) -> str:
        """Publish all files, and return the URL that their names are appended to."""
        if not all(file.complete for file in self._files):
            raise RuntimeError("a file of the form is not complete")
        self._publishing = [asyncio.create_task(file.publish()) for file in self._files]
        # Not cancelled with the request: what may still arrive at the storage could not be removed.
        await asyncio.shield(asyncio.gather(*self._publishing, return_exceptions=True))
        for each in self._publishing:
            each.result()
        self._kept = True
        return f"s3://{self._store.bucket}/{self._key}"

    def _unused(self, wanted: str) -> str:
        name, number = wanted, self._numbers.get(wanted, 1)
        while name in self._numbers:
            number += 1
            name = numbered(wanted, number)
        self._numbers[wanted] = number
        self._numbers.setdefault(name, 1)
        return name

    async def _free(self, needed: int) -> None:
        """Send small files that are held back, if there is no room in memory for ``needed`` bytes more."""
        held = [file for file in self._files if file.held]
        if held and sum(file.held for file in held) + needed > self._part_size:
            for file in held:
                await file.send_held()

    async def _remove(self) -> None:
        await asyncio.gather(*self._publishing, return_exceptions=True)
        for file in self._files:
            try:
                await file.remove()
            except ObjectStorageError as error:
                log.warning("cannot remove an incomplete upload from s3://%s (%s)", self._store.bucket, error)


class _ObjectWriter:
    """One object being written. ``held`` is the size of a small file that is in memory until it is published.

    ``free`` is called with the bytes that are about to be in memory. ``may_have_strays`` is true if the storage may
    have begun a second multipart upload, because the answer to the first request was lost.
    """

    def __init__(
        self, store: BucketStore, key: str, name: str, media_type: str | None, part_size: int, free: Any
    ) -> None:
        self.complete = False
        self.held = 0
        self.may_have_strays = False
        self._store = store
        self._key = key
        self._name = name
        self._headers = {"Content-Type": _header(media_type)}
        self._part_size = part_size
        self._free = free
        self._digest = hashlib.sha256()
        self._size = 0
        self._buffer = bytearray()
        self._upload_id = ""
        self._etags: list[str] = []
        self._sending: asyncio.Task[None] | None = None
        self._published = False

    async def write(self, block: bytes, /) -> None:
        """Append ``block``. Waits while a part is full and the one before it is not yet sent."""
        self._size += len(block)
        rest = memoryview(block)
        while rest:
            if len(self._buffer) == self._part_size:
                await self._hand_over(self._store.timeouts.streaming)
            room = self._part_size - len(self._buffer)
            await self._free(len(self._buffer) + min(room, len(rest)))
            self._buffer += rest[:room]
            rest = rest[room:]
        if self._sending is not None and self._sending.done():
            self._sending.result()  # a failure does not wait for the next part

    async def close(self) -> StoredFile:
        """Send the last part, unless the file is smaller than a part."""
        if self._sending is None:
            await self._hash(self._buffer)
            self.held = self._size
        else:
            await self._hand_over(self._store.timeouts.final)
            await self._settle()
        self.complete = True
        return StoredFile(self._name, self._size, self._digest.hexdigest())

    async def send_held(self) -> None:
        """Send a small file that was held back as the only part of a multipart upload."""
        self.held = 0
        part, self._buffer = self._buffer, bytearray()
        await self._send(part, self._digest.hexdigest(), self._store.timeouts.streaming)

    async def publish(self) -> None:
        """Make the object visible. Raises a ``Problem``."""
        self._published = True
        patience = self._store.timeouts.final
        query, headers = {}, {"If-None-Match": "*"}
        if self._upload_id:
            method, query, body, sha256 = "POST", {"uploadId": self._upload_id}, completion(self._etags), ""
            # One attempt may take long: some storages copy the parts.
            patience = Patience(patience.budget, patience.budget * 0.7)
        else:
            method, body, sha256 = "PUT", bytes(self._buffer), self._digest.hexdigest()
            headers |= self._headers
        try:
            await self._request(Request(method, self._key, query, headers, body, sha256), patience)
        except ObjectStorageError as error:
            # The answer to an attempt before this one may have been lost.
            if error.status in {404, 412} and await self._is_there():
                return
            raise _problem(self._store.bucket, error) from error

    async def remove(self) -> None:
        """Remove what is in the storage. Raises ``ObjectStorageError``."""
        if self._sending is not None:
            # A part that arrives after the abort would remain.
            await asyncio.wait([self._sending], timeout=_WAIT_FOR_PART)
            self._sending.cancel()
            await asyncio.gather(self._sending, return_exceptions=True)
        self._buffer = bytearray()
        if self._upload_id:
            await abort_upload(self._store.client, self._store.bucket, self._key, self._upload_id, _REMOVAL)
        if self.may_have_strays:
            await self._store.abort_uploads_below(self._key)
        if self._published:
            await self._request(Request("DELETE", self._key), _REMOVAL)

    async def _hand_over(self, patience: Patience) -> None:
        await self._settle()
        part, self._buffer = self._buffer, bytearray()
        self._sending = asyncio.create_task(self._send_next(part, patience))

    async def _settle(self) -> None:
        if self._sending is not None:
            await asyncio.shield(self._sending)

    async def _send_next(self, part: bytearray, patience: Patience) -> None:
        sha256 = await self._hash(part)
        await self._send(part, sha256, patience)

    async def _send(self, part: bytearray, sha256: str, patience: Patience) -> None:
        try:
            if not self._upload_id:
                await self._begin(patience)
            query = {"partNumber": str(len(self._etags) + 1), "uploadId": self._upload_id}
            answer = await self._request(Request("PUT", self._key, query, {}, part, sha256), patience)
        except ObjectStorageError as error:
            raise _problem(self._store.bucket, error) from error
        self._etags.append(answer.headers.get("ETag", ""))

    async def _begin(self, patience: Patience) -> None:
        self.may_have_strays = True
        answer = await self._request(Request("POST", self._key, {"uploads": ""}, self._headers), patience)
        self._upload_id = text_of(answer.body, "UploadId")
        if not self._upload_id:
            raise ObjectStorageError("no S3 answer", answer.status)
        self.may_have_strays = answer.attempts > 1

    async def _hash(self, part: bytearray) -> str:
        """Add ``part`` to the digest of the file, and return its own."""

        def both() -> str:
            self._digest.update(part)
            return hashlib.sha256(part).hexdigest()

        if len(part) < _INLINE:
            return both()
        return await asyncio.get_running_loop().run_in_executor(self._store.pool, both)

    async def _is_there(self) -> bool:
        """Whether the whole object is visible. Its key is random, so that nobody else can have made it."""
        try:
            answer = await self._request(Request("HEAD", self._key), self._store.timeouts.final)
        except ObjectStorageError:
            return False
        return answer.headers.get("Content-Length") == str(self._size)

    async def _request(self, request: Request, patience: Patience) -> Answer:
        return await self._store.client.send(self._store.bucket, request, patience)


def _header(media_type: str | None) -> str:
    """Return a media type as the value of a header field, which must be printable ASCII."""
    return media_type if media_type and media_type.isascii() and media_type.isprintable() else _OCTET_STREAM


def _problem(bucket: str, error: ObjectStorageError) -> Problem:
    log.warning("cannot store in s3://%s: %s%s", bucket, error, f"; {error.hint}" if error.hint else "")
    if error.is_full:
        return StorageFull("The object storage has no room for the file. Try again later.")
    if error.is_throttling:
        return StorageUnavailable("The object storage is not available. Try again later.")
    if error.is_temporary:
        return StorageFailed("The object storage failed or did not answer in time. Try again later.")
    return StorageFailed("The object storage refused the file; the server's log says why.")
