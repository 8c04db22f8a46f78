"""Send a body upstream, streamed or spooled. Retry a spooled body only while no byte of it can have arrived.

framed ──────────────▶ POST ─▶ answer
   └──▶ Spool ─▶ POST, POST, POST ─▶ answer
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager

from multidict import CIMultiDict

from aiorelay.errors import UpstreamProblem
from aiorelay.files.spool import Spool
from aiorelay.multipart.framing import FramedBody
from aiorelay.observability.logs import log
from aiorelay.rest1.target import Target
from aiorelay.rest1.upstream import Upstream
from aiorelay.rest1.upstream_exchange import UpstreamAnswer

__all__ = ["Delivery"]

_TRIES = 3
# Answers that do not depend on the request: the upstream is overloaded or away (RFC 9110, section 15.6).
_PASSING = frozenset({502, 503, 504})
_BROKEN = "connection_terminated"


class Delivery:
    """Sends bodies to ``upstream``, streamed, or from a spool that ``spool`` makes.

    ``spooled`` says which bodies are spooled first: ``never``, those of ``unknown-length``, or ``always``.

    A spooled body is tried three times in all if no byte of it can have reached the upstream. If its request has an
    Idempotency-Key, it is also tried again after a broken connection or an answer of 502, 503 or 504. The second try
    waits for ``backoff`` seconds, the third for twice as long. Each try waits for ``notice`` seconds before its first
    byte: an upstream that closes new connections at once has done so by then. After the first byte it would be unknown
    whether the upstream has read it.
    """

    def __init__(
        self,
        upstream: Upstream,
        spool: Callable[[], Spool],
        spooled: str,
        *,
        backoff: float = 0.5,
        notice: float = 0.005,
    ) -> None:
        self.reachable = upstream.reachable
        self._upstream = upstream
        self._spool = spool
        self._spooled = spooled
        self._backoff = backoff
        self._notice = notice

    def post(
        self,
        framed: FramedBody,
        headers: "CIMultiDict[str]",
        target: Target,
        on_sent: Callable[[int], object] = lambda _bytes: None,
    ) -> AbstractAsyncContextManager[UpstreamAnswer]:
        """Send a body as ``Upstream.post`` does. Raises what that and ``Spool.write`` raise."""
        if self._spooled == "never" or (self._spooled == "unknown-length" and framed.length is not None):
            return self._upstream.post(framed, headers, target, on_sent)
        return self._post_spooled(framed, headers, target, on_sent)

    @asynccontextmanager
    async def _post_spooled(
        self, framed: FramedBody, headers: "CIMultiDict[str]", target: Target, on_sent: Callable[[int], object]
    ) -> AsyncGenerator[UpstreamAnswer, None]:
        async with AsyncExitStack() as stack:
            spool = await stack.enter_async_context(self._spool())
            async for block in framed.blocks:
                await spool.write(block)
            await spool.end()

            @asynccontextmanager
            async def one_try() -> AsyncGenerator[UpstreamAnswer, None]:
                async with aclosing(spool.read()) as blocks:
                    body = FramedBody(framed.boundary, spool.size, blocks)
                    post = self._upstream.post(body, headers.copy(), target, on_sent, notice=self._notice)
                    async with post as answer:
                        yield answer

            yield await self._answer(one_try, stack, repeatable="Idempotency-Key" in headers)

    async def _answer(
        self,
        one_try: Callable[[], AbstractAsyncContextManager[UpstreamAnswer]],
        stack: AsyncExitStack,
        *,
        repeatable: bool,
    ) -> UpstreamAnswer:
        """Try until there is an answer to pass back, which ``stack`` keeps open."""
        for attempt in range(1, _TRIES):
            async with AsyncExitStack() as trying:
                try:
                    answer = await trying.enter_async_context(one_try())
                except UpstreamProblem as problem:
                    if problem.reached and not (repeatable and problem.error == _BROKEN):
                        raise
                    why = problem.error
                else:
                    if not repeatable or answer.status not in _PASSING:
                        stack.push_async_exit(trying.pop_all())
                        return answer
                    why = f"status {answer.status}"
            log.warning("the upstream did not take a spooled upload (%s); trying again", why)
            await asyncio.sleep(self._backoff * 2 ** (attempt - 1))
        return await stack.enter_async_context(one_try())
