"""Pass on in one call what many TLS records bring.

record, record, record ─▶ RecordReader ─▶ one buffer ─▶ CoalescingProtocol ─▶ one block
"""

import asyncio
import ssl
from collections.abc import Callable
from typing import Any, Final

from aiohttp import web

__all__ = ["CoalescingProtocol", "RecordReader", "SharedReads"]

# Bytes. asyncio's TLS transport reads 256 KiB from a socket at once. A connection that brings nearly that much is read
# in larger amounts, which takes half of the loop's turns for each byte.
_MUCH: Final = 192 * 1024
_LARGE_READ: Final = 512 * 1024
# Such a connection has 0.6 MiB more of buffers, until it is closed.
_MOST_LARGE: Final = 16


class SharedReads:
    """What the connections of one loop share: ``buffer``, and how many of them are read in ``large`` amounts.

    The buffer is filled and emptied within one step of the loop, so all connections can be read into the same one.
    """

    def __init__(self) -> None:
        self.buffer = memoryview(bytearray(_LARGE_READ))
        self.large = 0


class RecordReader(ssl.SSLObject):
    """Read as many TLS records as fit into a buffer in one call.

    ``SSL_read`` returns one record. asyncio reads again until none is left, which for records of 16 KiB costs more time
    than a loop here.
    """

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002 - the name in the base class
        """Read into ``buffer`` and return the number of bytes, 0 at the end of the stream. Otherwise as the base class.

        Raises ``SSLWantReadError`` and ``SSLSyscallError`` only if nothing was read.
        """
        read_record: Callable[..., Any] = super().read
        if buffer is None:
            return read_record(len)
        view = memoryview(buffer)
        size: int = read_record(len, view)
        try:
            while 0 < size < len and (count := read_record(len - size, view[size:])):
                size += count
        except (ssl.SSLWantReadError, ssl.SSLSyscallError):
            return size  # asyncio reads again, and gets the error then
        return size


class CoalescingProtocol(asyncio.BufferedProtocol):
    """Pass all decrypted bytes that are available to ``handler`` in one call.

    TLS records hold at most 16 KiB. For an ``asyncio.Protocol``, asyncio allocates 256 KiB for each record and then
    joins them. A ``BufferedProtocol`` lets it decrypt the records one after another into one buffer, which is that of
    ``shared``. ``on_lost`` is called when the connection has been lost. ``reads`` counts the calls of ``handler``.
    """

    def __init__(self, handler: web.RequestHandler, shared: SharedReads, on_lost: Callable[[], object]) -> None:
        self._handler = handler
        self._shared = shared
        self._on_lost = on_lost
        self.reads = 0
        self._is_large = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._handler.connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._shared.large -= self._is_large
        self._handler.connection_lost(exc)
        self._on_lost()

    def pause_writing(self) -> None:
        self._handler.pause_writing()

    def resume_writing(self) -> None:
        self._handler.resume_writing()

    def get_buffer(self, _sizehint: int) -> memoryview:
        return self._shared.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.reads += 1
        if nbytes > _MUCH and not self._is_large:
            self._enlarge()
        self._handler.data_received(bytes(self._shared.buffer[:nbytes]))

    def eof_received(self) -> None:
        self._handler.eof_received()

    def _enlarge(self) -> None:
        """Read larger amounts from the socket from now on, unless many connections do."""
        # Private to asyncio; without it, no read becomes larger.
        tls: Any = getattr(self._handler.transport, "_ssl_protocol", None)
        if self._shared.large < _MOST_LARGE and hasattr(tls, "max_size"):
            tls.max_size = _LARGE_READ
            self._is_large = True
            self._shared.large += 1
