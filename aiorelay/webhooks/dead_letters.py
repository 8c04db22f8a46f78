"""Events that were not accepted within a day. They are kept until somebody sends them again or removes them.

<state-dir>/dead-letters/ID.json    the payload of an event
"""

import contextlib
import os
import re
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from aiorelay.files.locks import lock_directory

__all__ = ["MOST_DEAD_LETTERS", "DeadLetters"]

MOST_DEAD_LETTERS: Final = 100_000
_JSON: Final = ".json"
_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")


class DeadLetters:
    """The dead letters below ``state_dir``. The methods block and raise ``OSError``.

    ``number`` is how many there were when they were last counted, and those that this process has added since.
    """

    def __init__(self, state_dir: Path) -> None:
        self.number = 0
        self._directory = state_dir / "dead-letters"
        self._outbox = state_dir / "outbox"
        self._counted: int | None = None

    def open(self) -> None:
        """Make the directory if there is none."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def count(self) -> None:
        """Count the dead letters, if any were added or removed since."""
        changed = self._directory.stat().st_mtime_ns
        if changed != self._counted:
            self.number = sum(1 for _ in self._paths())
            self._counted = changed

    def take(self, path: Path) -> bool:
        """Move the file of an event here. False if there is no more room: then the event is removed."""
        if self.number >= MOST_DEAD_LETTERS:
            path.unlink(missing_ok=True)
            return False
        self.open()
        path.replace(self._directory / path.name)
        self.number += 1
        return True

    def events(self) -> Iterator[tuple[str, bytes]]:
        """Yield the id and the payload of each event, the oldest first."""
        for path in sorted(self._paths(), key=lambda path: path.stat().st_mtime):
            with contextlib.suppress(FileNotFoundError):  # sent again meanwhile
                yield path.name.removesuffix(_JSON), path.read_bytes()

    def send_again(self, identities: Sequence[str]) -> list[str]:
        """Put events back into the outbox, for another day, and return the ids of those that were there.

        They go into a directory of their own, which a running relay takes over, or the next one.
        """
        directory = self._claimed()
        try:
            return [each for each in identities if self._move(each, directory)]
        finally:
            with contextlib.suppress(OSError):
                directory[0].rmdir()  # nothing was moved
            os.close(directory[1])

    def _claimed(self) -> tuple[Path, int]:
        """Make a directory in the outbox, and lock it: half of the events must not be taken over."""
        self._outbox.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            made = self._outbox / secrets.token_hex(16)
            made.mkdir(mode=0o700)
            fd = lock_directory(made)
            if fd >= 0:
                return made, fd

    def _move(self, identity: str, directory: tuple[Path, int]) -> bool:
        if not _ID.fullmatch(identity):
            return False
        path = self._directory / f"{identity}{_JSON}"
        try:
            os.utime(path)
            path.replace(directory[0] / path.name)
        except FileNotFoundError:
            return False
        return True

    def _paths(self) -> Iterator[Path]:
        with contextlib.suppress(FileNotFoundError):
            for path in self._directory.iterdir():
                if path.name.endswith(_JSON):
                    yield path
