"""tus 1.0.0 (https://tus.io/protocols/resumable-upload).

OPTIONS /files/        the version, the extensions and the limits
POST    /files/        creates an upload, perhaps with its first bytes, or concatenates uploads
HEAD    /files/ID      how far it has come
PATCH   /files/ID      appends; the last one is answered as the upload API answers
DELETE  /files/ID      ends it
GET     /files/ID      how it ended, in the members of a job
"""

import hashlib
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from contextlib import ExitStack
from hmac import compare_digest
from typing import Any, Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

from aiorelay.checks.pipeline import Check, ThreadedCheck
from aiorelay.errors import (
    ChecksumMismatch,
    Gone,
    InconsistentLength,
    MalformedField,
    OffsetMismatch,
    ProtocolVersion,
    TooLarge,
    WrongContentType,
)
from aiorelay.http.middleware import defer_100_continue
from aiorelay.http.request_body import body_length
from aiorelay.observability.logs import UploadRecord
from aiorelay.rest1.intake import Intake
from aiorelay.rest1.jobs.registry import Job
from aiorelay.rest1.jobs.routes import started_job_response
from aiorelay.rest1.resumable.completion import Outcome
from aiorelay.rest1.resumable.concatenation import Concatenation
from aiorelay.rest1.resumable.outcomes import absolute_url, raise_if_refused
from aiorelay.rest1.resumable.representation import Representation
from aiorelay.rest1.resumable.resources import UploadResources
from aiorelay.rest1.resumable.transfers import Transfer, Transfers, append_offset
from aiorelay.rest1.resumable.tus_answers import OFFSET, concatenated, expires, refused, repeated, stored
from aiorelay.rest1.resumable.tus_fields import (
    CHECKSUM_ALGORITHMS,
    parse_checksum,
    parse_concat,
    parse_creation_length,
    parse_integer,
    parse_metadata,
)
from aiorelay.rest1.resumable.unfinished import Upload, Uploads
from aiorelay.rest1.upload_request import UploadRequest
from aiorelay.sources.ingest import media_type_of_one_file

__all__ = ["TusRoutes"]

_BASE: Final = "/files/"
_VERSION: Final = "1.0.0"
_EXTENSIONS: Final = "creation,creation-with-upload,creation-defer-length,checksum,expiration,termination,concatenation"
_CONTENT: Final = "application/offset+octet-stream"
_RESUMABLE: Final = "Tus-Resumable"
_LENGTH: Final = "Upload-Length"
_DEFERRED: Final = "Upload-Defer-Length"
_METADATA: Final = "Upload-Metadata"
_CONCAT: Final = "Upload-Concat"
_CHECKSUM: Final = "Upload-Checksum"


