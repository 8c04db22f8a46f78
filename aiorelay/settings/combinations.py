"""Find values of settings that contradict each other.

Each function yields the name of a setting, what is wrong with its value, and what to do. ``settings`` is a
``Settings``, whose module imports this one.
"""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from aiorelay.settings.buckets import S3Location
from aiorelay.settings.places import is_loopback
from aiorelay.settings.setting import Setting, SettingsError

__all__ = ["check_combinations"]

_Contradictions: TypeAlias = Iterator[tuple[str, str, str]]


def check_combinations(settings: Any, table: Mapping[str, Setting]) -> None:
    """Raise ``SettingsError`` for the first value that contradicts another one."""
    for find in (_of_servers, _of_uploads, _of_tokens, _of_checks, _of_webhooks):
        for name, fault, advice in find(settings):
            setting, value = table[name], getattr(settings, name)
            shown = value if isinstance(value, int) else setting.show(value)
            quoted = setting.show(value) if setting.is_switch or setting.repeated else setting.kind.quote(shown)
            raise SettingsError(setting.key, f"{quoted} {fault}", advice, origin=f"argument {name}")


def _of_servers(settings: Any) -> _Contradictions:
    if settings.tls_key is not None and settings.tls_cert is None:
        yield "tls_key", "is a key without a certificate", "give tls-cert as well"
    if not settings.tls and not is_loopback(settings.host) and not (settings.only == "rest1" and settings.listen_unix):
        fault = f"would serve plain HTTP at {settings.host}, which is not the loopback"
        yield "tls", fault, "set host to 127.0.0.1, or serve TLS"
    if settings.client_ca is not None and not (settings.tls and settings.listen_unix is None):
        yield "client_ca", "needs TLS, which the relay does not serve here", "leave it out"
    if settings.state_ca is not None and (settings.state is None or settings.state.scheme != "rediss"):
        yield "state_ca", "has no connection with TLS to verify", "give a rediss URL as state, or leave it out"
    if settings.only is None and settings.rest1_port == settings.rest2_port != 0:
        yield "rest2_port", "is rest1-port too", "give them different ports"
    if settings.max_jobs < settings.processes:
        yield "max_jobs", "is less than processes, each of which keeps a share", "raise it"


def _of_uploads(settings: Any) -> _Contradictions:
    if settings.only == "rest1" and settings.upstream is None and not settings.route:
        yield "only", "has no upload API to send to", "give upstream as well"
    in_buckets = any(isinstance(place, S3Location) for place in (settings.store, settings.spool, settings.quarantine))
    if settings.s3_endpoint is not None and not settings.s3_source and not in_buckets:
        advice = "give an s3:// store, an s3-source, a spool or an s3:// quarantine as well"
        yield "s3_endpoint", "has nothing to serve", advice
    if settings.spool is not None and settings.state is None:
        yield "spool", "is shared by relays that share no state", "give state as well"
    if "*" in settings.allow_origin and settings.client_ca is not None:
        fault = "lets every page use the client certificates of its visitors"
        yield "allow_origin", fault, "name the origins, or leave out client-ca"


def _of_tokens(settings: Any) -> _Contradictions:
    if settings.token_header.lower() != "authorization" and not settings.wants_token:
        yield "token_header", "has no tokens to carry", "give token-file or jwks as well"
    for name in ("jwt_issuer", "jwt_audience", "jwt_scope"):
        if getattr(settings, name) is not None and settings.jwks is None:
            yield name, "has no keys to verify it with", "give jwks as well"
    for name, key in (("jwt_issuer", "jwt-issuer"), ("jwt_audience", "jwt-audience")):
        if getattr(settings, name) is None and settings.jwks is not None:
            yield "jwks", f"is given without {key}", f"give {key} as well"


def _of_checks(settings: Any) -> _Contradictions:
    if settings.icap_ca is not None and (settings.icap is None or settings.icap.scheme != "icaps"):
        yield "icap_ca", "has no connection with TLS to verify", "give an icaps URL as icap, or leave it out"


def _of_webhooks(settings: Any) -> _Contradictions:
    if settings.webhook is not None and settings.webhook_secret_file is None:
        yield "webhook", "is given without a secret to sign events with", "give webhook-secret-file as well"
    for name in ("webhook_secret_file", "webhook_allow_net"):
        if getattr(settings, name) not in (None, ()) and settings.webhook is None:
            yield name, "has no receiver", "give webhook as well"
