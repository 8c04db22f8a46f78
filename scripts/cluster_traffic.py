"""The uploads of the soak test of a cluster, and what they were answered."""

import asyncio
import hashlib
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

__all__ = ["LARGE", "Traffic", "described"]

_MIB = 2**20
LARGE = 24 * _MIB
_BLOCK = 256 * 1024
_WORKERS = 8
_PAUSE = 1.0
"""The longest pause of a worker between two uploads, in seconds."""
_UPLOAD_TIMEOUT = 180.0
_RETRY_PAUSE = 0.5
_LOST = {502, 503, 504}
"""Answers after which the client does not know whether the file was stored."""
_AGAIN = {*_LOST, 409, 423}
"""Answers after which a client of a resumable upload asks for the offset."""
_BROKEN = (OSError, aiohttp.ClientError, TimeoutError)


def described(content: bytes) -> tuple[int, str]:
    """Return the size and the SHA-256 of a file."""
    return len(content), hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Protocol:
    """A protocol for resumable uploads: how an upload is made, appended to and asked for its offset.

    ``unfinished`` and ``last`` are on appends that do not complete the upload, and on the one that does.
    """

    method: str
    path: str
    create: Mapping[str, str]
    append: Mapping[str, str]
    unfinished: Mapping[str, str]
    last: Mapping[str, str]
    head: Mapping[str, str]


_DRAFT = Protocol(
    method="PUT",
    path="/upload/a.bin",
    create={"Upload-Complete": "?0", "Content-Type": "application/octet-stream"},
    append={"Content-Type": "application/partial-upload"},
    unfinished={"Upload-Complete": "?0"},
    last={"Upload-Complete": "?1"},
    head={},
)
_VERSION = {"Tus-Resumable": "1.0.0"}
_TUS = Protocol(
    method="POST",
    path="/files/",
    create=_VERSION | {"Upload-Metadata": "filename YS5iaW4="},
    append=_VERSION | {"Content-Type": "application/offset+octet-stream"},
    unfinished={},
    last={},
    head=_VERSION,
)


@dataclass
class Traffic:
    """The uploads. ``stored`` has the path and the description of each that was answered with success.

    ``maybe`` has the descriptions of those whose answer was lost, ``recoveries`` the seconds until broken appends went
    on.
    """

    session: aiohttp.ClientSession
    source: str
    pool: bytes
    stored: dict[str, tuple[int, str]] = field(default_factory=dict)
    maybe: list[tuple[int, str]] = field(default_factory=list)
    done: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    recoveries: list[float] = field(default_factory=list)
    volume: int = 0
    chance: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311 - traffic, not secrets

    async def run(self, seconds: float) -> None:
        """Upload for ``seconds``."""
        end = time.monotonic() + seconds
        await asyncio.gather(*(self._work(end) for _ in range(_WORKERS)))

    def fail(self, fault: str) -> str:
        """Record something that must not happen."""
        self.faults.append(fault)
        return "failed"

    async def _work(self, end: float) -> None:
        kinds = (self._form, self._raw, self._job, self._draft, self._tus)
        while time.monotonic() < end:
            kind = self.chance.choice(kinds)
            content = self._content()
            name = kind.__name__.strip("_")
            try:
                async with asyncio.timeout(_UPLOAD_TIMEOUT):
                    how = await kind(content)
            except _BROKEN as error:
                self.maybe.append(described(content))
                how = "lost"
                if isinstance(error, TimeoutError):
                    self.faults.append(f"{name}: no end after {_UPLOAD_TIMEOUT:.0f} s")
            self.done[f"{name} {how}"] += 1
            await asyncio.sleep(self.chance.uniform(0, _PAUSE))

    async def _form(self, content: bytes) -> str:
        form = aiohttp.FormData()
        form.add_field("somefile", content, filename="a.bin")
        return await self._plain("POST", "/upload1", content, data=form)

    async def _raw(self, content: bytes) -> str:
        return await self._plain("PUT", "/upload/a.bin", content, data=content)

    async def _plain(self, method: str, path: str, content: bytes, **options: Any) -> str:
        async with self.session.request(method, path, **options) as answer:
            return self.ended(answer.status, await answer.read(), content)

    async def _job(self, content: bytes) -> str:
        content = self.pool[: len(content)]
        document = {"somefile": f"{self.source}?size={len(content)}"}
        async with self.session.post("/upload2", json=document, headers={"Prefer": "respond-async"}) as answer:
            if answer.status in _LOST:
                return "refused"
            job, location = await answer.json(), answer.headers.get("Location", "")
        while job.get("state") == "running":
            await asyncio.sleep(0.2)
            with suppress(*_BROKEN):
                async with self.session.get(location) as answer:
                    if answer.status == 200:
                        job = await answer.json()
                    elif answer.status not in _LOST:
                        self.faults.append(f"{location}: {answer.status} {await answer.text()}")
                        return "lost"
        if job["state"] == "done":
            return self.ended(job["answer"]["status"], job["answer"]["body"].encode(), content)
        self.maybe.append(described(content))
        return str(job["state"])

    def ended(self, status: int, body: bytes, content: bytes) -> str:
        """Record the answer to an upload."""
        told = described(content)
        if status in _LOST:
            self.maybe.append(told)
            return "failed"
        if status not in {200, 201}:
            self.faults.append(f"{status} {body[:200]!r}")
            return "refused"
        (file,) = json.loads(body)["files"]
        if (file["size"], file["sha256"]) != told:
            self.faults.append(f"{file['path']}: the answer says {file}, but {told} was sent")
        if file["path"] in self.stored:
            self.faults.append(f"{file['path']}: two answers")
        self.stored[file["path"]] = told
        self.volume += len(content)
        return "stored"

    async def _draft(self, content: bytes) -> str:
        return await Resumable(self, _DRAFT, content).run()

    async def _tus(self, content: bytes) -> str:
        return await Resumable(self, _TUS, content).run()

    def _content(self) -> bytes:
        size = LARGE if self.chance.random() < 0.2 else self.chance.randrange(1, 4 * _MIB)
        start = self.chance.randrange(LARGE)
        return self.pool[start : start + size]


