"""Clients of others that upload resumably, each as one function with the same arguments.

upload(url, ca, file, *, name, tries) uploads ``file`` to the relay at ``url``, a base URL, under the filename ``name``,
trusts the certificate ``ca`` and tries ``tries`` times more after a failure. All of them give an ``Outcome``.
"""

import asyncio
import io
import json
import os
import ssl
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiotus
from programs import NODE_MODULES, missing, program

HERE = Path(__file__).parent
CHUNK = 100_000
"""Bytes of a request, for clients that send a file in several."""


@dataclass
class Outcome:
    """How a client believes that its upload ended.

    ``status`` and ``body`` are of the last answer, or 0 and the client's own words. ``url`` is the upload's, if any.
    """

    done: bool
    status: int
    body: str
    url: str | None
    asked: tuple[str, ...] = ()
    """The methods of its requests, from clients that tell."""


Upload = Callable[..., Awaitable[Outcome]]


def node_package(name: str) -> Path:
    """The directory of a package in tests/node. If it is missing, fail in CI and skip elsewhere."""
    program("node")
    path = NODE_MODULES / name
    if not path.is_dir():
        missing(f"The package {name} of tests/node is not installed.")
    return path


async def tus_js(url: str, ca: Path, file: Path, *, name: str, tries: int, **options: Any) -> Outcome:
    """tus-js-client with these of its ``options``."""
    node_package("tus-js-client")
    endpoint = url + ("/upload1" if options.get("form") else "/files/")
    arguments = json.dumps(options | {"retries": tries})
    command = ("node", HERE / "node" / "upload_tus.mjs", endpoint, file, name, arguments)
    return await _run(*command, NODE_EXTRA_CA_CERTS=str(ca))


async def tuspy(url: str, ca: Path, file: Path, *, name: str, tries: int, **options: Any) -> Outcome:
    """tuspy with these ``options`` of its uploader."""
    arguments = json.dumps({"chunk_size": CHUNK, "retries": tries, "retry_delay": 0} | options)
    command = (sys.executable, HERE / "upload_tuspy.py", f"{url}/files/", file, name, arguments)
    return await _run(*command, REQUESTS_CA_BUNDLE=str(ca))


async def aiotus_upload(url: str, ca: Path, file: Path, *, name: str, tries: int) -> Outcome:
    """aiotus, which tells no more than the upload's URL."""
    with file.open("rb") as content:
        return _told(
            await aiotus.upload(f"{url}/files/", content, _metadata(name), config=_retries(tries, ca), chunksize=CHUNK)
        )


async def aiotus_parts(url: str, ca: Path, file: Path, *, name: str, tries: int) -> Outcome:
    """aiotus, which uploads two halves at the same time and has them concatenated."""
    with file.open("rb") as content:
        whole = content.read()
        middle = len(whole) // 2
        halves = [io.BytesIO(whole[:middle]), io.BytesIO(whole[middle:])]
        return _told(
            await aiotus.upload_multiple(
                f"{url}/files/", halves, _metadata(name), config=_retries(tries, ca), chunksize=CHUNK
            )
        )


def _metadata(name: str) -> dict[str, bytes | None]:
    return {"filename": name.encode(), "filetype": b"application/pdf"}


def _retries(tries: int, ca: Path) -> aiotus.RetryConfiguration:
    trusted = ssl.create_default_context(cafile=str(ca))
    return aiotus.RetryConfiguration(retry_attempts=tries + 1, max_retry_period_seconds=0.05, ssl=trusted)


def _told(location: Any) -> Outcome:
    return Outcome(location is not None, 0, "", None if location is None else str(location))


async def _run(*command: object, **environment: str) -> Outcome:
    process = await asyncio.create_subprocess_exec(
        *map(str, command),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | environment,
    )
    try:
        out, errors = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    assert process.returncode == 0, (out, errors)
    outcome = json.loads(out)
    return Outcome(**outcome | {"asked": tuple(outcome.get("asked", ()))})


TUS_CLIENTS: dict[str, Upload] = {
    "tus-js": tus_js,
    "tus-js-chunks": partial(tus_js, chunkSize=CHUNK),
    "tus-js-override": partial(tus_js, overridePatchMethod=True, chunkSize=CHUNK),
    "tus-js-creation": partial(tus_js, uploadDataDuringCreation=True),
    "tus-js-creation-chunks": partial(tus_js, uploadDataDuringCreation=True, chunkSize=CHUNK),
    "tus-js-deferred": partial(tus_js, uploadLengthDeferred=True, stream=True, chunkSize=CHUNK),
    "tuspy": tuspy,
    "tuspy-checksum": partial(tuspy, upload_checksum=True),
    "aiotus": aiotus_upload,
}
"""Clients of tus that send a file from its beginning to its end."""

CONCATENATING_CLIENTS: dict[str, Upload] = {
    "tus-js-parallel": partial(tus_js, parallelUploads=3),
    "aiotus-parts": aiotus_parts,
}
"""Clients of tus that upload parts and have them concatenated."""

DRAFT_CLIENTS: dict[str, Upload] = {
    "tus-js-draft": partial(tus_js, protocol="ietf-draft-05", form=True),
    "tus-js-draft-chunks": partial(tus_js, protocol="ietf-draft-05", form=True, chunkSize=CHUNK),
}
"""Clients of the draft that upload a form."""

CLIENTS = TUS_CLIENTS | CONCATENATING_CLIENTS | DRAFT_CLIENTS
