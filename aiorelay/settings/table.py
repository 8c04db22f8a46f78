"""The table of settings. Add an entry to ``Settings``; flags, variables, keys and help follow from it."""

# ruff: noqa: RUF009 - one() and many() return dataclass fields, which the rule does not recognize

import dataclasses
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Unpack, cast

from aiorelay.settings.arguments import Arguments
from aiorelay.settings.buckets import BUCKET, SPOOL, STORE, S3Location
from aiorelay.settings.combinations import check_combinations
from aiorelay.settings.defaults import ArchiveLimits, default_names, default_state_dir
from aiorelay.settings.kinds import (
    FIELD,
    HEADER,
    MEDIA,
    PORT,
    RATE,
    STATUSES,
    SWITCH,
    TOKEN_HEADER,
    VALIDATOR,
    WORD,
    Rate,
    StatusRange,
    choice,
    count,
    size,
    time,
)
from aiorelay.settings.places import (
    BASE_URL,
    CERTIFICATE_NAME,
    HOST,
    HOST_PATTERN,
    ICAP,
    JWKS,
    MODE,
    NETWORK,
    ORIGIN,
    OWNER,
    PATH,
    SCANNER,
    STATE,
    UPSTREAM,
    WEBHOOK,
    IPNetwork,
    Owner,
    ScannerAddress,
)
from aiorelay.settings.routes import ROUTE, Route, inherited, is_per_route
from aiorelay.settings.setting import Setting, SettingsError, many, one, suggestion

if TYPE_CHECKING:
    from yarl import URL

