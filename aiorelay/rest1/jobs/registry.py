"""Start, find, cancel and expire jobs: uploads that go on after their request was answered.

    start(work) ─▶ running ─▶ done        the upstream has answered, with any status
                      │  └──▶ failed      a problem came first
                      │  └──▶ cancelled   a client asked for it
                      └─────▶ lost        the process ended first

The ``version`` of a job grows with every change. Waiters see the latest state only; intermediate states may be skipped.
"""

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, Self

from aiorelay.concurrency.threads import to_its_end
from aiorelay.errors import Internal, NotFound, Problem, StateUnavailable
from aiorelay.http.problem_details import problem_details
from aiorelay.observability.logs import log, request_id
from aiorelay.rest1.jobs.records import LAST_VERSION, JobRecords, Record

__all__ = ["Job", "Jobs", "Work"]

# Seconds within which another process cancels a job, or has ended itself.
_CANCELLATION_TIMEOUT: Final = 30.0
_MEMBERS: Final = ("id", "state", "received", "forwarded", "total", "answer", "problem")

State = Literal["running", "done", "failed", "cancelled", "lost"]


@dataclass(slots=True, eq=False)
class Job:
    """One job, visible to clients that ``owner`` names.

    ``received`` counts the bytes of files read from the sources, ``forwarded`` the bytes written to the upstream,
    framing included. ``total`` is the size of all files, once known. ``answer`` is the upstream's answer, ``problem``
    is set instead if there is none. ``over`` is set once this process will report no more changes.
    """

    id: str
    owner: str | None = None
    state: State = "running"
    received: int = 0
    forwarded: int = 0
    total: int | None = None
    answer: dict[str, Any] | None = None
    problem: dict[str, Any] | None = None
    version: int = 1
    over: asyncio.Event = field(default_factory=asyncio.Event, repr=False)
    _news: asyncio.Event = field(default_factory=asyncio.Event, repr=False)

    @property
    def running(self) -> bool:
        return self.state == "running"

    def describe(self) -> dict[str, Any]:
        """The job in the members that clients are shown."""
        return {member: getattr(self, member) for member in _MEMBERS}

    def note(self, *, received: int | None = None, forwarded: int | None = None, total: int | None = None) -> None:
        """Note how far it has come, in bytes since its beginning."""
        self.received = self.received if received is None else received
        self.forwarded = self.forwarded if forwarded is None else forwarded
        self.total = self.total if total is None else total
        self.changed()

    def changed(self) -> None:
        """Let those who wait for news know that there are some."""
        self.version += 1
        news, self._news = self._news, asyncio.Event()
        news.set()

    def close(self) -> None:
        """Say that there will be no more news, whether or not the job goes on."""
        self.over.set()
        self._news.set()

    async def news(self, since: int) -> None:
        """Wait until its version is greater than ``since``, or until there will be no more news."""
        while self.version <= since and not self.over.is_set():
            await self._news.wait()


Work = Callable[[Job], Awaitable[dict[str, Any]]]
"""The work of a job: it reports its progress, and returns the upstream's answer or raises a ``Problem``."""


