"""Authentication: tokens, client certificates, the client's address behind a proxy."""

import asyncio
import base64
import ssl
from ipaddress import ip_network
from pathlib import Path

import aiohttp
import pytest
import requests
import trustme
from multidict import CIMultiDict
from peers import PATIENCE, Recorder, ask, part, request, run
from peers import form as form_of
from yarl import URL

from aiorelay.http.authentication import client_address

PROXIES = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]
FORM_BODY = form_of(part("somefile", "content", "a.txt"))


def form() -> aiohttp.FormData:
    data = aiohttp.FormData()
    data.add_field("somefile", b"content", filename="a.txt")
    return data


@pytest.fixture
def token_file(tmp_path) -> Path:
    path = tmp_path / "tokens"
    path.write_text("alice:s3cret.Token~1\nbob:b0b==\n")
    return path


def bearer(token: str) -> "CIMultiDict[str]":
    return CIMultiDict({"Authorization": f"Bearer {token}"})


@pytest.mark.parametrize(
    ("peer", "headers", "client"),
    [
        ("192.0.2.1", {}, "192.0.2.1"),
        ("192.0.2.1", {"X-Forwarded-For": "198.51.100.7"}, "192.0.2.1"),
        ("10.0.0.1", {}, "10.0.0.1"),
        ("10.0.0.1", {"X-Forwarded-For": "198.51.100.7"}, "198.51.100.7"),
        ("10.0.0.1", {"X-Forwarded-For": "203.0.113.9, 198.51.100.7"}, "198.51.100.7"),
        ("10.0.0.1", {"X-Forwarded-For": "198.51.100.7, 10.2.3.4"}, "198.51.100.7"),
        ("10.0.0.1", {"X-Forwarded-For": "198.51.100.7, nonsense, 10.2.3.4"}, "10.2.3.4"),
        ("10.0.0.1", {"X-Forwarded-For": "nonsense"}, "10.0.0.1"),
        ("10.0.0.1", {"Forwarded": "for=198.51.100.7;proto=https"}, "198.51.100.7"),
        ("10.0.0.1", {"Forwarded": 'proto=https;for="198.51.100.7:8080"'}, "198.51.100.7"),
        ("fd00::1", {"Forwarded": 'For="[2001:db8::7]:4711"'}, "2001:db8::7"),
        ("10.0.0.1", {"Forwarded": "for=198.51.100.7, for=10.9.9.9"}, "198.51.100.7"),
        ("10.0.0.1", {"Forwarded": "for=_hidden"}, "10.0.0.1"),
        ("10.0.0.1", {"Forwarded": "for=198.51.100.7, for=1.2.3"}, "10.0.0.1"),
        ("10.0.0.1", {"Forwarded": 'for="[1:2]"'}, "10.0.0.1"),
        ("10.0.0.1", {"Forwarded": "for=198.51.100.7", "X-Forwarded-For": "203.0.113.9"}, "198.51.100.7"),
        ("10.0.0.1", {"Forwarded": "for=198.51.100.7, , for=10.9.9.9,"}, "198.51.100.7"),
        ("10.0.0.1", {"Forwarded": 'for="198.51.100.7:_port"'}, "198.51.100.7"),
        # What a client writes into its Host or its own Forwarded must not pass for what the proxy says.
        ("10.0.0.1", {"Forwarded": 'for=198.51.100.7;host="a,for=203.0.113.9";proto=https'}, "198.51.100.7"),
        ("10.0.0.1", {"Forwarded": 'for=198.51.100.7;host="a,for=203.0.113.9;x=\\"b"'}, "198.51.100.7"),
        ("10.0.0.1", {"Forwarded": 'for="203.0.113.9, for=198.51.100.7'}, "198.51.100.7"),
        ("10.0.0.1", {"Forwarded": 'for="x, for=198.51.100.7;host="a,for=203.0.113.9"'}, "198.51.100.7"),
        ("nowhere", {"X-Forwarded-For": "198.51.100.7"}, "nowhere"),
    ],
)
def test_only_trusted_proxies_name_the_client(peer, headers, client):
    assert client_address(peer, CIMultiDict(headers), PROXIES) == client


