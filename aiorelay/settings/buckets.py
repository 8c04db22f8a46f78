"""Kinds of values: buckets of object storage, and places in them."""

import re
from pathlib import Path
from typing import NamedTuple

from aiorelay.settings.kinds import InvalidValueError, Kind
from aiorelay.settings.places import PATH, from_directory

__all__ = ["BUCKET", "SPOOL", "STORE", "S3Location"]

# "General purpose bucket naming rules" of the Amazon S3 User Guide.
_BUCKET = re.compile(r"(?!.*\.\.)[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", re.ASCII)
_BUCKET_RULE = "3 to 63 lower-case letters, digits, dots and hyphens"
_S3 = "s3://"


class S3Location(NamedTuple):
    """A place in object storage: a bucket, and the beginning of keys in it, without slashes at its ends."""

    bucket: str
    prefix: str

    def __str__(self) -> str:
        return f"{_S3}{self.bucket}/{self.prefix}" if self.prefix else f"{_S3}{self.bucket}"


def _bucket(value: object) -> str:
    if not isinstance(value, str) or not _BUCKET.fullmatch(value):
        raise InvalidValueError("is not a bucket", f"write its name alone, without s3://; it has {_BUCKET_RULE}")
    return value


def _location(value: object) -> S3Location:
    if isinstance(value, S3Location):
        return value
    bucket, _, prefix = value.removeprefix(_S3).partition("/") if isinstance(value, str) else ("", "", "")
    prefix = prefix.strip("/")
    segments = prefix.split("/") if prefix else []
    is_url = isinstance(value, str) and value.startswith(_S3)
    if not is_url or not _BUCKET.fullmatch(bucket) or not prefix.isprintable() or {"", ".", ".."} & {*segments}:
        advice = f"try s3://bucket/prefix, where the bucket's name has {_BUCKET_RULE}"
        raise InvalidValueError("is not a place in object storage", advice)
    return S3Location(bucket, prefix)


def _store(value: object) -> Path | S3Location:
    is_location = isinstance(value, S3Location) or (isinstance(value, str) and value.startswith(_S3))
    path: Path | S3Location = _location(value) if is_location else PATH.accept(value)
    return path


BUCKET = Kind("BUCKET", _bucket)
SPOOL = Kind("S3-URL", _location)
STORE = Kind(
    "PATH|S3-URL",
    _store,
    anchor=lambda text, directory: text if text.startswith(_S3) else from_directory(text, directory),
)
