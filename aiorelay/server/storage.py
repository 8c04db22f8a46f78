"""Open the store of rest2, and the object storage from which sources are read."""

import contextlib
import tempfile
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiorelay.errors import StartupError
from aiorelay.object_storage.client import Client
from aiorelay.rest2.bucket import BucketStore, Timeouts
from aiorelay.rest2.directory import DirectoryStore
from aiorelay.rest2.leftovers import Leftovers
from aiorelay.rest2.store import Store
from aiorelay.settings import Settings
from aiorelay.settings.places import S3Location
from aiorelay.sources.fetch import FetchLimits
from aiorelay.sources.objects import ObjectSources

__all__ = ["open_object_sources", "open_store"]


@asynccontextmanager
async def open_store(settings: Settings) -> AsyncGenerator[tuple[Store, Path | None], None]:
    """Open the store that ``settings`` name, in a new temporary directory by default.

    Yields the store, and its directory if it is one. Raises ``StartupError``.
    """
    async with AsyncExitStack() as stack:
        if isinstance(settings.store, S3Location):
            yield await _bucket(settings, settings.store, stack), None
            return
        store = DirectoryStore(settings.store or _temporary(stack), fsync=settings.durable)
        store.open()
        stack.callback(store.close)
        yield store, store.root


@asynccontextmanager
async def open_object_sources(settings: Settings, limits: FetchLimits) -> AsyncGenerator[ObjectSources, None]:
    """Open the object storage of ``s3_source``, if there are any. Raises ``StartupError``."""
    if not settings.s3_source:
        yield ObjectSources(None, (), limits)
        return
    async with Client(settings.s3_endpoint, setting="s3-source") as client:
        yield ObjectSources(client, settings.s3_source, limits)


async def _bucket(settings: Settings, location: S3Location, stack: AsyncExitStack) -> BucketStore:
    client = await stack.enter_async_context(Client(settings.s3_endpoint, setting="store"))
    leftovers = Leftovers(client, location.bucket, location.prefix, settings.state_dir)
    await stack.enter_async_context(leftovers)
    timeouts = Timeouts.of(idle=settings.idle_timeout, answer=settings.answer_timeout)
    store = BucketStore(
        client, location.bucket, location.prefix, leftovers, largest=settings.max_size, timeouts=timeouts
    )
    return await stack.enter_async_context(store)


def _temporary(stack: AsyncExitStack) -> Path:
    """Make a directory that is removed at the end if it is empty."""
    try:
        root = Path(tempfile.mkdtemp(prefix="aiorelay-store-"))
    except OSError as error:
        raise StartupError(
            f"Cannot make a temporary store: {error.strerror}. Choose a directory with --store."
        ) from error

    def remove_if_empty() -> None:
        with contextlib.suppress(OSError):
            root.rmdir()

    stack.callback(remove_if_empty)
    return root
