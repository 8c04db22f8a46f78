"""Send requests to S3 with timeouts and retries. Exceptions of aiohttp become ``ObjectStorageError`` here."""

import asyncio
import datetime as dt
import math
import random
import ssl
import time
from collections.abc import AsyncGenerator, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, Self

import aiohttp
from yarl import URL

from aiorelay.errors import StartupError
from aiorelay.object_storage.credentials import KeyChain
from aiorelay.object_storage.requests import NO_ANSWER, Answer, ObjectStorageError, Request, text_of
from aiorelay.object_storage.signing import signed
from aiorelay.observability.metrics import CallMetrics

__all__ = ["Client", "Download", "Patience"]

_BLOCK: Final = 256 * 1024
_LARGEST_DOCUMENT: Final = 16 * 1024 * 1024
_CONNECT: Final = 5.0  # seconds
_FIRST_DELAY, _LONGEST_DELAY = 0.1, 5.0
_DEFAULT_REGION: Final = "us-east-1"  # what the region of other storages than AWS usually is


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a request may fail, in seconds.

    It is given up ``budget`` seconds after its last progress. Each attempt may be without progress for ``stall``.
    """

    budget: float
    stall: float

    @classmethod
    def of(cls, budget: float) -> "Patience":
        """Return the patience that leaves time for another attempt after one that hangs."""
        return cls(budget, budget / 3)


class Client:
    """A client of one storage, used as an asynchronous context manager.

    ``endpoint`` is its base URL, to which the bucket is added as the first segment of the path. None means AWS, with
    the bucket in the host name. ``setting`` is the setting that is named if the client cannot be opened. ``metrics``
    are those of each attempt, by its operation in S3.
    """

    def __init__(self, endpoint: URL | None, *, setting: str, metrics: CallMetrics) -> None:
        self._endpoint = endpoint
        self._setting = setting
        self._metrics = metrics

    async def __aenter__(self) -> Self:
        self._keys = await KeyChain.find(self._setting)
        if self._endpoint is None and self._keys.region is None:
            raise StartupError(f"{self._setting}: the region is not known. Set AWS_DEFAULT_REGION.")
        self._region = self._keys.region or _DEFAULT_REGION
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=ssl.create_default_context(), limit=0),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            read_bufsize=_BLOCK,
            skip_auto_headers=("Content-Type", "Accept-Encoding"),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def send(self, bucket: str, request: Request, patience: Patience) -> Answer:
        """Send a request, again while its failure is temporary, and return its successful answer.

        Raises ``ObjectStorageError``.
        """
        clock = asyncio.get_running_loop().time
        progress = _Progress(patience.stall)
        delays = _delays()
        while True:
            progress.attempts += 1
            try:
                with self._observed(request):
                    return await self._attempt(bucket, request, progress)
            except ObjectStorageError as error:
                progress.give_up_at = min(progress.give_up_at, progress.last + patience.budget)
                delay = next(delays)
                if not error.is_temporary or clock() + delay >= progress.give_up_at:
                    raise
            await asyncio.sleep(delay)

    async def open(self, bucket: str, request: Request, stall: float) -> "Download":
        """Send a request once, and return its answer when the head has arrived, which may take ``stall`` seconds.

        Raises ``ObjectStorageError``.
        """
        progress = _Progress(stall)
        with self._observed(request), _conversion():
            async with progress.watching():
                return Download(await self._response(bucket, request, progress))

    @contextmanager
    def _observed(self, request: Request) -> Generator[None, None, None]:
        """Observe an attempt, unless it is cancelled."""
        start = time.perf_counter()

        def ended(*, succeeded: bool) -> None:
            self._metrics.called(request.operation, time.perf_counter() - start, succeeded=succeeded)

        try:
            yield
        except ObjectStorageError as error:
            ended(succeeded=error.is_absent_or_changed)
            raise
        ended(succeeded=True)

    async def _attempt(self, bucket: str, request: Request, progress: "_Progress") -> Answer:
        with _conversion():
            async with progress.watching(), await self._response(bucket, request, progress) as response:
                body = await _document(response, progress)
        # A 200 can contain an error (CompleteMultipartUpload).
        if request.method == "POST" and (code := text_of(body, "Code")):
            raise ObjectStorageError(code, 500)
        return Answer(response.status, response.headers, body, progress.attempts)

    async def _response(self, bucket: str, request: Request, progress: "_Progress") -> aiohttp.ClientResponse:
        """Return the response to one request. Raises ``ObjectStorageError`` if its status means failure."""
        url, headers = await self._signed(bucket, request)
        body = _blocks(request.body, progress) if request.body else None
        if request.body or request.method in ("PUT", "POST"):
            headers["Content-Length"] = str(len(request.body))
        response = await self._session.request(request.method, url, data=body, headers=headers, allow_redirects=False)
        if response.status >= 300:
            async with response:
                document = await _document(response, progress)
            raise ObjectStorageError.of_answer(response.status, response.headers, document)
        return response

    async def _signed(self, bucket: str, request: Request) -> tuple[URL, dict[str, str]]:
        origin, prefix = self._place(bucket)
        path = prefix + request.path
        try:
            credentials = await self._keys.current()
        except Exception as error:  # botocore's own, and those of each of its ways to find credentials
            raise ObjectStorageError("the credentials cannot be renewed", temporary=True) from error
        headers = signed(
            request,
            host=str(origin.raw_host) if origin.is_default_port() else origin.authority,
            path=path,
            credentials=credentials,
            region=self._region,
            at=dt.datetime.now(dt.UTC),
        )
        query = f"?{request.query_string}" if request.query else ""
        return URL(f"{origin}{path}{query}", encoded=True), headers

    def _place(self, bucket: str) -> tuple[URL, str]:
        """Return the origin and the beginning of the path for a bucket."""
        if self._endpoint is not None:
            return self._endpoint.origin(), f"{self._endpoint.raw_path.rstrip('/')}/{bucket}"
        suffix = "amazonaws.com.cn" if self._region.startswith("cn-") else "amazonaws.com"
        host = f"s3.{self._region}.{suffix}"
        if "." in bucket:  # a certificate for *.s3… does not cover it
            return URL(f"https://{host}"), f"/{bucket}"
        return URL(f"https://{bucket}.{host}"), ""


class Download:
    """The answer to a GET: its head, and its body to be read once."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.status = response.status
        self.headers: Mapping[str, str] = response.headers
        self._response = response

    async def read(self, stall: float) -> bytes:
        """Return the bytes of the body that have arrived, at least one, or ``b""`` at its end.

        Raises ``ObjectStorageError`` if the connection breaks, or if nothing arrives for ``stall`` seconds.
        """
        with _conversion():
            async with asyncio.timeout(stall):
                return await self._response.content.readany()

    def close(self) -> None:
        """Close the connection, unless the body was read to its end."""
        self._response.release() if self._response.content.at_eof() else self._response.close()


