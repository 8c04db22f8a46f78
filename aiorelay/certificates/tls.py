"""The generated CA, the certificates it signs, and the TLS contexts of servers and clients.

One directory, which other users cannot read, holds the files:

    ca-key.pem   the key and the certificate of the CA    0600
    ca.pem       the certificate of the CA, for clients   0644
    server.pem   the server certificate and its key       0600
    lock         locked (flock) while a file is written

A key and its certificate share one file, so that one rename replaces both: a crash cannot leave a key without its
certificate. ``ca.pem`` is a copy of the certificate in ``ca-key.pem``.
"""

import contextlib
import fcntl
import os
import secrets
import ssl
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

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
    "scanner_context",
    "server_context_from",
]

T = TypeVar("T")

# Apple's platforms reject server certificates that are valid for more than 398 days, including those of private CAs.
_LIFETIME = timedelta(days=397)
_RENEW_BEFORE = timedelta(days=30)
# Allowance for clients whose clock is slow.
_CLOCK_SKEW = timedelta(days=1)

# The exceptions of cryptography for invalid input. It raises TypeError for an encrypted key.
_UNREADABLE = (ValueError, TypeError, UnsupportedAlgorithm)


def _now() -> datetime:
    return datetime.now(UTC)


def ca_certificate(directory: Path) -> Path:
    """Return the path of the generated CA's certificate (PEM). Generate the CA if there is none.

    Raises StartupError if the directory cannot be used or the CA in it is damaged.
    """
    with _locked(directory):
        _authority(directory, _now())
    return directory / "ca.pem"


class Certificates:
    """A server certificate signed by the generated CA, and the server's TLS context.

    ``names`` are DNS names and IP addresses in the form of the setting ``tls-name``. The certificate is kept for the
    next start. It is replaced if its names differ, if it expires within 30 days, or if the current CA did not sign it.
    ``ca`` is the path of the CA's certificate.

    Raises StartupError if the directory cannot be used or if there is no name.
    """

    def __init__(self, directory: Path, names: Sequence[str], *, clock: Callable[[], datetime] = _now) -> None:
        if not names:
            raise StartupError("A certificate needs a name. Give a DNS name or an IP address with --tls-name.")
        self.ca = directory / "ca.pem"
        self.context = _server_context()
        self._directory = directory
        self._names = frozenset(names)
        self._clock = clock
        self._expires = self._load()

    @property
    def seconds_until_renewal(self) -> float:
        """Seconds until ``renew`` replaces the certificate, by the wall clock, which may be adjusted meanwhile."""
        return max(0.0, (self._expires - _RENEW_BEFORE - self._clock()).total_seconds())

    def renew(self) -> bool:
        """Replace the certificate if it is due. Return whether it was replaced. New handshakes use the new one.

        Raises StartupError as the constructor does, and keeps the old certificate in that case.
        """
        if self.seconds_until_renewal > 0:
            return False
        self._expires = self._load()
        return True

    def _load(self) -> datetime:
        """Issue what is missing or due in the directory, load it into the context, and return the expiry."""
        path, now = self._directory / "server.pem", self._clock()
        with _locked(self._directory):
            authority = _authority(self._directory, now)
            pem = _read(path)
            if pem is None or not _is_current(pem, authority, self._names, now):
                pem = _issue(authority, self._names, now)
                _write_if_changed(path, pem, 0o600)
            self.context.load_cert_chain(path)
        return x509.load_pem_x509_certificate(pem).not_valid_after_utc


def server_context_from(cert: Path, key: Path | None) -> ssl.SSLContext:
    """Return a server context for the user's own certificate chain ``cert``. Without ``key``, ``cert`` holds the key.

    Raises StartupError if a file is missing, malformed or encrypted, or if the key is not that of the certificate.
    """
    context = _server_context()
    holder, setting = (cert, "--tls-cert") if key is None else (key, "--tls-key")
    certificate = _parse(cert, "--tls-cert", "certificate", x509.load_pem_x509_certificate)
    private = _parse(holder, setting, "unencrypted private key", _private_key)
    if private.public_key() != certificate.public_key():
        raise StartupError(
            f"The private key in {holder} ({setting}) is not that of the certificate in {cert} (--tls-cert)."
            " Give the key of that certificate with --tls-key."
        )
    try:
        context.load_cert_chain(cert, holder)
    except ssl.SSLError as error:
        raise StartupError(
            f"OpenSSL rejects the certificate in {cert} (--tls-cert): {error.reason}. Choose another certificate."
        ) from error
    return context


def names_in(cert: Path) -> tuple[str, ...]:
    """Return the names for which the first certificate in the PEM file ``cert`` is valid.

    They are those of its subjectAltName, else its common name, which OpenSSL still accepts.
    """
    certificate = x509.load_pem_x509_certificate(cert.read_bytes())
    try:
        held = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        common = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return tuple(str(each.value) for each in common)
    return (*held.get_values_for_type(x509.DNSName), *map(str, held.get_values_for_type(x509.IPAddress)))


