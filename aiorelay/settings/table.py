"""The table of settings. Add an entry to ``Settings``; flags, variables, keys and help follow from it."""

# ruff: noqa: RUF009 - one() and many() return dataclass fields, which the rule cannot know

import contextlib
import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, Unpack, cast

from aiorelay.settings.arguments import Arguments
from aiorelay.settings.kinds import (
    FIELD,
    HEADER,
    MEDIA,
    PORT,
    STATUSES,
    SWITCH,
    VALIDATOR,
    InvalidValueError,
    StatusRange,
    choice,
    count,
    size,
    time,
)
from aiorelay.settings.places import (
    CERTIFICATE_NAME,
    HOST,
    HOST_PATTERN,
    NETWORK,
    PATH,
    SCANNER,
    UPSTREAM,
    IPNetwork,
    ScannerAddress,
)
from aiorelay.settings.setting import Setting, SettingsError, many, one, suggestion

if TYPE_CHECKING:
    from yarl import URL

__all__ = ["SETTINGS", "ArchiveLimits", "Settings", "default_state_dir", "unknown"]


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """Return where state is kept by default; a relative ``XDG_STATE_HOME`` is void (XDG Base Directory, 0.8)."""
    base = environ.get("XDG_STATE_HOME", "")
    return Path(base if Path(base).is_absolute() else "~/.local/state") / "aiorelay"


def default_names() -> tuple[str, ...]:
    """Return the names in a generated certificate: this machine's, where it is one that a certificate can hold."""
    import socket  # noqa: PLC0415 - only the default asks for it

    names = ["localhost", "127.0.0.1", "::1"]
    with contextlib.suppress(InvalidValueError):
        names.append(CERTIFICATE_NAME.accept(socket.gethostname()))
    return tuple(dict.fromkeys(names))


class ArchiveLimits(NamedTuple):
    """What an archive may unpack to: times its own size, bytes, entries."""

    ratio: int = 100
    size: int = 10 * 2**30
    entries: int = 10_000


