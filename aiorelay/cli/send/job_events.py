"""Follow a job of the relay to its end through its server-sent events (HTML standard, section 9.2).

GET JOB/events  ─▶ event ─▶ event ─▶ … ─▶ the job has ended
     └── broken off: again, with Last-Event-ID, a few times
"""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from aiorelay.cli.send.results import Answer, SendError, SendResult

__all__ = ["Event", "cancel", "events_in", "follow", "result_of_job"]

# A stream that says nothing for so many seconds is asked for anew; the relay's says something every quarter of that.
_SILENCE = 60.0
_PAUSES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_LONGEST_EVENT = 64 * 1024 * 1024
_CANCELLING = 5.0

Job = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Event:
    """An event's data, and the id under which the stream can be resumed after it."""

    id: str
    data: str


async def follow(session: aiohttp.ClientSession, job: URL, on_news: Callable[[Job], object]) -> Job:
    """Tell ``on_news`` each state of the job that the relay tells; give the last one. Raises ``SendError``."""
    seen = ""
    pauses = iter(_PAUSES)
    while True:
        with suppress(aiohttp.ClientError, OSError, TimeoutError, ValueError):
            async with aclosing(_stream(session, job, seen)) as events:
                async for event in events:
                    seen, pauses = event.id or seen, iter(_PAUSES)
                    on_news(state := _read(event.data))
                    if state["state"] != "running":
                        return state
        pause = next(pauses, None)
        if pause is None:
            raise SendError(f"The relay tells no more of the job, which may go on; ask {job}")
        await asyncio.sleep(pause)


async def cancel(session: aiohttp.ClientSession, job: URL) -> None:
    """Ask the relay to end the job; whether it does is not waited for long."""
    with suppress(aiohttp.ClientError, OSError, TimeoutError):
        async with asyncio.timeout(_CANCELLING), session.delete(job):
            pass


def result_of_job(source: str, job: Job) -> SendResult:
    """What came of a source whose job has ended: the upstream's answer, or what came instead."""
    match job:
        case {"answer": {"status": int(status), **answer}}:
            body = answer.get("body")
            text = body if isinstance(body, str) else "" if body is None else json.dumps(body)
            return SendResult.of(source, Answer(status, _media_type(answer.get("headers")), text.encode()))
        case {"problem": {"title": _} as problem}:
            return SendResult(source, problem=problem)
        case {"state": "lost"}:
            return SendResult(source, problem={"title": "The relay ended before the upload did; send it again"})
        case _:
            return SendResult(source, problem={"title": f"The job ended as {job['state']}, without an answer"})


async def events_in(blocks: AsyncIterator[bytes]) -> AsyncGenerator[Event, None]:
    """The events of a stream; one that does not end with an empty line is none.

    Raises ValueError for one without end.
    """
    buffered = b""
    lines: list[str] = []
    async for block in blocks:
        *whole, buffered = (buffered + block).split(b"\n")
        for line in whole:
            if text := line.removesuffix(b"\r").decode("utf-8", "replace"):
                lines.append(text)
                continue
            for event in _event(lines):
                yield event
            lines = []
        if len(buffered) > _LONGEST_EVENT:
            raise ValueError("an event without end")


async def _stream(session: aiohttp.ClientSession, job: URL, seen: str) -> AsyncGenerator[Event, None]:
    """What the relay tells now, and for as long as the connection lasts."""
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": seen} if seen else {})
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_SILENCE)
    async with session.get(job / "events", headers=headers, timeout=timeout, allow_redirects=False) as response:
        if 400 <= response.status < 500:
            answer = Answer(response.status, response.content_type, await response.read())
            raise SendError(f"The relay tells nothing of the job: {SendResult.of('', answer).sentence}")
        response.raise_for_status()
        try:
            async with aclosing(events_in(response.content.iter_any())) as events:
                async for event in events:
                    yield event
        finally:
            if response.connection is not None and response.connection.transport is not None:
                response.connection.transport.abort()  # or TLS would wait for the relay's goodbye


def _event(lines: list[str]) -> Iterator[Event]:
    identity, data = "", []
    for line in lines:
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if name == "id":
            identity = value
        elif name == "data":
            data.append(value)
    if data:
        yield Event(identity, "\n".join(data))


def _read(data: str) -> Job:
    job = json.loads(data)
    if not isinstance(job, dict) or not isinstance(job.get("state"), str):
        raise ValueError("not a job")  # noqa: TRY004 - as json.loads says it of everything else
    return job


def _media_type(headers: object) -> str:
    """The media type among headers, which JSON holds as an object or as a list of pairs."""
    pairs = headers.items() if isinstance(headers, dict) else headers if isinstance(headers, list) else ()
    types = [str(pair[1]) for pair in pairs if len(pair) == 2 and str(pair[0]).lower() == "content-type"]
    return types[0].partition(";")[0].strip().lower() if types else ""
