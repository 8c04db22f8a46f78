"""Unfinished uploads: what is kept of them, and who may append."""

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from peers import eventually
from unfinished_uploads import CONTENT, MIB, append, content_of, created, modes, open_files, opened, suffixes

from aiorelay.errors import Gone, NotFound, OffsetMismatch, StartupError, StorageFull, Superseded
from aiorelay.rest1.resumable.store import FileUploads

pytestmark = pytest.mark.slow


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "uploads"


@pytest.fixture(params=[False, True], ids=["cached", "synced"])
async def uploads(directory: Path, request: pytest.FixtureRequest) -> AsyncIterator[FileUploads]:
    async with opened(directory, fsync=request.param) as uploads:
        yield uploads


async def test_new_upload_is_found_as_it_was_created(uploads: FileUploads) -> None:
    upload = await created(uploads, 10)
    assert await uploads.find(upload.id, "me") == upload
    assert (upload.request, upload.length, upload.offset, upload.protocol) == ({"a": 1}, 10, 0, "tus")


async def test_what_is_appended_is_read(uploads: FileUploads) -> None:
    upload = await created(uploads)
    assert (await append(uploads, upload, CONTENT[:MIB])).offset == MIB
    assert (await append(uploads, upload, CONTENT[MIB:], MIB)).offset == len(CONTENT)
    assert await content_of(uploads, upload) == CONTENT
    assert await content_of(uploads, upload, 5, 2 * MIB + 1) == CONTENT[5 : 2 * MIB + 1]
    assert await content_of(uploads, upload, 5, 5) == b""


async def test_files_are_for_their_owner_alone(uploads: FileUploads, directory: Path) -> None:
    await append(uploads, await created(uploads), b"content")
    assert modes(directory) == {0o600}
    assert modes(directory.parent) == {0o700}


@pytest.mark.parametrize("owner", [None, "other", ""])
async def test_upload_of_another_owner_is_not_found(uploads: FileUploads, owner: str | None) -> None:
    upload = await created(uploads)
    with pytest.raises(NotFound):
        await uploads.find(upload.id, owner)


@pytest.mark.parametrize("identity", ["", ".", "..", "../x", "a" * 31, "a" * 32, "a" * 33, "a\0", "é" * 32])
async def test_name_that_is_no_upload_is_not_found(uploads: FileUploads, identity: str) -> None:
    with pytest.raises(NotFound):
        await uploads.find(identity, None)
    with pytest.raises(NotFound):
        async with uploads.appending(identity, None):
            pass


@pytest.mark.parametrize("offset", [0, 6, 8])
async def test_append_at_another_offset_is_told_the_right_one(uploads: FileUploads, offset: int) -> None:
    upload = await created(uploads)
    await append(uploads, upload, b"content")
    with pytest.raises(OffsetMismatch) as caught:
        await append(uploads, upload, b"more", offset)
    assert (caught.value.offset, caught.value.headers) == (7, {"Upload-Offset": "7"})
    assert await content_of(uploads, upload) == b"content"


async def test_last_byte_is_told_of_only_once_the_upload_has_ended(uploads: FileUploads) -> None:
    upload = await created(uploads, 7)
    now = await append(uploads, upload, b"content")
    assert (now.complete, now.size, now.offset) == (True, 7, 6)
    assert (await uploads.find(upload.id, "me")).offset == 6
    assert (await append(uploads, upload, b"t", 6)).complete
    assert await content_of(uploads, upload) == b"content"
    async with uploads.appending(upload.id, "me") as appending:
        await appending.end({"state": "done"})
    assert (await uploads.find(upload.id, "me")).offset == 7


async def test_last_byte_of_a_partial_upload_is_told_of_at_once(uploads: FileUploads) -> None:
    upload = await created(uploads, 7, partial=True)
    assert (await append(uploads, upload, b"content")).offset == 7


