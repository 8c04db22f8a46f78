"""The limits and path rules for entries of every archive format. Pure.

Problem details identify an entry by its number: its name is content of the file, which no problem may repeat.
"""

import re
import unicodedata
from bisect import bisect_left
from dataclasses import dataclass

from aiorelay.checks.archives.formats import is_archive
from aiorelay.errors import ArchiveRefused

__all__ = ["ArchiveBudget", "UnpackLimits", "damaged", "leads_out", "link_leads_out"]

_LONGEST_PATH = 4096  # characters; PATH_MAX on Linux
_DEEPEST = 3  # levels of documents within documents


@dataclass(frozen=True, slots=True)
class UnpackLimits:
    """Limits of an archive: ratio of unpacked to packed size, unpacked bytes in total, and entries."""

    max_ratio: float
    max_size: int
    max_entries: int


def damaged(what: str) -> ArchiveRefused:
    """Return the problem of an archive that cannot be read, or that two programs could read differently."""
    return ArchiveRefused(f"The archive is damaged or ambiguous: {what}.")


@dataclass(slots=True)
class _Sums:
    """Total entries and unpacked bytes of an archive and the documents in it."""

    entries: int = 0
    inflated: int = 0


class ArchiveBudget:
    """Count the entries and bytes of an archive of ``size`` bytes. Each method raises ``ArchiveRefused``."""

    def __init__(self, limits: UnpackLimits, size: int, sums: _Sums | None = None, depth: int = 0) -> None:
        self._limits = limits
        self._size = size
        self._sums = sums or _Sums()
        self._depth = depth
        self._parents: set[str] = set()
        self._links: set[str] = set()

    def for_archive(self) -> "ArchiveBudget":
        """Return the budget of another archive in the same file, with the same limits and totals but its own paths."""
        return ArchiveBudget(self._limits, self._size, self._sums, self._depth)

    def for_document(self) -> "ArchiveBudget":
        """Return the budget of the document in the last entry. Refuse documents that are nested too deeply."""
        if self._depth >= _DEEPEST:
            raise self._refusal("is nested in too many documents")
        return ArchiveBudget(self._limits, self._size, self._sums, self._depth + 1)

    def declared(self, entries: int) -> None:
        """Check the number of entries that the archive declares."""
        if entries > self._limits.max_entries:
            raise ArchiveRefused(f"The archive has more than {self._limits.max_entries} entries.")

    def inflated(self, size: int, *, uncounted: int = 0) -> None:
        """Check the unpacked size in bytes so far. The ratio ignores ``uncounted`` of these bytes."""
        if size > self._limits.max_size:
            raise ArchiveRefused(f"The archive unpacks to more than {self._limits.max_size} bytes.")
        if size - uncounted > self._limits.max_ratio * self._size:
            raise ArchiveRefused(f"The archive unpacks to more than {self._limits.max_ratio:g} times its size.")

    def entry(self, size: int) -> None:
        """Count an entry that unpacks to ``size`` bytes."""
        self._sums.entries += 1
        self.declared(self._sums.entries)
        self.inflated_more(size)

    def inflated_more(self, size: int) -> None:
        """Count ``size`` more unpacked bytes."""
        self._sums.inflated += size
        self.inflated(self._sums.inflated)

    def path(self, name: str) -> None:
        """Check a name of the last entry. An entry may have several, used by different programs."""
        if "\0" in name or len(name) > _LONGEST_PATH:
            raise damaged(f"entry {self._sums.entries} has an invalid name")
        if leads_out(name):
            raise self._refusal("has a path that leads out of the archive")
        self._parents.add(_key(name).rpartition("/")[0])

    def special(self) -> None:
        """Refuse the last entry as a device, a pipe or a socket."""
        raise self._refusal("is not a file, a directory or a link")

    def encrypted(self) -> None:
        """Refuse the last entry as encrypted."""
        raise self._refusal("is encrypted and cannot be inspected")

    def symlink(self, name: str, target: str) -> None:
        """Check that the last entry is a symbolic link within the archive."""
        if len(target) > _LONGEST_PATH or link_leads_out(name, target):
            raise self._refusal("is a link that leads out of the archive")
        self._links.add(_key(name))

    def hardlink(self, target: str) -> None:
        """Check that the last entry is a hard link within the archive."""
        if not target or len(target) > _LONGEST_PATH or leads_out(target):
            raise self._refusal("is a link that leads out of the archive")

    def content(self, name: str, head: bytes) -> None:
        """Refuse the last entry if its name or ``head``, its first ``HEAD`` bytes, is that of an archive."""
        if is_archive(name, head):
            self.nested()

    def nested(self) -> None:
        """Refuse the last entry as an archive, or as data that contain one."""
        raise self._refusal("is itself an archive")

    def finish(self) -> None:
        """Refuse entries below a link in the archive: their names do not show where they would be unpacked."""
        parents = sorted(self._parents)
        for link in self._links:
            for behind in (link, link + "/"):
                at = bisect_left(parents, behind)
                if at < len(parents) and (parents[at] == link or parents[at].startswith(link + "/")):
                    raise ArchiveRefused("The archive unpacks files through one of its links.")

    def _refusal(self, what: str) -> ArchiveRefused:
        return ArchiveRefused(f"Entry {self._sums.entries} of the archive {what}.")


def leads_out(path: str) -> bool:
    r"""Whether a program may read ``path`` as absolute or with ``..``. ``\`` counts as ``/`` and ``C:`` as a drive."""
    return path[:1] in ("/", "\\") or _has_drive(path) or ".." in _components(path)


def link_leads_out(name: str, target: str) -> bool:
    """Whether the symbolic link ``name`` may point out of the archive.

    ``..`` is allowed only at the beginning of ``target``, at most as often as ``name`` has parent directories. A later
    ``..`` could follow another link, whose target cannot be derived from names.
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
    """Return a key that is equal for all paths which some file system treats as the same."""
    return unicodedata.normalize("NFC", "/".join(_components(path)).casefold())
