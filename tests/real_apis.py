"""Run upload APIs of others as processes: a package index (pypiserver) and object stores (SeaweedFS, Nanio).

async with package_index(tmp_path) as index: …          # index.url, index.packages
async with object_store(tmp_path, "bucket") as store: …   # store.s3, store.filer
async with nanio(tmp_path, "bucket") as url: …
"""

import asyncio
import base64
import datetime as dt
import hashlib
import hmac
import json
import os
import signal
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import aiohttp
from processes import free_ports

_PATIENCE = 60.0  # seconds; the object store elects its leader first
ACCESS_KEY, SECRET_KEY, REGION = "reader", "secret-of-the-reader", "us-east-1"
BUCKET = "uploads"
ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": ACCESS_KEY,
    "AWS_SECRET_ACCESS_KEY": SECRET_KEY,
    "AWS_DEFAULT_REGION": REGION,
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_CONFIG_FILE": "/dev/null",
    "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
}


@dataclass(frozen=True)
class PackageIndex:
    """A package index at ``url``, with its files in ``packages``."""

    url: str
    packages: Path


@dataclass(frozen=True)
class ObjectStore:
    """An object store: the URL of its S3 gateway, and that of its filer."""

    s3: str
    filer: str


@asynccontextmanager
async def package_index(directory: Path) -> AsyncGenerator[PackageIndex, None]:
    """Run pypiserver without authentication."""
    packages = directory / "packages"
    packages.mkdir()
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/"
    command = (sys.executable, "-m", "pypiserver", "run", "--interface=127.0.0.1", f"--port={port}")
    async with _running(*command, "--authenticate=.", "--passwords=.", str(packages), log=directory / "index.log"):
        await _until(lambda: _answers(url, 200))
        yield PackageIndex(url, packages)


@asynccontextmanager
async def object_store(directory: Path, *buckets: str) -> AsyncGenerator[ObjectStore, None]:
    """Run SeaweedFS with ``buckets``, to which ``ACCESS_KEY`` may write."""
    identity = {
        "name": "reader",
        "credentials": [{"accessKey": ACCESS_KEY, "secretKey": SECRET_KEY}],
        "actions": ["Admin", "Read", "Write", "List"],
    }
    config = directory / "s3.json"
    config.write_text(json.dumps({"identities": [identity]}))
    data = directory / "data"
    data.mkdir()
    names = ["master.port", "volume.port", "filer.port", "s3.port"]
    ports = dict(zip([*names, *(f"{name}.grpc" for name in names)], free_ports(8), strict=True))
    flags = [f"-{name}={port}" for name, port in ports.items()]
    flags += [f"-dir={data}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-filer", "-s3", f"-s3.config={config}"]
    flags += [f"-filer.localSocket={directory}/filer.sock", f"-s3.localSocket={directory}/s3.sock", "-volume.max=10"]
    flags += ["-s3.port.iceberg=0", "-s3.port.lance=0"]  # else two stores at once would want the same ports
    store = ObjectStore(f"http://127.0.0.1:{ports['s3.port']}", f"http://127.0.0.1:{ports['filer.port']}")
    weed = Path(sys.executable).with_name("weed")
    async with _running(str(weed), "-v=0", "server", *flags, log=directory / "store.log"):
        for bucket in buckets:  # a directory of the filer
            first = f"{store.filer}/buckets/{bucket}/first.txt"
            await _until(partial(_answers, first, 201, method="PUT", data=b"first"))
        await _until(lambda: _answers(f"{store.s3}/", 200, 403))
        yield store


@asynccontextmanager
async def nanio(directory: Path, bucket: str) -> AsyncGenerator[str, None]:
    """Run Nanio, an object store that verifies the digests of what it receives, with one bucket. Yields its URL."""
    data = directory / "data"
    (data / bucket).mkdir(parents=True)
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    keys = {"NANIO_ACCESS_KEY": ACCESS_KEY, "NANIO_SECRET_KEY": SECRET_KEY}
    command = (sys.executable, "-m", "nanio", "serve", f"--data-dir={data}", "--host=127.0.0.1", f"--port={port}")
    async with _running(*command, "--log-level=warning", log=directory / "store.log", env=keys):
        await _until(lambda: _answers(f"{url}/", 403))
        yield url


def post_policy(bucket: str, key: str, *, most: int, **more: str) -> dict[str, str]:
    """Return form fields that permit an upload of at most ``most`` bytes (Signature Version 4)."""
    now = dt.datetime.now(dt.UTC)
    day, stamp = now.strftime("%Y%m%d"), now.strftime("%Y%m%dT%H%M%SZ")
    fields = {
        "key": key,
        "x-amz-algorithm": "AWS4-HMAC-SHA256",
        "x-amz-credential": f"{ACCESS_KEY}/{day}/{REGION}/s3/aws4_request",
        "x-amz-date": stamp,
        **more,
    }
    conditions: list[object] = [{"bucket": bucket}, *({name: value} for name, value in fields.items())]
    conditions.append(["content-length-range", 0, most])
    expiration = (now + dt.timedelta(hours=1)).strftime("%Y-%m-%dT%H:%M:%S.000Z")
    document = json.dumps({"expiration": expiration, "conditions": conditions})
    policy = base64.b64encode(document.encode()).decode()
    signing_key = f"AWS4{SECRET_KEY}".encode()
    for step in (day, REGION, "s3", "aws4_request"):
        signing_key = hmac.digest(signing_key, step.encode(), hashlib.sha256)
    signature = hmac.digest(signing_key, policy.encode(), hashlib.sha256).hex()
    return {**fields, "policy": policy, "x-amz-signature": signature}


@asynccontextmanager
async def _running(*command: str, log: Path, env: Mapping[str, str] | None = None) -> AsyncGenerator[None, None]:
    async with AsyncExitStack() as stack:
        said = stack.enter_context(log.open("wb"))
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=said,
            stderr=said,
            start_new_session=True,
            cwd=log.parent,
            env={**os.environ, **(env or {})},
        )
        try:
            yield
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()


async def _until(condition: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(_PATIENCE):
        while not await condition():  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(0.1)


async def _answers(url: str, *statuses: int, method: str = "GET", data: bytes | None = None) -> bool:
    with suppress(aiohttp.ClientError):
        async with aiohttp.ClientSession() as session, session.request(method, url, data=data) as answer:
            return answer.status in statuses
    return False
