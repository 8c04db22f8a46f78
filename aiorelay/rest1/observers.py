"""What is told of every upload: metrics, traces and webhook events."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from aiohttp import web

from aiorelay.errors import Problem
from aiorelay.observability.logs import UploadRecord
from aiorelay.observability.metrics import Metrics
from aiorelay.observability.tracing import NO_TRACING, Tracing
from aiorelay.webhooks.publisher import NO_WEBHOOK, Publisher

__all__ = ["Observers"]


@dataclass(frozen=True, slots=True)
class Observers:
    """The observers of uploads."""

    metrics: Metrics
    tracing: Tracing = NO_TRACING
    publisher: Publisher = NO_WEBHOOK

    @contextmanager
    def upload(self, record: UploadRecord, request: web.Request) -> Iterator[None]:
        """Trace and record an upload during the context, which ends the record. Count and publish it then."""
        record.on_end = self._ended
        with self.tracing.upload(record, request):
            try:
                yield
            except Problem as problem:
                record.failed(problem)
                raise
            finally:
                record.end()

    def _ended(self, record: UploadRecord) -> None:
        self.metrics.ended(record)
        self.publisher.upload_ended(record)
