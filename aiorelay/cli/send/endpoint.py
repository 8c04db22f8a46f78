"""Send one form or document to a relay or an upload API. Return its answer or raise ``SendError``."""

import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Self

import aiohttp
from aiohttp import hdrs
from multidict import CIMultiDict
from yarl import URL

from aiorelay.cli.send.results import Answer, SendError
from aiorelay.errors import UpstreamProblem
from aiorelay.http.grammar import essence
from aiorelay.multipart.framing import FramedBody
from aiorelay.rest1.target import Target
from aiorelay.rest1.upstream import Upstream, UpstreamTimeouts
from aiorelay.rest1.upstream_exchange import UpstreamAnswer

__all__ = ["Endpoint", "Reply", "Unanswered"]

# A write may wait as long as a relay waits for its own upstream. The wait for the answer includes the time in which a
# relay that spools sends the upload to its upstream.
_TIMEOUTS = UpstreamTimeouts(idle=300.0, answer=3600.0)
_LONGEST_ANSWER = 16 * 1024 * 1024

# OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED, _HOSTNAME_MISMATCH and _IP_ADDRESS_MISMATCH.
_EXPIRED = 10
_MISMATCHES = {62, 64}


class Unanswered(SendError):  # noqa: N818 - as SendError, it is a message for the user
    """The connection could not be made, or was lost."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer, and the URL of the job if the relay answered before the work was done (RFC 7240)."""

    answer: Answer
    headers: Mapping[str, str]
    job: URL | None = None


class Endpoint:
    """A connection to the URL of an upload endpoint, used as a context manager.

    ``context`` verifies an https ``url``; ``headers`` go with every request.
    """

    def __init__(self, url: URL, *, context: ssl.SSLContext, headers: Mapping[str, str]) -> None:
        self.url = url
        self._upstream = Upstream(url, context=context, headers=headers.items(), timeouts=_TIMEOUTS)

    async def __aenter__(self) -> Self:
        await self._upstream.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._upstream.__aexit__()

    async def post(
        self, framed: FramedBody, headers: Mapping[str, str], on_sent: Callable[[int], object] = lambda _bytes: None
    ) -> Reply:
        """Send a body and return the answer, even if it arrives before the body has been sent.

        Raises ``SendError`` (``Unanswered`` if it is due to the connection), and the exceptions of the body's iterator.
        """
        with self._unanswered():
            async with self._upstream.post(framed, CIMultiDict(headers), Target(), on_sent) as response:
                return await self._reply(response)

    async def patch(self, url: URL, framed: FramedBody, headers: Mapping[str, str]) -> Reply:
        """Send a body to ``url``, which has the same origin, with PATCH. Otherwise like ``post``."""
        with self._unanswered():
            async with self._upstream.patch(url, framed, CIMultiDict(headers)) as response:
                return await self._reply(response)

    @contextmanager
    def _unanswered(self) -> Iterator[None]:
        try:
            yield
        except UpstreamProblem as problem:
            kind = SendError if problem.error == "tls_certificate_error" else Unanswered
            raise kind(_message(problem, self.url)) from problem

    async def _reply(self, response: UpstreamAnswer) -> Reply:
        if 300 <= response.status < 400 and hdrs.LOCATION in response.headers:
            target = response.headers[hdrs.LOCATION]
            raise SendError(f"The server redirects to {target}. Repeat with --to {target}.")
        body = b""
        try:
            async for block in response.content.iter_any():
                body += block
                if len(body) > _LONGEST_ANSWER:
                    raise SendError(
                        f"The answer (status {response.status}) is larger than {_LONGEST_ANSWER >> 20} MiB."
                        " Is the URL that of an upload API?"
                    )
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise Unanswered(
                f"The connection was lost during the answer (status {response.status}). Try again."
            ) from error
        media_type = essence(response.headers.get(hdrs.CONTENT_TYPE, ""))
        return Reply(Answer(response.status, media_type, body), response.headers, self._job(response))

    def _job(self, response: UpstreamAnswer) -> URL | None:
        applied = response.headers.get("Preference-Applied", "").lower()
        if response.status != 202 or not applied.startswith("respond-async") or hdrs.LOCATION not in response.headers:
            return None
        job = self.url.join(URL(response.headers[hdrs.LOCATION]))
        return job if job.origin() == self.url.origin() else None  # the token must not be sent to another origin


# The messages for the error types of RFC 9209, section 2.3.
_MESSAGES = {
    "tls_protocol_error": "{origin} is not a TLS server. Does its URL begin with http://?",
    "dns_error": "The name {host} cannot be resolved. Give the relay's URL with --to.",
    "connection_refused": "{origin} cannot be reached. Is the relay running there?",
    "connection_timeout": "{origin} did not accept the connection in time. Is the relay running there?",
    "connection_write_timeout": f"{{origin}} accepted no byte for {_TIMEOUTS.idle:g} s. Try again later.",
    "http_response_timeout": f"{{origin}} did not answer in {_TIMEOUTS.answer:g} s. It may have stored the file.",
    "http_protocol_error": "The answer of {origin} is not HTTP. Does its URL begin with https://?",
}


def _message(problem: UpstreamProblem, url: URL) -> str:
    """Return why there is no answer and what to do."""
    if problem.error == "tls_certificate_error":
        return _certificate_message(problem.__cause__, url.origin())
    hint = " Does its URL begin with https://?" if url.scheme == "http" else " Try again later."
    message = _MESSAGES.get(problem.error, "{origin} closed the connection without an answer." + hint)
    return message.format(origin=url.origin(), host=url.host)


def _certificate_message(cause: BaseException | None, origin: URL) -> str:
    """Return why a certificate was not accepted and what to do."""
    error = cause.certificate_error if isinstance(cause, aiohttp.ClientConnectorCertificateError) else None
    code = error.verify_code if isinstance(error, ssl.SSLCertVerificationError) else None
    if code in _MISMATCHES:
        return f"The certificate of {origin} is for other names. Use one of them with --to."
    if code == _EXPIRED:
        return f"The certificate of {origin} has expired. Its operator must renew it."
    return f"The certificate of {origin} is not trusted. Give its CA with --cacert."
