"""Accept TLS connections: a limit, evictions, deadlines for handshakes, and clients that disconnected.

asyncio's own servers accept without a limit and, out of descriptors, spin; the accept loop here counts. asyncio also
notices a disconnect only when it reads: while an upload stalls (the upload API, a scanner or a disk is slow),
back-pressure stops reading from its client, so those connections are polled once a second, as nginx does.
"""

import asyncio
import select
import socket
import ssl
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from aiorelay.observability.logs import log
from aiorelay.server.plain_http import begins_plainly, refuse

__all__ = ["Acceptor", "CoalescingProtocol", "Connections", "disconnected", "drop_disconnected", "read_buffer"]

# After this many seconds descriptors may be there again.
_PAUSE = 0.2


@dataclass(slots=True)
class _OpenConnection:
    handshake: asyncio.Task[None]
    at: float
    silent: bool = True  # no byte has come


class Connections:
    """Those of one server, in the order in which they came or ended their last request.

    ``busy`` are those with a request in flight, ``in_flight`` the tasks of these requests. A handshake that takes
    longer than ``prompt`` seconds is a slow one.
    """

    def __init__(self, prompt: float = 1.0) -> None:
        self.busy: set[web.RequestHandler] = set()
        self.in_flight: set[asyncio.Task[object]] = set()
        self._prompt = prompt
        self._open: dict[web.RequestHandler, _OpenConnection] = {}

    def came(self, handler: web.RequestHandler, handshake: asyncio.Task[None]) -> None:
        """Note a new one."""
        self._open[handler] = _OpenConnection(handshake, asyncio.get_running_loop().time())

    def first_byte_received(self, handler: web.RequestHandler) -> None:
        """Note that the first byte of a handshake has come."""
        if handler in self._open:
            self._open[handler].silent = False

    def request_started(self, handler: web.RequestHandler) -> None:
        """Note that one has a request in flight."""
        self.busy.add(handler)

    def ended(self, handler: web.RequestHandler) -> None:
        """Note that one has none any more: it is as good as new."""
        self.busy.discard(handler)
        if handler in self._open:
            self._open[handler] = self._open.pop(handler)

    @property
    def track(self) -> Middleware:
        """The middleware that keeps account of the requests in flight."""

        @web.middleware
        async def track(request: web.Request, handler: Handler) -> web.StreamResponse:
            task, protocol = asyncio.current_task(), request.protocol

            def end(task: asyncio.Task[object]) -> None:
                self.in_flight.discard(task)
                self.ended(protocol)

            if task is not None:
                self.in_flight.add(task)
                self.request_started(protocol)
                task.add_done_callback(end)
            return await handler(request)

        return track

    def closed(self, handler: web.RequestHandler) -> None:
        """Note that one is no more."""
        self._open.pop(handler, None)

    def reach(self, limit: int) -> bool:
        """Whether there are so many."""
        return len(self._open) >= limit

    def drop_one(self) -> bool:
        """Drop the one that can best be spared, and say whether there was one.

        That is the slow handshake that began first, else the one that has been quiet for longest: idle, or without a
        word since it came. One with a request in flight is not dropped, nor is one in the midst of a prompt handshake:
        whom many follow would never get as far as a request.
        """
        spared = self._slow_handshake() or self._quiet()
        if spared is None:
            return False
        self._open.pop(spared).handshake.cancel()
        if spared.transport is not None:
            spared.transport.abort()
        return True

    async def close(self) -> None:
        """Drop those that have not finished their handshake."""
        handshakes = [arrival.handshake for arrival in self._open.values()]
        for handshake in handshakes:
            handshake.cancel()
        if handshakes:
            await asyncio.wait(handshakes)

    def _slow_handshake(self) -> web.RequestHandler | None:
        began_before = asyncio.get_running_loop().time() - self._prompt
        pending = (each for each in self._open.items() if not each[1].handshake.done())
        return next((handler for handler, arrival in pending if arrival.at <= began_before), None)

    def _quiet(self) -> web.RequestHandler | None:
        quiet = (handler for handler, arrival in self._open.items() if arrival.silent or arrival.handshake.done())
        return next((handler for handler in quiet if handler not in self.busy), None)


