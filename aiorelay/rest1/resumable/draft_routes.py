"""HTTP resumable uploads (draft-ietf-httpbis-resumable-upload).

POST /upload, /upload1, PUT /upload/…   with Upload-Complete: creates an upload; its content is the beginning, or all
HEAD    /uploads/ID                     how far it has come
PATCH   /uploads/ID                     appends; the last one is answered as the upload API answers
GET     /uploads/ID                     how it ended, in the members of a job
DELETE  /uploads/ID                     ends it
OPTIONS on all of these                 what may be appended, and the limits
"""

import asyncio
from contextlib import ExitStack
from typing import Final

from aiohttp import hdrs, web

from aiorelay.errors import CompletedUpload, Gone, InconsistentLength, MalformedField, TooLarge, WrongContentType
from aiorelay.http.interim import send_interim_response
from aiorelay.http.middleware import defer_100_continue
from aiorelay.rest1.intake import Intake
from aiorelay.rest1.jobs.registry import Job
from aiorelay.rest1.jobs.routes import started_job_response
from aiorelay.rest1.resumable.appending import Appending
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
from aiorelay.rest1.resumable.files import Upload
from aiorelay.rest1.resumable.outcomes import absolute_url, description, outcome_response, stored_outcome
from aiorelay.rest1.resumable.representation import Representation
from aiorelay.rest1.resumable.store import Uploads
from aiorelay.rest1.resumable.transfers import Transfer, Transfers
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
    offset = parse_size(request.headers.get(_OFFSET))
    return parse_complete(request.headers.get(_COMPLETE)) is not None and not offset


class DraftRoutes:
    """The routes of the draft's upload resources, kept in ``uploads`` for ``expiry`` seconds since their last byte."""

    def __init__(self, intake: Intake, uploads: Uploads, transfers: Transfers, *, expiry: float) -> None:
        self._intake = intake
        self._uploads = uploads
        self._transfers = transfers
        self._expiry = expiry

    def add_to(self, router: web.UrlDispatcher) -> None:
        path = "/uploads/{id}"
        router.add_get(path, self._describe, allow_head=False)
        router.add_head(path, self._tell)
        router.add_patch(path, self._append, expect_handler=defer_100_continue)
        router.add_delete(path, self._remove, expect_handler=defer_100_continue)
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
                content_length=_content_length(request),
            )
            limits = self._limits(representation)
            try:
                self._transfers.limits.check(representation, length)
            except TooLarge as too_large:
                too_large.headers[_LIMIT] = limits
                raise
            upload = await self._uploads.create(
                owner=asked.who, protocol="http", request=representation.to_json(), length=length
            )
            location = absolute_url(asked, f"/uploads/{upload.id}")
            announcing = _Interim(request)
            await announcing.send([(hdrs.LOCATION, location), (_LIMIT, limits)])
            transfer = Transfer(
                request=request,
                id=upload.id,
                offset=None,
                asked=asked,
                record=record,
                checks=self._intake.digest_checks(asked, "Content-Digest"),
                last=last,
                on_written=announcing.progress,
            )
            result = await self._transfers.take(transfer, under_way)
        resource = {hdrs.LOCATION: location, _LIMIT: limits}
        return self._answer(result, created=resource)

    async def _append(self, request: web.Request) -> web.StreamResponse:
        identity = request.match_info["id"]
        with ExitStack() as under_way:
            asked, record = under_way.enter_context(self._intake.under_way("/uploads/", request, resumable=True))
            if asked.media_type != PARTIAL_UPLOAD:
                raise WrongContentType(
                    f"An upload is continued with {PARTIAL_UPLOAD}.", headers={_ACCEPT_PATCH: PARTIAL_UPLOAD}
                )
            offset, last = parse_size(request.headers.get(_OFFSET)), parse_complete(request.headers.get(_COMPLETE))
            if offset is None or last is None:
                raise MalformedField("An upload is continued with Upload-Offset: BYTES and Upload-Complete: ?0 or ?1.")
            upload = self._find(identity, asked)
            if upload.ended is not None:
                return _completed(upload, request, offset)
            length = declared_length(
                known=upload.length,
                upload_length=parse_size(request.headers.get(_LENGTH)),
                complete=last,
                offset=offset,
                content_length=_content_length(request),
            )
            transfer = Transfer(
                request=request,
                id=identity,
                offset=_where(upload, offset, request),
                asked=asked,
                record=record,
                checks=self._intake.digest_checks(asked, "Content-Digest"),
                length=length,
                last=last,
                on_written=_Interim(request).progress,
            )
            try:
                result = await self._transfers.take(transfer, under_way)
            except Gone:  # it has ended while we waited for the request that delivered it
                upload = self._find(identity, asked)
                record.answered(200, stored=True)
                return _completed(upload, request, offset)
        return self._answer(result)

    async def _tell(self, request: web.Request) -> web.Response:
        upload = await self._uploads.interrupt(request.match_info["id"], self._intake.access.who(request))
        _refuse_unless_stored(upload)
        headers = {
            _OFFSET: str(upload.offset),
            _COMPLETE: render_complete(upload.ended is not None),
            _LIMIT: self._limits(Representation.from_json(upload.request), upload),
            hdrs.CACHE_CONTROL: "no-store",
        }
        if upload.length is not None:
            headers[_LENGTH] = str(upload.length)
        return web.Response(status=204, headers=headers)

    async def _describe(self, request: web.Request) -> web.Response:
        return description(self._uploads.find(request.match_info["id"], self._intake.access.who(request)))

    async def _remove(self, request: web.Request) -> web.Response:
        await self._uploads.remove(request.match_info["id"], self._intake.access.who(request))
        return web.Response(status=204)

    async def _options(self, request: web.Request) -> web.Response:
        raw = request.path.startswith(_RAW_ENDPOINT)
        limits = self._transfers.limits
        headers = {_ACCEPT_PATCH: PARTIAL_UPLOAD, _LIMIT: self._render(limits.file if raw else limits.form)}
        return web.Response(status=204, headers=headers)

    def _find(self, identity: str, asked: UploadRequest) -> Upload:
        upload = self._uploads.find(identity, asked.who)
        _refuse_unless_stored(upload)
        return upload

    def _limits(self, representation: Representation, upload: Upload | None = None) -> str:
        return self._render(self._transfers.limits.of(representation), upload)

    def _render(self, most: int, upload: Upload | None = None) -> str:
        age = self._expiry if upload is None else upload.remaining
        return render_limits({"max-size": most, "max-age": int(age)})

    def _answer(self, result: Upload | Outcome | Job, created: dict[str, str] | None = None) -> web.StreamResponse:
        """The answer to a request with content; ``created`` are header fields that name the upload it created."""
        if isinstance(result, Job):
            return started_job_response(result, {_COMPLETE: render_complete(complete=True)})
        if isinstance(result, Upload):
            headers = {**(created or {}), _COMPLETE: render_complete(complete=False), _OFFSET: str(result.offset)}
            return web.Response(status=204 if created is None else 201, headers=headers)
        headers = {_COMPLETE: render_complete(result.final)}
        if result.final and result.stored:
            headers[_OFFSET] = str(result.length)
        if not result.final:
            headers.update(created or {})
        return outcome_response(result, headers)


