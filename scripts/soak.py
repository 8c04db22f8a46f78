"""Soak test: mixed traffic with aborts, faults and slow clients against a real chain.

Every upload that is answered with success must be stored once, complete and under the path in the answer. Nothing else
may be stored. Memory, descriptors and threads must not grow after the first fifth of the time.
"""

import asyncio
import hashlib
import json
import os
import random
import re
import signal
import socket
import ssl
import statistics
import struct
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

_MIB = 2**20
_LARGE = 20 * _MIB
_WORKERS = 8
_PAUSE = 1.0
"""The longest pause of a worker between two uploads, in seconds."""
_SAMPLE_INTERVAL = 2.0
"""Seconds between samples."""
_QUIET = 15.0
"""Seconds to wait after the traffic for kept-alive connections to end."""
_SLACK = 1.1, 4
"""The allowed growth, a factor and a constant: pools of threads fill slowly."""
_BUG_IN_LOG = re.compile(r"Traceback|never retrieved|Unclosed|never awaited")
_FLAGS = ("--rest1-port=0", "--rest2-port=0", "--no-fsync", "--log-level=error", "--allow-net=127.0.0.0/8")


async def main(minutes: float) -> int:
    """Run the traffic for ``minutes``, print the report, and return the exit status."""
    with tempfile.TemporaryDirectory(prefix="aiorelay-soak-") as name:
        directory = Path(name)
        pool = os.urandom(2 * _LARGE)
        (directory / "local").write_bytes(pool[:_LARGE])
        async with _relay(directory) as relay, _source(pool) as source:
            soak = Soak(relay, source, directory, pool)
            samples = await _sampled(relay.pid, soak.run(minutes * 60))
            await asyncio.sleep(_QUIET)
            samples.append(Sample.of(relay.pid))
            faults = soak.faults + _not_flat(samples)
            left = [str(path) for path in (directory / "store").rglob("*")]
            faults += [f"stored without an answer of success: {path}" for path in left]
            relay.process.send_signal(signal.SIGTERM)
            if status := await relay.process.wait():
                faults.append(f"the relay ended with {status}")
            if _BUG_IN_LOG.search(log := (directory / "log").read_text()):
                faults.append(f"the relay logged: {log}")
    print(f"{minutes:g} minutes: {sum(soak.done.values())} uploads, {soak.volume / 2**30:.1f} GiB stored\n")
    print(", ".join(f"{count} {kind}" for kind, count in soak.done.most_common()), end=".\n\n")
    _report(samples)
    print(*faults[:20], sep="\n", file=sys.stderr)
    return 1 if faults else 0


@dataclass
class Relay:
    """A chain in its own process."""

    process: asyncio.subprocess.Process
    rest1: str
    tls: ssl.SSLContext

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        return int(self.rest1.rpartition(":")[2])


@asynccontextmanager
async def _relay(directory: Path) -> AsyncIterator[Relay]:
    flags = [f"--state-dir={directory}/state", f"--store={directory}/store", f"--local-root={directory}"]
    with (directory / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "aiorelay", *_FLAGS, "--max-jobs=50", "--idle-timeout=5s", *flags),
            stdout=asyncio.subprocess.PIPE,
            stderr=log,
        )
    try:
        ready = {}
        while process.stdout is not None and (line := (await process.stdout.readline()).decode()):
            key, _, value = line.strip().partition(" ")
            ready[key] = value
            if key == "curl":
                break
        else:
            sys.exit((directory / "log").read_text())
        yield Relay(process, ready["rest1"], ssl.create_default_context(cafile=ready["CA"]))
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()


