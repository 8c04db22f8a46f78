"""Addresses of the upload API in its answers: what is replaced, and what a client gets."""

import json

import pytest
from peers import ask, form, part, request

from aiorelay.rest1.public_addresses import public_reference
from aiorelay.settings import Settings, SettingsError

FORM = form(part("somefile", b"content", "a.txt"))
UPSTREAM = "http://10.0.0.7:9000/api/upload?key=v"
PUBLIC = "https://files.example.org/store"


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        # absolute, on the upload API's origin
        ("http://10.0.0.7:9000/photos/a.jpg", "https://files.example.org/store/photos/a.jpg"),
        ("HTTP://10.0.0.7:9000/a", "https://files.example.org/store/a"),
        ("http://10.0.0.7:9000", "https://files.example.org/store/"),
        ("http://10.0.0.7:9000/a?b=c&d=%2F#e", "https://files.example.org/store/a?b=c&d=%2F#e"),
        ("http://10.0.0.7:9000/store/a", "https://files.example.org/store/store/a"),
        # relative
        ("/photos/a.jpg", "https://files.example.org/store/photos/a.jpg"),
        ("/", "https://files.example.org/store/"),
        ("7", "https://files.example.org/store/api/7"),
        ("../7", "https://files.example.org/store/7"),
        ("../../../7", "https://files.example.org/store/7"),
        ("?done=1", "https://files.example.org/store/api/upload?done=1"),
        ("#part", "https://files.example.org/store/api/upload?key=v#part"),
        ("//10.0.0.7:9000/a", "https://files.example.org/store/a"),
        # others
        ("https://10.0.0.7:9000/a", None),
        ("http://10.0.0.7/a", None),
        ("http://10.0.0.70:9000/a", None),
        ("http://10.0.0.7:9000.example.org/a", None),
        ("http://user@10.0.0.7:9000/a", None),
        ("https://www.example.com/done", None),
        ("//www.example.com/done", None),
        ("mailto:a@example.com", None),
        ("http://[::1/a", None),
        ("http://10.0.0.7:x/a", None),
        ("", None),
    ],
)
def test_references(reference, expected):
    assert public_reference(reference, UPSTREAM, PUBLIC) == (reference if expected is None else expected)


@pytest.mark.parametrize(
    ("url", "reference", "public", "expected"),
    [
        ("https://api.example/up", "https://api.example:443/a", "https://p/", "https://p/a"),
        ("https://API.example:443/up", "https://api.example/a", "https://p", "https://p/a"),
        ("http://[::1]:9000/up", "http://[::1]:9000/a", "https://p:8443/x/y/", "https://p:8443/x/y/a"),
        ("http://api/up", "http://api:8080/a", "https://p", "http://api:8080/a"),
    ],
    ids=["default port given", "default port in the URL", "IPv6 address", "another port"],
)
def test_origins_are_compared(url, reference, public, expected):
    assert public_reference(reference, url, public) == expected


@pytest.mark.parametrize("url", ["files.example.org", "ftp://a", "https://u:p@a", "https://a?b", "https://a#b"])
def test_a_public_address_is_a_base_url(url):
    with pytest.raises(SettingsError, match=r"^upstream-public: "):
        Settings(upstream_public=url)


@pytest.fixture
async def answering_with(recorder):
    """A factory of upload APIs that answer 303 with a Location and a Content-Location on their own origin."""

    async def start(path="/media/7"):
        async def script(connection):
            await connection.request()
            place = f"http://127.0.0.1:{upstream.port}{path}"
            fields = f"Location: {place}\r\nContent-Location: {path}.json\r\nX-Other: {place}\r\n"
            await connection.send(f"HTTP/1.1 303 See Other\r\n{fields}Content-Length: 0\r\n\r\n".encode())

        upstream = await recorder(script)
        return upstream

    return start


async def test_a_client_is_led_where_it_can_go(aiorelay_server, answering_with):
    upstream = await answering_with()
    relay = await aiorelay_server(only="rest1", upstream=upstream.url, upstream_public="https://cms.example.org/wp")
    answer = await ask(relay.rest1, relay.tls, request("/upload1", FORM))
    assert answer.status == 303
    assert answer["Location"] == "https://cms.example.org/wp/media/7"
    assert answer["Content-Location"] == "https://cms.example.org/wp/media/7.json"
    assert answer["X-Other"] == f"http://127.0.0.1:{upstream.port}/media/7"


async def test_without_the_setting_addresses_stay(aiorelay_server, answering_with):
    upstream = await answering_with()
    relay = await aiorelay_server(only="rest1", upstream=upstream.url)
    answer = await ask(relay.rest1, relay.tls, request("/upload1", FORM))
    assert answer["Location"] == f"http://127.0.0.1:{upstream.port}/media/7"


async def test_each_route_has_its_own_public_address(aiorelay_server, answering_with):
    one, other = await answering_with(), await answering_with("/b/7")
    relay = await aiorelay_server(
        only="rest1",
        upstream=one.url,
        upstream_public="https://one.example.org",
        route=f"/a/*=http://127.0.0.1:{other.port}/b,upstream-public=https://other.example.org/x/",
    )
    for path, location in (
        ("/upload1", "https://one.example.org/media/7"),
        ("/a/c", "https://other.example.org/x/b/7"),
    ):
        answer = await ask(relay.rest1, relay.tls, request(path, FORM))
        assert answer["Location"] == location


async def test_the_answer_that_a_job_keeps_has_public_addresses(aiorelay_server, answering_with, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"content")
    upstream = await answering_with()
    relay = await aiorelay_server(
        only="rest1", upstream=upstream.url, upstream_public="https://cms.example.org", local_root=[tmp_path]
    )
    body = json.dumps({"somefile": str(tmp_path / "a.txt")}).encode()
    sent = request("/upload2", body, "Prefer: respond-async", content_type="application/json")
    job = await ask(relay.rest1, relay.tls, sent)
    events = request(f"{job['Location']}/events", b"", method="GET", content_type=None)
    text = (await ask(relay.rest1, relay.tls, events)).body.decode()
    assert "https://cms.example.org/media/7" in text


async def test_the_answer_to_a_resumed_upload_has_public_addresses(aiorelay_server, answering_with):
    upstream = await answering_with()
    relay = await aiorelay_server(only="rest1", upstream=upstream.url, upstream_public="https://cms.example.org")
    sent = request("/upload1", FORM, "Upload-Complete: ?1")
    answer = await ask(relay.rest1, relay.tls, sent)
    assert (answer.status, answer["Location"]) == (303, "https://cms.example.org/media/7")
