"""Derive findings from the outcomes of the test uploads. No I/O.

An upload counts as accepted if its answer is a success. Some APIs answer 200 to a form in which they found no file, so
the answer must also name the file if other answers do, and differ from the answer to a form without a file.
"""

import shlex
import socket
import ssl
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from yarl import URL

from aiorelay.cli.probe.http_client import NoAnswer, ProbeOutcome, Waited
from aiorelay.cli.probe.uploads import ProbeUpload
from aiorelay.settings import SETTINGS

__all__ = ["NAMES", "AnswerDelay", "Evidence", "Finding", "Setup", "Trial", "is_complete", "judge", "judge_unreached"]

NAMES = (
    "reachable",
    "tls_verified",
    "accepts_chunked",
    "needs_length",
    "keeps_truncated",
    "order_sensitive",
    "filenames",
    "answers_early",
    "patience",
    "alive",
    "flags",
)

# Too Many Requests and Service Unavailable: not a statement about the upload.
_BUSY = {429, 503}

_NO_TLS = "the URL is http"
_ADVICE = "give what it requires with --field, --form, --filename, --content or --header"


@dataclass(frozen=True, slots=True)
class Finding:
    """A value, None if unknown, and the reason as text."""

    value: bool | str | tuple[str, ...] | dict[str, float] | None
    reason: str


@dataclass(slots=True)
class Setup:
    """How to reach the API. ``unverified`` is the reason if its certificate cannot be verified."""

    url: URL
    field: str
    headers: tuple[tuple[str, str], ...] = ()
    cacert: Path | None = None
    unverified: str | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """An upload and its outcome."""

    upload: ProbeUpload
    outcome: ProbeOutcome

    @property
    def succeeded(self) -> bool:
        """Whether the status is a success (2xx)."""
        return self.outcome.status is not None and 200 <= self.outcome.status < 300

    @property
    def refused(self) -> bool:
        """Whether the status is a client error. A server error may be unrelated to the upload."""
        return self.outcome.status is not None and 400 <= self.outcome.status < 500 and not self.busy

    @property
    def busy(self) -> bool:
        return self.outcome.status in _BUSY or self.outcome.no_answer is NoAnswer.UNREACHABLE

    @property
    def named(self) -> bool:
        """Whether the answer contains the file's name."""
        return self.outcome.mentions(self.upload.mark)


@dataclass(frozen=True, slots=True)
class AnswerDelay:
    """How long the API waits for a silent and a dripping body, up to ``bound`` seconds. None: unreachable."""

    silent: Waited | None
    dripping: Waited | None
    bound: float


@dataclass(slots=True)
class Evidence:
    """The trials. If the plain upload is refused, only ``early`` is made in addition.

    ``early`` is an upload of which only half is sent. ``without_file`` is a form without a file, and ``last`` a plain
    upload after all others. ``cuts`` were cut off before their closing boundary, as the relay does. ``unfinished`` is a
    complete request whose form has no closing boundary.
    """

    early: Trial
    plain: Trial
    last: Trial
    without_file: Trial | None = None
    patience: AnswerDelay | None = None
    chunked: Trial | None = None
    field_first: Trial | None = None
    field_last: Trial | None = None
    names: Mapping[str, Trial] = field(default_factory=dict)
    cuts: Sequence[Trial] = ()
    unfinished: Trial | None = None

    @property
    def is_distinguishable(self) -> bool:
        """Whether the answer to the plain upload differs from that to a form without a file."""
        other = self.without_file
        return other is not None and (self.plain.named or self.plain.outcome.kind != other.outcome.kind)

    def accepted(self, trial: Trial) -> bool:
        if not trial.succeeded or (self.plain.named and not trial.named):
            return False
        return trial.named or self.without_file is None or trial.outcome.kind != self.without_file.outcome.kind

    def words(self, trial: Trial) -> str:
        """Return what the API did with an upload, as the continuation of a sentence that begins with "it"."""
        unnamed = trial.succeeded and not self.accepted(trial)
        return f"{trial.outcome} without naming the file" if unnamed else str(trial.outcome)


def is_complete(findings: Mapping[str, Finding], *, patience: bool) -> bool:
    """Whether every requested finding has a value. ``tls_verified`` is not requested for http URLs."""
    unasked = {"tls_verified"} if findings["tls_verified"].reason == _NO_TLS else set()
    unasked |= set() if patience else {"patience"}
    return all(finding.value is not None for name, finding in findings.items() if name not in unasked)


