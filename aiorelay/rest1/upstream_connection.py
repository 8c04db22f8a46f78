"""Connections to one upload API: reuse of idle connections, and reading the response of a failed connection.

Connector ─▶ KeepAlive             how long a connection may be idle before it is reused
          └▶ RecoveringProtocol    forwards the events of a connection, and reads the data left after a failure
"""

import asyncio
import os
import socket
import ssl
import struct
import time
from contextlib import suppress
from functools import partial
from typing import Any, Final, Self

import aiohttp
from aiohttp.client_proto import ResponseHandler

from aiorelay.rest1.keep_alive import LONGEST, WATCH, KeepAlive

__all__ = ["WRITE_BUFFER", "Connector", "RecoveringProtocol"]

WRITE_BUFFER: Final = 64 * 1024
"""Bytes that the transport of a connection may buffer."""

_RECEIVE = 64 * 1024
# Bytes, more than any response to a refused upload. A peer that never stops sending must not block the event loop.
_LIMIT = 4 * 1024 * 1024
_RESET = struct.pack("ii", 1, 0)  # struct linger: when the socket is closed, wait for 0 s
_REFUSALS = (b"HTTP/1.1 4", b"HTTP/1.1 5")


class Connector(aiohttp.TCPConnector):
    """Connector that reuses a connection only within the limit of ``keep_alive`` and while the server keeps it open."""

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
        """Return a connection with no data received since its last use. Raises ``aiohttp.ClientError``."""
        while True:
            connection = await super().connect(req, traces, timeout)
            recovering = RecoveringProtocol.of(connection, self._keep_alive)
            if recovering is None:
                return connection
            if recovering.is_reusable():
                recovering.idle_since = None
                connection.add_callback(partial(self._exchange_ended, connection, recovering))
                return connection
            recovering.retire()
            connection.close()

    def unwatch(self) -> None:
        """Stop watching an idle connection."""
        self._end_watch(is_open=True)

    def _exchange_ended(self, connection: aiohttp.connector.Connection, recovering: "RecoveringProtocol") -> None:
        """Handle the end of an exchange: keep the connection for reuse, or close it."""
        protocol = connection.protocol
        if protocol is None or not protocol.is_connected():
            return
        if protocol.should_close or not self._keep_alive.limit():
            if not protocol.should_close and self._keep_alive.wants_watch():
                self._begin_watch(recovering.duplicate())
            recovering.retire()
        else:
            recovering.idle_since = time.monotonic()

    def _begin_watch(self, idle: socket.socket | None) -> None:
        """Keep a connection open without reusing it, to measure when the server closes it."""
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


class RecoveringProtocol(asyncio.Protocol):
    """Forward the events of a transport to ``protocol``, and unread data of the socket before ``connection_lost``.

    asyncio closes a transport at the first failed write and stops reading. Linux keeps the bytes received before the
    reset. A duplicate of the socket, which stays open longer than the transport, can read them. ``idle_since`` is the
    monotonic time at the end of the last exchange, or None during an exchange.
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
        """Return the instance for ``connection``, attached at the first call.

        Return None if that is not possible; the connection is then not reused.
        """
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
        recovering = cls(transport, protocol, duplicate, keep_alive)
        transport.set_protocol(recovering)
        transport.set_write_buffer_limits(WRITE_BUFFER)
        return recovering

    def is_reusable(self) -> bool:
        """Whether it is new, or idle within the limit without data or an end of the connection received."""
        if self.idle_since is None:
            return True
        if time.monotonic() - self.idle_since > self._keep_alive.limit():
            return False
        try:
            self._duplicate.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def duplicate(self) -> socket.socket | None:
        """Return another duplicate of the socket, which keeps it open, or None if no file descriptor is available."""
        return _duplicate(self._duplicate)

    def retire(self) -> None:
        """Close the connection without waiting for the TLS closing handshake of the server."""
        if self._transport.get_write_buffer_size():
            self._protocol.force_close()
        else:
            self._transport.abort()

    def reset(self) -> None:
        """Reset the connection. Data that were not sent are discarded.

        Some servers take what has arrived for the whole body if the connection is closed in an orderly way.
        """
        with suppress(OSError):
            self._duplicate.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self._transport.abort()

    def data_received(self, data: bytes) -> None:
        # After a refusal, servers often close the connection without reading the body or sending "Connection: close".
        # The next upload must not be sent on such a connection.
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
        closed_by_relay = self._protocol.transport is None
        with self._duplicate:
            if isinstance(exc, OSError) and (rest := self._decrypted(self._received())):
                self._protocol.data_received(rest)
        self._protocol.connection_lost(exc)
        if self.idle_since is not None and not closed_by_relay:
            idle = time.monotonic() - self.idle_since
            if idle < self._keep_alive.limit():  # otherwise the relay closed it
                self._keep_alive.server_closed(idle)

    def _received(self) -> bytes:
        """Return the data left in the socket, without waiting."""
        received = bytearray()
        try:
            while len(received) < _LIMIT and (data := self._duplicate.recv(_RECEIVE, socket.MSG_DONTWAIT)):
                received += data
        except OSError:
            pass  # no more data, or the reset
        return bytes(received)

    def _decrypted(self, data: bytes) -> bytes:
        tls = self._transport.get_extra_info("ssl_object")
        if tls is None:
            return data
        # Private attributes. If they are missing, the response over TLS is lost.
        incoming = getattr(getattr(self._transport, "_ssl_protocol", None), "_incoming", None)
        if incoming is None:
            return b""
        incoming.write(data)
        plain = bytearray()
        try:
            while block := tls.read(_RECEIVE):
                plain += block
        except ssl.SSLError:
            pass  # no further complete record
        return bytes(plain)


def _duplicate(connection: socket.socket | None) -> socket.socket | None:
    try:
        return None if connection is None else socket.socket(fileno=os.dup(connection.fileno()))
    except OSError:  # no file descriptor is available, or the connection is closed
        return None