def require_client_certificates(context: ssl.SSLContext, ca: Path) -> None:
    """Make a server context require client certificates signed by a CA in the PEM file ``ca``."""
    _trust(context, ca)
    context.verify_mode = ssl.CERT_REQUIRED


def client_context(
    authorities: Iterable[Path] = (), *, system_trust: bool = True, verify: bool = True
) -> ssl.SSLContext:
    """Return a client context that trusts the CAs in the PEM files ``authorities`` and, by default, the system's.

    Without ``verify``, every certificate is accepted. Raises StartupError if a file cannot be read or holds no
    certificate.
    """
    context = ssl.create_default_context() if system_trust else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _agree_on_http1(context)
    for path in authorities:
        _trust(context, path)
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def scanner_context(authority: Path | None = None) -> ssl.SSLContext:
    """Return a client context for a scanner. It trusts the CAs in the PEM file ``authority``, or else the system's.

    It does not speak HTTP (ALPN). Raises StartupError if the file cannot be read or holds no certificate.
    """
    context = ssl.create_default_context() if authority is None else ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if authority is not None:
        _trust(context, authority)
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
        raise StartupError(
            f"The file {authority} holds no CA certificate in PEM form. Choose a file that does."
        ) from error
    except OSError as error:
        raise StartupError(
            f"The CA certificate {authority} cannot be read: {error.strerror}. Choose a readable file."
        ) from error


def _parse(path: Path, setting: str, what: str, parse: Callable[[bytes], T]) -> T:
    try:
        return parse(path.read_bytes())
    except OSError as error:
        raise StartupError(
            f"The file {path} ({setting}) cannot be read: {error.strerror}. Choose a readable file."
        ) from error
    except _UNREADABLE as error:
        raise StartupError(
            f"The file {path} ({setting}) holds no {what} in PEM form. Choose a file that does."
        ) from error


def _private_key(pem: bytes) -> PrivateKeyTypes:
    return load_pem_private_key(pem, password=None)


@contextlib.contextmanager
def _locked(directory: Path) -> Iterator[None]:
    """Make the directory and lock it against other processes. Raises StartupError for each OSError."""
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Read-only, so that a complete directory may be on a read-only file system.
        descriptor = os.open(directory / "lock", os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StartupError(
            f"The certificate store cannot be used, {error.filename or directory}: {error.strerror}."
            " Give this user access to it or choose another directory with --state-dir."
        ) from error


def _authority(directory: Path, now: datetime) -> bytes:
    """Return the CA's key and certificate (PEM). Generate a CA if there is none or if it is about to expire."""
    path = directory / "ca-key.pem"
    pem = _read(path) or _new_authority()
    try:
        if _certificate_with_key(pem).not_valid_after_utc - _RENEW_BEFORE <= now:
            pem = _new_authority()
    except _UNREADABLE as error:
        raise StartupError(
            f"The CA in {path} is damaged. Restore the file, or delete it and give clients the new CA."
        ) from error
    _write_if_changed(path, pem, 0o600)
    _write_if_changed(directory / "ca.pem", x509.load_pem_x509_certificate(pem).public_bytes(Encoding.PEM), 0o644)
    return pem


def _new_authority() -> bytes:
    """Generate a CA that may not sign other CAs. trustme makes it valid until the year 3000."""
    # A unique name: clients find an issuer by its name, so two CAs with one name would be confused.
    unit = f"generated CA {secrets.token_hex(4)}"
    authority = trustme.CA(path_length=0, organization_name="aiorelay", organization_unit_name=unit)
    return authority.private_key_pem.bytes() + authority.cert_pem.bytes()


def _certificate_with_key(pem: bytes) -> x509.Certificate:
    """Return the certificate in a PEM text that also holds its key. Raises one of ``_UNREADABLE``."""
    certificate = x509.load_pem_x509_certificate(pem)
    if _private_key(pem).public_key() != certificate.public_key():
        raise ValueError("the key belongs to another certificate")
    return certificate


def _is_current(pem: bytes, authority: bytes, names: frozenset[str], now: datetime) -> bool:
    """Whether the CA issued a certificate, its names are ``names``, and it is not due for renewal."""
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
    """Issue a certificate with a new key for these names. Return both as PEM."""
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


def _write_if_changed(path: Path, content: bytes, mode: int) -> None:
    """Replace a file atomically unless it has this content. The lock makes the temporary name unique."""
    if _read(path) == content:
        return
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, mode)
        file.write(content)
        file.flush()
        os.fsync(descriptor)  # otherwise a power failure could leave an empty file under the new name
    temporary.replace(path)
