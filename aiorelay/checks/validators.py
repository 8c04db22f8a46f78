"""``validator``: checks of the user's own, named ``package.module:name``."""

from collections.abc import Callable
from concurrent.futures import Executor
from typing import cast

from aiorelay.checks.pipeline import Check, CheckFactory, ThreadedCheck, Validator
from aiorelay.errors import Refused
from aiorelay.multipart.form import Part
from aiorelay.settings.kinds import find_validator

__all__ = ["load_validator"]


def load_validator(
    name: str, pool: Executor, *, timeout: float | None = None, on_timeout: Callable[[], object] = lambda: None
) -> CheckFactory:
    """Find the callable ``name``, ``(part: Part) -> Validator``, and make a check of it for every file.

    It is called, and its validators run, in threads of ``pool``, one call at a time for each file: they may be slow,
    but none may take longer than ``timeout`` seconds for a piece of the file or for its verdict. ``on_timeout`` is
    called for each that does.
    Raises ``Unfit`` if there is no such callable.
    """
    make_validator = cast("Callable[[Part], Validator]", find_validator(name))

    def make(part: Part) -> Check | None:
        if not part.is_file:
            return None
        return ThreadedCheck(
            _LazyValidator(make_validator, part),
            pool,
            name=f"validator {name}",
            objections=Refused,
            timeout=timeout,
            on_timeout=on_timeout,
        )

    return make


class _LazyValidator:
    """A validator that is only made when it is first needed: in its thread, where it may take its time."""

    def __init__(self, make: Callable[[Part], Validator], part: Part) -> None:
        self._make = make
        self._part = part
        self._made: Validator | None = None

    def feed(self, chunk: bytes) -> None:
        self._validator().feed(chunk)

    def finish(self) -> None:
        self._validator().finish()

    def _validator(self) -> Validator:
        if self._made is None:
            self._made = self._make(self._part)
        return self._made
