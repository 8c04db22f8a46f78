"""Kinds of values: how each is read from text or a typed value, shown as text, and masked if it is secret.

Kind, InvalidValueError
size, time, count, PORT, RATE                                         amounts
choice, SWITCH, HEADER, TOKEN_HEADER, FIELD, MEDIA, VALIDATOR, WORD   words
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from aiorelay.http.grammar import RESTRICTED_NAME, is_token
from aiorelay.http.hop_by_hop import HOP_BY_HOP

__all__ = [
    "FIELD",
    "HEADER",
    "MEDIA",
    "PORT",
    "RATE",
    "STATUSES",
    "SWITCH",
    "TOKEN_HEADER",
    "VALIDATOR",
    "WORD",
    "InvalidValueError",
    "Kind",
    "Rate",
    "StatusRange",
    "choice",
    "count",
    "find_validator",
    "show_size",
    "show_time",
    "size",
    "time",
]

_LONGEST_QUOTE = 80


class InvalidValueError(ValueError):
    """A value that does not fit its kind. ``fault`` is the predicate ("is not a size"), ``advice`` what to write."""

    def __init__(self, fault: str, advice: str) -> None:
        super().__init__(fault)
        self.fault = fault
        self.advice = advice


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of value.

    ``accept`` converts text or a typed value, among them its own results, to the typed value; it raises
    ``InvalidValueError``. ``show`` converts a typed value to text that ``accept`` takes. ``mask`` hides the secret in a
    text, well-formed or not; only kinds with secrets have it. ``anchor`` makes a text relative to a directory absolute.
    ``separator`` separates several values in an environment variable.
    """

    metavar: str
    accept: Callable[[object], Any]
    show: Callable[[Any], str] = str
    mask: Callable[[str], str] | None = None
    anchor: Callable[[str, Path], str] | None = None
    separator: re.Pattern[str] = re.compile(",")

    def quote(self, value: object) -> str:
        """Return ``value`` for a message: on one line, shortened, with its secrets masked."""
        if self.mask is not None:
            value = self.mask(value if isinstance(value, str) else "")
        quoted = repr(str(value)) if isinstance(value, str | Path) else repr(value)
        return quoted if len(quoted) <= _LONGEST_QUOTE else f"{quoted[: _LONGEST_QUOTE - 4]}...{quoted[-1]}"


_AMOUNT = re.compile(r"([0-9]{1,19})(?:\.([0-9]{1,20}))? ?([A-Za-z]*)", re.ASCII)
_STATUSES = re.compile(r"([2-5][0-9]{2})(?:-([2-5][0-9]{2}))?", re.ASCII)
_WHOLE = re.compile(r"-?[0-9]{1,12}", re.ASCII)

_BINARY = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_DECIMAL = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE_UNITS = {"": 1, "b": 1} | {unit.lower(): factor for unit, factor in (_BINARY | _DECIMAL).items()}
_LARGEST_SIZE = 2**63 - 1  # the largest file offset

_LONGEST_TIME = 10**9
_SHORTEST_TIME = 0.001
_MILLISECONDS = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}

_SIZE_ADVICE = "try 500, 64KiB or 2GiB"
_TIME_ADVICE = "try 30s, 500ms or 5m"

Rate = tuple[int, float]
"""A number, and the time in seconds within which it is allowed."""

StatusRange = tuple[int, int]
"""The first and the last status of a range of final statuses (RFC 9110, section 15)."""


def size(*, least: int) -> Kind:
    """Sizes of at least ``least`` bytes: ``500``, ``64KiB``, ``1.5GiB``, ``1GB``, in either case, as whole bytes."""

    def accept(value: object) -> int:
        if isinstance(value, str):
            size = _size_of(value)
        elif isinstance(value, int) and not isinstance(value, bool) and value >= 0:
            size = value
        else:
            raise InvalidValueError("is not a size", _SIZE_ADVICE)
        if size < least:
            raise InvalidValueError(f"is less than {show_size(least)}", _SIZE_ADVICE)
        if size > _LARGEST_SIZE:
            raise InvalidValueError("is larger than any file", _SIZE_ADVICE)
        return size

    return Kind("SIZE", accept, show_size)


def _size_of(text: str) -> int:
    match = _AMOUNT.fullmatch(text.strip())
    factor = _SIZE_UNITS.get(match[3].lower()) if match else None
    if match is None or factor is None:
        raise InvalidValueError("is not a size", _SIZE_ADVICE)
    fraction = match[2] or ""
    tens: int = 10 ** len(fraction)
    whole, rest = divmod(int(match[1] + fraction) * factor, tens)
    if rest:
        raise InvalidValueError("is not a whole number of bytes", _SIZE_ADVICE)
    return whole


