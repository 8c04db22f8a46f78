"""Segments of unfinished uploads in a directory that the relays of a test share."""

import time
from collections.abc import AsyncGenerator, Collection
from pathlib import Path

from aiorelay.errors import Gone, StateUnavailable

BLOCK = 64 * 1024


class DirectorySegments:
    """Keeps segments of at most ``largest`` bytes as files below ``directory``.

    While ``away`` is set, every method raises ``StateUnavailable``. ``listings`` counts the calls of ``older_than``.
    """

    def __init__(self, directory: Path, largest: int = 100_000) -> None:
        self.directory = directory
        self.largest = largest
        self.away = False
        self.listings = 0

    async def put(self, name: str, content: bytes) -> None:
        self._check()
        assert 0 < len(content) <= self.largest
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    async def read(self, name: str, start: int, end: int) -> AsyncGenerator[bytes, None]:
        self._check()
        try:
            content = (self.directory / name).read_bytes()[start:end]
        except FileNotFoundError:
            raise Gone("The bytes of the upload were removed; begin a new upload.") from None
        for at in range(0, len(content), BLOCK):
            yield content[at : at + BLOCK]

    async def remove(self, names: Collection[str]) -> None:
        self._check()
        for name in names:
            (self.directory / name).unlink(missing_ok=True)

    async def older_than(self, seconds: float) -> AsyncGenerator[str, None]:
        self._check()
        self.listings += 1
        for path in self.directory.glob("*/*"):
            if path.stat().st_mtime <= time.time() - seconds:
                yield str(path.relative_to(self.directory))

    @property
    def names(self) -> set[str]:
        return {str(path.relative_to(self.directory)) for path in self.directory.glob("*/*")}

    def _check(self) -> None:
        if self.away:
            raise StateUnavailable("The storage is away.")