class _Interim:
    """Sends 104 (Upload Resumption Supported) to a client that speaks a version of the draft that the relay speaks."""

    def __init__(self, request: web.Request) -> None:
        self._request = request
        self._version = parse_interop_version(request.headers.get(_VERSION))
        self._last = asyncio.get_running_loop().time()

    async def send(self, headers: list[tuple[str, str]]) -> None:
        if self._version is not None:
            version = (_VERSION, str(self._version))
            await send_interim_response(self._request, 104, _PHRASE, [*headers, version])

    async def progress(self, appending: Appending) -> None:
        """Tell the offset from time to time."""
        now = asyncio.get_running_loop().time()
        if self._version is not None and now - self._last >= _PROGRESS_INTERVAL:
            self._last = now
            await self.send([(_OFFSET, str(appending.upload.offset))])


def _representation(asked: UploadRequest) -> Representation:
    is_raw = asked.endpoint == _RAW_ENDPOINT
    if is_raw and asked.media_type.startswith("multipart/"):
        raise WrongContentType("A raw body is one file. Send a form with POST.")
    if not is_raw and asked.media_type != FORM:
        raise WrongContentType(f"A resumable upload to {asked.endpoint} is a form: {FORM}.")
    return Representation.of(asked, kind="raw" if is_raw else "form")


def _content_length(request: web.Request) -> int | None:
    return request.content_length if request.can_read_body else 0


def _where(upload: Upload, offset: int, request: web.Request) -> int | None:
    """Where to append: None at the end of a complete upload, to deliver it without more content."""
    at_the_end = upload.complete and offset == upload.size and _content_length(request) == 0
    return None if at_the_end else offset


def _refuse_unless_stored(upload: Upload) -> None:
    if upload.ended is not None and not (upload.outcome or {}).get("stored"):
        raise Gone("The upload was refused, as GET tells. Begin a new upload.")


def _completed(upload: Upload, request: web.Request, offset: int) -> web.Response:
    """The answer to an append to an upload that is stored: its last byte may have been sent again."""
    if offset < upload.size:
        headers = {_COMPLETE: render_complete(complete=True), _OFFSET: str(upload.size)}
        return outcome_response(stored_outcome(upload), headers)
    if _content_length(request) != 0:
        raise InconsistentLength("The upload is complete, and this content goes beyond its length.")
    raise CompletedUpload("The upload is complete already, as GET tells.")
