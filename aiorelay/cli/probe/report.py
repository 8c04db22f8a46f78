"""Format the findings as lines and as JSON."""

import json
from collections.abc import Iterator, Mapping

from aiorelay.cli.probe.findings import Finding

__all__ = ["as_json", "as_lines"]


def as_lines(findings: Mapping[str, Finding]) -> Iterator[str]:
    """Yield a line ``name: value  (reason)`` for each finding, and the flags on a line of their own.

    A reason that several findings share is printed once.
    """
    printed = set()
    for name, finding in findings.items():
        reason = "" if finding.reason in printed else f"  ({finding.reason})"
        printed.add(finding.reason)
        if name == "flags" and finding.value is not None:
            yield f"flags:{reason}"
            yield _text(finding.value)
        else:
            yield f"{name}: {_text(finding.value)}{reason}"


def as_json(findings: Mapping[str, Finding]) -> str:
    """Return a JSON object of the values by name, null if unknown, and ``reasons``, an object of texts."""
    values = {name: finding.value for name, finding in findings.items()}
    return json.dumps(values | {"reasons": {name: finding.reason for name, finding in findings.items()}})


def _text(value: bool | str | tuple[str, ...] | dict[str, float] | None) -> str:  # noqa: FBT001 - a value, not a switch
    match value:
        case None:
            return "unknown"
        case bool():
            return "yes" if value else "no"
        case dict():
            return ", ".join(f"{name} {seconds:g} s" for name, seconds in value.items())
        case tuple():
            return ", ".join(value) or "none"
        case _:
            return value
