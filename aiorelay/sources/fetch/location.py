"""Check which URLs may be fetched, before their hosts are resolved. Pure.

yarl normalises a URL once; the object that is checked here is the object that is dialled.
"""

import re
from ipaddress import IPv6Address, ip_address

from yarl import URL

from aiorelay import errors
from aiorelay.sources.address_rules import HostRules

__all__ = ["check_url", "parse_url", "redirect_target"]

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_AUTHORITY = re.compile(r"[^:/?#]*://([^/?#]*)")
# Longer than any host name and port. IDNA needs seconds for a mebibyte.
_LONGEST_AUTHORITY = 1024
_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*", re.IGNORECASE)
# Such a host is an IPv4 address to getaddrinfo and to browsers (WHATWG URL, "ends in a number").
_ENDS_IN_NUMBER = re.compile(r"(?:.*\.)?(?:[0-9]+|0x[0-9a-f]*)", re.IGNORECASE)
_WELL_KNOWN_PORTS = frozenset({80, 443})
_FIRST_USER_PORT = 1024


def parse_url(text: str) -> URL:
    """Parse a client's URL. Raises ``BadSource``."""
    if _CONTROL.search(text):
        raise errors.BadSource("The source URL contains control characters.")
    if (authority := _AUTHORITY.match(text)) and len(authority[1]) > _LONGEST_AUTHORITY:
        raise errors.BadSource("The source URL's host is too long.")
    try:
        return _checked(URL(text))
    except ValueError:  # the exception's message contains the query
        raise errors.BadSource("The source is not a valid URL.") from None


def check_url(url: URL, rules: HostRules) -> URL:
    """Return ``url`` if it may be fetched.

    Raises ``BadSource`` (not http or https, credentials, no valid host name), ``HostRefused`` (there are rules and none
    names the host) or ``AddressRefused`` (an IPv4 address in another form than four decimal numbers; a port other than
    80, 443 and 1024 to 65535, unless a rule names the host).
    """
    if url.scheme not in ("http", "https"):
        raise errors.BadSource("A source URL must begin with http:// or https://.")
    if "@" in url.raw_authority:
        raise errors.BadSource("A source URL must not contain a user name or password.")
    host = url.raw_host or ""
    _judge_host(host)
    if rules and not rules.names(host):
        raise errors.HostRefused(f"{host} is not on this relay's list of source hosts (--allow-host).")
    port = url.port or 0
    if not rules and port not in _WELL_KNOWN_PORTS and port < _FIRST_USER_PORT:
        raise errors.AddressRefused(f"Port {port} of {host} is not one that sources may have (--allow-host opens it).")
    return url


def redirect_target(url: URL, location: str, rules: HostRules) -> URL:
    """Return the target of a redirect of ``url``, checked as the first URL was.

    Raises what ``check_url`` raises, ``AddressRefused`` for a redirect from https to http, and ``SourceFailed`` if the
    Location is not a URL.
    """
    try:
        target = _checked(url.join(URL(location)))
    except ValueError:
        raise errors.SourceFailed(f"{url.raw_host} redirects to something that is not a URL.") from None
    check_url(target, rules)
    if url.scheme == "https" and target.scheme == "http":
        raise errors.AddressRefused(f"{url.raw_host} redirects from https to http.")
    return target


def _checked(url: URL) -> URL:
    """Drop the fragment, and let yarl parse the authority now, which it may delay. Raises ValueError."""
    whole = url.with_fragment(None)
    _ = whole.raw_host, whole.port
    return whole


def _judge_host(host: str) -> None:
    try:
        literal = ip_address(host)
    except ValueError:
        name = host.removesuffix(".")
    else:
        # aiohttp would drop the zone. Everything else is checked when the address is dialled.
        if isinstance(literal, IPv6Address) and literal.scope_id is not None:
            raise errors.AddressRefused("An IPv6 address with a zone is not dialled.")
        return
    if not _HOST_NAME.fullmatch(name):
        raise errors.BadSource("The source URL has no valid host.")
    if _ENDS_IN_NUMBER.fullmatch(name):
        raise errors.AddressRefused(f"{host} is neither a host name nor an IPv4 address of four decimal numbers.")