def judge_unreached(setup: Setup, error: OSError) -> dict[str, Finding]:
    """Return the findings if no connection can be opened or the certificate cannot be verified."""
    unverified = isinstance(error, ssl.SSLCertVerificationError)
    why = "its certificate cannot be verified" if unverified else "it cannot be reached"
    findings = {name: Finding(None, why) for name in NAMES}
    findings["reachable"] = Finding(unverified, "it answers the TLS handshake" if unverified else _unreached(error))
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = f"{_sentence(error.verify_message)}; give its CA with --cacert, or continue with --insecure"
        findings["tls_verified"] = Finding(False, reason)
    elif setup.url.scheme == "http":
        findings["tls_verified"] = Finding(None, _NO_TLS)
    return findings


def judge(setup: Setup, evidence: Evidence) -> dict[str, Finding]:
    """Return the findings by name, in the order of ``NAMES``."""
    findings = {
        "reachable": Finding(True, "it accepts connections"),
        "tls_verified": _tls_verified(setup),
        "answers_early": _answers_early(evidence),
    }
    if evidence.plain.succeeded and evidence.is_distinguishable:
        findings |= {
            **_lengths(evidence),
            "keeps_truncated": _keeps_truncated(evidence),
            "order_sensitive": _order_sensitive(evidence),
            "filenames": _filenames(evidence),
            "patience": _patience(evidence.patience),
            "alive": _alive(evidence),
        }
        findings["flags"] = _flags(setup, findings)
    refusal = Finding(None, _refusal(setup, evidence))
    return {name: findings.get(name, refusal) for name in NAMES}


def _unreached(error: OSError) -> str:
    match error:
        case ssl.SSLError():
            return "it is not a TLS server; does its URL begin with http://?"
        case socket.gaierror():
            return "its name cannot be resolved"
        case TimeoutError():
            return "it does not accept the connection in time"
        case ConnectionRefusedError():
            return "nothing listens there"
        case _:
            return _sentence(error.strerror or "the connection fails")


def _sentence(text: str) -> str:
    return text[:1].lower() + text[1:].rstrip(".")


def _tls_verified(setup: Setup) -> Finding:
    if setup.url.scheme == "http":
        return Finding(None, _NO_TLS)
    if setup.unverified is not None:
        return Finding(False, f"{_sentence(setup.unverified)}; continued because of --insecure")
    return Finding(True, f"by {setup.cacert}" if setup.cacert else "by the system's CAs or the generated CA")


def _refusal(setup: Setup, evidence: Evidence) -> str:
    """Return why no upload is known to be accepted, with the API's answer."""
    plain = evidence.plain
    if plain.succeeded:
        return (
            f"its answers to an upload and to a form without a file are alike, so its acceptance is unknown: it "
            f"{plain.outcome.excerpt}; {_ADVICE}"
        )
    said = f"the plain upload was not accepted: it {plain.outcome.excerpt}"
    match plain.outcome.status:
        case 404 | 405:
            return f"{said}; is there an upload API at this path?"
        case int(status) if 300 <= status < 400:
            return f"{said}; {_redirect(setup.url, plain.outcome)}"
        case 429 | 503:
            return f"{said}; try again later"
        case int(status) if 400 <= status <= 500:
            return f"{said}; {_ADVICE}"
        case _:
            return said


def _redirect(url: URL, outcome: ProbeOutcome) -> str:
    """Return the advice for an API that redirects."""
    try:
        target = url.join(URL(outcome.location or ""))
    except ValueError:
        return "its Location is not a URL"
    return f"use {target}" if outcome.location else "it names no other URL"


def _patience(patience: AnswerDelay | None) -> Finding:
    if patience is None:
        return Finding(None, "not measured because of --no-patience")
    if patience.silent is None or patience.dripping is None:
        return Finding(None, "it could not be reached any more when the wait was measured")
    for waited in (patience.silent, patience.dripping):
        if waited.refusal is not None:
            return Finding(None, f"not measured: it answered {waited.refusal} before an upload had ended")
    advice = "; use --upstream-mode spool" if patience.dripping.seconds < patience.bound else ""
    seconds = {"silent": patience.silent.seconds, "dripping": patience.dripping.seconds}
    return Finding(seconds, f"how long it waited for the rest of an upload, up to {patience.bound:g} s{advice}")


def _alive(evidence: Evidence) -> Finding:
    """Whether the last plain upload was accepted as the first one was."""
    last = evidence.last
    if evidence.accepted(last):
        return Finding(True, "it accepted a plain upload after all others")
    return Finding(None, f"it {last.outcome.excerpt} to a plain upload after all others; is it still running?")


