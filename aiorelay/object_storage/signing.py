"""Sign requests with AWS Signature Version 4. Pure.

Source: "Authenticating Requests: Using the Authorization Header" of the Amazon S3 API Reference.
"""

import hashlib
import hmac
from datetime import datetime
from typing import Final, NamedTuple

from aiorelay.object_storage.requests import Request

__all__ = ["Credentials", "signed"]

_ALGORITHM: Final = "AWS4-HMAC-SHA256"


class Credentials(NamedTuple):
    """The keys of an account. Temporary ones have a session token."""

    access_key: str
    secret_key: str
    token: str | None = None

    def __repr__(self) -> str:
        """Return the credentials without their secrets."""
        return "Credentials(***)"


def signed(
    request: Request, *, host: str, path: str, credentials: Credentials, region: str, at: datetime
) -> dict[str, str]:
    """Return the header fields of ``request``, with those that sign it.

    ``path`` is that of the URL, percent-encoded. ``at`` is the time in UTC.
    """
    stamp = at.strftime("%Y%m%dT%H%M%SZ")
    payload = request.payload_sha256
    complete = {**request.headers, "x-amz-content-sha256": payload, "x-amz-date": stamp}
    if credentials.token:
        complete["x-amz-security-token"] = credentials.token
    covered = {name.lower(): " ".join(value.split()) for name, value in complete.items()} | {"host": host}
    names = ";".join(sorted(covered))
    fields = "".join(f"{name}:{covered[name]}\n" for name in sorted(covered))
    canonical = f"{request.method}\n{path}\n{request.query_string}\n{fields}\n{names}\n{payload}"
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    to_sign = "\n".join((_ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()))
    key = f"AWS4{credentials.secret_key}".encode()
    for step in scope.split("/"):
        key = hmac.digest(key, step.encode(), hashlib.sha256)
    signature = hmac.digest(key, to_sign.encode(), hashlib.sha256).hex()
    complete["Authorization"] = (
        f"{_ALGORITHM} Credential={credentials.access_key}/{scope}, SignedHeaders={names}, Signature={signature}"
    )
    return complete
