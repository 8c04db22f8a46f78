"""Multipart uploads: the size of parts, those that are neither completed nor aborted, and the upload of a file."""

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import BinaryIO, Final

from aiorelay.concurrency.threads import wait_until_done
from aiorelay.object_storage.client import Client, Patience
from aiorelay.object_storage.requests import (
    ObjectStorageError,
    Request,
    Unfinished,
    completion,
    text_of,
    unfinished_uploads,
)

__all__ = ["abort_all", "abort_upload", "part_size", "put_file", "unfinished"]

_LEAST_PART: Final = 8 * 2**20
_MOST_PARTS: Final = 10_000
_MIB: Final = 2**20
_ABORT: Final = Patience(5.0, 5.0)
_OCTET_STREAM: Final = {"Content-Type": "application/octet-stream"}


def part_size(largest: int) -> int:
    """Return the size of the parts of a file of at most ``largest`` bytes, in bytes.

    All parts but the last have the same size, as some storages require.
    """
    needed = -(-largest // _MOST_PARTS)
    return max(_LEAST_PART, -(-needed // _MIB) * _MIB)


async def unfinished(client: Client, bucket: str, prefix: str, patience: Patience) -> AsyncGenerator[Unfinished, None]:
    """Yield the unfinished uploads whose keys begin with ``prefix``. Raises ``ObjectStorageError``."""
    page = {"uploads": "", "prefix": prefix}
    while True:
        answer = await client.send(bucket, Request("GET", query=page), patience)
        for upload in unfinished_uploads(answer.body):
            if upload.key.startswith(prefix):  # some storages ignore the prefix
                yield upload
        before, page = (
            page,
            {
                **page,
                "key-marker": text_of(answer.body, "NextKeyMarker"),
                "upload-id-marker": text_of(answer.body, "NextUploadIdMarker"),
            },
        )
        if text_of(answer.body, "IsTruncated") != "true" or page == before:
            return


async def abort_upload(client: Client, bucket: str, key: str, upload_id: str, patience: Patience) -> None:
    """Abort a multipart upload. One that is over already is no error. Raises ``ObjectStorageError``."""
    try:
        await client.send(bucket, Request("DELETE", key, {"uploadId": upload_id}), patience)
    except ObjectStorageError as error:
        if error.status != 404:
            raise


async def abort_all(client: Client, bucket: str, prefix: str, patience: Patience) -> None:
    """Abort all uploads whose keys begin with ``prefix``. Raises ``ObjectStorageError``."""
    async for upload in unfinished(client, bucket, prefix, patience):
        await abort_upload(client, bucket, upload.key, upload.upload_id, patience)


async def put_file(client: Client, bucket: str, key: str, file: BinaryIO, patience: Patience) -> None:
    """Store ``file`` as the object ``key``: a small one by one PUT, a larger one by a multipart upload.

    One part is in memory at a time. ``patience`` is that of each request. If the upload fails or is cancelled, it is
    aborted. Nobody else may write to ``key``: its other unfinished uploads are aborted as well. Raises
    ``ObjectStorageError``.
    """
    size = os.fstat(file.fileno()).st_size
    length = part_size(size)
    if size > length:
        await _put_parts(client, bucket, key, file, length, patience)
    else:
        part, sha256 = await _part(file, length)
        await client.send(bucket, Request("PUT", key, {}, _OCTET_STREAM, part, sha256), patience)


async def _put_parts(client: Client, bucket: str, key: str, file: BinaryIO, length: int, patience: Patience) -> None:
    await abort_all(client, bucket, key, patience)  # what a killed process has begun
    try:
        answer = await client.send(bucket, Request("POST", key, {"uploads": ""}, _OCTET_STREAM), patience)
        upload_id = text_of(answer.body, "UploadId")
        if not upload_id:
            raise ObjectStorageError("no S3 answer", answer.status)
        etags: list[str] = []
        while (each := await _part(file, length))[0]:
            query = {"partNumber": str(len(etags) + 1), "uploadId": upload_id}
            answer = await client.send(bucket, Request("PUT", key, query, {}, *each), patience)
            etags.append(answer.headers.get("ETag", ""))
        await client.send(bucket, Request("POST", key, {"uploadId": upload_id}, {}, completion(etags)), patience)
    finally:
        # After a success as well: there is a second upload if the answer to the first request was lost.
        with suppress(ObjectStorageError):
            await abort_all(client, bucket, key, _ABORT)


async def _part(file: BinaryIO, length: int) -> tuple[bytes, str]:
    """Read the next part in a thread. Return it and its SHA-256."""

    def read() -> tuple[bytes, str]:
        part = file.read(length)
        return part, hashlib.sha256(part).hexdigest()

    reading = asyncio.get_running_loop().run_in_executor(None, read)
    await wait_until_done(reading)
    return reading.result()
