"""The files that YARA rules are read from: one file, or all of a directory."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from aiorelay.errors import StartupError

__all__ = ["Sources", "Version", "find_sources"]

Version = frozenset[tuple[str, int, int, int]]
"""The path, inode, size and modification time of each file."""

_ENDINGS = (".yar", ".yara")


class Sources(NamedTuple):
    """The ``files`` with rules, sorted, and the ``folders`` in which included files are looked for.

    ``version`` differs if a file has changed, an included one below the directory too.
    """

    files: list[str]
    folders: list[str]
    version: Version


def find_sources(path: Path) -> Sources:
    """Find the rules at ``path``: the file, or every ``*.yar`` and ``*.yara`` below the directory.

    Names that begin with a dot are skipped. Raises ``StartupError`` if ``path`` cannot be read or has no such file.
    """
    try:
        found = list(_walk(path)) if path.is_dir() else [path]
        version = frozenset((str(each), *_version(each)) for each in found)
    except OSError as error:
        raise StartupError(f"yara: {path} cannot be read: {error.strerror}.") from error
    files = sorted(each for each in found if each == path or each.suffix.lower() in _ENDINGS)
    if not files:
        raise StartupError(f"yara: {path} has no file named *.yar or *.yara.")
    folders = dict.fromkeys([path if path.is_dir() else path.parent, *(each.parent for each in files)])
    return Sources([str(each) for each in files], [str(each) for each in folders], version)


def _walk(directory: Path) -> Iterator[Path]:
    """Yield the files below ``directory``. A link to a file counts as a file; links to directories are not followed."""

    def fail(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(directory, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".")]
        yield from (file for name in names if not name.startswith(".") and (file := Path(folder, name)).is_file())


def _version(file: Path) -> tuple[int, int, int]:
    status = file.stat()
    return status.st_ino, status.st_size, status.st_mtime_ns