class _Progress:
    """The progress of one request over its attempts. ``give_up_at`` is the time at which the last one is cut off."""

    def __init__(self, stall: float) -> None:
        self.attempts = 0
        self.give_up_at = math.inf
        self._loop = asyncio.get_running_loop()
        self._stall = stall
        self.last = self._loop.time()
        self._timer = asyncio.timeout(None)

    def watching(self) -> asyncio.Timeout:
        """Return the context of an attempt, which raises ``TimeoutError`` after too long without progress."""
        self._timer = asyncio.timeout_at(self._deadline())
        return self._timer

    def made(self) -> None:
        """Record that bytes moved."""
        self.last = self._loop.time()
        if self._timer.when() is not None and not self._timer.expired():
            self._timer.reschedule(self._deadline())

    def _deadline(self) -> float:
        return min(self._loop.time() + self._stall, self.give_up_at)


def _delays() -> Iterator[float]:
    """Yield growing delays in seconds, each at random between a half and the whole (so that clients spread out)."""
    delay = _FIRST_DELAY
    while True:
        yield delay * random.uniform(0.5, 1)  # noqa: S311 - no secret
        delay = min(2 * delay, _LONGEST_DELAY)


async def _blocks(body: bytes | bytearray, progress: _Progress) -> AsyncGenerator[memoryview, None]:
    with memoryview(body) as whole:
        for start in range(0, len(whole), _BLOCK):
            yield whole[start : start + _BLOCK]
            progress.made()


async def _document(response: aiohttp.ClientResponse, progress: _Progress) -> bytes:
    """Read a body whole. Some answers are white space until the storage is done (CompleteMultipartUpload)."""
    document = bytearray()
    while block := await response.content.readany():
        progress.made()
        document += block
        if len(document) > _LARGEST_DOCUMENT:
            raise ObjectStorageError("the answer is too large", temporary=False)
    return bytes(document).strip()


@contextmanager
def _conversion() -> Generator[None, None, None]:
    """Turn the exceptions of a request into ``ObjectStorageError``."""
    try:
        yield
    except aiohttp.ClientConnectorCertificateError as error:
        raise ObjectStorageError("the TLS certificate is not trusted", temporary=False) from error
    except aiohttp.ClientConnectorDNSError as error:
        raise ObjectStorageError("the host has no address in DNS", temporary=True) from error
    except aiohttp.ClientConnectorError as error:
        raise ObjectStorageError("the host cannot be reached", temporary=True) from error
    except TimeoutError as error:  # before OSError, whose subclass it is
        raise ObjectStorageError(NO_ANSWER, temporary=True) from error
    except (aiohttp.ClientError, OSError) as error:
        raise ObjectStorageError("the connection broke", temporary=True) from error
