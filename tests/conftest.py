"""Fixtures that several tests share."""

from contextlib import AsyncExitStack

import pytest
from peers import Recorder
from upstream_servers import running


@pytest.fixture
async def recorder():
    """A factory of upload APIs that record what they receive."""
    async with AsyncExitStack() as stack:

        async def start(script=None, **options):
            return await stack.enter_async_context(Recorder(script, **options))

        yield start


@pytest.fixture
async def upload_api(tmp_path_factory):
    """A factory of upload APIs on real servers, by the names in ``upstream_servers.SERVERS``."""
    async with AsyncExitStack() as stack:

        async def start(name, **options):
            directory = tmp_path_factory.mktemp("upload-api")
            return await stack.enter_async_context(running(name, directory, **options))

        yield start
