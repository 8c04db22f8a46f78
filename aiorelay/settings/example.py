"""Generate an example settings file: every setting with its help and a sample value, commented out."""

import json
from itertools import groupby

from aiorelay.settings.setting import Setting
from aiorelay.settings.table import SETTINGS

__all__ = ["example"]

_OPENING = """\
# Settings of aiorelay. Save this file as relay.toml, uncomment what you want to change, and start with
# --config relay.toml. Flags and environment variables (AIORELAY_MAX_SIZE) override this file.
# Relative paths are relative to the directory of this file.
# Sizes: 500, "64KiB", "2GiB". Times: "500ms", "30s", "5m".
"""

# Sample values for settings whose default is not a plain value.
_SAMPLES: dict[str, object] = {
    "listen_unix": "/run/aiorelay/rest1.sock",
    "listen_unix_owner": ":www-data",
    "only": "rest1",
    "state_dir": "/var/lib/aiorelay",
    "state": "rediss://relay@state.example.org",
    "state_ca": "state-ca.pem",
    "tls_cert": "relay.crt",
    "tls_key": "relay.key",
    "tls_name": ["relay.example.org", "192.168.1.7"],
    "upstream": "https://uploads.example.org/upload",
    "upstream_ca": "upstream-ca.pem",
    "upstream_public": "https://uploads.example.org/",
    "upstream_header": ["X-Api-Key: secret"],
    "route": ["/legacy/*=https://old.example.org/api,field=file,max-size=1MiB"],
    "store": "/srv/uploads",
    "fsync": True,
    "s3_endpoint": "https://s3.example.org",
    "local_root": ["/srv/outgoing"],
    "allow_net": ["10.0.0.0/8", "fd00::/8"],
    "allow_host": ["example.org", "*.example.org"],
    "spool": "s3://uploads/unfinished",
    "s3_source": ["incoming"],
    "max_uploads_per_client": 8,
    "rate_limit": "100/1m",
    "upload_quota": "10GiB",
    "token_file": "tokens",
    "jwks": "https://login.example.org/jwks",
    "jwt_issuer": "https://login.example.org",
    "jwt_audience": "https://relay.example.org",
    "jwt_scope": "upload",
    "client_ca": "clients-ca.pem",
    "trusted_proxy": ["127.0.0.0/8", "::1"],
    "accept": ["image/*", "application/pdf", ".csv"],
    "clamd": "/run/clamav/clamd.ctl",
    "icap": "icaps://scanner.example.org/avscan",
    "icap_ca": "icap-ca.pem",
    "yara": "/etc/aiorelay/yara",
    "validator": ["checks:CsvHeader"],
    "quarantine": "/var/lib/aiorelay/quarantine",
    "webhook": "https://hooks.example.org/uploads",
    "webhook_secret_file": "webhook-secret",
    "webhook_allow_net": ["10.0.0.0/8"],
    "archive_max_ratio": 100,
    "archive_max_size": "10GiB",
    "archive_max_entries": 10_000,
}


def example() -> str:
    """Return the text of a TOML file in which each setting is a comment of the form ``#name = value``."""
    lines = [_OPENING]
    for title, group in groupby(SETTINGS.values(), key=lambda setting: setting.group):
        lines.append(f"## {title}\n")
        lines += map(_commented, group)
    return "\n".join(lines)


def _commented(setting: Setting) -> str:
    kind = f"list of {setting.kind.metavar}" if setting.repeated else setting.kind.metavar
    return f"# {setting.help}\n# {kind}; default: {setting.default}\n#{setting.name} = {_value(setting)}\n"


def _value(setting: Setting) -> str:
    """Return a sample value of a setting as TOML, which equals JSON for text, numbers and lists."""
    value = _SAMPLES.get(setting.name, setting.factory())
    is_amount = isinstance(value, int | float) and not isinstance(value, bool)
    if is_amount and (text := setting.show(setting.accept(value))) != str(value):
        value = text  # with its unit
    return json.dumps(value, ensure_ascii=False)
