"""The typed keyword arguments of ``Settings``, for type checkers.

At run time each argument also accepts the text that its flag accepts.
"""

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Literal, TypedDict

if TYPE_CHECKING:
    from yarl import URL

    from aiorelay.settings.buckets import S3Location
    from aiorelay.settings.kinds import StatusRange
    from aiorelay.settings.places import IPNetwork, Owner, ScannerAddress
    from aiorelay.settings.routes import Route

__all__ = ["Arguments"]


class Arguments(TypedDict, total=False):
    """A value for each setting: sizes in bytes, times in seconds, or text with a unit. None means the default."""

    host: str | None
    rest1_port: int | None
    rest2_port: int | None
    listen_unix: str | PathLike[str] | None
    listen_unix_mode: str | None
    listen_unix_owner: "str | Owner | None"
    only: Literal["rest1", "rest2"] | None
    processes: int | None
    reuse_port: bool | None
    loop: Literal["asyncio", "uvloop"] | None
    state_dir: str | PathLike[str] | None
    state: "str | URL | None"
    state_ca: str | PathLike[str] | None
    spool: "str | S3Location | None"
    tls: bool | None
    tls_cert: str | PathLike[str] | None
    tls_key: str | PathLike[str] | None
    tls_name: str | Sequence[str] | None
    upstream: "str | URL | None"
    upstream_ca: str | PathLike[str] | None
    upstream_insecure: bool | None
    upstream_header: str | tuple[str, str] | Sequence[str | tuple[str, str]] | None
    upstream_mode: Literal["stream", "spool"] | None
    upstream_chunked: Literal["allow", "never"] | None
    field: str | None
    answer_timeout: float | str | None
    upstream_public: "str | URL | None"
    stored_status: "str | int | StatusRange | Sequence[str | int | StatusRange] | None"
    route: "str | Route | Mapping[str, object] | Sequence[str | Route | Mapping[str, object]] | None"
    store: "str | PathLike[str] | S3Location | None"
    fsync: bool | None
    s3_endpoint: "str | URL | None"
    local_root: str | PathLike[str] | Sequence[str | PathLike[str]] | None
    allow_net: "str | IPNetwork | Sequence[str | IPNetwork] | None"
    allow_host: str | Sequence[str] | None
    s3_source: str | Sequence[str] | None
    max_size: int | str | None
    max_parts: int | None
    max_fields_size: int | str | None
    allow_pieces: bool | None
    max_uploads: int | None
    max_uploads_per_client: int | None
    rate_limit: str | tuple[int, float] | None
    upload_quota: int | str | None
    max_jobs: int | None
    resumable: bool | None
    upload_expiry: float | str | None
    resumable_quota: int | str | None
    idle_timeout: float | str | None
    keep_alive_timeout: float | str | None
    min_rate: int | str | None
    grace: float | str | None
    token_file: str | PathLike[str] | None
    token_header: str | None
    jwks: "str | URL | PathLike[str] | None"
    jwt_issuer: str | None
    jwt_audience: str | None
    jwt_scope: str | None
    client_ca: str | PathLike[str] | None
    trusted_proxy: "str | IPNetwork | Sequence[str | IPNetwork] | None"
    public_name: str | Sequence[str] | None
    allow_origin: str | Sequence[str] | None
    accept: str | Sequence[str] | None
    clamd: "str | ScannerAddress | None"
    clamd_timeout: float | str | None
    clamd_fail: Literal["closed", "open"] | None
    icap: "str | URL | None"
    icap_ca: str | PathLike[str] | None
    icap_timeout: float | str | None
    icap_fail: Literal["closed", "open"] | None
    yara: str | PathLike[str] | None
    yara_max_size: int | str | None
    validator: str | Sequence[str] | None
    validator_timeout: float | str | None
    quarantine: "str | PathLike[str] | S3Location | None"
    quarantine_max_size: int | str | None
    quarantine_expiry: float | str | None
    archive_max_ratio: int | None
    archive_max_size: int | str | None
    archive_max_entries: int | None
    webhook: "str | URL | None"
    webhook_secret_file: str | PathLike[str] | None
    webhook_allow_net: "str | IPNetwork | Sequence[str | IPNetwork] | None"
    page: bool | None
    log_format: Literal["text", "json"] | None
    log_level: Literal["debug", "info", "warning", "error"] | None
    otel: bool | None