__all__ = ["SETTINGS", "Settings", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True, init=False)
class Settings:
    """The settings of a relay, for example ``Settings(max_size="1MiB", local_root=["/srv/in"])``.

    Each argument accepts the text that a flag accepts, or a typed value: bytes, seconds, paths, networks, lists of
    them. None means the default. The attributes are always typed. Raises ``SettingsError`` for an unknown name, a wrong
    value, and values that contradict each other.
    """

    host: str = one("servers", HOST, "127.0.0.1", "address both servers bind")
    rest1_port: int = one("servers", PORT, 8000, "port of the relay; 0: chosen by the system")
    rest2_port: int = one("servers", PORT, 8001, "port of the embedded upload API; 0: chosen by the system")
    listen_unix: Path | None = one(
        "servers",
        PATH,
        None,
        "Unix socket on which the relay listens instead of its port, with plain HTTP",
        otherwise="off",
    )
    listen_unix_mode: str = one("servers", MODE, "660", "file mode of the Unix socket: who may write may upload")
    listen_unix_owner: Owner | None = one(
        "servers", OWNER, None, "owner of the Unix socket (USER, USER:GROUP or :GROUP)", otherwise="the process's own"
    )
    only: str | None = one("servers", choice("rest1", "rest2"), None, "serve only this server", otherwise="both")
    processes: int = one(
        "servers", count(least=1, most=128), 1, "processes that serve the same ports, each with one event loop"
    )
    reuse_port: bool = one("servers", SWITCH, False, "several processes may share both ports (SO_REUSEPORT)")
    loop: str = one("servers", choice("asyncio", "uvloop"), "asyncio", "event loop; uvloop needs the extra [uvloop]")
    state_dir: Path = one(
        "servers",
        PATH,
        lambda: default_state_dir(os.environ),
        "generated CA and certificates, spool, resumable uploads",
        otherwise="$XDG_STATE_HOME/aiorelay or ~/.local/state/aiorelay",
    )

    state: "URL | None" = one(
        "servers",
        STATE,
        None,
        "Redis or Valkey with which relays share jobs and limits (redis://HOST, rediss://USER:PASSWORD@HOST:PORT); "
        "needs the extra [redis]",
        otherwise="off",
    )
    state_ca: Path | None = one("servers", PATH, None, "CA bundle for state (PEM)", otherwise="system trust")
    spool: S3Location | None = one(
        "servers",
        SPOOL,
        None,
        "s3://BUCKET/PREFIX for the bytes of unfinished uploads, which relays with the same state continue",
        otherwise="in state-dir",
    )

    tls: bool = one("TLS", SWITCH, True, "off: both servers speak plain HTTP, on the loopback only, for a proxy there")
    tls_cert: Path | None = one("TLS", PATH, None, "certificate chain to serve (PEM)", otherwise="generated")
    tls_key: Path | None = one("TLS", PATH, None, "private key of tls-cert (PEM)", otherwise="in tls-cert")
    tls_name: tuple[str, ...] = many(
        "TLS",
        CERTIFICATE_NAME,
        "name in the generated certificate",
        default=default_names,
        otherwise="localhost, 127.0.0.1, ::1, the host's name",
    )

    upstream: "URL | None" = one(
        "upstream",
        UPSTREAM,
        None,
        "URL of the upload API that receives the uploads",
        otherwise="the embedded one's /upload",
    )
    upstream_ca: Path | None = one(
        "upstream", PATH, None, "CA bundle for the upstream (PEM)", otherwise="system trust and the generated CA"
    )
    upstream_insecure: bool = one("upstream", SWITCH, False, "do not verify the upstream's certificate")
    upstream_header: tuple[tuple[str, str], ...] = many("upstream", HEADER, "header added to every upstream request")
    upstream_mode: str = one(
        "upstream",
        choice("stream", "spool"),
        "stream",
        "stream: forward while receiving; spool: receive the whole upload first",
    )
    upstream_chunked: str = one(
        "upstream", choice("allow", "never"), "allow", "never: spool a body of unknown length to learn its length"
    )
    field: str = one("upstream", FIELD, "somefile", "form field that must carry a file, and the JSON key")
    answer_timeout: float = one("upstream", time(), 60, "longest wait for the upload API's answer after the last byte")
    upstream_public: "URL | None" = one(
        "upstream",
        BASE_URL,
        None,
        "base URL that replaces the upload API's own in Location and Content-Location",
        otherwise="none",
    )
    stored_status: tuple[StatusRange, ...] = many(
        "upstream",
        STATUSES,
        "statuses of the upload API that count as stored in log and metrics",
        default=lambda: ("200-299", "303"),
        otherwise="",
    )

    route: tuple[Route, ...] = many(
        "routes", ROUTE, "path whose uploads go to another upload API (PATH=URL, PATH=URL,field=NAME)"
    )

    store: Path | S3Location | None = one(
        "storing",
        STORE,
        None,
        "where the embedded upload API stores files: a directory, or s3://BUCKET/PREFIX with the extra [s3]",
        otherwise="a new temporary directory",
    )
    fsync: bool | None = one(
        "storing",
        SWITCH,
        None,
        "answer only when the file is on the disk, not only in the page cache; no effect on s3:// stores",
        otherwise="on with store, else off",
    )
    s3_endpoint: "URL | None" = one(
        "storing", BASE_URL, None, "base URL of the object storage (https://s3.example.org)", otherwise="AWS"
    )

    local_root: tuple[Path, ...] = many("sources", PATH, "directory from which JSON sources may read local files")
    allow_net: tuple[IPNetwork, ...] = many(
        "sources", NETWORK, "non-public network from which remote sources may be fetched"
    )
    allow_host: tuple[str, ...] = many(
        "sources",
        HOST_PATTERN,
        "host from which remote sources may be fetched (example.org, *.example.org)",
        otherwise="any",
    )
    s3_source: tuple[str, ...] = many(
        "sources", BUCKET, "bucket from which s3:// sources may be read; needs the extra [s3]"
    )

    max_size: int = one("limits", size(least=1), "10GiB", "largest file")
    max_parts: int = one("limits", count(least=1), 100, "most parts in a form")
    max_fields_size: int = one("limits", size(least=0), "1MiB", "largest total size of the fields that are not files")
    allow_pieces: bool = one(
        "limits", SWITCH, False, "accept pieces of files; checks and limits apply to each piece alone"
    )
    max_uploads: int = one("limits", count(least=1), 256, "most simultaneous uploads; further ones get 503")
    max_uploads_per_client: int | None = one(
        "limits", count(least=1), None, "most simultaneous uploads of one client; further ones get 429", otherwise="off"
    )
    rate_limit: Rate | None = one(
        "limits", RATE, None, "most uploads of one client in a time (100/1m); further ones get 429", otherwise="off"
    )
    upload_quota: int | None = one(
        "limits", size(least=1), None, "most bytes of one client in a day (UTC); further ones get 429", otherwise="off"
    )
    max_jobs: int = one("limits", count(least=1), 1000, "most jobs kept, running or ended; further ones get 429")
    resumable: bool = one("limits", SWITCH, True, "accept resumable uploads: the HTTP draft, and tus at /files/")
    upload_expiry: float = one("limits", time(), "24h", "how long an unfinished upload is kept after its last byte")
    resumable_quota: int = one("limits", size(least=1), "100GiB", "most bytes of unfinished uploads on the disk")
    idle_timeout: float = one("limits", time(), 30, "longest time without a byte, from the client or to the upload API")
    keep_alive_timeout: float = one(
        "limits", time(), 150, "how long a client's idle connection stays open; longer than a proxy in front keeps it"
    )
    min_rate: int = one(
        "limits", size(least=0), "1KiB", "lowest rate of an upload in bytes per second, averaged over a minute"
    )
    grace: float = one("limits", time(zero=True), 30, "longest wait for uploads in flight after SIGTERM")

    token_file: Path | None = one(
        "access",
        PATH,
        None,
        "file of tokens, one per line (name:token or name:sha256:HEX); reloaded when it changes",
        otherwise="off",
    )
    token_header: str = one(
        "access",
        TOKEN_HEADER,
        "Authorization",
        "header that carries the token; with another name, Authorization is passed on to the upload API",
    )
    jwks: "URL | Path | None" = one(
        "access",
        JWKS,
        None,
        "accept JWTs signed with the keys of this JWK Set, a URL or a file; needs the extra [jwt]",
        otherwise="off",
    )
    jwt_issuer: str | None = one("access", WORD, None, "issuer of the JWTs (iss); required with jwks", otherwise="none")
    jwt_audience: str | None = one(
        "access", WORD, None, "audience of the JWTs (aud): this relay; required with jwks", otherwise="none"
    )
    jwt_scope: str | None = one("access", WORD, None, "scope that a JWT must have", otherwise="none")
    client_ca: Path | None = one(
        "access", PATH, None, "require client certificates signed by this CA (PEM)", otherwise="off"
    )
    trusted_proxy: tuple[IPNetwork, ...] = many(
        "access", NETWORK, "network of proxies whose Forwarded or X-Forwarded-For header is trusted"
    )
    public_name: tuple[str, ...] = many(
        "access", HOST_PATTERN, "further name or address by which clients reach the servers (relay.example.org)"
    )
    allow_origin: tuple[str, ...] = many(
        "access", ORIGIN, "origin whose pages may use the relay (https://app.example.org), or * for all (CORS)"
    )

    accept: tuple[str, ...] = many(
        "checks",
        MEDIA,
        "accepted media type, detected from the content (image/*), or file name extension (.csv)",
        otherwise="any",
    )
    clamd: ScannerAddress | None = one("checks", SCANNER, None, "ClamAV daemon that scans every file", otherwise="off")
    clamd_timeout: float = one("checks", time(), 60, "longest wait for the scanner's verdict")
    clamd_fail: str = one(
        "checks",
        choice("closed", "open"),
        "closed",
        "closed: refuse files that cannot be scanned; open: accept them with a warning",
    )
    icap: "URL | None" = one(
        "checks", ICAP, None, "ICAP service that scans every file (icap:// or icaps://)", otherwise="off"
    )
    icap_ca: Path | None = one("checks", PATH, None, "CA bundle for icap (PEM)", otherwise="system trust")
    icap_timeout: float = one("checks", time(), 60, "longest wait for the ICAP service, for each block and its verdict")
    icap_fail: str = one(
        "checks",
        choice("closed", "open"),
        "closed",
        "closed: refuse files that the ICAP service does not scan; open: accept them with a warning",
    )
    yara: Path | None = one(
        "checks",
        PATH,
        None,
        "file or directory of YARA rules that no file may match; needs the extra [yara]",
        otherwise="off",
    )
    yara_max_size: int = one("checks", size(least=1), "1GiB", "largest file with YARA rules; larger ones are refused")
    validator: tuple[str, ...] = many("checks", VALIDATOR, "your own validator (package.module:name)")
    validator_timeout: float = one(
        "checks", time(), 60, "longest wait for a validator (each block, the verdict) and for YARA"
    )
    quarantine: Path | S3Location | None = one(
        "checks",
        STORE,
        None,
        "where files that checks refuse are kept: a directory, or s3://BUCKET/PREFIX with the extra [s3]",
        otherwise="off",
    )
    quarantine_max_size: int = one(
        "checks", size(least=1), "10GiB", "most bytes of the quarantine on the disk, files being checked included"
    )
    quarantine_expiry: float = one("checks", time(), "720h", "how long a quarantined file is kept on the disk")
    archive_max_ratio: int | None = one(
        "checks",
        count(least=1),
        None,
        "largest ratio of unpacked to packed size of zip and tar files",
        otherwise="off, or 100 with another archive limit",
    )
    archive_max_size: int | None = one(
        "checks",
        size(least=1),
        None,
        "largest unpacked size of zip and tar files",
        otherwise="off, or 10GiB with another archive limit",
    )
    archive_max_entries: int | None = one(
        "checks",
        count(least=1),
        None,
        "most entries of zip and tar files",
        otherwise="off, or 10000 with another archive limit",
    )

    webhook: "URL | None" = one(
        "webhooks",
        WEBHOOK,
        None,
        "URL that gets an event when an upload or a job ends (Standard Webhooks)",
        otherwise="off",
    )
    webhook_secret_file: Path | None = one(
        "webhooks",
        PATH,
        None,
        "file of the secret that signs events (whsec_…), or of two while they are exchanged; reloaded when it changes",
        otherwise="none",
    )
    webhook_allow_net: tuple[IPNetwork, ...] = many(
        "webhooks", NETWORK, "non-public network in which the receiver of events may be"
    )

    page: bool = one("pages", SWITCH, True, "serve the upload page at /")

    log_format: str = one("logging", choice("text", "json"), "text", "json: one object per line")
    log_level: str = one("logging", choice("debug", "info", "warning", "error"), "info", "lowest severity to log")
    otel: bool = one(
        "logging", SWITCH, False, "send OpenTelemetry spans, configured by OTEL_… variables; needs the extra [otel]"
    )

    def __init__(self, /, **given: Unpack[Arguments]) -> None:
        self._accept(given)

    @classmethod
    def of(cls, values: Mapping[str, object]) -> "Settings":
        """Return ``Settings(**values)``, for names that a type checker cannot verify."""
        settings = cls.__new__(cls)
        settings._accept(values)  # noqa: SLF001 - of the same class
        return settings

    def _accept(self, given: Mapping[str, object]) -> None:
        for name in given.keys() - SETTINGS.keys():
            raise unknown(name, given[name], spelling=lambda setting: setting.name, origin=f"argument {name}")
        for setting in SETTINGS.values():
            object.__setattr__(self, setting.name, setting.accept(given.get(setting.name)))
        check_combinations(self, SETTINGS)
        self._check_routes()

    @property
    def wants_token(self) -> bool:
        """Whether clients need a token."""
        return self.token_file is not None or self.jwks is not None

    def _check_routes(self) -> None:
        """Raise ``SettingsError`` for a path that two routes have, and for a wrong setting of a route."""
        paths: set[str] = set()
        for number, route in enumerate(self.route, 1):
            where = f"number {number}, {route.path!r}"
            if route.path in paths:
                raise SettingsError(
                    "route", f"{where} has the path of another one", "give each its own", origin="argument route"
                )
            paths.add(route.path)
            try:
                self.of_route(route)
            except SettingsError as error:
                raise SettingsError(
                    "route", f"{where}: {error.key}: {error.fault}", error.advice, origin="argument route"
                ) from None

    def of_route(self, route: Route) -> "Settings":
        """Return the settings for the uploads of a route. Raises ``SettingsError``."""
        for name, value in route.own.items():
            if name not in SETTINGS:
                raise unknown(name, value, spelling=lambda setting: setting.name, origin="argument route")
            if not is_per_route(SETTINGS[name]):
                raise SettingsError(
                    SETTINGS[name].key, "holds for the relay as a whole", "set it outside of the route", origin="route"
                )
        values = {name: getattr(self, name) for name in inherited(SETTINGS.values(), route.own)}
        return Settings.of({**values, **route.own, "upstream": route.upstream, "route": ()})

    @property
    def durable(self) -> bool:
        """Whether the embedded upload API answers only when a file is on the disk."""
        return self.store is not None if self.fsync is None else self.fsync

    @property
    def archive_limits(self) -> ArchiveLimits | None:
        """The limits of the archive check, or None if it is off. Setting one limit turns it on."""
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


def unknown(word: str, value: object, *, spelling: Callable[[Setting], str], origin: str) -> SettingsError:
    """Return the error for an unknown setting.

    ``spelling`` returns the name of a setting in the form of this source. The value is quoted only if a setting with a
    similar name exists, and masked as that setting masks it. Any other value could be a secret.
    """
    bare = word.lower().replace("-", "_").removeprefix("aiorelay_").strip("_")
    near = suggestion(bare, SETTINGS)
    key = word if word.isprintable() else repr(word)
    if near is None:
        return SettingsError(key, "there is no such setting", "aiorelay config lists them all", origin=origin)
    meant = SETTINGS[near]
    fault = "there is no such setting" + (f" for {meant.kind.quote(value)}" if value != "" else "")
    return SettingsError(key, fault, f"did you mean {spelling(meant)}?", origin=origin)
