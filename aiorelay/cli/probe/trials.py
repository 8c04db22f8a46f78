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

# Seconds to wait for the answer to a whole upload, and for one that comes before the upload is whole.
_PATIENCE = 15.0
_EARLY = 1.0
# Seconds after which a wait of the API counts as long enough, and what drips meanwhile each second, as the relay's
# own pace while it awaits a verdict.
_BOUND = 90.0
_DRIP = b"\n" * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The upload API to probe.

    ``form`` are fields that the API wants, ``filename`` the end of the files' names, ``content`` what the files hold.
    ``patience`` measures how long the API waits, which takes up to 90 s.
    ``field`` is the form field of the file, ``headers`` go with every request, ``cacert`` (PEM) is trusted instead of
    the system's CAs and ``own_ca``; ``insecure`` goes on where the certificate does not verify.
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
    """Send test uploads and give every finding by its name, in the order of ``NAMES``.

    Blocks for as long as the API takes to answer. Raises StartupError where a CA file cannot be used.
    """
    setup = Setup(target.url, target.field, target.headers, target.cacert)
    try:
        client, setup.unverified = _connect(target)
    except OSError as error:
        return judge_unreached(setup, error)
    return judge(setup, _Trials(client, target).evidence())


def _connect(target: Target) -> tuple[HttpClient, str | None]:
    """Give the way to the API, and why its certificate does not verify where that is so."""
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
    """The trials of one run; their files share a random word."""

    def __init__(self, client: HttpClient, target: Target) -> None:
        self._client = client
        self._target = target
        self._run = secrets.token_hex(4)

    def evidence(self) -> Evidence:
        plain = self._whole(self._upload("plain"))
        early = self._early()
        if not plain.taken:
            return Evidence(plain=plain, early=early, last=plain)
        without_file = self._whole(self._upload("without-file", has_file=False))
        if not Evidence(plain=plain, early=early, without_file=without_file, last=plain).tells_apart:
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
            cuts=[self._cut(), self._chunked_cut()] if chunked.taken else [self._cut()],
            unfinished=self._unfinished(),
            without_file=without_file,
            patience=self._patience() if self._target.patience else None,
            last=self._whole(self._upload("last")),
        )

    def _patience(self) -> AnswerDelay:
        """Measure a silent and a dripping body side by side."""

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
        return self._with_length(upload, len(body), body[: len(body) // 2], patience=_EARLY)

    def _cut(self) -> Trial:
        upload = self._upload("cut")
        return self._with_length(upload, len(upload.body), upload.unfinished, cut=True)

    def _unfinished(self) -> Trial:
        upload = self._upload("unfinished")
        return self._with_length(upload, len(upload.unfinished), upload.unfinished)

    def _with_length(
        self, upload: ProbeUpload, length: int, body: bytes, *, patience: float = _PATIENCE, cut: bool = False
    ) -> Trial:
        headers = [("Content-Type", upload.content_type), ("Content-Length", str(length))]
        return Trial(upload, self._client.post(headers, body, patience=patience, cut=cut))

    def _chunked(self, upload: ProbeUpload) -> Trial:
        body = _chunk(upload.body) + b"0\r\n\r\n"
        return Trial(upload, self._client.post(_chunked_headers(upload), body, patience=_PATIENCE))

    def _chunked_cut(self) -> Trial:
        upload = self._upload("chunked-cut")
        body = _chunk(upload.unfinished)
        return Trial(upload, self._client.post(_chunked_headers(upload), body, patience=_PATIENCE, cut=True))


def _chunked_headers(upload: ProbeUpload) -> list[tuple[str, str]]:
    return [("Content-Type", upload.content_type), ("Transfer-Encoding", "chunked")]


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
