"""Find the token in the header fields of a request, and write the challenge for a request without one. Pure.

Authorization: Bearer TOKEN       RFC 6750
Authorization: Basic BASE64       RFC 7617; the password is the token, the user name is ignored
X-Relay-Token: TOKEN              the field that ``token-header`` names; ``Bearer TOKEN`` is accepted there too
"""

import base64
import binascii
import re
from typing import Final

from aiohttp import hdrs
from multidict import MultiMapping

from aiorelay.http.grammar import TOKEN68

__all__ = ["TokenField"]

_CREDENTIALS: Final = re.compile(rf"(?:([A-Za-z]+) +)?({TOKEN68}) *", re.ASCII)
_REALM: Final = 'realm="aiorelay"'


class TokenField:
    """The header field ``name``, in which clients send their token."""

    def __init__(self, name: str = hdrs.AUTHORIZATION) -> None:
        self.name = name
        self._is_authorization = name.lower() == "authorization"

    def token(self, headers: "MultiMapping[str]") -> str | None:
        """Return the token in ``headers``, None if the field is missing, or "" if it holds no token."""
        given = headers.getall(self.name, [])
        if not given:
            return None
        match = _CREDENTIALS.fullmatch(given[0].strip(" \t"))
        if match is None or len(given) > 1:
            return ""
        scheme = (match[1] or "").lower()
        if scheme == "bearer" or (not scheme and not self._is_authorization):
            return match[2]
        return _password(match[2]) if scheme == "basic" and self._is_authorization else ""

    def usage(self) -> str:
        """Return what a client has to send."""
        return "Authorization: Bearer TOKEN" if self._is_authorization else f"{self.name}: TOKEN"

    def challenge(self, headers: "MultiMapping[str]", error: str = "") -> str:
        """Return the value of WWW-Authenticate for a request with ``headers``; ``error`` is that of RFC 6750.

        Without Basic for scripts in browsers: a browser answers that challenge with a dialog of its own, which hides
        the problem from the script.
        """
        bearer = f"Bearer {_REALM}" + (f', error="{error}"' if error else "")
        if not self._is_authorization or headers.get("Sec-Fetch-Dest") == "empty":
            return bearer
        return f'{bearer}, Basic {_REALM}, charset="UTF-8"'


def _password(credentials: str) -> str:
    try:
        return base64.b64decode(credentials, validate=True).decode().partition(":")[2]
    except (binascii.Error, UnicodeDecodeError):
        return ""
