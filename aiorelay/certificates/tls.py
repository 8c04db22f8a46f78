"""The generated CA and the certificates it signs, and the TLS contexts of every leg.

One directory holds them, closed to other users:

    ca-key.pem   the CA, its key and its certificate      0600
    ca.pem       its certificate alone, for clients       0644
    server.pem   the served certificate and its key       0600
    lock         held (flock) while any of them is made

What belongs together lies in one file, so that one rename replaces both and a kill at any moment parts no key
from its certificate. ``ca.pem`` is only ever a copy of what ``ca-key.pem`` says.
"""

import contextlib
import fcntl
import ipaddress
import os
import secrets
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

import idna
import trustme
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from aiorelay.errors import StartupError

__all__ = [
    "Certificates",
    "ca_certificate",
    "client_context",
    "names_in",
    "require_client_certificates",
    "server_context_from",
]

T = TypeVar("T")

# Apple's platforms refuse a server certificate that is valid for more than 398 days, whoever signed it.
_LIFETIME = timedelta(days=397)
_RENEW_BEFORE = timedelta(days=30)
# For clients whose clock is behind ours.
_CLOCK_SKEW = timedelta(days=1)

# What cryptography raises for bytes that it cannot read; TypeError is an encrypted key.
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm)


def _now() -> datetime:
    return datetime.now(UTC)


def ca_certificate(directory: Path) -> Path:
    """Give the path of the generated CA's certificate (PEM), making the CA if there is none.

    Raises StartupError where the directory cannot be used or the CA in it is damaged.
    """
    with _locked(directory):
        _authority(directory, _now())
    return directory / "ca.pem"


class Certificates:
    """A server certificate signed by the generated CA, and the context that serves it.

    ``names`` are DNS names (in Unicode or as A-labels, a wildcard with ``*.`` first) and IP addresses. The
    certificate is kept for the next start, and made anew where its names differ, where it has no more than 30
    days left, or where the present CA did not sign it. ``ca`` is the path of the CA's certificate.

    Raises StartupError where the directory cannot be used or a name cannot stand in a certificate.
    """

    def __init__(self, directory: Path, names: Sequence[str], *, clock: Callable[[], datetime] = _now) -> None:
        self.ca = directory / "ca.pem"
        self.context = _server_context()
        self._directory = directory
        self._names = _canonical_names(names)
        self._clock = clock
        self._expires = self._load()

    @property
    def seconds_until_renewal(self) -> float:
        """For how many seconds ``renew`` has nothing to do. It is the wall clock that counts, and that may jump."""
        return max(0.0, (self._expires - _RENEW_BEFORE - self._clock()).total_seconds())

    def renew(self) -> bool:
        """Replace the certificate if it is due and say whether it was: handshakes from now on see the new one.

        Raises StartupError as the constructor does; the old certificate is then served still.
        """
        if self.seconds_until_renewal > 0:
            return False
        self._expires = self._load()
        return True

    def _load(self) -> datetime:
        """Bring the directory up to date with the clock, and the context with the directory; return the expiry."""
        path, now = self._directory / "server.pem", self._clock()
        with _locked(self._directory):
            authority = _authority(self._directory, now)
            pem = _read(path)
            if pem is None or not _is_current(pem, authority, self._names, now):
                pem = _issue(authority, self._names, now)
                _keep(path, pem, 0o600)
            self.context.load_cert_chain(path)
        return x509.load_pem_x509_certificate(pem).not_valid_after_utc


def server_context_from(cert: Path, key: Path | None) -> ssl.SSLContext:
    """Serve the user's own certificate: ``cert`` and its chain, with ``key`` or, if None, the key in ``cert`` too.

    Raises StartupError where either is missing, malformed or encrypted, or where they do not belong together.
    """
    context = _server_context()
    holder, setting = (cert, "--tls-cert") if key is None else (key, "--tls-key")
    certificate = _parse(cert, "--tls-cert", "certificate", x509.load_pem_x509_certificate)
    private = _parse(holder, setting, "unencrypted private key", _private_key)
    if private.public_key() != certificate.public_key():
        raise StartupError(
            f"The private key in {holder} ({setting}) is not that of the certificate in {cert} (--tls-cert)."
        )
    try:
        context.load_cert_chain(cert, holder)
    except ssl.SSLError as error:
        raise StartupError(f"The certificate in {cert} (--tls-cert) cannot be served: {error.reason}.") from error
    return context


def names_in(cert: Path) -> tuple[str, ...]:
    """Give the names under which clients verify the first certificate in ``cert``, a PEM file that is served already.

    They are those of its subjectAltName, or else its common name, which OpenSSL still takes in their place.
    """
    certificate = x509.load_pem_x509_certificate(cert.read_bytes())
    try:
        held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return tuple(str(each.value) for each in common)
    return (*held.get_values_for_type(x509.DNSName), *map(str, held.get_values_for_type(x509.IPAddress)))


def require_client_certificates(context: ssl.SSLContext, ca: Path) -> None:
    """Make a server's context refuse clients without a certificate signed by ``ca`` (a PEM file of one or more)."""
    _trust(context, ca)
    context.verify_mode = ssl.CERT_REQUIRED


