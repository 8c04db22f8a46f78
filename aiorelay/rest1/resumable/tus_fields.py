"""Parse the header fields of tus 1.0.0. Pure.

Upload-Length: 100                                     the length of an upload, or
Upload-Defer-Length: 1                                 a promise of one
Upload-Offset: 70                                      where a PATCH begins
Upload-Metadata: filename cmVwb3J0LnBkZg==,draft       keys, each with a value in base64 or none
Upload-Checksum: sha1 Kq5sNclPz7QV2+lfQIuc6R7oRu0=     the digest of one request's content
Upload-Concat: final;/files/a https://host/files/b     the parts of an upload, or ``partial`` for a part

https://tus.io/protocols/resumable-upload
"""

import base64
import hashlib
import re
from urllib.parse import urljoin, urlsplit

from aiorelay.errors import BadDigest, MalformedField

__all__ = [
    "CHECKSUM_ALGORITHMS",
    "parse_checksum",
    "parse_concat",
    "parse_creation_length",
    "parse_integer",
    "parse_metadata",
]

CHECKSUM_ALGORITHMS = ("sha1", "sha256", "md5")
"""What Upload-Checksum may name: names of tus and of hashlib alike."""

_INTEGER = re.compile(r"[0-9]{1,18}")  # less than 2**63
_KEY = re.compile(r"[!-+\--~]+")  # visible ASCII, without the comma


def parse_integer(value: str, field: str) -> int:
    """Read Upload-Length or Upload-Offset: bytes, at most 18 digits. Raises ``MalformedField``."""
    if not _INTEGER.fullmatch(value):
        raise MalformedField(f"{field} is not a number of bytes. Send digits only, at most 18.")
    return int(value)


def parse_creation_length(length: str | None, deferred: str | None) -> int | None:
    """The length of a new upload in bytes, from Upload-Length and Upload-Defer-Length; None if it is told later.

    Raises ``MalformedField`` unless there is exactly one of the two, or if either is malformed.
    """
    if deferred is not None and deferred != "1":
        raise MalformedField("Upload-Defer-Length can only be 1.")
    if (length is None) == (deferred is None):
        raise MalformedField("Send either Upload-Length or Upload-Defer-Length, and not both.")
    return None if length is None else parse_integer(length, "Upload-Length")


def parse_metadata(value: str) -> list[tuple[str, str]]:
    """Read Upload-Metadata: keys and decoded values in their order.

    A key without a value has the empty one. Raises ``MalformedField`` for a key that is empty, repeated or not of
    visible ASCII characters, and for a value that is not base64 of UTF-8.
    """
    if not value.strip(" \t"):
        return []
    pairs: dict[str, str] = {}
    for each in value.split(","):
        key, _, encoded = each.strip(" \t").partition(" ")
        if not _KEY.fullmatch(key):
            raise MalformedField("A key in Upload-Metadata is empty, or holds more than visible ASCII characters.")
        if key in pairs:
            raise MalformedField(f"Upload-Metadata has the key {key} twice.")
        pairs[key] = _decode(key, encoded)
    return list(pairs.items())


def _decode(key: str, encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode()
    except ValueError:
        raise MalformedField(f"The value of {key} in Upload-Metadata is not base64 of UTF-8.") from None


def parse_checksum(value: str) -> tuple[str, bytes]:
    """Read Upload-Checksum: one of ``CHECKSUM_ALGORITHMS``, and the digest. Raises ``BadDigest``."""
    algorithm, _, encoded = value.partition(" ")
    if algorithm not in CHECKSUM_ALGORITHMS:
        raise BadDigest(f"Upload-Checksum can begin with {', '.join(CHECKSUM_ALGORITHMS)} only.")
    try:
        digest = base64.b64decode(encoded, validate=True)
    except ValueError:
        raise BadDigest(f"Upload-Checksum is not written as tus has it: {algorithm} BASE64.") from None
    if len(digest) != hashlib.new(algorithm, usedforsecurity=False).digest_size:
        raise BadDigest(f"The {algorithm} in Upload-Checksum has the wrong length.")
    return algorithm, digest


def parse_concat(value: str, base: str) -> tuple[str, ...]:
    """Read Upload-Concat: the paths of the uploads to concatenate, in order; none if the upload is a part itself.

    Their URLs may be absolute, of whatever host, or relative to the path ``base``. Raises ``MalformedField``.
    """
    if value == "partial":
        return ()
    kind, _, urls = value.partition(";")
    paths = tuple(_path(url, base) for url in urls.split(" ") if url)
    if kind != "final" or not paths:
        raise MalformedField("Upload-Concat is neither partial nor final;URL URL.")
    return paths


def _path(url: str, base: str) -> str:
    try:
        parts = urlsplit(urljoin(base, url))
    except ValueError:
        parts = None
    if parts is None or parts.scheme not in {"", "http", "https"}:
        raise MalformedField("Upload-Concat holds something that is no URL of an upload.")
    return parts.path
