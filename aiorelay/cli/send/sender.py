"""Send each source: a file as a form, a URL as a JSON document.

FILE      ─▶ POST /upload1, multipart: a resumable upload, if the server accepts those
-, a pipe ─▶ POST /upload1, multipart, in one request
URL       ─▶ POST /upload2, JSON ─▶ 200, the answer
                                 └▶ 202, a job, which is followed to its end
"""

import asyncio
import json
import re
import secrets
from collections.abc import Callable, Sequence
from contextlib import aclosing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import aiohttp
from aiohttp import hdrs
from yarl import URL

from aiorelay.certificates.tls import client_context
from aiorelay.cli.send.endpoint import Endpoint, Reply
from aiorelay.cli.send.files import STDIN, OpenedFile, opened
from aiorelay.cli.send.forms import FormFields, SeekableForm, call_at_end, form_of, once
from aiorelay.cli.send.job_events import cancel, follow, result_of_job
from aiorelay.cli.send.progress_bars import ProgressBars
from aiorelay.cli.send.results import SendError, SendResult
from aiorelay.cli.send.resumable import NotResumableError, ResumableUploads, Upload
from aiorelay.cli.send.unfinished import Record, key_of, record
from aiorelay.errors import Problem
from aiorelay.multipart.framing import FramedBody, frame
from aiorelay.observability.logs import ignore_writes_to_broken_connections

__all__ = ["SendOptions", "send"]