class TestRelay:
    async def test_an_upload_without_a_token_is_refused_before_its_body(self, aiorelay_server, token_file):
        chain = await aiorelay_server(token_file=token_file)
        async with aiohttp.ClientSession() as client:
            url = f"{chain.rest1}/upload1"
            async with client.post(url, data=form(), ssl=chain.tls, expect100=True) as answer:
                assert answer.status == 401
                assert (await answer.json())["type"] == "urn:aiorelay:unauthenticated"
                assert answer.headers["WWW-Authenticate"].startswith('Bearer realm="aiorelay", Basic ')
        assert chain.stored() == []

    async def test_an_upload_with_a_token_is_stored_and_the_token_is_not_passed_on(
        self, aiorelay_server, token_file, recorder
    ):
        peer = await recorder()
        chain = await aiorelay_server(token_file=token_file, upstream=peer.url)
        async with aiohttp.ClientSession() as client:
            url = f"{chain.rest1}/upload1"
            async with client.post(url, data=form(), ssl=chain.tls, headers=bearer("b0b==")) as answer:
                assert answer.status == 200
        assert peer.requests[0].all("authorization") == []

    @pytest.mark.parametrize("path", ["/healthz", "/readyz"])
    async def test_health_is_open(self, aiorelay_server, token_file, path):
        chain = await aiorelay_server(token_file=token_file)
        async with aiohttp.ClientSession() as client, client.get(chain.rest1 + path, ssl=chain.tls) as answer:
            assert answer.status == 200

    async def test_the_embedded_api_is_open_to_its_own_machine(self, aiorelay_server, token_file):
        chain = await aiorelay_server(token_file=token_file)
        url = f"{chain.rest2}/upload"
        async with aiohttp.ClientSession() as client, client.post(url, data=form(), ssl=chain.tls) as answer:
            assert answer.status == 200

    async def test_clients_without_a_certificate_are_rejected(self, aiorelay_server, tmp_path):
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "clients.pem")
        chain = await aiorelay_server(client_ca=tmp_path / "clients.pem")
        async with aiohttp.ClientSession() as client:
            with pytest.raises((aiohttp.ClientError, ConnectionError, ssl.SSLError)):
                await client.get(f"{chain.rest1}/healthz", ssl=chain.tls)
            authority.issue_cert("alice@example.org", common_name="alice").configure_cert(chain.tls)
            async with client.post(f"{chain.rest1}/upload1", data=form(), ssl=chain.tls) as answer:
                assert answer.status == 200
        assert len(chain.stored()) == 1

    @pytest.mark.needs("curl")
    async def test_curl_answers_the_basic_challenge_with_the_token(self, aiorelay_server, token_file, recorder):
        peer = await recorder()
        chain = await aiorelay_server(token_file=token_file, upstream=peer.url)
        command = ("curl", "-sS", "--cacert", str(chain.ca), "--anyauth", "-u", "anyone:b0b==", "-F", "somefile=@-")
        status, out, err = await run(*command, f"{chain.rest1}/upload1", stdin=b"content")
        assert (status, out, err) == (0, '{"status": "done"}', "")
        assert carrying_the_token(peer) == []

    async def test_a_client_of_a_package_index_sends_the_token_as_password(self, aiorelay_server, token_file, recorder):
        peer = await recorder()
        chain = await aiorelay_server(token_file=token_file, upstream=peer.url, field="content")
        sent = await asyncio.to_thread(
            requests.post,
            f"{chain.rest1}/upload1",
            data={":action": "file_upload", "name": "a"},
            files={"content": ("a-1.0.tar.gz", b"content", "application/gzip")},
            auth=("__token__", "b0b=="),
            verify=str(chain.ca),
            timeout=PATIENCE,
        )
        assert sent.status_code == 200
        assert carrying_the_token(peer) == []
        assert peer.requests[0].all("authorization") == []


API_PASSWORD = "Basic " + base64.b64encode(b"admin:abcd EFGH 1234 ijkl").decode()
"""The Authorization with an application password of WordPress."""


