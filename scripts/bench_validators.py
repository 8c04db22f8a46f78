"""Validators for the benchmark: each computes the SHA-256 of a file, as one that looks it up in a list would."""

import hashlib

from aiorelay import FileInfo

__all__ = ["First", "Fourth", "Second", "Third"]


class First:
    """Hash a file and accept it."""

    def __init__(self, _file: FileInfo) -> None:
        self._digest = hashlib.sha256()

    def feed(self, chunk: bytes) -> None:
        self._digest.update(chunk)

    def finish(self) -> None:
        self._digest.hexdigest()


class Second(First):
    """The same, as another validator."""


class Third(First):
    """The same, as another validator."""


class Fourth(First):
    """The same, as another validator."""
