"""Signature Version 4, against the examples of the Amazon S3 API Reference."""

import datetime as dt

import pytest

from aiorelay.object_storage.requests import Request
from aiorelay.object_storage.signing import Credentials, signed

KEYS = Credentials("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
AT = dt.datetime(2013, 5, 24, tzinfo=dt.UTC)


def sign(request: Request, credentials: Credentials = KEYS) -> dict[str, str]:
    host = "examplebucket.s3.amazonaws.com"
    return signed(request, host=host, path=request.path, credentials=credentials, region="us-east-1", at=AT)


@pytest.mark.parametrize(
    ("request_", "names", "signature"),
    [
        (
            Request("GET", "test.txt", headers={"Range": "bytes=0-9"}),
            "host;range;x-amz-content-sha256;x-amz-date",
            "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41",
        ),
        (
            Request(
                "PUT",
                "test$file.text",
                headers={"Date": "Fri, 24 May 2013 00:00:00 GMT", "x-amz-storage-class": "REDUCED_REDUNDANCY"},
                body=b"Welcome to Amazon S3.",
            ),
            "date;host;x-amz-content-sha256;x-amz-date;x-amz-storage-class",
            "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd",
        ),
        (
            Request("GET", query={"lifecycle": ""}),
            "host;x-amz-content-sha256;x-amz-date",
            "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543",
        ),
        (
            Request("GET", query={"prefix": "J", "max-keys": "2"}),
            "host;x-amz-content-sha256;x-amz-date",
            "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7",
        ),
    ],
    ids=["range", "body", "empty parameter", "parameters"],
)
def test_the_examples_of_the_reference(request_, names, signature):
    scope = "AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request"
    expected = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={names}, Signature={signature}"
    assert sign(request_)["Authorization"] == expected


def test_a_session_token_is_sent_and_signed():
    headers = sign(Request("GET", "a"), KEYS._replace(token="token"))
    assert headers["x-amz-security-token"] == "token"
    assert "x-amz-security-token" in headers["Authorization"]


def test_credentials_do_not_show_their_secrets():
    assert repr(KEYS) == "Credentials(***)"
