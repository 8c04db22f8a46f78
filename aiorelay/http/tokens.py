"""The tokens of a file, read again when it changes; and how to make one.

name:token                one a line; names are logged, tokens never
name:sha256:HEX           the same, with the SHA-256 of the token in place of the token
"""

import hashlib
import hmac
import re
import secrets
from pathlib import Path
from typing import Final

from aiorelay.errors import StartupError
from aiorelay.http.grammar import TOKEN68
from aiorelay.observability.logs import log

__all__ = ["Tokens", "is_token_name", "make_token"]

_LINE: Final = re.compile(rf"([^:\s#][^:]*):(?:sha256:([0-9A-Fa-f]{{64}})|({TOKEN68}))", re.ASCII)


class Tokens:
    """The tokens in the file at ``path``.

    The constructor raises ``StartupError`` if the file cannot be read or is malformed. If that happens later, the
    tokens stay as they were, and the log says so, once for each change of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _version(path)
        self._names = _read(path)

    def who(self, token: str) -> str | None:
        """Return the name of ``token``, or None if it is not in the file."""
        self.refresh()
        digest = _digest(token)
        name = None
        for known, name_of_known in self._names.items():  # all of them, so that the time tells nothing
            if hmac.compare_digest(known, digest):
                name = name_of_known
        return name

    async def prepare(self, token: str) -> None:
        """Do nothing: the file is read again as soon as it changes."""

    def refresh(self) -> None:
        """Read the file again if it has changed."""
        version = _version(self._path)
        if version == self._seen:
            return
        self._seen = version
        try:
            self._names = _read(self._path)
            log.info("read %d tokens again", len(self._names))
        except StartupError as problem:
            log.error("the tokens stay as they were: %s", problem)


def is_token_name(name: str) -> bool:
    """Return whether a line of the file can have this ``name``."""
    return name.isprintable() and _LINE.fullmatch(f"{name}:x") is not None and name == name.strip()


def make_token(name: str) -> tuple[str, str]:
    """Return a new token of 256 bits, and its line for the file, which does not contain it."""
    token = secrets.token_hex(32)
    return token, f"{name}:sha256:{_digest(token).hex()}"


def _digest(token: str) -> bytes:
    # A fast hash is right for tokens, unlike for passwords: 256 random bits cannot be guessed at any speed, and every
    # request is checked.
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def _version(path: Path) -> tuple[int, int, int] | None:
    """Return what changes with the file at ``path``; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def _read(path: Path) -> dict[bytes, str]:
    """Return the names by the digests of their tokens. Empty lines and those that begin with # are skipped."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise StartupError(f"the token file {path} cannot be read: {why}; see --token-file") from error
    names: dict[bytes, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise StartupError(f"line {number} of the token file {path} is neither name:token nor name:sha256:HEX")
        names[bytes.fromhex(match[2]) if match[2] else _digest(match[3])] = match[1]
    if not names:
        raise StartupError(f"the token file {path} holds no token; make one with: aiorelay token NAME")
    return names
