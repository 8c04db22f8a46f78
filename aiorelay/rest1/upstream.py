"""Send one framed body to the upload API as one POST, and return its answer.

blocks ─▶ HeldBack ─▶ POST ─▶ answer     an exception in the blocks aborts the connection: the body never ends
                        ◀───────────     a refusal before the end of the body stops the sending
"""

import asyncio
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Self

import aiohttp
from aiohttp import hdrs
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDict
from yarl import URL

from aiorelay.concurrency.threads import wait_until_done
from aiorelay.concurrency.timeouts import Watchdog
from aiorelay.errors import UpstreamFailed, UpstreamProblem, UpstreamTimeout
from aiorelay.http.fields import replace_all
from aiorelay.multipart.framing import FramedBody
from aiorelay.observability.logs import log
from aiorelay.observability.tracing import NO_TRACING, Tracing
from aiorelay.rest1.held_back import HeldBack
from aiorelay.rest1.keep_alive import KeepAlive
from aiorelay.rest1.target import Target
from aiorelay.rest1.upstream_connection import Connector
from aiorelay.rest1.upstream_exchange import Exchange, UpstreamAnswer

__all__ = ["Upstream", "UpstreamTimeouts"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamTimeouts:
    """Timeouts of an upload API in seconds.

    ``idle``: for sending a block. ``answer``: for the response, after the last block. ``connect``: for connecting,
    including TLS.
    """

    idle: float
    answer: float
    connect: float = 10.0


class Upstream:
    """A client of the upload API at ``url``, used as a context manager.

    ``context`` verifies the certificate of an https URL, for ``server_name`` if it is given. ``headers`` are added to
    every request. ``server_keep_alive`` is the time in seconds for which the server is known to keep an idle connection
    open, or 0. ``tracing`` records every exchange.
    """

    def __init__(
        self,
        url: URL,
        *,
        context: ssl.SSLContext,
        server_name: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        timeouts: UpstreamTimeouts,
        server_keep_alive: float = 0.0,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self.url = url
        self._context = context
        self._server_name = server_name
        self._headers = tuple(headers)
        self._timeouts = timeouts
        self._connecting = aiohttp.ClientTimeout(total=None, sock_connect=timeouts.connect)
        self._writes = Watchdog(timeouts.idle)
        self._answers = Watchdog(timeouts.answer)
        self._server_keep_alive = server_keep_alive
        self._tracing = tracing
        self._redirect_warned = False

    async def __aenter__(self) -> Self:
        self._loop = loop = asyncio.get_running_loop()
        self._keep_alive = KeepAlive(time.monotonic, self._server_keep_alive)
        self._connector = Connector(self._keep_alive, ssl=self._context if self.url.scheme == "https" else True)
        # For the connector, which connects for a request. What is sent is another one.
        self._any_request = aiohttp.ClientRequest(
            hdrs.METH_POST, self.url, loop=loop, server_hostname=self._server_name
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._connector.unwatch()
        await self._connector.close()

    def post(
        self,
        framed: FramedBody,
        headers: "CIMultiDict[str]",
        target: Target,
        on_sent: Callable[[int], object] = lambda _bytes: None,
        *,
        notice: float = 0.0,
    ) -> AbstractAsyncContextManager[UpstreamAnswer]:
        """Send a body, and return the response as a context manager.

        A body of at most ``held_back.LIMIT`` bytes is read to its end before the connection is opened. ``target`` is
        relative to the URL. ``on_sent`` is called after each block with the number of bytes of the body written so far.
        After connecting, the first byte of the body is delayed by ``notice`` seconds. Raises whatever
        ``framed.blocks`` raises, ``UpstreamFailed`` and ``UpstreamTimeout``.
        """
        return self._request(target.method, target.url(self.url), framed, headers, on_sent, notice)

    def patch(
        self, url: URL, framed: FramedBody, headers: "CIMultiDict[str]"
    ) -> AbstractAsyncContextManager[UpstreamAnswer]:
        """Send a body to ``url``, which has the same origin, with PATCH (RFC 5789). Otherwise like ``post``."""
        return self._request(hdrs.METH_PATCH, url, framed, headers, lambda _bytes: None, 0.0)

    @asynccontextmanager
    async def _request(
        self,
        method: str,
        url: URL,
        framed: FramedBody,
        headers: "CIMultiDict[str]",
        on_sent: Callable[[int], object],
        notice: float,
    ) -> AsyncIterator[UpstreamAnswer]:
        held_back = HeldBack(framed.blocks)
        await held_back.look_ahead()
        replace_all(headers, self._headers)
        with self._tracing.exchange(method, url, headers) as answered:
            exchange = await self._connect(on_sent)
            try:
                await exchange.begin(method, url, headers, framed.length, answer_timeout=self._timeouts.answer)
                answer = await self._send(exchange, held_back, notice)
                answered(answer.status)
                self._warn_of_redirect(answer.status)
                yield answer
            finally:
                exchange.end()

    async def _connect(self, on_sent: Callable[[int], object]) -> Exchange:
        try:
            connection = await self._connector.connect(self._any_request, [], self._connecting)
            return Exchange(connection, self._loop, on_sent)
        except (aiohttp.ClientError, OSError, TimeoutError) as failure:
            self._keep_alive.reset()
            raise _problem(failure, reached=False, incomplete=True) from failure

    async def _send(self, exchange: Exchange, held_back: HeldBack, notice: float) -> UpstreamAnswer:
        """Send the body and return the answer to it."""
        is_accepting = True
        if held_back.is_whole and not notice:
            try:
                if await exchange.put_at_once(held_back.take()):
                    return await self._answer(exchange.answer(), exchange)
            except (OSError, aiohttp.ClientError):
                is_accepting = False
        answering = asyncio.create_task(exchange.answer())
        try:
            await self._write_unless_refused(held_back, exchange, answering, notice, is_accepting=is_accepting)
            return await self._answer(answering, exchange)
        finally:
            answering.cancel()
            await wait_until_done(answering)

    def _warn_of_redirect(self, status: int) -> None:
        """Warn once: a client that follows a redirect sends its body around the relay (RFC 9110, section 15.4)."""
        if status in {307, 308} and not self._redirect_warned:
            self._redirect_warned = True
            log.warning("the upload API redirects (%d), and clients would bypass the relay; correct --upstream", status)

    async def _answer(self, answering: Awaitable[UpstreamAnswer], exchange: Exchange) -> UpstreamAnswer:
        """Wait for the head of the response. The timeout applies to the whole head, not to each read."""
        try:
            with self._answers.watching():
                answer = await answering
        except (aiohttp.ClientError, HttpProcessingError, OSError, TimeoutError) as failure:
            self._keep_alive.reset()
            cause = aiohttp.SocketTimeoutError() if isinstance(failure, TimeoutError) else failure
            raise _problem(cause, reached=exchange.reached, incomplete=not exchange.is_whole) from failure
        if answer.status < 200:  # RFC 9110, section 15.2: not final, and the request has no Upgrade
            raise UpstreamFailed(
                "The upload API answered with a status that is not final.", error="http_protocol_error"
            )
        if _is_success(answer.status) and not exchange.is_whole:
            raise UpstreamFailed(
                "The upload API answered before it had received the whole body, and read no more of it.",
                error="connection_terminated",
                incomplete=True,
            )
        return answer

    async def reachable(self) -> bool:
        """Return whether a connection to the upstream, including TLS, can be established."""
        host, port = self.url.host, self.url.port
        context = self._context if self.url.scheme == "https" else None
        try:
            async with asyncio.timeout(self._timeouts.connect / 2):
                _, writer = await asyncio.open_connection(
                    host, port, ssl=context, server_hostname=(self._server_name or host) if context else None
                )
        except (OSError, TimeoutError):
            return False
        writer.transport.abort()
        return True

    async def _write_unless_refused(
        self,
        held_back: HeldBack,
        exchange: Exchange,
        answering: "asyncio.Task[UpstreamAnswer]",
        notice: float,
        *,
        is_accepting: bool,
    ) -> None:
        """Write the body to its end, or until the upstream refuses it."""
        try:
            async with asyncio.timeout(None) as sending:
                answering.add_done_callback(partial(_stop_if_final, sending))
                if notice:
                    await asyncio.sleep(notice)
                await self._write(held_back, exchange, is_accepting=is_accepting)
        except TimeoutError:
            if not sending.expired():
                raise

    async def _write(self, held_back: HeldBack, exchange: Exchange, *, is_accepting: bool) -> None:
        async def put(block: bytes | memoryview) -> None:
            # If the upstream accepts no more data, keep reading the body: a failed check is the more useful answer.
            nonlocal is_accepting
            if is_accepting:
                is_accepting = await self._is_accepted(exchange.put(block))

        await held_back.write_to(put)
        if is_accepting:
            await self._is_accepted(exchange.finish())

    async def _is_accepted(self, writing: Awaitable[None]) -> bool:
        """Await ``writing``. Return false if the connection has failed. Raises ``UpstreamTimeout``."""
        try:
            with self._writes.watching():
                await writing
        except TimeoutError:
            raise self._stalled() from None
        except (OSError, aiohttp.ClientError):
            return False  # the exchange fails too, with the reason
        return True

    def _stalled(self) -> UpstreamTimeout:
        detail = f"The upload API accepted no data for {self._writes.seconds:g} s."
        return UpstreamTimeout(detail, error="connection_write_timeout", incomplete=True)


def _is_success(status: int) -> bool:
    """Whether a status means that the body was accepted: 2xx, or 303 (RFC 9110, section 15.4.4)."""
    return status < 300 or status == 303


def _stop_if_final(sending: asyncio.Timeout, answering: "asyncio.Task[UpstreamAnswer]") -> None:
    """Stop the sending if the exchange has failed or the response is a refusal."""
    if answering.cancelled() or (answering.exception() is None and _is_success(answering.result().status)):
        return
    with suppress(RuntimeError):  # the sending has already ended
        sending.reschedule(0)


# Failures of the upstream, first match: end of the detail, and error type of RFC 9209, section 2.3.
_FAILURES: tuple[tuple[type[Exception], type[UpstreamProblem], str, str], ...] = (
    (aiohttp.SocketTimeoutError, UpstreamTimeout, "did not answer in time.", "http_response_timeout"),
    (TimeoutError, UpstreamFailed, "could not be reached in time.", "connection_timeout"),
    (aiohttp.ClientConnectorDNSError, UpstreamFailed, "has a host name that cannot be resolved.", "dns_error"),
    (
        aiohttp.ClientConnectorCertificateError,
        UpstreamFailed,
        "has a certificate that cannot be verified. Set --upstream-ca to its CA.",
        "tls_certificate_error",
    ),
    (aiohttp.ClientSSLError, UpstreamFailed, "failed in the TLS handshake.", "tls_protocol_error"),
    (
        aiohttp.ClientConnectorError,
        UpstreamFailed,
        "cannot be reached. Check that it is running.",
        "connection_refused",
    ),
    (HttpProcessingError, UpstreamFailed, "answered with invalid HTTP.", "http_protocol_error"),
    (
        aiohttp.ClientOSError,
        UpstreamFailed,
        "reset the connection. If it had answered, the answer was lost.",
        "connection_terminated",
    ),
    (Exception, UpstreamFailed, "closed the connection without an answer.", "connection_terminated"),
)


def _problem(failure: Exception, *, reached: bool, incomplete: bool) -> UpstreamProblem:
    """Convert a failure of the exchange to a problem whose detail contains no address."""
    kind, words, error = next(row[1:] for row in _FAILURES if isinstance(failure, row[0]))
    return kind(f"The upload API {words}", error=error, reached=reached, incomplete=incomplete)
