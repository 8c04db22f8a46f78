"""Pass on in one call what many TLS records bring.

record, record, record ─▶ RecordReader ─▶ one buffer ─▶ CoalescingProtocol ─▶ one block
"""

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from aiohttp import web

__all__ = ["CoalescingProtocol", "RecordReader", "read_buffer"]

# The most bytes that asyncio's TLS transport reads from a socket at once.
_READ_SIZE = 256 * 1024


def read_buffer() -> memoryview:
    """Return a buffer that all connections of one loop can share."""
    return memoryview(bytearray(_READ_SIZE))


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
        count = size
        with suppress(ssl.SSLWantReadError, ssl.SSLSyscallError):  # asyncio reads again, and gets the error then
            while count and size < len:
                count = read_record(len - size, view[size:])
                size += count
        return size


class CoalescingProtocol(asyncio.BufferedProtocol):
    """Pass all decrypted bytes that are available to ``handler`` in one call.

    TLS records hold at most 16 KiB. For an ``asyncio.Protocol``, asyncio allocates 256 KiB for each record and then
    joins them. A ``BufferedProtocol`` lets it decrypt the records one after another into one buffer. ``read_buffer`` is
    filled and emptied within one step of the loop, so all connections can share it. ``on_lost`` is called when the
    connection has been lost.
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
