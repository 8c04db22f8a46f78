"""Which uploads are tried, in which order."""

import secrets
import ssl
from dataclasses import dataclass
from pathlib import Path

from yarl import URL

from aiorelay.probe.findings import Evidence, Finding, Setup, Trial, judge, judge_unreached
from aiorelay.probe.uploads import FILENAMES, Upload
from aiorelay.probe.wire import Wire
from aiorelay.tls import client_context

__all__ = ["Target", "probe"]

# Seconds to wait for the answer to a whole upload, and for one that comes before the upload is whole.
_PATIENCE = 15.0
_EARLY = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The upload API to probe.

    ``field`` is the form field of the file, ``headers`` go with every request, ``cacert`` (PEM) is trusted instead of
    the system's CAs and ``own_ca``; ``insecure`` goes on where the certificate does not verify.
    """

    url: URL
    field: str
    headers: tuple[tuple[str, str], ...] = ()
    cacert: Path | None = None
    own_ca: Path | None = None
    insecure: bool = False


def probe(target: Target) -> dict[str, Finding]:
    """Send test uploads and give every finding by its name, in the order of ``NAMES``.

    Blocks for as long as the API takes to answer. Raises StartupError where a CA file cannot be used.
    """
    setup = Setup(target.url, target.field, target.headers, target.cacert)
    try:
        wire, setup.unverified = _connect(target)
    except OSError as error:
        return judge_unreached(setup, error)
    return judge(setup, _Trials(wire, target.field).evidence())


def _connect(target: Target) -> tuple[Wire, str | None]:
    """Give the way to the API, and why its certificate does not verify where that is so."""
    authorities = [path for path in (target.cacert or target.own_ca,) if path is not None]
    context = client_context(authorities, system_trust=target.cacert is None)
    wire = Wire(target.url, context, target.headers)
    try:
        wire.dial().close()
    except ssl.SSLCertVerificationError as error:
        if not target.insecure:
            raise
        wire = Wire(target.url, client_context(verify=False), target.headers)
        wire.dial().close()
        return wire, error.verify_message
    return wire, None


class _Trials:
    """The trials of one run; their files share a random word."""

    def __init__(self, wire: Wire, field: str) -> None:
        self._wire = wire
        self._field = field
        self._run = secrets.token_hex(4)

    def evidence(self) -> Evidence:
        plain = self._whole(self._upload("plain"))
        early = self._early()
        if not plain.taken:
            return Evidence(plain=plain, early=early)
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
        )

    def _upload(
        self, label: str, special: str = "", *, extra_before: bool = False, extra_after: bool = False
    ) -> Upload:
        mark = f"aiorelay-probe-{self._run}-{label}"
        return Upload(self._field, mark, special, extra_before, extra_after)

    def _whole(self, upload: Upload) -> Trial:
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
        self, upload: Upload, length: int, body: bytes, *, patience: float = _PATIENCE, cut: bool = False
    ) -> Trial:
        headers = [("Content-Type", upload.content_type), ("Content-Length", str(length))]
        return Trial(upload, self._wire.post(headers, body, patience=patience, cut=cut))

    def _chunked(self, upload: Upload) -> Trial:
        body = _chunk(upload.body) + b"0\r\n\r\n"
        return Trial(upload, self._wire.post(_chunked_headers(upload), body, patience=_PATIENCE))

    def _chunked_cut(self) -> Trial:
        upload = self._upload("chunked-cut")
        body = _chunk(upload.unfinished)
        return Trial(upload, self._wire.post(_chunked_headers(upload), body, patience=_PATIENCE, cut=True))


def _chunked_headers(upload: Upload) -> list[tuple[str, str]]:
    return [("Content-Type", upload.content_type), ("Transfer-Encoding", "chunked")]


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)
