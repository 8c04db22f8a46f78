"""Settings: parsing of text and typed values, and the messages for wrong values."""

import contextlib
import dataclasses
import itertools
import os
import socket
import sys
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from aiorelay.errors import StartupError
from aiorelay.settings import SETTINGS, ArchiveLimits, Settings, SettingsError, find_file, read
from aiorelay.settings.kinds import show_size, show_time, size, time

SIZES = [
    ("500", 500),
    ("500B", 500),
    ("64KiB", 65536),
    ("64kib", 65536),
    ("64 KiB", 65536),
    (" 64KiB\n", 65536),
    ("2GiB", 2 * 2**30),
    ("3TiB", 3 * 2**40),
    ("1KB", 1000),
    ("1GB", 10**9),
    ("1.5GiB", 3 * 2**29),
    ("0.5KiB", 512),
    ("1", 1),
    (1, 1),
    ("9223372036854775807", 2**63 - 1),
]

NOT_SIZES = [
    *("", " ", "12 parsecs", "-1", "+1", "1_000", "0x10", "1e3", "KiB", "1,5KiB", "1.KiB", ".5KiB", "5  KiB"),
    *("64K", "10m", "1Kibit", "٣", "1\u202fKiB", "9" * 5000, "5KiB;", "inf"),
    *(-1, 1.5, True, b"500", [500]),
]

TIMES = [
    ("30s", 30.0),
    ("500ms", 0.5),
    ("100ms", 0.1),
    ("5m", 300.0),
    ("1h", 3600.0),
    ("1.5h", 5400.0),
    ("0.1s", 0.1),
    ("30", 30.0),
    ("5 M", 300.0),
    ("1ms", 0.001),
    (30, 30.0),
    (0.5, 0.5),
    (10**9, 1e9),
]

NOT_TIMES = [
    *("", "1d", "-1s", "soon", "1:30", "nan", "inf", "9" * 5000, "1e3s", "0", "0s", "0.9ms", "9999999999s"),
    *(0, -1, True, None.__class__, float("nan"), float("inf"), 10**400, 0.0001),
]


def fault(**values: object) -> str:
    with pytest.raises(SettingsError) as caught:
        Settings(**values)
    return str(caught.value)


@pytest.mark.parametrize(("text", "value"), SIZES)
def test_size_is_read_as_whole_bytes(text: object, value: int) -> None:
    assert Settings(max_size=text).max_size == value


@pytest.mark.parametrize("text", NOT_SIZES)
def test_invalid_size_is_refused(text: object) -> None:
    assert "is not a size (argument max_size); try 500, 64KiB or 2GiB" in fault(max_size=text)


@pytest.mark.parametrize("text", ["0.3KiB", "1.5", "0.0000000001GB"])
def test_size_with_a_fraction_of_a_byte_is_refused(text: str) -> None:
    assert "is not a whole number of bytes" in fault(max_size=text)


@pytest.mark.parametrize("text", ["9223372036854775808", 2**63, "999999999999999999TiB"])
def test_size_beyond_any_file_is_refused(text: object) -> None:
    assert "is larger than any file" in fault(max_size=text)


def test_zero_is_accepted_for_some_sizes_only() -> None:
    settings = Settings(max_fields_size="0", min_rate=0)
    assert (settings.max_fields_size, settings.min_rate) == (0, 0)
    assert "is less than 1" in fault(max_size="0")


@pytest.mark.parametrize(("text", "value"), TIMES)
def test_time_is_read_as_seconds(text: object, value: float) -> None:
    seconds = Settings(idle_timeout=text).idle_timeout
    assert isinstance(seconds, float)
    assert seconds == value


@pytest.mark.parametrize("text", NOT_TIMES)
def test_invalid_time_is_refused(text: object) -> None:
    assert "time (argument idle_timeout); try 30s, 500ms or 5m" in fault(idle_timeout=text)


def test_grace_may_be_zero() -> None:
    assert Settings(grace="0").grace == 0
    assert Settings(grace=0.0).grace == 0
    assert "is too short a time" in fault(grace="0.5ms")


@given(st.integers(min_value=0, max_value=2**63 - 1))
def test_shown_size_is_read_as_the_same_size(value: int) -> None:
    assert size(least=0).accept(show_size(value)) == value


@given(st.sampled_from(["KiB", "MiB", "GiB", "KB", "MB", "GB"]), st.integers(min_value=1, max_value=999))
@example("KB", 128)  # shown as 125KiB, which is longer
def test_round_size_is_shown_with_a_small_number(unit: str, number: int) -> None:
    shown = show_size(size(least=0).accept(f"{number}{unit}"))
    assert int(shown.rstrip("TGMKiB")) <= number


@given(st.floats(min_value=0.001, max_value=1e9))
def test_shown_time_is_read_as_the_same_time(seconds: float) -> None:
    assert time().accept(show_time(seconds)) == seconds


@given(st.integers(min_value=1, max_value=10**9))
def test_shown_time_in_milliseconds_is_read_as_the_same_time(milliseconds: int) -> None:
    shown = show_time(milliseconds / 1000)
    assert "." not in shown
    assert time().accept(shown) == milliseconds / 1000


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0, "0s"), (0.5, "500ms"), (1, "1s"), (60, "60s"), (90, "90s"), (120, "2m"), (3600, "60m"), (7200, "2h")],
)
def test_time_is_shown_as_a_person_would_write_it(seconds: float, shown: str) -> None:
    assert show_time(seconds) == shown


