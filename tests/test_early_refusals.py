"""An upload API that answers 413 and hangs up while the body is still coming: its answer reaches the client."""

import pytest
import trustme
from peers import connected, form, part, request
from upstream_servers import SERVERS, SPEAK_TLS

MIB = 1024 * 1024
TRIES = 10
LIMIT = 200_000  # bytes that each API takes
BODIES = {"1MiB": MIB, "64MiB": 64 * MIB}


@pytest.fixture
def certificate(tmp_path):
    """A PEM file with a certificate for 127.0.0.1 and its key, and the CA that signed it."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    return tmp_path / "server.pem", tmp_path / "ca.pem"


async def refusals(relay, size):
    """The statuses of the answers to ``TRIES`` uploads, one after another, as a client gets them that sends on."""
    blocks = [bytes(min(MIB, size))] * (size // MIB)
    begin, end = form(part("somefile", b"", "large.bin"), end=b"--\r\n").split(b"\r\n\r\n", 1)
    begin += b"\r\n\r\n"
    head = request("/upload1", begin, length=len(begin) + size + len(end))
    statuses = []
    for _ in range(TRIES):
        async with connected(relay.rest1, relay.tls) as client:
            statuses.append((await client.ask(head, *blocks, end)).status)
    return statuses


@pytest.mark.parametrize("size", BODIES.values(), ids=BODIES)
@pytest.mark.parametrize("name", SERVERS)
async def test_a_413_reaches_the_client(aiorelay_server, upload_api, name, size):
    api = await upload_api(name, max_body=LIMIT)
    relay = await aiorelay_server(only="rest1", upstream=api.url)
    assert await refusals(relay, size) == [413] * TRIES
    assert api.stored() == []


@pytest.mark.parametrize("name", SPEAK_TLS)
async def test_a_413_over_tls_reaches_the_client(aiorelay_server, upload_api, certificate, name):
    pem, authority = certificate
    api = await upload_api(name, max_body=LIMIT, certificate=pem)
    relay = await aiorelay_server(only="rest1", upstream=api.url, upstream_ca=authority)
    assert await refusals(relay, MIB) == [413] * TRIES
    assert api.stored() == []
