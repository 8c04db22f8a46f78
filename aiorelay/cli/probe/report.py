"""Print the findings, as lines and as JSON."""

import json
from collections.abc import Iterator, Mapping

from aiorelay.cli.probe.findings import Finding

__all__ = ["as_json", "as_lines"]


def as_lines(findings: Mapping[str, Finding]) -> Iterator[str]:
    """One line for each finding, ``name: value  (reason)``, each reason once; the flags end it alone."""
    told = set()
    for name, finding in findings.items():
        reason = "" if finding.reason in told else f"  ({finding.reason})"
        told.add(finding.reason)
        if name == "flags" and finding.value is not None:
            yield f"flags:{reason}"
            yield _words(finding.value)
        else:
            yield f"{name}: {_words(finding.value)}{reason}"


def as_json(findings: Mapping[str, Finding]) -> str:
    """One object: each value by its name, null where it is unknown, and ``reasons``, an object of sentences."""
    values = {name: finding.value for name, finding in findings.items()}
    return json.dumps(values | {"reasons": {name: finding.reason for name, finding in findings.items()}})


def _words(value: bool | str | tuple[str, ...] | dict[str, float] | None) -> str:  # noqa: FBT001 - a value, not a switch
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
