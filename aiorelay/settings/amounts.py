"""Amounts: sizes in bytes, times in seconds, counts, ports and ranges of statuses."""

import re

from aiorelay.settings.kinds import InvalidValueError, Kind

__all__ = ["PORT", "STATUSES", "StatusRange", "count", "show_size", "show_time", "size", "time"]

_AMOUNT = re.compile(r"([0-9]{1,19})(?:\.([0-9]{1,20}))? ?([A-Za-z]*)", re.ASCII)
_STATUSES = re.compile(r"([2-5][0-9]{2})(?:-([2-5][0-9]{2}))?", re.ASCII)
_WHOLE = re.compile(r"[0-9]{1,9}", re.ASCII)

_BINARY = {"KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40}
_DECIMAL = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE_UNITS = {"": 1, "b": 1} | {unit.lower(): factor for unit, factor in (_BINARY | _DECIMAL).items()}
_LARGEST_SIZE = 2**63 - 1  # what a file offset can hold

_LONGEST_TIME = 10**9
_SHORTEST_TIME = 0.001
_MILLISECONDS = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}

_SIZE_ADVICE = "try 500, 64KiB or 2GiB"
_TIME_ADVICE = "try 30s, 500ms or 5m"

StatusRange = tuple[int, int]
"""The first and the last of some final statuses (RFC 9110, section 15)."""


def size(*, least: int) -> Kind:
    """Sizes of ``least`` bytes or more: ``500``, ``64KiB``, ``1.5GiB``, ``1GB``, in either case, as whole bytes."""

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
    """Return ``size`` in the unit that gives the smallest exact number."""
    units = (_BINARY | _DECIMAL).items()
    exact = [(size // factor, unit) for unit, factor in units if size and not size % factor]
    number, unit = min(exact, default=(size, ""))
    return f"{number}{unit}"


def time(*, zero: bool = False) -> Kind:
    """Times in seconds, ``30s``, ``500ms``, ``5m``, ``1h``; a bare number is seconds. Nought only if ``zero`` is."""

    def accept(value: object) -> float:
        if isinstance(value, str):
            seconds = _seconds_of(value)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            seconds = value
        else:
            raise InvalidValueError("is not a time", _TIME_ADVICE)
        if not 0 <= seconds <= _LONGEST_TIME:  # not a number included
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
    # Whole numbers as long as possible: 100ms must be 0.1 and not its neighbour.
    return int(match[1] + fraction) * factor / (1000 * tens)


def show_time(seconds: float) -> str:
    """Return ``seconds`` as a whole number of some unit if possible; one minute stays 60s, two are 2m."""
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
        if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
            raise InvalidValueError(f"is not a {noun}", f"it goes from {least} to {most}")
        return number

    return Kind("N", accept)


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
