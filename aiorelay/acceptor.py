"""Connections in, bounded: so many at once, idle ones dropped first, a TLS handshake finished in time.

asyncio's own servers accept without a bound and, out of descriptors, without end; the loop here is the whole of
what they do, with a count in it.
"""

import asyncio
import socket
import ssl
from collections.abc import Collection, Sequence
from contextlib import suppress

from aiohttp import web

from aiorelay.telemetry import log

__all__ = ["Acceptor"]

# After this many seconds descriptors may be there again.
_PAUSE = 0.2


class Acceptor:
    """Accepts TLS connections for ``server`` on listening ``listeners``, at most ``limit`` at once.

    ``deadline`` is the longest handshake in seconds. One connection too many takes the place of an idle one, the
    oldest, be its handshake finished or not; it is closed itself if all are ``busy``, with a request in flight.
    """

    def __init__(
        self,
        server: web.Server,
        listeners: Sequence[socket.socket],
        context: ssl.SSLContext,
        busy: Collection[web.RequestHandler],
        *,
        limit: int,
        deadline: float,
    ) -> None:
        self._busy = busy
        self._server = server
        self._context = context
        self._limit = limit
        self._deadline = deadline
        # In the order they came, each with its handshake; those that were lost meanwhile, too.
        self._connections: dict[web.RequestHandler, asyncio.Task[None]] = {}
        self._listeners = listeners
        for listener in listeners:
            listener.setblocking(False)
        self._accepting = [asyncio.create_task(self._accept(listener)) for listener in listeners]

    async def close(self) -> None:
        """Take no more connections, not even those that have not finished their handshake."""
        tasks = [*self._accepting, *self._connections.values()]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
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
            if self._is_full() and not self._made_room():
                connection.close()
                continue
            handler = self._server()
            self._connections[handler] = loop.create_task(self._shake_hands(connection, handler))

    async def _shake_hands(self, connection: socket.socket, handler: web.RequestHandler) -> None:
        loop = asyncio.get_running_loop()
        # What fails here is the client's affair: plain HTTP, a certificate it does not trust, a port scan.
        with suppress(OSError, ssl.SSLError, TimeoutError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(
                lambda: handler, connection, ssl=self._context, ssl_handshake_timeout=self._deadline
            )

    def _is_full(self) -> bool:
        if len(self._connections) >= self._limit:
            self._connections = {
                handler: handshake
                for handler, handshake in self._connections.items()
                if not handshake.done() or handler.transport is not None
            }
        return len(self._connections) >= self._limit

    def _made_room(self) -> bool:
        """Drop the oldest connection that is idle, and say whether there was one."""
        for handler, handshake in self._connections.items():
            if handler not in self._busy:
                handshake.cancel()
                if handler.transport is not None:
                    handler.transport.abort()
                del self._connections[handler]
                return True
        return False
