"""Read a request's body as blocks: 100 (Continue) just before the first, with timeouts and a minimum rate.

``Expect: 100-continue`` is answered here, just before the first block is read, so that whatever the head
alone decides is answered instead of it (RFC 9110, section 10.1.1).
"""

import math
import time
from typing import Self

from aiohttp import hdrs, web
from aiohttp.http import HttpProcessingError

from aiorelay.concurrency.timeouts import MinimumRate, Watchdog
from aiorelay.errors import ClientGone, TooSlow, Truncated, WrongContentType
from aiorelay.http.interim import send_interim_response

__all__ = ["BodyTimeouts", "RequestBody", "body_length"]


# After so many seconds of silence, at most, the framing is looked at.
_LOOK = 0.5
_BROKEN = "The body's chunked framing is broken."


def body_length(request: web.BaseRequest) -> int | None:
    """The length of a request's body in bytes, 0 if it has none, or None if it is chunked."""
    return request.content_length if request.can_read_body else 0


class BodyTimeouts:
    """How long clients are waited for: the longest silence in seconds, and the least bytes a second.

    For the rate see ``MinimumRate``. A silence is as many waits as ``looks`` says, each of which ``watchdog`` watches.
    ``answers`` watches each block of an answer that clients take.
    """

    def __init__(self, idle: float, min_rate: int) -> None:
        self.idle = idle
        self.min_rate = min_rate
        self.looks = math.ceil(idle / _LOOK)
        self.watchdog = Watchdog(idle / self.looks)
        self.answers = Watchdog(idle)


class RequestBody:
    """The body of one request, an asynchronous iterator of blocks, whose client is waited for with ``timeouts``.

    The constructor raises ``WrongContentType`` for a body with a Content-Encoding: inflated, it could become huge.
    """

    def __init__(self, request: web.BaseRequest, timeouts: BodyTimeouts) -> None:
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() not in {"", "identity"}:
            raise WrongContentType("A body with a Content-Encoding is not accepted; send it as it is.")
        self._request = request
        self._timeouts = timeouts
        self._minimum_rate = MinimumRate(timeouts.min_rate)
        self._awaited = request.headers.get(hdrs.EXPECT, "").lower() == "100-continue"

    @property
    def length(self) -> int | None:
        """See ``body_length``."""
        return body_length(self._request)

    async def read(self) -> bytes:
        """The next block, or ``b""`` at the end.

        Raises ``TooSlow``, ``Truncated`` (broken chunked framing) or ``ClientGone``.
        """
        waited = 0.0
        block = self._arrived()
        if block is None:
            started = time.monotonic()
            block = await self._receive()
            waited = time.monotonic() - started
        if not self._minimum_rate.is_met(waited, len(block)):
            raise TooSlow(f"Fewer than {self._timeouts.min_rate} bytes a second arrived in the last minute.")
        return block

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        block = await self.read()
        if not block:
            raise StopAsyncIteration
        return block

    def _arrived(self) -> bytes | None:
        """Return what has arrived and was not read, ``b""`` at the end, or None if it has to be waited for."""
        content = self._request.content
        if self._awaited:
            return None
        if content.at_eof():
            return b""
        return None if content.exception() is not None else content.read_nowait() or None

    async def _receive(self) -> bytes:
        for _ in range(self._timeouts.looks):
            try:
                with self._timeouts.watchdog.watching():
                    await self._invite()
                    return await self._request.content.readany()
            except TimeoutError:
                pass
            except (web.RequestPayloadError, HttpProcessingError) as broken:  # aiohttp without its C parser tells
                raise Truncated(_BROKEN) from broken
            except (OSError, RuntimeError) as gone:  # RuntimeError: aiohttp's word for a closed connection
                raise ClientGone from gone
            if _is_broken(self._request):
                raise Truncated(_BROKEN)
        raise TooSlow(f"No byte arrived for {self._timeouts.idle:g} s.")

    async def _invite(self) -> None:
        """Send the client that waits for it its ``100 Continue``."""
        if self._awaited:
            self._awaited = False
            await send_interim_response(self._request, 100, "Continue")


def _is_broken(request: web.BaseRequest) -> bool:
    """Whether the framing of a body broke after the head was read.

    aiohttp's C parser tells nobody who waits for the body: the server only queues an answer of its own behind the
    present request. That queue is private; were it to go, the silence would end such a body, with 408.
    """
    return any(hasattr(message, "exc") for message, _ in getattr(request.protocol, "_messages", ()))