def show_size(size: int) -> str:
    """Return ``size`` (bytes) in the unit that gives the smallest exact number."""
    units = (_BINARY | _DECIMAL).items()
    exact = [(size // factor, unit) for unit, factor in units if size and not size % factor]
    number, unit = min(exact, default=(size, ""))
    return f"{number}{unit}"


def time(*, zero: bool = False) -> Kind:
    """Times in seconds: ``30s``, ``500ms``, ``5m``, ``1h``; a bare number is seconds. 0 needs ``zero``."""

    def accept(value: object) -> float:
        if isinstance(value, str):
            seconds = _seconds_of(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            seconds = value
        else:
            raise InvalidValueError("is not a time", _TIME_ADVICE)
        if not 0 <= seconds <= _LONGEST_TIME:  # also false for NaN
            raise InvalidValueError("is not a time", _TIME_ADVICE)
        if seconds < _SHORTEST_TIME and not (zero and seconds == 0):
            raise InvalidValueError("is too short a time", _TIME_ADVICE)
        return float(seconds)

    return Kind("TIME", accept, show_time)


def _seconds_of(text: str) -> float:
    match = _AMOUNT.fullmatch(text.strip())
    factor = _MILLISECONDS.get(match[3].lower() or "s") if match else None
    if match is None or factor is None:
        raise InvalidValueError("is not a time", _TIME_ADVICE)
    fraction = match[2] or ""
    tens: int = 10 ** len(fraction)
    # Integer arithmetic up to the division, so that 100ms is exactly 0.1.
    return int(match[1] + fraction) * factor / (1000 * tens)


def show_time(seconds: float) -> str:
    """Return ``seconds`` as a whole number of a unit if possible: 60 as 60s, 120 as 2m."""
    milliseconds = round(seconds * 1000)
    if milliseconds / 1000 != seconds:
        return f"{seconds!r}s"
    for unit in ("h", "m"):
        number, rest = divmod(milliseconds, _MILLISECONDS[unit])
        if number > 1 and not rest:
            return f"{number}{unit}"
    number, rest = divmod(milliseconds, 1000)
    return f"{milliseconds}ms" if rest else f"{number}s"


def count(*, least: int, most: int = 10**9 - 1, noun: str = "whole number") -> Kind:
    """Whole numbers from ``least`` to ``most``."""

    def accept(value: object) -> int:
        number: object = int(value) if isinstance(value, str) and _WHOLE.fullmatch(value.strip()) else value
        if not isinstance(number, int) or isinstance(number, bool):
            raise InvalidValueError(f"is not a {noun}", f"it goes from {least} to {most}")
        if not least <= number <= most:
            raise InvalidValueError("is out of range", f"it goes from {least} to {most}")
        return number

    return Kind("N", accept)


def _rate(value: object) -> Rate:
    match value:
        case str():
            number, _, period = value.strip().partition("/")
        case (number, period):
            pass
        case _:
            number = period = ""
    try:
        return count(least=1).accept(number), time().accept(period)
    except InvalidValueError:
        raise InvalidValueError("is not a rate", "try 100/1m") from None


RATE = Kind("N/TIME", _rate, lambda rate: f"{rate[0]}/{show_time(rate[1])}")
PORT = count(least=0, most=65535, noun="port")


def _statuses(value: object) -> StatusRange:
    match value:
        case (int(first), int(last)):
            text = f"{first}-{last}"
        case _:
            text = str(value).strip()
    found = _STATUSES.fullmatch(text)
    if found is None or int(found[1]) > int(found[2] or found[1]):
        raise InvalidValueError("is not a range of statuses", "try 200-299 or 302")
    return int(found[1]), int(found[2] or found[1])


def _show_statuses(statuses: StatusRange) -> str:
    first, last = statuses
    return str(first) if first == last else f"{first}-{last}"


STATUSES = Kind("STATUS[-STATUS]", _statuses, _show_statuses)


# Not allowed in a field value (RFC 9110, section 5.5). Surrogates are bytes of an argument that are not UTF-8.
_NOT_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f\ud800-\udfff]")
# A media type, or a type with any subtype; an ending may have several dots.
_MEDIA = re.compile(rf"{RESTRICTED_NAME}/(?:\*|{RESTRICTED_NAME})")
_WORD = re.compile(r"[!#-\[\]-~]+", re.ASCII)
_ENDING = re.compile(r"\.[^\s/\\*?]+")

# The relay frames its own request: another field about the body's length or type would break it (RFC 9110, section
# 7.6.1; RFC 9112, section 6).
_OURS = HOP_BY_HOP | {"content-encoding", "content-length", "content-type", "expect"}


def choice(*words: str) -> Kind:
    """One of ``words``, in either case."""

    def accept(value: object) -> str:
        word = value.strip().lower() if isinstance(value, str) else ""
        if word not in words:
            raise InvalidValueError("is not on offer", f"choose {' or '.join(words)}")
        return word

    return Kind("|".join(words), accept)


def _switch(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = value.strip().lower() if isinstance(value, str) else ""
    if word not in ("true", "false"):
        raise InvalidValueError("is neither true nor false", "write true or false")
    return word == "true"


def _header(value: object) -> tuple[str, str]:
    advice = "write it as 'Name: value'"
    if isinstance(value, str):
        name, colon, content = value.partition(":")
        value = (name, content) if colon else None
    match value:
        case (str(name), str(content)) if is_token(name):
            content = content.strip(" \t")
        case _:
            raise InvalidValueError("is not a header line", advice)
    if _NOT_IN_VALUE.search(content):
        raise InvalidValueError("has a control character in its value", advice)
    if name.lower() in _OURS:
        raise InvalidValueError("is a header that the relay sets itself", "leave it out")
    return name, content


def _show_header(header: tuple[str, str]) -> str:
    return ": ".join(header)


def _without_content(line: str) -> str:
    name, colon, _ = line.partition(":")
    return f"{name}: ***" if colon and is_token(name) else "***"


def _token_header(value: object) -> str:
    if not isinstance(value, str) or not is_token(value):
        raise InvalidValueError("is not the name of a header", "try X-Relay-Token")
    if value.lower() in _OURS | {"cookie", "host"}:
        raise InvalidValueError("is a header with another use", "try X-Relay-Token")
    return value


def _word(value: object) -> str:
    # Scopes have no spaces, quotes or backslashes (RFC 6749, section 3.3), and neither have the URIs of issuers.
    if not isinstance(value, str) or not _WORD.fullmatch(value):
        raise InvalidValueError("is not one word", "write it without spaces, quotes and backslashes")
    return value


def _field(value: object) -> str:
    # Clients escape a quote in three ways, and forms with a backslash in a name are refused.
    if not isinstance(value, str) or not value or not value.isprintable() or {"\\", '"'} & set(value):
        raise InvalidValueError("is not a field name", "name the form field that carries the file")
    return value


def _media(value: object) -> str:
    word = value.strip().lower() if isinstance(value, str) else ""
    if not _MEDIA.fullmatch(word) and not _ENDING.fullmatch(word):
        raise InvalidValueError("is neither a media type nor an ending", "try image/*, application/pdf or .csv")
    return word


def _validator(value: object) -> str:
    module, _, name = value.strip().partition(":") if isinstance(value, str) else ("", "", "")
    if not all(word.isidentifier() for word in (*module.split("."), *name.split("."))):
        raise InvalidValueError("does not name a validator", "write it as package.module:name")
    find_validator(f"{module}:{name}")
    return f"{module}:{name}"


def find_validator(name: str) -> Callable[..., object]:
    """Import the callable ``package.module:name``. Raises ``InvalidValueError``, which says what is wrong."""
    module_name, _, attribute = name.partition(":")
    try:
        found: object = import_module(module_name)
    except ModuleNotFoundError as missing:
        raise InvalidValueError(
            f"needs the module {missing.name}, which is not installed", "add its folder to PYTHONPATH"
        ) from missing
    except (Exception, SystemExit) as broken:  # the user's module may raise anything
        why = " ".join(f"{type(broken).__name__}: {broken}".split())
        raise InvalidValueError(
            f"cannot be imported: {why}", f"see what 'python -c \"import {module_name}\"' says"
        ) from broken
    for step in attribute.split("."):
        if not hasattr(found, step):
            raise InvalidValueError(f"does not exist: {module_name} has no {attribute}", "correct the name")
        found = getattr(found, step)
    if not callable(found):
        raise InvalidValueError("cannot be called", "name a callable that takes a FileInfo and returns a validator")
    return found


SWITCH = Kind("true|false", _switch, lambda on: "true" if on else "false")
HEADER = Kind("'NAME: VALUE'", _header, _show_header, mask=_without_content)
FIELD = Kind("NAME", _field)
WORD = Kind("TEXT", _word)
TOKEN_HEADER = Kind("NAME", _token_header)
MEDIA = Kind("TYPE|.ENDING", _media)
VALIDATOR = Kind("MODULE:NAME", _validator)
