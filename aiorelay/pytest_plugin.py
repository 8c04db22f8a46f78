"""The fixture ``aiorelay_server`` for pytest-aiohttp: running chains for the tests of whoever uses aiorelay.

async def test_my_client(aiorelay_server):
    chain = await aiorelay_server(max_size="1MiB")
    await my_upload(chain.rest1 + "/upload1", ssl=chain.tls)
    assert [f.name for f in chain.stored()] == ["report.pdf"]
"""

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import pytest_asyncio

from aiorelay.server import Chain, serve
from aiorelay.settings import Settings

__all__ = ["aiorelay_server"]


@pytest.fixture(scope="session")
def _aiorelay_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One CA for all tests of a session."""
    return tmp_path_factory.mktemp("aiorelay-state")


@pytest_asyncio.fixture
async def aiorelay_server(
    tmp_path_factory: pytest.TempPathFactory, _aiorelay_state: Path
) -> AsyncGenerator[Callable[..., Awaitable[Chain]], None]:
    """A factory of running chains, which takes any setting by name.

    Each chain has free ports, a store of its own and the session's CA, unless told otherwise, and is closed
    with the test.
    """
    async with AsyncExitStack() as stack:

        async def start(**settings: object) -> Chain:
            defaults = {"rest1_port": 0, "rest2_port": 0, "state_dir": _aiorelay_state, "grace": 0}
            if "store" not in settings:
                defaults |= {"store": tmp_path_factory.mktemp("aiorelay-store"), "fsync": False}
            return await stack.enter_async_context(serve(Settings(**(defaults | settings))))

        yield start
