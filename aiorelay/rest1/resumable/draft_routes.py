"""HTTP resumable uploads (draft-ietf-httpbis-resumable-upload).

POST /upload, /upload1, PUT /upload/…   with Upload-Complete: creates an upload; its content is the beginning, or all
HEAD    /uploads/ID                     how far it has come
PATCH   /uploads/ID                     appends; the last one is answered as the upload API answers
GET     /uploads/ID                     how it ended, in the members of a job
DELETE  /uploads/ID                     ends it
OPTIONS on all of these                 what may be appended, and the limits
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from typing import Any, Final

from aiohttp import hdrs, web

from aiorelay.errors import (
    CompletedUpload,
    Gone,
    InconsistentLength,
    MalformedField,
    OffsetMismatch,
    Problem,
    TooLarge,
    WrongContentType,
)
from aiorelay.http.interim import send_interim_response
from aiorelay.http.middleware import defer_100_continue
from aiorelay.http.request_body import body_length
from aiorelay.observability.logs import UploadRecord
from aiorelay.rest1.intake import Intake
from aiorelay.rest1.jobs.registry import Job
from aiorelay.rest1.jobs.routes import started_job_response
from aiorelay.rest1.resumable.completion import Outcome
from aiorelay.rest1.resumable.draft_fields import (
    PARTIAL_UPLOAD,
    declared_length,
    parse_complete,
    parse_interop_version,
    parse_size,
    render_complete,
    render_limits,
)
from aiorelay.rest1.resumable.outcomes import absolute_url, outcome_response, raise_if_refused, stored_outcome
from aiorelay.rest1.resumable.representation import Representation
from aiorelay.rest1.resumable.resources import UploadResources
from aiorelay.rest1.resumable.transfers import Transfer, Transfers, append_offset
from aiorelay.rest1.resumable.unfinished import Appending, Upload, Uploads
from aiorelay.rest1.upload_request import FORM, UploadRequest

__all__ = ["DraftRoutes", "is_creation"]

_COMPLETE: Final = "Upload-Complete"
_OFFSET: Final = "Upload-Offset"
_LENGTH: Final = "Upload-Length"
_LIMIT: Final = "Upload-Limit"
_VERSION: Final = "Upload-Draft-Interop-Version"
_ACCEPT_PATCH: Final = "Accept-Patch"
_PHRASE: Final = "Upload Resumption Supported"
# Seconds between two interim responses that tell the progress.
_PROGRESS_INTERVAL: Final = 1.0
_RAW_ENDPOINT: Final = "/upload/"


def is_creation(request: web.Request) -> bool:
    """Whether a request to an endpoint for uploads creates a resumable one, from its first byte on."""
    is_draft = parse_complete(request.headers.get(_COMPLETE)) is not None
    return is_draft and not parse_size(request.headers.get(_OFFSET))


class DraftRoutes:
    """The routes of the draft's upload resources, kept in ``uploads`` for ``expiry`` seconds since their last byte."""

    def __init__(self, intake: Intake, uploads: Uploads, transfers: Transfers, *, expiry: float) -> None:
        self._intake = intake
        self._uploads = uploads
        self._resources = UploadResources(intake, uploads, "http")
        self._transfers = transfers
        self._expiry = expiry

    def add_to(self, router: web.UrlDispatcher) -> None:
        path = "/uploads/{id}"
        router.add_get(path, self._resources.describe, allow_head=False)
        router.add_head(path, self._tell)
        router.add_patch(path, self._append, expect_handler=defer_100_continue)
        router.add_delete(path, self._resources.remove, expect_handler=defer_100_continue)
        for each in ("/upload", "/upload1", "/upload/{filename:[^/]*}", path):
            router.add_options(each, self._options)

    async def create(self, endpoint: str, request: web.Request) -> web.StreamResponse:
        """Answer a request to ``endpoint`` that ``is_creation``."""
        with ExitStack() as under_way:
            asked, record = under_way.enter_context(self._intake.under_way(endpoint, request, resumable=True))
            representation = _representation(asked)
            last = bool(parse_complete(request.headers.get(_COMPLETE)))
            length = declared_length(
                known=None,
                upload_length=parse_size(request.headers.get(_LENGTH)),
                complete=last,
                offset=0,
                content_length=body_length(request),
            )
            limits = self._limits(representation)
            try:
                self._transfers.limits.check(representation, length)
            except TooLarge as too_large:
                too_large.headers[_LIMIT] = limits
                raise
            await self._intake.limits.admit(request, asked.principal, length)
            upload = await self._uploads.create(
                owner=asked.who, protocol="http", request=representation.to_json(), length=length
            )
            record.continues = True
            resource = {hdrs.LOCATION: absolute_url(asked, f"/uploads/{upload.id}"), _LIMIT: limits}
            await _Interim(request).send(resource)
            transfer = self._transfer(request, asked, record, upload, offset=None, last=last, status=201)
            async with self._telling_of(upload, asked.who, resource):
                result = await self._transfers.take(transfer, under_way)
        return self._answer(result, resource, status=201)

    async def _append(self, request: web.Request) -> web.StreamResponse:
        identity = request.match_info["id"]
        with ExitStack() as under_way:
            asked, record = under_way.enter_context(
                self._intake.under_way("/uploads/", request, resumable=True, continues=True)
            )
            if asked.media_type != PARTIAL_UPLOAD:
                raise WrongContentType(
                    f"An upload is continued with {PARTIAL_UPLOAD}.", headers={_ACCEPT_PATCH: PARTIAL_UPLOAD}
                )
            offset, last = parse_size(request.headers.get(_OFFSET)), parse_complete(request.headers.get(_COMPLETE))
            if offset is None or last is None:
                raise MalformedField("An upload is continued with Upload-Offset: BYTES and Upload-Complete: ?0 or ?1.")
            upload = await self._find(identity, asked)
            if upload.ended is not None:
                return _completed(upload, request, offset, record)
            length = declared_length(
                known=upload.length,
                upload_length=parse_size(request.headers.get(_LENGTH)),
                complete=last,
                offset=offset,
                content_length=body_length(request),
            )
            where = append_offset(upload, offset, body_length(request))
            transfer = self._transfer(request, asked, record, upload, where, last=last, status=204, length=length)
            resource = {_LIMIT: self._limits(Representation.from_json(upload.request), upload)}
            try:
                async with self._telling_of(upload, asked.who, resource):
                    result = await self._transfers.take(transfer, under_way)
            except Gone:  # it has ended while we waited for the request that delivered it
                return _repeated(await self._find(identity, asked), record)
        return self._answer(result, resource, status=204)

    async def _tell(self, request: web.Request) -> web.Response:
        found = await self._resources.named(request)
        upload = await self._uploads.interrupt(found.id, found.owner)
        raise_if_refused(upload)
        headers = {
            _OFFSET: str(upload.offset),
            _COMPLETE: render_complete(upload.ended is not None),
            _LIMIT: self._limits(Representation.from_json(upload.request), upload),
            hdrs.CACHE_CONTROL: "no-store",
        }
        if upload.length is not None:
            headers[_LENGTH] = str(upload.length)
        return web.Response(status=204, headers=headers)

    async def _options(self, request: web.Request) -> web.Response:
        raw = request.path.startswith(_RAW_ENDPOINT)
        limits = self._transfers.limits
        headers = {_ACCEPT_PATCH: PARTIAL_UPLOAD, _LIMIT: self._render(limits.file if raw else limits.form)}
        return web.Response(status=204, headers=headers)

    async def _find(self, identity: str, asked: UploadRequest) -> Upload:
        upload = await self._uploads.find(identity, asked.who, "http")
        raise_if_refused(upload)
        return upload

    def _transfer(
        self,
        request: web.Request,
        asked: UploadRequest,
        record: UploadRecord,
        upload: Upload,
        offset: int | None,
        **more: Any,
    ) -> Transfer:
        checks = self._intake.digest_checks(asked, "Content-Digest")
        # Bytes that a digest may yet discard are no progress: an offset must not decrease.
        interim = _Interim(request, tells_progress=not checks)
        return Transfer(
            request=request,
            id=upload.id,
            offset=offset,
            asked=asked,
            record=record,
            checks=checks,
            on_written=interim.progress,
            **more,
        )

    @asynccontextmanager
    async def _telling_of(
        self, upload: Upload, who: str | None, headers: Mapping[str, str]
    ) -> AsyncGenerator[None, None]:
        """Put on a problem's answer that the upload goes on, and ``headers``, unless the upload has ended."""
        try:
            yield
        except Problem as problem:
            with suppress(Problem):
                now = await self._uploads.find(upload.id, who)
                if now.ended is None:
                    told = {**headers, _COMPLETE: render_complete(complete=False), _OFFSET: str(now.offset)}
                    problem.headers = {**told, **problem.headers}
            if isinstance(problem, TooLarge):
                problem.headers[_LIMIT] = headers[_LIMIT]
            raise

    def _limits(self, representation: Representation, upload: Upload | None = None) -> str:
        return self._render(self._transfers.limits.of(representation), upload)

    def _render(self, most: int, upload: Upload | None = None) -> str:
        age = self._expiry if upload is None else upload.remaining
        return render_limits({"max-size": most, "max-age": int(age)})

    def _answer(
        self, result: Upload | Outcome | Job, resource: Mapping[str, str], *, status: int
    ) -> web.StreamResponse:
        """The answer to a request with content; ``resource`` and ``status`` are for an upload that goes on."""
        if isinstance(result, Job):
            return started_job_response(result, {_COMPLETE: render_complete(complete=True)})
        if isinstance(result, Upload):
            headers = {**resource, _COMPLETE: render_complete(complete=False), _OFFSET: str(result.offset)}
            return web.Response(status=status, headers=headers)
        headers = {_COMPLETE: render_complete(result.final)}
        if not result.final:
            headers.update(resource)
        elif result.stored:
            headers[_OFFSET] = str(result.length)
        elif isinstance(result.problem, TooLarge):
            headers[_LIMIT] = resource[_LIMIT]
        return outcome_response(result, headers)


