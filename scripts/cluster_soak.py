"""Uploads of every kind through the balancer of a cluster, faults of its members, and the account at the end."""

import asyncio
import os
import random
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from cluster_members import BUCKET, Cluster
from cluster_traffic import LARGE, Traffic, described

from aiorelay.observability.metrics import Metrics
from aiorelay.rest1.resumable.shared_store import SharedUploads
from aiorelay.server.storage import open_uploads
from aiorelay.state.server import StateAddress, open_state

__all__ = ["soak"]

_KILL_INTERVAL = 20.0
_AWAY = 10.0
"""Seconds for which the object store is away."""


async def soak(cluster: Cluster, seconds: float) -> int:
    """Run traffic and faults for ``seconds``, print the account, and return the exit status."""
    pool = os.urandom(2 * LARGE)
    async with _source(pool) as source, aiohttp.ClientSession(cluster.url, connector=_connector(cluster)) as session:
        traffic = Traffic(session, source, pool)
        breaking = asyncio.create_task(_break_things(cluster, seconds))
        started = time.monotonic()
        await traffic.run(seconds)
        elapsed = time.monotonic() - started
        told = await breaking
    faults = [*traffic.faults, *await _drained(cluster)]
    await _sweep(cluster)
    faults += await _account(cluster, traffic)
    print(f"{elapsed / 60:.1f} minutes, {len(cluster.relays)} relays behind {cluster.balancer.name}: {told}.")
    print(", ".join(f"{count} {kind}" for kind, count in sorted(traffic.done.items())), end=".\n")
    print(f"{len(traffic.stored)} answers of success, {traffic.volume / 2**30:.2f} GiB.")
    if traffic.recoveries:
        worst = max(traffic.recoveries)
        print(f"{len(traffic.recoveries)} broken appends went on, the slowest after {worst:.1f} s.")
    print(*faults[:30], sep="\n")
    print(f"{len(faults)} faults." if faults else "No faults.", flush=True)
    return 1 if faults else 0


def _connector(cluster: Cluster) -> aiohttp.TCPConnector:
    return aiohttp.TCPConnector(ssl=cluster.tls, limit=0, force_close=True)


# -- faults


async def _break_things(cluster: Cluster, seconds: float) -> str:
    """Cause faults at their times until ``seconds`` have passed. Return what was done."""
    counts: Counter[str] = Counter()

    async def kill_relays() -> None:
        chance = random.Random(2)  # noqa: S311 - faults, not secrets
        while True:
            await asyncio.sleep(_KILL_INTERVAL)
            relay = chance.choice(cluster.relays)
            await relay.stop(signal.SIGKILL)
            counts["relays killed"] += 1
            await asyncio.sleep(2)
            await relay.start()

    async def at(times: tuple[float, ...], name: str, fault: Callable[[], Awaitable[None]]) -> None:
        started = time.monotonic()
        for share in times:
            await asyncio.sleep(max(share * seconds - (time.monotonic() - started), 0))
            await fault()
            counts[name] += 1

    async def restart_redis() -> None:
        await cluster.redis.stop()
        await cluster.redis.start()

    async def stop_store() -> None:
        await cluster.store.stop(signal.SIGKILL)
        await asyncio.sleep(_AWAY)
        await cluster.store.start()

    tasks = [
        asyncio.create_task(kill_relays()),
        asyncio.create_task(at((0.25, 0.65), "restarts of Redis", restart_redis)),
        asyncio.create_task(at((0.4, 0.8), f"times the object store was away for {_AWAY:.0f} s", stop_store)),
    ]
    await asyncio.gather(*tasks[1:])
    await asyncio.sleep(0.1 * seconds)
    tasks[0].cancel()
    for relay in cluster.relays:
        if relay.process is None or relay.process.returncode is not None:
            await relay.start()
    return ", ".join(f"{count} {name}" for name, count in counts.items())


async def _drained(cluster: Cluster) -> list[str]:
    """End all relays as on a shutdown, start them again, which sweeps, and return what they did wrong."""
    statuses = await asyncio.gather(*(relay.stop() for relay in cluster.relays))
    faults = [
        f"{relay.name} ended with {status}" for relay, status in zip(cluster.relays, statuses, strict=True) if status
    ]
    await asyncio.gather(*(relay.start() for relay in cluster.relays))
    await asyncio.sleep(5)
    faults += [
        f"{relay.name} logged: {line}"
        for relay in cluster.relays
        for line in relay.log.read_text().splitlines()
        if "Traceback" in line or "never retrieved" in line
    ]
    return faults


async def _sweep(cluster: Cluster) -> None:
    """Sweep the spool as a relay does, but without waiting until what is left there is an hour old."""
    if cluster.shared.state is None:
        return
    async with (
        open_state(StateAddress(url=cluster.shared.state, ca=None), Metrics().state.called) as state,
        open_uploads(cluster.shared, state, Metrics().storage) as uploads,
    ):
        if isinstance(uploads, SharedUploads):
            await uploads.sweep(longest_write=0)


# -- the account


async def _account(cluster: Cluster, traffic: Traffic) -> list[str]:
    """Compare the objects with the answers."""
    faults = []
    async with aiohttp.ClientSession(cluster.filer, raise_for_status=True) as filer:
        objects = [path async for path in _listed(filer, f"/buckets/{BUCKET}/stored")]
        kept = {f"s3://{BUCKET}{path.removeprefix(f'/buckets/{BUCKET}')}": path for path in objects}
        faults += [f"lost: {path}" for path in traffic.stored if path not in kept]
        lost = Counter(traffic.maybe)
        unexplained = 0
        for path, name in kept.items():
            async with filer.get(name) as answer:
                told = described(await answer.read())
            if path in traffic.stored:
                if traffic.stored[path] != told:
                    faults.append(f"differs: {path}")
            elif lost[told]:
                lost[told] -= 1
                unexplained += 1
            else:
                faults.append(f"stored without an answer: {path}")
        for folder, what in ((f"/buckets/{BUCKET}/.uploads", "part"), (f"/buckets/{BUCKET}/unfinished", "spooled")):
            faults += [f"left ({what}): {path}" async for path in _listed(filer, folder)]
    print(f"{len(kept)} objects, of which {unexplained} belong to {len(traffic.maybe)} answers that were lost.")
    return faults


async def _listed(filer: aiohttp.ClientSession, folder: str) -> AsyncIterator[str]:
    """Yield the paths of all files below a directory of the filer."""
    last = ""
    while True:
        query = {"limit": "1000", "lastFileName": last}
        try:
            async with filer.get(f"{folder}/", params=query, headers={"Accept": "application/json"}) as answer:
                page = await answer.json()
        except aiohttp.ClientResponseError as error:
            if error.status == 404:
                return
            raise
        for entry in page["Entries"] or ():
            path = entry["FullPath"]
            if entry["Mode"] & 1 << 31:  # Go's os.ModeDir
                async for each in _listed(filer, path):
                    yield each
            else:
                yield path
        if not page["ShouldDisplayLoadMore"]:
            return
        last = page["LastFileName"]


@asynccontextmanager
async def _source(content: bytes) -> AsyncIterator[str]:
    """Serve the first ``size`` bytes of ``content``."""

    async def whole(request: web.Request) -> web.Response:
        return web.Response(body=content[: int(request.query["size"])])

    app = web.Application()
    app.router.add_get("/", whole)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()
