"""Scans by c-icap: its virus scan with ClamAV's daemon, and its service that sends every file back."""

import asyncio
import os
import socket
import ssl
import subprocess
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from peers import ask, form, part, request
from programs import program
from virus_scanners import EICAR, MARKER, SIGNATURE, Clamd, running_c_icap, running_clamd
from yarl import URL

from aiorelay.checks.icap.connection import Connection
from aiorelay.checks.icap.requests import FileRequest
from aiorelay.checks.icap.scan import ICAP
from aiorelay.checks.icap.service import Service
from aiorelay.checks.icap.transaction import Transaction
from aiorelay.checks.verdicts import ScanOutcome, Verdict
from aiorelay.errors import Infected, Refused, ScannerUnavailable
from aiorelay.multipart.form import Part

pytestmark = pytest.mark.needs("c-icap", "clamd", "haproxy")

MIB = 1024 * 1024


@pytest.fixture(scope="session")
def clamd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clamd]:
    with running_clamd(tmp_path_factory.mktemp("clamd"), 16 * MIB) as running:
        yield running


@pytest.fixture(scope="session")
def c_icap(clamd: Clamd) -> Iterator[int]:
    with running_c_icap(clamd) as port:
        yield port


@pytest.fixture(params=["icap", "icaps"])
def place(request: pytest.FixtureRequest, c_icap: int) -> "Place":
    if request.param == "icap":
        return Place(f"icap://127.0.0.1:{c_icap}", None)
    found: Place = request.getfixturevalue("encrypted")
    return found


