"""Accept connections up to a limit, with TLS or without, and detect clients that have disconnected.

asyncio's own servers have no limit, and they spin when the process has no free descriptor. The accept loop here counts
its connections and waits.

asyncio notices a disconnect only when it reads. While an upload stalls because the upload API, a scanner or a disk is
slow, back-pressure stops reading from its client. Those connections are polled once a second, as nginx does.
"""

import asyncio
import select
import socket
import ssl
from collections.abc import Collection, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from aiorelay.observability.logs import log
from aiorelay.server.plain_http import is_plain_http, reject
from aiorelay.server.processes.balance import Balance
from aiorelay.server.tls_reads import CoalescingProtocol, RecordReader, SharedReads

__all__ = ["Acceptor", "Connections", "disconnected", "drop_disconnected", "drop_slow_heads"]

# Seconds to wait after accept() has failed: the usual reason is that the process has no free descriptor.
_RETRY_DELAY = 0.2


@dataclass(slots=True)
class _OpenConnection:
    handshake: asyncio.Task[None]
    opened_at: float
    silent: bool = True  # no byte has been received
    protocol: CoalescingProtocol | None = None
    reads: int = -1  # those of the protocol when the last request had ended
    head_since: float | None = None  # when a request's head was first found to be awaited or incomplete


class Connections:
    """The connections of one server, ordered by when they were accepted or ended their last request.

    ``in_flight`` holds the tasks of the requests in flight, each with its connection. A handshake is slow after
    ``slow_after`` seconds. ``balance`` shares new connections with other processes.
    """

    def __init__(self, slow_after: float = 1.0, *, balance: Balance | None = None) -> None:
        self.in_flight: dict[asyncio.Task[object], web.RequestHandler] = {}
        self.balance = balance
        self._slow_after = slow_after
        self._open: dict[web.RequestHandler, _OpenConnection] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def accepted(self, handler: web.RequestHandler, handshake: asyncio.Task[None]) -> None:
        """Add a new connection."""
        self._loop = handshake.get_loop()
        self._open[handler] = _OpenConnection(handshake, self._loop.time())
        if self.balance is not None:
            self.balance.changed(1)

    def first_byte_received(self, handler: web.RequestHandler) -> None:
        """Record that the first byte of a handshake has been received."""
        if handler in self._open:
            self._open[handler].silent = False

    def read_by(self, handler: web.RequestHandler, protocol: CoalescingProtocol) -> None:
        """Record the protocol that reads a connection."""
        if handler in self._open:
            self._open[handler].protocol = protocol

    def request_started(self, task: asyncio.Task[object], handler: web.RequestHandler) -> None:
        """Record that a connection has a request in flight until ``task`` ends; then it is the last in the order."""
        self.in_flight[task] = handler
        task.add_done_callback(self._request_ended)

    def _request_ended(self, task: asyncio.Task[object]) -> None:
        handler = self.in_flight.pop(task)
        if handler in self._open:
            self._open[handler] = connection = self._open.pop(handler)
            connection.head_since = None
            if connection.protocol is not None:
                connection.reads = connection.protocol.reads

    @property
    def track(self) -> Middleware:
        """The middleware that records the requests in flight."""

        @web.middleware
        async def track(request: web.Request, handler: Handler) -> web.StreamResponse:
            task = asyncio.current_task(self._loop)
            if task is not None:
                self.request_started(task, request.protocol)
            return await handler(request)

        return track

    def closed(self, handler: web.RequestHandler) -> None:
        """Remove a connection."""
        if self._open.pop(handler, None) is not None and self.balance is not None:
            self.balance.changed(-1)

    def reach(self, limit: int) -> bool:
        """Whether at least ``limit`` connections are open."""
        return len(self._open) >= limit

    def drop_one(self) -> bool:
        """Close one connection to make room. Return whether one could be closed.

        The oldest slow handshake is closed first, then the connection that has been idle or silent for longest.
        Connections with a request in flight are kept. So are handshakes that are not slow: a flood of new connections
        must not evict clients that are completing their handshake.
        """
        evicted = self._oldest_slow_handshake() or self._longest_idle()
        if evicted is None:
            return False
        handshake = self._open[evicted].handshake
        self.closed(evicted)
        handshake.cancel()
        if evicted.transport is not None:
            evicted.transport.abort()
        return True

    def drop_slow_heads(self, deadline: float) -> None:
        """Close connections that did not send their first head, or the rest of a later one, within ``deadline`` s.

        The time runs from the first call that finds it so.
        """
        now, busy = asyncio.get_running_loop().time(), set(self.in_flight.values())
        for handler, connection in list(self._open.items()):
            is_idle = connection.protocol is None or connection.protocol.reads == connection.reads
            if is_idle or handler in busy or not connection.handshake.done():
                continue
            if connection.head_since is None:
                connection.head_since = now
            elif now - connection.head_since >= deadline:
                handler.force_close()

    async def close(self) -> None:
        """Cancel the handshakes that have not finished."""
        handshakes = [connection.handshake for connection in self._open.values()]
        for handshake in handshakes:
            handshake.cancel()
        if handshakes:
            await asyncio.wait(handshakes)

    def _oldest_slow_handshake(self) -> web.RequestHandler | None:
        opened_before = asyncio.get_running_loop().time() - self._slow_after
        pending = (each for each in self._open.items() if not each[1].handshake.done())
        return next((handler for handler, connection in pending if connection.opened_at <= opened_before), None)

    def _longest_idle(self) -> web.RequestHandler | None:
        busy = set(self.in_flight.values())
        idle = (handler for handler, each in self._open.items() if each.silent or each.handshake.done())
        return next((handler for handler in idle if handler not in busy), None)


