"""Tell whether the relay is alive, and whether it can take uploads: GET /healthz and /readyz."""

import asyncio
from collections.abc import Mapping
from typing import Any

from aiohttp import web

from aiorelay.rest1.intake import Intake
from aiorelay.rest1.relay import Relay
from aiorelay.state.server import StateServer

__all__ = ["Health"]


class Health:
    """The health of the relay that takes uploads in by ``intake``, and sends those at each path on by its relay.

    ``state`` is what it shares with other relays. Without it, it is ready all the same, unless ``needs_state``.
    """

    def __init__(
        self,
        intake: Intake,
        relays: Mapping[str, Relay],
        state: StateServer | None = None,
        *,
        needs_state: bool = False,
    ) -> None:
        self._intake = intake
        self._relays = relays
        self._state = state
        self._needs_state = needs_state

    def add_to(self, router: web.UrlDispatcher) -> None:
        router.add_get("/healthz", self._healthz)
        router.add_get("/readyz", self._readyz)

    async def _healthz(self, _request: web.Request) -> web.Response:
        return web.json_response({"status": "alive"})

    async def _readyz(self, _request: web.Request) -> web.Response:
        if self._intake.draining:
            return _not_ready("shutting down")
        has_state, *reachable = await asyncio.gather(
            self._has_state(), *(relay.reachable() for relay in self._relays.values())
        )
        if not any(reachable):
            return _not_ready("the upload API cannot be reached")
        if self._needs_state and not has_state:
            return _not_ready("the shared state cannot be reached")
        answer: dict[str, Any] = {"status": "ready"}
        if away := [path for path, is_there in zip(self._relays, reachable, strict=True) if not is_there]:
            answer["unreachable"] = away
        if not has_state:
            answer["state"] = "unreachable"
        return web.json_response(answer)

    async def _has_state(self) -> bool:
        return self._state is None or await self._state.reachable()


def _not_ready(why: str) -> web.Response:
    return web.json_response({"status": why}, status=503)
