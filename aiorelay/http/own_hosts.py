"""Which Host fields name this server. Pure.

A page can make its own name resolve to the loopback (DNS rebinding), and browsers then take this server for a part of
its site. The Host still has the name of the page.
"""

import ipaddress
import re
from collections.abc import Iterable
from functools import lru_cache

__all__ = ["OwnHosts"]

_HOST = re.compile(r"(\[[^\]]*\]|[^:]*)(?::[0-9]*)?")  # RFC 9110, section 7.2
# RFC 6761, section 6.3: names below localhost always resolve to the loopback.
_LOCAL = ("localhost", "*.localhost")


class OwnHosts:
    """The ``names`` and addresses of a server, and those of the loopback.

    A name that begins with ``*.`` matches names with one more label, as in a certificate (RFC 6125).
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(name.lower() for name in (*_LOCAL, *names))

    def include(self, host: str) -> bool:
        """Whether ``host``, a field value with or without a port, names the server."""
        match = _HOST.fullmatch(host)
        name = match[1].strip("[]").lower().removesuffix(".") if match else ""
        return name in self._names or f"*.{name.partition('.')[2]}" in self._names or _is_loopback(name)


@lru_cache(maxsize=1024)
def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
