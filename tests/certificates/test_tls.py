"""The generated CA and its certificates, also verified by other programs, and the TLS contexts."""

import asyncio
import contextlib
import shutil
import socket
import ssl
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from aiorelay.certificates import tls
from aiorelay.errors import StartupError

NAMES = ("localhost", "127.0.0.1", "::1")
# A client with VERIFY_X509_STRICT (RFC 5280), which is the default from Python 3.13 on.
STRICT_CLIENT = """
import socket, ssl, sys
context = ssl.create_default_context(cafile=sys.argv[1])
context.verify_flags |= ssl.VERIFY_X509_STRICT
with socket.create_connection((sys.argv[2], int(sys.argv[3])), 10) as plain:
    with context.wrap_socket(plain, server_hostname=sys.argv[2]) as secure:
        print(secure.version())
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "state" / "tls"


@pytest.fixture
def own(tmp_path: Path) -> trustme.LeafCert:
    """The user's own certificate in cert.pem and its key in key.pem."""
    issued = trustme.CA().issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "key.pem")
    return issued


@contextlib.asynccontextmanager
async def serving(context: ssl.SSLContext) -> AsyncIterator[dict[str, int]]:
    """Answer one HTTP request for each connection on both loopback addresses. Yields the port of each address."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nfine")
            await writer.drain()
        writer.close()

    async with (
        await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as four,
        await asyncio.start_server(answer, "::1", 0, ssl=context) as six,
    ):
        port = four.sockets[0].getsockname()[1]
        yield {"localhost": port, "127.0.0.1": port, "::1": six.sockets[0].getsockname()[1]}


async def run(*command: str | Path) -> tuple[int, str]:
    """Run a program without input. Return its exit status and its output."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    printed, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, printed.decode()


