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
    oldest, or is closed itself if none is idle: if all are ``busy``, with a request in flight.
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
        self._shaking_hands: set[asyncio.Task[None]] = set()
        self._listeners = listeners
        for listener in listeners:
            listener.setblocking(False)
        self._accepting = [asyncio.create_task(self._accept(listener)) for listener in listeners]

    async def close(self) -> None:
        """Take no more connections, not even those that have not finished their handshake."""
        tasks = [*self._accepting, *self._shaking_hands]
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
            if len(self._server.connections) + len(self._shaking_hands) >= self._limit and not self._drop_idle():
                connection.close()
                continue
            task = loop.create_task(self._shake_hands(connection))
            self._shaking_hands.add(task)
            task.add_done_callback(self._shaking_hands.discard)

    async def _shake_hands(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        # What fails here is the client's affair: plain HTTP, a certificate it does not trust, a port scan.
        with suppress(OSError, ssl.SSLError, TimeoutError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.connect_accepted_socket(
                self._server, connection, ssl=self._context, ssl_handshake_timeout=self._deadline
            )

    def _drop_idle(self) -> bool:
        """Close the oldest connection that is idle, and say whether there was one."""
        for each in self._server.connections:  # in the order they came
            if each not in self._busy and each.transport is not None and not each.transport.is_closing():
                each.transport.abort()
                return True
        return False