async def test_empty_upload_is_complete_at_offset_0(uploads: FileUploads) -> None:
    upload = await created(uploads, 0)
    assert (upload.complete, upload.offset) == (True, 0)


async def test_ended_upload_tells_its_outcome_and_has_no_bytes(uploads: FileUploads, directory: Path) -> None:
    upload = await created(uploads)
    async with uploads.appending(upload.id, "me", 0) as appending:
        await appending.write(b"content")
        ended = await appending.end({"answer": 200})
    assert (await uploads.find(upload.id, "me")).outcome == ended.outcome == {"answer": 200}
    assert suffixes(directory) == {"json"}
    with pytest.raises(Gone):
        await append(uploads, upload, b"more")


async def test_removed_upload_is_gone(uploads: FileUploads, directory: Path) -> None:
    upload = await created(uploads)
    await append(uploads, upload, b"content")
    await uploads.remove(upload.id, "me")
    assert suffixes(directory) == {"json"}
    for _ in range(2):
        with pytest.raises(Gone):
            await uploads.find(upload.id, "me")
    with pytest.raises(NotFound):
        await uploads.find(upload.id, "other")


async def test_length_may_be_told_later(uploads: FileUploads) -> None:
    upload = await created(uploads)
    async with uploads.appending(upload.id, "me", 0) as appending:
        await appending.write(b"content")
        await appending.set_length(7)
        assert (await appending.flush()).complete
    assert (await uploads.find(upload.id, "me")).length == 7


async def test_truncated_upload_goes_on_where_it_was_truncated(uploads: FileUploads) -> None:
    upload = await created(uploads)
    async with uploads.appending(upload.id, "me", 0) as appending:
        await appending.write(b"content")
        await appending.truncate(3)
        assert appending.upload.offset == 3
        await appending.write(b"text")
    assert await content_of(uploads, upload) == b"context"


async def test_newer_request_ends_an_older_one_and_what_that_wrote_counts(uploads: FileUploads) -> None:
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


async def test_append_beyond_the_quota_is_refused_and_what_came_before_stays(directory: Path) -> None:
    async with opened(directory, quota=2 * MIB) as small:
        upload = await created(small)
        async with small.appending(upload.id, "me", 0) as appending:
            for start in range(0, 2_000_000, 100_000):
                await appending.write(CONTENT[start : start + 100_000])
            with pytest.raises(StorageFull):
                await appending.write(CONTENT[2_000_000:2_100_000])
            assert appending.upload.offset == 2_000_000
            with pytest.raises(StorageFull):
                await appending.write(b"x")
        assert await content_of(small, upload) == CONTENT[:2_000_000]
        await small.remove(upload.id, "me")
        await append(small, await created(small), CONTENT[: 2 * MIB])


async def test_upload_longer_than_the_disk_is_not_created(directory: Path) -> None:
    async with opened(directory, quota=2**80) as uploads:
        with pytest.raises(StorageFull):
            await created(uploads, 2**70)


async def test_cancelled_request_leaves_what_it_had_passed_on(uploads: FileUploads) -> None:
    upload = await created(uploads)
    appending = asyncio.Event()

    async def append_and_hang() -> None:
        async with uploads.appending(upload.id, "me", 0) as writer:
            await writer.write(CONTENT[:1000])
            appending.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(append_and_hang())
    await appending.wait()
    task.cancel()
    await asyncio.wait([task])
    assert await content_of(uploads, upload) == CONTENT[:1000]


async def test_request_cancelled_while_the_disk_is_slow_leaves_no_hole(uploads: FileUploads) -> None:
    upload = await created(uploads)
    go_on = threading.Event()
    passed = 0

    async def append_all() -> None:
        nonlocal passed
        async with uploads.appending(upload.id, "me") as appending:
            for _ in range(8):  # no thread is free from now on
                uploads._pool.submit(go_on.wait)  # noqa: SLF001 - a disk that hangs
            while True:
                block = CONTENT[passed : passed + 100_000]
                passed += len(block)
                await appending.write(block)

    task = asyncio.create_task(append_all())
    await eventually(lambda: passed > MIB)
    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.wait([task])
    assert passed < 2 * MIB
    assert await content_of(uploads, upload) == CONTENT[:passed]


