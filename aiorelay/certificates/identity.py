"""The certificate of both servers: its names, its renewal, and the client contexts that trust it."""

import ssl

from aiorelay.certificates import tls
from aiorelay.observability.logs import log
from aiorelay.settings import Settings

__all__ = ["Identity"]


class Identity:
    """The user's own certificate or the generated one, as ``settings`` say, for servers that are reached at ``host``.

    ``context`` serves it, ``ca`` (PEM) is what clients are to trust, ``name`` is the one under which they verify it:
    ``host`` if the certificate holds that. Raises ``StartupError``.
    """

    def __init__(self, settings: Settings, host: str) -> None:
        self._own = (settings.tls_cert, settings.tls_key) if settings.tls_cert is not None else None
        self._generated: tls.Certificates | None = None
        if settings.tls_cert is not None:
            self.context = tls.server_context_from(settings.tls_cert, settings.tls_key)
            self.ca = settings.tls_cert
            names = tls.names_in(settings.tls_cert)
        else:
            self._generated = tls.Certificates(settings.state_dir / "tls", settings.tls_name)
            self.context, self.ca = self._generated.context, self._generated.ca
            names = settings.tls_name
        self.name = _name(host, names)
        self._is_host = self.name == host

    def renew(self) -> None:
        """Replace a generated certificate that is due; connections from now on see the new one."""
        if self._generated is not None and self._generated.renew():
            log.info("the certificate was renewed")

    def reload(self) -> None:
        """Read the user's own certificate again, or renew the generated one.

        Raises ``StartupError``, and has changed nothing then.
        """
        if self._own is None:
            self.renew()
            return
        certificate, key = self._own
        tls.server_context_from(certificate, key)  # judged before it replaces what works
        self.context.load_cert_chain(certificate, key)

    def client_context_by_name(self) -> ssl.SSLContext:
        """A context for a client that says itself as whom it verifies the server: as ``name``."""
        context = tls.client_context([self.ca], system_trust=False)
        if self._own:  # it is itself the anchor: whoever signed it need not be at hand
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        return context

    def client_context_by_address(self) -> ssl.SSLContext:
        """A context for a client that knows only the address, which need not be among the certificate's names."""
        context = self.client_context_by_name()
        context.check_hostname = self._is_host
        return context


def _name(host: str, names: tuple[str, ...]) -> str:
    """One of a certificate's ``names``: ``host`` if it can be, else one that stands for itself."""
    wildcards = [name for name in names if name.startswith("*.")]
    if host in names or f"*.{host.partition('.')[2]}" in wildcards:
        return host
    plain = [name for name in names if name not in wildcards]
    return next(iter([*plain, *(f"relay{name[1:]}" for name in wildcards)]), host)
