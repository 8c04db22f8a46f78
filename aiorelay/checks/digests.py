"""Verify checksums: ``sha256`` of a JSON source, Content-Digest and Repr-Digest (RFC 9530).

``Digests`` is a ``Validator``: the bytes it is fed are a file's, or a whole request body's; ``ThreadedCheck`` takes the
arithmetic off the loop.
"""

import base64
import hashlib
import re
from collections.abc import Mapping
from concurrent.futures import Executor
from hmac import compare_digest

from aiorelay.checks.pipeline import ThreadedCheck
from aiorelay.errors import BadDigest, DigestMismatch

__all__ = ["Digests", "expect_digests", "expect_sha256", "parse_digest_field"]

_INLINE = 64 * 1024
_ALGORITHMS = {"sha-256": "sha256", "sha-512": "sha512"}

# A dictionary (RFC 8941, section 3.2) whose members are byte sequences (RFC 9530, section 2). Parameters mean nothing.
_KEY = r"[a-z*][a-z0-9_.*-]*"
_BARE_ITEM = (
    r"(?:\?[01]|-?\d{1,15}(?:\.\d{1,3})?|:[A-Za-z0-9+/=]*:|[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*"
    r'|"(?:[ !#-\[\]-~]|\\["\\])*")'
)
_MEMBER = re.compile(rf"({_KEY})=:([A-Za-z0-9+/=]*):(?:; *{_KEY}(?:={_BARE_ITEM})?)*")
_COMMA = re.compile(r"[ \t]*,[ \t]*")


def parse_digest_field(value: str, field: str = "Content-Digest") -> dict[str, bytes]:
    """Read the combined ``value`` of a digest ``field``: what each algorithm that we know must come to.

    Other algorithms are left out; of a repeated one the last counts (RFC 8941, section 3.2). Raises ``BadDigest``
    for what is no such dictionary: a client that sends a checksum means it to be checked, so it is not passed over,
    as RFC 8941 would have a malformed field be.
    """
    value = value.strip(" ")
    wanted: dict[str, bytes] = {}
    position = 0
    while member := _MEMBER.match(value, position):
        _take(wanted, member[1], member[2], field)
        position = member.end()
        if position == len(value):
            return wanted
        comma = _COMMA.match(value, position)
        if comma is None:
            break
        position = comma.end()
    raise _unreadable(field)


def _take(wanted: dict[str, bytes], algorithm: str, encoded: str, field: str) -> None:
    try:
        digest = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except ValueError:
        raise _unreadable(field) from None
    if algorithm in _ALGORITHMS:
        if len(digest) != hashlib.new(_ALGORITHMS[algorithm]).digest_size:
            raise BadDigest(f"The {algorithm} in {field} has the wrong length.")
        wanted[algorithm] = digest


def _unreadable(field: str) -> BadDigest:
    return BadDigest(f"{field} is not written as RFC 9530 has it: sha-256=:BASE64:.")


class Digests:
    """A validator that expects the bytes to have the given digests, by algorithm (``sha-256``, ``sha-512``).

    ``field`` is how the client gave them, for the ``DigestMismatch``.
    """

    def __init__(self, expected: Mapping[str, bytes], field: str) -> None:
        self._expected = [(name, digest, hashlib.new(_ALGORITHMS[name])) for name, digest in expected.items()]
        self._field = field

    def feed(self, chunk: bytes) -> None:
        for _, _, running in self._expected:
            running.update(chunk)

    def finish(self) -> None:
        for name, digest, running in self._expected:
            if not compare_digest(running.digest(), digest):
                raise DigestMismatch(f"The bytes received do not have the {name} digest that {self._field} gives.")


def expect_digests(expected: Mapping[str, bytes], pool: Executor, *, field: str) -> ThreadedCheck:
    """Make the check that bytes have the ``expected`` digests; see ``Digests``."""
    return ThreadedCheck(Digests(expected, field), pool, name=field, inline=_INLINE)


def expect_sha256(sha256: str, pool: Executor) -> ThreadedCheck:
    """Make the check that a file has the ``sha256`` that its JSON source gives.

    Raises ``ValueError``, in one sentence, if that is not 64 hexadecimal digits.
    """
    if not re.fullmatch(r"[0-9A-Fa-f]{64}", sha256):
        raise ValueError("sha256 is not 64 hexadecimal digits")
    return expect_digests({"sha-256": bytes.fromhex(sha256)}, pool, field="sha256")
