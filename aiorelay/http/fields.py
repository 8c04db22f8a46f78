"""Decide which header fields are passed on and which are added (RFC 9110, sections 7.6 and 7.7). Pure."""

import ipaddress
from collections.abc import Iterable
from functools import lru_cache

from aiohttp import hdrs
from aiohttp.http import HttpVersion
from multidict import CIMultiDict, CIMultiDictProxy

from aiorelay.http.hop_by_hop import HOP_BY_HOP

__all__ = ["CONTENT_DIGESTS", "add_trace", "drop_client_claims", "end_to_end", "replace_all"]

# Digests of the content as the client framed it (RFC 9530; RFC 3230; RFC 1864): wrong for a body that is framed anew.
CONTENT_DIGESTS = frozenset({"content-digest", "repr-digest", "digest", "content-md5"})
# Characters, nearly always of one byte. By default, aiohttp, nginx and Apache accept no longer fields.
_LONG = 8000
_UNKNOWN = "unknown"  # RFC 7239, section 6.2


def end_to_end(headers: "CIMultiDictProxy[str]", *, without: Iterable[str] = ()) -> "CIMultiDict[str]":
    """Return the end-to-end fields of a message, except those named in ``without``."""
    fields = CIMultiDict(headers)
    for name in (*HOP_BY_HOP, *without):
        fields.popall(name, None)
    for line in headers.getall(hdrs.CONNECTION, ()):
        for option in line.split(","):
            fields.popall(option.strip(), None)
    if not all(map(str.isascii, fields.values())):
        fields = CIMultiDict((name, _utf_8(value)) for name, value in fields.items())
    return fields


def drop_client_claims(headers: "CIMultiDict[str]") -> None:
    """Remove the fields that name the client: Forwarded, X-Forwarded-* and X-Real-IP.

    Their spellings with underscores too: WSGI and CGI use one environment variable for ``X_Real_IP`` and ``X-Real-IP``.
    """
    for name in list(headers):
        dashed = name.lower().replace("_", "-")
        if dashed in {"forwarded", "x-real-ip"} or dashed.startswith("x-forwarded-"):
            headers.popall(name, None)


def add_trace(
    headers: "CIMultiDict[str]",
    *,
    version: HttpVersion,
    client: str,
    peer: str,
    scheme: str,
    host: str | None,
    request_id: str,
) -> None:
    """Add Via (RFC 9110), Forwarded (RFC 7239), X-Forwarded-* and X-Request-ID to a request.

    The request was received in HTTP ``version`` with ``scheme`` from ``peer``, an address or a word for a peer without
    one. ``client`` is the address of the client; it differs from ``peer`` if a trusted proxy has named it. It becomes
    the first element of a list that the proxy has not begun, with the scheme that the proxy has named.
    """
    _append(headers, hdrs.VIA, f"{version.major}.{version.minor} aiorelay")
    peer = peer.partition("%")[0]
    elements = [f"for={_node(peer)}"]
    if host:
        elements.append(f'host="{host}"')
        headers.setdefault("X-Forwarded-Host", host)
    if client != peer:
        proto = headers.get("X-Forwarded-Proto", "")
        named_scheme = f";proto={proto}" if proto in {"http", "https"} else ""
        headers.setdefault(hdrs.FORWARDED, f"for={_node(client)}{named_scheme}")
        headers.setdefault("X-Forwarded-For", client)
    _append(headers, hdrs.FORWARDED, ";".join([*elements, f"proto={scheme}"]))
    if _node(peer) != _UNKNOWN:  # readers of X-Forwarded-For expect addresses only
        _append(headers, "X-Forwarded-For", peer)
    headers.setdefault("X-Forwarded-Proto", scheme)
    headers["X-Request-ID"] = request_id


def replace_all(headers: "CIMultiDict[str]", added: Iterable[tuple[str, str]]) -> None:
    """Replace every field of the same name by those of ``added``."""
    added = list(added)
    for name, _ in added:
        headers.popall(name, None)
    headers.extend(added)


def _utf_8(value: str) -> str:
    """Decode a field value whose bytes are not UTF-8 as ISO 8859-1 (RFC 9110, section 5.5).

    aiohttp writes UTF-8 only and drops other bytes.
    """
    raw = value.encode("utf-8", "surrogateescape")
    try:
        raw.decode()
    except UnicodeDecodeError:
        return raw.decode("latin-1")
    return value


def _append(headers: "CIMultiDict[str]", name: str, value: str) -> None:
    """Append to a list: in one field, as most servers expect, or in another one if that would be too long for many."""
    if name not in headers:
        headers[name] = value
        return
    fields = [*headers.popall(name), value]
    joined = ", ".join(fields)
    headers.extend([(name, joined)] if len(joined) <= _LONG else [(name, field) for field in fields])


@lru_cache(maxsize=1024)
def _node(client: str | None) -> str:
    """A client's address as RFC 7239, section 6 writes it."""
    try:
        address = ipaddress.ip_address(client or "")
    except ValueError:
        return _UNKNOWN
    return str(address) if address.version == 4 else f'"[{address}]"'
