"""Follow a job of the relay to its end through its server-sent events (HTML standard, section 9.2).

GET JOB/events  ─▶ event ─▶ event ─▶ … ─▶ the job has ended
     └── connection lost: retry a few times with Last-Event-ID
"""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from aiorelay.cli.send.results import Answer, SendError, SendResult
from aiorelay.http.grammar import essence

__all__ = ["Event", "cancel", "events_in", "follow", "result_of_job"]

# Reconnect after this many seconds without a byte. The relay sends a comment four times as often.
_SILENCE = 60.0
_PAUSES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
_LONGEST_EVENT = 64 * 1024 * 1024
_CANCELLING = 5.0

Job = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Event:
    """The data of an event, and the id with which the stream can be resumed after it."""

    id: str
    data: str


async def follow(session: aiohttp.ClientSession, job: URL, on_news: Callable[[Job], object]) -> Job:
    """Call ``on_news`` with each state of the job. Return the final state. Raises ``SendError``."""
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
            raise SendError(f"The connection to the relay was lost. The job may continue; see {job}.")
        await asyncio.sleep(pause)


async def cancel(session: aiohttp.ClientSession, job: URL) -> None:
    """Ask the relay to cancel the job. Wait for its answer for a few seconds only."""
    with suppress(aiohttp.ClientError, OSError, TimeoutError):
        async with asyncio.timeout(_CANCELLING), session.delete(job):
            pass


def result_of_job(source: str, job: Job) -> SendResult:
    """Return the result of a job that has ended: the upstream's answer or a problem."""
    match job:
        case {"answer": {"status": int(status), **answer}}:
            body = answer.get("body")
            text = body if isinstance(body, str) else "" if body is None else json.dumps(body)
            is_binary = answer.get("body_encoding") == "base64"
            content = base64.b64decode(text) if is_binary else text.encode()
            return SendResult.of(source, Answer(status, _media_type(answer.get("headers")), content))
        case {"problem": {"title": _} as problem}:
            return SendResult(source, problem=problem)
        case {"state": "lost"}:
            return SendResult(
                source, problem={"title": "The relay stopped before the upload was complete. Send it again."}
            )
        case _:
            return SendResult(
                source, problem={"title": f"The job ended as {job['state']} without an answer. Send it again."}
            )


async def events_in(blocks: AsyncIterator[bytes]) -> AsyncGenerator[Event, None]:
    """Yield the events of a stream. An incomplete event at the end is ignored.

    Raises ValueError for an event that is too long.
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
            raise ValueError("the event is too long")


async def _stream(session: aiohttp.ClientSession, job: URL, seen: str) -> AsyncGenerator[Event, None]:
    """Yield the events that the relay sends until the connection ends."""
    headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": seen} if seen else {})
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_SILENCE)
    async with session.get(job / "events", headers=headers, timeout=timeout, allow_redirects=False) as response:
        if 400 <= response.status < 500:
            answer = Answer(response.status, response.content_type, await response.read())
            raise SendError(f"The relay refuses the events of the job: {SendResult.of('', answer).sentence}")
        response.raise_for_status()
        try:
            async with aclosing(events_in(response.content.iter_any())) as events:
                async for event in events:
                    yield event
        finally:
            if response.connection is not None and response.connection.transport is not None:
                response.connection.transport.abort()  # closing would wait for the relay's close_notify


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
        raise ValueError("not a job")  # noqa: TRY004 - the same exception as that of json.loads
    return job


def _media_type(headers: object) -> str:
    """Return the media type in ``headers``, a JSON object or a list of pairs."""
    pairs = headers.items() if isinstance(headers, dict) else headers if isinstance(headers, list) else ()
    types = [str(pair[1]) for pair in pairs if len(pair) == 2 and str(pair[0]).lower() == "content-type"]
    return essence(types[0]) if types else ""