@pytest.mark.parametrize(
    "name", ["max_size", "idle_timeout", "rest1_port", "allow_net", "clamd", "upstream", "host", "allow_origin"]
)
@given(text=st.text(max_size=20))
def test_any_text_is_a_value_or_a_settings_error(name: str, text: str) -> None:
    with contextlib.suppress(SettingsError):
        Settings(**{name: text})


@pytest.mark.parametrize(("text", "port"), [("0", 0), ("65535", 65535), (8443, 8443), (" 80 ", 80)])
def test_port_goes_from_0_to_65535(text: object, port: int) -> None:
    assert Settings(rest1_port=text).rest1_port == port


@pytest.mark.parametrize("text", ["http", "", "80.0", True, 80.0, "9" * 5000, "٣"])
def test_invalid_port_is_refused(text: object) -> None:
    assert "is not a port" in fault(rest1_port=text)


@pytest.mark.parametrize("text", ["65536", "-1", -1, 65536, "999999999999"])
def test_a_port_out_of_range_is_refused(text: object) -> None:
    assert "is out of range (argument rest1_port); it goes from 0 to 65535" in fault(rest1_port=text)


def test_counts_start_at_one() -> None:
    assert Settings(max_parts="1").max_parts == 1
    assert "is out of range (argument max_parts); it goes from 1" in fault(max_parts="0")


@pytest.mark.parametrize(
    ("text", "network"),
    [
        ("10.0.0.0/8", IPv4Network("10.0.0.0/8")),
        ("192.168.1.7", IPv4Network("192.168.1.7/32")),
        ("::1", IPv6Network("::1/128")),
        (" fd00::/8 ", IPv6Network("fd00::/8")),
        (IPv4Network("10.0.0.0/8"), IPv4Network("10.0.0.0/8")),
        (IPv4Address("10.0.0.1"), IPv4Network("10.0.0.1/32")),
    ],
)
def test_network_is_read(text: object, network: object) -> None:
    assert Settings(allow_net=text).allow_net == (network,)


@pytest.mark.parametrize("text", ["", "10/8", "10.0.0.0/33", "example.org", "fe80::%eth0/64", "010.0.0.0/8", 10, None])
def test_invalid_network_is_refused(text: object) -> None:
    assert "is not a network" in fault(allow_net=[text])


def test_a_network_with_host_bits_is_refused_and_the_network_is_suggested() -> None:
    assert fault(allow_net="10.0.0.1/8") == (
        "allow-net: '10.0.0.1/8' is an address in a network, not a network (argument allow_net); "
        "the network is 10.0.0.0/8."
    )


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::", "::"),
        ("[::1]", "::1"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("LocalHost", "localhost"),
        ("my_box.example.org.", "my_box.example.org"),
        ("bücher.example", "xn--bcher-kva.example"),
        (IPv4Address("127.0.0.1"), "127.0.0.1"),
    ],
)
def test_host_is_an_address_or_a_name(text: object, host: str) -> None:
    assert Settings(host=text).host == host


@pytest.mark.parametrize(
    "text",
    [
        *("", ".", "a..b", "-a", "a-", "a b", "localhost:8000", "256.1.1.1", "127.1", "[::1", "[name]", "*.a.org"),
        *("a\n", "a/b", "x" * 64, "a." * 127 + "ab", "\u2615.\x00", "ü" * 80, 1, None.__class__),
    ],
)
def test_invalid_host_is_refused(text: object) -> None:
    assert "is not a host" in fault(host=text)


def test_allowed_hosts_may_be_patterns_of_subdomains() -> None:
    assert Settings(allow_host=["*.Example.org", "10.0.0.1"]).allow_host == ("*.example.org", "10.0.0.1")
    for text in ("*", "*.", "a.*.org", "**.org"):
        assert "is not a host" in fault(allow_host=text)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("*.example.org", "*.example.org"),
        ("LOCALHOST", "localhost"),
        ("relay.example.", "relay.example"),
        ("Bücher.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("*.bücher.example", "*.xn--bcher-kva.example"),
        ("0:0:0:0:0:0:0:1", "::1"),
        ("2001:DB8::1", "2001:db8::1"),
    ],
)
def test_certificate_names_are_held_in_canonical_form(text: str, name: str) -> None:
    assert Settings(tls_name=text).tls_name == (name,)


@pytest.mark.parametrize("text", ["my_box", "fe80::1%eth0", "xn--a.example", "*.xn--a.example", "ab--cd.example"])
def test_certificate_names_that_a_certificate_cannot_contain_are_refused(text: str) -> None:
    assert "cannot be in a certificate" in fault(tls_name=text)


@pytest.mark.parametrize("text", ["", ".", "*", "a b", "a..b", "-a", "x" * 64, "a@b.example", "10.0.0.0/8", "*.*.a"])
def test_what_is_no_host_is_no_certificate_name(text: str) -> None:
    assert "is not a host" in fault(tls_name=text)


def test_certificate_names_include_this_machine_by_default() -> None:
    names = Settings().tls_name
    assert names[:3] == ("localhost", "127.0.0.1", "::1")
    assert set(names[3:]) <= {socket.gethostname().lower()}


