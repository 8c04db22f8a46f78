"""The server certificate: its names, its renewal, and the client contexts that trust it."""

import ssl

from aiorelay.certificates import tls
from aiorelay.observability.logs import log
from aiorelay.settings import Settings

__all__ = ["Identity"]


class Identity:
    """The certificate that a server presents: the user's own (``tls_cert``) or a generated one.

    ``context`` is the server's TLS context. ``ca`` is the path of the certificate that clients must trust (PEM).
    ``names`` are the names in the certificate. ``name`` is the one that clients verify: ``host`` if the certificate
    contains it, else another.
    Raises ``StartupError``.
    """

    def __init__(self, settings: Settings, host: str) -> None:
        self._own = (settings.tls_cert, settings.tls_key) if settings.tls_cert is not None else None
        self._generated: tls.Certificates | None = None
        if settings.tls_cert is not None:
            self.context = tls.server_context_from(settings.tls_cert, settings.tls_key)
            self.ca = settings.tls_cert
            self.names = tls.names_in(settings.tls_cert)
        else:
            self._generated = tls.Certificates(settings.state_dir / "tls", settings.tls_name)
            self.context, self.ca = self._generated.context, self._generated.ca
            self.names = settings.tls_name
        self.name = _name(host, self.names)
        self._is_host = self.name == host

    def renew(self) -> None:
        """Replace a generated certificate that is due for renewal. New connections get the new one."""
        if self._generated is not None and self._generated.renew():
            log.info("renewed the certificate")

    def reload(self) -> None:
        """Reload the user's own certificate, or renew the generated one.

        Raises ``StartupError`` and keeps the old certificate if the new one cannot be used.
        """
        if self._own is None:
            self.renew()
            return
        certificate, key = self._own
        tls.server_context_from(certificate, key)  # raises before the working certificate is replaced
        self.context.load_cert_chain(certificate, key)

    def client_context_by_name(self) -> ssl.SSLContext:
        """Return a context for a client that sets ``server_hostname`` to ``name``."""
        context = tls.client_context([self.ca], system_trust=False)
        if self._own:  # the certificate itself is the trust anchor: its issuer may be unavailable
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context

    def client_context_by_address(self) -> ssl.SSLContext:
        """Return a context for a client that connects to ``host``, which the certificate may not contain."""
        context = self.client_context_by_name()
        context.check_hostname = self._is_host
        return context


def _name(host: str, names: tuple[str, ...]) -> str:
    """Return ``host`` if ``names`` match it, else the first name, with a label in place of a wildcard."""
    wildcards = [name for name in names if name.startswith("*.")]
    if host in names or f"*.{host.partition('.')[2]}" in wildcards:
        return host
    plain = [name for name in names if name not in wildcards]
    return next(iter([*plain, *(f"relay{name[1:]}" for name in wildcards)]), host)
