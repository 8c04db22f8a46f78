"""Send a form by HTTP resumable upload (draft-ietf-httpbis-resumable-upload), and continue it after interruptions.

OPTIONS endpoint ─▶ without Accept-Patch: the server accepts no resumable uploads
POST    endpoint ─▶ 201, the URL of an upload
PATCH   upload   ─▶ the upload API's answer
   └── interrupted: pause, HEAD upload ─▶ its offset, PATCH again
GET     upload   ─▶ meanwhile: how many bytes the server has, how the upload ended
"""

import asyncio
import json
from collections.abc import Mapping
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from typing import Any, Final

import aiohttp
from aiohttp import hdrs
from yarl import URL

from aiorelay.cli.send.endpoint import Endpoint, Unanswered
from aiorelay.cli.send.forms import SeekableForm, call_at_end
from aiorelay.cli.send.job_events import result_of_job
from aiorelay.cli.send.progress_bars import ProgressBars
from aiorelay.cli.send.results import Answer, SendError, SendResult
from aiorelay.cli.send.retries import Pauses, parse_retry_after
from aiorelay.cli.send.unfinished import Record, UnfinishedUpload
from aiorelay.errors import Problem
from aiorelay.rest1.resumable.draft_fields import PARTIAL_UPLOAD, parse_complete, parse_size

__all__ = ["NotResumableError", "ResumableUploads", "Upload"]

_INTEROP_VERSION: Final = "8"
# Seconds for requests that are answered at once.
_QUICK: Final = 30.0
# Seconds before each attempt to ask whether uploads are resumable.
_ASKING: Final = (0.0, 0.25, 0.5)
# Seconds between two requests for the progress, and the longest time without an answer to them.
_INTERVAL: Final = 1.0
_SILENCE: Final = 30.0
# Requests for the progress that say that the upload has ended while the PATCH is still without an answer.
_ANSWER_LOST: Final = 10

_TRANSIENT: Final = frozenset({408, 425, 429})
# 409 is an offset that is not the server's; 423 is an upload in use.
_TRANSIENT_OF_UPLOAD: Final = _TRANSIENT | {409, 423}
_GONE: Final = frozenset({404, 410})
# With another token the upload can be continued.
_FORBIDDEN: Final = frozenset({401, 403})
_STORAGE_FULL: Final = 507


class NotResumableError(Exception):
    """The server cannot keep this upload: it has no room, or gives a URL that the token must not be sent to."""


class _InterruptedError(Exception):
    """An attempt ended without a final answer; the text is a sentence. ``answer`` is the one that is not final."""

    def __init__(self, sentence: str, *, retry_after: float | None = None, answer: Answer | None = None) -> None:
        super().__init__(sentence)
        self.retry_after = retry_after
        self.answer = answer


@dataclass(frozen=True, slots=True)
class _Response:
    """A response with its body."""

    status: int
    headers: Mapping[str, str]
    answer: Answer


@dataclass(slots=True)
class Upload:
    """One upload: ``form`` is sent for ``source``, ``record`` remembers its URL.

    ``acknowledged`` are the bytes that the server has. ``is_new`` says that the upload was created by this process.
    """

    source: str
    form: SeekableForm
    record: Record
    bars: ProgressBars
    acknowledged: int = 0
    is_new: bool = False

    @property
    def url(self) -> URL:
        if self.record.upload is None:
            raise AssertionError("the upload was not created")
        return URL(self.record.upload.url)

    def note(self, acknowledged: int) -> None:
        """Show that the server has so many bytes."""
        self.acknowledged = acknowledged
        self.bars.at("", acknowledged, self.form.length)

    def ended(self, result: SendResult) -> SendResult:
        """Forget the upload, and return its ``result``."""
        self.record.forget()
        return result


