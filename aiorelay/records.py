"""TLS records, which are 16 KiB at most, as the large blocks that an upload is made of."""

import asyncio
from collections.abc import Callable

from aiohttp import web

__all__ = ["CoalescingProtocol", "read_buffer"]

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
