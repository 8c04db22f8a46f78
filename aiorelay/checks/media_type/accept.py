"""``accept``: accept files by the type of their first bytes or by the extension of their names.

The media type that the client claims has no effect; a contradiction is logged. The table in ``signatures`` is used
first. libmagic, if the extra ``[magic]`` is installed, is used only for files with a generic type in that table, so a
file that is accepted without libmagic is accepted with it.
"""

import asyncio
from collections.abc import Callable, Iterable
from concurrent.futures import Executor
from dataclasses import dataclass
from importlib import import_module

from aiorelay.checks.media_type.signatures import EMPTY, GENERIC, HEAD, NAMES, UNKNOWN, detect_media_type
from aiorelay.checks.pipeline import Check, CheckFactory, FirstBytesCheck
from aiorelay.errors import TypeRefused
from aiorelay.http.grammar import essence
from aiorelay.multipart.form import Part
from aiorelay.observability.logs import log

__all__ = ["Accept", "accept", "canonical", "libmagic"]

# Synonyms, after "x-" is removed from the subtype.
_ALIASES = {
    "application/bzip": "application/bzip2",
    "application/dosexec": "application/vnd.microsoft.portable-executable",
    "application/executable": "application/elf",
    "application/httpd-php": "text/php",
    "application/javascript": "text/javascript",
    "application/msdownload": "application/vnd.microsoft.portable-executable",
    "application/pie-executable": "application/elf",
    "application/rtf": "text/rtf",
    "application/sh": "text/shellscript",
    "application/sharedlib": "application/elf",
    "application/vnd.rar": "application/rar",
    "application/xhtml+xml": "text/html",
    "application/xml": "text/xml",
    "application/zip-compressed": "application/zip",
    "audio/m4a": "audio/mp4",
    "audio/mp3": "audio/mpeg",
    "audio/vnd.wave": "audio/wav",
    "audio/wave": "audio/wav",
    "image/jpg": "image/jpeg",
    "image/ms-bmp": "image/bmp",
    "image/vnd.microsoft.icon": "image/icon",
    "text/sh": "text/shellscript",
    "video/avi": "video/msvideo",
    "video/vnd.avi": "video/msvideo",
}


def canonical(media_type: str) -> str:
    """Return the spelling of ``media_type``, without parameters, that is used in comparisons."""
    main, _, sub = essence(media_type).partition("/")
    name = f"{main}/{sub.removeprefix('x-')}"
    return _ALIASES.get(name, name)


_RECOGNIZED = frozenset(canonical(name) for name in NAMES) - {canonical(name) for name in GENERIC}


@dataclass(frozen=True, slots=True)
class Accept:
    """The parsed setting ``accept``: ``entries`` as written, and the types, families and extensions they contain."""

    entries: tuple[str, ...]
    types: frozenset[str]
    families: tuple[str, ...]
    extensions: tuple[str, ...]

    @classmethod
    def parse(cls, entries: Iterable[str]) -> "Accept":
        """Sort ``entries`` that the settings have validated: ``image/png``, ``image/*``, ``.csv``."""
        written = tuple(entries)
        extensions = tuple(entry for entry in written if entry.startswith("."))
        families = tuple(entry for entry in written if entry.endswith("/*"))
        return cls(
            entries=written,
            types=frozenset(canonical(entry) for entry in written if entry not in extensions + families),
            families=tuple(family[:-1].lower() for family in families),
            extensions=tuple(each.casefold() for each in extensions),
        )

    def has_extension(self, filename: str) -> bool:
        return filename.casefold().endswith(self.extensions)

    def has_type(self, media_type: str) -> bool:
        name = canonical(media_type)
        return name in self.types or name.startswith(self.families)


def libmagic() -> Callable[[bytes], str] | None:
    """Return libmagic's detection of a media type, or None if python-magic or libmagic is not installed."""
    try:
        magic = import_module("magic")
    except ImportError:
        return None
    detect: Callable[[bytes], str] = magic.Magic(mime=True).from_buffer
    return detect


def accept(accepted: Accept, pool: Executor, finer: Callable[[bytes], str] | None) -> CheckFactory:
    """Refuse with ``TypeRefused`` every file that matches no entry of ``accepted``.

    ``finer`` detects the type of files for which the table has only a generic type. It may take milliseconds and runs
    in ``pool``. An empty file has the type ``inode/x-empty``: its extension or that type must be listed.
    """

    def make(part: Part) -> Check | None:
        return FirstBytesCheck(lambda head: check_head(part, head), HEAD) if part.is_file else None

    async def check_head(part: Part, head: bytes) -> None:
        found = detect_media_type(head)
        _compare(part.media_type, found)
        if accepted.has_extension(part.filename or "") or accepted.has_type(found):
            return
        if finer is not None and found in GENERIC:
            found = await asyncio.get_running_loop().run_in_executor(pool, finer, head)
            if accepted.has_type(found):
                return
        looks = "is empty" if found == EMPTY else f"looks like {found}"
        raise TypeRefused(f"The file {looks}. Accepted types: {', '.join(accepted.entries)}.")

    return make


def _compare(claimed: str | None, found: str) -> None:
    """Log a file that has another signature than that of its claimed type, or lacks that signature."""
    if claimed is None or canonical(claimed) in {canonical(found), UNKNOWN} or found == EMPTY:
        return
    if found not in GENERIC or canonical(claimed) in _RECOGNIZED:
        log.info("a file claimed to be %.100r looks like %s", claimed, found)
