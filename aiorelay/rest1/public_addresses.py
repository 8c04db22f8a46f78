"""Replace the upload API's own addresses in its answers by those at which clients can reach it. Pure.

Location: http://10.0.0.7:9000/photos/a.jpg  ─▶  https://photos.example.org/photos/a.jpg
"""

from typing import TYPE_CHECKING, Final
from urllib.parse import SplitResult, urljoin, urlsplit, urlunsplit

if TYPE_CHECKING:
    from multidict import MultiMapping

__all__ = ["public_fields", "public_reference"]

# The fields of an answer that refer to a resource (RFC 9110, sections 8.7 and 10.2.2).
_FIELDS: Final = ("Location", "Content-Location")
_PORTS: Final = {"http": 80, "https": 443}


def public_fields(headers: "MultiMapping[str]", request_url: str, public: str) -> list[tuple[str, str]]:
    """Return the fields of an answer that refer to the upload API, with its ``public`` addresses."""
    given = [(name, headers[name]) for name in _FIELDS if name in headers]
    return [(name, public_reference(value, request_url, public)) for name, value in given]


def public_reference(reference: str, request_url: str, public: str) -> str:
    """Return a URI reference (RFC 3986, section 4.1) of an answer as a client can use it.

    ``request_url`` is the URL of the request to the upload API, which relative references are relative to. Its origin
    is replaced by the base URL ``public``. References to other origins are unchanged.
    """
    try:
        own, target = urlsplit(request_url), urlsplit(urljoin(request_url, reference))
        is_own = _origin(own) == _origin(target)
    except ValueError:
        return reference
    if not reference or not is_own:
        return reference
    base = urlsplit(public)
    path = f"{base.path.rstrip('/')}/{target.path.removeprefix('/')}"
    return urlunsplit((base.scheme, base.netloc, path, target.query, target.fragment))


def _origin(parts: SplitResult) -> tuple[str, str | None, str | None, int | None]:
    """Return scheme, user, host and port. Raises ``ValueError`` for a wrong port."""
    return parts.scheme, parts.username, parts.hostname, parts.port or _PORTS.get(parts.scheme)