async def test_newer_request_of_another_process_ends_an_older_one(directory: Path, uploads: FileUploads) -> None:
    upload = await created(uploads)
    async with opened(directory) as others:
        async with uploads.appending(upload.id, "me", 0) as appending:
            await appending.write(b"older")
            newer = asyncio.create_task(append(others, upload, b" newer"))
            await appending.superseded.wait()
        assert (await newer).offset == 11
        assert "claim" not in suffixes(directory)


async def test_of_many_requests_at_once_the_newest_goes_on(directory: Path, uploads: FileUploads) -> None:
    upload = await created(uploads)
    async with opened(directory) as others:
        requests = [
            asyncio.create_task(append(each, upload, f"{number} ".encode()))
            for number in range(10)
            for each in (uploads, others)
        ]
        results = await asyncio.gather(*requests, return_exceptions=True)
        assert not isinstance(results[-1], BaseException)
        assert {type(result) for result in results if isinstance(result, BaseException)} <= {Superseded}
        appended = [f"{index // 2} ".encode() for index, each in enumerate(results) if not isinstance(each, Exception)]
        assert sorted((await content_of(uploads, upload)).split()) == sorted(each.strip() for each in appended)


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same process", "another process"])
async def test_newer_request_waits_for_a_delivery(directory: Path, uploads: FileUploads, *, elsewhere: bool) -> None:
    upload = await created(uploads, 7)
    async with contextlib.AsyncExitStack() as stack:
        newer = await stack.enter_async_context(opened(directory)) if elsewhere else uploads
        async with uploads.appending(upload.id, "me", 0) as appending:
            await appending.write(b"content")
            await appending.flush()
            async with appending.delivering():
                waiting = asyncio.create_task(append(newer, upload, b"t", 6))
                assert (await newer.interrupt(upload.id, "me")).offset == 6
                await asyncio.sleep(0.5)
                assert not waiting.done()
                assert not appending.superseded.is_set()
                await appending.end({"state": "done"})
        with pytest.raises(Gone):
            await waiting


async def test_last_byte_is_sent_again_after_a_delivery_that_failed(uploads: FileUploads) -> None:
    upload = await created(uploads, 7)
    async with uploads.appending(upload.id, "me", 0) as appending:
        await appending.write(b"content")
        await appending.flush()
        async with appending.delivering():
            assert b"".join([block async for block in appending.read()]) == b"content"
    async with uploads.appending(upload.id, "me", 6) as appending:
        assert appending.upload.size == 6
        await appending.write(b"t")
        assert (await appending.flush()).complete


async def test_interrupted_request_has_written_all_that_the_offset_says(uploads: FileUploads) -> None:
    upload = await created(uploads)
    appending_now = asyncio.Event()

    async def append_until_superseded() -> None:
        with contextlib.suppress(Superseded):
            async with uploads.appending(upload.id, "me", 0) as appending:
                await appending.write(b"content")
                appending_now.set()
                await appending.superseded.wait()
                await appending.write(b"more")

    older = asyncio.create_task(append_until_superseded())
    await appending_now.wait()
    assert (await uploads.interrupt(upload.id, "me")).offset == 7
    await older


async def test_upload_expires_some_time_after_its_last_byte(directory: Path) -> None:
    async with opened(directory, expiry=0.5) as uploads:
        upload = await created(uploads)
        await append(uploads, upload, b"content")
        await eventually(lambda: suffixes(directory) == {"json"})
        with pytest.raises(Gone):
            await uploads.find(upload.id, "me")
        with pytest.raises(Gone):
            await append(uploads, upload, b"more")


