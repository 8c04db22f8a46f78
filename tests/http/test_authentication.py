"""Authentication: tokens, client certificates, the client's address behind a proxy."""

import ssl
from ipaddress import ip_network
from pathlib import Path

import aiohttp
import pytest
import trustme
from multidict import CIMultiDict

from aiorelay.errors import StartupError, Unauthenticated
from aiorelay.http.authentication import Tokens, client_address

PROXIES = [ip_network("10.0.0.0/8"), ip_network("fd00::/8")]
FORM = {"somefile": b"content"}


def form() -> aiohttp.FormData:
    data = aiohttp.FormData()
    data.add_field("somefile", b"content", filename="a.txt")
    return data


@pytest.fixture
def token_file(tmp_path) -> Path:
    path = tmp_path / "tokens"
    path.write_text("# ours\nalice:s3cret.Token~1\n\nbob:b0b==\n")
    return path


def bearer(token: str) -> "CIMultiDict[str]":
    return CIMultiDict({"Authorization": f"Bearer {token}"})


class TestTokens:
    @pytest.mark.parametrize(("token", "name"), [("s3cret.Token~1", "alice"), ("b0b==", "bob")])
    def test_a_token_is_identified_by_its_name(self, token_file, token, name):
        assert Tokens(token_file).who(bearer(token)) == name

    @pytest.mark.parametrize(
        "headers",
        [{}, {"Authorization": "Bearer nope"}, {"Authorization": "Basic YTpi"}, {"Authorization": "Bearer "}],
        ids=["none", "wrong", "another scheme", "empty"],
    )
    def test_anything_else_is_refused_with_a_challenge(self, token_file, headers):
        with pytest.raises(Unauthenticated) as refused:
            Tokens(token_file).who(CIMultiDict(headers))
        assert refused.value.headers["WWW-Authenticate"].startswith('Bearer realm="aiorelay"')

    def test_the_scheme_is_case_insensitive(self, token_file):
        assert Tokens(token_file).who(CIMultiDict({"authorization": "bearer b0b=="})) == "bob"

    def test_a_changed_file_is_read_again(self, token_file):
        tokens = Tokens(token_file)
        token_file.write_text("carol:n3w-and-longer-than-before\n")
        assert tokens.who(bearer("n3w-and-longer-than-before")) == "carol"
        with pytest.raises(Unauthenticated):
            tokens.who(bearer("b0b=="))

    @pytest.mark.parametrize("content", ["", "no colon\n", "x:with space\n"])
    def test_a_file_that_breaks_leaves_the_tokens_as_they_were(self, token_file, content):
        tokens = Tokens(token_file)
        token_file.write_text(content)
        assert tokens.who(bearer("b0b==")) == "bob"

    def test_a_file_that_vanishes_leaves_the_tokens_as_they_were(self, token_file):
        tokens = Tokens(token_file)
        token_file.unlink()
        assert tokens.who(bearer("b0b==")) == "bob"

    @pytest.mark.parametrize(
        "content", [b"", b"# nothing\n", b"no colon\n", b"x:with space\n", b"\xff:\xfe\n", b":x\n"]
    )
    def test_a_malformed_file_is_a_startup_error(self, tmp_path, content):
        path = tmp_path / "tokens"
        path.write_bytes(content)
        with pytest.raises(StartupError, match="token") as error:
            Tokens(path)
        assert "\n" not in str(error.value)

    def test_an_error_in_a_line_does_not_contain_the_line(self, tmp_path):
        path = tmp_path / "tokens"
        path.write_text("a:good\nhunter two\n")
        with pytest.raises(StartupError, match="line 2") as error:
            Tokens(path)
        assert "hunter" not in str(error.value)


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
                assert answer.headers["WWW-Authenticate"] == 'Bearer realm="aiorelay"'
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
