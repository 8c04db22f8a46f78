"""Post one form or document to a relay or an upload API; return its answer, or say why there is none."""

import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import aiohttp
from aiohttp import hdrs
from multidict import CIMultiDict
from yarl import URL

from aiorelay.cli.send.results import Answer, SendError
from aiorelay.errors import UpstreamProblem
from aiorelay.multipart.framing import FramedBody
from aiorelay.rest1.upstream import Upstream, UpstreamTimeouts

__all__ = ["Endpoint", "Reply"]

# For a block to be taken, as long as a relay's upstream may need; for the answer, as a relay that spools begins its own
# sending only then.
_TIMEOUTS = UpstreamTimeouts(idle=300.0, answer=3600.0)
_LONGEST_ANSWER = 16 * 1024 * 1024

# OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED, _HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH.
_EXPIRED = 10
_MISMATCHES = {62, 64}


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and where the job is that was begun instead of doing all the work at once (RFC 7240)."""

    answer: Answer
    job: URL | None = None


class Endpoint:
    """Where forms or documents are posted to, for as long as the context lasts.

    ``context`` verifies an https ``url``; ``headers`` go with every request.
    """

    def __init__(self, url: URL, *, context: ssl.SSLContext, headers: Mapping[str, str]) -> None:
        self._url = url
        self._upstream = Upstream(url, context=context, headers=headers.items(), timeouts=_TIMEOUTS)

    async def __aenter__(self) -> Self:
        await self._upstream.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._upstream.__aexit__()

    async def post(
        self, framed: FramedBody, headers: Mapping[str, str], on_sent: Callable[[int], object] = lambda _bytes: None
    ) -> Reply:
        """Send a body and give the answer, even one that comes before the end.

        Raises ``SendError``, and what the body raises.
        """
        try:
            async with self._upstream.post(framed, CIMultiDict(headers), "", on_sent) as response:
                return await self._reply(response)
        except UpstreamProblem as problem:
            raise SendError(_words(problem, self._url)) from problem

    async def _reply(self, response: aiohttp.ClientResponse) -> Reply:
        if 300 <= response.status < 400 and hdrs.LOCATION in response.headers:
            raise SendError(f"It is to be sent elsewhere; give that URL with --to: {response.headers[hdrs.LOCATION]}")
        body = b""
        try:
            async for block in response.content.iter_any():
                body += block
                if len(body) > _LONGEST_ANSWER:
                    raise SendError(f"The answer, {response.status}, does not end after {_LONGEST_ANSWER >> 20} MiB")
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise SendError(f"The answer, {response.status}, broke off") from error
        return Reply(Answer(response.status, response.content_type, body), self._job(response))

    def _job(self, response: aiohttp.ClientResponse) -> URL | None:
        applied = response.headers.get("Preference-Applied", "").lower()
        if response.status != 202 or not applied.startswith("respond-async") or hdrs.LOCATION not in response.headers:
            return None
        job = self._url.join(URL(response.headers[hdrs.LOCATION]))
        return job if job.origin() == self._url.origin() else None  # elsewhere the token has no business


# Why there is no answer, by the error type of RFC 9209, section 2.3.
_WORDS = {
    "tls_protocol_error": "{origin} does not speak TLS as it should; does its URL begin with http://?",
    "dns_error": "The name {host} cannot be resolved; give the relay's URL with --to",
    "connection_refused": "{origin} cannot be reached; is the relay running there?",
    "connection_timeout": "{origin} could not be reached in time; is the relay running there?",
    "connection_write_timeout": f"{{origin}} took no byte for {_TIMEOUTS.idle:g} s; try again later",
    "http_response_timeout": f"{{origin}} did not answer in {_TIMEOUTS.answer:g} s; it may have stored the file",
    "http_protocol_error": "{origin} answers with what is not HTTP; does its URL begin with https://?",
}


def _words(problem: UpstreamProblem, url: URL) -> str:
    """Why there is no answer, as one sentence."""
    if problem.error == "tls_certificate_error":
        return _distrust(problem.__cause__, url.origin())
    hint = "; does its URL begin with https://?" if url.scheme == "http" else ""
    words = _WORDS.get(problem.error, "{origin} closed the connection without an answer" + hint)
    return words.format(origin=url.origin(), host=url.host)


def _distrust(cause: BaseException | None, origin: URL) -> str:
    """Why a certificate was not accepted."""
    error = cause.certificate_error if isinstance(cause, aiohttp.ClientConnectorCertificateError) else None
    code = error.verify_code if isinstance(error, ssl.SSLCertVerificationError) else None
    if code in _MISMATCHES:
        return f"The certificate of {origin} is for other names; use one of them with --to"
    if code == _EXPIRED:
        return f"The certificate of {origin} has expired; its operator has to renew it"
    return f"The certificate of {origin} is not trusted; give its CA with --cacert"
