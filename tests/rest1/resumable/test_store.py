"""Unfinished uploads: what is kept of them, and who may append."""

import asyncio
import contextlib
import os
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from aiorelay.errors import Gone, NotFound, OffsetMismatch, StorageFull, Superseded
from aiorelay.rest1.resumable.files import Upload
from aiorelay.rest1.resumable.store import Uploads

MIB = 1024 * 1024
CONTENT = os.urandom(3 * MIB + 17)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "uploads"


@pytest.fixture(params=[False, True], ids=["cached", "synced"])
async def uploads(directory: Path, request: pytest.FixtureRequest) -> AsyncIterator[Uploads]:
    async with opened(directory, fsync=request.param) as uploads:
        yield uploads


def opened(
    directory: Path, *, fsync: bool = False, quota: int = 100 * MIB, expiry: float = 3600, kept: float = 3600
) -> Uploads:
    return Uploads(directory, fsync=fsync, quota=quota, expiry=expiry, kept=kept)


async def created(uploads: Uploads, length: int | None = None, *, partial: bool = False) -> Upload:
    return await uploads.create(owner="me", protocol="tus", request={"a": 1}, length=length, partial=partial)


async def append(uploads: Uploads, upload: Upload, content: bytes, offset: int | None = None) -> Upload:
    async with uploads.appending(upload.id, "me", offset) as appending:
        for start in range(0, len(content), 100_000):
            await appending.write(content[start : start + 100_000])
        return await appending.flush()


async def content_of(uploads: Uploads, upload: Upload, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([block async for block in uploads.read(uploads.find(upload.id, "me"), start, end)])


def names(directory: Path) -> set[str]:
    return {path.name.partition(".")[2] for path in directory.iterdir()}


async def test_new_upload_is_found_as_it_was_created(uploads: Uploads) -> None:
    upload = await created(uploads, 10)
    assert uploads.find(upload.id, "me") == upload
    assert (upload.request, upload.length, upload.offset, upload.protocol) == ({"a": 1}, 10, 0, "tus")


async def test_what_is_appended_is_read(uploads: Uploads) -> None:
    upload = await created(uploads)
    assert (await append(uploads, upload, CONTENT[:MIB])).offset == MIB
    assert (await append(uploads, upload, CONTENT[MIB:], MIB)).offset == len(CONTENT)
    assert await content_of(uploads, upload) == CONTENT
    assert await content_of(uploads, upload, 5, 2 * MIB + 1) == CONTENT[5 : 2 * MIB + 1]
    assert await content_of(uploads, upload, 5, 5) == b""


async def test_files_are_for_their_owner_alone(uploads: Uploads, directory: Path) -> None:
    await append(uploads, await created(uploads), b"content")
    assert {stat.S_IMODE(path.stat().st_mode) for path in directory.iterdir()} == {0o600}
    assert stat.S_IMODE(directory.stat().st_mode) == 0o700


@pytest.mark.parametrize("owner", [None, "other", ""])
async def test_upload_of_another_owner_is_not_found(uploads: Uploads, owner: str | None) -> None:
    upload = await created(uploads)
    with pytest.raises(NotFound):
        uploads.find(upload.id, owner)


@pytest.mark.parametrize("identity", ["", ".", "..", "../x", "a" * 31, "a" * 32, "a" * 33, "a\0", "é" * 32])
async def test_name_that_is_no_upload_is_not_found(uploads: Uploads, identity: str) -> None:
    with pytest.raises(NotFound):
        uploads.find(identity, None)
    with pytest.raises(NotFound):
        async with uploads.appending(identity, None):
            pass


@pytest.mark.parametrize("offset", [0, 6, 8])
async def test_append_at_another_offset_is_told_the_right_one(uploads: Uploads, offset: int) -> None:
    upload = await created(uploads)
    await append(uploads, upload, b"content")
    with pytest.raises(OffsetMismatch) as caught:
        await append(uploads, upload, b"more", offset)
    assert (caught.value.offset, caught.value.headers) == (7, {"Upload-Offset": "7"})
    assert await content_of(uploads, upload) == b"content"


async def test_last_byte_is_told_of_only_once_the_upload_has_ended(uploads: Uploads) -> None:
    upload = await created(uploads, 7)
    now = await append(uploads, upload, b"content")
    assert (now.complete, now.size, now.offset) == (True, 7, 6)
    assert uploads.find(upload.id, "me").offset == 6
    assert (await append(uploads, upload, b"t", 6)).complete
    assert await content_of(uploads, upload) == b"content"
    async with uploads.appending(upload.id, "me") as appending:
        await appending.end({"state": "done"})
    assert uploads.find(upload.id, "me").offset == 7


async def test_last_byte_of_a_partial_upload_is_told_of_at_once(uploads: Uploads) -> None:
    upload = await created(uploads, 7, partial=True)
    assert (await append(uploads, upload, b"content")).offset == 7


async def test_empty_upload_is_complete_at_offset_0(uploads: Uploads) -> None:
    upload = await created(uploads, 0)
    assert (upload.complete, upload.offset) == (True, 0)


async def test_ended_upload_tells_its_outcome_and_has_no_bytes(uploads: Uploads, directory: Path) -> None:
    upload = await created(uploads)
    async with uploads.appending(upload.id, "me", 0) as appending:
        await appending.write(b"content")
        ended = await appending.end({"answer": 200})
    assert uploads.find(upload.id, "me").outcome == ended.outcome == {"answer": 200}
    assert names(directory) == {"json"}
    with pytest.raises(Gone):
        await append(uploads, upload, b"more")


async def test_removed_upload_is_gone(uploads: Uploads, directory: Path) -> None:
    upload = await created(uploads)
    await append(uploads, upload, b"content")
    await uploads.remove(upload.id, "me")
    assert names(directory) == {"json"}
    for _ in range(2):
        with pytest.raises(Gone):
            uploads.find(upload.id, "me")
    with pytest.raises(NotFound):
        uploads.find(upload.id, "other")


async def test_length_may_be_told_later(uploads: Uploads) -> None:
    upload = await created(uploads)
    async with uploads.appending(upload.id, "me", 0) as appending:
        await appending.write(b"content")
        await appending.set_length(7)
        assert (await appending.flush()).complete
    assert uploads.find(upload.id, "me").length == 7


async def test_truncated_upload_goes_on_where_it_was_truncated(uploads: Uploads) -> None:
    upload = await created(uploads)
    async with uploads.appending(upload.id, "me", 0) as appending:
        await appending.write(b"content")
        await appending.truncate(3)
        assert appending.upload.offset == 3
        await appending.write(b"tent")
    assert await content_of(uploads, upload) == b"contentt"[:3] + b"tent"


async def test_newer_request_ends_an_older_one_and_what_that_wrote_counts(uploads: Uploads) -> None:
    upload = await created(uploads)
    async with contextlib.AsyncExitStack() as older:
        appending = await older.enter_async_context(uploads.appending(upload.id, "me", 0))
        await appending.write(b"older")
        newer = asyncio.create_task(append(uploads, upload, b" newer"))
        await appending.superseded.wait()
        with pytest.raises(Superseded):
            await appending.write(b"x")
    assert (await newer).offset == 11
    assert await content_of(uploads, upload) == b"older newer"


async def test_upload_that_would_exceed_the_quota_is_not_created(directory: Path) -> None:
    async with opened(directory, quota=10) as uploads:
        await append(uploads, await created(uploads), b"content")
        await created(uploads, 3)
        with pytest.raises(StorageFull):
            await created(uploads, 4)
