"""Programs unpack accepted archives within the limits and within the target directory."""

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from archive_files import DOCX, PASSES, Tarred, Zipped, make_tar, make_zip, python_zip, verdict
from deceptive_archives import LIARS, MOST_BYTES, MOST_ENTRIES
from unpackers import UNPACKERS, unpack

pytestmark = pytest.mark.needs("7z", "bsdtar", "go", "javac", "lz4", "unzip", "zstd")

FILES = [("top/a.txt", b"hello"), ("letter.docx", DOCX)]
HONEST: dict[str, Callable[[], bytes]] = {
    "zip": lambda: python_zip(*FILES),
    "streamed zip": lambda: python_zip(*FILES, streamed=True),
    "zip behind data": lambda: make_zip(*(Zipped(n.encode(), d) for n, d in FILES), prefix=b"#!/bin/sh\n"),
    "tar": lambda: make_tar(*(Tarred(*file) for file in FILES)),
    "tar.gz": lambda: make_tar(*(Tarred(*file) for file in FILES), mode="w:gz"),
}
READS = {
    "unzip": {"zip", "streamed zip", "zip behind data"},
    "7z": {"zip", "streamed zip", "zip behind data", "tar"},
    "bsdtar": {"zip", "streamed zip", "zip behind data", "tar", "tar.gz"},
    "bsdtar from a pipe": {"zip", "streamed zip", "tar", "tar.gz"},
    "tar": {"tar", "tar.gz"},
    "tar, zeros ignored": {"tar", "tar.gz"},
    "tar -z": {"tar.gz"},
    "zipfile": {"zip", "streamed zip", "zip behind data"},
    "tarfile": {"tar", "tar.gz"},
    "java": {"zip", "streamed zip"},
    "go": {"zip", "streamed zip", "zip behind data", "tar", "tar.gz"},
}

HOSTILE: dict[str, Callable[[], bytes]] = {
    **{name: make for name, (make, _) in LIARS.items()},
    "a name that climbs, in a zip": lambda: make_zip(Zipped(b"../escaped")),
    "a name that climbs, in a tar": lambda: make_tar(Tarred("../escaped")),
    "a bomb in a zip": lambda: python_zip(("a", bytes(2 * MOST_BYTES))),
    "a bomb in a tar": lambda: make_tar(Tarred("a", bytes(2 * MOST_BYTES))),
    "a bomb in a tar.gz": lambda: make_tar(Tarred("a", bytes(2 * MOST_BYTES)), mode="w:gz"),
}
"""No name here climbs further than ``Yard.inside`` is deep, and none is absolute: programs really unpack them."""


class Yard:
    """A directory for one archive, with a directory inside for the unpacked files."""

    def __init__(self, outside: Path, content: bytes) -> None:
        self._outside = outside
        self.inside = outside / "1" / "2" / "3" / "inside"
        self.inside.mkdir(parents=True)
        self.archive = outside / "archive"
        self.archive.write_bytes(content)

    def escaped(self) -> list[Path]:
        """Return paths outside of the target directory that the test did not create."""
        ours = {self.archive, self.inside, *self.inside.parents}
        return [path for path in self._entries(self._outside) if path not in ours and not self._holds(path)]

    def unpacked(self) -> list[int]:
        """Return the sizes of the files and links in the target directory, each hard link once."""
        states = [path.lstat() for path in self._entries(self.inside)]
        return list({state.st_ino: state.st_size for state in states if not stat.S_ISDIR(state.st_mode)}.values())

    def _holds(self, path: Path) -> bool:
        return path.is_relative_to(self.inside)

    @staticmethod
    def _entries(directory: Path) -> list[Path]:
        return [Path(at, name) for at, below, files in os.walk(directory) for name in below + files]


def yards(tmp_path: Path, archives: dict[str, Callable[[], bytes]]) -> dict[str, Yard]:
    return {name: Yard(tmp_path / str(n), make()) for n, (name, make) in enumerate(archives.items())}


@pytest.mark.parametrize("unpacker", UNPACKERS)
def test_valid_archives_are_unpacked(unpacker: str, tmp_path: Path) -> None:
    """The programs run, and the check accepts archives that they can unpack."""
    made = yards(tmp_path, HONEST)
    unpack(unpacker, [(yard.archive, yard.inside) for yard in made.values()], tmp_path)
    whole = {len(data) for _, data in FILES}
    assert {name for name, yard in made.items() if whole <= set(yard.unpacked())} >= READS[unpacker]
    assert all(verdict(make()) is None for make in HONEST.values())


@pytest.mark.parametrize("unpacker", UNPACKERS)
def test_accepted_archives_unpack_within_limits_and_directory(unpacker: str, tmp_path: Path) -> None:
    made = yards(tmp_path, HOSTILE | {f"passes: {name}": make for name, make in PASSES.items()})
    limits = {"max_size": MOST_BYTES, "max_entries": MOST_ENTRIES}
    passing = {name for name, yard in made.items() if verdict(yard.archive.read_bytes(), **limits) is None}
    unpack(unpacker, [(yard.archive, yard.inside) for yard in made.values()], tmp_path)
    assert {name: yard.escaped() for name, yard in made.items() if name in passing and yard.escaped()} == {}
    sizes = {name: yard.unpacked() for name, yard in made.items()}
    beyond = {name for name, found in sizes.items() if sum(found) > MOST_BYTES or len(found) > MOST_ENTRIES}
    assert beyond & passing == set()
    assert beyond, "None of the archives is hostile to this program."
