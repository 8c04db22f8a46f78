"""``validator``: checks of the user's own, named ``package.module:name``."""

from collections.abc import Callable
from concurrent.futures import Executor
from importlib import import_module
from typing import cast

from aiorelay.checks import Check, Maker, OffLoop, Validator
from aiorelay.errors import Refused, StartupError
from aiorelay.upload import Part

__all__ = ["load"]


def load(
    name: str, pool: Executor, *, timeout: float | None = None, on_timeout: Callable[[], object] = lambda: None
) -> Maker:
    """Find the callable ``name``, ``(part: Part) -> Validator``, and make a check of it for every file.

    It is called, and its validators run, in threads of ``pool``, one call at a time for each file: they may be slow,
    but none may take longer than ``timeout`` seconds for a piece of the file or for its verdict. ``on_timeout`` is
    called for each that does.
    Raises ``StartupError`` if there is no such callable, saying which part of the name is wrong.
    """
    make_validator = _find(name)

    def make(part: Part) -> Check | None:
        if not part.is_file:
            return None
        return OffLoop(
            _Late(make_validator, part),
            pool,
            name=f"validator {name}",
            objections=Refused,
            timeout=timeout,
            on_timeout=on_timeout,
        )

    return make


def _find(name: str) -> Callable[[Part], Validator]:
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise StartupError(f"The validator {name!r} is not named as package.module:name.")
    try:
        found: object = import_module(module_name)
    except ModuleNotFoundError as missing:
        raise StartupError(f"The validator {name!r} needs a module that is not there: {missing.name}.") from missing
    except (Exception, SystemExit) as broken:  # whatever the user's module does, the sentence is owed
        why = " ".join(f"{type(broken).__name__}: {broken}".split())
        raise StartupError(f"The validator {name!r} cannot be imported: {why}.") from broken
    for step in attribute.split("."):
        if not hasattr(found, step):
            raise StartupError(f"The validator {name!r} does not exist: {module_name} has no {attribute}.")
        found = getattr(found, step)
    if not callable(found):
        raise StartupError(f"The validator {name!r} cannot be called: it must take a Part and give a Validator.")
    return cast("Callable[[Part], Validator]", found)


class _Late:
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