@pytest.mark.parametrize(
    ("text", "origin"),
    [
        ("https://app.example.org", "https://app.example.org"),
        ("HTTPS://App.Example.org:443", "https://app.example.org"),
        ("http://localhost:5173", "http://localhost:5173"),
        ("http://localhost:080", "http://localhost"),
        ("https://app.example.org:80", "https://app.example.org:80"),
        ("https://bücher.example", "https://xn--bcher-kva.example"),
        ("https://[0:0::1]:8000", "https://[::1]:8000"),
        ("https://192.0.2.1", "https://192.0.2.1"),
        ("capacitor://localhost", "capacitor://localhost"),
        ("chrome-extension://abcdefghijklmnop", "chrome-extension://abcdefghijklmnop"),
        (" * ", "*"),
    ],
)
def test_origin_is_written_as_browsers_write_it(text: object, origin: str) -> None:
    assert Settings(allow_origin=text).allow_origin == (origin,)
    assert Settings(allow_origin=[origin]).allow_origin == (origin,)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not an origin"),
        ("app.example.org", "is not an origin"),
        ("app.example.org:443", "is not an origin"),
        ("//app.example.org", "is not an origin"),
        ("https://", "is not an origin"),
        ("file://", "is not an origin"),
        ("https://app.example.org?", "is not an origin"),
        ("https://me@app.example.org", "is not an origin"),
        ("https://app.example.org:0", "is not an origin"),
        ("https://app.example.org:65536", "is not an origin"),
        ("https://256.1.1.1", "is not an origin"),
        ("https://a b", "is not an origin"),
        ("https://a, https://b", "is not an origin"),
        ("https://app.example.org/", "has a path"),
        ("https://app.example.org:8443/a", "has a path"),
        ("https://*.example.org", "has a wildcard"),
        ("null", "is the origin of all sandboxed pages"),
        ("NULL", "is the origin of all sandboxed pages"),
        (7, "is not an origin"),
    ],
)
def test_invalid_origin_is_refused(text: object, reason: str) -> None:
    assert reason in fault(allow_origin=text)
    assert "https://app.example.org" in fault(allow_origin=text) or "name each origin" in fault(allow_origin=text)


def test_not_every_origin_may_use_client_certificates(tmp_path: Path) -> None:
    assert "name the origins" in fault(allow_origin=["https://a.example", "*"], client_ca=tmp_path / "ca.pem")
    assert Settings(allow_origin="https://a.example", client_ca=tmp_path / "ca.pem").client_ca


def test_public_names_may_be_names_patterns_and_addresses() -> None:
    given = ["Relay.Example.org", "*.example.net", "[2001:db8::1]"]
    assert Settings(public_name=given).public_name == ("relay.example.org", "*.example.net", "2001:db8::1")
    assert "is not a host" in fault(public_name="relay.example.org:8000")


def test_path_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert Settings(store="kept").store == tmp_path / "kept"
    assert Settings(store=Path("~/kept")).store == tmp_path / "home" / "kept"


@pytest.mark.parametrize("text", ["", "a\0b", 1, b"x"])
def test_invalid_path_is_refused(text: object) -> None:
    assert "is not a path" in fault(store=text)


def test_home_directory_of_an_unknown_user_is_refused() -> None:
    assert "cannot be made an absolute path" in fault(store="~no-such-user-here/x")


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://uploads.example.org/upload", "https://uploads.example.org/upload"),
        ("HTTP://[::1]:8001/up/load?tenant=7&x=%2F", "http://[::1]:8001/up/load?tenant=7&x=%2F"),
        ("http://example.org", "http://example.org"),
        (URL("https://example.org/u"), "https://example.org/u"),
    ],
)
def test_upstream_is_an_http_url(text: object, url: str) -> None:
    assert Settings(upstream=text).upstream == URL(url, encoded=True)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "is not an http or https URL"),
        ("example.org/upload", "is not an http or https URL"),
        ("localhost:8001/upload", "is not an http or https URL"),
        ("ftp://example.org/", "is not an http or https URL"),
        ("//example.org/", "is not an http or https URL"),
        ("http://", "has no usable host"),
        ("http:///upload", "has no usable host"),
        ("http://example.org:0/", "has no usable port"),
        ("http://example.org:99999/", "is not a URL"),
        ("http://example.org:http/", "is not a URL"),
        ("http://[::1/", "is not a URL"),
        ("http://exa mple.org/", "is not a URL"),
        ("http://example.org/\r\nX: y", "is not a URL"),
        ("http://example.org\\@evil.example/", "is not a URL"),
        ("http://example.org/#top", "has a fragment"),
        ("http://example.org/#", "has a fragment"),
        (7, "is not a URL"),
    ],
)
def test_invalid_upstream_is_refused(text: object, reason: str) -> None:
    assert reason in fault(upstream=text)


@pytest.mark.parametrize(
    "text",
    [
        "https://me:s3cret@example.org/",
        "https://me:s3c/s3cret@example.org/",
        "s3cret@example.org",
        "ftp://example.org/?key=s3cret",
    ],
)
def test_credentials_in_an_upstream_are_refused_and_not_repeated(text: str) -> None:
    assert "s3cret" not in fault(upstream=text)
    assert "***" in fault(upstream=text)


