"""The fixture ``aiorelay_server`` for pytest-aiohttp: running chains for the tests of whoever uses aiorelay.

async def test_my_client(aiorelay_server):
    chain = await aiorelay_server(max_size="1MiB")
    await my_upload(chain.rest1 + "/upload1", ssl=chain.tls)
    assert [f.name for f in chain.stored()] == ["report.pdf"]

Every pytest where aiorelay is installed imports this module, so it imports next to nothing itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from aiorelay.pytest_fixture import StartChain

__all__ = ["aiorelay_server"]

_FIXTURES = "aiorelay.pytest_fixture"


@pytest.fixture
def aiorelay_server(request: pytest.FixtureRequest) -> StartChain:
    """A factory of running chains, which takes any setting by name.

    Each chain has free ports, a store of its own and the session's CA, unless told otherwise, and is closed
    with the test.
    """
    plugins = request.config.pluginmanager
    if not plugins.hasplugin("asyncio"):
        pytest.fail("aiorelay_server needs pytest-asyncio: pip install pytest-aiohttp", pytrace=False)
    plugins.import_plugin(_FIXTURES)  # the servers, and fixtures that pytest-asyncio runs; once is enough
    chains: StartChain = request.getfixturevalue("_aiorelay_chains")
    return chains
