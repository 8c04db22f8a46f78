"""What an ICAP service says of itself in its answer to OPTIONS (RFC 3507, section 4.10.2). Does no I/O.

    Methods                  REQMOD or RESPMOD; RESPMOD if it offers both, because the content is a file and no form
    Preview                  how many bytes to send before the service says that it wants the rest
    Transfer-Preview         endings of files to send with a preview; * means all others
    Transfer-Complete        endings of files to send without one
    Transfer-Ignore          endings of files that the service does not look at
    Allow: 204               the service need not send an unchanged file back
    Max-Connections          how many connections one client may open
    Options-TTL, ISTag       how long this is valid

Files of Transfer-Ignore are sent too, with a preview: the client chooses the name, so that it proves nothing. The
service can say after the preview that it does not want the rest.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from aiorelay.checks.icap.answers import Head, MalformedAnswer
from aiorelay.http.grammar import split_list

__all__ = ["MAX_PREVIEW", "ServiceOptions", "read_options"]

MAX_PREVIEW: Final = 64 * 1024
"""The longest preview that is sent, in bytes: it is kept in memory until the service has answered."""

_LONGEST_TTL: Final = 24 * 3600
# Without Options-TTL an answer is valid for ever. A service that changes its options also changes its ISTag.
_DEFAULT_TTL: Final = 3600

_Method = Literal["REQMOD", "RESPMOD"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceOptions:
    """What a service wants. ``preview`` is in bytes, None without one; ``ttl`` is in seconds.

    ``previewed`` and ``complete`` are endings of files in lower case, without the dot, and ``*`` for all others.
    """

    method: _Method
    preview: int | None = None
    previewed: frozenset[str] = frozenset()
    complete: frozenset[str] = frozenset()
    allow_204: bool = False
    max_connections: int | None = None
    ttl: int = _DEFAULT_TTL
    istag: str | None = None

    def preview_of(self, filename: str) -> int | None:
        """Return the length of the preview of a file in bytes, or None if it is sent without one."""
        _, dot, ending = filename.rpartition(".")
        listed = {ending.lower()} if dot else set()
        if listed & self.previewed:
            return self.preview
        if listed & self.complete or "*" in self.complete - self.previewed:
            return None
        return self.preview


def read_options(head: Head) -> ServiceOptions:
    """Return what an answer to OPTIONS says. Raises ``MalformedAnswer`` if it offers no service.

    A number that is none counts as absent: the file is then sent whole, on any number of connections.
    """
    if head.status != 200:
        raise MalformedAnswer(f"it answered OPTIONS with {head.status} {head.reason}".rstrip())
    methods = {method.upper() for method in split_list(head.fields.get("methods", ""))}
    method: _Method | None = "RESPMOD" if "RESPMOD" in methods else "REQMOD" if "REQMOD" in methods else None
    if method is None:
        raise MalformedAnswer("it offers neither RESPMOD nor REQMOD")
    preview = _number(head.fields, "preview")
    ttl = _number(head.fields, "options-ttl")
    return ServiceOptions(
        method=method,
        preview=None if preview is None else min(preview, MAX_PREVIEW),
        previewed=_endings(head.fields, "transfer-preview") | _endings(head.fields, "transfer-ignore"),
        complete=_endings(head.fields, "transfer-complete"),
        allow_204="204" in split_list(head.fields.get("allow", "")),
        max_connections=_number(head.fields, "max-connections") or None,
        ttl=_DEFAULT_TTL if ttl is None else min(ttl, _LONGEST_TTL),
        istag=head.fields.get("istag"),
    )


def _endings(fields: Mapping[str, str], name: str) -> frozenset[str]:
    return frozenset(each.lower().removeprefix(".") for each in split_list(fields.get(name, "")))


def _number(fields: Mapping[str, str], name: str) -> int | None:
    value = fields.get(name, "")
    return int(value) if value.isascii() and value.isdigit() and len(value) <= 10 else None
