"""Write events into the outbox when uploads and jobs end, before any answer about them goes out.

Each event is a file, written on the event loop: that takes less than 0.1 ms. With ``fsync`` the answer waits until the
file is on the disk; threads sync, and events of the same moment are synced together.
"""

import asyncio
from collections.abc import Mapping
from concurrent.futures import Executor
from typing import Any

from aiorelay.observability.logs import UploadRecord, log, request_id
from aiorelay.observability.metrics import WebhookMetrics
from aiorelay.webhooks.delivery import Delivery
from aiorelay.webhooks.events import Event, job_event, upload_event
from aiorelay.webhooks.outbox import Outbox

__all__ = ["NO_WEBHOOK", "OutboxPublisher", "Publisher"]


class Publisher:
    """No-op publisher, used when ``webhook`` is off."""

    def upload_ended(self, _record: UploadRecord) -> None:
        """Publish the end of an upload."""

    def job_ended(self, _document: Mapping[str, Any], _who: str | None) -> None:
        """Publish the end of a job, which ``_document`` describes as clients see it."""

    async def written(self) -> None:
        """Return once everything that was published is as safe as it has to be."""


NO_WEBHOOK = Publisher()


class OutboxPublisher(Publisher):
    """Writes events into ``outbox``, and has them delivered by ``delivery``. Threads of ``pool`` sync files.

    An event that cannot be written is lost: it is logged and counted. The upload is answered as it would be without.
    """

    def __init__(self, outbox: Outbox, delivery: Delivery, metrics: WebhookMetrics, pool: Executor) -> None:
        self._outbox = outbox
        self._delivery = delivery
        self._metrics = metrics
        self._pool = pool
        self._written = 0
        self._synced = 0
        self._syncing: asyncio.Task[None] | None = None

    def upload_ended(self, record: UploadRecord) -> None:
        event = upload_event(record, request_id.get())
        if event is not None:
            self._write(event)

    def job_ended(self, document: Mapping[str, Any], who: str | None) -> None:
        known = request_id.get()
        self._write(job_event(document, who=who, request_id=None if known == "-" else known))

    async def written(self) -> None:
        mine = self._written
        while self._synced < mine:
            await asyncio.shield(self._sync())

    def _write(self, event: Event) -> None:
        if self._delivery.queue.is_full:
            self._lose(event, "the outbox is full")
            return
        try:
            entry = self._outbox.write(event)
        except OSError as error:
            self._lose(event, error.strerror or str(error))
            return
        self._delivery.add(entry)
        if self._outbox.fsync:
            self._written += 1
            self._sync()

    def _lose(self, event: Event, why: str) -> None:
        self._metrics.events_lost.inc()
        log.error("The webhook event %s is lost: %s.", event.id, why)

    def _sync(self) -> asyncio.Task[None]:
        """Begin to sync what was written, unless that is being done: then what is newer comes next."""
        if self._syncing is None:
            self._syncing = asyncio.create_task(self._sync_once())
        return self._syncing

    async def _sync_once(self) -> None:
        written, unsynced = self._written, self._outbox.unsynced()
        try:
            await asyncio.get_running_loop().run_in_executor(self._pool, self._outbox.sync, unsynced)
        finally:
            self._synced = written
            self._syncing = None
        if self._written > written:
            self._sync()
