"""Host fields that name the server, and DNS rebinding."""

import pytest
from peers import ask, form, part, request

from aiorelay.http.own_hosts import OwnHosts

NAMES = OwnHosts(["relay.example", "192.0.2.7", "2001:db8::7", "*.site.example"])


@pytest.mark.parametrize(
    ("host", "own"),
    [
        ("relay.example", True),
        ("relay.example:8000", True),
        ("relay.example:", True),
        ("Relay.Example.", True),
        ("a.relay.example", False),
        ("relay.example.evil.example", False),
        ("relay.example:8000:1", False),
        ("evil.example", False),
        ("192.0.2.7:8000", True),
        ("192.0.2.8", False),
        ("[2001:db8::7]:8000", True),
        ("[2001:db8::8]", False),
        ("a.site.example", True),
        ("site.example", False),
        ("a.b.site.example", False),
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("relay.localhost", True),
        ("localhost.evil.example", False),
        ("127.0.0.1:8000", True),
        ("127.9.9.9", True),
        ("[::1]:8000", True),
        ("126.255.255.255", False),
        ("128.0.0.0", False),
        ("127.1", False),
        ("127.0.0.1.evil.example", False),
        ("0.0.0.0", False),
        ("%6cocalhost", False),
        (":8000", False),
    ],
)
def test_only_own_names_and_the_loopback_are_own(host, own):
    assert NAMES.include(host) == own


def get(target, host, *headers):
    return "\r\n".join([f"GET {target} HTTP/1.1", f"Host: {host}", *headers, "", ""]).encode()


def code(answer):
    return answer.json()["type"].removeprefix("urn:aiorelay:")


FORM = form(part("somefile", b"content", "a.txt"))
AT_EVIL = request("/upload1", FORM, "Origin: https://evil.example", "Sec-Fetch-Site: same-origin").replace(
    b"Host: relay.localhost", b"Host: evil.example"
)


@pytest.mark.parametrize("target", ["/", "/healthz", "/metrics", "/jobs/a", "/files/a", "/nothing"])
async def test_a_foreign_host_on_the_loopback_is_refused(aiorelay_server, target):
    chain = await aiorelay_server()
    answer = await ask(chain.rest1, chain.tls, get(target, "evil.example"))
    assert (answer.status, code(answer)) == (421, "unknown-host")
    assert "public-name" in answer.json()["detail"]


async def test_a_server_on_all_addresses_refuses_a_foreign_host_on_the_loopback(aiorelay_server):
    chain = await aiorelay_server(host="0.0.0.0")
    answer = await ask(chain.rest1, chain.tls, get("/healthz", "evil.example"))
    assert (answer.status, code(answer)) == (421, "unknown-host")


async def test_a_page_whose_name_was_rebound_cannot_upload(aiorelay_server):
    chain = await aiorelay_server(allow_origin=["*"])
    answer = await ask(chain.rest1, chain.tls, AT_EVIL)
    assert (answer.status, code(answer), chain.stored()) == (421, "unknown-host", [])
    assert answer.informational == []


async def test_rest2_is_not_reached_under_a_foreign_name(aiorelay_server):
    chain = await aiorelay_server()
    answer = await ask(chain.rest2, chain.tls, AT_EVIL.replace(b"/upload1", b"/upload"))
    assert (answer.status, code(answer), chain.stored()) == (421, "unknown-host", [])


@pytest.mark.parametrize(
    ("settings", "host"),
    [
        ({}, "localhost"),
        ({}, "127.0.0.1:8000"),
        ({"public_name": ["relay.example"]}, "relay.example"),
        ({"public_name": ["relay.example"]}, "RELAY.example:443"),
        ({"public_name": ["*.example"]}, "relay.example"),
        ({"tls_name": ["localhost", "relay.internal"]}, "relay.internal"),
        ({"host": "localhost"}, "localhost"),
        ({"trusted_proxy": ["127.0.0.1"]}, "www.example"),
        ({}, ""),
    ],
)
async def test_an_own_name_is_accepted(aiorelay_server, tmp_path, settings, host):
    state = {"state_dir": tmp_path / "state"} if "tls_name" in settings else {}
    chain = await aiorelay_server(**settings, **state)
    assert (await ask(chain.rest1, chain.tls, get("/healthz", host))).status == 200


async def test_http_1_0_needs_no_host(aiorelay_server):
    chain = await aiorelay_server()
    assert (await ask(chain.rest1, chain.tls, b"GET /healthz HTTP/1.0\r\n\r\n")).status == 200
