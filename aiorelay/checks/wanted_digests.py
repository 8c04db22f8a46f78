"""Answer Want-Repr-Digest (RFC 9530, section 4) with the digest of each file as the relay received it.

The check never fails. It runs only on request: SHA-256 takes about 0.7 s of processor time for each GiB.
"""

import base64
import hashlib
from collections.abc import Iterable
from concurrent.futures import Executor
from urllib.parse import quote

from aiorelay.checks.digests import ALGORITHMS, INLINE
from aiorelay.checks.pipeline import Check, ThreadedCheck
from aiorelay.http.grammar import TOKEN_SYMBOLS
from aiorelay.http.structured_fields import parse_dictionary
from aiorelay.multipart.form import Part

__all__ = ["RunningDigest", "WantedDigests", "preferred_algorithm"]

# All of a token but the percent sign, which escapes the rest.
_UNESCAPED = TOKEN_SYMBOLS.replace("%", "")


def preferred_algorithm(values: Iterable[str]) -> str | None:
    """The supported algorithm that the lines of a Want-Repr-Digest field prefer; sha-256 if two are equal.

    None if there is none, or if the field is malformed: it is a preference, and such a field is ignored (RFC 9651).
    """
    line = ", ".join(values)
    try:
        members = parse_dictionary(line) if line else {}
    except ValueError:
        return None
    weights = {name: weight for name, weight in members.items() if type(weight) is int and 0 <= weight <= 10}
    if len(weights) < len(members):
        return None
    best = max(ALGORITHMS, key=lambda name: weights.get(name, 0))
    return best if weights.get(best) else None


class WantedDigests:
    """A ``CheckFactory`` whose checks compute the digest of each file by ``algorithm``; by None it makes no checks."""

    def __init__(self, algorithm: str | None, pool: Executor) -> None:
        self._algorithm = algorithm
        self._pool = pool
        self._files: list[RunningDigest] = []

    def __call__(self, part: Part) -> Check | None:
        if self._algorithm is None or not part.is_file:
            return None
        prefix = f"{quote(part.name, safe=_UNESCAPED, errors='replace')}="
        file = RunningDigest(self._algorithm, prefix)
        self._files.append(file)
        return file.check(self._pool)

    def told(self) -> list[tuple[str, str]]:
        """One response header field for each file read to its end, in order: ``FIELD=ALGORITHM=:BASE64:``."""
        return [("Aiorelay-Digest", file.told) for file in self._files if file.told]


class RunningDigest:
    """The digest of bytes by ``algorithm``.

    ``told`` is ``prefix`` and the digest as a member of a digest field (RFC 9530); it is empty until the bytes end.
    """

    def __init__(self, algorithm: str, prefix: str = "") -> None:
        self.told = ""
        self._prefix = f"{prefix}{algorithm}"
        self._running = hashlib.new(ALGORITHMS[algorithm])

    def check(self, pool: Executor) -> Check:
        """A check that computes it in threads of ``pool``, and never fails."""
        return ThreadedCheck(self, pool, name="Want-Repr-Digest", inline=INLINE)

    def feed(self, chunk: bytes) -> None:
        self._running.update(chunk)

    def finish(self) -> None:
        self.told = f"{self._prefix}=:{base64.b64encode(self._running.digest()).decode()}:"
