"""SIGHUP reloads certificates and tokens without a restart."""

import asyncio
import signal
import ssl

import pytest
import trustme
from peers import connected, eventually, request
from processes import FREE_PORTS, started

pytestmark = pytest.mark.slow


@pytest.fixture
def authority():
    return trustme.CA()


def write_certificate(authority: trustme.CA, path) -> bytes:
    issued = authority.issue_cert("localhost", "127.0.0.1")
    path.write_bytes(issued.private_key_and_cert_chain_pem.bytes())
    return ssl.PEM_cert_to_DER_cert(issued.cert_chain_pems[0].bytes().decode())


async def served(url: str) -> bytes:
    """Return the certificate that a server presents, as DER."""
    port = int(url.rpartition(":")[2])
    return ssl.PEM_cert_to_DER_cert(await asyncio.to_thread(ssl.get_server_certificate, ("127.0.0.1", port)))


async def test_a_new_certificate_is_served_and_a_broken_one_is_not(tmp_path, authority):
    file = tmp_path / "server.pem"
    first = write_certificate(authority, file)
    async with started(f"--state-dir={tmp_path}/state", f"--tls-cert={file}", *FREE_PORTS) as relay:
        assert await served(relay.rest1) == first
        second = write_certificate(authority, file)
        relay.send(signal.SIGHUP)
        while await served(relay.rest1) != second:
            pass
        await relay.logged("certificates, tokens and rules were loaded again; other settings need a restart")
        file.write_text("nonsense")
        relay.send(signal.SIGHUP)
        await relay.logged("cannot reload the certificate, the old one stays in use")
        assert await served(relay.rest1) == second


async def test_new_tokens_are_valid_after_the_reload(tmp_path):
    tokens = tmp_path / "tokens"
    tokens.write_text("alice:one\n")
    async with started(f"--state-dir={tmp_path}/state", f"--token-file={tokens}", *FREE_PORTS) as relay:
        assert 'Authorization: Bearer $TOKEN"' in relay.curl
        tokens.write_text("alice:another\n")
        relay.send(signal.SIGHUP)
        await relay.logged("read 1 tokens again")
        for token, status in (("one", 401), ("another", 400)):
            async with connected(relay.rest1, relay.tls) as client:
                asked = request("/upload1", b"", f"Authorization: Bearer {token}")
                assert (await client.ask(asked)).status == status


async def test_a_relay_without_tokens_on_a_public_address_logs_a_warning(tmp_path):
    async with started(f"--state-dir={tmp_path}/state", "--host=0.0.0.0", *FREE_PORTS) as relay:
        await eventually(lambda: "--token-file" in relay.log)
