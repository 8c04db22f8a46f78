"""Connections to one upload API: which ones are reused, and answers read from one that broke.

Connector ─▶ KeepAlive       how long a connection may be idle and be used again
          └▶ AnswerRescue    sees each connection's events, and reads what is left in a broken one
"""

import asyncio
import os
import socket
import ssl
from functools import partial
from typing import Any, Self

import aiohttp
from aiohttp.client_proto import ResponseHandler

from aiorelay.rest1.keep_alive import LONGEST, WATCH, KeepAlive

__all__ = ["Connector"]

_RECEIVE = 64 * 1024
# More than any answer to a refused upload: a peer that never stops sending must not hold up the event loop.
_LIMIT = 4 * 1024 * 1024
_REFUSALS = (b"HTTP/1.1 4", b"HTTP/1.1 5")


class Connector(aiohttp.TCPConnector):
    """Connections of which none is used again that ``keep_alive`` advises against, or that the server has closed."""

    def __init__(self, keep_alive: KeepAlive, **options: Any) -> None:
        super().__init__(limit=0, keepalive_timeout=LONGEST, **options)
        self._keep_alive = keep_alive
        self._watch: tuple[socket.socket, asyncio.TimerHandle] | None = None

    async def connect(
        self,
        req: aiohttp.ClientRequest,
        traces: list[Any],
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's signature
    ) -> aiohttp.connector.Connection:
        """Give a connection that nothing has come from since its last use. Raises ``aiohttp.ClientError``."""
        while True:
            connection = await super().connect(req, traces, timeout)
            rescue = AnswerRescue.of(connection, self._keep_alive)
            if rescue is None:
                return connection
            if rescue.is_reusable():
                rescue.idle_since = None
                connection.add_callback(partial(self._used, connection, rescue))
                return connection
            rescue.retire()
            connection.close()

    def unwatch(self) -> None:
        """Watch no connection any more."""
        self._end_watch(is_open=True)

    def _used(self, connection: aiohttp.connector.Connection, rescue: "AnswerRescue") -> None:
        """An exchange is over, its connection still open: let it be idle, or see to its end."""
        protocol = connection.protocol
        if protocol is None or not protocol.is_connected():
            return
        if protocol.should_close or not self._keep_alive.limit():
            if not protocol.should_close and self._keep_alive.wants_watch():
                self._begin_watch(rescue.duplicate())
            rescue.retire()
        else:
            rescue.idle_since = asyncio.get_running_loop().time()

    def _begin_watch(self, idle: socket.socket | None) -> None:
        """Leave a connection open that will not be used again, to see how long the server does."""
        if idle is not None:
            loop = asyncio.get_running_loop()
            loop.add_reader(idle, partial(self._end_watch, is_open=False))
            self._watch = idle, loop.call_later(WATCH, partial(self._end_watch, is_open=True))
            self._keep_alive.watch()

    def _end_watch(self, *, is_open: bool) -> None:
        if self._watch is None:
            return
        (idle, timer), self._watch = self._watch, None
        timer.cancel()
        asyncio.get_running_loop().remove_reader(idle)
        idle.close()
        self._keep_alive.end_watch(is_open=is_open)


class AnswerRescue(asyncio.Protocol):
    """Forward a transport's events to its protocol, and what is left in the socket before ``connection_lost``.

    asyncio closes a transport at the first failed write and reads no more. Linux keeps the bytes that arrived before
    the reset: a duplicate of the socket, which outlives the transport, can still read them. ``idle_since`` is the
    loop's time at which the last exchange ended, None during one.
    """

    def __init__(
        self, transport: asyncio.Transport, protocol: ResponseHandler, connection: socket.socket, keep_alive: KeepAlive
    ) -> None:
        self.idle_since: float | None = None
        self._transport = transport
        self._protocol = protocol
        self._duplicate = connection
        self._keep_alive = keep_alive

    @classmethod
    def of(cls, connection: aiohttp.connector.Connection, keep_alive: KeepAlive) -> Self | None:
        """The one that belongs to ``connection``; where it cannot have one it is not used again."""
        transport, protocol = connection.transport, connection.protocol
        if transport is None or protocol is None:
            return None
        attached = transport.get_protocol()
        if isinstance(attached, cls):
            return attached
        duplicate = _duplicate(transport.get_extra_info("socket"))
        if transport.is_closing() or duplicate is None:
            protocol.force_close()
            return None
        rescue = cls(transport, protocol, duplicate, keep_alive)
        transport.set_protocol(rescue)
        return rescue

    def is_reusable(self) -> bool:
        """Whether it is new, or has been idle for a short time, and nothing has come since: no byte and no end."""
        if self.idle_since is None:
            return True
        if asyncio.get_running_loop().time() - self.idle_since > self._keep_alive.limit():
            return False
        try:
            self._duplicate.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def duplicate(self) -> socket.socket | None:
        """Another duplicate of the socket, which keeps the connection open; None if no file descriptor is left."""
        return _duplicate(self._duplicate)

    def retire(self) -> None:
        """Close the connection without waiting for the server to agree, as asyncio does over TLS."""
        if self._transport.get_write_buffer_size():
            self._protocol.force_close()
        else:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        # Servers that refuse often hang up a moment later, with the body unread and without a word of it in the answer:
        # the next upload would find the connection closed.
        if data.startswith(_REFUSALS):
            self._protocol.force_close()
        self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        self._protocol.eof_received()
        return None

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        with self._duplicate:
            if isinstance(exc, OSError) and (rest := self._decrypted(self._received())):
                self._protocol.data_received(rest)
        self._protocol.connection_lost(exc)
        if self.idle_since is not None:
            idle = asyncio.get_running_loop().time() - self.idle_since
            if idle < self._keep_alive.limit():  # or it was closed here
                self._keep_alive.hung_up(idle)

    def _received(self) -> bytes:
        """Read what the kernel has kept, without waiting."""
        received = bytearray()
        try:
            while len(received) < _LIMIT and (data := self._duplicate.recv(_RECEIVE, socket.MSG_DONTWAIT)):
                received += data
        except OSError:
            pass  # nothing is left, or the reset itself
        return bytes(received)

    def _decrypted(self, data: bytes) -> bytes:
        tls = self._transport.get_extra_info("ssl_object")
        if tls is None:
            return data
        # Private: without it, the answer over TLS is lost as it would be without all of this.
        incoming = getattr(getattr(self._transport, "_ssl_protocol", None), "_incoming", None)
        if incoming is None:
            return b""
        incoming.write(data)
        plain = bytearray()
        try:
            while block := tls.read(_RECEIVE):
                plain += block
        except ssl.SSLError:
            pass  # no complete record is left
        return bytes(plain)


def _duplicate(connection: socket.socket | None) -> socket.socket | None:
    try:
        return None if connection is None else socket.socket(fileno=os.dup(connection.fileno()))
    except OSError:  # no file descriptor is left, or the connection is closed
        return None
