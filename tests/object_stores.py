"""Object storage in tests: a bucket as its owner sees it, and a proxy that makes the storage fail."""

import asyncio
import io
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Self

import aiohttp
from aiohttp import web
from botocore.config import Config
from botocore.session import Session
from real_apis import ACCESS_KEY, BUCKET, REGION, SECRET_KEY
from yarl import URL

MIB = 2**20


class Place:
    """The keys that begin with ``prefix`` and a slash, seen with the SDK of AWS."""

    def __init__(self, endpoint: str, prefix: str) -> None:
        self.endpoint = endpoint
        self.prefix = prefix
        self.url = f"s3://{BUCKET}/{prefix}"
        self._s3: Any = Session().create_client(
            "s3",
            endpoint_url=endpoint,
            region_name=REGION,
            aws_access_key_id=ACCESS_KEY,
            aws_secret_access_key=SECRET_KEY,
            config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
        )

    async def objects(self) -> dict[str, bytes]:
        """Return the contents of all objects by their keys after the prefix."""
        return await asyncio.to_thread(self._objects)

    async def unfinished(self) -> list[str]:
        """Return the keys of all multipart uploads, after the prefix."""
        return await asyncio.to_thread(self._unfinished)

    async def put(self, key: str, content: bytes, **options: str) -> None:
        await asyncio.to_thread(
            lambda: self._s3.put_object(Bucket=BUCKET, Key=f"{self.prefix}/{key}", Body=content, **options)
        )

    async def begin(self, key: str) -> None:
        """Begin a multipart upload, with one part."""
        await asyncio.to_thread(self._begin, f"{self.prefix}/{key}")

    async def head(self, key: str) -> Any:
        return await asyncio.to_thread(lambda: self._s3.head_object(Bucket=BUCKET, Key=f"{self.prefix}/{key}"))

    def _objects(self) -> dict[str, bytes]:
        listed = self._s3.list_objects_v2(Bucket=BUCKET, Prefix=f"{self.prefix}/").get("Contents", [])
        objects = {}
        for key in (each["Key"] for each in listed):
            with suppress(self._s3.exceptions.NoSuchKey):  # it was removed after the list was made
                content = self._s3.get_object(Bucket=BUCKET, Key=key)["Body"].read()
                objects[key.removeprefix(f"{self.prefix}/")] = content
        return objects

    def _unfinished(self) -> list[str]:
        listed = self._s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        return [
            each["Key"].removeprefix(f"{self.prefix}/") for each in listed if each["Key"].startswith(f"{self.prefix}/")
        ]

    def _begin(self, key: str) -> None:
        upload = self._s3.create_multipart_upload(Bucket=BUCKET, Key=key)["UploadId"]
        self._s3.upload_part(Bucket=BUCKET, Key=key, UploadId=upload, PartNumber=1, Body=b"part")


@dataclass
class Fault:
    """What happens to the first ``times`` requests of the operation ``of``. ``met`` is set when it happens."""

    of: str
    act: Callable[["Exchange"], Awaitable[web.StreamResponse]]
    times: int = 1
    met: asyncio.Event = field(default_factory=asyncio.Event)


@dataclass
class Exchange:
    """A request at the proxy. ``forward`` passes it on and returns the answer."""

    request: web.Request
    forward: Callable[[], Awaitable[web.Response]]

    def cut(self) -> web.Response:
        """Reset the client's connection."""
        assert self.request.transport is not None
        self.request.transport.abort()
        return web.Response()


class FaultyStorage:
    """Stands before an object store and makes the requests fail that ``faults`` name."""

    def __init__(self, target: str, *faults: Fault) -> None:
        self._target = URL(target)
        self.faults = list(faults)
        self.seen: list[str] = []
        """The operations, in order."""

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(auto_decompress=False)
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://{host}:{port}"
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        name = operation(request)
        self.seen.append(name)
        exchange = Exchange(request, lambda: self._forward(request))
        for fault in self.faults:
            if fault.of == name and fault.times:
                fault.times -= 1
                fault.met.set()
                return await fault.act(exchange)
        return await exchange.forward()

    async def _forward(self, request: web.Request) -> web.Response:
        url = URL(f"{self._target}{request.raw_path}", encoded=True)
        body = io.BytesIO(await request.read())
        async with self._session.request(request.method, url, headers=request.headers, data=body) as answer:
            passed = {"ETag", "Content-Type", "Content-Range", "Content-Disposition"}
            headers = {
                name: value for name, value in answer.headers.items() if name.title().replace("Etag", "ETag") in passed
            }
            content = await answer.read()
            if request.method == "HEAD":
                headers["Content-Length"] = answer.headers["Content-Length"]
            return web.Response(status=answer.status, headers=headers, body=content)


def operation(request: web.Request) -> str:
    """Return the name of a request in the S3 API."""
    names = [
        ("POST", "uploads", "CreateMultipartUpload"),
        ("POST", "uploadId", "CompleteMultipartUpload"),
        ("PUT", "partNumber", "UploadPart"),
        ("DELETE", "uploadId", "AbortMultipartUpload"),
        ("GET", "uploads", "ListMultipartUploads"),
        ("GET", "uploadId", "ListParts"),
    ]
    plain = f"{request.method.title()}Object"
    query = request.rel_url.query
    return next((name for method, key, name in names if method == request.method and key in query), plain)


def answering(status: int, code: str) -> Callable[[Exchange], Awaitable[web.Response]]:
    """An answer with an error, after the body has been read."""

    async def act(exchange: Exchange) -> web.Response:
        await exchange.request.read()
        text = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>Not now.</Message></Error>"
        return web.Response(status=status, text=text, content_type="application/xml")

    return act


async def reset_in_body(exchange: Exchange) -> web.Response:
    """A reset in the middle of the request's body."""
    await exchange.request.content.readany()
    return exchange.cut()


async def lose_answer(exchange: Exchange) -> web.Response:
    """A reset after the storage has done its work."""
    await exchange.forward()
    return exchange.cut()


async def hang(exchange: Exchange) -> web.Response:
    """No answer until the client gives up."""
    await exchange.request.read()
    await asyncio.Event().wait()
    raise AssertionError


async def wrong_etag(exchange: Exchange) -> web.Response:
    """The ETag of something else."""
    answer = await exchange.forward()
    answer.headers["ETag"] = '"00000000000000000000000000000000"'
    return answer
