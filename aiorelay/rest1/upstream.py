"""Send one framed body to the upload API as one POST, and return its answer.

blocks ─▶ HeldBack ─▶ POST ─▶ answer     an exception in the blocks aborts the connection: the body never ends
                        ◀───────────     a refusal before the end of the body stops the sending
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, TypeAlias

import aiohttp
from aiohttp import hdrs
from multidict import CIMultiDict
from yarl import URL

from aiorelay.concurrency.threads import wait_until_done
from aiorelay.concurrency.timeouts import Watchdog
from aiorelay.errors import UpstreamFailed, UpstreamProblem, UpstreamTimeout
from aiorelay.http.fields import replace_all, uniform_field_names
from aiorelay.multipart.framing import FramedBody
from aiorelay.observability.logs import log
from aiorelay.observability.tracing import NO_TRACING, Tracing
from aiorelay.rest1.held_back import HeldBack
from aiorelay.rest1.keep_alive import KeepAlive
from aiorelay.rest1.target import Target
from aiorelay.rest1.upstream_body import StreamedBody, UpstreamBody, WholeBody
from aiorelay.rest1.upstream_connection import Connector

__all__ = ["Upstream", "UpstreamTimeouts"]

# Header fields that aiohttp would add. Those of the client are passed on; missing ones are not added.
_NO_AUTO_HEADERS = (hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE)

_Request: TypeAlias = Callable[[UpstreamBody], Coroutine[Any, Any, aiohttp.ClientResponse]]


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
        self._watchdog = Watchdog(timeouts.idle)
        self._server_keep_alive = server_keep_alive
        self._tracing = tracing
        self._redirect_warned = False

    async def __aenter__(self) -> Self:
        self._keep_alive = KeepAlive(asyncio.get_running_loop().time, self._server_keep_alive)
        self._connector = Connector(self._keep_alive, ssl=self._context if self.url.scheme == "https" else True)
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=self._timeouts.connect, sock_read=self._timeouts.answer
            ),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_NO_AUTO_HEADERS,
            auto_decompress=False,
            trust_env=False,
            max_line_size=32 * 1024,
            max_field_size=32 * 1024,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._connector.unwatch()
        await self._session.close()

    def post(
        self,
        framed: FramedBody,
        headers: "CIMultiDict[str]",
        target: Target,
        on_sent: Callable[[int], object] = lambda _bytes: None,
        *,
        notice: float = 0.0,
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Send a body, and return the response as a context manager.

        A body of at most ``held_back.LIMIT`` bytes is read to its end before the connection is opened. ``target`` is
        relative to the URL. ``on_sent`` is called after each block with the number of bytes of the body written so far.
        After connecting, the first byte of the body is delayed by ``notice`` seconds. Raises whatever
        ``framed.blocks`` raises, ``UpstreamFailed`` and ``UpstreamTimeout``.
        """
        return self._request(target.method, target.url(self.url), framed, headers, on_sent, notice)

    def patch(
        self, url: URL, framed: FramedBody, headers: "CIMultiDict[str]"
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
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
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        held_back = HeldBack(framed.blocks)
        await held_back.look_ahead()
        replace_all(headers, self._headers)
        with self._tracing.exchange(method, url, headers) as answered:
            request = partial(self._exchange, method, url, headers)
            if held_back.is_whole and not notice:
                whole = WholeBody(held_back.whole(), framed.length, on_sent, self._watchdog)
                answering = self._send_whole(whole, request)
            else:
                answering = self._send_streamed(held_back, StreamedBody(framed.length, on_sent), request, notice)
            async with answering as answer:
                answered(answer.status)
                self._warn_of_redirect(answer.status)
                yield answer

    @asynccontextmanager
    async def _send_whole(self, body: WholeBody, request: _Request) -> AsyncIterator[aiohttp.ClientResponse]:
        answer = None
        try:
            answer = await self._answer(request(body), body)
            yield answer
        finally:
            body.disconnect(answer)

    @asynccontextmanager
    async def _send_streamed(
        self, held_back: HeldBack, body: StreamedBody, request: _Request, notice: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        exchange = asyncio.create_task(request(body))
        exchange.add_done_callback(body.exchange_ended)
        try:
            await self._write_streamed(held_back, body, exchange, notice)
            yield await self._answer(exchange, body)
        finally:
            await _end(exchange, body)

    def _warn_of_redirect(self, status: int) -> None:
        """Warn once: a client that follows a redirect sends its body around the relay (RFC 9110, section 15.4)."""
        if status in {307, 308} and not self._redirect_warned:
            self._redirect_warned = True
            log.warning("the upload API redirects (%d), and clients would bypass the relay; correct --upstream", status)

    async def _answer(self, exchange: Awaitable[aiohttp.ClientResponse], body: UpstreamBody) -> aiohttp.ClientResponse:
        """Wait for the head of the response. The timeout applies to the whole head, not to each read."""
        try:
            async with asyncio.timeout(None) as waiting:
                body.when_sent(partial(_reschedule, waiting, self._timeouts.answer))
                answer = await exchange
        except (aiohttp.ClientError, OSError, TimeoutError) as failure:
            self._keep_alive.reset()
            if body.is_stalled:
                raise self._stalled() from failure
            cause = aiohttp.SocketTimeoutError() if waiting.expired() else failure
            raise _problem(cause, reached=body.reached, incomplete=not body.is_whole) from failure
        if answer.status < 200:  # RFC 9110, section 15.2: not final, and the request has no Upgrade
            raise UpstreamFailed(
                "The upload API answered with a status that is not final.", error="http_protocol_error"
            )
        if _is_success(answer.status) and not await self._is_whole(body):
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

    async def _is_whole(self, body: UpstreamBody) -> bool:
        """Whether the connection accepts all of a body. A body may still be in its buffer after an early response."""
        return body.is_whole or (body.is_written and await self._is_accepted(body.flush()))

    async def _exchange(
        self, method: str, url: URL, headers: "CIMultiDict[str]", body: UpstreamBody
    ) -> aiohttp.ClientResponse:
        return await self._session.request(
            method,
            url,
            data=body,
            headers=uniform_field_names(headers),
            allow_redirects=False,
            server_hostname=self._server_name,
        )

    async def _write_streamed(
        self, held_back: HeldBack, body: StreamedBody, exchange: "asyncio.Task[aiohttp.ClientResponse]", notice: float
    ) -> None:
        """Write the body to its end, or until the upstream refuses it."""
        try:
            async with asyncio.timeout(None) as sending:
                exchange.add_done_callback(lambda done: _stop_if_final(done, sending))
                await body.opened
                if notice:
                    await asyncio.sleep(notice)
                await self._write(held_back, body)
        except TimeoutError:
            if not sending.expired():
                raise

    async def _write(self, held_back: HeldBack, body: StreamedBody) -> None:
        is_accepting = True

        async def put(block: bytes | memoryview) -> None:
            # If the upstream accepts no more data, keep reading the body: a failed check is the more useful answer.
            nonlocal is_accepting
            if is_accepting:
                is_accepting = await self._is_accepted(body.put(block))

        await held_back.write_to(put)
        body.finish(whole=is_accepting and await self._is_accepted(body.flush()))

    async def _is_accepted(self, writing: Awaitable[None]) -> bool:
        """Await ``writing``. Return false if the connection has failed. Raises ``UpstreamTimeout``."""
        try:
            with self._watchdog.watching():
                await writing
        except TimeoutError:
            raise self._stalled() from None
        except (OSError, aiohttp.ClientError):
            return False  # the exchange fails too, with the reason
        return True

    def _stalled(self) -> UpstreamTimeout:
        detail = f"The upload API accepted no data for {self._watchdog.seconds:g} s."
        return UpstreamTimeout(detail, error="connection_write_timeout", incomplete=True)


def _is_success(status: int) -> bool:
    """Whether a status means that the body was accepted: 2xx, or 303 (RFC 9110, section 15.4.4)."""
    return status < 300 or status == 303


def _stop_if_final(exchange: "asyncio.Task[aiohttp.ClientResponse]", sending: asyncio.Timeout) -> None:
    """Stop the sending if the exchange has failed or the response is a refusal."""
    if not exchange.cancelled() and (exchange.exception() is not None or not _is_success(exchange.result().status)):
        _reschedule(sending, 0)


def _reschedule(timeout: asyncio.Timeout, seconds: float) -> None:
    with suppress(RuntimeError):  # what it limits has already ended
        timeout.reschedule(asyncio.get_running_loop().time() + seconds)


async def _end(exchange: "asyncio.Task[aiohttp.ClientResponse]", body: StreamedBody) -> None:
    """Release the connection, even if cancelled. Abort it if the exchange is not complete."""
    body.release()
    exchange.cancel()
    try:
        await wait_until_done(exchange)
    finally:
        body.disconnect(None if exchange.cancelled() or exchange.exception() is not None else exchange.result())


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
    (aiohttp.ClientResponseError, UpstreamFailed, "answered with invalid HTTP.", "http_protocol_error"),
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
