"""The limits and path rules for entries of every archive format. Pure.

A detail names an entry by its number only: names are the file's content, which no problem repeats.
"""

import re
import unicodedata
from bisect import bisect_left
from dataclasses import dataclass

from aiorelay.checks.archives.formats import is_archive
from aiorelay.errors import ArchiveRefused

__all__ = ["ArchiveBudget", "UnpackLimits", "damaged", "leads_out", "link_leads_out"]

_LONGEST_PATH = 4096  # characters; PATH_MAX on Linux
_DEEPEST = 3  # a document, in a document, in a document, in an archive


@dataclass(frozen=True, slots=True)
class UnpackLimits:
    """What an archive may unpack to: times the file's own size, bytes in all, and entries."""

    max_ratio: float
    max_size: int
    max_entries: int


def damaged(what: str) -> ArchiveRefused:
    """Give the refusal of an archive that cannot be read, or that two programs could read differently."""
    return ArchiveRefused(f"The archive is damaged or ambiguous: {what}.")


@dataclass(slots=True)
class _Sums:
    """Entries and unpacked bytes of an archive and of the documents in it."""

    entries: int = 0
    inflated: int = 0


class ArchiveBudget:
    """What one archive of ``size`` bytes comes to so far; each method raises ``ArchiveRefused``."""

    def __init__(self, limits: UnpackLimits, size: int, sums: _Sums | None = None, depth: int = 0) -> None:
        self._limits = limits
        self._size = size
        self._sums = sums or _Sums()
        self._depth = depth
        self._parents: set[str] = set()
        self._links: set[str] = set()

    def another(self) -> "ArchiveBudget":
        """Give the tally of a second archive in the same file: paths of its own, the same limits and sums."""
        return ArchiveBudget(self._limits, self._size, self._sums, self._depth)

    def within(self) -> "ArchiveBudget":
        """Give the tally of a document that the last entry is. Refuse one that lies too deep in others."""
        if self._depth >= _DEEPEST:
            raise self._objection("is a document in too many others")
        return ArchiveBudget(self._limits, self._size, self._sums, self._depth + 1)

    def announced(self, entries: int) -> None:
        """Take the number of entries that the archive says it has."""
        if entries > self._limits.max_entries:
            raise ArchiveRefused(f"The archive has more than {self._limits.max_entries} entries.")

    def inflated(self, size: int, *, uncounted: int = 0) -> None:
        """Take what the archive inflates to as far as known, in bytes; the ratio leaves ``uncounted`` of them out."""
        if size > self._limits.max_size:
            raise ArchiveRefused(f"The archive unpacks to more than {self._limits.max_size} bytes.")
        if size - uncounted > self._limits.max_ratio * self._size:
            raise ArchiveRefused(f"The archive unpacks to more than {self._limits.max_ratio:g} times its size.")

    def entry(self, size: int) -> None:
        """Take the next entry and the bytes that it unpacks to."""
        self._sums.entries += 1
        self.announced(self._sums.entries)
        self.more(size)

    def more(self, size: int) -> None:
        """Take further bytes that something unpacks to."""
        self._sums.inflated += size
        self.inflated(self._sums.inflated)

    def path(self, name: str) -> None:
        """Take the last entry's name, or another that some program would use."""
        if "\0" in name or len(name) > _LONGEST_PATH:
            raise damaged(f"entry {self._sums.entries} has an impossible name")
        if leads_out(name):
            raise self._objection("has a path that leads out of the archive")
        self._parents.add(_key(name).rpartition("/")[0])

    def special(self) -> None:
        """The last entry is a device, a pipe or a socket."""
        raise self._objection("is neither a file, a directory nor a link")

    def encrypted(self) -> None:
        """The last entry is encrypted."""
        raise self._objection("is encrypted, so nobody can look into it")

    def symlink(self, name: str, target: str) -> None:
        """The last entry is a symbolic link, of that name to that target."""
        if len(target) > _LONGEST_PATH or link_leads_out(name, target):
            raise self._objection("is a link that leads out of the archive")
        self._links.add(_key(name))

    def hardlink(self, target: str) -> None:
        """The last entry is another name of the entry ``target``."""
        if not target or len(target) > _LONGEST_PATH or leads_out(target):
            raise self._objection("is a link that leads out of the archive")

    def content(self, name: str, head: bytes) -> None:
        """Take the first ``HEAD`` bytes of the last entry."""
        if is_archive(name, head):
            self.nested()

    def nested(self) -> None:
        """The last entry is an archive, or holds one behind other data."""
        raise self._objection("is an archive itself")

    def finish(self) -> None:
        """Refuse entries that lie behind a link of the archive's own: where they end up cannot be told by names."""
        parents = sorted(self._parents)
        for link in self._links:
            for behind in (link, link + "/"):
                at = bisect_left(parents, behind)
                if at < len(parents) and (parents[at] == link or parents[at].startswith(link + "/")):
                    raise ArchiveRefused("The archive unpacks files through a link of its own.")

    def _objection(self, what: str) -> ArchiveRefused:
        return ArchiveRefused(f"Entry {self._sums.entries} of the archive {what}.")


def leads_out(path: str) -> bool:
    r"""Whether ``path`` is absolute or climbs, to any program: ``\`` separates as ``/`` does, ``C:`` is a drive."""
    return path[:1] in ("/", "\\") or _has_drive(path) or ".." in _components(path)


def link_leads_out(name: str, target: str) -> bool:
    """Whether the symbolic link ``name`` points out of the archive, or might.

    It may climb at its beginning only, as far as its own directory is deep. A ``..`` further on could climb from
    wherever another link leads, and no comparison of names shows where that is.
    """
    if not target or "\0" in target or target[0] in "/\\" or _has_drive(target):
        return True
    steps = _components(target)
    climbs = next((i for i, step in enumerate(steps) if step != ".."), len(steps))
    return ".." in steps[climbs:] or climbs > len(_components(name)) - 1


def _components(path: str) -> list[str]:
    return [part for part in re.split(r"[/\\]", path) if part not in ("", ".")]


def _has_drive(path: str) -> bool:
    return re.match(r"[A-Za-z]:", path) is not None


def _key(path: str) -> str:
    """Give the same string for all paths that some file system takes for the same."""
    return unicodedata.normalize("NFC", "/".join(_components(path)).casefold())