@dataclass(frozen=True, slots=True, kw_only=True, init=False)
class Settings:
    """What a relay is told, once: ``Settings(max_size="1MiB", local_root=["/srv/in"])``.

    Each argument takes the text that a flag takes, or a value that is typed already: whole bytes, seconds, paths,
    networks, lists of them; None stands for the default. The attributes are always typed. ``SettingsError`` is
    raised for an unknown name, a value that does not fit, and values that do not fit together.
    """

    host: str = one("servers", HOST, "127.0.0.1", "address both servers bind")
    rest1_port: int = one("servers", PORT, 8000, "port of the relay; 0 = the system picks one")
    rest2_port: int = one("servers", PORT, 8001, "port of the embedded upload API; 0 = the system picks one")
    only: str | None = one("servers", choice("rest1", "rest2"), None, "serve that one alone", otherwise="both")
    reuse_port: bool = one("servers", SWITCH, False, "several processes may share both ports (SO_REUSEPORT)")
    loop: str = one("servers", choice("asyncio", "uvloop"), "asyncio", "event loop; uvloop needs the extra [uvloop]")
    state_dir: Path = one(
        "servers",
        PATH,
        lambda: default_state_dir(os.environ),
        "generated CA and certificates, spool, resumable uploads",
        otherwise="$XDG_STATE_HOME/aiorelay or ~/.local/state/aiorelay",
    )

    tls_cert: Path | None = one("TLS", PATH, None, "serve this certificate chain (PEM)", otherwise="generated")
    tls_key: Path | None = one(
        "TLS", PATH, None, "private key of tls-cert (PEM)", otherwise="in tls-cert, if that is given"
    )
    tls_name: tuple[str, ...] = many(
        "TLS",
        CERTIFICATE_NAME,
        "name in the generated certificate",
        default=default_names,
        otherwise="localhost, 127.0.0.1, ::1, the host's name",
    )

    upstream: "URL | None" = one(
        "upstream", UPSTREAM, None, "upload API that the relay feeds", otherwise="the embedded one's /upload"
    )
    upstream_ca: Path | None = one(
        "upstream", PATH, None, "CA bundle for the upstream (PEM)", otherwise="system trust and the generated CA"
    )
    upstream_insecure: bool = one("upstream", SWITCH, False, "do not verify the upstream's certificate")
    upstream_header: tuple[tuple[str, str], ...] = many("upstream", HEADER, "header added to every upstream request")
    upstream_mode: str = one(
        "upstream", choice("stream", "spool"), "stream", "pass on while receiving, or only once all is received"
    )
    upstream_chunked: str = one(
        "upstream", choice("allow", "never"), "allow", "never: spool a body of unknown length to learn its length"
    )
    field: str = one("upstream", FIELD, "somefile", "form field that must carry a file, and the JSON key")
    answer_timeout: float = one("upstream", time(), 60, "longest wait for the answer after the last byte")
    stored_status: tuple[StatusRange, ...] = many(
        "upstream",
        STATUSES,
        "answers of the upload API that mean stored, for log and metrics",
        default=lambda: ("200-299", "303"),
        otherwise="",
    )

    store: Path | None = one(
        "storing", PATH, None, "where the embedded upload API keeps files", otherwise="a new temporary directory"
    )
    fsync: bool | None = one(
        "storing",
        SWITCH,
        None,
        "answer only once the file is on the disk, not just in the page cache",
        otherwise="on with store, else off",
    )

    local_root: tuple[Path, ...] = many("sources", PATH, "directory that JSON sources may read local files from")
    allow_net: tuple[IPNetwork, ...] = many(
        "sources", NETWORK, "network that remote sources may live in although it is not public"
    )
    allow_host: tuple[str, ...] = many(
        "sources", HOST_PATTERN, "host that remote sources may come from (example.org, *.example.org)", otherwise="any"
    )

    max_size: int = one("limits", size(least=1), "10GiB", "largest file")
    max_parts: int = one("limits", count(least=1), 100, "most parts in a form")
    max_fields_size: int = one("limits", size(least=0), "1MiB", "bytes of all non-file fields together")
    allow_pieces: bool = one(
        "limits", SWITCH, False, "let pieces of files through, which checks and limits judge one by one"
    )
    max_uploads: int = one("limits", count(least=1), 256, "uploads at once; the next is told 503")
    max_jobs: int = one("limits", count(least=1), 1000, "asynchronous ingests kept, running or ended; then 429")
    resumable: bool = one("limits", SWITCH, True, "take resumable uploads: the HTTP draft, and tus at /files/")
    upload_expiry: float = one("limits", time(), "24h", "how long an unfinished upload is kept after its last byte")
    resumable_quota: int = one("limits", size(least=1), "100GiB", "bytes of unfinished uploads on the disk")
    idle_timeout: float = one("limits", time(), 30, "longest silence on either leg of a transfer")
    min_rate: int = one("limits", size(least=0), "1KiB", "bytes a second, averaged over a minute, that an upload needs")
    grace: float = one("limits", time(zero=True), 30, "how long SIGTERM waits for uploads in flight")

    token_file: Path | None = one(
        "access", PATH, None, "bearer tokens, one a line (name:token), read again when it changes", otherwise="off"
    )
    client_ca: Path | None = one(
        "access", PATH, None, "require client certificates signed by this CA (PEM)", otherwise="off"
    )
    trusted_proxy: tuple[IPNetwork, ...] = many(
        "access", NETWORK, "network of proxies whose Forwarded or X-Forwarded-For names the client"
    )

    accept: tuple[str, ...] = many(
        "checks",
        MEDIA,
        "media type by content (image/*) or ending by name (.csv); one match is enough",
        otherwise="any",
    )
    clamd: ScannerAddress | None = one("checks", SCANNER, None, "ClamAV daemon that scans every file", otherwise="off")
    clamd_timeout: float = one("checks", time(), 60, "longest wait for its verdict")
    clamd_fail: str = one(
        "checks", choice("closed", "open"), "closed", "refuse what cannot be scanned, or let it through with a warning"
    )
    validator: tuple[str, ...] = many("checks", VALIDATOR, "validator of your own")
    validator_timeout: float = one("checks", time(), 60, "longest wait for a validator, for each piece and its verdict")
    archive_max_ratio: int | None = one(
        "checks",
        count(least=1),
        None,
        "how much larger zip and tar files may unpack",
        otherwise="off, or 100 with another archive limit",
    )
    archive_max_size: int | None = one(
        "checks",
        size(least=1),
        None,
        "bytes that zip and tar files may unpack to",
        otherwise="off, or 10GiB with another archive limit",
    )
    archive_max_entries: int | None = one(
        "checks",
        count(least=1),
        None,
        "entries that zip and tar files may have",
        otherwise="off, or 10000 with another archive limit",
    )

    page: bool = one("pages", SWITCH, True, "the upload page at /")

    log_format: str = one("logging", choice("text", "json"), "text", "json: one object a line")
    log_level: str = one(
        "logging", choice("debug", "info", "warning", "error"), "info", "least severity that is logged"
    )
    otel: bool = one("logging", SWITCH, False, "send spans to where OTEL_… variables say; needs the extra [otel]")

    def __init__(self, /, **given: Unpack[Arguments]) -> None:
        self._accept(given)

    @classmethod
    def of(cls, values: Mapping[str, object]) -> "Settings":
        """Return the settings that ``Settings(**values)`` are, for values whose names no type checker can know."""
        settings = cls.__new__(cls)
        settings._accept(values)  # noqa: SLF001 - of the same class
        return settings

    def _accept(self, given: Mapping[str, object]) -> None:
        for name in given.keys() - SETTINGS.keys():
            raise unknown(name, given[name], spelling=lambda setting: setting.name, origin=f"argument {name}")
        for setting in SETTINGS.values():
            object.__setattr__(self, setting.name, setting.accept(given.get(setting.name)))
        self._agree()

    def _agree(self) -> None:
        """Raise ``SettingsError`` for values that fit alone but not together."""
        if self.tls_key is not None and self.tls_cert is None:
            raise _conflict(SETTINGS["tls_key"], self.tls_key, "is the key of no certificate", "give tls-cert as well")
        if self.only == "rest1" and self.upstream is None:
            raise _conflict(SETTINGS["only"], self.only, "has no upload API to send to", "give upstream as well")
        if self.only is None and self.rest1_port == self.rest2_port != 0:
            raise _conflict(SETTINGS["rest2_port"], self.rest2_port, "is rest1-port too", "give them different ports")

    @property
    def durable(self) -> bool:
        """Whether the embedded upload API answers only once a file is on the disk."""
        return self.store is not None if self.fsync is None else self.fsync

    @property
    def archive_limits(self) -> ArchiveLimits | None:
        """The limits of the archive check, or None where it is off: setting one of them turns it on."""
        given = self.archive_max_ratio, self.archive_max_size, self.archive_max_entries
        if given == (None, None, None):
            return None
        return ArchiveLimits(*(ours or default for ours, default in zip(given, ArchiveLimits(), strict=True)))


