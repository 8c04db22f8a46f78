"""Unfinished uploads through kills, full disks and disks that fail."""

import asyncio
import contextlib
import os
import random
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import pytest
from programs import program
from unfinished_uploads import CONTENT, MIB, OWNER, append, content_of, created, opened

from aiorelay.errors import StorageFull, UploadLocked
from aiorelay.rest1.resumable.unfinished import Upload

pytestmark = pytest.mark.slow

# Appends the rest of CONTENT to an upload, and prints each offset that a client would be told.
APPEND = """
import asyncio, sys
from pathlib import Path
from unfinished_uploads import CONTENT, OWNER, opened

async def main(directory, identity, fsync):
    async with opened(Path(directory), fsync=fsync == "fsync") as uploads:
        async with uploads.appending(identity, OWNER) as appending:
            print("appending", appending.upload.offset, flush=True)
            while block := CONTENT[appending.received : appending.received + 10_000]:
                await appending.write(block)
                if appending.received // 10_000 % 20 == 0:
                    print("told", (await appending.flush()).offset, flush=True)
                else:
                    print("told", appending.upload.offset, flush=True)
            print("told", (await appending.flush()).offset, flush=True)
            await appending.superseded.wait()
            await appending.write(b"never")

asyncio.run(main(*sys.argv[1:]))
"""
TESTS = str(Path(__file__).parents[2])


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "uploads"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A directory with room for 4 MiB, where the system lets us mount one."""
    point = tmp_path / "disk"
    point.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "aiorelay-test", point]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting is not allowed here")
    yield point
    subprocess.run(["umount", "-q", "-l", point], check=True)


@contextlib.asynccontextmanager
async def appending_process(
    directory: Path, upload: Upload, *, fsync: bool = False, under: tuple[str, ...] = ()
) -> AsyncGenerator[asyncio.subprocess.Process, None]:
    process = await asyncio.create_subprocess_exec(
        *(*under, sys.executable, "-c", APPEND, str(directory), upload.id, "fsync" if fsync else "no"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": TESTS},
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert (await process.stdout.readline()).startswith(b"appending ")
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what strace runs, too
        await process.communicate()


@pytest.mark.parametrize("fsync", [False, True], ids=["cached", "synced"])
async def test_what_was_told_survives_kills(directory: Path, *, fsync: bool) -> None:
    chance = random.Random(7)  # noqa: S311 - a test that can be repeated
    async with opened(directory, fsync=fsync) as uploads:
        upload = await created(uploads)
        told = 0
        for _ in range(6):
            async with appending_process(directory, upload, fsync=fsync) as process:
                assert process.stdout is not None
                lines = [await process.stdout.readline() for _ in range(chance.randrange(1, 120))]
                process.send_signal(signal.SIGKILL)
                lines += (await process.stdout.read()).splitlines(keepends=True)
            told = max([told, *(int(line.split()[1]) for line in lines if line.endswith(b"\n"))])
            now = await uploads.interrupt(upload.id, OWNER)
            assert now.offset >= told
            assert await content_of(uploads, upload) == CONTENT[: now.offset]
        await append(uploads, upload, CONTENT[now.offset :], now.offset)
        assert await content_of(uploads, upload) == CONTENT


async def test_newer_request_ends_one_of_another_process_which_keeps_what_it_had(directory: Path) -> None:
    async with opened(directory) as uploads:
        upload = await created(uploads)
        async with appending_process(directory, upload) as process:
            now = await uploads.interrupt(upload.id, OWNER)
            assert process.stderr is not None
            assert b"Superseded" in await process.stderr.read()
        assert await content_of(uploads, upload) == CONTENT[: now.offset]


async def test_writer_that_stands_still_keeps_the_upload_locked(directory: Path) -> None:
    async with opened(directory) as uploads:
        upload = await created(uploads)
        async with appending_process(directory, upload) as process:
            process.send_signal(signal.SIGSTOP)
            with pytest.raises(UploadLocked):
                await append(uploads, upload, b"x")
            process.send_signal(signal.SIGCONT)
            assert (await uploads.interrupt(upload.id, OWNER)).offset > 0


async def test_bytes_that_were_never_synced_are_not_told_of_nor_kept(directory: Path) -> None:
    async with opened(directory, fsync=True) as uploads:
        upload = await created(uploads)
        await append(uploads, upload, b"synced")
        with (directory / f"{upload.id}.data").open("ab") as file:
            file.write(bytes(100))  # as a power cut may leave them
        assert (await uploads.find(upload.id, OWNER)).offset == 6
        await append(uploads, upload, b" more", 6)
        assert await content_of(uploads, upload) == b"synced more"


@pytest.mark.parametrize("number", [b"", b"%020d %020d" % (7, 6)], ids=["empty", "half-written"])
async def test_upload_begins_anew_if_nothing_says_how_much_of_it_was_synced(directory: Path, number: bytes) -> None:
    async with opened(directory, fsync=True) as uploads:
        upload = await created(uploads)
        await append(uploads, upload, b"content")
        (directory / f"{upload.id}.synced").write_bytes(number)
        assert (await uploads.find(upload.id, OWNER)).offset == 0
        await append(uploads, upload, b"again", 0)
        assert await content_of(uploads, upload) == b"again"


@pytest.mark.parametrize("fsync", [False, True], ids=["cached", "synced"])
async def test_full_disk_keeps_what_it_has_room_for_and_tells_how_much(disk: Path, *, fsync: bool) -> None:
    async with opened(disk, fsync=fsync) as uploads:
        upload = await created(uploads)
        async with uploads.appending(upload.id, OWNER, 0) as appending:
            with pytest.raises(StorageFull):
                await write_all(appending)
            offset = appending.upload.offset
        assert 3 * MIB < offset <= 4 * MIB
        assert (await uploads.find(upload.id, OWNER)).offset == offset
        assert await content_of(uploads, upload) == CONTENT[:offset]


async def test_end_of_an_upload_is_written_down_although_the_disk_is_full(disk: Path) -> None:
    async with opened(disk) as uploads:
        upload = await created(uploads)
        async with uploads.appending(upload.id, OWNER, 0) as appending:
            with pytest.raises(StorageFull):
                await write_all(appending)
            await appending.end({"state": "done"})
        assert (await uploads.find(upload.id, OWNER)).outcome == {"state": "done"}


async def test_upload_is_not_created_on_a_disk_without_room_for_its_length(disk: Path) -> None:
    async with opened(disk) as uploads:
        await created(uploads, 3 * MIB)
        with pytest.raises(StorageFull):
            await created(uploads, 5 * MIB)


@pytest.mark.parametrize("fault", ["fdatasync:error=EIO:when=3+", "writev:error=EIO:when=2+"])
@pytest.mark.needs("strace")
async def test_what_the_disk_did_not_take_is_not_told_of(directory: Path, fault: str) -> None:
    under = (program("strace"), "-f", "-qq", "-o", os.devnull, "-e", f"inject={fault}")
    async with opened(directory, fsync=True) as uploads:
        upload = await created(uploads)
        await append(uploads, upload, CONTENT[:1000])
        async with appending_process(directory, upload, fsync=True, under=under) as process:
            out, errors = await process.communicate()
        assert b"aiorelay.errors.Internal" in errors
        told = max([1000, *(int(line.split()[1]) for line in out.splitlines())])
        now = await uploads.interrupt(upload.id, OWNER)
        assert now.offset >= told
        assert await content_of(uploads, upload) == CONTENT[: now.offset]


async def write_all(appending) -> None:
    for start in range(0, len(CONTENT), 100_000):
        await appending.write(CONTENT[start : start + 100_000])
