"""Where a request to the upload API goes: its method, and its URL made of the API's and the client's. Pure."""

import re
from typing import NamedTuple
from urllib.parse import unquote

from yarl import URL

__all__ = ["Target", "has_dot_segments"]

_SEPARATORS = re.compile(r"[/\\]")


class Target(NamedTuple):
    """A request's target, relative to the URL of the upload API.

    ``rest`` is appended to the path of the URL, None leaves the path as it is. ``query`` is appended to its query. Both
    are as the client sent them.
    """

    method: str = "POST"
    rest: str | None = None
    query: str = ""

    def url(self, base: URL) -> URL:
        """Return the URL of the request to the upload API at ``base``."""
        if self.rest is None and not self.query:
            return base
        text, mark, query = str(base).partition("?")
        if self.rest is not None:
            text = f"{text.removesuffix('/')}/{self.rest}"
        joined = "&".join(filter(None, (query, self.query)))
        return URL(f"{text}?{joined}" if joined or mark else text, encoded=True)


def has_dot_segments(rest: str) -> bool:
    """Whether a part of a path has ``.`` or ``..``, however often it is escaped, or with backslashes.

    Servers remove them (RFC 3986, section 5.2.4): a path with them would leave the path that it is appended to.
    """
    while (decoded := unquote(rest)) != rest:
        if _has_dots(rest):
            return True
        rest = decoded
    return _has_dots(rest)


def _has_dots(path: str) -> bool:
    return bool({".", ".."} & set(_SEPARATORS.split(path)))
