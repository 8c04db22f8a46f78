"""Requests of web pages: CORS for pages of permitted origins, refusal of others (Fetch standard, section 3.3).

is_cross_site                    whether a browser marks a request as one of another site
cors_fields, preflight_fields    the fields of answers
SitePolicy                       applies both to a server, and refuses foreign hosts

A browser tells the site that a request comes from in Sec-Fetch-Site (Fetch Metadata), older ones in Origin alone.
Neither can be set by a page. Other clients send neither, and are not concerned.
"""

from collections.abc import Callable, Collection, Iterable
from functools import lru_cache
from ipaddress import ip_address
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from multidict import CIMultiDict, MultiMapping

from aiorelay.errors import OriginRefused, UnknownHost
from aiorelay.http.grammar import is_token, split_list
from aiorelay.http.own_hosts import OwnHosts
from aiorelay.observability.logs import log

__all__ = [
    "ANY_ORIGIN",
    "SitePolicy",
    "cors_fields",
    "is_cross_site",
    "own_origin",
    "preflight_fields",
    "vary_on_origin",
]

ANY_ORIGIN: Final = "*"

_SAFE_METHODS = frozenset({hdrs.METH_GET, hdrs.METH_HEAD, hdrs.METH_OPTIONS})
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
_MAX_AGE = "7200"  # seconds; Chromium keeps preflights no longer
# What pages may read beside the fields that every page may (Fetch, "CORS-safelisted response-header name").
_EXPOSED = (
    "Location, Retry-After, RateLimit, RateLimit-Policy, WWW-Authenticate, Proxy-Status, Preference-Applied, Allow, "
    "ETag, X-Request-ID, "
    "Aiorelay-Digest, Content-Digest, Repr-Digest, Accept-Patch, "
    "Upload-Offset, Upload-Length, Upload-Complete, Upload-Limit, Upload-Draft-Interop-Version, "
    "Upload-Expires, Upload-Metadata, Upload-Concat, Upload-Defer-Length, "
    "Tus-Resumable, Tus-Version, Tus-Extension, Tus-Max-Size, Tus-Checksum-Algorithm"
)


def is_cross_site(site: str | None, origin: str | None, own: str) -> bool:
    """Whether a browser marks a request as one of a page of another site.

    ``site`` and ``origin`` are its Sec-Fetch-Site and Origin, ``own`` is the origin of the server.
    """
    if site in {"same-origin", "none"}:  # none: the user typed the address
        return False
    if origin is None:
        return site is not None
    return site == "cross-site" or origin != own


def own_origin(scheme: str, headers: "MultiMapping[str]", *, proxied: bool) -> str:
    """The origin under which a browser knows the server that it sends a request to.

    It has the Host and ``scheme`` of the connection. If ``proxied``, a trusted proxy may name others.
    """
    host = headers.get(hdrs.HOST, "")
    if proxied:
        scheme = _first(headers, "X-Forwarded-Proto") or scheme
        host = _first(headers, "X-Forwarded-Host") or host
    return f"{scheme}://{host}".lower().removesuffix(_DEFAULT_PORTS.get(scheme.lower(), ""))


def cors_fields(origin: str | None, allowed: Collection[str], exposed: Iterable[str] = ()) -> dict[str, str]:
    """The fields by which a page of ``origin`` may read an answer; none if the origin is not ``allowed``.

    An origin that is allowed by name may also send cookies and client certificates. ``exposed`` are lists of fields
    to expose besides those of the relay.
    """
    if origin is None or not _is_allowed(origin, allowed):
        return {}
    named = origin in allowed and origin != ANY_ORIGIN
    names = [name for each in exposed for name in split_list(each) if is_token(name)]
    return {
        "Access-Control-Allow-Origin": origin if named else ANY_ORIGIN,
        "Access-Control-Expose-Headers": ", ".join([_EXPOSED, *names]),
    } | ({"Access-Control-Allow-Credentials": "true"} if named else {})


