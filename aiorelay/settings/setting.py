"""One setting: its names, kind and default, and the error for a wrong value."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiorelay.errors import StartupError
from aiorelay.settings.kinds import SWITCH, InvalidValueError, Kind

__all__ = ["Setting", "SettingsError", "many", "one", "suggestion"]


class SettingsError(StartupError):
    """An unknown setting or a wrong value. ``key`` is the setting's name, ``origin`` the source of the value."""

    def __init__(self, key: str, fault: str, advice: str, *, origin: str) -> None:
        end = "" if advice.endswith((".", "?")) else "."
        super().__init__(f"{key}: {fault} ({origin}); {advice}{end}")
        self.key = key
        self.fault = fault
        self.advice = advice

    def with_origin(self, origin: str) -> "SettingsError":
        """Return the same error for a value from ``origin``."""
        return SettingsError(self.key, self.fault, self.advice, origin=origin)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A setting and its names: ``max_size``, ``--max-size``, ``AIORELAY_MAX_SIZE``.

    ``otherwise`` describes the default in words if it is not a plain value.
    """

    name: str
    group: str
    kind: Kind
    help: str
    repeated: bool
    otherwise: str | None
    factory: Callable[[], object]

    @property
    def is_switch(self) -> bool:
        return self.kind is SWITCH

    @property
    def key(self) -> str:
        return self.name.replace("_", "-")

    @property
    def flag(self) -> str:
        return f"--{self.key}"

    @property
    def variable(self) -> str:
        return f"AIORELAY_{self.name.upper()}"

    def accept(self, value: object) -> Any:
        """Return the typed value, or the default for None. Raises ``SettingsError`` for a wrong value."""
        value = self.factory() if value is None else value
        if value is None:
            return None
        if not self.repeated:
            return self._one(value)
        items = value if isinstance(value, list | tuple | set | frozenset) else (value,)
        return tuple(self._one(item, number) for number, item in enumerate(items, 1))

    def _one(self, value: object, number: int = 1) -> Any:
        try:
            return self.kind.accept(value)
        except InvalidValueError as invalid:
            quoted = f"table {number}" if isinstance(value, Mapping) else self.kind.quote(value)
            fault = f"{quoted} {invalid.fault}"
            raise SettingsError(self.key, fault, invalid.advice, origin=f"argument {self.name}") from None

    def show(self, value: Any) -> str:
        """Return the typed ``value`` as readable text, with secrets masked."""
        if value is None or value == ():
            return self.otherwise or "none"
        items = value if self.repeated else (value,)
        texts = (self.kind.show(item) for item in items)
        return ", ".join(self.kind.mask(text) if self.kind.mask else text for text in texts)

    @property
    def default(self) -> str:
        """The default in words."""
        return self.otherwise or self.show(self.accept(None))


def one(
    group: str,
    kind: Kind,
    default: object,
    meaning: str,
    *,
    otherwise: str | None = None,
    repeated: bool = False,
) -> Any:
    """Return a dataclass field of ``Settings``. If ``default`` is a function, it is called for each default."""
    factory = default if callable(default) else lambda: default
    metadata = {"group": group, "kind": kind, "help": meaning, "otherwise": otherwise, "repeated": repeated}
    return field(default_factory=factory, repr=kind.mask is None, metadata=metadata)


def many(
    group: str,
    kind: Kind,
    meaning: str,
    *,
    default: Callable[[], tuple[str, ...]] = tuple,
    otherwise: str = "none",
) -> Any:
    """Return a dataclass field of ``Settings`` that holds a tuple of values."""
    return one(group, kind, default, meaning, otherwise=otherwise, repeated=True)


def suggestion(word: str, spellings: Iterable[str]) -> str | None:
    """Return the nearest of ``spellings`` to a mistyped ``word``, or None."""
    import difflib  # noqa: PLC0415 - needed only for mistakes

    return next(iter(difflib.get_close_matches(word, spellings, n=1)), None)