@pytest.mark.parametrize(
    ("text", "pair"),
    [
        ("Authorization: Bearer x", ("Authorization", "Bearer x")),
        ("X-Empty:", ("X-Empty", "")),
        ("X: a:b\tc ", ("X", "a:b\tc")),
        ("X: ü", ("X", "ü")),
        (("X", "y"), ("X", "y")),
    ],
)
def test_header_is_a_name_and_a_value(text: object, pair: tuple[str, str]) -> None:
    assert Settings(upstream_header=[text]).upstream_header == (pair,)


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("100/1m", (100, 60.0)),
        ("1/500ms", (1, 0.5)),
        (" 7 / 2 h ", (7, 7200.0)),
        ((5, 60), (5, 60.0)),
    ],
    ids=str,
)
def test_a_rate_is_a_number_and_a_time(text: object, rate: tuple[int, float]) -> None:
    kind = SETTINGS["rate_limit"].kind
    assert kind.accept(text) == rate
    assert kind.accept(kind.show(rate)) == rate


@pytest.mark.parametrize("text", ["", "100", "100/", "/1m", "0/1m", "-1/1m", "1.5/1m", "1/0s", "1/1m/1m", 7, (1, 2, 3)])
def test_anything_else_is_no_rate(text: object) -> None:
    assert "is not a rate (argument rate_limit); try 100/1m" in fault(rate_limit=text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("X-Relay-Token", ""),
        ("authorization", ""),
        ("", "is not the name of a header"),
        ("X Token", "is not the name of a header"),
        ("X-Token:", "is not the name of a header"),
        ("Content-Type", "is a header with another use"),
        ("cookie", "is a header with another use"),
        ("Host", "is a header with another use"),
        ("Proxy-Authorization", "is a header with another use"),
    ],
)
def test_the_token_header_is_a_name_without_another_use(text: str, reason: str, tmp_path: Path) -> None:
    if reason:
        assert reason in fault(token_header=text)
    else:
        assert Settings(token_file=tmp_path / "tokens", token_header=text).token_header == text


JWT = {"jwks": "https://login.example.org/jwks", "jwt_issuer": "https://login.example.org", "jwt_audience": "relay"}


@pytest.mark.parametrize(
    "jwks",
    [
        "https://a.example/jwks?x=1",
        "http://127.0.0.1:8080/jwks",
        "http://[::1]/jwks",
        "http://localhost/jwks",
        "/etc/jwks",
    ],
)
def test_keys_come_from_a_url_or_a_file(jwks: str) -> None:
    assert str(Settings(**{**JWT, "jwks": jwks}).jwks) == jwks


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"jwks": "http://login.example.org/jwks"}, "is not encrypted"),
        ({"jwks": "http://127.0.0.1.example.org/jwks"}, "is not encrypted"),
        ({"jwks": "ftp://login.example.org/jwks"}, "is not an http or https URL"),
        ({"jwks": "https://me:s3cret@login.example.org/jwks"}, "contains credentials"),
        ({"jwks": None}, "jwt-issuer: 'https://login.example.org' has no keys to verify it with"),
        ({"jwt_issuer": None}, "is given without jwt-issuer"),
        ({"jwt_audience": None}, "is given without jwt-audience"),
        ({"jwt_scope": "a b"}, "is not one word"),
        ({"jwt_scope": 'a"b'}, "is not one word"),
        ({"jwt_issuer": ""}, "is not one word"),
    ],
    ids=str,
)
def test_the_settings_of_jwts_belong_together(changed: dict[str, str | None], reason: str) -> None:
    assert reason in fault(**{**JWT, **changed})


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        ({"webhook": "https://a.example/"}, "'https://a.example/' is given without a secret"),
        ({"spool": "s3://bucket/a"}, "'s3://bucket/a' is shared by relays that share no state"),
        ({"webhook_secret_file": "/secret"}, "has no receiver"),
        ({"webhook_allow_net": "10.0.0.0/8"}, "has no receiver"),
        ({"webhook": "ftp://a.example/", "webhook_secret_file": "/s"}, "is not an http or https URL"),
        ({"webhook": "https://me:s3cret@a.example/", "webhook_secret_file": "/s"}, "contains credentials"),
    ],
    ids=["no secret", "spool", "secret only", "network only", "scheme", "credentials"],
)
def test_a_setting_without_what_it_belongs_to_is_refused(given: dict[str, str], reason: str) -> None:
    assert reason in fault(**given)
    assert "s3cret" not in fault(**given)


def test_a_token_header_needs_tokens() -> None:
    assert "has no tokens to carry" in fault(token_header="X-Relay-Token")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("s3cret", "is not a header line"),
        ("Two words: s3cret", "is not a header line"),
        (": s3cret", "is not a header line"),
        ("X : s3cret", "is not a header line"),
        (("X", 7), "is not a header line"),
        ("X: s3cret\r\nY: z", "has a control character"),
        ("X: s3cret\0", "has a control character"),
        ("X: s3cret\udcff", "has a control character"),
        ("Content-Length: s3cret", "the relay sets itself"),
        ("transfer-encoding: s3cret", "the relay sets itself"),
        ("Content-Type: s3cret", "the relay sets itself"),
        ("Connection: s3cret", "the relay sets itself"),
    ],
)
def test_invalid_header_is_refused_and_not_repeated(text: object, reason: str) -> None:
    assert reason in fault(upstream_header=[text])
    assert "s3cret" not in fault(upstream_header=[text])


@pytest.mark.parametrize(
    ("text", "scanner"),
    [
        ("127.0.0.1:3310", ("127.0.0.1", 3310)),
        ("[::1]:3310", ("::1", 3310)),
        ("clamav:3310", ("clamav", 3310)),
        ("/run/clamav/clamd.ctl", Path("/run/clamav/clamd.ctl")),
        (Path("/run/clamd"), Path("/run/clamd")),
        (("::1", 3310), ("::1", 3310)),
    ],
)
def test_scanner_is_an_address_or_a_socket(text: object, scanner: object) -> None:
    assert Settings(clamd=text).clamd == scanner
    assert Settings(clamd=SETTINGS["clamd"].show(scanner)).clamd == scanner


