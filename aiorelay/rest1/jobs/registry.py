"""Start, find, cancel and expire jobs: uploads that go on after their request was answered.

    start(work) ─▶ running ─▶ done        the upstream has answered, with any status
                      │  └──▶ failed      a problem came first
                      │  └──▶ cancelled   a client asked for it
                      └─────▶ lost        the process ended first

The ``version`` of a job grows with every change. Waiters see the latest state only; intermediate states may be skipped.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal, Self

from aiorelay.errors import Internal, NotFound, Problem, TooManyJobs
from aiorelay.http.problem_details import problem_details
from aiorelay.observability.logs import log, request_id
from aiorelay.rest1.jobs.files import JobFiles, Record

__all__ = ["Job", "Jobs", "Work"]

_HOUR: Final = 3600.0
_RETRY_AFTER: Final = "5"
# The version of a lost job: its real number of changes is unknown. It is greater, and exact as a JSON number.
_LAST_VERSION: Final = 2**53 - 1
# The interval in seconds at which processes look at each other's files.
_POLL_INTERVAL: Final = 1.0
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
    """The jobs of this process: at most ``most``, each kept for ``kept`` seconds after its end, also in ``files``.

    ``tasks`` are those of running jobs. Leaving the context cancels them, and their jobs are lost.
    """

    def __init__(self, files: JobFiles, *, most: int, kept: float = _HOUR) -> None:
        self.tasks: set[asyncio.Task[object]] = set()
        self._files = files
        self._most = most
        self._kept = kept
        self._running: dict[str, tuple[Job, asyncio.Task[None]]] = {}
        self._ended: dict[str, tuple[Job, asyncio.TimerHandle]] = {}  # those that ended first are first
        self._cancelled: set[str] = set()
        self._drained = asyncio.Event()
        self._poll_timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Self:
        """Open the files, and take over the jobs of processes that have ended. Raises ``StartupError``."""
        self._files.open()
        for record in sorted(self._files.orphans(), key=lambda record: record.ended or time.time()):
            self._take_over(record)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.drain()
        await asyncio.sleep(0)  # a task that has not started could not record its end
        for task in self.tasks:
            task.cancel()
        if self.tasks:
            await asyncio.wait(self.tasks)
        for timer in (self._poll_timer, *(expiry for _, expiry in self._ended.values())):
            if timer is not None:
                timer.cancel()
        self._files.close()

    def drain(self) -> None:
        """Report no more changes, which ends all event streams. The jobs go on."""
        self._drained.set()
        for job, _ in self._running.values():
            job.close()

    def start(self, work: Work, owner: str | None) -> Job:
        """Start a job in a task of its own. Raises ``TooManyJobs``, ``StorageFull`` or ``Internal``."""
        while len(self._running) + len(self._ended) >= self._most:
            if not self._ended:
                raise TooManyJobs("Too many jobs are running. Try again soon.", headers={"Retry-After": _RETRY_AFTER})
            self._forget(next(iter(self._ended)))
        job = Job(secrets.token_urlsafe(24), owner)
        self._keep(job, ended=None)
        task = asyncio.create_task(self._run(job, work))
        self._running[job.id] = job, task
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        if self._poll_timer is None:
            self._schedule_poll()
        return job

    def find(self, identity: str, owner: str | None) -> Job:
        """Return a job that ``owner`` may see. Raises ``NotFound``."""
        known = self._running.get(identity) or self._ended.get(identity)
        job = known[0] if known else self._elsewhere(identity)
        if job is None or job.owner != owner:
            raise NotFound("There is no such job. Jobs are kept for an hour after their end.")
        return job

    async def cancel(self, job: Job) -> None:
        """Cancel a job, and return once it has ended. A job that has ended stays as it is.

        If the last byte has been sent, the upstream may have stored the upload. Raises ``StorageFull`` or ``Internal``
        if the process that runs the job cannot be asked.
        """
        if job.id in self._running:
            await asyncio.wait([self._cancel(job.id)])
        elif job.running:
            self._files.request_cancellation(job.id)
            await job.news(job.version)

    def _cancel(self, identity: str) -> asyncio.Task[None]:
        _, task = self._running[identity]
        self._cancelled.add(identity)
        task.cancel()
        return task

    def _schedule_poll(self) -> None:
        self._poll_timer = asyncio.get_running_loop().call_later(_POLL_INTERVAL, self._poll)

    def _poll(self) -> None:
        """Cancel jobs as other processes have asked, and look again as long as jobs are running."""
        self._poll_timer = None
        for identity in self._running.keys() - self._cancelled:
            if self._files.is_cancellation_requested(identity):
                self._cancel(identity)
        if self._running:
            self._schedule_poll()

    async def _run(self, job: Job, work: Work) -> None:
        """Do the work and record how it ended. What follows the work does not await, so nothing can interrupt it."""
        state: State = "failed"
        try:
            job.answer = await work(job)
        except asyncio.CancelledError:
            state = "cancelled" if job.id in self._cancelled else "lost"
        except Problem as problem:
            job.problem = problem_details(problem, request_id.get())
        except Exception:  # noqa: BLE001 - the last resort: logged with its traceback
            log.exception("unexpected failure of a job")
            job.problem = problem_details(
                Internal("An unexpected error occurred. The log of the relay has the details."), request_id.get()
            )
        else:
            state = "done"
            job.total = job.received
        self._end(job, state)

    def _end(self, job: Job, state: State) -> None:
        job.state = state
        job.changed()
        job.close()
        self._cancelled.discard(job.id)
        del self._running[job.id]
        self._expire(job, self._kept)
        try:
            self._keep(job, ended=time.time())
        except Problem as problem:
            log.warning("the end of a job could not be recorded: %s", problem.detail)

    def _take_over(self, record: Record) -> None:
        job = _job_of(record, alive=False)
        ended = record.ended
        if ended is None:
            ended = time.time()
            with contextlib.suppress(Problem):  # on a full disk the next start tries again
                self._keep(job, ended=ended)
        left = ended + self._kept - time.time()
        if left <= 0:
            self._files.remove(job.id)
            return
        if len(self._ended) >= self._most:
            self._forget(next(iter(self._ended)))
        job.close()
        self._expire(job, left)

    def _elsewhere(self, identity: str) -> Job | None:
        """A job that this process knows only from its file."""
        record = self._files.read(identity)
        if record is None or (record.ended is not None and record.ended + self._kept <= time.time()):
            return None
        job = _job_of(record, alive=self._files.is_alive(record.process))
        if not job.running:
            job.close()
            return job
        return _OtherProcessJob(job, self._files, self._drained)

    def _keep(self, job: Job, *, ended: float | None) -> None:
        self._files.write(
            Record(
                id=job.id,
                owner=job.owner,
                version=job.version,
                ended=ended,
                document=job.describe(),
                process=self._files.process,
            )
        )

    def _expire(self, job: Job, seconds: float) -> None:
        self._ended[job.id] = job, asyncio.get_running_loop().call_later(seconds, self._forget, job.id)

    def _forget(self, identity: str) -> None:
        _, expiry = self._ended.pop(identity)
        expiry.cancel()
        self._files.remove(identity)


class _OtherProcessJob(Job):
    """A job that another living process runs: its file tells how it began, and how it ended."""

    def __init__(self, job: Job, files: JobFiles, drained: asyncio.Event) -> None:
        super().__init__(**job.describe(), owner=job.owner, version=job.version, over=drained)
        self._files = files

    async def news(self, since: int) -> None:
        while self.version <= since and not self.over.is_set():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_POLL_INTERVAL):
                    await self.over.wait()
            self._poll()

    def _poll(self) -> None:
        record = self._files.read(self.id)
        now = None if record is None else _job_of(record, alive=self._files.is_alive(record.process))
        if now is None:  # it ended, and made room for others, between two glances
            self.state, self.version = "lost", _LAST_VERSION
        elif not now.running:
            self.state, self.version = now.state, now.version
            self.received, self.forwarded, self.total = now.received, now.forwarded, now.total
            self.answer, self.problem = now.answer, now.problem


def _job_of(record: Record, *, alive: bool) -> Job:
    """The job of a record. A running job is lost unless its process is ``alive``."""
    known = {member: value for member, value in record.document.items() if member in _MEMBERS}
    job = Job(**known, owner=record.owner, version=record.version)
    if job.running and not alive:
        job.state, job.version = "lost", _LAST_VERSION
    return job
