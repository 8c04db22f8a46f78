"""The fixture ``aiorelay_server`` for pytest-aiohttp: running chains for the tests of applications.

async def test_my_client(aiorelay_server):
    chain = await aiorelay_server(max_size="1MiB")
    await my_upload(chain.rest1 + "/upload1", ssl=chain.tls)
    assert [f.name for f in chain.stored()] == ["report.pdf"]

pytest imports this module wherever aiorelay is installed, so it must import fast.
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
    """A factory of running chains. It accepts every setting as a keyword argument.

    By default each chain has free ports, its own store and the CA of the session. It is stopped at the end of the test.
    """
    plugins = request.config.pluginmanager
    if not plugins.hasplugin("asyncio"):
        pytest.fail("aiorelay_server needs pytest-asyncio. Run: pip install pytest-aiohttp.", pytrace=False)
    plugins.import_plugin(_FIXTURES)  # imports the servers and their fixtures at the first use
    chains: StartChain = request.getfixturevalue("_aiorelay_chains")
    return chains
