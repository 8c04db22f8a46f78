"""An upload API that answers 413 and hangs up while the body is still coming: its answer reaches the client."""

import contextlib
import socket
import ssl
import struct
import threading
from pathlib import Path

import pytest
import trustme
from peers import connected, eventually, form, part, request
from upstream_servers import SERVERS, SPEAK_TLS

pytestmark = pytest.mark.slow

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


async def refusals(relay, size, tries=TRIES):
    """The statuses of the answers to so many uploads, one after another, as a client gets them that sends on."""
    blocks = [bytes(min(MIB, size))] * (size // MIB)
    begin, end = form(part("somefile", b"", "large.bin"), end=b"--\r\n").split(b"\r\n\r\n", 1)
    begin += b"\r\n\r\n"
    head = request("/upload1", begin, length=len(begin) + size + len(end))
    statuses = []
    for _ in range(tries):
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


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


REFUSAL = b"HTTP/1.1 413 Content Too Large\r\nContent-Length: 4\r\n\r\nbig\n"


@contextlib.contextmanager
def refusing(*, after, reads_on, answer=REFUSAL, tls=None):
    """A server of blocking sockets that answers after so many bytes and closes at once; gives its port.

    It closes with bytes unread, so that its system resets the connection, or reads what has come so far before.
    """

    def refuse(connection):
        with connection:
            received = 0
            while received < after:
                received += len(connection.recv(64 * 1024))
            connection.sendall(answer)
            if not answer:  # close with RST, whatever has been read
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            if reads_on:
                connection.setblocking(False)
                with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
                    while connection.recv(64 * 1024):
                        pass

    def serve():
        with contextlib.suppress(OSError):  # closed below
            while True:
                connection, _ = listener.accept()
                # Or Nagle's algorithm keeps the answer back behind TLS's session tickets, and the reset throws it away.
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                with contextlib.suppress(OSError):
                    refuse(connection if tls is None else tls.wrap_socket(connection, server_side=True))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        serving = threading.Thread(target=serve)
        serving.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            serving.join()


@pytest.mark.parametrize("reads_on", [False, True], ids=["unread", "read"])
@pytest.mark.parametrize("after", [1, LIMIT], ids=["at the head", "at 200 kB"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_server_of_sockets_is_heard_out(aiorelay_server, certificate, scheme, after, reads_on):
    pem, authority = certificate
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH) if scheme == "https" else None
    if tls is not None:
        tls.load_cert_chain(pem)
    with refusing(after=after, reads_on=reads_on, tls=tls) as port:
        relay = await aiorelay_server(
            only="rest1", upstream=f"{scheme}://127.0.0.1:{port}/upload", upstream_ca=authority
        )
        assert await refusals(relay, 2 * MIB, tries=50) == [413] * 50


async def test_a_refusal_leaves_no_descriptor_open(aiorelay_server):
    with refusing(after=LIMIT, reads_on=False) as port:
        relay = await aiorelay_server(only="rest1", upstream=f"http://127.0.0.1:{port}/upload")
        assert await refusals(relay, MIB, tries=1) == [413]
        before = descriptors()
        assert await refusals(relay, MIB, tries=20) == [413] * 20
        await eventually(lambda: descriptors() <= before)


async def test_a_reset_without_an_answer_says_that_one_may_be_lost(aiorelay_server):
    with refusing(after=LIMIT, reads_on=False, answer=b"") as port:
        relay = await aiorelay_server(only="rest1", upstream=f"http://127.0.0.1:{port}/upload")
        async with connected(relay.rest1, relay.tls) as client:
            answer = await client.ask(request("/upload1", form(part("somefile", bytes(8 * MIB), "large.bin"))))
    assert answer.status == 502
    assert "reset" in answer.json()["detail"]
