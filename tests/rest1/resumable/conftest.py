"""A relay for resumable uploads, and the upload API behind it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from peers import DONE, Connection, Recorder, Script
from resumable_requests import Draft, Tus

from aiorelay import Chain


@dataclass
class Relay:
    """A relay at ``chain``, and ``upstream``, the upload API behind it."""

    chain: Chain
    upstream: Recorder

    @property
    def draft(self) -> Draft:
        return Draft(self.chain.rest1, self.chain.tls)

    @property
    def tus(self) -> Tus:
        return Tus(self.chain.rest1, self.chain.tls)

    def speaking(self, protocol: str) -> Draft | Tus:
        return self.draft if protocol == "http" else self.tus

    def received(self) -> list[bytes]:
        """Return the content of each file that the upload API has received."""
        return [content for message in self.upstream.requests for head, content in message.parts if "filename" in head]


def in_turn(*answers: bytes) -> Script:
    """Give each answer to one request, whatever its connection; repeat the last answer."""
    left = list(answers)

    async def script(connection: Connection) -> None:
        while True:
            await connection.request()
            await connection.send(left.pop(0) if len(left) > 1 else left[0])

    return script


StartRelay = Callable[..., Awaitable[Relay]]


@pytest.fixture
def start_relay(aiorelay_server, recorder, tmp_path) -> StartRelay:
    """A factory of relays in front of an upload API with a script, or that gives answers."""

    async def start(*answers: bytes, script: Script | None = None, **settings: Any) -> Relay:
        upstream = await recorder(script or in_turn(*answers or [DONE]))
        defaults = {"only": "rest1", "upstream": upstream.url, "state_dir": tmp_path / "state", "fsync": False}
        return Relay(await aiorelay_server(**{**defaults, **settings}), upstream)

    return start


@pytest.fixture
async def relay(start_relay) -> Relay:
    """A relay in front of an upload API that stores everything."""
    return await start_relay()


@pytest.fixture(params=["http", "tus"])
def protocol(request) -> str:
    """Each of the two protocols."""
    return request.param