@pytest.mark.parametrize("text", ["", "clamav", "clamav:", ":3310", "clamav:0", "clamav:65536", 3310, ("a", "b", "c")])
def test_invalid_scanner_is_refused(text: object) -> None:
    assert "is neither HOST:PORT nor the path of a socket" in fault(clamd=text)


def test_scanner_at_an_ipv6_address_needs_brackets() -> None:
    assert "try [::1]:3310" in fault(clamd="::1:3310")


@pytest.mark.parametrize(
    "text",
    [
        "icap://127.0.0.1:1344/avscan",
        "icaps://scanner.example.org/respmod",
        "icap://[::1]/avscan?allow204=on&sizelimit=off",
        URL("icap://scanner/a/b"),
    ],
)
def test_icap_is_the_url_of_a_service(text: object) -> None:
    assert str(Settings(icap=text).icap) == str(text)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("127.0.0.1:1344", "is not an icap or icaps URL"),
        ("https://scanner/avscan", "is not an icap or icaps URL"),
        ("icap://scanner", "names no service"),
        ("icap://scanner/", "names no service"),
        ("icap:///avscan", "has no usable host"),
        ("icap://scanner:0/avscan", "has no usable port"),
        ("icap://scanner:99999/avscan", "is not a URL"),
        ("icap://scanner/av scan", "is not a URL"),
        ("icap://scanner/avscan#x", "has a fragment"),
        ("icap://user:s3cret@scanner/avscan", "contains credentials"),
        (7, "is not a URL"),
    ],
)
def test_invalid_icap_is_refused(text: object, reason: str) -> None:
    assert reason in fault(icap=text)
    assert "s3cret" not in fault(icap=text)


@pytest.mark.parametrize("text", ["image/*", "application/pdf", ".csv", ".tar.gz", "image/svg+xml", " Image/PNG "])
def test_media_types_and_extensions_are_accepted(text: str) -> None:
    assert Settings(accept=[text]).accept == (text.strip().lower(),)


@pytest.mark.parametrize("text", ["", "csv", "*.csv", "*/*", "*", "image/", "text/csv; charset=utf-8", ".", ". a", 1])
def test_invalid_media_type_or_extension_is_refused(text: object) -> None:
    assert "is neither a media type nor an ending" in fault(accept=[text])


