"""Every problem with which a request can be answered: its code, status and title.

Problem
├── MalformedForm, MalformedJson, MalformedField, MissingFile            400
├── BadSource, BadDigest, PartialUpload, Truncated                       400
├── CompletedUpload, InconsistentLength                                  400
├── Unauthenticated                                                      401
├── PathRefused, AddressRefused, HostRefused, OriginRefused              403
├── TokenRefused, NotAppendable, ScopeMissing                            403
├── SourceMissing, NotFound                                              404
├── MethodNotAllowed                                                     405
├── TooSlow                                                              408
├── OffsetMismatch, Superseded                                           409
├── Gone                                                                 410
├── ProtocolVersion                                                      412
├── TooLarge, TooManyParts                                               413
├── WrongContentType, TypeRefused                                        415
├── UnknownHost                                                          421
├── Refused, ArchiveRefused, Infected, DigestMismatch, Unscannable       422
├── UploadLocked                                                         423
├── RateLimited, QuotaExceeded, TooManyJobs                              429
├── ChecksumMismatch                                                     460
├── Internal                                                             500
├── SourceFailed, StorageFailed, UpstreamProblem ── UpstreamFailed       502
├── Busy, ScannerUnavailable, ShuttingDown                               503
├── StateUnavailable, StorageUnavailable                                 503
├── SourceTimeout, UpstreamProblem ── UpstreamTimeout                    504
└── StorageFull                                                          507

ClientGone      the client disconnected; no answer can be sent
StartupError    the process cannot start; the text is the line that the user reads
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

__all__ = ["ClientGone", "Problem", "Refused", "StartupError", "UpstreamProblem"]

# The registry of RFC 9457, section 4.2, with the types of draft-ietf-httpbis-resumable-upload.
_HTTP_PROBLEM_TYPES = "https://iana.org/assignments/http-problem-types#"


class Problem(Exception):
    """A failure that is answered with a problem document (RFC 9457).

    ``detail`` tells the client what is wrong and what to do. It must not contain secrets, resolved internal addresses
    or contents of files. ``headers`` are added to the answer. ``type_uri`` replaces the default problem type with a
    registered one, and ``members`` are extension members of the document.
    """

    code: ClassVar[str]
    status: ClassVar[int]
    title: ClassVar[str]
    type_uri: ClassVar[str | None] = None
    members: Mapping[str, int] = MappingProxyType({})

    def __init__(self, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers: dict[str, str] = dict(headers or {})


class MalformedForm(Problem):
    code, status, title = "malformed-form", 400, "The form is malformed or ambiguous"


class MalformedJson(Problem):
    code, status, title = "malformed-json", 400, "The JSON body is malformed"


class MissingFile(Problem):
    code, status, title = "missing-file", 400, "The upload carries no file"


class BadSource(Problem):
    code, status, title = "bad-source", 400, "The source cannot be understood"


class BadDigest(Problem):
    code, status, title = "bad-digest", 400, "The digest field is malformed"


class PartialUpload(Problem):
    code, status, title = "partial-upload", 400, "The upload is only a piece of a file"


class Truncated(Problem):
    code, status, title = "truncated", 400, "The body ends too early"


class MalformedField(Problem):
    code, status, title = "malformed-field", 400, "A header field is malformed"


class CompletedUpload(Problem):
    code, status, title = "completed-upload", 400, "The upload is already complete"
    type_uri = f"{_HTTP_PROBLEM_TYPES}completed-upload"


class InconsistentLength(Problem):
    code, status, title = "inconsistent-upload-length", 400, "The lengths given for the upload differ"
    type_uri = f"{_HTTP_PROBLEM_TYPES}inconsistent-upload-length"


class Unauthenticated(Problem):
    code, status, title = "unauthenticated", 401, "A valid token is needed"


class PathRefused(Problem):
    code, status, title = "path-refused", 403, "The local path may not be read"


class AddressRefused(Problem):
    code, status, title = "address-refused", 403, "The address may not be dialled"


class HostRefused(Problem):
    code, status, title = "host-refused", 403, "The host is not on the list of allowed sources"


class OriginRefused(Problem):
    code, status, title = "origin-refused", 403, "Pages of other sites may not use the relay"


class NotAppendable(Problem):
    code, status, title = "not-appendable", 403, "The upload was concatenated from others"


class TokenRefused(Problem):
    code, status, title = "token-refused", 403, "The token may not be used here"


class ScopeMissing(Problem):
    code, status, title = "scope-missing", 403, "The token lacks a scope"


class SourceMissing(Problem):
    code, status, title = "source-missing", 404, "The source does not exist"


class NotFound(Problem):
    code, status, title = "not-found", 404, "There is nothing at this path"


class MethodNotAllowed(Problem):
    code, status, title = "method-not-allowed", 405, "The method is not allowed here"


class TooSlow(Problem):
    code, status, title = "too-slow", 408, "The upload is too slow"


class OffsetMismatch(Problem):
    """An append at the offset ``provided`` instead of ``offset``, the end of the upload. Both are in bytes."""

    code, status, title = "mismatching-upload-offset", 409, "The upload goes on at another offset"
    type_uri = f"{_HTTP_PROBLEM_TYPES}mismatching-upload-offset"

    def __init__(self, detail: str, *, offset: int, provided: int) -> None:
        super().__init__(detail, headers={"Upload-Offset": str(offset)})
        self.offset = offset
        self.members = {"expected-offset": offset, "provided-offset": provided}


class Superseded(Problem):
    code, status, title = "superseded", 409, "A newer request has taken over the upload"


class Gone(Problem):
    code, status, title = "gone", 410, "The upload is over"


class ProtocolVersion(Problem):
    code, status, title = "protocol-version", 412, "The version of the upload protocol is not supported"


class TooLarge(Problem):
    code, status, title = "too-large", 413, "The upload is too large"


class TooManyParts(Problem):
    code, status, title = "too-many-parts", 413, "The form has too many parts"


class WrongContentType(Problem):
    code, status, title = "wrong-content-type", 415, "The request's content type or coding is not supported"


class TypeRefused(Problem):
    code, status, title = "type-refused", 415, "The file's type is not accepted"


class UnknownHost(Problem):
    code, status, title = "unknown-host", 421, "The host is not a name of this server"


class Refused(Problem):
    """Raised by a validator to refuse a file."""

    code, status, title = "content-refused", 422, "The file's content is refused"


class ArchiveRefused(Problem):
    code, status, title = "archive-refused", 422, "The archive is refused"


class Infected(Problem):
    code, status, title = "infected", 422, "The file is infected"


class DigestMismatch(Problem):
    code, status, title = "digest-mismatch", 422, "The content does not match its digest"


class ChecksumMismatch(Problem):
    code, status, title = "checksum-mismatch", 460, "The content does not match its Upload-Checksum"


class Unscannable(Problem):
    code, status, title = "unscannable", 422, "The file cannot be scanned"


class _LimitReached(Problem):
    """A limit of one client. It may try again after ``retry_after`` seconds."""

    def __init__(self, detail: str, *, retry_after: int, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after), **(headers or {})})
        self.retry_after = retry_after


class RateLimited(_LimitReached):
    code, status, title = "rate-limited", 429, "Too many uploads"


class QuotaExceeded(_LimitReached):
    code, status, title = "quota-exceeded", 429, "The quota of the day is used up"


class TooManyJobs(Problem):
    code, status, title = "too-many-jobs", 429, "Too many jobs are kept"


class Internal(Problem):
    code, status, title = "internal", 500, "The relay failed"


class SourceFailed(Problem):
    code, status, title = "source-failed", 502, "The source failed"


class StorageFailed(Problem):
    code, status, title = "storage-failed", 502, "The storage failed"


class SourceTimeout(Problem):
    code, status, title = "source-timeout", 504, "The source took too long"


class UpstreamProblem(Problem):
    """A failure of the upstream. ``error`` is the error type for Proxy-Status (RFC 9209, section 2.3).

    ``reached`` is false if the upstream cannot have received a byte of the request, ``incomplete`` is true if it cannot
    have received all of them.
    """

    def __init__(self, detail: str, *, error: str, reached: bool = True, incomplete: bool = False) -> None:
        super().__init__(detail, headers={"Proxy-Status": f"aiorelay; error={error}"})
        self.error = error
        self.reached = reached
        self.incomplete = incomplete


class UpstreamFailed(UpstreamProblem):
    code, status, title = "upstream-failed", 502, "The upload API failed"


class UpstreamTimeout(UpstreamProblem):
    code, status, title = "upstream-timeout", 504, "The upload API took too long"


class _TryLater(Problem):
    """A temporary problem. The answer has Retry-After, in seconds."""

    retry_after: ClassVar[int] = 5

    def __init__(self, detail: str) -> None:
        super().__init__(detail, headers={"Retry-After": str(self.retry_after)})


class Busy(_TryLater):
    code, status, title = "busy", 503, "Too many uploads are under way"


class UploadLocked(_TryLater):
    code, status, title = "upload-locked", 423, "Another request has the upload"


class ScannerUnavailable(_TryLater):
    code, status, title = "scanner-unavailable", 503, "The virus scanner is not available"


class StateUnavailable(_TryLater):
    code, status, title = "state-unavailable", 503, "The relay lacks what it needs for this request"


class StorageUnavailable(_TryLater):
    code, status, title = "storage-unavailable", 503, "The storage is not available"


class ShuttingDown(_TryLater):
    code, status, title = "shutting-down", 503, "The relay is shutting down"


class StorageFull(Problem):
    code, status, title = "storage-full", 507, "The storage is full"


class ClientGone(Exception):
    """The client disconnected before its request was complete. No answer can be sent."""


class StartupError(Exception):
    """The process cannot start. The text says what is wrong and what to do."""
