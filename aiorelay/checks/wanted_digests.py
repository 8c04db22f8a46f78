"""Answer Want-Repr-Digest (RFC 9530, section 4) with the digest of each file as the relay received it.

A check that objects to nothing. It exists on demand alone, because a digest is not free: SHA-256 takes about 0.7 s of
a processor for each GiB.
"""

import base64
import hashlib
import re
from collections.abc import Iterable
from concurrent.futures import Executor
from urllib.parse import quote

from aiorelay.checks.pipeline import Check, ThreadedCheck
from aiorelay.multipart.form import Part

__all__ = ["WantedDigests", "preferred_algorithm"]

_INLINE = 64 * 1024
_ALGORITHMS = {"sha-256": "sha256", "sha-512": "sha512"}
# One member of a dictionary (RFC 8941, section 3.2) whose values are the integers 0 to 10; its parameters mean nothing.
_MEMBER = re.compile(r"([a-z*][a-z0-9_.*-]*)=(10|[0-9])(?:; *[a-z*][a-z0-9_.*-]*(?:=[^,;]*)?)*")
# What a token (RFC 9110, section 5.6.2) may hold beside letters, digits and "_.-~", less the percent sign itself.
_TOKEN = "!#$&'*+^`|"  # noqa: S105 - the grammar's word


def preferred_algorithm(values: Iterable[str]) -> str | None:
    """The algorithm that the lines of a Want-Repr-Digest prefer, of those that we know; sha-256 where it is all one.

    None where there is none, or where the field is malformed: it is a wish, and RFC 8941 has it passed over then.
    """
    wishes: dict[str, int] = {}
    for member in ",".join(values).split(","):
        found = _MEMBER.fullmatch(member.strip(" \t"))
        if found is None:
            return None
        wishes[found[1]] = int(found[2])
    best = max(_ALGORITHMS, key=lambda name: wishes.get(name, 0))
    return best if wishes.get(best) else None


class WantedDigests:
    """A maker of checks that note the digest of each file by ``algorithm`` (None: they note nothing)."""

    def __init__(self, algorithm: str | None, pool: Executor) -> None:
        self._algorithm = algorithm
        self._pool = pool
        self._files: list[_File] = []

    def __call__(self, part: Part) -> Check | None:
        if self._algorithm is None or not part.is_file:
            return None
        file = _File(part.name, self._algorithm)
        self._files.append(file)
        return ThreadedCheck(file, self._pool, name="Want-Repr-Digest", inline=_INLINE)

    def told(self) -> list[tuple[str, str]]:
        """A header field for each file that was read to its end, in order: ``FIELD=ALGORITHM=:BASE64:``."""
        return [("Aiorelay-Digest", file.told) for file in self._files if file.told]


class _File:
    """The digest of one file of the form field ``name``; ``told`` is empty until it has ended."""

    def __init__(self, name: str, algorithm: str) -> None:
        self.told = ""
        self._prefix = f"{quote(name, safe=_TOKEN, errors='replace')}={algorithm}"
        self._running = hashlib.new(_ALGORITHMS[algorithm])

    def feed(self, chunk: bytes) -> None:
        self._running.update(chunk)

    def finish(self) -> None:
        self.told = f"{self._prefix}=:{base64.b64encode(self._running.digest()).decode()}:"
