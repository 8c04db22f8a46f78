"""The failures and documents of S3."""

import datetime as dt

import pytest

from aiorelay.object_storage.requests import (
    ObjectStorageError,
    Request,
    completion,
    newest_part,
    text_of,
    unfinished_uploads,
)

NAMESPACE = b'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'


def error(status: int, code: str = "") -> ObjectStorageError:
    body = f"<Error><Code>{code}</Code><Message>m</Message></Error>".encode() if code else b""
    return ObjectStorageError.of_answer(status, {}, body)


@pytest.mark.parametrize(
    ("status", "code", "temporary"),
    [
        (500, "InternalError", True),
        (501, "NotImplemented", False),
        (503, "SlowDown", True),
        (507, "XMinioStorageFull", False),
        (429, "", True),
        (400, "RequestTimeout", True),
        (400, "XAmzContentSHA256Mismatch", True),
        (400, "InvalidPart", False),
        (403, "AccessDenied", False),
        (404, "NoSuchUpload", False),
        (409, "ConditionalRequestConflict", True),
        (412, "PreconditionFailed", False),
    ],
)
def test_which_failures_are_temporary(status, code, temporary):
    assert error(status, code).is_temporary is temporary


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (404, "NoSuchKey", True),
        (404, "NoSuchUpload", True),
        (412, "PreconditionFailed", True),
        (404, "NoSuchBucket", False),
        (404, "", False),
        (403, "AccessDenied", False),
        (503, "SlowDown", False),
    ],
)
def test_which_failures_are_of_the_object_alone(status, code, expected):
    assert error(status, code).is_absent_or_changed is expected


@pytest.mark.parametrize(
    ("method", "key", "query", "name"),
    [
        ("PUT", "a", {}, "PutObject"),
        ("GET", "a", {}, "GetObject"),
        ("HEAD", "a", {}, "HeadObject"),
        ("DELETE", "a", {}, "DeleteObject"),
        ("POST", "a", {"uploads": ""}, "CreateMultipartUpload"),
        ("PUT", "a", {"partNumber": "1", "uploadId": "x"}, "UploadPart"),
        ("POST", "a", {"uploadId": "x"}, "CompleteMultipartUpload"),
        ("DELETE", "a", {"uploadId": "x"}, "AbortMultipartUpload"),
        ("GET", "a", {"uploadId": "x", "part-number-marker": "1"}, "ListParts"),
        ("GET", "", {"uploads": "", "prefix": "uploadId"}, "ListMultipartUploads"),
        ("GET", "", {"list-type": "2", "prefix": "a"}, "ListObjectsV2"),
        ("HEAD", "", {}, "HeadBucket"),
    ],
)
def test_a_request_is_named_as_in_the_api_of_s3(method, key, query, name):
    assert Request(method, key, query).operation == name


def test_a_failure_says_its_code_and_status():
    assert str(error(503, "SlowDown")) == "SlowDown (503)"


@pytest.mark.parametrize(
    ("status", "word"), [(403, "AccessDenied"), (404, "NotFound"), (412, "PreconditionFailed"), (400, "no S3 error")]
)
def test_a_failure_without_a_document_is_named_after_its_status(status, word):
    assert error(status).code == word


@pytest.mark.parametrize(
    "body", [b"", b"<html><body>x</p>", b"\xff\xfe", b"{}"], ids=["empty", "html", "bytes", "json"]
)
def test_an_answer_that_is_no_document_has_no_elements(body):
    assert text_of(body, "Code") == ""
    assert unfinished_uploads(body) == []


def test_a_wrong_region_is_told():
    assert (
        ObjectStorageError.of_answer(301, {"x-amz-bucket-region": "eu-west-1"}, b"").hint == "its region is eu-west-1"
    )
    body = b"<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>"
    assert ObjectStorageError.of_answer(400, {}, body).hint == "its region is eu-west-1"


def test_unfinished_uploads_are_read():
    upload = (
        b"<Upload><Key>a/&amp;b</Key><UploadId>1</UploadId><Initiated>2026-01-02T03:04:05.000Z</Initiated></Upload>"
    )
    document = b"<ListMultipartUploadsResult " + NAMESPACE + b">" + upload + b"</ListMultipartUploadsResult>"
    assert unfinished_uploads(document) == [("a/&b", "1", dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC))]


def test_the_newest_part_is_found():
    part = "<Part><LastModified>2026-01-0{}T00:00:00Z</LastModified></Part>"
    document = f"<ListPartsResult>{part.format(1)}{part.format(3)}{part.format(2)}</ListPartsResult>".encode()
    assert newest_part(document) == dt.datetime(2026, 1, 3, tzinfo=dt.UTC)
    assert newest_part(b"<ListPartsResult/>") is None


def test_a_completion_lists_the_parts_in_order():
    assert completion(['"a"', "<b>"]).endswith(
        b'<Part><PartNumber>1</PartNumber><ETag>"a"</ETag></Part>'
        b"<Part><PartNumber>2</PartNumber><ETag>&lt;b&gt;</ETag></Part></CompleteMultipartUpload>"
    )


def test_paths_and_queries_are_encoded_as_signatures_need():
    request = Request("GET", "a b/ü+~%", {"prefix": "a/b c", "Z": "", "a": "~"})
    assert request.path == "/a%20b/%C3%BC%2B~%25"
    assert request.query_string == "Z=&a=~&prefix=a%2Fb%20c"
