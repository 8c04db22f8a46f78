"""A request's body as blocks: asked for at the last moment, watched, foreign exceptions translated.

``Expect: 100-continue`` is answered here, just before the first block is read, so that whatever the head
alone decides is answered instead of it (RFC 9110, section 10.1.1).
"""

import asyncio

from aiohttp import hdrs, web

from aiorelay.checks import Check
from aiorelay.errors import ClientGone, TooSlow, Truncated, WrongContentType

__all__ = ["Body", "leave_expectation"]


async def leave_expectation(_request: web.Request) -> None:
    """Let the handler answer ``Expect``: an ``expect_handler`` for aiohttp's routes, which would send 100 at once."""


class Body:
    """The body of one request; ``idle`` is the longest silence in seconds.

    Raises ``WrongContentType`` if the body is coded: inflating it is nobody's business here, and a small body
    could become a huge one.
    """

    def __init__(self, request: web.BaseRequest, *, idle: float) -> None:
        if request.headers.get(hdrs.CONTENT_ENCODING, "identity").strip().lower() not in {"", "identity"}:
            raise WrongContentType("A body with a Content-Encoding is not accepted; send it as it is.")
        self._request = request
        self._idle = idle
        self._awaited = request.headers.get(hdrs.EXPECT, "").lower() == "100-continue"
        self._checks: list[Check] = []
        self._ended = False

    def check(self, check: Check) -> None:
        """Let ``check`` judge the bytes as they arrive. Whoever made it closes it."""
        self._checks.append(check)

    @property
    def length(self) -> int | None:
        """The Content-Length in bytes, or None if the body is chunked."""
        return self._request.content_length if self._request.can_read_body else 0

    async def read(self) -> bytes:
        """The next block, or ``b""`` at the end.

        Raises ``TooSlow``, ``Truncated`` (broken chunked framing), ``ClientGone``, and what the checks raise.
        """
        block = await self._receive()
        for check in self._checks:
            if block:
                await check.feed(block)
            elif not self._ended:
                await check.finish()
        self._ended = not block
        return block

    async def _receive(self) -> bytes:
        try:
            async with asyncio.timeout(self._idle):
                if self._awaited:
                    self._awaited = False
                    await self._request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
                    self._request.writer.output_size = 0  # else aiohttp takes the answer for begun
                return await self._request.content.readany()
        except TimeoutError:
            raise TooSlow(f"No byte arrived for {self._idle:g} s.") from None
        except web.RequestPayloadError as broken:
            raise Truncated("The body's chunked framing is broken.") from broken
        except (OSError, RuntimeError) as gone:  # RuntimeError: aiohttp's word for a closed connection
            raise ClientGone from gone
