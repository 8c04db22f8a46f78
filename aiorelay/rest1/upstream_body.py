"""The body of one request to the upload API, which aiohttp's client asks to write itself.

WholeBody       at hand from the beginning: written together with the request's head
StreamedBody    written block by block by its owner, in the owner's task
"""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import suppress

import aiohttp
from aiohttp.abc import AbstractStreamWriter

from aiorelay.concurrency.threads import wait_until_done
from aiorelay.concurrency.timeouts import Watchdog

__all__ = ["StreamedBody", "UpstreamBody", "WholeBody"]

# Bytes written at once, and bytes that the transport may buffer. The transport and TLS each copy what they cannot send.
_PIECE = 128 * 1024
_WRITE_BUFFER = 64 * 1024


class UpstreamBody(aiohttp.Payload):
    """A body of ``length`` bytes, None if that is not known, and the connection that it is written to.

    ``reached`` is true if some of it may have arrived. ``is_whole`` is true if the connection has accepted all of it.
    ``on_sent`` is called after each write with the number of bytes written so far.
    """

    is_written = False
    """Whether all of it was written to the connection's buffer."""
    is_stalled = False
    """Whether the upload API accepted no more of it in time."""

    def __init__(self, length: int | None, on_sent: Callable[[int], object]) -> None:
        super().__init__(None)
        self.reached = False
        self.is_whole = False
        self._size = length
        self._on_sent = on_sent
        self._writer: AbstractStreamWriter | None = None
        self._transport: asyncio.WriteTransport | None = None

    def when_sent(self, call: Callable[[], object]) -> None:
        """Call ``call`` when the body was sent."""
        call()

    async def flush(self) -> None:
        """Wait until the written data are sent. aiohttp does not wait for that after an early response."""
        if self._transport is not None and self._writer is not None and self._transport.get_write_buffer_size():
            # Not 0: asyncio's TLS transport counts an empty buffer as reaching that limit.
            self._transport.set_write_buffer_limits(1)
            await self._writer.drain()

    def disconnect(self, answer: aiohttp.ClientResponse | None) -> None:
        """Abort the connection unless the exchange is complete, and discard unsent data.

        Otherwise an upstream that does not read would keep the connection open. ``answer`` is None if there is none.
        """
        # A connection that the response has released may already be in use by another upload.
        if answer is None or (answer.connection is not None and not (answer.closed and self._is_flushed())):
            if self._transport is not None:
                self._transport.abort()
            if answer is not None:
                answer.close()

    def decode(self, _encoding: str = "utf-8", _errors: str = "strict") -> str:
        raise TypeError("a body for the upload API has no text")

    async def write(self, writer: AbstractStreamWriter) -> None:
        await self.write_with_length(writer, None)

    def _open(self, writer: AbstractStreamWriter) -> None:
        self._writer, self._transport = writer, writer.transport
        # aiohttp's task that called this fails if it cannot write the last chunk, and may be awaited by nobody.
        if (task := asyncio.current_task()) is not None:
            task.add_done_callback(_take_exception)
        if self._transport is not None:
            self._transport.set_write_buffer_limits(_WRITE_BUFFER)

    def _is_closing(self) -> bool:
        return self._transport is None or self._transport.is_closing()

    def _is_flushed(self) -> bool:
        """Whether the whole body was written and passed to the kernel."""
        return self.is_whole and self._transport is not None and self._transport.get_write_buffer_size() == 0


class WholeBody(UpstreamBody):
    """A body that is written as soon as the connection is open, within the time of ``watchdog``."""

    def __init__(
        self, content: bytes, length: int | None, on_sent: Callable[[int], object], watchdog: Watchdog
    ) -> None:
        super().__init__(length, on_sent)
        self._content = content
        self._watchdog = watchdog
        self._call_when_sent: Callable[[], object] = lambda: None

    def when_sent(self, call: Callable[[], object]) -> None:
        self._call_when_sent = call

    async def write_with_length(self, writer: AbstractStreamWriter, _content_length: int | None) -> None:
        self._open(writer)
        self.reached = not self._is_closing()  # set before the write: some of it may arrive even if it fails
        try:
            with self._watchdog.watching():
                self.is_written = self.reached
                await writer.write(self._content)
                await self.flush()
        except TimeoutError:
            self.is_stalled = True
            self.disconnect(None)
        except (OSError, aiohttp.ClientError):
            pass  # the exchange fails too, with the reason
        except asyncio.CancelledError:
            # aiohttp cancels this when the response is complete before the buffer is empty.
            if self._is_closing():
                raise
        else:
            self.is_whole = True
            self._on_sent(len(self._content))
            self._call_when_sent()


class StreamedBody(UpstreamBody):
    """A body that its owner writes with ``put`` after ``opened`` is done, before it calls ``when_sent``.

    The owner writes in its own task, so that exceptions of the blocks are raised there and no queue is needed.
    """

    def __init__(self, length: int | None, on_sent: Callable[[int], object]) -> None:
        super().__init__(length, on_sent)
        self._sent = 0
        self._writing = asyncio.Lock()
        loop = asyncio.get_running_loop()
        self.opened: asyncio.Future[None] = loop.create_future()
        self._is_over: asyncio.Future[None] = loop.create_future()

    async def put(self, block: bytes | memoryview) -> None:
        """Write a block. Concurrent calls write one after another. Raises ``OSError`` or ``ClientError``."""
        if self._writer is None:
            raise ConnectionResetError("the exchange ended before the body was opened")
        async with self._writing:
            if not self._is_closing():
                self.reached = True  # set before the write: some of it may arrive even if it fails
            for piece in _pieces(block):
                await self._writer.write(piece)
            self._sent += len(block)
        self._on_sent(self._sent)

    def finish(self, *, whole: bool) -> None:
        """End the writing. ``whole``: the connection has accepted the whole body."""
        self.is_whole = whole
        self._is_over.set_result(None)

    def release(self) -> None:
        """Release the body, whether it is finished or not."""
        if not self._is_over.done():
            self._is_over.cancel()

    def exchange_ended(self, _exchange: object) -> None:
        """Set ``opened``, because the exchange has ended and will not open the body."""
        if not self.opened.done():
            self.opened.set_result(None)

    async def write_with_length(self, writer: AbstractStreamWriter, _content_length: int | None) -> None:
        self._open(writer)
        self.opened.set_result(None)
        with suppress(asyncio.CancelledError):  # aiohttp cancels this when the response is complete before the body
            await wait_until_done(self._is_over)
        self._is_over.result()  # raises if cancelled: returning would send a valid end of the body


def _take_exception(task: asyncio.Task[object]) -> None:
    """Mark the exception of a task as handled. The exchange fails too, with the reason."""
    if not task.cancelled():
        task.exception()


def _pieces(block: bytes | memoryview) -> Iterator[memoryview]:
    view = memoryview(block)
    return (view[at : at + _PIECE] for at in range(0, len(block), _PIECE))