@asynccontextmanager
async def _source(content: bytes) -> AsyncIterator[str]:
    """Serve the first ``size`` bytes of ``content`` at /whole, and only half of them at /broken."""

    async def whole(request: web.Request) -> web.Response:
        return web.Response(body=content[: int(request.query["size"])])

    async def broken(request: web.Request) -> web.StreamResponse:
        size = int(request.query["size"])
        response = web.StreamResponse(headers={"Content-Length": str(size)})
        await response.prepare(request)
        await response.write(content[: size // 2])
        if request.transport is not None:
            request.transport.close()
        return response

    app = web.Application()
    app.router.add_get("/whole", whole)
    app.router.add_get("/broken", broken)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@dataclass
class Sample:
    """The resources of a process at one time."""

    rss: float
    descriptors: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> "Sample":
        status = Path(f"/proc/{pid}/status").read_text()
        rss, threads = (int(status.partition(f"{key}:")[2].split()[0]) for key in ("VmRSS", "Threads"))
        return cls(rss / 1024, len(list(Path(f"/proc/{pid}/fd").iterdir())), threads)


async def _sampled(pid: int, work: Awaitable[None]) -> list[Sample]:
    """Take a sample before ``work`` and samples during it."""
    samples = [Sample.of(pid)]
    working = asyncio.ensure_future(work)
    while not working.done():
        await asyncio.wait([working], timeout=_SAMPLE_INTERVAL)
        samples.append(Sample.of(pid))
    await working
    return samples


_ROWS: tuple[tuple[str, Callable[[Sample], float]], ...] = (
    ("RSS, MiB", lambda sample: sample.rss),
    ("descriptors", lambda sample: sample.descriptors),
    ("threads", lambda sample: sample.threads),
)


def _not_flat(samples: list[Sample]) -> list[str]:
    """Return the resources that grew from the second to the last fifth, and unreleased descriptors."""
    fifth = len(samples) // 5
    faults = []
    for name, value in _ROWS:
        early, late = (statistics.median(map(value, each)) for each in (samples[fifth : 2 * fifth], samples[-fifth:]))
        if late > early * _SLACK[0] + _SLACK[1]:
            faults.append(f"{name}: {late:g} at the end, {early:g} after the first fifth")
    if samples[-1].descriptors > samples[0].descriptors:
        faults.append(f"{samples[-1].descriptors - samples[0].descriptors} descriptors were not released")
    return faults


def _report(samples: list[Sample]) -> None:
    print("| | start | median | end | peak |")
    print("|---|---|---|---|---|")
    for name, value in _ROWS:
        values = [value(sample) for sample in samples]
        print(f"| {name} | {values[0]:.0f} | {statistics.median(values):.0f} | {values[-1]:.0f} | {max(values):.0f} |")


@dataclass
class Soak:
    """The traffic. ``done`` counts uploads by kind, ``volume`` the bytes stored, ``faults`` lists failures."""

    relay: Relay
    source: str
    directory: Path
    pool: bytes
    done: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    volume: int = 0
    chance: random.Random = field(default_factory=lambda: random.Random(1))  # noqa: S311 - traffic, not secrets

    async def run(self, seconds: float) -> None:
        """Generate traffic for ``seconds``."""
        connector = aiohttp.TCPConnector(ssl=self.relay.tls, limit=0)
        async with aiohttp.ClientSession(self.relay.rest1, connector=connector) as self._session:
            end = time.monotonic() + seconds
            await asyncio.gather(*(self._work(end) for _ in range(_WORKERS)))

    async def _work(self, end: float) -> None:
        kinds = (
            *(self._form, self._form, self._raw, self._raw, self._local, self._remote, self._job),
            *(self._refused, self._wrong_digest, self._broken_source, self._aborted, self._silent, self._dripping),
        )
        while time.monotonic() < end:
            kind = self.chance.choice(kinds)
            try:
                async with asyncio.timeout(60):
                    await kind()
            except (OSError, aiohttp.ClientError, TimeoutError) as error:
                self.faults.append(f"{kind.__name__}: {error!r}")
            self.done[kind.__name__.strip("_").replace("_", " ")] += 1
            await asyncio.sleep(self.chance.uniform(0, _PAUSE))

    # Uploads that must be stored

    async def _form(self) -> None:
        content = self._content()
        form = aiohttp.FormData({"note": "before the file"})
        form.add_field("somefile", content, filename="a.bin")
        await self._stored("POST", "/upload1", content, data=form)

    async def _raw(self) -> None:
        content = self._content()
        await self._stored("PUT", "/upload/a.bin", content, data=content)

    async def _local(self) -> None:
        await self._stored("POST", "/upload2", self.pool[:_LARGE], json={"somefile": f"{self.directory}/local"})

    async def _remote(self) -> None:
        content = self.pool[: self._size()]
        url = f"{self.source}/whole?size={len(content)}"
        await self._stored("POST", "/upload2", content, json={"somefile": url})

    async def _job(self) -> None:
        content = self.pool[: self._size()]
        source, prefer = {"somefile": f"{self.source}/whole?size={len(content)}"}, {"Prefer": "respond-async"}
        async with self._session.post("/upload2", json=source, headers=prefer) as answer:
            job, location = await answer.json(), answer.headers.get("Location", "")
        while job.get("state") == "running":
            await asyncio.sleep(0.1)
            async with self._session.get(location) as answer:
                job = await answer.json()
        if job.get("state") == "done":
            self._compare(json.loads(job["answer"]["body"]), content)
        else:
            self.faults.append(f"a job ended as {job}")

    async def _stored(self, method: str, path: str, content: bytes, **options: Any) -> None:
        async with self._session.request(method, path, **options) as answer:
            document = await answer.json()
        if answer.status == 200:
            self._compare(document, content)
        else:
            self.faults.append(f"{method} {path}: {answer.status} {document}")

    def _compare(self, document: dict[str, Any], content: bytes) -> None:
        """Compare the stored file with the sent content and the answer, and delete it.

        Files that remain at the end were stored by mistake.
        """
        (file,) = document["files"]
        path = Path(file["path"])
        said = file["size"], file["sha256"]
        kept = path.read_bytes() if path.exists() else b""
        if not said == _described(content) == _described(kept):
            self.faults.append(
                f"{path}: {len(content)} bytes were sent, the answer says {said}, {len(kept)} were stored"
            )
        path.unlink(missing_ok=True)
        path.parent.rmdir()
        self.volume += len(kept)

    # Uploads that must not be stored

    async def _refused(self) -> None:
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        body = b"--b\r\nContent-Disposition: form-data; name=somefile; filename=a\r\n\r\n" + self._content()
        await self._fails("POST", "/upload1", {400}, data=body, headers=headers)

    async def _wrong_digest(self) -> None:
        digest = "sha-256=:" + "A" * 43 + "=:"
        await self._fails("PUT", "/upload/a", {422}, data=self._content(), headers={"Content-Digest": digest})

    async def _broken_source(self) -> None:
        await self._fails("POST", "/upload2", {502}, json={"somefile": f"{self.source}/broken?size={self._size()}"})

    async def _fails(self, method: str, path: str, statuses: set[int], **options: Any) -> None:
        with suppress(aiohttp.ClientConnectionError):  # while sending, the answer may be lost
            async with self._session.request(method, path, **options) as answer:
                if answer.status not in statuses:
                    self.faults.append(f"{method} {path}: {answer.status} {await answer.text()}")

    async def _aborted(self) -> None:
        """Disconnect during an upload, by RST, FIN or an orderly close."""
        content = self._content()
        async with self._sending(len(content) + 1) as (_, writer):
            await _send(writer, content)
            way = self.chance.randrange(3)
            if way == 0:
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            elif way == 1:
                writer.get_extra_info("socket").shutdown(socket.SHUT_WR)
            else:
                writer.close()

    async def _silent(self) -> None:
        """Stop during an upload until the relay answers 408."""
        async with self._sending(2 * _LARGE) as (reader, writer):
            await _send(writer, self.pool[:_MIB])
            if b" 408 " not in await reader.readline():
                self.faults.append("a silent client did not get 408")

    async def _dripping(self) -> None:
        """Send a complete upload slowly."""
        content = self.pool[: 64 * 1024]
        async with self._sending(len(content)) as (reader, writer):
            for at in range(0, len(content), 4096):
                await _send(writer, content[at : at + 4096])
                await asyncio.sleep(0.25)
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length:")[2].split()[0])
            self._compare(json.loads(await reader.readexactly(length)), content)

    @asynccontextmanager
    async def _sending(self, length: int) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """Open a connection and send the head of a raw upload."""
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self.relay.port, ssl=self.relay.tls, server_hostname="localhost"
        )
        try:
            writer.write(b"PUT /upload/a HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % length)
            yield reader, writer
        finally:
            writer.transport.abort()
            with suppress(OSError, ssl.SSLError):
                await writer.wait_closed()

    def _size(self) -> int:
        return _LARGE if self.chance.random() < 0.25 else self.chance.randrange(1, _MIB)

    def _content(self) -> bytes:
        start, size = self.chance.randrange(_MIB), self._size()
        return self.pool[start : start + size]


async def _send(writer: asyncio.StreamWriter, content: bytes) -> None:
    writer.write(content)
    await writer.drain()


def _described(content: bytes) -> tuple[int, str]:
    return len(content), hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    sys.exit(asyncio.run(main(float(sys.argv[1]))))