_REMOTE = re.compile(r"(?:https?|s3)://", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class SendOptions:
    """The destination of the sources, and the fields and headers to send.

    ``to`` is a relay's base URL or, with a path, an upload endpoint. ``field`` is the form field of each file, and
    ``fields`` are additional ones. ``cacert`` (PEM) replaces the system's CAs and ``own_ca`` as the trusted CAs.
    ``unfinished`` is the directory in which the URLs of unfinished uploads are kept.
    """

    to: URL
    field: str
    fields: tuple[tuple[str, str], ...] = ()
    cacert: Path | None = None
    own_ca: Path | None = None
    token: str | None = None
    token_header: str = hdrs.AUTHORIZATION
    unfinished: Path | None = None

    def endpoint(self, path: str) -> URL:
        """Return the URL to post to: ``to`` if it has a path, else ``path`` of the relay."""
        return self.to if self.to.path != "/" else self.to.with_path(path, keep_query=True)


def send(
    options: SendOptions, sources: Sequence[str], report: Callable[[SendResult], object], *, progress: bool
) -> bool:
    """Send each of ``sources`` (paths, "-", or http, https and s3 URLs) and call ``report`` with each result.

    ``progress`` shows progress bars on standard error. Return whether all sources were stored. Raises StartupError if a
    CA file cannot be used.
    """
    ignore_writes_to_broken_connections()
    return asyncio.run(_send(options, sources, report, progress=progress))


async def _send(
    options: SendOptions, sources: Sequence[str], report: Callable[[SendResult], object], *, progress: bool
) -> bool:
    stored = True
    async with _Sender(options) as sender:
        for source in sources:
            try:
                with ProgressBars(source, shown=progress) as bars:
                    outcome = await sender.send(source, bars)
            except Interrupted as interrupted:
                report(interrupted.result)
                raise asyncio.CancelledError from None
            report(outcome)
            stored = stored and outcome.stored
    return stored


class Interrupted(Exception):  # noqa: N818 - no error of the program
    """The user interrupted an upload that can be continued; ``result`` says how."""

    def __init__(self, source: str) -> None:
        super().__init__(source)
        self.result = SendResult(
            source, problem={"title": "Interrupted", "detail": "Run the same command again to continue the upload."}
        )


class _Sender:
    """The endpoints of one destination."""

    def __init__(self, options: SendOptions) -> None:
        self._options = options
        authority = options.cacert or options.own_ca
        self._context = client_context([authority] if authority else [], system_trust=options.cacert is None)
        self._headers: dict[str, str] = {hdrs.USER_AGENT: "aiorelay"}
        if options.token is not None:
            self._headers[options.token_header] = f"Bearer {options.token}"
        self._fields = FormFields(options.field, options.fields)
        self._forms = Endpoint(options.endpoint("/upload1"), context=self._context, headers=self._headers)
        self._documents = Endpoint(options.endpoint("/upload2"), context=self._context, headers=self._headers)

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=self._context),
            headers=self._headers,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=False,
        )
        self._resumable = ResumableUploads(self._forms, self._session)
        await self._forms.__aenter__()
        await self._documents.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._documents.__aexit__()
        await self._forms.__aexit__()
        await self._session.close()

    async def send(self, source: str, bars: ProgressBars) -> SendResult:
        try:
            if _REMOTE.match(source):
                return await self._ingest(source, bars)
            async with opened(source) as file:
                return await self._upload(source, file, bars)
        except SendError as failure:
            return SendResult(source, problem={"title": str(failure)})
        except Problem as problem:  # the file was changed while it was read
            return SendResult(source, problem={"title": problem.detail})

    async def _upload(self, source: str, file: OpenedFile, bars: ProgressBars) -> SendResult:
        if file.local is not None and await self._resumable.are_accepted():
            options = self._options
            content = (str(self._forms.url), options.field, options.fields)
            key = None if source == STDIN else key_of(source, *content)
            with suppress(NotResumableError), record(options.unfinished, key) as kept:
                return await self._upload_resumably(source, file, kept, bars)
        return SendResult.of(source, (await self._post(file, bars)).answer)

    async def _upload_resumably(self, source: str, file: OpenedFile, kept: Record, bars: ProgressBars) -> SendResult:
        if file.local is None:
            raise AssertionError("a stream cannot be resumed")
        boundary = _boundary() if kept.upload is None else kept.upload.boundary.encode()
        form = await SeekableForm.of(boundary, self._fields, file, file.local)
        try:
            return await self._resumable.send(Upload(source, form, kept, bars))
        except asyncio.CancelledError:
            if kept.is_kept:
                raise Interrupted(source) from None
            raise

    async def _post(self, file: OpenedFile, bars: ProgressBars) -> Reply:
        form = form_of(_boundary(), self._fields, file)
        framed = await frame(form)
        async with aclosing(form.parts), aclosing(call_at_end(framed.blocks, bars.wait)) as blocks:
            return await self._forms.post(
                replace(framed, blocks=blocks),
                {hdrs.CONTENT_TYPE: f"multipart/form-data; boundary={framed.boundary.decode()}"},
                lambda sent: bars.at("", sent, framed.length),
            )

    async def _ingest(self, source: str, bars: ProgressBars) -> SendResult:
        document = _document(self._options, source)
        headers = {hdrs.CONTENT_TYPE: "application/json", "Prefer": "respond-async"}
        reply = await self._documents.post(FramedBody(b"", len(document), once(document)), headers)
        if reply.job is None:
            return SendResult.of(source, reply.answer)

        def show(job: dict[str, object]) -> None:
            received, forwarded, total = (_count(job.get(member)) for member in ("received", "forwarded", "total"))
            bars.at("fetched", received or 0, total)
            bars.at("forwarded", forwarded or 0, total)
            if total is not None and (received or 0) >= total <= (forwarded or 0):
                bars.wait()

        try:
            return result_of_job(source, await follow(self._session, reply.job, show))
        except asyncio.CancelledError:
            await cancel(self._session, reply.job)
            raise


def _boundary() -> bytes:
    return b"aiorelay-" + secrets.token_hex(16).encode()


def _document(options: SendOptions, source: str) -> bytes:
    members = dict(options.fields)
    if len(members) < len(options.fields) or options.field in members:
        raise SendError("A field can be given only once with a URL. Use another name for each --field.")
    return json.dumps(members | {options.field: source}).encode()


def _count(value: object) -> int | None:
    return value if isinstance(value, int) else None
