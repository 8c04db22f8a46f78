"""Authenticate clients: bearer tokens, client certificates, and the client's address behind a proxy.

name:token      a line of the token file, which is read again when it changes; only the name is ever logged
"""

import hmac
import ipaddress
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from aiohttp import hdrs, web
from multidict import MultiMapping

from aiorelay.errors import StartupError, Unauthenticated
from aiorelay.http.grammar import TOKEN68, read_parameters, split_list_from_end
from aiorelay.observability.logs import log

__all__ = ["Access", "LoopbackOrToken", "Tokens", "client_address", "peer_of", "subject"]

IPNetwork: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

# RFC 6750, section 2.1: credentials = "Bearer" 1*SP b64token
_BEARER = re.compile(rf"Bearer +({TOKEN68}) *", re.IGNORECASE)
_LINE = re.compile(rf"([^:\s][^:]*):({TOKEN68})")
_CHALLENGE = 'Bearer realm="aiorelay"'
# RFC 7239, section 6: node = nodename [ ":" node-port ]
_NODE = re.compile(r"(\[[0-9a-fA-F:.]+\]|[0-9.]+)(?::(?:[0-9]+|_[A-Za-z0-9._-]+))?")


class Access:
    """Authenticates requests by bearer ``tokens``, if given; ``trusted`` proxies may name the client's address."""

    def __init__(self, tokens: "Tokens | None" = None, trusted: Sequence[IPNetwork] = ()) -> None:
        self.consumes_authorization = tokens is not None
        self._tokens = tokens
        self._trusted = trusted

    def who(self, request: web.BaseRequest) -> str | None:
        """Return the name of the token, or else of the client certificate, or None. Raises ``Unauthenticated``."""
        if self._tokens is not None:
            return self._tokens.who(request.headers)
        transport = request.transport
        return None if transport is None else subject(transport.get_extra_info("peercert"))

    def client(self, request: web.BaseRequest) -> str:
        """Return the client's address; see ``client_address``."""
        return client_address(peer_of(request), request.headers, self._trusted)

    def believes(self, request: web.BaseRequest) -> bool:
        """Whether the request comes from a trusted proxy, which may name the client."""
        return _is_trusted(peer_of(request), self._trusted)


class LoopbackOrToken:
    """Admits requests from this machine, and others with one of the ``tokens``. For the embedded upload API."""

    def __init__(self, tokens: "Tokens | None") -> None:
        self._tokens = tokens

    def admit(self, request: web.BaseRequest) -> None:
        """Raise ``Unauthenticated`` for any other request."""
        transport = request.transport
        if transport is not None and _is_local(
            transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        ):
            return
        if self._tokens is None:
            raise _unauthenticated("This server accepts uploads only from its own machine.", _CHALLENGE)
        self._tokens.who(request.headers)


class Tokens:
    """The tokens in the file at ``path``.

    The constructor raises ``StartupError`` if the file cannot be read or is malformed. If that happens later, the
    tokens stay as they were and the log says so.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen = _version(path)
        self._tokens = _read(path)

    def who(self, headers: "MultiMapping[str]") -> str:
        """Return the name of the token that a request carries. Raises ``Unauthenticated``."""
        self.refresh()
        given = headers.get(hdrs.AUTHORIZATION)
        if given is None:
            raise _unauthenticated("A token is needed. Send it as Authorization: Bearer TOKEN.", _CHALLENGE)
        match = _BEARER.fullmatch(given)
        token = b"" if match is None else match[1].encode()
        name = None
        for known, name_of_known in self._tokens.items():  # all of them: the time must not depend on which matches
            if hmac.compare_digest(known, token):
                name = name_of_known
        if name is None:
            raise _unauthenticated("The token is not valid.", f'{_CHALLENGE}, error="invalid_token"')
        return name

    def refresh(self) -> None:
        """Read the token file again if it has changed."""
        try:
            version = _version(self._path)
            if version != self._seen:
                self._seen = version
                self._tokens = _read(self._path)
                log.info("read %d tokens again", len(self._tokens))
        except StartupError as problem:
            if self._seen is not None:
                self._seen = None
                log.error("the tokens stay as they were: %s", problem)


def _is_local(peer: tuple[str, int], here: tuple[str, int]) -> bool:
    """Whether a connection comes from this machine: over the loopback, or from its own destination address."""
    return peer[0] == here[0] or ipaddress.ip_address(peer[0].partition("%")[0]).is_loopback


def subject(certificate: Mapping[str, object] | None) -> str | None:
    """The common name of a verified client certificate (``ssl.SSLSocket.getpeercert``), or else its serial number."""
    names = (certificate or {}).get("subject", ())
    pairs = dict(pair for name in names for pair in name) if isinstance(names, tuple) else {}
    return pairs.get("commonName") or (str(certificate.get("serialNumber")) if certificate else None)


# The peer of a connection to a Unix socket, which has no address. It is trusted: the file mode says who may connect.
_UNIX = "unix"


def peer_of(request: web.BaseRequest) -> str:
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


def _is_trusted(address: str, trusted: Iterable[IPNetwork]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address == _UNIX  # no header can name it
    return any(parsed in network for network in trusted)


def _version(path: Path) -> tuple[int, int, int] | None:
    try:
        status = path.stat()
    except OSError as error:
        raise StartupError(f"the token file {path} cannot be read: {error.strerror}; see --token-file") from error
    return status.st_ino, status.st_size, status.st_mtime_ns


def _read(path: Path) -> dict[bytes, str]:
    """The name of each token in a file. Empty lines and lines that begin with # are skipped."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise StartupError(f"the token file {path} cannot be read: {why}; see --token-file") from error
    tokens: dict[bytes, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        match = _LINE.fullmatch(line.strip())
        if match is None:
            raise StartupError(f"line {number} of the token file {path} is not name:token")
        tokens[match[2].encode()] = match[1]
    if not tokens:
        raise StartupError(f"the token file {path} holds no token; write one a line, as name:token")
    return tokens


def _unauthenticated(detail: str, challenge: str) -> Unauthenticated:
    return Unauthenticated(detail, headers={"WWW-Authenticate": challenge})