@pytest.mark.parametrize("text", ["collections.abc:Sized", "pathlib:Path.cwd", " csv:reader "])
def test_validator_is_named_by_module_and_name(text: str) -> None:
    assert Settings(validator=text).validator == (text.strip(),)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("no_such_module:name", "needs the module no_such_module, which is not installed"),
        ("csv.deeper:name", "needs the module csv.deeper, which is not installed"),
        ("csv:missing", "does not exist: csv has no missing"),
        ("csv:Dialect.missing", "does not exist: csv has no Dialect.missing"),
        ("csv:QUOTE_ALL", "cannot be called"),
    ],
)
def test_a_missing_validator_is_refused(name: str, says: str) -> None:
    assert fault(validator=name).startswith(f"validator: '{name}' {says} (argument validator); ")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("import a_module_that_is_not_there", "needs the module a_module_that_is_not_there, which is not installed"),
        ("def f(:", "cannot be imported: SyntaxError"),
        ("raise RuntimeError('two\\nlines')", "cannot be imported: RuntimeError: two lines"),
        ("raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
    ],
    ids=["missing import", "no Python", "raises", "exits"],
)
def test_a_validator_that_cannot_be_imported_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, says: str
) -> None:
    (tmp_path / "a_broken_validator.py").write_text(source)
    monkeypatch.delitem(sys.modules, "a_broken_validator", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    sentence = fault(validator="a_broken_validator:name")
    assert says in sentence
    assert "\n" not in sentence


@pytest.mark.parametrize("text", ["", "module", "module:", ":name", "a-b:c", "a.b:c d", "../x:y", 1])
def test_invalid_name_of_a_validator_is_refused(text: object) -> None:
    assert "does not name a validator" in fault(validator=text)


@pytest.mark.parametrize(("text", "value"), [("true", True), ("False", False), (True, True), (False, False)])
def test_switch_is_true_or_false(text: object, value: bool) -> None:  # noqa: FBT001 - a row of the table
    assert Settings(fsync=text).fsync is value


@pytest.mark.parametrize("text", ["", "1", "yes", "on", 1, 0])
def test_invalid_switch_is_refused(text: object) -> None:
    assert "is neither true nor false" in fault(fsync=text)


def test_choice_is_taken_in_either_case() -> None:
    assert Settings(log_level="WARNING").log_level == "warning"
    assert fault(log_level="loud") == (
        "log-level: 'loud' is not on offer (argument log_level); choose debug or info or warning or error."
    )


@pytest.mark.parametrize("text", ["", "a\nb", "a\0", "\udcff", "a\\b", 'a"b', 1])
def test_invalid_field_name_is_refused(text: object) -> None:
    assert "is not a field name" in fault(field=text)


def test_field_name_may_be_in_any_language() -> None:
    assert Settings(field="ファイル 1").field == "ファイル 1"


def test_settings_without_arguments_are_the_documented_defaults() -> None:
    settings = Settings()
    assert (settings.host, settings.rest1_port, settings.rest2_port) == ("127.0.0.1", 8000, 8001)
    assert (settings.max_size, settings.max_parts, settings.max_fields_size) == (10 * 2**30, 100, 2**20)
    assert (settings.max_uploads, settings.idle_timeout, settings.min_rate) == (256, 30, 1024)
    assert (settings.answer_timeout, settings.grace, settings.clamd_timeout) == (60, 30, 60)
    assert (settings.upstream, settings.upstream_header, settings.local_root, settings.accept) == (None, (), (), ())


def test_none_means_the_default() -> None:
    given_none = Settings(**dict.fromkeys(SETTINGS))
    assert given_none == Settings()
    assert hash(given_none) == hash(Settings())


def test_settings_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Settings().host = "::"  # type: ignore[misc]


def test_settings_accept_their_own_values() -> None:
    settings = Settings(
        upstream="https://example.org/u?x=%2F", upstream_header="A: b", clamd="[::1]:1", allow_net="::1", store="x"
    )
    assert dataclasses.replace(settings) == settings
    assert dataclasses.replace(settings, max_size="1KiB").max_size == 1024


def test_repeated_setting_takes_one_value_or_several() -> None:
    assert Settings(local_root="/a").local_root == (Path("/a"),)
    assert Settings(local_root=["/a", Path("/b")]).local_root == (Path("/a"), Path("/b"))
    assert Settings(local_root=()).local_root == ()


def test_shown_text_of_every_plain_default_is_accepted() -> None:
    for setting in SETTINGS.values():
        if setting.otherwise is None:
            assert setting.accept(setting.show(setting.accept(None))) == setting.accept(None)


def test_secrets_are_neither_in_repr_nor_shown() -> None:
    settings = Settings(upstream="https://example.org/?key=s3cret", upstream_header="X: s3cret")
    assert "s3cret" not in repr(settings)
    assert SETTINGS["upstream_header"].show(settings.upstream_header) == "X: ***"
    assert SETTINGS["upstream"].show(settings.upstream) == "https://example.org/?***"


def test_unknown_argument_is_refused_and_the_nearest_name_is_suggested() -> None:
    assert fault(max_sise=5) == ("max_sise: there is no such setting for 5 (argument max_sise); did you mean max_size?")


def test_long_value_is_truncated_in_the_message() -> None:
    assert len(fault(max_size="x" * 10_000)) < 200


def test_settings_error_is_a_startup_error() -> None:
    assert issubclass(SettingsError, StartupError)


def test_durable_depends_on_store_by_default() -> None:
    assert not Settings().durable
    assert Settings(store="/srv/kept").durable
    assert not Settings(store="/srv/kept", fsync=False).durable
    assert Settings(fsync=True).durable


def test_one_archive_limit_turns_the_check_on_with_the_defaults_of_the_others() -> None:
    assert Settings().archive_limits is None
    assert Settings(archive_max_ratio=50).archive_limits == ArchiveLimits(50, 10 * 2**30, 10_000)
    assert Settings(archive_max_entries="7", archive_max_size="1MiB").archive_limits == ArchiveLimits(100, 2**20, 7)


def test_key_without_certificate_is_refused() -> None:
    assert fault(tls_key="/k.pem") == (
        "tls-key: '/k.pem' is a key without a certificate (argument tls_key); give tls-cert as well."
    )
    assert Settings(tls_cert="/c.pem").tls_key is None


def test_both_servers_cannot_have_one_port() -> None:
    assert "8000 is rest1-port too" in fault(rest2_port=8000)
    assert Settings(rest1_port=0, rest2_port=0).rest2_port == 0
    assert Settings(rest2_port=8000, only="rest2").rest2_port == 8000


def test_rest1_alone_needs_an_upload_api() -> None:
    assert fault(only="rest1") == ("only: 'rest1' has no upload API to send to (argument only); give upstream as well.")


LAYERS = [
    ({"max_size": "1"}, {"AIORELAY_MAX_SIZE": "2"}, "max_size = 3", 1, "flag --max-size"),
    ({}, {"AIORELAY_MAX_SIZE": "2"}, "max_size = 3", 2, "environment AIORELAY_MAX_SIZE"),
    ({}, {"AIORELAY_MAX_SIZE": ""}, "max_size = 3", 3, "file relay.toml"),
    ({}, {}, "max_size = '3KiB'", 3072, "file relay.toml"),
    ({}, {"MAX_SIZE": "2"}, "", 10 * 2**30, "default"),
]


@pytest.fixture
def toml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], str]:
    """A function that writes relay.toml to the working directory and returns its name."""
    (tmp_path / "conf").mkdir()
    monkeypatch.chdir(tmp_path / "conf")

    def write(text: str) -> str:
        (tmp_path / "conf" / "relay.toml").write_text(text, encoding="utf-8")
        return "relay.toml"

    return write


@pytest.mark.parametrize(("flags", "environ", "text", "value", "origin"), LAYERS)
def test_a_source_overrides_those_after_it(
    flags: dict[str, str], environ: dict[str, str], text: str, value: int, origin: str, toml: Callable[[str], str]
) -> None:
    settings, origins = read(flags, environ, find_file(toml(text), environ))
    assert settings.max_size == value
    assert origins["max_size"] == origin
    assert set(origins) == set(SETTINGS)


