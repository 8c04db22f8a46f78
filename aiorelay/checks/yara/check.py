"""The YARA check: keep a file until it is complete, then scan it."""

import io
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import PurePosixPath
from typing import BinaryIO, Final, Literal

from aiorelay.checks.pipeline import Check, CheckFactory
from aiorelay.checks.size import format_size
from aiorelay.checks.yara.rules import YaraRules
from aiorelay.checks.yara.scanning import ScanFailedError
from aiorelay.errors import Problem, Refused, ScannerUnavailable, Unscannable
from aiorelay.files.spool import Spool
from aiorelay.multipart.form import Part
from aiorelay.observability.logs import log

__all__ = ["YaraOutcome", "yara_check"]

YaraOutcome = Literal["clean", "matched", "unscannable", "unavailable"]

_MOST_NAMES: Final = 5
_LONGEST_FILENAME: Final = 1000  # characters


def yara_check(
    rules: YaraRules, spool: Callable[[], Spool], limit: int, on_outcome: Callable[[YaraOutcome], None]
) -> CheckFactory:
    """Refuse files that match ``rules``. Each file is kept in a spool from ``spool`` and scanned as a whole.

    A file of more than ``limit`` bytes is not scanned but refused. ``on_outcome`` is called once for each file that
    gets a verdict.
    """

    def too_large() -> Problem:
        on_outcome("unscannable")
        return Unscannable(f"Files of more than {format_size(limit)} cannot be checked (yara-max-size).")

    def make(part: Part) -> Check | None:
        if not part.is_file:
            return None
        if part.size is not None and part.size > limit:
            raise too_large()
        filename = (part.filename or "").encode(errors="replace").decode()[:_LONGEST_FILENAME]
        return _YaraCheck(rules, filename, spool(), limit, too_large, on_outcome)

    return make


class _YaraCheck:
    def __init__(
        self,
        rules: YaraRules,
        filename: str,
        spool: Spool,
        limit: int,
        too_large: Callable[[], Problem],
        on_outcome: Callable[[YaraOutcome], None],
    ) -> None:
        self._rules = rules
        self._filename = filename
        self._spool = spool
        self._limit = limit
        self._too_large = too_large
        self._on_outcome = on_outcome

    async def feed(self, chunk: bytes) -> None:
        if self._spool.size + len(chunk) > self._limit:
            raise self._too_large()
        await self._spool.write(chunk)

    async def finish(self) -> None:
        await self._spool.end()
        variables = {"filename": self._filename, "extension": PurePosixPath(self._filename).suffix.lower()}
        try:
            with _descriptor(self._spool.file()) as file:
                names = await self._rules.matches(file, variables)
        except ScanFailedError as failure:
            self._on_outcome("unavailable")
            log.warning("a file was refused without a scan by the YARA rules: %s", failure)
            raise ScannerUnavailable("The YARA rules gave no verdict. Try again later.") from failure
        self._on_outcome("matched" if names else "clean")
        if names:
            log.info("a file matches %s", _listed(names))
            raise Refused(f"The file matches {_listed(names)}.")

    async def close(self) -> None:
        await self._spool.close()


@contextmanager
def _descriptor(file: BinaryIO) -> Generator[int, None, None]:
    """Return the descriptor of a file. The bytes of a file in memory are copied to one that has a descriptor."""
    if not isinstance(file, io.BytesIO):
        yield file.fileno()
        return
    with os.fdopen(os.memfd_create("file"), "wb") as copy:
        copy.write(file.getbuffer())
        copy.flush()
        yield copy.fileno()


def _listed(names: list[str]) -> str:
    """Return the first names of matching rules in words."""
    names = list(dict.fromkeys(names))
    if len(names) == 1:
        return f"the YARA rule {names[0]}"
    more = f" and {len(names) - _MOST_NAMES} more" if len(names) > _MOST_NAMES else ""
    return f"the YARA rules {', '.join(names[:_MOST_NAMES])}{more}"
