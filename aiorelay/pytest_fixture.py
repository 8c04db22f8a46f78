"""The implementation of the fixture ``aiorelay_server``, imported at its first use."""

from collections.abc import AsyncGenerator, Awaitable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Protocol, Unpack

import pytest
import pytest_asyncio

from aiorelay.server.lifecycle import Chain, serve
from aiorelay.settings import Settings
from aiorelay.settings.arguments import Arguments


class StartChain(Protocol):
    """The type of the fixture ``aiorelay_server``: a function that starts a chain with the given settings."""

    def __call__(self, **settings: Unpack[Arguments]) -> Awaitable[Chain]: ...


@pytest.fixture(scope="session")
def _aiorelay_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state directory, shared so that all tests of a session use one CA."""
    return tmp_path_factory.mktemp("aiorelay-state")


@pytest_asyncio.fixture
async def _aiorelay_chains(
    tmp_path_factory: pytest.TempPathFactory, _aiorelay_state: Path
) -> AsyncGenerator[StartChain, None]:
    """A factory of running chains, which are stopped at the end of the test."""
    async with AsyncExitStack() as stack:

        async def start(**settings: Unpack[Arguments]) -> Chain:
            defaults: dict[str, object] = {"rest1_port": 0, "rest2_port": 0, "state_dir": _aiorelay_state, "grace": 0}
            if "store" not in settings:
                defaults |= {"store": tmp_path_factory.mktemp("aiorelay-store"), "fsync": False}
            return await stack.enter_async_context(serve(Settings.of({**defaults, **settings})))

        yield start