WRONG = [
    ({"max_size": "x"}, {}, "", "max-size: 'x' is not a size (flag --max-size)"),
    ({}, {"AIORELAY_MAX_SIZE": "x"}, "", "max-size: 'x' is not a size (environment AIORELAY_MAX_SIZE)"),
    ({}, {}, "max_size = 'x'", "max-size: 'x' is not a size (file relay.toml)"),
    ({}, {}, "max_size = true", "max-size: True is not a size (file relay.toml)"),
    ({}, {}, "max_size = 2000-01-01", "is not a size (file relay.toml)"),
    ({}, {"AIORELAY_MAX_SZE": "5"}, "", "AIORELAY_MAX_SZE: there is no such setting for '5' (environment)"),
    ({}, {"AIORELAY_MAX_SZE": "5"}, "", "did you mean AIORELAY_MAX_SIZE?"),
    ({}, {"AIORELAY_XYZZY": "s3cret"}, "", "AIORELAY_XYZZY: there is no such setting (environment); aiorelay config"),
    ({}, {}, "max-size = 5", "max-size: there is no such setting for 5 (file relay.toml); did you mean max_size?"),
    ({}, {}, "[serve]\nhost = '::'", "serve: there is no such setting"),
    ({}, {}, '"a\\nb" = 1', "'a\\nb': there is no such setting (file relay.toml)"),
    ({"tls_key": "/k"}, {}, "", "tls-key: '/k' is a key without a certificate (flag --tls-key)"),
    ({}, {"AIORELAY_UPSTREAM_HEADR": "X: s3cret"}, "", "for 'X: ***' (environment)"),
    ({"fsync": False}, {}, "store = 5", "store: 5 is not a path (file relay.toml)"),
]


@pytest.mark.parametrize(("flags", "environ", "text", "sentence"), WRONG)
def test_an_error_contains_key_value_and_origin(
    flags: dict[str, object], environ: dict[str, str], text: str, sentence: str, toml: Callable[[str], str]
) -> None:
    with pytest.raises(SettingsError) as caught:
        read(flags, environ, find_file(toml(text), environ))
    assert sentence in str(caught.value)
    assert "s3cret" not in str(caught.value)


def test_repeated_setting_is_a_list_in_the_file_and_comma_separated_in_the_environment(
    toml: Callable[[str], str],
) -> None:
    environ = {"AIORELAY_ALLOW_NET": "10.0.0.0/8, ::1", "AIORELAY_FSYNC": "true"}
    settings, _ = read({}, environ, find_file(toml("accept = ['image/*', '.csv']\nfsync = false"), environ))
    assert settings.allow_net == (IPv4Network("10.0.0.0/8"), IPv6Network("::1"))
    assert settings.accept == ("image/*", ".csv")
    assert settings.fsync is True


def test_the_origin_of_a_negated_switch_is_its_negated_flag() -> None:
    _, origins = read({"fsync": False}, {})
    assert origins["fsync"] == "flag --no-fsync"


def test_paths_in_a_file_are_relative_to_the_file(
    toml: Callable[[str], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    toml("store = 'kept'\nlocal_root = ['in', '/srv/in']\nclamd = './clamd.ctl'\nupstream_ca = '~/ca.pem'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    settings, _ = read({}, {}, find_file("conf/relay.toml", {}))
    assert settings.store == tmp_path / "conf" / "kept"
    assert settings.local_root == (tmp_path / "conf" / "in", Path("/srv/in"))
    assert settings.clamd == tmp_path / "conf" / "clamd.ctl"
    assert settings.upstream_ca == Path("/home/someone/ca.pem")


def test_scanner_address_in_a_file_is_not_made_a_path(toml: Callable[[str], str]) -> None:
    settings, _ = read({}, {}, find_file(toml("clamd = 'clamav:3310'"), {}))
    assert settings.clamd == ("clamav", 3310)


@pytest.mark.parametrize("text", ["store = ''", "local_root = [1]", "local_root = ['']"])
def test_empty_path_in_a_file_is_not_its_directory(text: str, toml: Callable[[str], str]) -> None:
    with pytest.raises(SettingsError, match="is not a path"):
        read({}, {}, find_file(toml(text), {}))


def test_the_config_flag_overrides_the_environment(toml: Callable[[str], str], tmp_path: Path) -> None:
    toml("max_size = 3")
    other = tmp_path / "other.toml"
    other.write_text("max_size = 4")
    environ = {"AIORELAY_CONFIG": str(other)}
    assert read({}, environ, find_file("relay.toml", environ))[0].max_size == 3
    assert read({}, environ, find_file(None, environ))[1]["max_size"] == f"file {other}"
    assert find_file(None, {"AIORELAY_CONFIG": ""}) is None


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "'relay.toml' cannot be read: No such file or directory (flag --config)"),
        (b"a = ", "'relay.toml' is not TOML: "),
        (b"a = 1\na = 2", "'relay.toml' is not TOML: "),
        (b"a = '\xff'", "'relay.toml' is not TOML: it is not in UTF-8"),
        (b"a = " + b"[" * 5000, "'relay.toml' cannot be read as a file of settings"),
    ],
)
def test_an_unusable_file_is_an_error(
    content: bytes | None, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / "relay.toml").write_bytes(content)
    with pytest.raises(SettingsError) as caught:
        find_file("relay.toml", {})
    assert f"config: {reason}" in str(caught.value)


