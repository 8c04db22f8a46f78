"""Authenticate clients: tokens, client certificates, and the client's address behind a proxy.

A request is from the owner of its token, else of its client certificate, else from an address.
"""

import ipaddress
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, Protocol, TypeAlias

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler, Middleware
from multidict import MultiMapping

from aiorelay.errors import Unauthenticated
from aiorelay.http.credentials import TokenField
from aiorelay.http.grammar import read_parameters, split_list_from_end

__all__ = [
    "Access",
    "LoopbackOrToken",
    "Sender",
    "TokenAuthentication",
    "TokenVerifier",
    "client_address",
    "subject",
]

IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# RFC 7239, section 6: node = nodename [ ":" node-port ]
_NODE = re.compile(r"(\[[0-9a-fA-F:.]+\]|[0-9.]+)(?::(?:[0-9]+|_[A-Za-z0-9._-]+))?")


class TokenVerifier(Protocol):
    """Knows tokens of one kind."""

    def who(self, token: str) -> str | None:
        """Return the name of the token's owner, or None if the token is not valid."""

    def refresh(self) -> None:
        """Load what has changed on the disk."""

    async def prepare(self, token: str) -> None:
        """Wait for a moment if what verifies ``token`` may just have changed elsewhere."""


class TokenAuthentication:
    """Identifies clients by the token in ``field``, which one of ``verifiers`` must know."""

    def __init__(self, field: TokenField, verifiers: Sequence[TokenVerifier]) -> None:
        self.field = field
        self._verifiers = verifiers

    def who(self, headers: "MultiMapping[str]") -> str:
        """Return the name of the owner of a request's token.

        Raises ``Unauthenticated``, ``ScopeMissing`` and ``StateUnavailable``.
        """
        token = self.field.token(headers)
        if token is None:
            raise self._refused(headers, f"A token is needed. Send it as {self.field.usage()}.")
        for verifier in self._verifiers if token else ():
            if (name := verifier.who(token)) is not None:
                return name
        raise self._refused(headers, "The token is not valid.", "invalid_token")

    async def prepare(self, headers: "MultiMapping[str]") -> None:
        """Wait for a moment if what verifies the token of a request may just have changed elsewhere."""
        if token := self.field.token(headers):
            for verifier in self._verifiers:
                await verifier.prepare(token)

    def refresh(self) -> None:
        """Load what has changed on the disk."""
        for verifier in self._verifiers:
            verifier.refresh()

    def _refused(self, headers: "MultiMapping[str]", detail: str, error: str = "") -> Unauthenticated:
        return Unauthenticated(detail, headers={hdrs.WWW_AUTHENTICATE: self.field.challenge(headers, error)})


class Sender(NamedTuple):
    """Where a request comes from: its ``peer``, whether that is a trusted proxy, and the address of the ``client``."""

    peer: str
    client: str
    is_trusted: bool


class Access:
    """Identifies the clients of the relay: by ``tokens`` if given, else by client certificate.

    ``trusted`` are the networks of proxies that name the client's address.
    """

    def __init__(self, tokens: TokenAuthentication | None = None, trusted: Sequence[IPNetwork] = ()) -> None:
        self.token_header = tokens.field.name if tokens else hdrs.AUTHORIZATION
        self.consumed_fields = frozenset({self.token_header.lower()} if tokens else ())
        """The header fields, in lower case, that are for the relay alone and are not passed on."""
        self._tokens = tokens
        self._trusted = trusted

    @property
    def middlewares(self) -> list[Middleware]:
        """Middleware that waits until the token of a request can be verified: ``who`` does not wait."""
        tokens = self._tokens
        if tokens is None:
            return []

        @web.middleware
        async def prepare(request: web.Request, handler: Handler) -> web.StreamResponse:
            await tokens.prepare(request.headers)
            return await handler(request)

        return [prepare]

    def who(self, request: web.BaseRequest) -> str | None:
        """Return the name of the token, or else of the client certificate, or None. Raises ``Unauthenticated``."""
        if self._tokens is not None:
            return self._tokens.who(request.headers)
        transport = request.transport
        return None if transport is None else subject(transport.get_extra_info("peercert"))

    def sender(self, request: web.BaseRequest) -> Sender:
        """Return where a request comes from; see ``client_address``."""
        peer = _peer_of(request)
        return Sender(peer, client_address(peer, request.headers, self._trusted), _is_trusted(peer, self._trusted))

    def believes(self, request: web.BaseRequest) -> bool:
        """Whether the request comes from a trusted proxy, which may name the client."""
        return _is_trusted(_peer_of(request), self._trusted)