async def test_upload_that_somebody_appends_to_does_not_expire(directory: Path, uploads: FileUploads) -> None:
    upload = await created(uploads)
    async with uploads.appending(upload.id, "me", 0) as appending:
        await appending.write(b"content")
        await appending.flush()
        async with opened(directory, expiry=0):
            pass
        assert await content_of(uploads, upload) == b"content"
    with pytest.raises(Gone):
        async with opened(directory, expiry=0):
            await uploads.find(upload.id, "me")


async def test_upload_is_forgotten_some_time_after_its_end(directory: Path, uploads: FileUploads) -> None:
    upload = await created(uploads)
    async with uploads.appending(upload.id, "me") as appending:
        await appending.end({"state": "done"})
    async with opened(directory, kept=0) as others:
        assert suffixes(directory) == set()
        with pytest.raises(NotFound):
            await others.find(upload.id, "me")


async def test_expiry_is_counted_from_the_last_byte(uploads: FileUploads) -> None:
    upload = await created(uploads)
    before = time.time() - 0.1  # a file's time may be that of the last tick
    await append(uploads, upload, b"content")
    assert before + 3600 <= (await uploads.find(upload.id, "me")).expires <= time.time() + 3600


@pytest.mark.parametrize("ending", ["data", "new", "claim", "synced"])
async def test_what_a_creation_that_died_left_is_swept(directory: Path, ending: str) -> None:
    async with opened(directory):
        (directory / f"{'a' * 32}.{ending}").touch()
        (directory / "other").touch()
    async with opened(directory):
        assert suffixes(directory) == {""}


async def test_bytes_of_an_ended_upload_are_swept(directory: Path, uploads: FileUploads) -> None:
    upload = await created(uploads)
    await uploads.remove(upload.id, "me")
    (directory / f"{upload.id}.data").touch()
    async with opened(directory):
        assert suffixes(directory) == {"json"}


async def test_uploads_at_rest_hold_no_descriptors(uploads: FileUploads) -> None:
    before = open_files()
    for _ in range(100):
        await append(uploads, await created(uploads), b"content")
    assert open_files() == before


async def test_record_with_more_members_is_read(uploads: FileUploads, directory: Path) -> None:
    upload = await created(uploads)
    path = directory / f"{upload.id}.json"
    path.write_text(path.read_text().replace("{", '{"of a later version": 1, ', 1))
    assert await uploads.find(upload.id, "me") == upload


@pytest.mark.parametrize("record", ["", "[]", "{}", "{", "1", '{"id": 1}'], ids=repr)
async def test_record_that_is_none_is_not_found(uploads: FileUploads, directory: Path, record: str) -> None:
    upload = await created(uploads)
    (directory / f"{upload.id}.json").write_text(record)
    with pytest.raises(NotFound):
        await uploads.find(upload.id, "me")


async def test_directory_that_cannot_be_made_is_a_startup_error(directory: Path) -> None:
    directory.parent.write_bytes(b"")
    with pytest.raises(StartupError, match=r"cannot keep unfinished uploads in .*; choose another place"):
        async with opened(directory, fsync=False):
            pytest.fail("The store was opened.")


async def test_bytes_of_a_removed_upload_are_gone(uploads: FileUploads) -> None:
    upload = await created(uploads)
    await append(uploads, upload, b"content")
    await uploads.remove(upload.id, "me")
    with pytest.raises(Gone):
        await content_of(uploads, upload)


async def test_upload_that_cannot_be_swept_does_not_prevent_the_start(
    directory: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with opened(directory, fsync=False) as uploads:
        upload = await created(uploads)
    record = directory / f"{upload.id}.json"
    record.unlink()
    record.mkdir()  # no file, so that reading it fails
    async with opened(directory, fsync=False):
        assert "cannot sweep an unfinished upload (Is a directory)" in caplog.messages
