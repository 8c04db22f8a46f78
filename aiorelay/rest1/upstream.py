"""Send one framed body to the upload API as one POST, and return its answer.

blocks ─▶ held back ─▶ POST ─▶ answer     a block that raises cuts the connection: the body never ends
                         ◀───────────     an answer that comes before the end ends the sending
"""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Self

import aiohttp
from aiohttp import hdrs
from aiohttp.abc import AbstractStreamWriter
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
from aiorelay.rest1.upstream_connection import Connector

__all__ = ["Upstream", "Waits"]

# What the connection takes at once, and what it, and TLS before it, may keep: each of them copies what it cannot send.
_PIECE = 64 * 1024
_KEPT = 64 * 1024
# What aiohttp would add by itself; the client's own are passed on, and nothing is added for it.
_NOT_OURS = (hdrs.USER_AGENT, hdrs.ACCEPT, hdrs.ACCEPT_ENCODING, hdrs.CONTENT_TYPE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Waits:
    """How long an upload API is waited for, in seconds.

    ``idle``: for it to take a block. ``answer``: for its answer, after the last block. ``connect``: for a connection,
    TLS included.
    """

    idle: float
    answer: float
    connect: float = 10.0


class Upstream:
    """An upload API behind ``url``, for as long as the context lasts.

    ``context`` verifies an https one, as ``server_name`` if that is given. ``headers`` are added to every request.
    ``keeps_idle`` is how long in seconds it is known to leave an idle connection open. ``tracing`` is told of every
    exchange.
    """

    def __init__(
        self,
        url: URL,
        *,
        context: ssl.SSLContext,
        server_name: str | None = None,
        headers: Iterable[tuple[str, str]] = (),
        waits: Waits,
        keeps_idle: float = 0.0,
        tracing: Tracing = NO_TRACING,
    ) -> None:
        self.url = url
        self._context = context
        self._server_name = server_name
        self._headers = tuple(headers)
        self._waits = waits
        self._watchdog = Watchdog(waits.idle)
        self._keeps_idle = keeps_idle
        self._tracing = tracing
        self._redirect_warned = False

    async def __aenter__(self) -> Self:
        self._keep_alive = KeepAlive(asyncio.get_running_loop().time, self._keeps_idle)
        self._connector = Connector(self._keep_alive, ssl=self._context if self.url.scheme == "https" else True)
        self._session = aiohttp.ClientSession(
            connector=self._connector,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._waits.connect, sock_read=self._waits.answer),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=_NOT_OURS,
            auto_decompress=False,
            trust_env=False,
            max_line_size=32 * 1024,
            max_field_size=32 * 1024,
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        self._connector.unwatch()
        await self._session.close()

    @asynccontextmanager
    async def post(
        self,
        framed: FramedBody,
        headers: "CIMultiDict[str]",
        query: str,
        on_sent: Callable[[int], object] = lambda _bytes: None,
        *,
        notice: float = 0.0,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a body, and give the answer for as long as the context lasts.

        The connection is opened once there is something to send: a body of at most ``held_back.LIMIT`` bytes is read
        to its end first. ``query`` is joined to the URL's own as it is. ``on_sent`` is told how many bytes of the body
        have been written so far, after each block. The first byte waits for ``notice`` seconds on its connection.
        Raises whatever ``framed.blocks`` raises, and ``UpstreamFailed`` or ``UpstreamTimeout``.
        """
        held_back = HeldBack(framed.blocks)
        await held_back.look_ahead()
        replace_all(headers, self._headers)
        with self._tracing.exchange(headers, self.url) as answered:
            body = _Body(framed.length, on_sent)
            exchange = asyncio.create_task(self._exchange(body, headers, query))
            exchange.add_done_callback(body.abandon)
            try:
                await self._send(held_back, body, exchange, notice)
                answer = await self._answer(exchange, body)
                answered(answer.status)
                self._warn_of_redirect(answer.status)
                yield answer
            finally:
                await _end(exchange, body)

    def _warn_of_redirect(self, status: int) -> None:
        """Warn once: a client that follows a redirect sends its body again, past the relay (RFC 9110, section 15.4)."""
        if status in {307, 308} and not self._redirect_warned:
            self._redirect_warned = True
            log.warning("the upload API redirects (%d): clients would go around the relay; correct --upstream", status)

    async def _answer(self, exchange: "asyncio.Task[aiohttp.ClientResponse]", body: "_Body") -> aiohttp.ClientResponse:
        """Wait for the answer, for so long as ``waits`` says, however lively its head drips."""
        try:
            async with asyncio.timeout(self._waits.answer) as waiting:
                answer = await exchange
        except (aiohttp.ClientError, OSError, TimeoutError) as failure:
            self._keep_alive.forget()
            raise _problem(
                aiohttp.SocketTimeoutError() if waiting.expired() else failure, reached=body.reached
            ) from failure
        if answer.status < 200:  # RFC 9110, section 15.2: no end of a request that did not ask for another protocol
            raise UpstreamFailed(
                "The upload API answered with a status that is not final.", error="http_protocol_error"
            )
        if _is_success(answer.status) and not body.is_whole:
            raise UpstreamFailed(
                "The upload API answered before it had the whole body, and took no more of it.",
                error="connection_terminated",
            )
        return answer

    async def reachable(self) -> bool:
        """Whether a connection to the upstream can be made, TLS included."""
        host, port = self.url.host, self.url.port
        context = self._context if self.url.scheme == "https" else None
        try:
            async with asyncio.timeout(self._waits.connect / 2):
                _, writer = await asyncio.open_connection(
                    host, port, ssl=context, server_hostname=(self._server_name or host) if context else None
                )
        except (OSError, TimeoutError):
            return False
        writer.transport.abort()
        return True

    async def _exchange(self, body: "_Body", headers: "CIMultiDict[str]", query: str) -> aiohttp.ClientResponse:
        return await self._session.post(
            URL(_with_query(str(self.url), query), encoded=True),
            data=body,
            headers=uniform_field_names(headers),
            allow_redirects=False,
            server_hostname=self._server_name,
        )

    async def _send(
        self, held_back: HeldBack, body: "_Body", exchange: "asyncio.Task[aiohttp.ClientResponse]", notice: float
    ) -> None:
        """Write the body to its end, or until an answer makes the rest of it pointless."""
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

    async def _write(self, held_back: HeldBack, body: "_Body") -> None:
        taking = True

        async def put(block: bytes | memoryview) -> None:
            # Where the upstream takes no more, the rest is read all the same, if for nobody: what may be wrong with it
            # is the better answer.
            nonlocal taking
            if taking:
                taking = await self._is_taken(body.put(block))

        await held_back.write_to(put)
        body.finish(whole=taking and await self._is_taken(body.flush()))

    async def _is_taken(self, writing: Awaitable[None]) -> bool:
        """Await ``writing``, and say whether the connection was there to take it. Raises ``UpstreamTimeout``."""
        try:
            with self._watchdog.watching():
                await writing
        except TimeoutError:
            raise UpstreamTimeout(
                f"The upload API took no byte for {self._watchdog.seconds:g} s.", error="connection_write_timeout"
            ) from None
        except (OSError, aiohttp.ClientError):
            return False  # the exchange ends too, and knows why
        return True


def _pieces(block: bytes | memoryview) -> Iterator[memoryview]:
    view = memoryview(block)
    return (view[at : at + _PIECE] for at in range(0, len(block), _PIECE))


def _is_success(status: int) -> bool:
    """Whether an answer means that the body was taken: 2xx, or 303 (RFC 9110, section 15.4.4)."""
    return status < 300 or status == 303


def _stop_if_final(exchange: "asyncio.Task[aiohttp.ClientResponse]", sending: asyncio.Timeout) -> None:
    """End the sending once the exchange has failed or its answer is one of refusal."""
    if not exchange.cancelled() and (exchange.exception() is not None or not _is_success(exchange.result().status)):
        with suppress(RuntimeError):  # the sending had ended by itself
            sending.reschedule(0)


async def _end(exchange: "asyncio.Task[aiohttp.ClientResponse]", body: "_Body") -> None:
    """Let go of the connection, cancelled or not; one whose exchange is not complete is cut."""
    body.drop()
    exchange.cancel()
    try:
        await wait_until_done(exchange)
    finally:
        answer = None if exchange.cancelled() or exchange.exception() is not None else exchange.result()
        # A connection that the answer has let go of may be the next upload's by now, with that one's bytes in it.
        if answer is None or (answer.connection is not None and not (answer.closed and body.is_out())):
            body.cut()
            if answer is not None:
                answer.close()


# What went wrong with the upstream, the first that fits: in words, and as RFC 9209, section 2.3 names it.
_FAILURES: tuple[tuple[type[Exception], type[UpstreamProblem], str, str], ...] = (
    (aiohttp.SocketTimeoutError, UpstreamTimeout, "did not answer in time.", "http_response_timeout"),
    (TimeoutError, UpstreamFailed, "could not be reached in time.", "connection_timeout"),
    (aiohttp.ClientConnectorDNSError, UpstreamFailed, "has a name that cannot be resolved.", "dns_error"),
    (
        aiohttp.ClientConnectorCertificateError,
        UpstreamFailed,
        "has a certificate that cannot be verified; --upstream-ca names its CA.",
        "tls_certificate_error",
    ),
    (aiohttp.ClientSSLError, UpstreamFailed, "does not speak TLS as it should.", "tls_protocol_error"),
    (aiohttp.ClientConnectorError, UpstreamFailed, "cannot be reached; is it running?", "connection_refused"),
    (aiohttp.ClientResponseError, UpstreamFailed, "answered with what is not HTTP.", "http_protocol_error"),
    (
        aiohttp.ClientOSError,
        UpstreamFailed,
        "reset the connection; if it had answered before, its answer was lost with it.",
        "connection_terminated",
    ),
    (Exception, UpstreamFailed, "closed the connection without an answer.", "connection_terminated"),
)


def _problem(failure: Exception, *, reached: bool) -> UpstreamProblem:
    """Tell a failure of the exchange in words that hold no address."""
    kind, words, error = next(row[1:] for row in _FAILURES if isinstance(failure, row[0]))
    return kind(f"The upload API {words}", error=error, reached=reached)


def _with_query(url: str, query: str) -> str:
    if not query:
        return url
    return f"{url}{'&' if '?' in url else '?'}{query}"


class _Body(aiohttp.Payload):
    """A request body that its owner writes itself, through the writer that ``opened`` gives.

    Written in the owner's own task: what its blocks raise is raised there, and there is no queue between.
    """

    def __init__(self, length: int | None, on_sent: Callable[[int], object]) -> None:
        super().__init__(None)
        self.reached = False
        self.is_whole = False
        self._sent = 0
        self._on_sent = on_sent
        self._size = length
        self._writing = asyncio.Lock()
        self._writer: AbstractStreamWriter | None = None
        self._transport: asyncio.WriteTransport | None = None
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self._is_over: asyncio.Future[None] = loop.create_future()

    async def put(self, block: bytes | memoryview) -> None:
        """Write a block after those that others write. Raises an ``OSError`` or ``ClientError`` if that cannot be."""
        if self._writer is None:
            raise ConnectionResetError("the exchange was over before it began")
        async with self._writing:
            if self._transport is not None and not self._transport.is_closing():
                self.reached = True  # before it was: where the connection breaks meanwhile, some of it may have arrived
            for piece in _pieces(block):
                await self._writer.write(piece)
            self._sent += len(block)
        self._on_sent(self._sent)

    async def flush(self) -> None:
        """Wait until what was written has left: an answer that came before the end lets nobody wait for it."""
        if self._transport is not None and self._writer is not None:
            self._transport.set_write_buffer_limits(1)  # of 0, asyncio's TLS says that nothing reaches it already
            await self._writer.drain()

    def is_out(self) -> bool:
        """Whether all of it was written, and the kernel has all that was."""
        return self.is_whole and self._transport is not None and self._transport.get_write_buffer_size() == 0

    def cut(self) -> None:
        """Drop its connection, and what was written but not sent: an upstream that reads no more would keep both."""
        if self._transport is not None:
            self._transport.abort()

    def finish(self, *, whole: bool) -> None:
        """The owner writes no more; ``whole`` says whether the connection has taken all of it."""
        self.is_whole = whole
        self._is_over.set_result(None)

    def drop(self) -> None:
        """The owner lets go of it, finished or not."""
        if not self._is_over.done():
            self._is_over.cancel()

    def abandon(self, _exchange: object) -> None:
        """The exchange is over: nobody will ask for the body any more."""
        if not self.opened.done():
            self.opened.set_result(None)

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    async def write_with_length(self, writer: AbstractStreamWriter, _content_length: int | None) -> None:
        self._writer, self._transport = writer, writer.transport
        if self._transport is not None:
            self._transport.set_write_buffer_limits(_KEPT)
        self.opened.set_result(None)
        with suppress(asyncio.CancelledError):  # by aiohttp, when an answer is complete though the body is not
            await wait_until_done(self._is_over)
        self._is_over.result()  # or cancelled: a return would send a valid end

    def decode(self, _encoding: str = "utf-8", _errors: str = "strict") -> str:
        raise TypeError("a body in flight has no text")
