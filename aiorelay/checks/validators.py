"""``validator``: user-supplied checks, named ``package.module:name``."""

from collections.abc import Callable
from concurrent.futures import Executor
from typing import cast

from aiorelay.checks.pipeline import Check, CheckFactory, ThreadedCheck, Validator
from aiorelay.errors import Refused
from aiorelay.multipart.form import FileInfo, Part
from aiorelay.settings.kinds import find_validator

__all__ = ["load_validator"]


def load_validator(
    name: str, pool: Executor, *, timeout: float | None = None, on_timeout: Callable[[], object] = lambda: None
) -> CheckFactory:
    """Import the callable ``name``, ``(file: FileInfo) -> Validator``, and return a check factory that uses it.

    The callable and its validators run in threads of ``pool``, one call at a time for each file. They may block, but a
    piece of the file and the verdict may each take at most ``timeout`` seconds. ``on_timeout`` is called for each
    validator that exceeds it. Raises ``InvalidValueError`` if there is no such callable.
    """
    make_validator = cast("Callable[[FileInfo], Validator]", find_validator(name))

    def make(part: Part) -> Check | None:
        if part.filename is None:
            return None
        file = FileInfo(part.name, part.filename, part.media_type, part.size)
        return ThreadedCheck(
            _LazyValidator(make_validator, file),
            pool,
            name=f"validator {name}",
            objections=Refused,
            timeout=timeout,
            on_timeout=on_timeout,
        )

    return make


class _LazyValidator:
    """Create the user's validator at its first use: in a thread, because creating it may block."""

    def __init__(self, make: Callable[[FileInfo], Validator], file: FileInfo) -> None:
        self._make = make
        self._file = file
        self._made: Validator | None = None

    def feed(self, chunk: bytes) -> None:
        self._validator().feed(chunk)

    def finish(self) -> None:
        self._validator().finish()

    def _validator(self) -> Validator:
        if self._made is None:
            self._made = self._make(self._file)
        return self._made