@dataclass(frozen=True)
class Place:
    """The base of the URLs of services, and the TLS context that trusts them."""

    base: str
    context: ssl.SSLContext | None


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def encrypted(c_icap: int, authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with tls_front(tmp_path_factory.mktemp("haproxy"), c_icap, authority) as port:
        yield Place(f"icaps://localhost:{port}", context)


@contextmanager
def tls_front(home: Path, port: int, authority: trustme.CA) -> Iterator[int]:
    """Run haproxy with TLS in front of a port. It inherits its listening socket."""
    authority.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(home / "localhost.pem")
    with socket.create_server(("127.0.0.1", 0)) as server:
        (home / "haproxy.cfg").write_text(
            "defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 60s\n  timeout server 60s\n"
            f"listen icaps\n  bind fd@{server.fileno()} ssl crt {home}/localhost.pem\n"
            f"  server c-icap 127.0.0.1:{port}\n"
        )
        command = [program("haproxy"), "-db", "-f", str(home / "haproxy.cfg")]
        with subprocess.Popen(command, pass_fds=[server.fileno()]) as process:
            try:
                yield server.getsockname()[1]
            finally:
                process.terminate()


class Scanner:
    """Scans by a service of c-icap, the outcomes of which are recorded."""

    def __init__(self, place: Place, name: str) -> None:
        self.outcomes: list[ScanOutcome] = []
        self.service = Service(URL(f"{place.base}/{name}"), place.context)
        self.icap = ICAP(self.service, timeout=60, on_outcome=self.outcomes.append)

    async def scan(self, *chunks: bytes) -> None:
        check = self.icap(Part("somefile", "a.bin", None, None, unread()))
        assert check is not None
        try:
            for chunk in chunks:
                await check.feed(chunk)
            await check.finish()
        finally:
            await check.close()


async def unread() -> AsyncGenerator[bytes, None]:
    yield b"a scan is fed, it does not read"


@pytest.fixture
def scanner(place: Place) -> Iterator[Scanner]:
    found = Scanner(place, "avscan")
    yield found
    found.service.close()


@pytest.fixture
def echo(place: Place) -> Iterator[Scanner]:
    found = Scanner(place, "echo")
    yield found
    found.service.close()


FILES = {
    "nothing": (),
    "a little": (b"hello",),
    "a preview": (b"x" * 1024,),
    "a byte more": (b"x" * 1025,),
    "many blocks": (b"x" * 1000,) * 1000,
    "more than it scans": (bytes(MIB),) * 8,
}


@pytest.mark.parametrize("chunks", FILES.values(), ids=FILES)
async def test_a_clean_file_passes(scanner: Scanner, chunks: tuple[bytes, ...]) -> None:
    await scanner.scan(*chunks)
    assert scanner.outcomes == ["clean"]


@pytest.mark.parametrize("chunks", FILES.values(), ids=FILES)
async def test_a_file_that_comes_back_unchanged_passes(echo: Scanner, chunks: tuple[bytes, ...]) -> None:
    await echo.scan(*chunks)
    assert echo.outcomes == ["clean"]


@pytest.mark.parametrize(
    "chunks",
    [(EICAR,), (b"x" * 2000, EICAR, b"x"), (os.urandom(MIB), MARKER)],
    ids=["alone", "after the preview", "at the end"],
)
async def test_an_infected_file_is_refused_with_the_name_of_the_signature(
    scanner: Scanner, chunks: tuple[bytes, ...]
) -> None:
    with pytest.raises(Infected, match=SIGNATURE if chunks[-1] == MARKER else r"Eicar-Test\.UNOFFICIAL"):
        await scanner.scan(*chunks)
    assert scanner.outcomes == ["infected"]


async def test_an_infected_file_that_was_sent_back_in_part_is_refused(scanner: Scanner) -> None:
    """The head of the answer was sent before c-icap had scanned the file, so that it could not name the threat."""
    with pytest.raises(Refused):
        await scanner.scan(*(os.urandom(MIB) for _ in range(3)), MARKER)
    assert scanner.outcomes == ["changed"]


async def test_scans_at_once_do_not_mix_their_verdicts(scanner: Scanner) -> None:
    files = [(b"clean", b"file"), (EICAR,), (bytes(MIB),)] * 5
    verdicts = await asyncio.gather(*(scanner.scan(*chunks) for chunks in files), return_exceptions=True)
    assert [type(verdict) for verdict in verdicts] == [type(None), Infected, type(None)] * 5


async def test_a_service_that_it_does_not_have_is_unavailable(place: Place) -> None:
    with pytest.raises(ScannerUnavailable):
        await Scanner(place, "none").scan(b"hello")


@pytest.mark.parametrize(
    ("content", "outcome"),
    [(b"hello", "clean"), (b"x" * 5000, "clean"), (EICAR, "infected")],
    ids=["short", "long", "eicar"],
)
async def test_the_other_method_works_as_well(c_icap: int, content: bytes, outcome: str) -> None:
    """c-icap offers both, of which the relay takes RESPMOD."""
    service = URL(f"icap://127.0.0.1:{c_icap}/avscan")
    scan = Transaction(FileRequest(service=service, method="REQMOD", filename="a"), preview=None, allow_204=True)
    connection = await Connection.open("127.0.0.1", c_icap, None)
    try:
        await connection.send(scan.send(content) + scan.end())
        while scan.verdict is None:
            scan.receive(await connection.receive())
    finally:
        connection.close()
    assert scan.verdict == Verdict("clean") if outcome == "clean" else scan.verdict.outcome == outcome


async def test_an_untrusted_certificate_is_refused(encrypted: Place, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ScannerUnavailable):
        await Scanner(Place(encrypted.base, ssl.create_default_context()), "avscan").scan(b"hello")
    assert "certificate of the ICAP service cannot be verified" in caplog.text


async def test_a_certificate_of_another_host_is_refused(encrypted: Place, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ScannerUnavailable):
        await Scanner(Place(encrypted.base.replace("localhost", "127.0.0.1"), encrypted.context), "avscan").scan(
            b"hello"
        )
    assert "certificate of the ICAP service cannot be verified" in caplog.text


# -- through the relay


def upload(content: bytes) -> bytes:
    return request("/upload1", form(part("somefile", content, "a.bin")))


async def test_uploads_are_scanned(aiorelay_server, place, authority, tmp_path):
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    trust = {} if place.context is None else {"icap_ca": tmp_path / "ca.pem"}
    chain = await aiorelay_server(icap=f"{place.base}/avscan", **trust)
    for content in (b"clean", EICAR, bytes(MIB), bytes(MIB) + MARKER):
        answer = await ask(chain.rest1, chain.tls, upload(content))
        infected = EICAR in content or MARKER in content
        assert (answer.status, answer.json().get("type")) == (
            (422, "urn:aiorelay:infected") if infected else (200, None)
        )
    metrics = await ask(chain.rest1, chain.tls, request("/metrics", b"", method="GET", content_type=None))
    assert b'aiorelay_scans_total{outcome="clean",scanner="icap"} 2.0' in metrics.body
    assert b'aiorelay_scans_total{outcome="infected",scanner="icap"} 2.0' in metrics.body
    assert len(chain.stored()) == 2


async def test_both_scanners_scan(aiorelay_server, c_icap, clamd):
    host, port = clamd.tcp
    chain = await aiorelay_server(icap=f"icap://127.0.0.1:{c_icap}/avscan", clamd=f"{host}:{port}")
    assert (await ask(chain.rest1, chain.tls, upload(b"clean"))).status == 200
    metrics = await ask(chain.rest1, chain.tls, request("/metrics", b"", method="GET", content_type=None))
    for scanner in ("icap", "clamav"):
        assert f'aiorelay_scans_total{{outcome="clean",scanner="{scanner}"}} 1.0' in metrics.body.decode()


async def test_an_absent_service_refuses_or_lets_pass(aiorelay_server):
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    for fail, status in (("closed", 503), ("open", 200)):
        chain = await aiorelay_server(icap=f"icap://127.0.0.1:{port}/avscan", icap_fail=fail)
        assert (await ask(chain.rest1, chain.tls, upload(b"clean"))).status == status
