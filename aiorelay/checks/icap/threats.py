"""Read the fields in which ICAP services name a threat (draft-stecher-icap-subid-00). Does no I/O.

X-Infection-Found: Type=0; Resolution=2; Threat=EICAR;     Type 0: virus, 1: policy, 2: cannot be scanned
X-Virus-ID: EICAR                                          X-Virus-Name means the same
X-Violations-Found: 1                                      then four lines for each: file, threat, problem, solution
"""

from collections.abc import Mapping

from aiorelay.checks.verdicts import ScanOutcome, Verdict, printable_name
from aiorelay.http.grammar import read_parameters

__all__ = ["find_threat"]

_OUTCOMES: Mapping[str, ScanOutcome] = {"1": "changed", "2": "unscannable"}


def find_threat(fields: Mapping[str, str]) -> Verdict | None:
    """Return the verdict that the fields of an answer state, by lower-case name; None if they name no threat.

    A field that is there but cannot be read is a threat too.
    """
    infection = fields.get("x-infection-found")
    name = _threat_of(infection) or _virus_of(fields) or _violation_of(fields)
    if infection is None and name is None:
        return None
    name = printable_name(name or "") or "a threat that it does not name"
    kind = read_parameters(f";{infection or ''}").get("type", "").strip()
    outcome = _OUTCOMES.get(kind, "infected")
    return Verdict(outcome, f"the ICAP service reports {name}" if outcome != "infected" else name)


def _threat_of(infection: str | None) -> str | None:
    return read_parameters(f";{infection}").get("threat") if infection is not None else None


def _virus_of(fields: Mapping[str, str]) -> str | None:
    return fields.get("x-virus-id") or fields.get("x-virus-name")


def _violation_of(fields: Mapping[str, str]) -> str | None:
    """Return the threat of the first violation, the third line of the field; None if there are 0 violations."""
    lines = fields.get("x-violations-found", "0").split("\n")
    if lines[0].strip() == "0":
        return None
    return lines[2] if len(lines) > 2 else "a threat that it does not name"
