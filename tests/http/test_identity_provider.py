"""Uploads with JWTs, of a real OpenID provider and of keys in a file."""

import asyncio
import contextlib
import os
import signal

import aiohttp
import pytest
from aiohttp import web
from json_web_tokens import AUDIENCE, ISSUER, Issuer, Key, key_set
from peers import PATIENCE, ask, form, json_request, part, request
from processes import FREE_PORTS, started
from programs import NODE_MODULES, missing, program

FORM = form(part("somefile", "content", "a.txt"))


class Provider:
    """The OpenID provider of tests/node at ``url``, for the client ``uploader``."""

    def __init__(self, url: str) -> None:
        self.url = url

    async def token(self, scope: str = "upload") -> str:
        async with aiohttp.ClientSession() as client:
            data = {"grant_type": "client_credentials", "resource": AUDIENCE, "scope": scope}
            auth = aiohttp.encode_basic_auth("uploader", "secret-of-the-uploader")
            async with client.post(f"{self.url}/token", data=data, headers={"Authorization": auth}) as answer:
                assert answer.status == 200, await answer.text()
                return (await answer.json())["access_token"]

    async def rotate(self) -> None:
        """Sign with a new key from now on."""
        async with aiohttp.ClientSession() as client, client.post(f"{self.url}/rotate") as answer:
            assert answer.status == 200

    def settings(self) -> dict[str, str]:
        return {"jwks": f"{self.url}/jwks", "jwt_issuer": self.url, "jwt_audience": AUDIENCE}