class LoopbackOrToken:
    """Admits requests from this machine, and others with one of the ``tokens``. For the embedded upload API."""

    def __init__(self, tokens: TokenAuthentication | None) -> None:
        self._tokens = tokens

    async def admit(self, request: web.BaseRequest) -> None:
        """Raise ``Unauthenticated`` for any other request, and what ``TokenAuthentication.who`` raises."""
        transport = request.transport
        if transport is not None and _is_local(
            transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        ):
            return
        if self._tokens is None:
            detail = "This server accepts uploads only from its own machine."
            raise Unauthenticated(detail, headers={hdrs.WWW_AUTHENTICATE: TokenField().challenge(request.headers)})
        await self._tokens.prepare(request.headers)
        self._tokens.who(request.headers)


def _is_local(peer: tuple[str, int], here: tuple[str, int]) -> bool:
    """Whether a connection comes from this machine: over the loopback, or from its own destination address."""
    return peer[0] == here[0] or ipaddress.ip_address(peer[0].partition("%")[0]).is_loopback


def subject(certificate: Mapping[str, object] | None) -> str | None:
    """The common name of a verified client certificate (``ssl.SSLSocket.getpeercert``), or else its serial number."""
    if not certificate:
        return None
    names = certificate.get("subject", ())
    pairs = dict(pair for name in names for pair in name) if isinstance(names, tuple) else {}
    return pairs.get("commonName") or str(certificate.get("serialNumber"))


# The peer of a connection to a Unix socket, which has no address. It is trusted: the file mode says who may connect.
_UNIX = "unix"


def _peer_of(request: web.BaseRequest) -> str:
    """Return the address of the connection's other end, ``unix`` on a Unix socket, or else ``unknown``."""
    peer = None if request.transport is None else request.transport.get_extra_info("peername")
    if isinstance(peer, str | bytes):  # the client may choose it
        return _UNIX
    return request.remote or "unknown"


def client_address(peer: str, headers: "MultiMapping[str]", trusted: Sequence[IPNetwork]) -> str:
    """Return the client's address: ``peer``, or if that is a trusted proxy, the address that it names.

    The addresses in Forwarded (RFC 7239), or else in X-Forwarded-For, are read from the last to the first, up to the
    first one that is not ``trusted``. An element without an address ends the list: nothing before it can be trusted.
    """
    address = peer
    for named in _named(headers):
        if not _is_trusted(address, trusted) or named is None:
            break
        address = named
    return address


def _named(headers: "MultiMapping[str]") -> Iterator[str | None]:
    """The addresses that proxies have added, the nearest first; None for an element without an address."""
    if hdrs.FORWARDED in headers:
        for line in reversed(headers.getall(hdrs.FORWARDED)):
            for element in split_list_from_end(line):
                node = _NODE.fullmatch(read_parameters(f";{element}").get("for", ""))
                yield None if node is None else _address(node[1].strip("[]"))
    else:
        for line in reversed(headers.getall("X-Forwarded-For", [])):
            yield from (_address(element) for element in split_list_from_end(line))


def _address(text: str) -> str | None:
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        return None


def _is_trusted(address: str, trusted: Sequence[IPNetwork]) -> bool:
    if address == _UNIX:  # no header can name it
        return True
    if not trusted:
        return False
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return any(parsed in network for network in trusted)
