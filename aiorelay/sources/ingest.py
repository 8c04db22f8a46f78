"""Build forms from raw bodies and from files that a JSON document names, local or remote.

raw body ──────────────┐
{"somefile": SOURCE} ──┴─▶ Form; its length is known if the lengths of all sources are
"""

import json
import re
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from aiorelay.checks.digests import expect_sha256
from aiorelay.checks.pipeline import with_checks
from aiorelay.errors import BadSource, MalformedJson, MissingFile, TooLarge, TooManyParts, WrongContentType
from aiorelay.files.filenames import last_component, media_type_by_extension
from aiorelay.files.local import open_local
from aiorelay.http.grammar import is_media_type
from aiorelay.multipart.form import Form, Part
from aiorelay.multipart.framing import canonical_length
from aiorelay.multipart.parser import FormLimits
from aiorelay.sources.fetch import Fetcher
from aiorelay.sources.objects import ObjectSources

__all__ = ["Ingest", "Source", "Sources", "raw_form", "read_ingest"]

_MEMBERS = {"source", "filename", "content_type", "sha256"}
_URL = re.compile(r"https?://", re.IGNORECASE)
_OBJECT = "s3://"
_MULTIPART = re.compile(r"multipart/", re.IGNORECASE)
_SHA256 = re.compile(r"[0-9A-Fa-f]{64}")
_OCTET_STREAM = "application/octet-stream"


@dataclass(frozen=True, slots=True)
class Source:
    """One file to read or fetch: an absolute path, an http(s) URL or ``s3://BUCKET/KEY``, and optional metadata."""

    location: str
    filename: str | None = None
    content_type: str | None = None
    sha256: str | None = None

    @property
    def is_remote(self) -> bool:
        return self.is_object or _URL.match(self.location) is not None

    @property
    def is_object(self) -> bool:
        return self.location.startswith(_OBJECT)


@dataclass(frozen=True, slots=True)
class Ingest:
    """The content of a JSON request: plain fields, and files for the form field ``field``."""

    field: str
    fields: tuple[tuple[str, str], ...]
    sources: tuple[Source, ...]