@contextlib.asynccontextmanager
async def provider(algorithm: str):
    if not (NODE_MODULES / "oidc-provider").is_dir():
        missing("The packages of tests/node are not installed.")
    process = await asyncio.create_subprocess_exec(
        program("node"),
        NODE_MODULES.parent / "identity_provider.mjs",
        AUDIENCE,
        algorithm,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            yield Provider((await process.stdout.readline()).decode().strip())
    finally:
        os.kill(process.pid, signal.SIGKILL)
        await process.wait()


async def upload(chain, token, *headers):
    sent = request("/upload1", FORM, f"Authorization: Bearer {token}", *headers)
    return await ask(chain.rest1, chain.tls, sent)


@pytest.mark.needs("node", "npm")
class TestOpenIdProvider:
    @pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
    async def test_its_tokens_are_accepted_before_and_after_a_rotation_of_keys(
        self, aiorelay_server, recorder, algorithm
    ):
        peer = await recorder()
        async with provider(algorithm) as identity:
            old = await identity.token()
            chain = await aiorelay_server(upstream=peer.url, jwt_scope="upload", **identity.settings())
            assert (await upload(chain, old)).status == 200
            await identity.rotate()
            new = await identity.token()
            assert new.partition(".")[0] != old.partition(".")[0]
            assert [(await upload(chain, token)).status for token in (new, old)] == [200, 200]
        assert not any(old.encode() in connection.received for connection in peer.connections)
        assert all(received.all("authorization") == [] for received in peer.requests)

    async def test_a_token_without_the_scope_is_refused(self, aiorelay_server):
        async with provider("ES256") as identity:
            chain = await aiorelay_server(jwt_scope="upload", **identity.settings())
            answer = await upload(chain, await identity.token("read"))
        assert answer.status == 403
        assert answer.json()["type"] == "urn:aiorelay:scope-missing"
        assert 'error="insufficient_scope", scope="upload"' in answer["WWW-Authenticate"]
        assert chain.stored() == []

    async def test_its_tokens_are_accepted_while_it_is_away(self, aiorelay_server):
        async with provider("ES256") as identity:
            chain = await aiorelay_server(**identity.settings())
            token = await identity.token()
        assert (await upload(chain, token)).status == 200


class TestKeyFile:
    @pytest.fixture
    def key(self):
        return Key.make("EdDSA")

    @pytest.fixture
    def settings(self, key, tmp_path):
        (tmp_path / "jwks.json").write_bytes(key_set(key))
        return {"jwks": tmp_path / "jwks.json", "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}

    async def test_jwts_and_tokens_of_a_file_are_accepted_side_by_side(self, aiorelay_server, key, settings, tmp_path):
        (tmp_path / "tokens").write_text("bob:b0b==\n")
        chain = await aiorelay_server(token_file=tmp_path / "tokens", **settings)
        sent = [key.sign(), "b0b==", key.sign(aud="other"), "b0b"]
        answers = [await upload(chain, token) for token in sent]
        assert [answer.status for answer in answers] == [200, 200, 401, 401]
        assert answers[2]["WWW-Authenticate"].startswith('Bearer realm="aiorelay", error="invalid_token"')

    async def test_each_subject_has_its_own_limits_and_jobs(self, aiorelay_server, key, settings, tmp_path):
        (tmp_path / "a.txt").write_text("content")
        chain = await aiorelay_server(rate_limit="1/1h", local_root=tmp_path, **settings)
        alice, bob = (f"Authorization: Bearer {key.sign(sub=name)}" for name in ("alice", "bob"))
        sent = json_request({"somefile": str(tmp_path / "a.txt")}, alice, "Prefer: respond-async")
        started = await ask(chain.rest1, chain.tls, sent)
        path = started["Location"]
        seen = [await ask(chain.rest1, chain.tls, get(path, each)) for each in (alice, bob)]
        assert [started.status, *(answer.status for answer in seen)] == [202, 200, 404]
        statuses = [
            (await ask(chain.rest1, chain.tls, request("/upload1", FORM, each))).status for each in (alice, bob)
        ]
        assert statuses == [429, 200]

    async def test_a_jwt_may_be_in_another_header_or_a_password(self, aiorelay_server, key, settings, recorder):
        peer = await recorder()
        chain = await aiorelay_server(token_header="X-Relay-Token", upstream=peer.url, **settings)
        sent = request("/upload1", FORM, f"X-Relay-Token: {key.sign()}", "Authorization: theirs")
        assert (await ask(chain.rest1, chain.tls, sent)).status == 200
        assert peer.requests[0]["Authorization"] == "theirs"
        assert peer.requests[0].all("X-Relay-Token") == []

    async def test_the_log_has_the_subject_and_never_the_token(self, tmp_path, key, settings):
        arguments = [f"--{name.replace('_', '-')}={value}" for name, value in settings.items()]
        async with started(*FREE_PORTS, "--state-dir", tmp_path / "state", *arguments) as relay:
            assert "Bearer $TOKEN" in relay.curl
            tokens = [key.sign(), key.sign(aud="other")]
            for token in tokens:
                await ask(relay.rest1, relay.tls, request("/upload1", FORM, f"Authorization: Bearer {token}"))
            await relay.logged("who=alice")
            await relay.logged("InvalidAudienceError")
            assert not any(piece in relay.log for token in tokens for piece in token.split("."))

    async def test_new_keys_in_the_file_replace_the_old_ones(self, aiorelay_server, key, settings):
        chain = await aiorelay_server(**settings)
        new = Key.make("ES256", "b")
        settings["jwks"].write_bytes(key_set(new))
        assert [(await upload(chain, each.sign())).status for each in (new, key)] == [200, 401]


async def test_jwts_have_to_wait_until_the_keys_can_be_fetched(aiorelay_server, tmp_path):
    (tmp_path / "tokens").write_text("bob:b0b==\n")
    key = Key.make("ES256")
    async with Issuer(key) as issuer:
        issuer.answer = lambda: web.Response(status=503)
        settings = {"jwks": issuer.url, "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE}
        chain = await aiorelay_server(token_file=tmp_path / "tokens", **settings)
        refused = await upload(chain, key.sign())
        assert (refused.status, refused["Retry-After"]) == (503, "5")
        assert refused.json()["type"] == "urn:aiorelay:state-unavailable"
        assert [(await upload(chain, token)).status for token in ("b0b==", "nope")] == [200, 401]


def get(path, *headers) -> bytes:
    return "\r\n".join([f"GET {path} HTTP/1.1", "Host: localhost", *headers, "", ""]).encode()
