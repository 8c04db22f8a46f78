"""Read what an upload API sent before it closed a connection that we were still writing to.

asyncio closes a transport at the first failed write and reads no more. Linux keeps the bytes that arrived before the
reset: a duplicate of the socket, which outlives the transport, can still read them.
"""

import asyncio
import socket
import ssl
from typing import Self

from aiohttp.client_proto import ResponseHandler

__all__ = ["AnswerRescue"]

_RECEIVE = 64 * 1024
# More than any answer to a refused upload: a peer that never stops sending must not hold up the event loop.
_LIMIT = 4 * 1024 * 1024
_REFUSALS = (b"HTTP/1.1 4", b"HTTP/1.1 5")


class AnswerRescue(asyncio.Protocol):
    """Forward a transport's events to its protocol, and what is left in the socket before ``connection_lost``."""

    def __init__(self, transport: asyncio.Transport, protocol: asyncio.Protocol, duplicate: socket.socket) -> None:
        self._transport = transport
        self._protocol = protocol
        self._duplicate = duplicate

    @classmethod
    def attach(cls, transport: asyncio.WriteTransport | None) -> Self | None:
        """Put one between ``transport`` and its protocol; None where that is not possible or has been done."""
        if not isinstance(transport, asyncio.Transport) or transport.is_closing():
            return None
        protocol, connection = transport.get_protocol(), transport.get_extra_info("socket")
        if not isinstance(protocol, asyncio.Protocol) or isinstance(protocol, cls) or connection is None:
            return None
        try:
            rescue = cls(transport, protocol, connection.dup())
        except OSError:  # no file descriptor is left
            return None
        transport.set_protocol(rescue)
        return rescue

    def data_received(self, data: bytes) -> None:
        # Servers that refuse often hang up a moment later, with the body unread and without a word of it in the answer:
        # the next upload would find the connection closed.
        if data.startswith(_REFUSALS) and isinstance(self._protocol, ResponseHandler):
            self._protocol.force_close()
        self._protocol.data_received(data)

    def eof_received(self) -> bool | None:
        return self._protocol.eof_received()

    def pause_writing(self) -> None:
        self._protocol.pause_writing()

    def resume_writing(self) -> None:
        self._protocol.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        with self._duplicate:
            if isinstance(exc, OSError) and (rest := self._decrypted(self._received())):
                self._protocol.data_received(rest)
        self._protocol.connection_lost(exc)

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
