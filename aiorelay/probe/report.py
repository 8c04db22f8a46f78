"""The findings for people and for programs."""

import json
from collections.abc import Iterator, Mapping

from aiorelay.probe.findings import Finding

__all__ = ["as_json", "as_lines"]


def as_lines(findings: Mapping[str, Finding]) -> Iterator[str]:
    """One line for each finding: ``name: value  (reason)``."""
    for name, finding in findings.items():
        yield f"{name}: {_words(finding.value)}  ({finding.reason})"


def as_json(findings: Mapping[str, Finding]) -> str:
    """One object: each value by its name, null where it is unknown, and ``reasons``, an object of sentences."""
    values = {name: finding.value for name, finding in findings.items()}
    return json.dumps(values | {"reasons": {name: finding.reason for name, finding in findings.items()}})


def _words(value: bool | str | tuple[str, ...] | None) -> str:  # noqa: FBT001 - a value, not a switch
    match value:
        case None:
            return "unknown"
        case bool():
            return "yes" if value else "no"
        case tuple():
            return ", ".join(value) or "none"
        case _:
            return value