def preflight_fields(asked: str) -> dict[str, str]:
    """The further fields of the answer to a preflight that asks for the header fields ``asked``, a list."""
    fields = {"Access-Control-Allow-Methods": _METHODS, "Access-Control-Max-Age": _MAX_AGE}
    if names := [name for name in split_list(asked) if is_token(name)]:
        fields["Access-Control-Allow-Headers"] = ", ".join(names)
    return fields


def vary_on_origin(headers: "CIMultiDict[str]") -> None:
    """Tell caches that an answer depends on the Origin (RFC 9110, section 12.5.5)."""
    varying = split_list(", ".join(headers.popall(hdrs.VARY, [])))
    if not {name.lower() for name in varying} & {"*", "origin"}:
        varying.append(hdrs.ORIGIN)
    headers[hdrs.VARY] = ", ".join(varying)


class SitePolicy:
    """What browsers may send to a server: under which ``hosts``, and from pages of which other ``origins``.

    ``proxied`` tells whether a request comes from a proxy that is trusted.
    """

    def __init__(
        self, hosts: OwnHosts, origins: Collection[str], *, proxied: Callable[[web.BaseRequest], bool]
    ) -> None:
        self._hosts = hosts
        self._origins = origins
        self._proxied = proxied

    @property
    def guard(self) -> Middleware:
        """A middleware that refuses requests as ``check`` does, and answers preflights."""

        @web.middleware
        async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
            self.check(request)
            if _is_preflight(request) and _is_allowed(request.headers[hdrs.ORIGIN], self._origins):
                return web.Response(status=204)
            return await handler(request)

        return guard

    def check(self, request: web.BaseRequest) -> None:
        """Refuse a request that a page may not send. Raises ``UnknownHost`` or ``OriginRefused``."""
        host = request.headers.get(hdrs.HOST)
        if host and _is_on_loopback(request) and not self._hosts.include(host) and not self._proxied(request):
            raise UnknownHost(
                f"{host} is not a name of this server. If it should be, add it with public-name. "
                "For a proxy in front of the server, set trusted-proxy."
            )
        origin, site = request.headers.get(hdrs.ORIGIN), request.headers.get("Sec-Fetch-Site")
        if origin is site is None or (origin is not None and _is_allowed(origin, self._origins)):
            return
        if request.method in _SAFE_METHODS and not _is_preflight(request):
            return
        if is_cross_site(site, origin, own_origin(request.scheme, request.headers, proxied=self._proxied(request))):
            page = "another site" if origin is None else f"the origin {origin}"
            log.warning("refused %s %s for a page of %r", request.method, request.rel_url.raw_path, origin or site)
            raise OriginRefused(
                f"The request comes from a page of {page}, which may not use this server. "
                "To permit an origin, set allow-origin."
            )

    def add_fields(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Put the fields of CORS on an answer, in place of the upload API's."""
        if not self._origins:
            return
        exposed = response.headers.getall("Access-Control-Expose-Headers", [])
        for name in {name for name in response.headers if name.lower().startswith("access-control-")}:
            response.headers.popall(name, None)
        vary_on_origin(response.headers)
        fields = cors_fields(request.headers.get(hdrs.ORIGIN), self._origins, exposed)
        if fields and _is_preflight(request):
            fields |= preflight_fields(request.headers.get("Access-Control-Request-Headers", ""))
        response.headers.update(fields)


def _is_allowed(origin: str, allowed: Collection[str]) -> bool:
    return origin in allowed or ANY_ORIGIN in allowed


def _is_preflight(request: web.BaseRequest) -> bool:
    """Whether a request asks if another one may be sent (Fetch, section 3.3.1)."""
    asks = hdrs.ORIGIN in request.headers and hdrs.ACCESS_CONTROL_REQUEST_METHOD in request.headers
    return asks and request.method == hdrs.METH_OPTIONS


def _is_on_loopback(request: web.BaseRequest) -> bool:
    here = None if request.transport is None else request.transport.get_extra_info("sockname")
    return isinstance(here, tuple) and _is_loopback(here[0])


@lru_cache(maxsize=1024)
def _is_loopback(address: str) -> bool:
    return ip_address(address.partition("%")[0]).is_loopback


def _first(headers: "MultiMapping[str]", name: str) -> str:
    return next(iter(split_list(headers.get(name, ""))), "")
