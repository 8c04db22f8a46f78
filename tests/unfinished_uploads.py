"""Unfinished uploads for tests: create, append to and read them."""

import random
from pathlib import Path

from aiorelay.rest1.resumable.store import FileUploads
from aiorelay.rest1.resumable.unfinished import Upload

MIB = 1024 * 1024
CONTENT = random.Random(1).randbytes(8 * MIB + 17)  # noqa: S311 - any bytes will do
OWNER = "me"


def opened(
    directory: Path, *, fsync: bool = False, quota: int = 100 * MIB, expiry: float = 3600, kept: float = 3600
) -> FileUploads:
    """A store, as of a process of its own."""
    return FileUploads(directory, fsync=fsync, quota=quota, expiry=expiry, kept=kept)


async def created(uploads: FileUploads, length: int | None = None, *, partial: bool = False) -> Upload:
    return await uploads.create(owner=OWNER, protocol="tus", request={"a": 1}, length=length, partial=partial)


async def append(uploads: FileUploads, upload: Upload, content: bytes, offset: int | None = None) -> Upload:
    async with uploads.appending(upload.id, OWNER, offset) as appending:
        for start in range(0, len(content), 100_000):
            await appending.write(content[start : start + 100_000])
        return await appending.flush()


async def content_of(uploads: FileUploads, upload: Upload, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([block async for block in uploads.read(await uploads.find(upload.id, OWNER), start, end)])


def suffixes(directory: Path) -> set[str]:
    """Which kinds of files there are."""
    return {path.name.partition(".")[2] for path in directory.iterdir()}


def modes(directory: Path) -> set[int]:
    return {path.stat().st_mode & 0o777 for path in directory.iterdir()}


def open_files() -> int:
    """How many descriptors this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))
