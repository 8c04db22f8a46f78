"""The requests, answers and failures of S3, and its XML documents. Pure."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, NamedTuple
from urllib.parse import quote
from xml.etree import ElementTree as ET
from xml.sax.saxutils import escape

__all__ = [
    "NO_ANSWER",
    "Answer",
    "ObjectStorageError",
    "Request",
    "Unfinished",
    "completion",
    "listed_objects",
    "newest_part",
    "text_of",
    "unfinished_uploads",
]

_EMPTY: Final = hashlib.sha256(b"").hexdigest()

NO_ANSWER: Final = "no answer in time"

# Codes of temporary failures that come with a status below 500.
_TEMPORARY: Final = frozenset(
    {
        "ConditionalRequestConflict",
        "IncompleteBody",
        "OperationAborted",
        "RequestTimeout",
        "XAmzContentSHA256Mismatch",  # the body was changed on its way
    }
)
_TEMPORARY_STATUSES: Final = frozenset({408, 429, 500, 502, 503, 504})
_ABSENT_OR_CHANGED: Final = frozenset({"NoSuchKey", "NoSuchUpload", "PreconditionFailed"})
_FULL: Final = frozenset({"QuotaExceeded", "XMinioAdminBucketQuotaExceeded", "XMinioStorageFull"})

# Names in the API of S3, by the method and by a parameter of the query.
_OPERATIONS: Final = {
    ("POST", "uploads"): "CreateMultipartUpload",
    ("PUT", "uploadId"): "UploadPart",
    ("POST", "uploadId"): "CompleteMultipartUpload",
    ("DELETE", "uploadId"): "AbortMultipartUpload",
    ("GET", "uploadId"): "ListParts",
    ("GET", "uploads"): "ListMultipartUploads",
    ("GET", "list-type"): "ListObjectsV2",
}


@dataclass(frozen=True, slots=True)
class Request:
    """A request about ``key`` of a bucket, or about the bucket if the key is empty.

    ``sha256`` is the digest of ``body`` in hexadecimal; it is computed if it is empty. The storage verifies it.
    """

    method: str
    key: str = ""
    query: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | bytearray = b""
    sha256: str = ""

    @property
    def operation(self) -> str:
        """Its name in the API of S3, such as ``PutObject``."""
        names = (_OPERATIONS.get((self.method, parameter)) for parameter in self.query)
        return next(filter(None, names), f"{self.method.title()}{'Object' if self.key else 'Bucket'}")

    @property
    def payload_sha256(self) -> str:
        return self.sha256 or (hashlib.sha256(self.body).hexdigest() if self.body else _EMPTY)

    @property
    def path(self) -> str:
        """The key in a URL, beginning with a slash."""
        return "/" + quote(self.key, safe="/~")

    @property
    def query_string(self) -> str:
        """The query in the order and encoding that signatures need."""
        pairs = sorted((quote(name, safe="~"), quote(value, safe="~")) for name, value in self.query.items())
        return "&".join(f"{name}={value}" for name, value in pairs)


class Answer(NamedTuple):
    """A successful answer. ``attempts`` counts the requests that it took."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    attempts: int


class ObjectStorageError(Exception):
    """A request failed. The text says why, without secrets.

    ``status`` is that of the answer, 0 if there was none. ``code`` is S3's own, or a word for a broken connection.
    """

    def __init__(self, code: str, status: int = 0, hint: str = "", *, temporary: bool | None = None) -> None:
        super().__init__(f"{code} ({status})" if status else code)
        self.code = code
        self.status = status
        self.hint = hint
        self.is_temporary = (status in _TEMPORARY_STATUSES or code in _TEMPORARY) if temporary is None else temporary

    def refusal(self, setting: str, bucket: str, *permissions: str) -> str:
        """Return what is wrong with a bucket, and what to do, for the user who has set ``setting``."""
        advice = self.hint or f"check {setting}, s3-endpoint, the region and the credentials"
        if self.code == "AccessDenied":
            advice = f"permit {' and '.join(permissions)}"
        elif self.code == "NoSuchBucket":
            advice = "create the bucket"
        return f"{setting}: s3://{bucket} cannot be used: {self}; {advice}"

    @property
    def is_timeout(self) -> bool:
        """Whether there was no answer in time."""
        return self.code == NO_ANSWER

    @property
    def is_absent_or_changed(self) -> bool:
        """Whether the object or upload does not exist, or a condition is not met. The storage itself works."""
        return self.code in _ABSENT_OR_CHANGED

    @property
    def is_throttling(self) -> bool:
        """Whether the storage asks for fewer requests, or is not available for now."""
        return self.status in {429, 503}

    @property
    def is_full(self) -> bool:
        """Whether the storage has no room."""
        return self.status == 507 or self.code in _FULL

    @classmethod
    def of_answer(cls, status: int, headers: Mapping[str, str], body: bytes) -> "ObjectStorageError":
        """Return the error that an answer describes (its body is empty after HEAD)."""
        code = text_of(body, "Code") or {403: "AccessDenied", 404: "NotFound", 412: "PreconditionFailed"}.get(status)
        region = headers.get("x-amz-bucket-region") or text_of(body, "Region")
        hint = f"its region is {region}" if region and status in {301, 307, 400} else ""
        return cls(code or "no S3 error", status, hint)


class Unfinished(NamedTuple):
    """A multipart upload that has been neither completed nor aborted."""

    key: str
    upload_id: str
    initiated: datetime


def text_of(document: bytes, tag: str) -> str:
    """Return the text of the first element ``tag`` of an XML document, or nothing."""
    return next((element.text or "" for element in _elements(document, tag)), "")


def unfinished_uploads(document: bytes) -> list[Unfinished]:
    """Read an answer of ListMultipartUploads."""
    return [
        Unfinished(_child(each, "Key"), _child(each, "UploadId"), datetime.fromisoformat(_child(each, "Initiated")))
        for each in _elements(document, "Upload")
    ]


def listed_objects(document: bytes) -> list[tuple[str, datetime]]:
    """Read an answer of ListObjectsV2: the keys, and when the objects were written."""
    return [
        (_child(each, "Key"), datetime.fromisoformat(_child(each, "LastModified")))
        for each in _elements(document, "Contents")
    ]


def newest_part(document: bytes) -> datetime | None:
    """Read an answer of ListParts: when the newest of the listed parts arrived."""
    return max(
        (datetime.fromisoformat(_child(each, "LastModified")) for each in _elements(document, "Part")), default=None
    )


def completion(etags: Sequence[str]) -> bytes:
    """Return the body of CompleteMultipartUpload, for parts numbered from 1."""
    parts = "".join(
        f"<Part><PartNumber>{number}</PartNumber><ETag>{escape(etag)}</ETag></Part>"
        for number, etag in enumerate(etags, 1)
    )
    namespace = "http://s3.amazonaws.com/doc/2006-03-01/"
    return f'<CompleteMultipartUpload xmlns="{namespace}">{parts}</CompleteMultipartUpload>'.encode()


def _elements(document: bytes, tag: str) -> Iterator[ET.Element]:
    """Yield the elements ``tag`` in any namespace. A text that is not XML has none."""
    try:
        root = ET.fromstring(document)  # noqa: S314 - from the operator's storage; expat limits the expansion of entities
    except ET.ParseError:
        return
    yield from (element for element in root.iter() if element.tag.rpartition("}")[2] == tag)


def _child(element: ET.Element, tag: str) -> str:
    return next((child.text or "" for child in element if child.tag.rpartition("}")[2] == tag), "")