class ResumableUploads:
    """Creates uploads at ``endpoint`` and completes them; ``session`` makes all requests but those with content."""

    def __init__(self, endpoint: Endpoint, session: aiohttp.ClientSession) -> None:
        self._endpoint = endpoint
        self._session = session
        self._accepted: bool | None = None

    async def are_accepted(self) -> bool:
        """Return whether the server accepts resumable uploads, False also if it cannot be reached.

        It is asked until it has answered once.
        """
        for pause in () if self._accepted is not None else _ASKING:
            await asyncio.sleep(pause)
            with suppress(_InterruptedError):
                response = await self._request(hdrs.METH_OPTIONS, self._endpoint.url)
                accepted = response.headers.get("Accept-Patch", "").lower().split(",")
                self._accepted = response.status < 300 and PARTIAL_UPLOAD in map(str.strip, accepted)
                break
        return bool(self._accepted)

    async def send(self, upload: Upload) -> SendResult:
        """Send an upload to its end, with pauses in which it continues after interruptions; return its result.

        Raises ``NotResumableError``, ``SendError``, and the ``Problem`` of a file that was changed while it was read.
        """
        pauses = Pauses()
        while True:
            try:
                return await self._attempt(upload)
            except _InterruptedError as interruption:
                pause = pauses.after(upload.acknowledged, interruption.retry_after)
                if pause is None:
                    return _failed(upload, interruption)
                upload.bars.pause(f"{interruption} Trying again in {pause:g} s.")
            except Problem:
                await self._remove(upload)
                raise
            await asyncio.sleep(pause)

    async def _attempt(self, upload: Upload) -> SendResult:
        if upload.record.upload is not None:
            result = await self._find_offset(upload)
            if result is not None:
                return result
        if upload.record.upload is None:
            refusal = await self._create(upload)
            if refusal is not None:
                return refusal
        return await self._append(upload)

    async def _create(self, upload: Upload) -> SendResult | None:
        """Create an upload; None if there is one now, else the refusal."""
        headers = {
            hdrs.CONTENT_TYPE: f"multipart/form-data; boundary={upload.form.boundary.decode()}",
            "Upload-Complete": "?0",
            "Upload-Length": str(upload.form.length),
            "Upload-Draft-Interop-Version": _INTEROP_VERSION,
        }
        response = await self._request(hdrs.METH_POST, self._endpoint.url, headers)
        if response.status == _STORAGE_FULL:
            raise NotResumableError
        _raise_if_transient(response, _TRANSIENT)
        location = response.headers.get(hdrs.LOCATION)
        if not 200 <= response.status < 300 or location is None:
            return SendResult.of(upload.source, response.answer)
        url = await self._locate(location)
        upload.record.save(UnfinishedUpload(str(url), upload.form.boundary.decode()))
        upload.is_new = True
        upload.note(0)
        return None

    async def _locate(self, location: str) -> URL:
        """Return the URL of an upload that was created. Raises ``NotResumableError``.

        A proxy may serve the relay below a path, or over TLS, without the relay's knowledge. Then ``location`` is
        wrong, and the upload is beside the endpoint. The token is sent to the endpoint's origin only.
        """
        endpoint = self._endpoint.url
        given = endpoint.join(URL(location))
        beside = endpoint.join(URL(given.raw_path.lstrip("/"), encoded=True))
        if given == beside:
            return given
        for url in (given, beside):
            if url.origin() == endpoint.origin() and (await self._request(hdrs.METH_HEAD, url)).status < 300:
                return url
        raise NotResumableError

    async def _find_offset(self, upload: Upload) -> SendResult | None:
        """Ask for the offset; return the result if the upload has ended."""
        response = await self._request(hdrs.METH_HEAD, upload.url)
        _raise_if_transient(response, _TRANSIENT_OF_UPLOAD)
        offset = parse_size(response.headers.get("Upload-Offset"))
        complete = parse_complete(response.headers.get("Upload-Complete"))
        if response.status < 300 and offset is not None and not complete and offset <= upload.form.length:
            upload.note(offset)
            return None
        return await self._find_result(upload)

    async def _find_result(self, upload: Upload) -> SendResult | None:
        """Ask how an upload ended. None if it is gone, so that a new one is created."""
        response = await self._request(hdrs.METH_GET, upload.url)
        _raise_if_transient(response, _TRANSIENT_OF_UPLOAD)
        job = _job(response)
        if job is not None and job["state"] != "running":
            return upload.ended(result_of_job(upload.source, job))
        if response.status < 300:
            raise _InterruptedError("The relay does not tell how far the upload has come.")
        if response.status not in _GONE:
            return SendResult.of(upload.source, response.answer)
        upload.record.forget()
        if upload.is_new:
            raise SendError("The relay no longer has the upload. Send the file again.")
        return None

    async def _append(self, upload: Upload) -> SendResult:
        sending = asyncio.create_task(self._patch(upload))
        watching = asyncio.create_task(self._watch(upload))
        try:
            await asyncio.wait({sending, watching}, return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise _InterruptedError("Connection lost.")
            response = sending.result()
        finally:
            sending.cancel()
            watching.cancel()
            await asyncio.gather(sending, watching, return_exceptions=True)
        if not parse_complete(response.headers.get("Upload-Complete")):
            _raise_if_transient(response, _TRANSIENT_OF_UPLOAD)
        result = SendResult.of(upload.source, response.answer)
        if result.stored:
            upload.note(upload.form.length)
        return result if response.status in _FORBIDDEN else upload.ended(result)

    async def _patch(self, upload: Upload) -> _Response:
        headers = {
            hdrs.CONTENT_TYPE: PARTIAL_UPLOAD,
            "Upload-Complete": "?1",
            "Upload-Offset": str(upload.acknowledged),
        }
        framed = upload.form.framed(upload.acknowledged)
        async with aclosing(call_at_end(framed.blocks, upload.bars.wait)) as blocks:
            try:
                reply = await self._endpoint.patch(upload.url, replace(framed, blocks=blocks), headers)
            except Unanswered as unanswered:
                raise _InterruptedError("Connection lost.") from unanswered
        return _Response(reply.answer.status, reply.headers, reply.answer)

    async def _watch(self, upload: Upload) -> None:
        """Show the progress. Return once the server is silent, or has an answer that does not arrive."""
        loop = asyncio.get_running_loop()
        heard, ended = loop.time(), 0
        while loop.time() - heard < _SILENCE and ended < _ANSWER_LOST:
            await asyncio.sleep(_INTERVAL)
            with suppress(_InterruptedError):
                job = _job(await self._request(hdrs.METH_GET, upload.url))
                heard = loop.time()
                if job is None:
                    continue
                ended = 0 if job["state"] == "running" else ended + 1
                received = job.get("received")
                if isinstance(received, int) and received > upload.acknowledged:
                    upload.note(received)
                    if received >= upload.form.length:
                        upload.bars.wait()

    async def _remove(self, upload: Upload) -> None:
        """Remove an upload that cannot be completed, as far as the server can be reached."""
        if upload.record.upload is not None:
            with suppress(_InterruptedError):
                await self._request(hdrs.METH_DELETE, upload.url)
        upload.record.forget()

    async def _request(self, method: str, url: URL, headers: Mapping[str, str] | None = None) -> _Response:
        """Make a request without content. Raises ``_InterruptedError`` if there is no answer."""
        try:
            async with (
                asyncio.timeout(_QUICK),
                self._session.request(method, url, headers=headers, allow_redirects=False) as response,
            ):
                answer = Answer(response.status, response.content_type, await response.read())
                return _Response(response.status, response.headers, answer)
        except (aiohttp.ClientError, OSError, TimeoutError) as error:
            raise _InterruptedError("Connection lost.") from error


def _raise_if_transient(response: _Response, transient: frozenset[int]) -> None:
    """Raise ``_InterruptedError`` for an answer that may be another one later."""
    if response.status >= 500 or response.status in transient:
        retry_after = parse_retry_after(response.headers.get(hdrs.RETRY_AFTER))
        sentence = f"{response.answer.problem['title'].rstrip('.')}."
        raise _InterruptedError(sentence, retry_after=retry_after, answer=response.answer)


def _failed(upload: Upload, interruption: _InterruptedError) -> SendResult:
    """The result of an upload that made no progress for too long."""
    answer = interruption.answer
    problem = {"title": str(interruption).rstrip(".")} if answer is None else dict(answer.problem)
    advice = "Send the same file again to continue." if upload.record.is_kept else "Send the file again."
    detail = " ".join(filter(None, [str(problem.get("detail") or ""), advice]))
    return SendResult(upload.source, answer, problem | {"detail": detail})


def _job(response: _Response) -> dict[str, Any] | None:
    """The description of an upload, which has the members of a job."""
    if response.status != 200:
        return None
    try:
        document = json.loads(response.answer.body)
    except ValueError:
        return None
    return document if isinstance(document, dict) and isinstance(document.get("state"), str) else None
