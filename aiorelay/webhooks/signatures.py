"""Sign deliveries as Standard Webhooks 1.0 describes it: version ``v1``, HMAC-SHA256 over ``id.timestamp.body``."""

import base64
import binascii
import hashlib
import hmac
from pathlib import Path
from typing import Final

from aiorelay.errors import StartupError
from aiorelay.observability.logs import log

__all__ = ["Secrets", "sign"]

_PREFIX: Final = "whsec_"
_LEAST, _MOST = 24, 64  # bytes of a secret
_ADVICE: Final = "make one with: echo whsec_$(openssl rand -base64 32)"


def sign(secret: bytes, identity: str, timestamp: int, body: bytes) -> str:
    """Return one signature of a delivery. ``timestamp`` is that of the delivery, in seconds since the epoch."""
    signed = b"%b.%d.%b" % (identity.encode(), timestamp, body)
    return f"v1,{base64.b64encode(hmac.digest(secret, signed, hashlib.sha256)).decode()}"


class Secrets:
    """The secrets in the file at ``path``: one, or two while they are exchanged. It is read again when it changes.

    The constructor raises ``StartupError`` if the file cannot be read or is malformed. If that happens later, the
    secrets stay as they were, and the log says so.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _version(path)
        self._secrets = _read(path)

    def signature(self, identity: str, timestamp: int, body: bytes) -> str:
        """Return the value of ``webhook-signature``: a signature with each secret, separated by spaces."""
        self._refresh()
        return " ".join(sign(secret, identity, timestamp, body) for secret in self._secrets)

    def _refresh(self) -> None:
        version = _version(self._path)
        if version == self._seen:
            return
        self._seen = version
        try:
            self._secrets = _read(self._path)
            log.info("The webhook secrets were read again.")
        except StartupError as problem:
            log.error("The webhook secrets stay as they were: %s", problem)


def _version(path: Path) -> tuple[int, int, int] | None:
    """Return what changes with the file at ``path``; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _read(path: Path) -> list[bytes]:
    """Return the secrets of a file, one a line. Empty lines and those that begin with # are skipped."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise StartupError(f"webhook-secret-file: {path} cannot be read: {why}.") from error
    found = [
        _secret(line.strip(), f"webhook-secret-file: line {number} of {path}")
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.startswith("#")
    ]
    if not 1 <= len(found) <= 2:
        raise StartupError(f"webhook-secret-file: {path} holds {len(found)} secrets, not one or two; {_ADVICE}")
    return found


def _secret(text: str, where: str) -> bytes:
    encoded = text.removeprefix(_PREFIX)
    try:
        secret = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except (binascii.Error, ValueError):
        secret = b""
    if not text.startswith(_PREFIX) or not _LEAST <= len(secret) <= _MOST:
        raise StartupError(f"{where} is not whsec_ and {_LEAST} to {_MOST} bytes in base64; {_ADVICE}")
    return secret
