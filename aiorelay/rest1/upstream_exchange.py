"""One request to the upload API and its answer, on one connection.

begin ─▶ put_at_once, or put … put, finish ─▶ UpstreamAnswer ─▶ end: the connection is reused if both are complete
"""

import asyncio
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import aiohttp
from aiohttp import hdrs
from aiohttp.connector import Connection
from aiohttp.http import StreamWriter
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from aiorelay.rest1.upstream_connection import WRITE_BUFFER, RecoveringProtocol

__all__ = ["Exchange", "UpstreamAnswer"]

# Bytes written at once. The transport and TLS each copy what they cannot send.
_PIECE = 128 * 1024
# The longest line and the longest field of an answer's head, in bytes.
_LONGEST_LINE = 32 * 1024


@dataclass(frozen=True, slots=True)
class UpstreamAnswer:
    """The head of the upload API's answer, and its body, which is still arriving."""

    url: URL
    status: int
    reason: str
    headers: "CIMultiDictProxy[str]"
    content: aiohttp.StreamReader


class Exchange:
    """One request on ``connection``, whose owner writes its body.

    ``reached`` is true if some of the body may have arrived. ``is_whole`` is true if the connection has accepted all of
    it. ``on_sent`` is called after each write with the number of bytes of the body written so far.
    """

    def __init__(
        self, connection: Connection, loop: asyncio.AbstractEventLoop, on_sent: Callable[[int], object]
    ) -> None:
        protocol, transport = connection.protocol, connection.transport
        if protocol is None or transport is None:
            connection.close()
            raise aiohttp.ServerDisconnectedError
        self.reached = False
        self.is_whole = False
        self._connection = connection
        self._protocol = protocol
        self._transport = transport
        self._writer = StreamWriter(protocol, loop)
        self._on_sent = on_sent
        self._sent = 0
        self._is_answered = False
        self._writing = asyncio.Lock()

    async def begin(
        self, method: str, url: URL, headers: "CIMultiDict[str]", length: int | None, *, answer_timeout: float
    ) -> None:
        """Prepare the head of the request, which is sent with the first bytes of the body.

        ``length`` is that of the body in bytes, None if it is not known. ``answer_timeout`` is the longest silence in
        the answer in seconds. Raises ``ValueError`` for a field with forbidden characters.
        """
        self._url = url
        fields = CIMultiDict({hdrs.HOST: headers.pop(hdrs.HOST, url.host_port_subcomponent or "")})
        fields.extend(headers)
        if length is None:
            fields[hdrs.TRANSFER_ENCODING] = "chunked"
            self._writer.enable_chunking()
        else:
            fields[hdrs.CONTENT_LENGTH] = str(length)
        self._protocol.set_response_params(
            read_until_eof=True,
            auto_decompress=False,
            read_timeout=answer_timeout,
            max_line_size=_LONGEST_LINE,
            max_field_size=_LONGEST_LINE,
        )
        await self._writer.write_headers(f"{method} {url.raw_path_qs} HTTP/1.1", fields)

    async def put_at_once(self, content: bytes) -> bool:
        """Write a whole body without waiting. Return whether the connection has accepted all of it.

        The rest is in the transport's buffer, and ``finish`` waits until it is sent. Raises as ``put`` does.
        """
        self.reached = not self._transport.is_closing()  # set before the write: some of it may arrive even if it fails
        await self._writer.write(content, drain=False)
        self._sent = len(content)
        if self._transport.get_write_buffer_size():
            return False
        await self._writer.write_eof()  # at most five bytes, which do not have to wait
        self._accepted()
        return True

    async def put(self, block: bytes | memoryview) -> None:
        """Write a block. Concurrent calls write one after another. Raises ``OSError`` or ``ClientError``."""
        async with self._writing:
            if not self._transport.is_closing():
                self.reached = True  # set before the write: some of it may arrive even if it fails
            for piece in _pieces(block):
                await self._writer.write(piece)
            self._sent += len(block)
        self._on_sent(self._sent)

    async def finish(self) -> None:
        """End the body, and wait until it is sent. Raises as ``put`` does."""
        await self._writer.write_eof()
        if self._transport.get_write_buffer_size():
            # Not 0: asyncio's TLS transport counts an empty buffer as reaching that limit.
            self._transport.set_write_buffer_limits(1)
            await self._writer.drain()
            self._transport.set_write_buffer_limits(WRITE_BUFFER)
        self._accepted()

    async def answer(self) -> UpstreamAnswer:
        """Wait for the head of the answer: the first that is not interim, or that switches protocols.

        Raises ``OSError``, ``ClientError`` or ``HttpProcessingError``.
        """
        while True:
            message, content = await self._protocol.read()
            if not 100 <= message.code < 200 or message.code == 101:
                break
        content.on_eof(self._answered)
        return UpstreamAnswer(self._url, message.code, message.reason, message.headers, content)

    def end(self) -> None:
        """Reset the connection unless the exchange is complete, and discard unsent data.

        Otherwise an upstream that does not read would keep the connection open.
        """
        if self._connection.protocol is not None:
            attached = self._transport.get_protocol()
            if isinstance(attached, RecoveringProtocol):
                attached.reset()
            else:
                self._transport.abort()
            self._connection.close()

    def _accepted(self) -> None:
        self.is_whole = True
        self._on_sent(self._sent)
        self._reuse()

    def _answered(self) -> None:
        self._is_answered = True
        self._reuse()

    def _reuse(self) -> None:
        """Release the connection for other requests, if this exchange is complete."""
        if self.is_whole and self._is_answered:
            self._connection.release()


def _pieces(block: bytes | memoryview) -> Iterator[memoryview]:
    view = memoryview(block)
    return (view[at : at + _PIECE] for at in range(0, len(block), _PIECE))