def _lengths(evidence: Evidence) -> dict[str, Finding]:
    """Whether chunked bodies are accepted, and the opposite: whether Content-Length is needed."""
    trial = evidence.chunked
    if trial is None or trial.busy:
        unknown = Finding(None, "the chunked upload was not evaluated" + (f": it {trial.outcome}" if trial else ""))
        return {"accepts_chunked": unknown, "needs_length": unknown}
    accepts = evidence.accepted(trial)
    reason = f"it {evidence.words(trial)} to a chunked upload"
    with_length = f"it {evidence.plain.outcome} to one with Content-Length"
    return {
        "accepts_chunked": Finding(accepts, reason),
        "needs_length": Finding(not accepts, reason if accepts else f"{with_length}, and {reason.removeprefix('it ')}"),
    }


def _keeps_truncated(evidence: Evidence) -> Finding:
    """Whether the API treats an upload that the relay aborts as complete.

    The API can answer after the sending side is closed. If it closes the connection instead, the next best evidence is
    that it refuses a complete request whose form has no closing boundary.
    """
    names = _joined(trial.upload.filename for trial in evidence.cuts)
    look = f"to be sure, verify that its storage has no {names} and no temporary file that contains this name"
    for trial in (evidence.early, *evidence.cuts):
        if evidence.accepted(trial):
            return Finding(True, f"it {trial.outcome} to an incomplete upload; use --upstream-mode spool")
    did = _joined(evidence.words(trial) for trial in evidence.cuts)
    said = f"it {did} when an upload was cut off"
    if all(trial.refused for trial in evidence.cuts):
        return Finding(False, f"{said}; {look}")
    unfinished = evidence.unfinished
    if unfinished is not None and unfinished.refused:
        return Finding(False, f"{said}, and {unfinished.outcome} to a form without a closing boundary; {look}")
    return Finding(None, f"{said}; use --upstream-mode spool, unless its storage has no {names}")


def _order_sensitive(evidence: Evidence) -> Finding:
    first, last = evidence.field_first, evidence.field_last
    if first is None or last is None or first.busy or last.busy:
        return Finding(None, "the uploads with another field were not evaluated")
    taken = evidence.accepted(first), evidence.accepted(last)
    echoed = first.outcome.mentions(first.upload.extra_value), last.outcome.mentions(last.upload.extra_value)
    match taken:
        case (True, True) if echoed[0] != echoed[1]:
            return Finding(True, f"it sees only fields {'before' if echoed[0] else 'after'} the file")
        case (True, True):
            return Finding(False, "it accepts fields before and after the file")
        case (False, False):
            return Finding(None, f"it {evidence.words(first)} to a form with an additional field")
        case _:
            where, trial = ("after", last) if taken[0] else ("before", first)
            return Finding(True, f"it {evidence.words(trial)} to a field {where} the file")


def _filenames(evidence: Evidence) -> Finding:
    """Which kinds of file names the answers contain unchanged."""
    unchanged = []
    outcomes: dict[str, list[str]] = {}
    for form, trial in evidence.names.items():
        if evidence.accepted(trial) and any(map(trial.outcome.mentions, trial.upload.spellings)):
            unchanged.append(form)
        elif evidence.accepted(trial):
            outcomes.setdefault("changed" if trial.named else "accepted", []).append(form)
        else:
            outcomes.setdefault(f"{evidence.words(trial)} to", []).append(form)
    summary = "; ".join(f"it {outcome} {', '.join(forms)}" for outcome, forms in outcomes.items())
    if not evidence.plain.named:
        return Finding(None, f"its answers do not contain the file names; {summary}")
    return Finding(tuple(unchanged), summary or "its answers contain all names unchanged")


def _answers_early(evidence: Evidence) -> Finding:
    outcome = evidence.early.outcome
    if outcome.no_answer is NoAnswer.TIMEOUT:
        return Finding(False, "it waits for the rest of an upload")
    said = f"it {outcome} when half of the upload had been sent"
    return Finding(None if outcome.status is None else True, said)


def _flags(setup: Setup, findings: Mapping[str, Finding]) -> Finding:
    flags = ["serve", "--upstream", str(setup.url)]
    patience = findings["patience"]
    closes_on_drip = isinstance(patience.value, dict) and "--upstream-mode spool" in patience.reason
    if findings["keeps_truncated"].value is not False or closes_on_drip:  # if unknown, the safe mode
        flags += ["--upstream-mode", "spool"]
    if findings["accepts_chunked"].value is False:
        flags += ["--upstream-chunked", "never"]
    if setup.field != SETTINGS["field"].accept(None):
        flags += ["--field", setup.field]
    if setup.unverified is not None:
        flags += ["--upstream-insecure"]
    elif setup.cacert is not None:
        flags += ["--upstream-ca", str(setup.cacert)]
    for name, _ in setup.headers:
        flags += ["--upstream-header", f"{name}: ***"]
    note = "replace *** with the values of the headers" if setup.headers else "arguments of aiorelay"
    return Finding(shlex.join(flags), note)


def _joined(words: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(words))