def read_ingest(body: bytes, field: str) -> Ingest:
    """Parse a JSON request. Raises ``MalformedJson``, ``MissingFile`` or ``BadSource``."""
    try:
        document = json.loads(body.decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise MalformedJson(f"The body is not JSON: {error}.") from error
    if not isinstance(document, dict):
        raise MalformedJson(f'The JSON must be an object such as {{"{field}": SOURCE}}.')
    named = document.pop(field, None)
    sources = named if isinstance(named, list) else [] if named is None else [named]
    if not sources:
        raise MissingFile(f"The JSON names no file. Its member {field!r} must be a path, a URL, an object or a list.")
    for name, value in document.items():
        if not isinstance(value, str):
            raise BadSource(f"The member {name!r} must be a string. Only {field!r} may have another type.")
        if not name or "\\" in name or "\0" in name:  # the same rule as in ``multipart.part_head``
            raise BadSource("The name of a form field must not be empty or contain a backslash or NUL.")
    return Ingest(field, tuple(document.items()), tuple(_source(each) for each in sources))


class Sources:
    """Opens the sources of JSON requests.

    Local files are below ``roots``, remote files are opened through ``fetcher`` and ``objects``. ``pool`` runs the
    computation of checksums.
    """

    def __init__(self, fetcher: Fetcher, objects: ObjectSources, roots: Sequence[Path], pool: Executor) -> None:
        self._fetcher = fetcher
        self._objects = objects
        self._roots = roots
        self._pool = pool

    async def judge(self, ingest: Ingest, limits: FormLimits) -> None:
        """Raise the problems of ``ingest`` that can be found without network access. ``form`` raises them too."""
        _check_limits(ingest, limits)
        for source in ingest.sources:
            if source.is_remote:
                (self._objects if source.is_object else self._fetcher).judge(source.location)
            else:
                await (await open_local(source.location, self._roots)).close()

    async def form(
        self, ingest: Ingest, limits: FormLimits, *, on_total: Callable[[int], object] = lambda _total: None
    ) -> Form:
        """Return the form that ``ingest`` describes.

        Local files are opened here, and a remote file if it is the only one, so that refusals are early and the length
        is known. If there are several remote files, each is fetched when its part is reached. Raises the problems of
        opening a source. ``on_total`` is called once with the total bytes of all files, as soon as that is known.
        """
        _check_limits(ingest, limits)
        remote = sum(source.is_remote for source in ingest.sources)
        fields = [_field(name, value) for name, value in ingest.fields]
        boundary = _boundary()
        opened: list[Part | None] = []
        stack = AsyncExitStack()
        try:
            for source in ingest.sources:
                is_opened_now = not source.is_remote or remote == 1
                opened.append(await self._open(source, ingest.field, stack) if is_opened_now else None)
        except BaseException:
            await stack.aclose()
            raise
        known = [part for part in opened if part is not None]
        _report_total(opened, on_total)
        length = canonical_length(boundary, fields + known) if len(known) == len(opened) else None
        return Form(boundary, self._parts(ingest, fields, opened, stack, on_total), length)

    async def _parts(
        self,
        ingest: Ingest,
        fields: list[Part],
        opened: list[Part | None],
        stack: AsyncExitStack,
        on_total: Callable[[int], object],
    ) -> AsyncGenerator[Part, None]:
        async with stack:
            for field in fields:
                yield field
            for index, source in enumerate(ingest.sources):
                part = opened[index]
                if part is not None:
                    yield part
                    continue
                async with AsyncExitStack() as resources:
                    opened[index] = part = await self._open(source, ingest.field, resources)
                    _report_total(opened, on_total)
                    yield part

    async def _open(self, source: Source, field: str, stack: AsyncExitStack) -> Part:
        if source.is_remote:
            opener = self._objects if source.is_object else self._fetcher
            remote = await stack.enter_async_context(opener.open(source.location))
            part = _file(field, remote.filename, media_type_of_one_file(remote.media_type), remote.size, remote.chunks)
        else:
            local = await open_local(source.location, self._roots)
            stack.push_async_callback(local.close)
            part = _file(field, local.name, None, local.size, local.chunks)
        if source.filename is not None:
            part.filename = _safe(source.filename) or field
        part.media_type = source.content_type or part.media_type or _type_of(part.filename)
        return part if source.sha256 is None else with_checks(part, [expect_sha256(source.sha256, self._pool)])


def raw_form(
    read: Callable[[], Awaitable[bytes]],
    length: int | None,
    *,
    field: str,
    filename: str,
    media_type: str | None,
    fields: Iterable[tuple[str, str]] = (),
) -> Form:
    """Return a form of one file, whose content is a raw body.

    ``length`` is the length of the body in bytes or None. ``read`` returns its next block, or ``b""`` at the end.
    ``fields`` precede the file. Raises ``WrongContentType`` if ``media_type`` is multipart.
    """
    if media_type is not None and _MULTIPART.match(media_type):
        raise WrongContentType("A raw body is one file. Send a form with POST.")

    async def chunks() -> AsyncGenerator[bytes, None]:
        while block := await read():
            yield block

    async def parts() -> AsyncGenerator[Part, None]:
        for part in made:
            yield part

    name = _safe(filename)
    made = [_field(key, value) for key, value in fields]
    made.append(_file(field, name, media_type or _type_of(name), length, chunks()))
    boundary = _boundary()
    return Form(boundary, parts(), canonical_length(boundary, made))


def _source(value: Any) -> Source:
    if isinstance(value, str):
        value = {"source": value}
    if not isinstance(value, dict) or not all(isinstance(member, str) for member in value.values()):
        raise BadSource('A source is a path, a URL, or an object of strings such as {"source": …, "filename": …}.')
    if unknown := value.keys() - _MEMBERS:
        raise BadSource(f"A source has no member {min(unknown)!r}. Its members are {', '.join(sorted(_MEMBERS))}.")
    source = Source(value.get("source", ""), value.get("filename"), value.get("content_type"), value.get("sha256"))
    if not source.is_remote and not source.location.startswith("/"):
        raise BadSource("A source must be an absolute local path, an http(s) URL or s3://BUCKET/KEY.")
    if source.content_type is not None and not is_media_type(source.content_type):
        raise BadSource("A source's content_type must be a media type such as application/pdf.")
    if source.content_type is not None and _MULTIPART.match(source.content_type):
        raise BadSource("A source's content_type must not be multipart.")
    if source.sha256 is not None and not _SHA256.fullmatch(source.sha256):
        raise BadSource("A source's sha256 must be 64 hexadecimal digits.")
    return source


def _check_limits(ingest: Ingest, limits: FormLimits) -> None:
    if len(ingest.fields) + len(ingest.sources) > limits.parts:
        raise TooManyParts(f"The JSON has more than {limits.parts} fields and files.")
    if sum(_field(name, value).size or 0 for name, value in ingest.fields) > limits.fields_size:
        raise TooLarge(f"The JSON's fields together are larger than {limits.fields_size} bytes.")


def _report_total(opened: Iterable[Part | None], on_total: Callable[[int], object]) -> None:
    sizes = [None if part is None else part.size for part in opened]
    known = [size for size in sizes if size is not None]
    if len(known) == len(sizes):
        on_total(sum(known))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object repeats a member")
    return members


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _field(name: str, value: str) -> Part:
    text = value.encode("utf-8", "replace")

    async def chunks() -> AsyncGenerator[bytes, None]:
        if text:
            yield text

    return Part(name=name, filename=None, media_type=None, size=len(text), chunks=chunks())


def _file(
    field: str, filename: str | None, media_type: str | None, size: int | None, chunks: AsyncIterator[bytes]
) -> Part:
    return Part(name=field, filename=filename or field, media_type=media_type, size=size, chunks=chunks)


def _safe(filename: str) -> str:
    """Return a filename's last component without NUL, which parsers treat differently. It may be empty."""
    name = last_component(filename).replace("\0", "")
    return "" if name in {".", ".."} else name


def media_type_of_one_file(media_type: str | None) -> str | None:
    """Return ``media_type``, or None if it is malformed or multipart: a part must not contain a form."""
    is_one = media_type is not None and is_media_type(media_type) and not _MULTIPART.match(media_type)
    return media_type if is_one else None


def _type_of(filename: str | None) -> str:
    return media_type_by_extension(filename or "") or _OCTET_STREAM


def _boundary() -> bytes:
    return b"aiorelay-" + secrets.token_hex(16).encode()
