"""The addresses and hosts that a remote source may have."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from yarl import URL

from aiorelay.settings.places import HOST_PATTERN
from aiorelay.sources.address_rules import HostRules, refusal

# Name, first and last address of each block, and the nearest allowed addresses before and after it, or None.
BLOCKS = [
    ("this network", "0.0.0.1", "0.255.255.255", None, "1.0.0.0"),
    ("private-use", "10.0.0.0", "10.255.255.255", "9.255.255.255", "11.0.0.0"),
    ("shared address space", "100.64.0.0", "100.127.255.255", "100.63.255.255", "100.128.0.0"),
    ("loopback", "127.0.0.0", "127.255.255.255", "126.255.255.255", "128.0.0.0"),
    ("link-local", "169.254.0.0", "169.254.255.255", "169.253.255.255", "169.255.0.0"),
    ("private-use", "172.16.0.0", "172.31.255.255", "172.15.255.255", "172.32.0.0"),
    ("IETF protocol assignments", "192.0.0.0", "192.0.0.255", "191.255.255.255", "192.0.1.0"),
    ("documentation", "192.0.2.0", "192.0.2.255", "192.0.1.255", "192.0.3.0"),
    ("AS112", "192.31.196.0", "192.31.196.255", "192.31.195.255", "192.31.197.0"),
    ("AMT", "192.52.193.0", "192.52.193.255", "192.52.192.255", "192.52.194.0"),
    ("6to4 relay anycast", "192.88.99.0", "192.88.99.255", "192.88.98.255", "192.88.100.0"),
    ("private-use", "192.168.0.0", "192.168.255.255", "192.167.255.255", "192.169.0.0"),
    ("AS112", "192.175.48.0", "192.175.48.255", "192.175.47.255", "192.175.49.0"),
    ("benchmarking", "198.18.0.0", "198.19.255.255", "198.17.255.255", "198.20.0.0"),
    ("documentation", "198.51.100.0", "198.51.100.255", "198.51.99.255", "198.51.101.0"),
    ("documentation", "203.0.113.0", "203.0.113.255", "203.0.112.255", "203.0.114.0"),
    ("multicast", "224.0.0.0", "239.255.255.255", "223.255.255.255", None),
    ("reserved", "240.0.0.0", "255.255.255.254", None, None),
    ("cloud metadata", "168.63.129.16", "168.63.129.16", "168.63.129.15", "168.63.129.17"),
    ("outside of global unicast", "1::", "1fff:ffff::", None, "2000::"),
    ("Teredo", "2001::", "2001:0:ffff:ffff:ffff:ffff:ffff:ffff", "2000:ffff::", None),
    ("IETF protocol assignments", "2001:1::", "2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff", None, "2001:200::"),
    ("documentation", "2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db7:ffff::1", "2001:db9::"),
    ("6to4", "2002::", "2002:ffff:ffff:ffff:ffff:ffff:ffff:ffff", "2001:ffff::1", "2003::"),
    ("AS112", "2620:4f:8000::", "2620:4f:8000:ffff:ffff:ffff:ffff:ffff", "2620:4f:7fff::1", "2620:4f:8001::"),
    ("documentation", "3fff::", "3fff:fff:ffff:ffff:ffff:ffff:ffff:ffff", "3ffe:ffff::1", "3fff:1000::"),
    ("outside of global unicast", "4000::", "fbff:ffff::", "3fff:ffff::", None),
]


@pytest.mark.parametrize(("name", "first", "last", "below", "above"), BLOCKS)
def test_block_is_refused_from_its_first_address_to_its_last(
    name: str, first: str, last: str, below: str | None, above: str | None
) -> None:
    assert (refusal(first, 80) or "").startswith(name)
    assert (refusal(last, 80) or "").startswith(name)
    for neighbour in filter(None, (below, above)):
        assert refusal(neighbour, 80) is None


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("unspecified", "0.0.0.0"),
        ("broadcast", "255.255.255.255"),
        ("loopback 127.0.0.0/8", "127.0.0.1"),
        ("cloud metadata", "169.254.169.254"),
        ("cloud metadata", "169.254.170.2"),
        ("cloud metadata", "168.63.129.16"),
        ("cloud metadata", "100.100.100.200"),
        ("cloud metadata", "192.0.0.192"),
        ("cloud metadata", "fd00:ec2::254"),
        ("cloud metadata", "fd20:ce::254"),
        ("unspecified", "::"),
        ("loopback", "::1"),
        ("IPv4-compatible ::/96", "::127.0.0.1"),
        ("IPv4-compatible ::/96", "::8.8.8.8"),
        ("local NAT64 64:ff9b:1::/48", "64:ff9b:1::808:808"),
        ("outside of global unicast 2000::/3", "64:ff9b:2::808:808"),
        ("outside of global unicast 2000::/3", "::ffff:0:8.8.8.8"),
        ("discard-only 100::/64", "100::1"),
        ("dummy prefix 100:0:0:1::/64", "100:0:0:1::1"),
        ("benchmarking 2001:2::/48", "2001:2::1"),
        ("AMT 2001:3::/32", "2001:3::1"),
        ("AS112 2001:4:112::/48", "2001:4:112::1"),
        ("ORCHID 2001:10::/28", "2001:1f::1"),
        ("ORCHIDv2 2001:20::/28", "2001:20::1"),
        ("drone remote identification 2001:30::/28", "2001:3f::1"),
        ("Teredo 2001::/32", "2001:0:808:808::1"),
        ("6to4 2002::/16", "2002:808:808::1"),
        ("segment routing 5f00::/16", "5f00::1"),
        ("unique local fc00::/7", "fdff::1"),
        ("link-local fe80::/10", "fe80::1"),
        ("site-local fec0::/10", "fec0::1"),
        ("multicast ff00::/8", "ff02::1"),
        ("scoped address", "fe80::1%eth0"),
        ("scoped address", "2606:4700::1111%1"),
        ("ISATAP", "2606:4700::5efe:7f00:1"),
        ("ISATAP", "2606:4700::200:5efe:808:808"),
        ("not an IP address", "localhost"),
        ("not an IP address", "127.1"),
        ("not an IP address", "0177.0.0.1"),
        ("not an IP address", "127.0.0.1."),
        ("not an IP address", ""),
    ],
)
def test_refusal_names_the_narrowest_range_but_no_address(name: str, address: str) -> None:
    assert refusal(address, 80) == name


@pytest.mark.parametrize(
    "address",
    [
        "8.8.8.8",
        "168.63.129.17",
        "2606:4700:4700::1111",
        "2606:4700::5eff:808:808",
        "2606:4700::5efd:808:808",
        "2606:4700::400:5efe:808:808",
    ],
)
def test_public_address_may_be_dialled(address: str) -> None:
    assert refusal(address, 443) is None
    assert refusal(ip_address(address), 443) is None


@pytest.mark.parametrize("prefix", ["::ffff:", "64:ff9b::"])
def test_mapped_and_nat64_addresses_are_treated_as_the_embedded_address(prefix: str) -> None:
    assert refusal(f"{prefix}8.8.8.8", 80) is None
    assert refusal(f"{prefix}127.0.0.1", 80) == "loopback 127.0.0.0/8"
    assert refusal(f"{prefix}169.254.169.254", 80) == "cloud metadata"
    assert refusal(f"{prefix}10.1.2.3", 80, allowed=[ip_network("10.1.0.0/16")]) is None
    assert refusal(f"{prefix}10.2.2.3", 80, allowed=[ip_network("10.1.0.0/16")]) == "private-use 10.0.0.0/8"


@pytest.mark.parametrize("address", ["2002:7f00:1::1", "2001:0:7f00:1::1", "::127.0.0.1", "64:ff9b:1::7f00:1"])
def test_other_transition_addresses_stay_refused_if_the_embedded_ipv4_is_allowed(address: str) -> None:
    assert refusal(address, 80, allowed=[ip_network("127.0.0.0/8")])


def test_allowed_network_allows_only_its_addresses() -> None:
    allowed = [ip_network("10.1.0.0/16"), ip_network("fd00:1::/32")]
    assert refusal("10.1.255.255", 80, allowed=allowed) is None
    assert refusal("10.2.0.0", 80, allowed=allowed) == "private-use 10.0.0.0/8"
    assert refusal("fd00:1:ffff::1", 80, allowed=allowed) is None
    assert refusal("fd00:2::1", 80, allowed=allowed) == "unique local fc00::/7"


def test_allowed_network_opens_the_metadata_address_inside_it() -> None:
    assert refusal("169.254.169.254", 80, allowed=[ip_network("169.254.0.0/16")]) is None


def test_allowed_network_opens_no_scoped_address() -> None:
    assert refusal("fe80::1%lo", 80, allowed=[ip_network("fe80::/10")]) == "scoped address"


OWN = "the relay's own listener"


def test_own_listener_on_a_public_address_is_refused_at_its_port_alone() -> None:
    own = {("9.9.9.9", 8000), ("2606:4700::1", 8001)}
    assert refusal("9.9.9.9", 8000, own=own) == OWN
    assert refusal("9.9.9.9", 8001, own=own) is None
    assert refusal("9.9.9.8", 8000, own=own) is None
    assert refusal("2606:4700::1", 8001, own=own) == OWN
    assert refusal("::ffff:9.9.9.9", 8000, own=own) == OWN


@pytest.mark.parametrize("bound", ["0.0.0.0", "::", "::ffff:0.0.0.0"])
def test_listener_on_every_address_is_refused_at_the_addresses_of_this_machine(bound: str) -> None:
    def local(address: IPv4Address | IPv6Address) -> bool:
        return address == IPv4Address("9.9.9.9")

    assert refusal("9.9.9.9", 8000, own={(bound, 8000)}, local=local) == OWN
    assert refusal("9.9.9.8", 8000, own={(bound, 8000)}, local=local) is None
    assert refusal("9.9.9.9", 80, own={(bound, 8000)}, local=local) is None
    assert refusal("9.9.9.8", 8000, own={(bound, 8000)}) == OWN


@pytest.mark.parametrize("bound", ["127.0.0.1", "0.0.0.0"])
def test_own_listener_is_opened_by_the_network_of_its_address(bound: str) -> None:
    own = {(bound, 8000)}
    assert refusal("127.0.0.1", 8000, own=own, allowed=[ip_network("127.0.0.0/8")]) is None
    assert refusal("127.0.0.1", 8000, own=own, allowed=[ip_network("10.0.0.0/8")]) == OWN


@pytest.mark.parametrize(
    ("pattern", "host"),
    [
        ("example.org", "example.org"),
        ("Example.ORG.", "example.org"),
        ("example.org", "EXAMPLE.org."),
        ("*.example.org", "a.example.org"),
        ("*.example.org", "a.b.example.org"),
        ("127.0.0.1", "127.0.0.1"),
    ],
)
def test_host_rule_matches(pattern: str, host: str) -> None:
    assert HostRules([pattern]).names(host)


@pytest.mark.parametrize(
    ("pattern", "host"),
    [
        ("example.org", "a.example.org"),
        ("example.org", "example.org.evil.example"),
        ("example.org", "badexample.org"),
        ("*.example.org", "example.org"),
        ("*.example.org", ".example.org"),
        ("*.example.org", "badexample.org"),
        ("*.example.org", "a.example.org.evil.example"),
        ("127.0.0.1", "127.0.0.11"),
    ],
)
def test_host_rule_does_not_match(pattern: str, host: str) -> None:
    assert not HostRules([pattern]).names(host)


@pytest.mark.parametrize(
    ("pattern", "host", "named"),
    [
        ("bücher.example", "xn--bcher-kva.example", True),
        ("xn--bcher-kva.example", "BÜCHER.example", True),
        ("*.BÜCHER.example", "a.bücher.example", True),
        ("faß.example", "faß.example", True),
        ("faß.example", "fass.example", False),
        ("日本。example", "日本.example", True),
        ("\uff45xample\uff0eorg", "example.org", True),
        ("example.org", "example\uff61org", True),
        ("[::1]", "[0:0::1]", True),
    ],
)
def test_a_setting_and_a_url_spell_a_host_alike(pattern: str, host: str, *, named: bool) -> None:
    assert HostRules([HOST_PATTERN.accept(pattern)]).names(URL(f"https://{host}/").raw_host) is named


def test_no_rules_are_false() -> None:
    assert not HostRules([])
    assert HostRules(["*.example.org"])