class TusRoutes:
    """The routes below /files/, for uploads kept in ``uploads``; ``pool`` computes checksums."""

    def __init__(
        self, intake: Intake, uploads: Uploads, transfers: Transfers, concatenation: Concatenation, pool: Executor
    ) -> None:
        self._intake = intake
        self._uploads = uploads
        self._resources = UploadResources(intake, uploads, "tus")
        self._transfers = transfers
        self._concatenation = concatenation
        self._pool = pool

    def add_to(self, router: web.UrlDispatcher) -> None:
        for path in ("/files", "/files/"):
            router.add_post(path, self._tus(self._create), expect_handler=defer_100_continue)
            router.add_options(path, self._options)
        path = "/files/{id}"
        router.add_get(path, self._resources.describe, allow_head=False)
        router.add_options(path, self._options)
        methods: dict[str, Handler] = {
            hdrs.METH_HEAD: self._tus(self._tell),
            hdrs.METH_PATCH: self._tus(self._append),
            hdrs.METH_DELETE: self._tus(self._resources.remove),
        }
        for method, handler in methods.items():
            router.add_route(method, path, handler, expect_handler=defer_100_continue)

        async def overridden(request: web.Request) -> web.StreamResponse:
            method = request.headers.get("X-HTTP-Method-Override", "").upper()
            if method not in methods:
                raise web.HTTPMethodNotAllowed(request.method, [*methods, hdrs.METH_GET, hdrs.METH_OPTIONS])
            return await methods[method](request)

        router.add_post(path, overridden, expect_handler=defer_100_continue)

    async def add_version(self, request: web.Request, response: web.StreamResponse) -> None:
        """Put the version on every answer below /files; a signal handler for ``on_response_prepare``."""
        if request.path == _BASE.rstrip("/") or request.path.startswith(_BASE):
            response.headers[_RESUMABLE] = _VERSION

    def _tus(self, handle: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> Handler:
        """A handler of requests that speak the version of tus that is spoken here."""

        async def handler(request: web.Request) -> web.StreamResponse:
            if request.headers.get(_RESUMABLE) != _VERSION:
                raise ProtocolVersion(
                    f"Send {_RESUMABLE}: {_VERSION}; no other version is spoken here.",
                    headers={"Tus-Version": _VERSION},
                )
            return await handle(request)

        return handler

    async def _options(self, _request: web.Request) -> web.Response:
        headers = {
            "Tus-Version": _VERSION,
            "Tus-Extension": _EXTENSIONS,
            "Tus-Max-Size": str(self._transfers.limits.file),
            "Tus-Checksum-Algorithm": ",".join(CHECKSUM_ALGORITHMS),
        }
        return web.Response(status=204, headers=headers)

    async def _create(self, request: web.Request) -> web.StreamResponse:
        with ExitStack() as under_way:
            asked, record = under_way.enter_context(self._intake.under_way(_BASE, request, resumable=True))
            asked = asked._replace(respond_async=False)  # the client needs the upload's Location, not the job's
            representation = _representation(request, asked)
            concat = representation.concat
            paths = () if concat is None else parse_concat(concat, _BASE)
            if paths:
                if _LENGTH in request.headers:
                    raise MalformedField("A final upload has no Upload-Length: it is that of its parts.")
                await self._intake.limits.admit(request, asked.principal, None)
                final = await self._concatenation.deliver(paths, representation, asked, record, under_way)
                return concatenated(final.outcome, absolute_url(asked, f"{_BASE}{final.id}"))
            deferred = request.headers.get(_DEFERRED)
            length = parse_creation_length(request.headers.get(_LENGTH), deferred)
            self._transfers.limits.check(representation, length)
            content_length = body_length(request)
            if content_length != 0 and asked.media_type != _CONTENT:
                raise WrongContentType(f"The content of an upload is {_CONTENT}.")
            checks = self._checks(request)
            await self._intake.limits.admit(request, asked.principal, length, counted=concat is None)
            upload = await self._uploads.create(
                owner=asked.who,
                protocol="tus",
                request=representation.to_json(),
                length=length,
                partial=concat is not None,
            )
            record.continues = length != 0  # an empty upload has no byte that could be sent again
            if content_length == 0 and (length != 0 or upload.partial):
                record.unfinished(201)
                return await self._created(upload, asked)
            try:
                transfer = self._transfer(request, asked, record, upload, 0, checks=checks, status=201)
                result = await self._transfers.take(transfer, under_way)
            except BaseException:  # the client, if it is there, knows of no upload that it could continue
                record.continues = False
                await self._transfers.discard(upload)
                raise
        return await self._created_with_content(result, upload, asked)

    async def _append(self, request: web.Request) -> web.StreamResponse:
        identity = request.match_info["id"]
        with ExitStack() as under_way:
            asked, record = under_way.enter_context(
                self._intake.under_way(_BASE, request, resumable=True, continues=True)
            )
            if asked.media_type != _CONTENT:
                raise WrongContentType(f"The content of an upload is {_CONTENT}.")
            offset = parse_integer(request.headers.get(OFFSET, ""), OFFSET)
            upload = await self._find(identity, asked.who)
            if upload.ended is not None:
                return repeated(upload, record)
            given = request.headers.get(_LENGTH)
            length = None if given is None else parse_integer(given, _LENGTH)
            checks = self._checks(request)
            transfer = self._transfer(request, asked, record, upload, offset, length=length, checks=checks, status=204)
            try:
                result = await self._transfers.take(transfer, under_way)
            except Gone:  # it has ended while we waited for the request that delivered it
                return repeated(await self._find(identity, asked.who), record)
        return await self._appended(result)

    async def _tell(self, request: web.Request) -> web.Response:
        found = await self._resources.named(request)
        await self._uploads.interrupt(found.id, found.owner)
        upload = await self._find(found.id, found.owner)
        representation = Representation.from_json(upload.request)
        headers = {hdrs.CACHE_CONTROL: "no-store", **expires(upload)}
        if upload.length is None or (representation.deferred and upload.complete and upload.ended is None):
            # A length that came after the last byte is told only once the upload API has the file: that byte was
            # acknowledged before, and an offset must not decrease.
            headers.update({OFFSET: str(upload.size), _DEFERRED: "1"})
        else:
            headers.update({OFFSET: str(upload.offset), _LENGTH: str(upload.length)})
        sent = {_METADATA: representation.metadata, _CONCAT: representation.concat}
        headers.update({name: value for name, value in sent.items() if value is not None})
        return web.Response(status=200, headers=headers)

    async def _find(self, identity: str, who: str | None) -> Upload:
        """An upload that has not been refused. Raises ``NotFound`` or ``Gone``."""
        upload = await self._uploads.find(identity, who, "tus")
        raise_if_refused(upload)
        return upload

    def _transfer(
        self,
        request: web.Request,
        asked: UploadRequest,
        record: UploadRecord,
        upload: Upload,
        offset: int,
        *,
        length: int | None = None,
        **more: Any,
    ) -> Transfer:
        if upload.length is not None and length not in {None, upload.length}:
            raise InconsistentLength(f"The length of the upload is {upload.length} bytes.")
        length = upload.length if length is None else length
        content_length = body_length(request)
        end = None if content_length is None else offset + content_length
        if length is not None and max(offset, end or 0) > length:
            if offset not in {upload.offset, upload.size}:
                detail = f"The upload goes on at offset {upload.offset}."
                raise OffsetMismatch(detail, offset=upload.offset, provided=offset)
            raise TooLarge(f"The content goes beyond the length of the upload, which is {length} bytes.")
        return Transfer(
            request=request,
            id=upload.id,
            offset=append_offset(upload, offset, content_length),
            asked=asked,
            record=record,
            length=length,
            last=length is not None and end == length and not upload.partial,
            **more,
        )

    def _checks(self, request: web.Request) -> list[Check]:
        given = request.headers.get(_CHECKSUM)
        if given is None:
            return []
        algorithm, digest = parse_checksum(given)
        return [ThreadedCheck(_Checksum(algorithm, digest), self._pool, name=_CHECKSUM)]

    async def _created(self, upload: Upload, asked: UploadRequest) -> web.Response:
        upload = await self._uploads.find(upload.id, upload.owner)
        location = absolute_url(asked, f"{_BASE}{upload.id}")
        headers = {hdrs.LOCATION: location, OFFSET: str(upload.offset), **expires(upload)}
        return web.Response(status=201, headers=headers)

    async def _created_with_content(
        self, result: Upload | Outcome | Job, upload: Upload, asked: UploadRequest
    ) -> web.StreamResponse:
        """The answer to a creation that brought content, perhaps all of it."""
        if not isinstance(result, Outcome):
            return await self._created(upload, asked)
        if result.stored:
            return stored(result, {hdrs.LOCATION: absolute_url(asked, f"{_BASE}{upload.id}")}, status=201)
        if not result.final and upload.length:
            return await self._created(upload, asked)
        if not result.final:  # an empty upload has no byte that could be sent again
            await self._transfers.discard(upload)
        return refused(result)

    async def _appended(self, result: Upload | Outcome | Job) -> web.StreamResponse:
        if isinstance(result, Job):
            return started_job_response(result, {OFFSET: str(result.total)})
        if isinstance(result, Upload):
            upload = await self._uploads.find(result.id, result.owner)
            return web.Response(status=204, headers={OFFSET: str(upload.offset), **expires(upload)})
        return stored(result) if result.stored else refused(result)


class _Checksum:
    """A validator that expects the content of one request to have a digest."""

    def __init__(self, algorithm: str, expected: bytes) -> None:
        self._expected = expected
        self._running = hashlib.new(algorithm, usedforsecurity=False)

    def feed(self, chunk: bytes) -> None:
        self._running.update(chunk)

    def finish(self) -> None:
        if not compare_digest(self._running.digest(), self._expected):
            raise ChecksumMismatch("The content does not have the digest in Upload-Checksum. Send it again.")


def _representation(request: web.Request, asked: UploadRequest) -> Representation:
    given = request.headers.get(_METADATA)
    pairs = parse_metadata(given) if given is not None else []
    metadata = dict(pairs)
    fields = tuple((name, value) for name, value in pairs if name not in {"filename", "filetype"})
    if any("\\" in name for name, _ in fields):
        raise MalformedField("A key in Upload-Metadata with a backslash cannot be the name of a form field.")
    return Representation.of(
        asked,
        kind="raw",
        filename=metadata.get("filename", ""),
        content_type=media_type_of_one_file(metadata.get("filetype")),
        form_fields=fields,
        digests={},
        deferred=_DEFERRED in request.headers,
        metadata=given,
        concat=request.headers.get(_CONCAT),
    )