class Acceptor:
    """Accept connections for ``server`` on the listening sockets ``listeners``, at most ``limit`` at once.

    ``context`` is the TLS context, None for plain HTTP. ``deadline`` is the longest handshake in seconds, including the
    wait for its first byte; without TLS, that wait is all of the handshake. At the limit, a new connection replaces an
    idle or slow one of ``connections``. If there is none, the new connection is closed.
    """

    def __init__(
        self,
        server: web.Server,
        listeners: Sequence[socket.socket],
        context: ssl.SSLContext | None,
        connections: Connections,
        *,
        limit: int,
        deadline: float,
    ) -> None:
        self._connections = connections
        self._server = server
        self._context = context
        if context is not None:
            context.sslobject_class = RecordReader
        self._limit = limit
        self._deadline = deadline
        self._listeners = listeners
        self._reads = SharedReads()
        for listener in listeners:
            listener.setblocking(False)
        if connections.balance is not None:
            connections.balance.start()
        self._accepting = [asyncio.create_task(self._accept(listener)) for listener in listeners]

    async def close(self) -> None:
        """Stop accepting, and close connections that have not finished their handshake."""
        if self._connections.balance is not None:
            self._connections.balance.stop()
        for task in self._accepting:
            task.cancel()
        if self._accepting:
            await asyncio.wait(self._accepting)
        await self._connections.close()
        for listener in self._listeners:
            listener.close()

    async def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection = await self._next(listener)
            except OSError as error:  # no free descriptor, or the client has disconnected already
                log.warning("cannot accept a connection: %s", error.strerror)
                await asyncio.sleep(_RETRY_DELAY)
                continue
            if self._connections.reach(self._limit) and not self._connections.drop_one():
                connection.close()
                continue
            self._start_handshake(connection)

    async def _next(self, listener: socket.socket) -> socket.socket:
        """Accept a connection when it is this process's turn."""
        balance = self._connections.balance
        if balance is None:
            connection, _ = await asyncio.get_running_loop().sock_accept(listener)
            return connection
        while True:
            await _readable(listener)
            await balance.turn()
            with suppress(BlockingIOError):  # another process has accepted it
                connection, _ = listener.accept()
                connection.setblocking(False)
                return connection

    def _start_handshake(self, connection: socket.socket) -> None:
        """Start a handshake in a task. When the handshake fails, close the connection and remove it."""
        handler = self._server()
        unless_taken_over = ExitStack()
        unless_taken_over.callback(connection.close)
        handshake = asyncio.create_task(self._do_handshake(connection, handler, unless_taken_over))
        self._connections.accepted(handler, handshake)

        # A callback, because a task that is cancelled before it starts never runs its own ``finally``.
        def end(_handshake: asyncio.Task[None]) -> None:
            unless_taken_over.close()
            if handler.transport is None:
                self._connections.closed(handler)

        handshake.add_done_callback(end)

    async def _do_handshake(
        self, connection: socket.socket, handler: web.RequestHandler, unless_taken_over: ExitStack
    ) -> None:
        """Wait for the first byte and do the handshake.

        ``unless_taken_over`` closes the connection. It is emptied when the transport owns the connection.
        """
        loop = asyncio.get_running_loop()
        # Failures are caused by the client: it does not trust the certificate, or it scans ports.
        with suppress(OSError, TimeoutError):
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = connection.getpeername()
            async with asyncio.timeout(self._deadline):
                await _readable(connection)
                self._connections.first_byte_received(handler)
                if self._context is not None and is_plain_http(connection.recv(1, socket.MSG_PEEK)):
                    if await reject(connection):
                        log.info("%s sent plain HTTP to an HTTPS port.", client[0])
                    return
                unless_taken_over.pop_all()
                await loop.connect_accepted_socket(
                    lambda: self._protocol(handler),
                    connection,
                    ssl=self._context,
                    ssl_handshake_timeout=self._deadline if self._context is not None else None,
                )

    def _protocol(self, handler: web.RequestHandler) -> CoalescingProtocol:
        protocol = CoalescingProtocol(handler, self._reads, lambda: self._connections.closed(handler))
        self._connections.read_by(handler, protocol)
        return protocol