def client_context(
    authorities: Iterable[Path] = (), *, system_trust: bool = True, verify: bool = True
) -> ssl.SSLContext:
    """Trust the system's CAs, unless told not to, and those in the PEM files ``authorities``; or, unverified, anyone.

    Raises StartupError where a file cannot be read or holds no certificate.
    """
    context = ssl.create_default_context() if system_trust else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _agree_on_http1(context)
    for path in authorities:
        _trust(context, path)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _server_context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    _agree_on_http1(context)
    return context


def _agree_on_http1(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])


def _trust(context: ssl.SSLContext, authority: Path) -> None:
    try:
        context.load_verify_locations(authority)
    except ssl.SSLError as error:
        raise StartupError(f"The file {authority} holds no CA certificate in PEM form.") from error
    except OSError as error:
        raise StartupError(f"The CA certificate {authority} cannot be read: {error.strerror}.") from error


def _parse(path: Path, setting: str, what: str, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise StartupError(f"The file {path} ({setting}) cannot be read: {error.strerror}.") from error
    except _UNREADABLE as error:
        raise StartupError(f"The file {path} ({setting}) holds no {what} in PEM form.") from error


def _private_key(pem: bytes) -> PrivateKeyTypes:
    return load_pem_private_key(pem, password=None)


def _canonical_names(names: Iterable[str]) -> frozenset[str]:
    canonical = set()
    for name in names:
        try:
            canonical.add(_canonical_name(name))
        except ValueError as error:
            raise StartupError(
                f"The name {name!r} cannot stand in a certificate: --tls-name wants a DNS name or an IP address."
            ) from error
    if not canonical:
        raise StartupError("A certificate needs a name: --tls-name wants a DNS name or an IP address.")
    return frozenset(canonical)


def _canonical_name(name: str) -> str:
    """Write a name as a certificate holds it; ValueError for what is no name of a server."""
    with contextlib.suppress(ValueError):
        # A zone (fe80::1%eth0) is meant for this machine only; no certificate can hold it.
        return str(ipaddress.ip_address(name if "%" not in name else ""))
    wildcard, host = ("*.", name[2:]) if name.startswith("*.") else ("", name)
    return wildcard + idna.encode(host.removesuffix("."), uts46=True).decode("ascii")


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Keep other processes out of the directory, making it first; its OSErrors leave as StartupError."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Read-only, so that a directory in which everything is in order may be unwritable.
        descriptor = os.open(directory / "lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StartupError(
            f"The certificate store cannot be used, {error.filename or directory}: {error.strerror};"
            " give this user access to it or choose another place with --state-dir."
        ) from error


def _authority(directory: Path, now: datetime) -> bytes:
    """Give the CA, key and certificate, as PEM, making it if there is none or it is about to expire."""
    path = directory / "ca-key.pem"
    pem = _read(path) or _new_authority()
    try:
        if _certificate_with_key(pem).not_valid_after_utc - _RENEW_BEFORE <= now:
            pem = _new_authority()
    except _UNREADABLE as error:
        raise StartupError(
            f"The CA in {path} is damaged: restore the file, or delete it and give clients the CA that is then made."
        ) from error
    _keep(path, pem, 0o600)
    _keep(directory / "ca.pem", x509.load_pem_x509_certificate(pem).public_bytes(Encoding.PEM), 0o644)
    return pem


def _new_authority() -> bytes:
    """Make a CA; trustme makes it valid until the year 3000. It may sign no further CA."""
    # Two CAs of one name would make a client look for the wrong one's signature.
    unit = f"generated CA {secrets.token_hex(4)}"
    authority = trustme.CA(path_length=0, organization_name="aiorelay", organization_unit_name=unit)
    return authority.private_key_pem.bytes() + authority.cert_pem.bytes()


def _certificate_with_key(pem: bytes) -> x509.Certificate:
    """Read a certificate that lies in one file with its key, or raise one of ``_UNREADABLE``."""
    certificate = x509.load_pem_x509_certificate(pem)
    if _private_key(pem).public_key() != certificate.public_key():
        raise ValueError("the key belongs to another certificate")
    return certificate


def _is_current(pem: bytes, authority: bytes, names: frozenset[str], now: datetime) -> bool:
    """Whether a certificate with its key is the CA's, valid for a while, and for exactly these names."""
    try:
        certificate = _certificate_with_key(pem)
        certificate.verify_directly_issued_by(x509.load_pem_x509_certificate(authority))
    except (*_UNREADABLE, InvalidSignature):
        return False
    held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    held_names = {*held.get_values_for_type(x509.DNSName), *map(str, held.get_values_for_type(x509.IPAddress))}
    valid = certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc - _RENEW_BEFORE
    return valid and held_names == names


def _issue(authority: bytes, names: frozenset[str], now: datetime) -> bytes:
    """Sign a certificate for these names with a key of its own; return both as PEM."""
    end = x509.load_pem_x509_certificate(authority).not_valid_after_utc
    start = now - _CLOCK_SKEW
    issued = trustme.CA.from_pem(authority, authority).issue_cert(
        *sorted(names),
        organization_name="aiorelay",
        organization_unit_name="generated certificate",
        not_before=start,
        not_after=min(start + _LIFETIME, end),
    )
    return issued.private_key_and_cert_chain_pem.bytes()


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _keep(path: Path, content: bytes, mode: int) -> None:
    """Put a whole file in place at once, unless it is there; the lock makes the temporary name ours alone."""
    if _read(path) == content:
        return
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        os.fsync(descriptor)  # or a power cut could leave the new name without content
    temporary.replace(path)