@dataclass
class Resumable:
    """A resumable upload of ``content`` in pieces, of which a fifth break off in their middle."""

    traffic: Traffic
    protocol: Protocol
    content: bytes
    location: str = ""
    offset: int = 0
    said: str = ""
    """The last answer."""
    broken: float | None = None
    """When the last append broke off that no other has followed yet."""

    async def run(self) -> str:
        """Upload, and return how it ended."""
        try:
            return await self._run()
        except asyncio.CancelledError:
            self.traffic.fail(f"{self.location} was at {self.offset} of {len(self.content)} after {self.said}")
            raise

    async def _run(self) -> str:
        while not self.location:
            if fault := await self._create():
                return self.traffic.fail(fault)
        while True:
            size = min(self.traffic.chance.randrange(1, 8 * _MIB), len(self.content) - self.offset)
            last = self.offset + size == len(self.content)
            acknowledged, ended = await self._append(self.content[self.offset : self.offset + size], last=last)
            if ended is None and acknowledged is None:
                self.broken = self.broken or time.monotonic()
                if last:  # the answer was lost, perhaps that of an upload that is stored
                    self.traffic.maybe.append(described(self.content))
                ended = await self._outcome() if last else None
                acknowledged = await self._asked_offset() if ended is None else None
            if ended is not None:
                return ended
            if acknowledged is None or acknowledged < self.offset:
                return self.traffic.fail(f"{self.location}: the offset was {self.offset}, and is {acknowledged}")
            if self.broken is not None and acknowledged > self.offset:
                self.traffic.recoveries.append(time.monotonic() - self.broken)
                self.broken = None
            self.offset = acknowledged

    async def _create(self) -> str:
        """Make the upload, or return what went wrong for good."""
        headers = {**self.protocol.create, "Upload-Length": str(len(self.content))}
        with suppress(*_BROKEN):
            async with self._request(self.protocol.method, self.protocol.path, headers) as answer:
                if answer.status == 201:
                    self.location = answer.headers["Location"]
                elif answer.status not in _LOST:
                    return f"{self.protocol.path}: {answer.status} {await answer.text()}"
        if not self.location:
            await asyncio.sleep(_RETRY_PAUSE)
        return ""

    async def _append(self, piece: bytes, *, last: bool) -> tuple[int | None, str | None]:
        """Send a piece. Return the acknowledged offset if it was told, and how the upload ended if it did."""
        cut = not last and self.traffic.chance.random() < 0.2
        headers = {**self.protocol.append, **(self.protocol.last if last else self.protocol.unfinished)}
        headers["Upload-Offset"] = str(self.offset)
        with suppress(*_BROKEN):
            async with self._request("PATCH", self.location, headers, _sent(piece, cut=cut)) as answer:
                body = await answer.read()
                self.said = f"PATCH {answer.status} {body[:300]!r}"
                if last and answer.status in {200, 201} and body:
                    return None, self.traffic.ended(answer.status, body, self.content)
                if answer.status in {200, 201, 204}:
                    return int(answer.headers["Upload-Offset"]), None
                if answer.status not in _AGAIN:
                    return None, self.traffic.fail(f"PATCH {self.location}: {answer.status} {body[:300]!r}")
        return None, None

    async def _asked_offset(self) -> int:
        while True:
            with suppress(*_BROKEN):
                async with self._request("HEAD", self.location, self.protocol.head) as answer:
                    self.said = f"HEAD {answer.status} {answer.headers}"
                    if answer.status in {200, 204}:
                        return int(answer.headers["Upload-Offset"])
                    if answer.status not in _AGAIN:
                        self.traffic.fail(f"HEAD {self.location}: {answer.status}")
                        return -1
            await asyncio.sleep(_RETRY_PAUSE)

    async def _outcome(self) -> str | None:
        """Ask how the upload ended, because the answer to its last append was lost. None means that it has not."""
        with suppress(*_BROKEN):
            async with self._request("GET", self.location, {}) as answer:
                job = await answer.json() if answer.status == 200 else {}
            if job.get("state") == "done":
                return self.traffic.ended(job["answer"]["status"], job["answer"]["body"].encode(), self.content)
            if answer.status not in {200, *_LOST}:
                return self.traffic.fail(f"GET {self.location}: {answer.status}")
        return None

    def _request(self, method: str, target: str, headers: Mapping[str, str], data: Any = None) -> Any:
        return self.traffic.session.request(method, target, headers=headers, data=data)


async def _sent(piece: bytes, *, cut: bool) -> AsyncIterator[bytes]:
    """Yield a piece in blocks; with ``cut``, the connection breaks in its middle."""
    for at in range(0, len(piece), _BLOCK):
        if cut and at >= len(piece) // 2:
            raise ConnectionAbortedError
        yield piece[at : at + _BLOCK]
