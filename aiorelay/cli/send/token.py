"""Read the bearer token, and decide where it may be sent."""

import ipaddress
import re
from pathlib import Path

from yarl import URL

from aiorelay.errors import StartupError
from aiorelay.http.grammar import TOKEN68

__all__ = ["is_confidential", "read_token"]

# A line of the relay's own token file, or the token alone.
_LINE = re.compile(rf"(?:[^:\s][^:]*:)?({TOKEN68})")


def read_token(path: Path) -> str:
    """Return the first token in a file, from a line ``name:token`` or ``token``.

    Empty lines and lines that begin with # are ignored. Raises StartupError, whose text never contains the token.
    """
    try:
        lines = path.read_text().splitlines()
    except UnicodeDecodeError:
        lines = []
    except OSError as error:
        raise StartupError(
            f"The token file {path} cannot be read: {error.strerror}. Choose a readable file."
        ) from error
    for line in lines:
        if line.strip() and not line.startswith("#"):
            if match := _LINE.fullmatch(line.strip()):
                return match[1]
            break
    raise StartupError(f"The token file {path} does not begin with a token. Write a line name:token or token.")


def is_confidential(url: URL) -> bool:
    """Whether data sent to ``url`` stay confidential: the URL is https, or its host is the loopback."""
    try:
        loopback = ipaddress.ip_address(url.host or "").is_loopback
    except ValueError:
        loopback = url.host == "localhost"
    return url.scheme == "https" or loopback