class Acceptor:
    """Accepts TLS connections for ``server`` on listening ``listeners``, at most ``limit`` at once.

    ``deadline`` is the longest handshake in seconds, the wait for its first byte included. One connection too many
    takes the place of another of ``connections`` that can be spared, or is closed itself.
    """

    def __init__(
        self,
        server: web.Server,
        listeners: Sequence[socket.socket],
        context: ssl.SSLContext,
        connections: Connections,
        *,
        limit: int,
        deadline: float,
    ) -> None:
        self._connections = connections
        self._server = server
        self._context = context
        self._limit = limit
        self._deadline = deadline
        self._listeners = listeners
        self._scratch = read_buffer()
        for listener in listeners:
            listener.setblocking(False)
        self._accepting = [asyncio.create_task(self._accept(listener)) for listener in listeners]

    async def close(self) -> None:
        """Take no more connections, not even those that have not finished their handshake."""
        for task in self._accepting:
            task.cancel()
        if self._accepting:
            await asyncio.wait(self._accepting)
        await self._connections.close()
        for listener in self._listeners:
            listener.close()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(listener)
            except OSError as error:  # out of descriptors, or a client that was gone already
                log.warning("cannot accept a connection: %s", error.strerror)
                await asyncio.sleep(_PAUSE)
                continue
            if self._connections.reach(self._limit) and not self._connections.drop_one():
                connection.close()
                continue
            self._start_handshake(connection)

    def _start_handshake(self, connection: socket.socket) -> None:
        """Begin a handshake. A connection that does not come as far as TLS is closed, and one without TLS forgotten."""
        handler = self._server()
        ours = ExitStack()
        ours.callback(connection.close)
        handshake = asyncio.create_task(self._do_handshake(connection, handler, ours))
        self._connections.came(handler, handshake)

        def end(_handshake: asyncio.Task[None]) -> None:  # here, for a task that is cancelled soon enough never runs
            ours.close()
            if handler.transport is None:
                self._connections.closed(handler)

        handshake.add_done_callback(end)

    async def _do_handshake(self, connection: socket.socket, handler: web.RequestHandler, ours: ExitStack) -> None:
        """Wait for a handshake and do it. ``ours`` closes the connection; it is emptied when TLS takes it."""
        loop = asyncio.get_running_loop()
        # What fails here is the client's affair: a certificate it does not trust, a port scan.
        with suppress(OSError, TimeoutError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            client = connection.getpeername()[0]
            async with asyncio.timeout(self._deadline):
                await _first_byte(connection)
                self._connections.first_byte_received(handler)
                if begins_plainly(connection.recv(1, socket.MSG_PEEK)):
                    if await refuse(connection):
                        log.info("%s spoke plain HTTP: https is wanted", client)
                    return
                ours.pop_all()
                await loop.connect_accepted_socket(
                    lambda: CoalescingProtocol(handler, self._scratch, lambda: self._connections.closed(handler)),
                    connection,
                    ssl=self._context,
                    ssl_handshake_timeout=self._deadline,
                )


async def _first_byte(connection: socket.socket) -> None:
    """Wait until a byte is there to be read; reading it is the affair of TLS."""
    loop = asyncio.get_running_loop()
    came = asyncio.Event()
    loop.add_reader(connection, came.set)
    try:
        await came.wait()
    finally:
        loop.remove_reader(connection)


# Bytes that asyncio's TLS takes from a socket at once.
_AT_ONCE = 256 * 1024


def read_buffer() -> memoryview:
    """A buffer for all connections of one loop."""
    return memoryview(bytearray(_AT_ONCE))


class CoalescingProtocol(asyncio.BufferedProtocol):
    """Gives ``handler`` all that TLS has for it in one piece.

    TLS comes in records of 16 KiB. To a protocol that takes bytes, asyncio gives them in an object each, which it first
    makes large enough for 256 KiB, and then joins; this one has them written behind each other. ``read_buffer`` is
    filled and emptied within one step of the loop, so that all connections can have the same. ``on_lost`` is called
    when the connection has been lost.
    """

    def __init__(self, handler: web.RequestHandler, read_buffer: memoryview, on_lost: Callable[[], object]) -> None:
        self._handler = handler
        self._scratch = read_buffer
        self._on_lost = on_lost

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._handler.connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._handler.connection_lost(exc)
        self._on_lost()

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        self._handler.data_received(bytes(self._scratch[:nbytes]))

    def eof_received(self) -> None:
        self._handler.eof_received()


_EVERY = 1.0  # seconds
# Not everywhere; where it is missing, only a reset is seen.
_HUNG_UP: int = getattr(select, "POLLRDHUP", 0)


def disconnected(transports: Iterable[asyncio.Transport]) -> list[asyncio.Transport]:
    """Those that are not read at present, and whose peer has reset the connection or hung up.

    A peer that has hung up (FIN) has left even if the rest of its body waits in the kernel: asyncio's TLS knows no
    connection that is closed on one side only, and would close it as soon as it has read so far, unanswered. A peer
    that left with bytes unsent cannot be told from one that is there: its kernel sends its FIN behind them.
    """
    poll = select.poll()
    unread = {}
    for transport in transports:
        if not transport.is_reading() and not transport.is_closing():
            descriptor = transport.get_extra_info("socket").fileno()
            unread[descriptor] = transport
            poll.register(descriptor, _HUNG_UP)  # POLLERR and POLLHUP are told in any case
    return [unread[descriptor] for descriptor, _ in poll.poll(0)]


async def drop_disconnected(handlers: Collection[web.RequestHandler]) -> None:
    """Until cancelled, cut off those ``handlers`` whose client has left, which cancels their requests."""
    while True:
        await asyncio.sleep(_EVERY)
        for transport in disconnected(each.transport for each in handlers if each.transport is not None):
            transport.abort()
