"""What a kind of value is: how it is accepted, shown again, and kept from prying eyes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["InvalidValueError", "Kind"]

_LONGEST_QUOTE = 80


class InvalidValueError(ValueError):
    """A value does not fit its kind: ``fault`` goes on from it ("is not a size"), ``advice`` says what would do."""

    def __init__(self, fault: str, advice: str) -> None:
        super().__init__(fault)
        self.fault = fault
        self.advice = advice


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value.

    ``accept`` takes text or an already typed value and returns the typed one, or raises ``InvalidValueError``; it
    accepts what it returned. ``show`` gives text that ``accept`` takes. ``mask`` hides the secret in a text,
    well-formed or not, and marks the kind as one that has secrets. ``anchor`` makes a relative text absolute, as seen
    from a directory.
    """

    metavar: str
    accept: Callable[[object], Any]
    show: Callable[[Any], str] = str
    mask: Callable[[str], str] | None = None
    anchor: Callable[[str, Path], str] | None = None

    def quote(self, value: object) -> str:
        """Return ``value`` for a sentence: on one line, not too long, its secrets masked."""
        if self.mask is not None:
            value = self.mask(value if isinstance(value, str) else "")
        quoted = repr(str(value)) if isinstance(value, str | Path) else repr(value)
        return quoted if len(quoted) <= _LONGEST_QUOTE else f"{quoted[: _LONGEST_QUOTE - 4]}...{quoted[-1]}"