SETTINGS: Mapping[str, Setting] = MappingProxyType(
    {
        row.name: Setting(name=row.name, factory=cast("Callable[[], object]", row.default_factory), **row.metadata)
        for row in dataclasses.fields(Settings)
    }
)


def _conflict(setting: Setting, value: object, fault: str, advice: str) -> SettingsError:
    return SettingsError(setting.key, f"{setting.kind.quote(value)} {fault}", advice, origin=f"argument {setting.name}")


def unknown(word: str, value: object, *, spelling: Callable[[Setting], str], origin: str) -> SettingsError:
    """The error for a name that no setting has.

    ``spelling`` gives the name of a setting as it is written there. The value is quoted only as the setting that was
    probably meant would quote it: of any other name nobody knows whether its value is a secret.
    """
    bare = word.lower().replace("-", "_").removeprefix("aiorelay_").strip("_")
    near = suggestion(bare, SETTINGS)
    key = word if word.isprintable() else repr(word)
    if near is None:
        return SettingsError(key, "there is no such setting", "aiorelay config lists them all", origin=origin)
    meant = SETTINGS[near]
    fault = "there is no such setting" + (f" for {meant.kind.quote(value)}" if value != "" else "")
    return SettingsError(key, fault, f"did you mean {spelling(meant)}?", origin=origin)
