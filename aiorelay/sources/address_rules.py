"""Decide which addresses and hosts a remote source may have (protection against SSRF). Pure.

``refusal`` returns the range for which an address is refused. ``HostRules`` matches a host against the operator's
list. The table contains the special-purpose address registries of IANA (RFC 6890 and its successors), multicast, and
the metadata services of clouds. ``ipaddress.is_global`` is not used: it differs between Python releases and is true
for multicast, NAT64 and site-local addresses.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import TypeAlias

__all__ = ["HostRules", "IPAddress", "IPNetwork", "Listener", "refusal"]

IPAddress: TypeAlias = IPv4Address | IPv6Address
IPNetwork: TypeAlias = IPv4Network | IPv6Network
Listener: TypeAlias = tuple[str, int]
"""Address and port, as returned by ``getsockname()``."""

# The first match is reported, so narrow ranges precede wide ones.
_RANGES: tuple[tuple[str, str], ...] = (
    # Metadata services return credentials of the machine. 168.63.129.16 is routed like a public address.
    ("cloud metadata", "169.254.169.254/32"),  # most clouds
    ("cloud metadata", "169.254.170.2/32"),  # AWS, container tasks
    ("cloud metadata", "169.254.170.23/32"),  # AWS, pod identity
    ("cloud metadata", "169.254.42.42/32"),  # Scaleway
    ("cloud metadata", "169.254.0.23/32"),  # Tencent
    ("cloud metadata", "168.63.129.16/32"),  # Azure
    ("cloud metadata", "100.100.100.200/32"),  # Alibaba
    ("cloud metadata", "192.0.0.192/32"),  # Oracle
    ("cloud metadata", "fd00:ec2::254/128"),  # AWS
    ("cloud metadata", "fd00:ec2::23/128"),  # AWS, pod identity
    ("cloud metadata", "fd20:ce::254/128"),  # Google
    ("cloud metadata", "fd00:42::42/128"),  # Scaleway
    ("cloud metadata", "fd00:c1::a9fe:a9fe/128"),  # Oracle
    # IANA IPv4 Special-Purpose Address Registry
    ("unspecified", "0.0.0.0/32"),
    ("this network", "0.0.0.0/8"),
    ("private-use", "10.0.0.0/8"),
    ("shared address space", "100.64.0.0/10"),
    ("loopback", "127.0.0.0/8"),
    ("link-local", "169.254.0.0/16"),
    ("private-use", "172.16.0.0/12"),
    ("IETF protocol assignments", "192.0.0.0/24"),
    ("documentation", "192.0.2.0/24"),
    ("AS112", "192.31.196.0/24"),
    ("AMT", "192.52.193.0/24"),
    ("6to4 relay anycast", "192.88.99.0/24"),
    ("private-use", "192.168.0.0/16"),
    ("AS112", "192.175.48.0/24"),
    ("benchmarking", "198.18.0.0/15"),
    ("documentation", "198.51.100.0/24"),
    ("documentation", "203.0.113.0/24"),
    ("multicast", "224.0.0.0/4"),
    ("broadcast", "255.255.255.255/32"),
    ("reserved", "240.0.0.0/4"),
    # IANA IPv6 Special-Purpose Address Registry
    ("unspecified", "::/128"),
    ("loopback", "::1/128"),
    ("IPv4-compatible", "::/96"),  # deprecated, RFC 4291 section 2.5.5.1
    ("local NAT64", "64:ff9b:1::/48"),
    ("discard-only", "100::/64"),
    ("dummy prefix", "100:0:0:1::/64"),
    ("Teredo", "2001::/32"),
    ("benchmarking", "2001:2::/48"),
    ("AMT", "2001:3::/32"),
    ("AS112", "2001:4:112::/48"),
    ("ORCHID", "2001:10::/28"),
    ("ORCHIDv2", "2001:20::/28"),
    ("drone remote identification", "2001:30::/28"),
    ("IETF protocol assignments", "2001::/23"),
    ("documentation", "2001:db8::/32"),
    ("6to4", "2002::/16"),
    ("AS112", "2620:4f:8000::/48"),
    ("documentation", "3fff::/20"),
    ("segment routing", "5f00::/16"),
    ("unique local", "fc00::/7"),
    ("link-local", "fe80::/10"),
    ("site-local", "fec0::/10"),  # deprecated, RFC 3879
    ("multicast", "ff00::/8"),
)
_TABLE: tuple[tuple[str, IPNetwork], ...] = tuple((name, ip_network(block)) for name, block in _RANGES)

_GLOBAL_UNICAST = IPv6Network("2000::/3")  # all that IANA assigns; the rest of IPv6 is unassigned or special
_IPV4_MAPPED = IPv6Network("::ffff:0:0/96")
_NAT64 = IPv6Network("64:ff9b::/96")  # RFC 6052; gives IPv6-only hosts access to IPv4


def _assumed_local(_address: IPAddress) -> bool:
    return True


def refusal(
    address: str | IPAddress,
    port: int,
    *,
    allowed: Sequence[IPNetwork] = (),
    own: Collection[Listener] = (),
    local: Callable[[IPAddress], bool] = _assumed_local,
) -> str | None:
    """Return the range for which ``address`` is refused, or None if it is allowed. The result never names the address.

    An IPv4-mapped or NAT64 address is treated as the IPv4 address embedded in it. Addresses in ``allowed`` are always
    allowed, including metadata services and the relay's own listeners, unless they have a zone. ``own`` are the relay's
    listeners. A listener on the unspecified address accepts at every address for which ``local`` is true; by default
    that is any address. A string that is not an IP address is refused.
    """
    try:
        given = ip_address(address)
    except ValueError:
        return "not an IP address"
    if isinstance(given, IPv6Address) and given.scope_id is not None:
        return "scoped address"
    effective = _unwrap_ipv4(given)
    if any(given in network or effective in network for network in allowed):
        return None
    if any(_is_listener(effective, port, listener, local) for listener in own):
        return "the relay's own listener"
    return _named_range(effective)


def _unwrap_ipv4(address: IPAddress) -> IPAddress:
    """Return the IPv4 address embedded in an IPv4-mapped or NAT64 address, or the address itself."""
    if address in _IPV4_MAPPED or address in _NAT64:
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


def _is_listener(address: IPAddress, port: int, listener: Listener, local: Callable[[IPAddress], bool]) -> bool:
    if port != listener[1]:
        return False
    bound = _unwrap_ipv4(ip_address(listener[0].partition("%")[0]))
    return address == bound or (bound.is_unspecified and local(address))


def _named_range(address: IPAddress) -> str | None:
    for name, network in _TABLE:
        if address in network:
            return f"{name} {network}" if network.num_addresses > 1 else name
    if isinstance(address, IPv4Address):
        return None
    if address not in _GLOBAL_UNICAST:
        return f"outside of global unicast {_GLOBAL_UNICAST}"
    # RFC 5214, section 6.1: an IPv4 address follows an interface identifier of 0000:5efe or 0200:5efe.
    # The mask ignores the universal and group bits.
    if (int(address) >> 32) & 0xFCFF_FFFF == 0x0000_5EFE:
        return "ISATAP"
    return None


class HostRules:
    """The operator's list of hosts. ``example.org`` matches that name, ``*.example.org`` any subdomain.

    Patterns and hosts are in ASCII (IDNA A-labels), as the settings and yarl return them. The comparison ignores case
    and a final dot.
    """

    def __init__(self, patterns: Iterable[str]) -> None:
        names = [_plain(pattern) for pattern in patterns]
        self._exact = frozenset(name for name in names if not name.startswith("*."))
        self._below = tuple(name[1:] for name in names if name.startswith("*."))

    def __bool__(self) -> bool:
        """Whether there are any rules; without rules every host is allowed."""
        return bool(self._exact or self._below)

    def names(self, host: str) -> bool:
        """Whether a rule matches ``host``, a host name or an IP address."""
        name = _plain(host)
        return name in self._exact or any(name.endswith(suffix) and name != suffix for suffix in self._below)


def _plain(host: str) -> str:
    return host.lower().removesuffix(".")
