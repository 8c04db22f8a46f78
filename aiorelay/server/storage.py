"""Open the store of rest2, the unfinished uploads, the quarantine, and the object storage of sources."""

import math
from collections.abc import AsyncGenerator
from concurrent.futures import Executor
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from aiorelay.checks.quarantine.bucket import QuarantineBucket
from aiorelay.checks.quarantine.directory import Quarantine
from aiorelay.object_storage.client import Client
from aiorelay.observability.metrics import CallMetrics, Metrics
from aiorelay.rest1.resumable.object_segments import ObjectSegments
from aiorelay.rest1.resumable.shared_store import SharedUploads
from aiorelay.rest1.resumable.store import FileUploads
from aiorelay.rest1.resumable.unfinished import Uploads
from aiorelay.rest2.bucket import BucketStore, Timeouts
from aiorelay.rest2.directory import DirectoryStore
from aiorelay.rest2.leftovers import Leftovers
from aiorelay.rest2.store import Store
from aiorelay.settings import Settings
from aiorelay.settings.buckets import S3Location
from aiorelay.sources.fetch import FetchLimits
from aiorelay.sources.objects import ObjectSources
from aiorelay.state.server import StateServer

__all__ = ["open_object_sources", "open_quarantine", "open_store", "open_uploads"]


@asynccontextmanager
async def open_store(
    settings: Settings, temporary: Path | None, metrics: CallMetrics
) -> AsyncGenerator[tuple[Store, Path | None], None]:
    """Open the store that ``settings`` name, or else in the directory ``temporary``.

    Yields the store, and its directory if it is one. Raises ``StartupError``.
    """
    async with AsyncExitStack() as stack:
        if isinstance(settings.store, S3Location):
            yield await _bucket(settings, settings.store, metrics, stack), None
            return
        root = settings.store or temporary
        if root is None:
            raise AssertionError("without a store in the settings, there is a temporary one")
        store = DirectoryStore(root, fsync=settings.durable)
        store.open()
        stack.callback(store.close)
        yield store, store.root


@asynccontextmanager
async def open_object_sources(
    settings: Settings, limits: FetchLimits, metrics: CallMetrics
) -> AsyncGenerator[ObjectSources, None]:
    """Open the object storage of ``s3_source``, if there are any. Raises ``StartupError``."""
    if not settings.s3_source:
        yield ObjectSources(None, (), limits)
        return
    async with Client(settings.s3_endpoint, setting="s3-source", metrics=metrics) as client:
        yield ObjectSources(client, settings.s3_source, limits)


@asynccontextmanager
async def open_uploads(
    settings: Settings, state: StateServer | None, metrics: CallMetrics
) -> AsyncGenerator[Uploads, None]:
    """Open the unfinished uploads: in the state directory, or in ``spool`` and ``state``. Raises ``StartupError``."""
    quota, expiry = settings.resumable_quota, settings.upload_expiry
    async with AsyncExitStack() as stack:
        if settings.spool is None or state is None:
            files = FileUploads(settings.state_dir / "uploads", fsync=settings.durable, quota=quota, expiry=expiry)
            yield await stack.enter_async_context(files)
            return
        client = await stack.enter_async_context(Client(settings.s3_endpoint, setting="spool", metrics=metrics))
        segments = ObjectSegments(client, settings.spool.bucket, settings.spool.prefix)
        await segments.check()
        yield await stack.enter_async_context(SharedUploads(state, segments, quota=quota, expiry=expiry))


@asynccontextmanager
async def open_quarantine(
    settings: Settings, pool: Executor, metrics: Metrics
) -> AsyncGenerator[Quarantine | None, None]:
    """Open the quarantine of ``settings``, if there is one. Raises ``StartupError``.

    If it is in object storage, files are kept in the state directory until they are moved there.
    """
    place, limit, expiry = settings.quarantine, settings.quarantine_max_size, settings.quarantine_expiry
    if place is None:
        yield None
    elif isinstance(place, S3Location):
        waiting = Quarantine(settings.state_dir / "quarantine", limit=limit, expiry=math.inf, pool=pool)
        client = Client(settings.s3_endpoint, setting="quarantine", metrics=metrics.storage)
        bucket = QuarantineBucket(client, place, waiting, expiry=expiry, on_outcome=metrics.quarantined)
        async with client, waiting.opened(), bucket.moving():
            yield waiting
    else:
        async with Quarantine(place, limit=limit, expiry=expiry, pool=pool).opened() as quarantine:
            yield quarantine


async def _bucket(settings: Settings, location: S3Location, metrics: CallMetrics, stack: AsyncExitStack) -> BucketStore:
    client = await stack.enter_async_context(Client(settings.s3_endpoint, setting="store", metrics=metrics))
    leftovers = Leftovers(client, location.bucket, location.prefix, settings.state_dir)
    await stack.enter_async_context(leftovers)
    timeouts = Timeouts.of(idle=settings.idle_timeout, answer=settings.answer_timeout)
    store = BucketStore(
        client, location.bucket, location.prefix, leftovers, largest=settings.max_size, timeouts=timeouts
    )
    return await stack.enter_async_context(store)
