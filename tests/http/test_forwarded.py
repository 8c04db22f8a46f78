"""Forwarded fields for the upload API: set by the relay or by a trusted proxy only."""

import json

import pytest
from multidict import CIMultiDict
from peers import ask, form, part, request

from aiorelay.http.fields import drop_client_claims

FORM = form(part("somefile", b"content", "a.txt"))
FORGED = (
    "Forwarded: for=6.6.6.6;proto=http;host=forged.example",
    "X-Forwarded-For: 6.6.6.6",
    "X-Forwarded-Host: forged.example",
    "X-Forwarded-Proto: http",
    "X-Forwarded-Port: 6666",
    "X_Forwarded_For: 6.6.6.6",
    "X-Real-IP: 6.6.6.6",
)
FROM_A_PROXY = ("X-Forwarded-For: 198.51.100.7", "X-Forwarded-Host: www.example", "X-Forwarded-Proto: https")
# Each application returns what it sees of the client: the address if available, scheme and host.
SEEN = {
    "uvicorn": (["127.0.0.1", "https"], ["198.51.100.7", "https"]),
    "gunicorn": (["https", "relay.localhost"], ["https", "www.example"]),
    "werkzeug": (["127.0.0.1", "https", "relay.localhost"], ["127.0.0.1", "https", "www.example"]),
    "node": (["127.0.0.1", "https", "relay.localhost"], ["127.0.0.1", "https", "www.example"]),
}


@pytest.mark.parametrize(
    ("name", "dropped"),
    [
        ("Forwarded", True),
        ("X-Forwarded-For", True),
        ("x-forwarded-anything", True),
        ("X_Forwarded_Proto", True),
        ("X-Real-IP", True),
        ("X-Real-IPs", False),
        ("X-Forwarded", False),
        ("Forwarded-For", False),
        ("Via", False),
        ("traceparent", False),
    ],
)
def test_claims_about_the_client_are_dropped(name, dropped):
    headers = CIMultiDict([(name, "a"), ("X-Own", "b"), (name, "c")])
    drop_client_claims(headers)
    assert (name not in headers) == dropped
    assert headers["X-Own"] == "b"


@pytest.mark.parametrize("name", SEEN)
async def test_an_upload_api_sees_the_client_as_the_relay_does(aiorelay_server, upload_api, name):
    api = await upload_api(name)
    relay = await aiorelay_server(only="rest1", upstream=api.url)
    answer = await ask(relay.rest1, relay.tls, request("/upload1", FORM, *FORGED))
    assert answer.json()["seen"] == SEEN[name][0]


@pytest.mark.parametrize("name", SEEN)
async def test_an_upload_api_sees_the_client_that_a_trusted_proxy_names(aiorelay_server, upload_api, name):
    api = await upload_api(name)
    relay = await aiorelay_server(only="rest1", upstream=api.url, trusted_proxy=["127.0.0.1"])
    answer = await ask(relay.rest1, relay.tls, request("/upload1", FORM, *FROM_A_PROXY))
    assert answer.json()["seen"] == SEEN[name][1]


async def test_django_accepts_a_form_from_its_origin(aiorelay_server, upload_api):
    api = await upload_api("gunicorn")
    protected = api.url.replace("/upload", "/protected")
    relay = await aiorelay_server(only="rest1", upstream=protected, allow_origin=["https://other.example"])
    token = "x" * 32
    body = form(part("csrfmiddlewaretoken", token), part("somefile", b"content", "a.txt"))
    headers = (f"Cookie: csrftoken={token}", "Origin: https://relay.localhost")
    assert (await ask(relay.rest1, relay.tls, request("/upload1", body, *headers))).status == 200
    forged = (headers[0], "Origin: https://other.example", "X-Forwarded-Host: other.example")
    assert (await ask(relay.rest1, relay.tls, request("/upload1", body, *forged))).status == 403


async def test_what_a_trusted_proxy_says_is_continued(aiorelay_server, recorder):
    upstream = await recorder()
    relay = await aiorelay_server(only="rest1", upstream=upstream.url, trusted_proxy=["127.0.0.1"])
    given = ("X-Forwarded-For: 203.0.113.9, 198.51.100.7", "X-Forwarded-Proto: http", "X-Real-IP: 198.51.100.7")
    await ask(relay.rest1, relay.tls, request("/upload1", FORM, *given))
    (message,) = upstream.requests
    assert message["X-Forwarded-For"] == "203.0.113.9, 198.51.100.7, 127.0.0.1"
    assert message["Forwarded"] == 'for=198.51.100.7;proto=http, for=127.0.0.1;host="relay.localhost";proto=https'
    assert (message["X-Forwarded-Proto"], message["X-Real-IP"]) == ("http", "198.51.100.7")


async def test_a_job_cannot_forge_an_address(aiorelay_server, recorder, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"content")
    upstream = await recorder()
    relay = await aiorelay_server(only="rest1", upstream=upstream.url, local_root=[tmp_path])
    body = json.dumps({"somefile": str(tmp_path / "a.txt")}).encode()
    sent = request("/upload2", body, *FORGED, content_type="application/json")
    assert (await ask(relay.rest1, relay.tls, sent)).status == 200
    assert not [value for _, value in upstream.requests[0].headers if "6.6.6.6" in value or "forged" in value]