class _Interim:
    """Sends 104 (Upload Resumption Supported) to a client that speaks a version of the draft that the relay speaks."""

    def __init__(self, request: web.Request, *, tells_progress: bool = False) -> None:
        self._request = request
        self._tells_progress = tells_progress
        self._version = parse_interop_version(request.headers.get(_VERSION))
        self._last = asyncio.get_running_loop().time()

    async def send(self, headers: Mapping[str, str]) -> None:
        if self._version is not None:
            version = (_VERSION, str(self._version))
            with suppress(OSError):  # the client has left, as those will see who read its request
                await send_interim_response(self._request, 104, _PHRASE, [*headers.items(), version])

    async def progress(self, appending: Appending) -> None:
        """Tell the offset from time to time, without the last byte: nobody knows whether it is that of the upload."""
        now = asyncio.get_running_loop().time()
        if self._tells_progress and now - self._last >= _PROGRESS_INTERVAL:
            self._last = now
            await self.send({_OFFSET: str(max(appending.written - 1, 0))})


def _representation(asked: UploadRequest) -> Representation:
    is_raw = asked.endpoint == _RAW_ENDPOINT
    if is_raw and asked.media_type.startswith("multipart/"):
        raise WrongContentType("A raw body is one file. Send a form with POST.")
    if not is_raw and asked.media_type != FORM:
        raise WrongContentType(f"A resumable upload to {asked.endpoint} is a form: {FORM}.")
    return Representation.of(asked, kind="raw" if is_raw else "form")


def _repeated(upload: Upload, record: UploadRecord) -> web.Response:
    """The upload API's answer to an upload that is stored, for a request that has missed it."""
    headers = {_COMPLETE: render_complete(complete=True), _OFFSET: str(upload.size)}
    response = outcome_response(stored_outcome(upload), headers)
    record.repeated(response.status)
    return response


def _completed(upload: Upload, request: web.Request, offset: int, record: UploadRecord) -> web.Response:
    """The answer to an append to an upload that is stored. Its last byte may be sent again: HEAD asked for it."""
    if offset == upload.size - 1 and body_length(request) in {1, None}:
        return _repeated(upload, record)
    if offset != upload.size:  # a browser that repeats an append by itself must not take this for a refusal
        raise OffsetMismatch("The upload is complete, as GET tells.", offset=upload.size, provided=offset)
    if body_length(request) != 0:
        raise InconsistentLength("The upload is complete, and this content goes beyond its length.")
    raise CompletedUpload("The upload is complete already, as GET tells.")
