"""Send the test uploads in order and collect their outcomes."""

import secrets
import ssl
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from yarl import URL

from aiorelay.certificates.tls import client_context
from aiorelay.cli.probe.findings import AnswerDelay, Evidence, Finding, Setup, Trial, judge, judge_unreached
from aiorelay.cli.probe.http_client import HttpClient, Waited
from aiorelay.cli.probe.uploads import FILENAMES, ProbeUpload

__all__ = ["Target", "probe"]

# Seconds to wait for the answer to a complete upload, and to an incomplete one.
_ANSWER_TIMEOUT = 15.0
_EARLY_ANSWER_TIMEOUT = 1.0
# The longest wait to measure, in seconds, and the bytes to send each second meanwhile: the rate of the relay while it
# waits for a verdict.
_BOUND = 90.0
_DRIP = b"\n" * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The upload API to probe.

    ``field`` is the form field of the file. ``form`` holds fields that the API requires. ``filename`` is the end of the
    files' names, and ``content`` their content. ``headers`` are sent with every request. ``cacert`` (PEM) replaces the
    system's CAs and ``own_ca`` as the trusted CAs. ``insecure`` accepts a certificate that cannot be verified.
    ``patience`` measures how long the API waits for a slow body, which takes up to 90 s.
    """

    url: URL
    field: str
    headers: tuple[tuple[str, str], ...] = ()
    cacert: Path | None = None
    own_ca: Path | None = None
    insecure: bool = False
    form: tuple[tuple[str, str], ...] = ()
    filename: str | None = None
    content: bytes | None = None
    patience: bool = True


def probe(target: Target) -> dict[str, Finding]:
    """Send test uploads. Return the findings by name, in the order of ``NAMES``.

    Blocks until the API has answered. Raises StartupError if a CA file cannot be used.
    """
    setup = Setup(target.url, target.field, target.headers, target.cacert)
    try:
        client, setup.unverified = _connect(target)
    except OSError as error:
        return judge_unreached(setup, error)
    return judge(setup, _Trials(client, target).evidence())


def _connect(target: Target) -> tuple[HttpClient, str | None]:
    """Return a client of the API, and the reason if its certificate cannot be verified."""
    authorities = [path for path in (target.cacert or target.own_ca,) if path is not None]
    context = client_context(authorities, system_trust=target.cacert is None)
    client = HttpClient(target.url, context, target.headers)
    try:
        client.dial().close()
    except ssl.SSLCertVerificationError as error:
        if not target.insecure:
            raise
        client = HttpClient(target.url, client_context(verify=False), target.headers)
        client.dial().close()
        return client, error.verify_message
    return client, None


class _Trials:
    """The trials of one run. The names of their files contain the same random word."""

    def __init__(self, client: HttpClient, target: Target) -> None:
        self._client = client
        self._target = target
        self._run = secrets.token_hex(4)

    def evidence(self) -> Evidence:
        plain = self._whole(self._upload("plain"))
        early = self._early()
        if not plain.succeeded:
            return Evidence(plain=plain, early=early, last=plain)
        without_file = self._whole(self._upload("without-file", has_file=False))
        if not Evidence(plain=plain, early=early, without_file=without_file, last=plain).is_distinguishable:
            last = self._whole(self._upload("last"))
            return Evidence(plain=plain, early=early, without_file=without_file, last=last)
        chunked = self._chunked(self._upload("chunked"))
        return Evidence(
            plain=plain,
            early=early,
            chunked=chunked,
            field_first=self._whole(self._upload("field-first", extra_before=True)),
            field_last=self._whole(self._upload("field-last", extra_after=True)),
            names={
                form: plain if form == "plain" else self._whole(self._upload(f"name-{form}", special))
                for form, special in FILENAMES.items()
            },
            cuts=[self._cut(), self._chunked_cut()] if chunked.succeeded else [self._cut()],
            unfinished=self._unfinished(),
            without_file=without_file,
            patience=self._patience() if self._target.patience else None,
            last=self._whole(self._upload("last")),
        )

    def _patience(self) -> AnswerDelay:
        """Measure a silent and a dripping body in parallel."""

        def measure(label: str, drip: bytes) -> Waited | None:
            upload = self._upload(label)
            length = len(upload.unfinished) + int(_BOUND * 2) * len(_DRIP)
            headers = [("Content-Type", upload.content_type), ("Content-Length", str(length))]
            return self._client.wait(headers, upload.unfinished, drip=drip, bound=_BOUND)

        with ThreadPoolExecutor(2) as pool:
            silent, dripping = pool.map(measure, ("silent", "dripping"), (b"", _DRIP))
        return AnswerDelay(silent, dripping, _BOUND)

    def _upload(
        self,
        label: str,
        special: str = "",
        *,
        extra_before: bool = False,
        extra_after: bool = False,
        has_file: bool = True,
    ) -> ProbeUpload:
        target = self._target
        return ProbeUpload(
            target.field,
            f"aiorelay-probe-{self._run}-{label}",
            special,
            extra_before,
            extra_after,
            ending=f"-{target.filename}" if target.filename else ".txt",
            fields=target.form,
            content=target.content,
            has_file=has_file,
        )

    def _whole(self, upload: ProbeUpload) -> Trial:
        return self._with_length(upload, len(upload.body), upload.body)

    def _early(self) -> Trial:
        upload = self._upload("early")
        body = upload.body
        return self._with_length(upload, len(body), body[: len(body) // 2], patience=_EARLY_ANSWER_TIMEOUT)

    def _cut(self) -> Trial:
        upload = self._upload("cut")
        return self._with_length(upload, len(upload.body), upload.unfinished, cut=True)

    def _unfinished(self) -> Trial:
        upload = self._upload("unfinished")
        return self._with_length(upload, len(upload.unfinished), upload.unfinished)

    def _with_length(
        self, upload: ProbeUpload, length: int, body: bytes, *, patience: float = _ANSWER_TIMEOUT, cut: bool = False
    ) -> Trial:
        headers = [("Content-Type", upload.content_type), ("Content-Length", str(length))]
        return Trial(upload, self._client.post(headers, body, patience=patience, cut=cut))

    def _chunked(self, upload: ProbeUpload) -> Trial:
        body = _chunk(upload.body) + b"0\r\n\r\n"
        return Trial(upload, self._client.post(_chunked_headers(upload), body, patience=_ANSWER_TIMEOUT))

    def _chunked_cut(self) -> Trial:
        upload = self._upload("chunked-cut")
        body = _chunk(upload.unfinished)
        return Trial(upload, self._client.post(_chunked_headers(upload), body, patience=_ANSWER_TIMEOUT, cut=True))


def _chunked_headers(upload: ProbeUpload) -> list[tuple[str, str]]:
    return [("Content-Type", upload.content_type), ("Transfer-Encoding", "chunked")]


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