def test_a_file_name_with_a_nul_is_an_error() -> None:
    with pytest.raises(SettingsError, match="cannot be read as a file of settings"):
        find_file("a\0b", {})


@pytest.mark.parametrize(
    ("base", "expected"),
    [
        ("/var/state", "/var/state/aiorelay"),
        ("", "{home}/.local/state/aiorelay"),
        ("x", "{home}/.local/state/aiorelay"),
    ],
)
def test_the_default_state_directory_depends_on_xdg_state_home(
    base: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    settings, origins = read({}, {"XDG_STATE_HOME": base})
    assert settings.state_dir == Path(expected.format(home=tmp_path))
    assert origins["state_dir"] == "default"
    monkeypatch.setenv("XDG_STATE_HOME", base)
    assert Settings().state_dir == settings.state_dir


def test_every_setting_has_a_flag_a_variable_and_a_key() -> None:
    for name, setting in SETTINGS.items():
        assert setting.flag == f"--{setting.key}"
        assert setting.variable == f"AIORELAY_{name.upper()}"
        assert setting.help
        assert setting.default


def test_settings_groups_are_contiguous() -> None:
    """The help prints a heading for each group, in the order of the table."""
    groups = [setting.group for setting in SETTINGS.values()]
    changes = sum(before != after for before, after in itertools.pairwise(groups))
    assert changes == len(set(groups)) - 1


def test_a_removed_working_directory_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    os.rmdir(tmp_path / "gone")  # noqa: PTH106 - pathlib's rmdir is not needed here
    assert "cannot be made an absolute path" in fault(store="kept")


@pytest.mark.parametrize(
    "url",
    [
        "redis://127.0.0.1",
        "redis://[::1]:6380/1",
        "rediss://relay:s3cret@state.example.org:6380/15",
        "redis://:s3cret@h/",
    ],
)
def test_url_of_the_state(url):
    assert Settings(state=url).state == URL(url)


@pytest.mark.parametrize(
    ("url", "fault"),
    [
        ("state.example.org", "is not a redis or rediss URL"),
        ("https://state.example.org", "is not a redis or rediss URL"),
        ("redis://", "has no usable host"),
        ("redis://h:0", "has no usable port"),
        ("redis://h:99999", "is not a URL"),
        ("redis://h/one", "has a path that is not the number of a database"),
        ("redis://h/1/2", "has a path that is not the number of a database"),
        ("rediss://h?ssl_cert_reqs=none", "has a query or a fragment"),
        ("redis://h#", "has a query or a fragment"),
        ("redis://h\n", "is not a redis or rediss URL"),
    ],
)
def test_what_is_no_url_of_the_state(url, fault):
    with pytest.raises(SettingsError, match=fault):
        Settings(state=url)


def test_credentials_of_the_state_are_shown_to_nobody():
    settings = Settings(state="redis://user:s3cret@h")
    assert SETTINGS["state"].show(settings.state) == "redis://***@h"
    assert "s3cret" not in repr(settings)
    with pytest.raises(SettingsError) as wrong:
        Settings(state="redis://user:s3cret@h/x")
    assert "s3cret" not in str(wrong.value)


@pytest.mark.parametrize("state", [None, "redis://h"])
def test_ca_of_the_state_needs_tls(state):
    with pytest.raises(SettingsError, match="no connection with TLS"):
        Settings(state=state, state_ca="ca.pem")


@pytest.mark.parametrize("icap", [None, "icap://scanner/avscan"], ids=["no service", "no TLS"])
def test_ca_of_the_icap_service_needs_tls(icap):
    with pytest.raises(SettingsError, match="no connection with TLS"):
        Settings(icap=icap, icap_ca="ca.pem")


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("s3://uploads", ("uploads", "")),
        ("s3://uploads/", ("uploads", "")),
        ("s3://my.uploads-2/a/b c/", ("my.uploads-2", "a/b c")),
    ],
)
def test_a_store_may_be_in_object_storage(text, location):
    store = Settings(store=text).store
    assert store == location
    assert Settings(store=store).store == location
    assert Settings(store=str(store)).store == location


@pytest.mark.parametrize(
    "text",
    ["s3://", "s3://ab", "s3://UPLOADS/a", "s3://a..b", "s3://uploads/a//b", "s3://uploads/../b", "s3://uploads/a\tb"],
)
def test_a_place_in_object_storage_is_checked(text):
    with pytest.raises(SettingsError, match="is not a place in object storage"):
        Settings(store=text)


def test_a_spool_needs_a_state():
    with pytest.raises(SettingsError, match="give state as well"):
        Settings(spool="s3://uploads/unfinished")
    assert Settings(spool="s3://uploads/unfinished", state="redis://127.0.0.1").spool == ("uploads", "unfinished")


def test_an_endpoint_alone_serves_nothing():
    with pytest.raises(SettingsError, match="has nothing to serve"):
        Settings(s3_endpoint="https://s3.example.org")
    assert Settings(s3_endpoint="https://s3.example.org", s3_source=["incoming"]).s3_source == ("incoming",)
    quarantined = Settings(s3_endpoint="https://s3.example.org", quarantine="s3://evidence/refused").quarantine
    assert quarantined == ("evidence", "refused")


def test_a_quarantine_is_a_directory_or_in_object_storage(tmp_path):
    assert Settings(quarantine=tmp_path).quarantine == tmp_path
    with pytest.raises(SettingsError, match="is not a place in object storage"):
        Settings(quarantine="s3://EVIDENCE")