def carrying_the_token(peer: Recorder) -> list[int]:
    """Return the positions of the connections over which the upload API has received bob's token."""
    secrets = [b"b0b", *(base64.b64encode(user + b":b0b==") for user in (b"", b"anyone", b"__token__"))]
    return [
        position
        for position, connection in enumerate(peer.connections)
        if any(secret in connection.received for secret in secrets)
    ]


class TestTokenHeader:
    """The token is in a header of its own, and Authorization is the upload API's."""

    @pytest.mark.parametrize("token", ["b0b==", "Bearer b0b==", "bearer  b0b=="])
    async def test_the_upload_api_gets_its_own_authorization_and_not_the_token(
        self, aiorelay_server, token_file, recorder, token
    ):
        peer = await recorder()
        chain = await aiorelay_server(token_file=token_file, token_header="X-Relay-Token", upstream=peer.url)
        sent = request("/upload1", FORM_BODY, f"Authorization: {API_PASSWORD}", f"x-relay-token: {token}")
        assert (await ask(chain.rest1, chain.tls, sent)).status == 200
        assert peer.requests[0]["Authorization"] == API_PASSWORD
        assert peer.requests[0].all("x-relay-token") == []
        assert carrying_the_token(peer) == []

    @pytest.mark.parametrize(
        "headers",
        [
            ["Authorization: Bearer b0b=="],
            ["X-Relay-Token: nope", "Authorization: Bearer b0b=="],
            ["X-Relay-Token: Basic OmIwYj09"],
            ["X-Relay-Token: b0b==", "X-Relay-Token: b0b=="],
        ],
        ids=["in Authorization", "wrong", "Basic", "twice"],
    )
    async def test_no_other_token_is_accepted(self, aiorelay_server, token_file, headers):
        chain = await aiorelay_server(token_file=token_file, token_header="X-Relay-Token")
        answer = await ask(chain.rest1, chain.tls, request("/upload1", FORM_BODY, *headers))
        assert answer.status == 401
        assert answer["WWW-Authenticate"].startswith('Bearer realm="aiorelay"')
        assert "Basic" not in answer["WWW-Authenticate"]

    async def test_a_refusal_names_the_header(self, aiorelay_server, token_file):
        chain = await aiorelay_server(token_file=token_file, token_header="X-Relay-Token")
        answer = await ask(chain.rest1, chain.tls, request("/upload1", FORM_BODY))
        assert answer.json()["detail"] == "A token is needed. Send it as X-Relay-Token: TOKEN."

    async def test_a_resumed_upload_keeps_no_secret_and_passes_the_last_authorization_on(
        self, aiorelay_server, token_file, recorder, tmp_path
    ):
        peer = await recorder()
        chain = await aiorelay_server(
            token_file=token_file, token_header="X-Relay-Token", upstream=peer.url, state_dir=tmp_path / "state"
        )
        ours = "X-Relay-Token: b0b=="
        creation = (ours, "Authorization: old", "Upload-Complete: ?0")
        sent = request("/upload/a.txt", b"abc", *creation, method="PUT", content_type="text/plain")
        created = await ask(chain.rest1, chain.tls, sent)
        assert created.status == 201
        kept = b"".join(path.read_bytes() for path in (tmp_path / "state" / "uploads").rglob("*") if path.is_file())
        assert b"abc" in kept
        assert b"b0b==" not in kept
        assert b"Authorization" not in kept
        append = (ours, f"Authorization: {API_PASSWORD}", "Upload-Offset: 3", "Upload-Complete: ?1")
        path = URL(created["Location"]).path
        sent = request(path, b"def", *append, method="PATCH", content_type="application/partial-upload")
        assert (await ask(chain.rest1, chain.tls, sent)).status == 200
        assert peer.requests[0]["Authorization"] == API_PASSWORD
        assert peer.requests[0].parts[0][1] == b"abcdef"
        assert carrying_the_token(peer) == []

    async def test_the_description_of_the_api_names_the_header(self, aiorelay_server, token_file):
        chain = await aiorelay_server(token_file=token_file, token_header="X-Relay-Token")
        answer = await ask(chain.rest1, chain.tls, b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
        scheme = answer.json()["components"]["securitySchemes"]["token"]
        assert (scheme["type"], scheme["in"], scheme["name"]) == ("apiKey", "header", "X-Relay-Token")
