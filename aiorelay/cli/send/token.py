"""Read the bearer token, and decide where it may be sent."""

import ipaddress
import re
from pathlib import Path

from yarl import URL

from aiorelay.errors import StartupError

__all__ = ["is_confidential", "read_token"]

# A line of the relay's own token file, or the token alone (RFC 6750, section 2.1: b64token).
_LINE = re.compile(r"(?:[^:\s][^:]*:)?([A-Za-z0-9._~+/-]+=*)")


def read_token(path: Path) -> str:
    """The first token in a file: ``name:token``, or the token alone. Raises StartupError, which tells nothing of it.

    Empty lines and those that begin with # say nothing.
    """
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError:
        lines = []
    except OSError as error:
        raise StartupError(f"the token file {path} cannot be read: {error.strerror}") from error
    for line in lines:
        if line.strip() and not line.startswith("#"):
            if match := _LINE.fullmatch(line.strip()):
                return match[1]
            break
    raise StartupError(f"the token file {path} does not begin with a token; write it as name:token, or alone")


def is_confidential(url: URL) -> bool:
    """Whether nobody on the way to ``url`` can read what is sent there: https, or not leaving this machine."""
    try:
        loopback = ipaddress.ip_address(url.host or "").is_loopback
    except ValueError:
        loopback = url.host == "localhost"
    return url.scheme == "https" or loopback
