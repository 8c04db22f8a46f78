"""The routes below /jobs.

GET    /jobs/ID           the job, as JSON
GET    /jobs/ID/events    its changes as server-sent events, until it has ended
DELETE /jobs/ID           cancels it, and returns it
"""

import asyncio
import contextlib
import json
import re
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import hdrs, web

from aiorelay.http.middleware import defer_100_continue
from aiorelay.rest1.jobs.registry import Job, Jobs

__all__ = ["JobRoutes", "job_response", "started_job_response"]

# HTML, section 9.2 (server-sent events): an id may be anything, and ours are numbers.
_NUMBER = re.compile(r"[0-9]{1,16}", re.ASCII)
_EVENT_STREAM = {
    hdrs.CONTENT_TYPE: "text/event-stream",
    hdrs.CACHE_CONTROL: "no-store",
    "X-Accel-Buffering": "no",  # nginx would hold events back until it has some kilobytes of them
}


class JobRoutes:
    """The routes of ``jobs``. ``owner`` names the sender of a request, who sees only their own jobs.

    An event stream has at most one event every ``pace`` seconds, and a comment after ``quiet`` seconds without one. A
    client that reads nothing for ``idle`` seconds is disconnected.
    """

    def __init__(
        self,
        jobs: Jobs,
        owner: Callable[[web.Request], str | None],
        *,
        idle: float,
        pace: float = 0.25,
        quiet: float = 15.0,
    ) -> None:
        self._jobs = jobs
        self._owner = owner
        self._idle = idle
        self._pace = pace
        self._quiet = quiet

    def add_to(self, router: web.UrlDispatcher) -> None:
        router.add_get("/jobs/{id}", self._show)
        router.add_get("/jobs/{id}/events", self._events, allow_head=False)
        router.add_delete("/jobs/{id}", self._cancel, expect_handler=defer_100_continue)

    async def _show(self, request: web.Request) -> web.Response:
        return job_response(await self._find(request))

    async def _cancel(self, request: web.Request) -> web.Response:
        job = await self._find(request)
        await self._jobs.cancel(job)
        return job_response(job)

    async def _events(self, request: web.Request) -> web.StreamResponse:
        job = await self._find(request)
        seen = _last_seen(request)
        if not job.running and job.version <= seen:
            return web.Response(status=204)  # which tells an EventSource to come no more (HTML, section 9.2.3)
        response = web.StreamResponse(headers=_EVENT_STREAM)
        try:
            await self._in_time(response.prepare(request))
            await self._stream(response, job, seen)
            await self._in_time(response.write_eof())
        except (OSError, TimeoutError):
            if request.transport is not None:
                request.transport.abort()
        return response

    async def _stream(self, response: web.StreamResponse, job: Job, seen: int) -> None:
        """Send the newest state whenever it is newer than what was ``seen``, the last one at the end."""
        while True:
            if job.version > seen:
                seen = job.version
                await self._in_time(response.write(_event(job)))
                await _at_most(self._pace, job.over.wait())
            if job.over.is_set() if job.running else job.version <= seen:
                return
            if not await _at_most(self._quiet, job.news(seen)):
                await self._in_time(response.write(b":\n\n"))

    async def _in_time(self, writing: Awaitable[object]) -> None:
        async with asyncio.timeout(self._idle):
            await writing

    async def _find(self, request: web.Request) -> Job:
        return await self._jobs.find(request.match_info["id"], self._owner(request))


def job_response(job: Job, *, status: int = 200) -> web.Response:
    """The answer that shows a job."""
    return web.json_response(job.describe(), status=status, headers={hdrs.CACHE_CONTROL: "no-store"})


def started_job_response(job: Job, headers: Mapping[str, str] | None = None) -> web.Response:
    """The answer to a request that has become a job (RFC 7240, section 4.1)."""
    response = job_response(job, status=202)
    response.headers.update(
        {**(headers or {}), hdrs.LOCATION: f"/jobs/{job.id}", "Preference-Applied": "respond-async"}
    )
    return response


async def _at_most(seconds: float, event: Awaitable[object]) -> bool:
    """Wait for ``event`` so many seconds; whether it came."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event
            return True
    return False


def _event(job: Job) -> bytes:
    # One line, and ASCII: the default of json.dumps.
    return f"event: job\nid: {job.version}\ndata: {json.dumps(job.describe())}\n\n".encode()


def _last_seen(request: web.Request) -> int:
    given = request.headers.get("Last-Event-ID", "")
    return int(given) if _NUMBER.fullmatch(given) else 0
