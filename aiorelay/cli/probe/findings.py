"""Derive findings from the outcomes of the test uploads. Pure.

An answer of success counts as "taken", unless the API names the file in its other answers and not in this one: some
answer 200 to a form in which they saw no file.
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

# Too many requests, and unavailable: they say nothing about the upload.
_BUSY = {429, 503}

_NO_TLS = "the URL is http"
_WHAT_IT_WANTS = "give what it asks for with --field, --form, --filename, --content or --header"


@dataclass(frozen=True, slots=True)
class Finding:
    """A value, None where it could not be found out, and the reason in words."""

    value: bool | str | tuple[str, ...] | dict[str, float] | None
    reason: str


@dataclass(slots=True)
class Setup:
    """How the API is reached; ``unverified`` says why its certificate does not verify, if it does not."""

    url: URL
    field: str
    headers: tuple[tuple[str, str], ...] = ()
    cacert: Path | None = None
    unverified: str | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """An upload and what came of it."""

    upload: ProbeUpload
    outcome: ProbeOutcome

    @property
    def taken(self) -> bool:
        """Whether the answer is one of success."""
        return self.outcome.status is not None and 200 <= self.outcome.status < 300

    @property
    def refused(self) -> bool:
        """Whether the answer blames the request; a status from 500 on may well be an accident."""
        return self.outcome.status is not None and 400 <= self.outcome.status < 500 and not self.busy

    @property
    def busy(self) -> bool:
        return self.outcome.status in _BUSY or self.outcome.silence is NoAnswer.GONE

    @property
    def named(self) -> bool:
        """Whether the answer tells of the file by its name."""
        return self.outcome.mentions(self.upload.mark)


@dataclass(frozen=True, slots=True)
class AnswerDelay:
    """How long the API waits for a silent and for a dripping body, at most ``bound`` seconds; None if unreachable."""

    silent: Waited | None
    dripping: Waited | None
    bound: float


@dataclass(slots=True)
class Evidence:
    """The trials. Where the plain upload was not taken there is only one more: ``early``, sent by half.

    ``without_file`` is the form that no API can take; ``last`` is a plain upload after all
    others. ``cuts`` were broken off before their closing boundary, as the relay does it; ``unfinished`` is a whole
    request without one.
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
    def tells_apart(self) -> bool:
        """Whether the answer to the plain upload differs from that to a form without a file."""
        other = self.without_file
        return other is not None and (self.plain.named or self.plain.outcome.kind != other.outcome.kind)

    def took(self, trial: Trial) -> bool:
        if not trial.taken or (self.plain.named and not trial.named):
            return False
        return trial.named or self.without_file is None or trial.outcome.kind != self.without_file.outcome.kind

    def words(self, trial: Trial) -> str:
        """What the API did with an upload, as what goes on from "it"."""
        unnamed = trial.taken and not self.took(trial)
        return f"{trial.outcome} without naming the file" if unnamed else str(trial.outcome)


def is_complete(findings: Mapping[str, Finding], *, patience: bool) -> bool:
    """Whether every finding could be had; without ``patience`` that one was not asked for, nor TLS of an http URL."""
    unasked = {"tls_verified"} if findings["tls_verified"].reason == _NO_TLS else set()
    unasked |= set() if patience else {"patience"}
    return all(finding.value is not None for name, finding in findings.items() if name not in unasked)


def judge_unreached(setup: Setup, error: OSError) -> dict[str, Finding]:
    """The findings where no connection can be made; an unverified certificate is one that nothing is sent to."""
    unverified = isinstance(error, ssl.SSLCertVerificationError)
    why = "its certificate does not verify" if unverified else "it cannot be reached"
    findings = {name: Finding(None, why) for name in NAMES}
    findings["reachable"] = Finding(unverified, "it answers the TLS handshake" if unverified else _unreached(error))
    if isinstance(error, ssl.SSLCertVerificationError):
        reason = f"{_sentence(error.verify_message)}; --cacert names its CA, --insecure goes on without"
        findings["tls_verified"] = Finding(False, reason)
    elif setup.url.scheme == "http":
        findings["tls_verified"] = Finding(None, _NO_TLS)
    return findings


def judge(setup: Setup, evidence: Evidence) -> dict[str, Finding]:
    """Every finding by its name, in the order of ``NAMES``."""
    findings = {
        "reachable": Finding(True, "it takes connections"),
        "tls_verified": _tls_verified(setup),
        "answers_early": _answers_early(evidence),
    }
    if evidence.plain.taken and evidence.tells_apart:
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
            return "it does not speak TLS as it should; is the URL an http one?"
        case socket.gaierror():
            return "its name cannot be resolved"
        case TimeoutError():
            return "it does not take the connection in time"
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
        return Finding(False, f"{_sentence(setup.unverified)}; --insecure went on without")
    return Finding(True, f"by {setup.cacert}" if setup.cacert else "by the system's trust or the generated CA")


def _refusal(setup: Setup, evidence: Evidence) -> str:
    """Why nothing was seen to be taken: what the API said."""
    plain = evidence.plain
    if plain.taken:
        return (
            f"its answer to an upload is like that to a form without a file, so nothing was seen to be taken: it "
            f"{plain.outcome.excerpt}; {_WHAT_IT_WANTS}"
        )
    said = f"the plain upload was not taken: it {plain.outcome.excerpt}"
    match plain.outcome.status:
        case 404 | 405:
            return f"{said}; is there an upload API at this path?"
        case int(status) if 300 <= status < 400:
            return f"{said}; {_redirect(setup.url, plain.outcome)}"
        case 429 | 503:
            return f"{said}; try again later"
        case int(status) if 400 <= status <= 500:
            return f"{said}; {_WHAT_IT_WANTS}"
        case _:
            return said


