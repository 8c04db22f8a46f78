"""Events are written, and on the disk where that is wanted, before anybody is told; or they are counted as lost."""

import asyncio
import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from webhook_receivers import secret_file
from yarl import URL

from aiorelay.observability.logs import UploadRecord
from aiorelay.observability.metrics import Metrics
from aiorelay.webhooks import queue
from aiorelay.webhooks.delivery import Delivery
from aiorelay.webhooks.outbox import Outbox
from aiorelay.webhooks.publisher import OutboxPublisher
from aiorelay.webhooks.receiver import Receiver
from aiorelay.webhooks.signatures import Secrets

JOB = dict.fromkeys(("received", "forwarded", "total", "answer", "problem")) | {"id": "a", "state": "done"}


def stored() -> UploadRecord:
    record = UploadRecord("/upload1", "127.0.0.1")
    record.answered(200, stored=True)
    return record


@pytest.fixture
def publishing(tmp_path):
    """A context of a publisher whose events nothing delivers, and its counter of lost events."""

    @contextmanager
    def start(*, fsync: bool):
        outbox, metrics = Outbox(tmp_path / "state", fsync=fsync), Metrics().webhooks
        outbox.open()
        receiver = Receiver(URL("http://127.0.0.1/"), Secrets(secret_file(tmp_path)))
        delivery = Delivery(outbox, receiver, metrics)
        with ThreadPoolExecutor(1) as pool:
            yield OutboxPublisher(outbox, delivery, metrics, pool), metrics.events_lost
        outbox.close()

    return start


class Disk:
    """Counts syncs, each of which waits until ``ready`` is set."""

    def __init__(self, monkeypatch):
        self.syncs = 0
        self.begun = threading.Event()
        self.ready = threading.Event()
        self._real = os.fsync
        monkeypatch.setattr(os, "fsync", self._fsync)

    def _fsync(self, fd):
        self.syncs += 1
        self.begun.set()
        self.ready.wait()
        self._real(fd)


@pytest.fixture
def disk(monkeypatch):
    disk = Disk(monkeypatch)
    yield disk
    disk.ready.set()


async def test_without_fsync_nothing_is_synced(publishing, disk):
    with publishing(fsync=False) as (publisher, _):
        publisher.upload_ended(stored())
        await publisher.written()
    assert disk.syncs == 0


async def test_with_fsync_an_event_is_written_once_it_is_synced(publishing, disk):
    with publishing(fsync=True) as (publisher, _):
        publisher.upload_ended(stored())
        waiting = asyncio.create_task(publisher.written())
        await asyncio.to_thread(disk.begun.wait)
        assert not waiting.done()
        disk.ready.set()
        await waiting
    assert disk.syncs == 2  # the file and its directory


async def test_events_of_the_same_moment_are_synced_together(publishing, disk):
    disk.ready.set()
    with publishing(fsync=True) as (publisher, _):

        async def publish() -> None:
            publisher.upload_ended(stored())
            await publisher.written()

        await asyncio.gather(*(publish() for _ in range(50)))
    assert disk.syncs <= 50 + 3  # the directory once in a while


async def test_an_event_that_comes_during_a_sync_is_synced_after_it(publishing, disk):
    with publishing(fsync=True) as (publisher, _):
        publisher.upload_ended(stored())
        await asyncio.sleep(0)
        await asyncio.to_thread(disk.begun.wait)
        publisher.job_ended(JOB, None)
        waiting = asyncio.create_task(publisher.written())
        disk.ready.set()
        await waiting
    assert disk.syncs == 4


async def test_a_disk_that_cannot_sync_is_logged(publishing, monkeypatch, caplog):
    def fail(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with publishing(fsync=True) as (publisher, _):
        publisher.upload_ended(stored())
        await publisher.written()
    assert "A webhook event could not be synced: Input/output error." in caplog.text


async def test_an_event_for_which_the_outbox_has_no_room_is_lost(publishing, monkeypatch, caplog, tmp_path):
    monkeypatch.setattr(queue, "MOST_EVENTS", 1)
    with publishing(fsync=False) as (publisher, lost):
        for _ in range(3):
            publisher.upload_ended(stored())
        assert len(list((tmp_path / "state" / "outbox").glob("*/*"))) == 1
    assert lost._value.get() == 2  # noqa: SLF001 - it has no reader
    assert caplog.text.count("is lost: the outbox is full.") == 2


async def test_an_upload_without_an_event_writes_nothing(publishing, tmp_path):
    with publishing(fsync=False) as (publisher, _):
        record = stored()
        record.repeated(200)
        publisher.upload_ended(record)
        assert list((tmp_path / "state" / "outbox").glob("*/*")) == []
