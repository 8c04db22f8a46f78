"""The verdict of a scanner on one file, and what follows from it.

    Verdict        an outcome and its reason
    ScanPolicy     counts and logs a verdict; Verdict → the problem to raise, or None if the file passes

``clean``         the file passes
``infected``      the scanner found something and named it
``changed``       the scanner would change the file, or replace it by a page of its own
``unscannable``   the scanner cannot scan this file (too long, encrypted, nested too deep)
``unavailable``   no connection, no answer in time, or an invalid answer

With ``fail_open``, unscannable files and files without an answer pass.
"""

from collections.abc import Callable
from typing import Literal, NamedTuple

from aiorelay.errors import Infected, Problem, Refused, ScannerUnavailable, Unscannable
from aiorelay.observability.logs import log

__all__ = ["ScanOutcome", "ScanPolicy", "Verdict", "printable_name"]

ScanOutcome = Literal["clean", "infected", "changed", "unscannable", "unavailable"]

_LONGEST_NAME = 200


class Verdict(NamedTuple):
    """The result of one scan. ``reason`` is the name of what was found, or the reason for another outcome."""

    outcome: ScanOutcome
    reason: str = ""


def printable_name(name: str) -> str:
    """Return what a scanner calls its finding without control characters, and not too long for a log."""
    return "".join(c for c in name if c.isprintable())[:_LONGEST_NAME]


class ScanPolicy:
    """Decides what follows from a verdict.

    With ``fail_open``, files pass with a warning in the log if they are unscannable or the scanner is unavailable.
    ``on_outcome`` is called once for each verdict, before it takes effect.
    """

    def __init__(self, *, fail_open: bool, on_outcome: Callable[[ScanOutcome], None]) -> None:
        self._fail_open = fail_open
        self._on_outcome = on_outcome

    def problem(self, verdict: Verdict) -> Problem | None:
        """Count and log a verdict. Return the problem to raise, or None if the file passes."""
        self._on_outcome(verdict.outcome)
        match verdict.outcome:
            case "clean":
                return None
            case "infected":
                return Infected(f"The virus scanner found {verdict.reason}.")
            case "changed":
                log.warning("a file was refused: %s", verdict.reason)
                return Refused(f"The virus scanner does not let the file pass: {verdict.reason}.")
        action = "passed on" if self._fail_open else "refused"
        log.warning("a file was %s without a virus scan: %s", action, verdict.reason)
        if self._fail_open:
            return None
        if verdict.outcome == "unscannable":
            return Unscannable(f"The virus scanner cannot scan the file: {verdict.reason}.")
        return ScannerUnavailable("The virus scanner gave no verdict. Try again later.")