async def _readable(ready: socket.socket) -> None:
    """Wait until a byte can be read, or a connection accepted, without doing so."""
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(ready, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(ready)


_POLL_INTERVAL = 1.0  # seconds
# Linux has POLLRDHUP. On systems without it, only a reset is detected.
_PEER_CLOSED: int = getattr(select, "POLLRDHUP", 0)


def disconnected(transports: Iterable[asyncio.Transport]) -> list[asyncio.Transport]:
    """Return the transports with paused reading whose peer has reset or closed the connection.

    A peer that has sent FIN counts as disconnected even if the rest of its body is still in the kernel's buffer:
    asyncio's TLS has no half-closed connections, so it would close this one without a response on reading the FIN.
    A peer that closed with unsent bytes is not detected, because its kernel sends the FIN after those bytes.
    """
    poll = select.poll()
    unread = {}
    for transport in transports:
        if not transport.is_reading() and not transport.is_closing():
            descriptor = transport.get_extra_info("socket").fileno()
            unread[descriptor] = transport
            poll.register(descriptor, _PEER_CLOSED)  # POLLERR and POLLHUP are always reported
    return [unread[descriptor] for descriptor, _ in poll.poll(0)]


async def drop_slow_heads(connections: Connections, deadline: float) -> None:
    """Close the connections whose request heads are not complete after ``deadline`` seconds. Never ends."""
    while True:
        await asyncio.sleep(min(_POLL_INTERVAL, deadline / 4))
        connections.drop_slow_heads(deadline)


async def drop_disconnected(handlers: Collection[web.RequestHandler]) -> None:
    """Abort the connections of ``handlers`` whose client has disconnected, which cancels their requests. Never ends."""
    while True:
        await asyncio.sleep(_POLL_INTERVAL)
        for transport in disconnected(each.transport for each in handlers if each.transport is not None):
            transport.abort()