@contextlib.contextmanager
def listening(context: ssl.SSLContext) -> Iterator[int]:
    """Accept connections one after another, do the handshake and send a byte. Yields the port."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    plain, _ = listener.accept()
                    with contextlib.suppress(OSError), context.wrap_socket(plain, server_side=True) as secure:
                        secure.sendall(b"!")

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def handshake(
    port: int, context: ssl.SSLContext, name: str = "localhost"
) -> tuple[x509.Certificate | None, str | None]:
    """Return the certificate that a server presents and the ALPN protocol."""
    with (
        socket.create_connection(("127.0.0.1", port), 10) as plain,
        context.wrap_socket(plain, server_hostname=name) as secure,
    ):
        assert (
            secure.recv(1) == b"!"
        )  # in TLS 1.3 the client learns only now whether the server accepted its certificate
        der = secure.getpeercert(binary_form=True)
        return (x509.load_der_x509_certificate(der) if der else None), secure.selected_alpn_protocol()


def served(certificates: tls.Certificates) -> x509.Certificate:
    with listening(certificates.context) as port:
        certificate, _ = handshake(port, tls.client_context(verify=False))
    assert certificate is not None
    return certificate


def names_in(certificate: x509.Certificate) -> set[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {*names.get_values_for_type(x509.DNSName), *map(str, names.get_values_for_type(x509.IPAddress))}


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


class TestTheGeneratedCA:
    def test_only_this_user_can_read_the_keys(self, directory: Path) -> None:
        tls.Certificates(directory, NAMES)
        assert {path.name: mode(path) for path in (directory, *directory.iterdir())} == {
            "tls": 0o700,
            "ca-key.pem": 0o600,
            "ca.pem": 0o644,
            "server.pem": 0o600,
            "lock": 0o600,
        }

    def test_the_certificate_for_clients_holds_no_key(self, directory: Path) -> None:
        assert b"PRIVATE" not in tls.ca_certificate(directory).read_bytes()

    def test_it_is_kept_for_the_next_start(self, directory: Path) -> None:
        first = tls.ca_certificate(directory).read_bytes()
        assert tls.ca_certificate(directory).read_bytes() == first

    def test_two_cas_differ_in_name(self, tmp_path: Path) -> None:
        one, other = (tls.ca_certificate(tmp_path / name).read_bytes() for name in "ab")
        assert x509.load_pem_x509_certificate(one).subject != x509.load_pem_x509_certificate(other).subject

    def test_it_may_not_sign_another_ca(self, directory: Path) -> None:
        certificate = x509.load_pem_x509_certificate(tls.ca_certificate(directory).read_bytes())
        assert certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.path_length == 0

    def test_it_is_replaced_before_it_expires(self, directory: Path) -> None:
        before = tls.ca_certificate(directory).read_bytes()
        tls.Certificates(directory, NAMES, clock=lambda: datetime(2999, 12, 15, tzinfo=UTC))
        assert tls.ca_certificate(directory).read_bytes() != before

    @pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"else"), Path.unlink])
    def test_a_lost_copy_for_clients_is_restored(self, directory: Path, damage: Callable[[Path], object]) -> None:
        path = tls.ca_certificate(directory)
        before = path.read_bytes()
        damage(path)
        assert tls.ca_certificate(directory).read_bytes() == before

    @pytest.mark.parametrize("keep", [1, 100, 300])
    def test_a_damaged_ca_is_an_error_that_names_the_file(self, directory: Path, keep: int) -> None:
        tls.ca_certificate(directory)
        path = directory / "ca-key.pem"
        path.write_bytes(path.read_bytes()[:keep])
        with pytest.raises(
            StartupError, match=r"^The CA in .*/ca-key\.pem is damaged\. Restore the file, or delete it"
        ):
            tls.ca_certificate(directory)

    def test_the_key_of_another_ca_counts_as_damage(self, directory: Path, tmp_path: Path) -> None:
        certificate = tls.ca_certificate(directory).read_bytes()
        tls.ca_certificate(tmp_path / "other")
        (directory / "ca-key.pem").write_bytes(certificate + (tmp_path / "other/ca-key.pem").read_bytes())
        with pytest.raises(StartupError, match="is damaged"):
            tls.ca_certificate(directory)

    def test_a_directory_that_cannot_be_made_is_an_error_that_names_it(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        with pytest.raises(StartupError, match=r"/file/tls: Not a directory\. Give .* --state-dir\.$"):
            tls.ca_certificate(tmp_path / "file" / "tls")

    def test_a_file_that_cannot_be_read_is_an_error_that_names_it(self, directory: Path) -> None:
        (directory / "ca-key.pem").mkdir(parents=True)
        with pytest.raises(StartupError, match=r"/ca-key\.pem: Is a directory"):
            tls.ca_certificate(directory)

    @pytest.mark.needs("openssl")
    async def test_processes_that_start_simultaneously_share_one_ca(self, directory: Path) -> None:
        program = (
            "import pathlib, sys; from aiorelay.certificates import tls\n"
            "sys.stdin.read(1)\n"
            "made = tls.Certificates(pathlib.Path(sys.argv[1]), ['localhost'])\n"
            "sys.stdout.write(made.ca.read_text())"
        )
        starters = [
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", program, directory, stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
            for _ in range(4)
        ]
        printed = [output for output, _ in await asyncio.gather(*(each.communicate(b"!") for each in starters))]
        assert printed == [(directory / "ca.pem").read_bytes()] * 4
        assert (await run("openssl", "verify", "-CAfile", directory / "ca.pem", directory / "server.pem"))[0] == 0


class TestTheServedCertificate:
    def test_it_is_kept_for_the_next_start(self, directory: Path) -> None:
        first = served(tls.Certificates(directory, NAMES))
        assert served(tls.Certificates(directory, NAMES[::-1])) == first

    @pytest.mark.parametrize("names", [("localhost",), (*NAMES, "relay.example")])
    def test_other_names_replace_it(self, directory: Path, names: tuple[str, ...]) -> None:
        tls.Certificates(directory, NAMES)
        assert names_in(served(tls.Certificates(directory, names))) == set(names)

    def test_another_ca_replaces_it(self, directory: Path) -> None:
        first = served(tls.Certificates(directory, NAMES))
        (directory / "ca-key.pem").unlink()
        second = tls.Certificates(directory, NAMES)
        second_ca = x509.load_pem_x509_certificate(second.ca.read_bytes())
        served(second).verify_directly_issued_by(second_ca)
        assert served(second) != first

    @pytest.mark.parametrize("content", [b"", b"nonsense"])
    def test_a_damaged_certificate_is_replaced(self, directory: Path, content: bytes) -> None:
        tls.Certificates(directory, NAMES)
        (directory / "server.pem").write_bytes(content)
        assert names_in(served(tls.Certificates(directory, NAMES))) == set(NAMES)

    @pytest.mark.parametrize("days", [365 + 1, -2])
    def test_it_is_replaced_near_its_expiry_or_before_it_is_valid(self, directory: Path, days: int) -> None:
        first = served(tls.Certificates(directory, NAMES))
        later = datetime.now(UTC) + timedelta(days=days)
        assert served(tls.Certificates(directory, NAMES, clock=lambda: later)) != first

    def test_it_is_valid_from_yesterday_for_less_than_398_days(self, directory: Path) -> None:
        certificate = served(tls.Certificates(directory, NAMES))
        assert certificate.not_valid_before_utc < datetime.now(UTC) - timedelta(hours=23)
        assert certificate.not_valid_after_utc - certificate.not_valid_before_utc < timedelta(days=398)

    def test_it_does_not_outlive_its_ca(self, directory: Path) -> None:
        made = tls.Certificates(directory, NAMES, clock=lambda: datetime(2999, 11, 1, tzinfo=UTC))
        authority = x509.load_pem_x509_certificate(made.ca.read_bytes())
        assert served(made).not_valid_after_utc == authority.not_valid_after_utc

    def test_an_empty_list_of_names_is_an_error(self, directory: Path) -> None:
        with pytest.raises(StartupError, match=r"needs a name\. .*--tls-name"):
            tls.Certificates(directory, [])


class TestRenewal:
    def test_it_does_nothing_before_it_is_due(self, directory: Path) -> None:
        certificates = tls.Certificates(directory, NAMES)
        first = served(certificates)
        assert not certificates.renew()
        assert served(certificates) == first
        assert 360 < certificates.seconds_until_renewal / 86400 < 367

    def test_a_running_server_presents_the_new_certificate_to_new_connections(self, directory: Path) -> None:
        now = datetime.now(UTC) - timedelta(days=380)
        certificates = tls.Certificates(directory, NAMES, clock=lambda: now)
        client = tls.client_context([certificates.ca])
        with listening(certificates.context) as port:
            first, _ = handshake(port, tls.client_context(verify=False))
            now = datetime.now(UTC)
            assert certificates.seconds_until_renewal == 0
            assert certificates.renew()
            second, _ = handshake(port, client)
        assert second != first
        assert certificates.seconds_until_renewal > 0

    def test_it_uses_the_certificate_that_another_process_has_renewed(self, directory: Path) -> None:
        now = datetime.now(UTC) - timedelta(days=380)
        certificates = tls.Certificates(directory, NAMES, clock=lambda: now)
        now = datetime.now(UTC)
        other = served(tls.Certificates(directory, NAMES))
        assert certificates.renew()
        assert served(certificates) == other

    def test_if_it_fails_the_old_certificate_stays_in_use(self, directory: Path) -> None:
        now = datetime.now(UTC)
        certificates = tls.Certificates(directory, NAMES, clock=lambda: now)
        first = served(certificates)
        shutil.rmtree(directory)
        directory.touch()
        now += timedelta(days=380)
        with pytest.raises(StartupError):
            certificates.renew()
        assert served(certificates) == first


class TestOtherProgramsTrustIt:
    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.needs("curl")
    async def test_curl(self, directory: Path, name: str) -> None:
        certificates = tls.Certificates(directory, NAMES)
        async with serving(certificates.context) as ports:
            host = f"[{name}]" if ":" in name else name
            url = f"https://{host}:{ports[name]}/"
            resolved = ("--resolve", f"localhost:{ports[name]}:127.0.0.1")
            got = await run("curl", "-q", "-sS", "-m", "20", *resolved, "--cacert", certificates.ca, url)
        assert got == (0, "fine")

    @pytest.mark.needs("openssl")
    async def test_openssl_strict(self, directory: Path) -> None:
        ca = tls.Certificates(directory, NAMES).ca
        for purpose in ("-x509_strict", "-purpose", "sslserver"), ("-x509_strict", "-verify_hostname", "localhost"):
            status, printed = await run("openssl", "verify", *purpose, "-CAfile", ca, directory / "server.pem")
            assert status == 0, printed

    @pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
    @pytest.mark.parametrize("name", NAMES)
    @pytest.mark.needs("openssl")
    async def test_openssl_in_a_handshake(self, directory: Path, name: str, version: str) -> None:
        certificates = tls.Certificates(directory, NAMES)
        identity = "-verify_hostname" if name == "localhost" else "-verify_ip"
        async with serving(certificates.context) as ports:
            address = f"[{name}]" if ":" in name else "127.0.0.1"
            connect = ("-connect", f"{address}:{ports[name]}", version, "-alpn", "h2,http/1.1")
            verify = ("-CAfile", certificates.ca, "-x509_strict", "-verify_return_error", identity, name)
            status, printed = await run("openssl", "s_client", *connect, *verify)
        assert status == 0, printed
        assert "Verify return code: 0 (ok)" in printed
        assert "ALPN protocol: http/1.1" in printed

    @pytest.mark.needs("openssl")
    async def test_openssl_refuses_another_name(self, directory: Path) -> None:
        ca = tls.Certificates(directory, NAMES).ca
        other = ("-verify_hostname", "other.example")
        assert (await run("openssl", "verify", *other, "-CAfile", ca, directory / "server.pem"))[0] != 0

    @pytest.mark.parametrize("name", NAMES)
    async def test_python_strict(self, directory: Path, name: str) -> None:
        """Verify with this Python in strict mode, and with installed Pythons that are strict by default."""
        certificates = tls.Certificates(directory, NAMES)
        async with serving(certificates.context) as ports:
            for python in sys.executable, "python3.13", "python3.14":
                if not shutil.which(python) or (await run(python, "-V"))[0] != 0:
                    continue
                status, printed = await run(python, "-c", STRICT_CLIENT, certificates.ca, name, str(ports[name]))
                assert (status, printed.strip()) == (0, "TLSv1.3")


class TestTheServerContext:
    @pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1"])
    def test_it_refuses_versions_older_than_tls_1_2(self, directory: Path, version: str) -> None:
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
        with pytest.warns(DeprecationWarning, match="is deprecated"):
            client.minimum_version = client.maximum_version = ssl.TLSVersion[version]
        client.set_ciphers("ALL:@SECLEVEL=0")
        with (
            listening(tls.Certificates(directory, NAMES).context) as port,
            pytest.raises(ssl.SSLError, match="VERSION"),
        ):
            handshake(port, client)

    def test_it_negotiates_http_1_1(self, directory: Path) -> None:
        client = tls.client_context(verify=False)
        client.set_alpn_protocols(["h2", "http/1.1"])
        with listening(tls.Certificates(directory, NAMES).context) as port:
            assert handshake(port, client)[1] == "http/1.1"

    def test_it_can_require_certificates_of_a_ca(self, directory: Path, tmp_path: Path) -> None:
        company = trustme.CA()
        company.cert_pem.write_to_path(tmp_path / "company.pem")
        certificates = tls.Certificates(directory, NAMES)
        tls.require_client_certificates(certificates.context, tmp_path / "company.pem")
        employee, stranger, nobody = (tls.client_context([certificates.ca]) for _ in range(3))
        company.issue_cert("employee@company.example").configure_cert(employee)
        trustme.CA().issue_cert("stranger@company.example").configure_cert(stranger)
        with listening(certificates.context) as port:
            assert handshake(port, employee)[0] is not None
            for refused in stranger, nobody:
                with pytest.raises(OSError):  # noqa: PT011 - an alert or a reset: they race
                    handshake(port, refused)


class TestAnOwnCertificate:
    def test_it_is_served(self, tmp_path: Path, own: trustme.LeafCert) -> None:
        context = tls.server_context_from(tmp_path / "cert.pem", tmp_path / "key.pem")
        with listening(context) as port:
            certificate, _ = handshake(port, tls.client_context(verify=False))
        assert certificate == x509.load_pem_x509_certificate(own.cert_chain_pems[0].bytes())

    @pytest.mark.usefixtures("own")
    def test_its_key_may_be_in_the_same_file(self, tmp_path: Path) -> None:
        both = tmp_path / "both.pem"
        both.write_bytes((tmp_path / "key.pem").read_bytes() + (tmp_path / "cert.pem").read_bytes())
        with listening(tls.server_context_from(both, None)) as port:
            assert handshake(port, tls.client_context(verify=False))[0] is not None

    @pytest.mark.usefixtures("own")
    @pytest.mark.parametrize(
        ("cert", "key", "message"),
        [
            (
                "none.pem",
                "key.pem",
                r"/none\.pem \(--tls-cert\) cannot be read: No such file or directory\. [A-Z].*\.$",
            ),
            (
                "cert.pem",
                "none.pem",
                r"/none\.pem \(--tls-key\) cannot be read: No such file or directory\. [A-Z].*\.$",
            ),
            ("key.pem", "key.pem", r"/key\.pem \(--tls-cert\) holds no certificate in PEM form\. [A-Z].*\.$"),
            (
                "cert.pem",
                "cert.pem",
                r"/cert\.pem \(--tls-key\) holds no unencrypted private key in PEM form\. [A-Z].*\.$",
            ),
            ("cert.pem", None, r"/cert\.pem \(--tls-cert\) holds no unencrypted private key in PEM form\. [A-Z].*\.$"),
            ("cert.pem", "encrypted.pem", r"/encrypted\.pem \(--tls-key\) holds no unencrypted private key"),
            ("cert.pem", "other.pem", r"/other\.pem \(--tls-key\) is not that of the certificate in .*/cert\.pem"),
            ("weak.pem", None, r"/weak\.pem \(--tls-cert\): EE_KEY_TOO_SMALL\. [A-Z].*\.$"),
        ],
    )
    @pytest.mark.needs("openssl")
    def test_an_unusable_certificate_or_key_is_a_startup_error(
        self, tmp_path: Path, cert: str, key: str | None, message: str
    ) -> None:
        authority = trustme.CA()
        authority.issue_cert("a").private_key_pem.write_to_path(tmp_path / "other.pem")
        private = load_pem_private_key((tmp_path / "key.pem").read_bytes(), None)
        encrypted = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
        (tmp_path / "encrypted.pem").write_bytes(encrypted)
        weak = ("-subj", "/CN=weak", "-keyout", "weak.pem", "-out", "weak.crt")
        command = ("openssl", "req", "-x509", "-newkey", "rsa:1024", "-noenc", *weak)
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
        with (tmp_path / "weak.pem").open("ab") as file:
            file.write((tmp_path / "weak.crt").read_bytes())
        with pytest.raises(StartupError, match=message):
            tls.server_context_from(tmp_path / cert, None if key is None else tmp_path / key)


class TestTheClientContext:
    def test_it_trusts_the_cas_it_is_given(self, tmp_path: Path) -> None:
        made = [tls.Certificates(tmp_path / name, NAMES) for name in "ab"]
        client = tls.client_context([each.ca for each in made], system_trust=False)
        for each in made:
            with listening(each.context) as port:
                assert handshake(port, client)[1] == "http/1.1"

    def test_it_trusts_no_other_ca(self, directory: Path) -> None:
        with (
            listening(tls.Certificates(directory, NAMES).context) as port,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            handshake(port, tls.client_context())

    def test_it_verifies_the_name(self, directory: Path) -> None:
        made = tls.Certificates(directory, ["localhost"])
        client = tls.client_context([made.ca])
        with listening(made.context) as port, pytest.raises(ssl.SSLCertVerificationError, match="not valid for"):
            handshake(port, client, "127.0.0.1")

    def test_it_trusts_the_systems_cas_by_default(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made = tls.Certificates(directory, NAMES)
        monkeypatch.setenv("SSL_CERT_FILE", str(made.ca))
        with listening(made.context) as port:
            assert handshake(port, tls.client_context())[0] is not None
            with pytest.raises(ssl.SSLCertVerificationError):
                handshake(port, tls.client_context(system_trust=False))

    def test_without_verification_it_accepts_any_certificate(self, directory: Path) -> None:
        with listening(tls.Certificates(directory, NAMES).context) as port:
            assert handshake(port, tls.client_context(verify=False), "other.example")[0] is not None

    @pytest.mark.parametrize(
        ("content", "message"),
        [(None, r"/ca\.pem cannot be read: No such file"), (b"nonsense", r"/ca\.pem holds no CA certificate in PEM")],
    )
    def test_a_ca_that_cannot_be_read_is_an_error_that_names_it(
        self, tmp_path: Path, content: bytes | None, message: str
    ) -> None:
        if content is not None:
            (tmp_path / "ca.pem").write_bytes(content)
        with pytest.raises(StartupError, match=message):
            tls.client_context([tmp_path / "ca.pem"])