def _redirect(url: URL, outcome: ProbeOutcome) -> str:
    """The URL to use instead of one that redirects."""
    try:
        target = url.join(URL(outcome.location or ""))
    except ValueError:
        return "its Location is no URL"
    return f"use {target}" if outcome.location else "it names no other URL"


def _patience(patience: AnswerDelay | None) -> Finding:
    if patience is None:
        return Finding(None, "not measured, as --no-patience says")
    if patience.silent is None or patience.dripping is None:
        return Finding(None, "it could not be reached any more when its patience was measured")
    for waited in (patience.silent, patience.dripping):
        if waited.refusal is not None:
            return Finding(None, f"not measured: it answered {waited.refusal} before an upload had ended")
    advice = "; use --upstream-mode spool" if patience.dripping.seconds < patience.bound else ""
    seconds = {"silent": patience.silent.seconds, "dripping": patience.dripping.seconds}
    return Finding(seconds, f"seconds that it waited for the rest of an upload, of {patience.bound:g}{advice}")


def _alive(evidence: Evidence) -> Finding:
    """Whether the last plain upload was taken as the first one was."""
    last = evidence.last
    if evidence.took(last):
        return Finding(True, "it took a plain upload after all others")
    return Finding(None, f"it {last.outcome.excerpt} to a plain upload after all others; is it still running?")


def _lengths(evidence: Evidence) -> dict[str, Finding]:
    """Whether chunked bodies are accepted, and Content-Length thus needed: the two are each other's opposite."""
    trial = evidence.chunked
    if trial is None or trial.busy:
        unknown = Finding(None, "the chunked upload was not judged" + (f": it {trial.outcome}" if trial else ""))
        return {"accepts_chunked": unknown, "needs_length": unknown}
    accepts = evidence.took(trial)
    reason = f"it {evidence.words(trial)} to a chunked upload"
    with_length = f"it {evidence.plain.outcome} to one with Content-Length"
    return {
        "accepts_chunked": Finding(accepts, reason),
        "needs_length": Finding(not accepts, reason if accepts else f"{with_length}, and {reason.removeprefix('it ')}"),
    }


def _keeps_truncated(evidence: Evidence) -> Finding:
    """Whether an upload that the relay breaks off counts as done for the API.

    Its answers tell, for it can answer a sending side that is closed. Where it hangs up instead, that it refuses a
    whole request whose form has no end is the next best sign.
    """
    names = _joined(trial.upload.filename for trial in evidence.cuts)
    look = f"to be sure, see that its storage holds no {names}, nor a temporary file with this name in its content"
    for trial in (evidence.early, *evidence.cuts):
        if evidence.took(trial):
            return Finding(True, f"it {trial.outcome} to an upload that was not whole; use --upstream-mode spool")
    did = _joined(evidence.words(trial) for trial in evidence.cuts)
    said = f"it {did} when an upload was cut off"
    if all(trial.refused for trial in evidence.cuts):
        return Finding(False, f"{said}; {look}")
    unfinished = evidence.unfinished
    if unfinished is not None and unfinished.refused:
        return Finding(False, f"{said}, and {unfinished.outcome} to a form without its end; {look}")
    return Finding(None, f"{said}; unless you see that its storage holds no {names}, use --upstream-mode spool")


def _order_sensitive(evidence: Evidence) -> Finding:
    first, last = evidence.field_first, evidence.field_last
    if first is None or last is None or first.busy or last.busy:
        return Finding(None, "the uploads with another field were not judged")
    taken = evidence.took(first), evidence.took(last)
    echoed = first.outcome.mentions(first.upload.extra_value), last.outcome.mentions(last.upload.extra_value)
    match taken:
        case (True, True) if echoed[0] != echoed[1]:
            return Finding(True, f"it sees only fields {'before' if echoed[0] else 'after'} the file")
        case (True, True):
            return Finding(False, "it takes fields before and after the file")
        case (False, False):
            return Finding(None, f"it {evidence.words(first)} to a form with a field of ours")
        case _:
            where, trial = ("after", last) if taken[0] else ("before", first)
            return Finding(True, f"it {evidence.words(trial)} to a field {where} the file")


def _filenames(evidence: Evidence) -> Finding:
    """Which forms of file names come back in the answer as they were sent."""
    survived = []
    fates: dict[str, list[str]] = {}
    for form, trial in evidence.names.items():
        if evidence.took(trial) and any(map(trial.outcome.mentions, trial.upload.spellings)):
            survived.append(form)
        elif evidence.took(trial):
            fates.setdefault("changed" if trial.named else "took", []).append(form)
        else:
            fates.setdefault(f"{evidence.words(trial)} to", []).append(form)
    told = "; ".join(f"it {fate} {', '.join(forms)}" for fate, forms in fates.items())
    if not evidence.plain.named:
        return Finding(None, f"its answers do not name the files; {told}")
    return Finding(tuple(survived), told or "all come back as they were sent")


def _answers_early(evidence: Evidence) -> Finding:
    outcome = evidence.early.outcome
    if outcome.silence is NoAnswer.LATE:
        return Finding(False, "it waits for the rest of an upload")
    said = f"it {outcome} while half of the upload was still to come"
    return Finding(None if outcome.status is None else True, said)


def _flags(setup: Setup, findings: Mapping[str, Finding]) -> Finding:
    flags = ["serve", "--upstream", str(setup.url)]
    patience = findings["patience"]
    cuts_dripping = isinstance(patience.value, dict) and "--upstream-mode spool" in patience.reason
    if findings["keeps_truncated"].value is not False or cuts_dripping:  # in doubt, the safe one
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
    note = "put the values of the headers for ***" if setup.headers else "to be pasted after aiorelay"
    return Finding(shlex.join(flags), note)


def _joined(words: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(words))
