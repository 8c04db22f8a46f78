"""Verify checksums: ``sha256`` of a JSON source, Content-Digest and Repr-Digest (RFC 9530).

``Digests`` is a ``Validator`` of a file or of a whole request body; ``ThreadedCheck`` runs it off the event loop.
"""

import hashlib
from collections.abc import Mapping
from concurrent.futures import Executor
from hmac import compare_digest
from typing import Final

from aiorelay.checks.pipeline import ThreadedCheck
from aiorelay.errors import BadDigest, DigestMismatch
from aiorelay.http.structured_fields import parse_dictionary

__all__ = [
    "ALGORITHMS",
    "INLINE",
    "Digests",
    "expect_digests",
    "expect_sha256",
    "parse_digest_field",
]

INLINE: Final = 64 * 1024
"""Bytes of a file below which its digest is computed on the event loop."""

ALGORITHMS: Final = {"sha-256": "sha256", "sha-512": "sha512"}
"""The names in ``hashlib`` of the algorithms that RFC 9530 has for files."""


def parse_digest_field(value: str, field: str = "Content-Digest") -> dict[str, bytes]:
    """The expected digests, by algorithm, in the combined ``value`` of a digest ``field`` (RFC 9530, section 2).

    Unknown algorithms are left out. Raises ``BadDigest`` for a malformed field, although RFC 9651 would have it
    ignored: a client that sends a checksum wants it verified.
    """
    try:
        members = parse_dictionary(value)
    except ValueError:
        members = {}
    if not members or not all(isinstance(digest, bytes) for digest in members.values()):
        raise BadDigest(f"{field} must be written as in RFC 9530: sha-256=:BASE64:.")
    wanted = {name: digest for name, digest in members.items() if name in ALGORITHMS}
    for name, digest in wanted.items():
        if len(digest) != hashlib.new(ALGORITHMS[name]).digest_size:
            raise BadDigest(f"The {name} in {field} has the wrong length.")
    return wanted


class Digests:
    """A validator that compares the bytes with the ``expected`` digests, by algorithm (``sha-256``, ``sha-512``).

    ``finish`` raises ``DigestMismatch``, which names the ``field`` that the client gave them in.
    """

    def __init__(self, expected: Mapping[str, bytes], field: str) -> None:
        self._expected = [(name, digest, hashlib.new(ALGORITHMS[name])) for name, digest in expected.items()]
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
    return ThreadedCheck(Digests(expected, field), pool, name=field, inline=INLINE)


def expect_sha256(sha256: str, pool: Executor) -> ThreadedCheck:
    """Make the check that a file has the ``sha256``, 64 hexadecimal digits, that its JSON source gives."""
    return expect_digests({"sha-256": bytes.fromhex(sha256)}, pool, field="sha256")
