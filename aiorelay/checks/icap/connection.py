"""A connection to an ICAP service: a socket, plain or TLS, that is read while it is written.

It is no asyncio transport, for the reason that ``scanner_sockets`` gives. TLS therefore runs in memory.
"""

import asyncio
import contextlib
import socket
import ssl
from typing import Final

from aiorelay.checks.scanner_sockets import connect

__all__ = ["Connection"]

_RECEIVE: Final = 64 * 1024


class Connection:
    """A connection that is used for one request at a time. ``reused`` is true from its second request on.

    ``send`` and ``receive`` may be awaited at the same time, each by one task. They raise OSError. ``close`` may be
    called when neither is awaited.
    """

    def __init__(self, raw: socket.socket, tls: "_Tls | None") -> None:
        self.reused = False
        self._socket = raw
        self._tls = tls

    @classmethod
    async def open(cls, host: str, port: int, context: ssl.SSLContext | None) -> "Connection":
        """Connect, with TLS if there is a context. Raises OSError."""
        raw = await connect((host, port))
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            tls = None
            if context is not None:
                tls = _Tls(raw, context, host)
                await tls.handshake()
        except BaseException:
            raw.close()
            raise
        return cls(raw, tls)

    async def send(self, data: bytes) -> None:
        """Wait until the socket has accepted ``data``."""
        if self._tls is None:
            await asyncio.get_running_loop().sock_sendall(self._socket, data)
        else:
            await self._tls.send(data)

    async def receive(self) -> bytes:
        """Wait for data. Returns b"" at the end."""
        if self._tls is None:
            return await asyncio.get_running_loop().sock_recv(self._socket, _RECEIVE)
        return await self._tls.receive()

    def is_idle(self) -> bool:
        """Whether the connection is open and nothing was received after the last answer, empty lines aside."""
        try:
            while data := self._socket.recv(_RECEIVE, socket.MSG_DONTWAIT):
                plain = data if self._tls is None else self._tls.decrypt(data)
                if plain is None or plain.strip(b"\r\n"):
                    return False
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def end_sending(self) -> None:
        """Shut down sending, which ends a ``send`` that waits."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket. Does nothing if it is closed."""
        self._socket.close()


class _Tls:
    """The client's side of TLS over a socket."""

    def __init__(self, raw: socket.socket, context: ssl.SSLContext, host: str) -> None:
        self._socket = raw
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._object = context.wrap_bio(self._incoming, self._outgoing, server_hostname=host)
        self._writing = asyncio.Lock()

    async def handshake(self) -> None:
        while True:
            try:
                self._object.do_handshake()
            except ssl.SSLWantReadError:
                await self._flush()
                await self._receive_records()
            else:
                return await self._flush()

    async def send(self, data: bytes) -> None:
        self._object.write(data)
        await self._flush()

    async def receive(self) -> bytes:
        while True:
            try:
                return self._object.read(_RECEIVE)
            except ssl.SSLWantReadError:
                # What TLS itself has to say, such as new keys. A sender that waits writes it as well.
                if not self._writing.locked():
                    await self._flush()
                await self._receive_records()
            except ssl.SSLZeroReturnError:
                return b""

    def decrypt(self, data: bytes) -> bytes | None:
        """Return the content of complete records, without waiting; None at the end or if they are invalid."""
        self._incoming.write(data)
        plain = b""
        try:
            while piece := self._object.read(_RECEIVE):
                plain += piece
        except ssl.SSLWantReadError:
            return plain
        except ssl.SSLError:
            pass
        return None

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        async with self._writing:
            while records := self._outgoing.read():
                await loop.sock_sendall(self._socket, records)

    async def _receive_records(self) -> None:
        records = await asyncio.get_running_loop().sock_recv(self._socket, _RECEIVE)
        if not records:
            # Every answer states its length, so that an end without close_notify cannot shorten one.
            raise ConnectionResetError("the connection was closed")
        self._incoming.write(records)
