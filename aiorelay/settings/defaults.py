"""Defaults that depend on the machine or on other settings."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from aiorelay.settings.kinds import InvalidValueError
from aiorelay.settings.places import CERTIFICATE_NAME

__all__ = ["ArchiveLimits", "default_names", "default_state_dir"]


def default_state_dir(environ: Mapping[str, str]) -> Path:
    """Return the default of ``state_dir``. A relative ``XDG_STATE_HOME`` is ignored (XDG Base Directory, 0.8)."""
    base = environ.get("XDG_STATE_HOME", "")
    return Path(base if Path(base).is_absolute() else "~/.local/state") / "aiorelay"


def default_names() -> tuple[str, ...]:
    """Return the default of ``tls_name``: the loopback names, and the host name if a certificate can contain it."""
    import socket  # noqa: PLC0415 - needed only for the default

    names = ["localhost", "127.0.0.1", "::1"]
    with contextlib.suppress(InvalidValueError):
        names.append(CERTIFICATE_NAME.accept(socket.gethostname()))
    return tuple(dict.fromkeys(names))


class ArchiveLimits(NamedTuple):
    """The limits of an unpacked archive: the ratio to its own size, the size in bytes, the number of entries."""

    ratio: int = 100
    size: int = 10 * 2**30
    entries: int = 10_000