class Jobs:
    """The jobs that this process runs, and through ``records`` those of others and those that have ended.

    ``tasks`` are those of running jobs. Leaving the context cancels them, and their jobs are lost. ``on_end`` is called
    with the record of each job that ends, before anyone is told of it.
    """

    def __init__(self, records: JobRecords, on_end: Callable[[Record], object] = lambda _record: None) -> None:
        self.tasks: set[asyncio.Task[object]] = set()
        self._records = records
        self._on_end = on_end
        self._running: dict[str, tuple[Job, asyncio.Task[None]]] = {}
        self._cancelled: set[str] = set()
        self._drained = asyncio.Event()
        self._renewing: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Open the records. Raises ``StartupError``."""
        await self._records.open()
        self._renewing = asyncio.create_task(self._renew_regularly())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.drain()
        await asyncio.sleep(0)  # a task that has not started could not record its end
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks)
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait([self._renewing])
        await self._records.close()

    def drain(self) -> None:
        """Report no more changes, which ends all event streams. The jobs go on."""
        self._drained.set()
        for job, _ in self._running.values():
            job.close()

    async def start(self, work: Work, owner: str | None) -> Job:
        """Start a job in a task of its own, which has not begun when this returns.

        Raises ``TooManyJobs``, ``StorageFull``, ``StateUnavailable`` or ``Internal``.
        """
        job = Job(secrets.token_urlsafe(24), owner)
        await self._records.start(_record(job))
        task = asyncio.create_task(self._run(job, work))
        self._running[job.id] = job, task
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return job

    async def find(self, identity: str, owner: str | None) -> Job:
        """Return a job that ``owner`` may see. Raises ``NotFound`` and ``StateUnavailable``."""
        job = self._running[identity][0] if identity in self._running else await self._elsewhere(identity)
        if job is None or job.owner != owner:
            raise NotFound("There is no such job. Jobs are kept for an hour after their end.")
        return job

    async def cancel(self, job: Job) -> None:
        """Cancel a job, and return once it has ended. A job that has ended stays as it is.

        If the last byte has been sent, the upstream may have stored the upload. Raises ``StorageFull``, ``Internal`` or
        ``StateUnavailable`` if the process that runs the job cannot be asked, or does not answer.
        """
        if job.id in self._running:
            await asyncio.wait([self._cancel(job.id)])
        elif job.running:
            await self._records.request_cancellation(job.id)
            try:
                async with asyncio.timeout(_CANCELLATION_TIMEOUT):
                    while job.running and not job.over.is_set():
                        await job.news(job.version)
            except TimeoutError:
                raise StateUnavailable("The relay that runs the job has not cancelled it yet. Try again.") from None

    def _cancel(self, identity: str) -> asyncio.Task[None]:
        _, task = self._running[identity]
        if identity not in self._cancelled:
            self._cancelled.add(identity)
            task.cancel()
        return task

    async def _renew_regularly(self) -> None:
        """Say which jobs are running, and cancel those that other processes want cancelled."""
        while True:
            await asyncio.sleep(self._records.interval)
            running = [_record(job) for job, _ in self._running.values()]
            for identity in await self._records.renew(running):
                if identity in self._running:
                    self._cancel(identity)

    async def _run(self, job: Job, work: Work) -> None:
        """Do the work and record how it ended."""
        end: dict[str, Any]
        try:
            answer = await work(job)
            end = {"state": "done", "answer": answer, "total": job.received}
        except asyncio.CancelledError:
            end = {"state": "cancelled" if job.id in self._cancelled else "lost"}
        except Problem as problem:
            end = {"state": "failed", "problem": problem_details(problem, request_id.get())}
        except Exception:  # noqa: BLE001 - the last resort: logged with its traceback
            log.exception("unexpected failure of a job")
            internal = Internal("An unexpected error occurred. The log of the relay has the details.")
            end = {"state": "failed", "problem": problem_details(internal, request_id.get())}
        await self._end(job, end)

    async def _end(self, job: Job, end: dict[str, Any]) -> None:
        """Record the end, the members of ``job`` that change, before anyone is told: other processes may be asked."""
        running = _record(job)
        ended = replace(running, version=running.version + 1, ended=time.time(), document={**running.document, **end})
        self._on_end(ended)
        try:
            await to_its_end(self._records.end(ended))
        finally:
            del self._running[job.id]
            self._cancelled.discard(job.id)
            for member, value in end.items():
                setattr(job, member, value)
            job.changed()
            job.close()

    async def _elsewhere(self, identity: str) -> Job | None:
        """A job that this process does not run."""
        record = await self._records.find(identity)
        if record is None:
            return None
        job = _job_of(record)
        if not job.running:
            job.close()
            return job
        return _OtherProcessJob(job, self._records, self._drained)


class _OtherProcessJob(Job):
    """A job that another living process runs: its record tells what becomes of it."""

    def __init__(self, job: Job, records: JobRecords, drained: asyncio.Event) -> None:
        super().__init__(**job.describe(), owner=job.owner, version=job.version, over=drained)
        self._records = records

    async def news(self, since: int) -> None:
        if self.version > since or self.over.is_set():
            return
        reading = asyncio.create_task(self._records.news(self.id, self.version))
        over = asyncio.create_task(self.over.wait())
        try:
            await asyncio.wait([reading, over], return_when=asyncio.FIRST_COMPLETED)
            if reading.done():
                self._become(reading.result())
        finally:
            for task in (reading, over):
                task.cancel()
            await asyncio.wait([reading, over])

    def _become(self, record: Record | None) -> None:
        if record is None:  # it ended, and made room for others, between two glances
            self.state, self.version = "lost", LAST_VERSION
            return
        now = _job_of(record)
        self.state, self.version = now.state, now.version
        self.received, self.forwarded, self.total = now.received, now.forwarded, now.total
        self.answer, self.problem = now.answer, now.problem


def _record(job: Job) -> Record:
    return Record(id=job.id, owner=job.owner, version=job.version, ended=None, document=job.describe())


def _job_of(record: Record) -> Job:
    known = {member: value for member, value in record.document.items() if member in _MEMBERS}
    return Job(**known, owner=record.owner, version=record.version)
