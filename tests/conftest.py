"""Fixtures that several tests share."""

from contextlib import AsyncExitStack

import pytest
from peers import Recorder


@pytest.fixture
async def recorder():
    """A factory of upload APIs that record what they get."""
    async with AsyncExitStack() as stack:

        async def start(script=None, **options):
            return await stack.enter_async_context(Recorder(script, **options))

        yield start
