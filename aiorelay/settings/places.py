"""Kinds of values: paths, hosts, networks, origins, URLs of servers, the scanner's address. No name is resolved."""

import ipaddress
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from aiorelay.settings.kinds import InvalidValueError, Kind, count

if TYPE_CHECKING:
    from yarl import URL  # slow to import: it would double the start-up time of the command line

__all__ = [
    "BASE_URL",
    "CERTIFICATE_NAME",
    "HOST",
    "HOST_PATTERN",
    "ICAP",
    "JWKS",
    "MODE",
    "NETWORK",
    "ORIGIN",
    "OWNER",
    "PATH",
    "SCANNER",
    "STATE",
    "UPSTREAM",
    "WEBHOOK",
    "IPNetwork",
    "Owner",
    "ScannerAddress",
    "from_directory",
    "is_loopback",
    "upload_url",
]

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
ScannerAddress = tuple[str, int] | Path
"""Where clamd listens: a host and a TCP port, or a Unix socket."""

# RFC 1123, section 2.1, and the underscore, which names of containers and many hosts contain.
_LABEL = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)", re.ASCII)
_LONGEST_NAME = 253
# RFC 6454, section 6.2: scheme://host[:port]. A browser also sends schemes of its own, such as chrome-extension.
_ORIGIN = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(\[[0-9A-Fa-f:.]+\]|[^:/?#\[\]@\s]+)(?::([0-9]{1,5}))?")
_DEFAULT_PORTS = {"http": 80, "https": 443}
# Characters that a URL must not contain unescaped. URL parsers differ on whether they remove or keep them.
_NOT_IN_URL = re.compile(r"[\x00-\x20\x7f\\]")
_SECRETS_OF_URL = re.compile(r"^([A-Za-z][A-Za-z0-9+.-]*://)?.*@", re.DOTALL)

# The number of a database of Redis.
_DATABASE = re.compile(r"/?(?:[0-9]{1,5})?", re.ASCII)

_DIALLED_PORT = count(least=1, most=65535)

_MODE = re.compile(r"0?[0-7]{3}", re.ASCII)
# User and group names of shadow(5), and numbers.
_OWNER = re.compile(r"([A-Za-z0-9_][A-Za-z0-9_.-]*\$?)?(?::([A-Za-z0-9_][A-Za-z0-9_.-]*\$?))?", re.ASCII)


class Owner(NamedTuple):
    """The user and the group of a file, by name or number. None leaves what it is."""

    user: str | int | None
    group: str | int | None


def is_loopback(host: str) -> bool:
    """Whether a host is the loopback: an address of it, or ``localhost`` (RFC 6761, section 6.3)."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _mode(value: object) -> str:
    # Text only: a number in a TOML file would be decimal.
    if not isinstance(value, str) or not _MODE.fullmatch(value.strip()):
        raise InvalidValueError("is not a file mode", "write three octal digits as text, such as 660")
    return value.strip()[-3:]


def _owner(value: object) -> Owner:
    match value:
        case (str() | int() | None as user, str() | int() | None as group):
            return Owner(user, group)
        case str() if value and (match := _OWNER.fullmatch(value)):
            user, group = (int(name) if name and name.isdigit() else name for name in match.groups())
            return Owner(user, group)
    raise InvalidValueError("is not an owner", "write it as USER, USER:GROUP or :GROUP")


def _show_owner(owner: Owner) -> str:
    user, group = ("" if each is None else str(each) for each in owner)
    return f"{user}:{group}" if group else user


def _path(value: object) -> Path:
    if not isinstance(value, str | Path) or not str(value) or "\0" in str(value):
        raise InvalidValueError("is not a path", "name a file or a directory")
    try:
        return Path(value).expanduser().absolute()
    except (RuntimeError, OSError):  # no home directory, or the working directory was removed
        raise InvalidValueError("cannot be made an absolute path", "begin it with /") from None


def from_directory(text: str, directory: Path) -> str:
    """Return the text of a path, made relative to ``directory`` unless it begins with ``~``."""
    return text if not text or text.startswith("~") else str(directory / text)


def _host(value: object) -> str:
    text = str(value) if isinstance(value, ipaddress.IPv4Address | ipaddress.IPv6Address) else value
    if not isinstance(text, str):
        raise InvalidValueError("is not a host", "name an IP address or a host")
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        return _name(text)


def _name(text: str) -> str:
    """Return a host name in lower case, international ones in their ASCII form, without the root's dot."""
    name = _ascii(text).lower().removesuffix(".")
    labels = name.split(".")
    # A last label of only digits is a mistyped IPv4 address: no top-level domain is numeric.
    if len(name) > _LONGEST_NAME or labels[-1].isdigit() or not all(map(_LABEL.fullmatch, labels)):
        raise InvalidValueError("is not a host", "name an IP address or a host, without a port")
    return name


def _ascii(text: str) -> str:
    name = text if text.isascii() else _idna(text)
    if name is None:
        raise InvalidValueError("is not a host", "name an IP address or a host, without a port")
    return name


def _idna(name: str) -> str | None:
    """The A-labels of ``name`` (UTS #46, nontransitional), as yarl encodes the hosts of URLs; None if it has none."""
    import idna  # noqa: PLC0415 - few names need it, and it is slow to import

    try:
        return idna.encode(name, uts46=True).decode()
    except idna.IDNAError:
        return None


def _host_pattern(value: object) -> str:
    if isinstance(value, str) and value.startswith("*."):
        return f"*.{_name(value[2:])}"
    return _host(value)


def _certificate_name(value: object) -> str:
    name = _host_pattern(value)
    # Hyphens in the third and fourth place are kept for A-labels (RFC 5891, section 4.2.3.1), which may be invalid.
    reserved = any(label[2:4] == "--" for label in name.split("."))
    if "_" in name or "%" in name or (reserved and _idna(name.removeprefix("*.")) is None):
        raise InvalidValueError(
            "cannot be in a certificate", "name an IP address or a host of letters, digits and hyphens"
        )
    return name


def _network(value: object) -> IPNetwork:
    advice = "try 10.0.0.0/8, 192.168.1.7 or fd00::/8"
    known = ipaddress.IPv4Network | ipaddress.IPv6Network | ipaddress.IPv4Address | ipaddress.IPv6Address
    # ``ip_network`` would accept integers, and a zone ("%"), which a network cannot have.
    if not isinstance(value, str | known) or "%" in str(value):
        raise InvalidValueError("is not a network", advice)
    try:
        network = ipaddress.ip_network(str(value).strip(), strict=False)
    except ValueError:
        raise InvalidValueError("is not a network", advice) from None
    try:
        return ipaddress.ip_network(str(value).strip())
    except ValueError:
        raise InvalidValueError("is an address in a network, not a network", f"the network is {network}") from None


def _origin(value: object) -> str:
    """Return an origin as browsers write it, or ``*``."""
    advice = "try https://app.example.org, or * for every origin"
    text = value.strip() if isinstance(value, str) else ""
    if text == "*":
        return text
    if text.lower() == "null":
        raise InvalidValueError("is the origin of all sandboxed pages, and any site can make one", advice)
    if "*" in text:
        raise InvalidValueError("has a wildcard, but origins are compared as a whole", "name each origin")
    match = _ORIGIN.match(text)
    rest = text if match is None else text[match.end() :]
    if match is None or rest:
        raise InvalidValueError("has a path" if match and rest.startswith("/") else "is not an origin", advice)
    scheme = match[1].lower()
    try:
        host, port = _host(match[2]), None if match[3] is None else _DIALLED_PORT.accept(match[3])
    except InvalidValueError:
        raise InvalidValueError("is not an origin", advice) from None
    host = f"[{host}]" if ":" in host else host
    return f"{scheme}://{host}" + ("" if port in (None, _DEFAULT_PORTS.get(scheme)) else f":{port}")


def _upload_url(value: object, credentials: str) -> "URL":
    return _url(value, ("http", "https"), "try https://uploads.example.org/upload", credentials)


def _url(value: object, schemes: tuple[str, str], advice: str, credentials: str) -> "URL":
    from yarl import URL  # noqa: PLC0415 - see the top of the file

    if not isinstance(value, str | URL) or _NOT_IN_URL.search(str(value)):
        raise InvalidValueError("is not a URL", advice)
    try:
        # Unchanged if it is ASCII, because a query may be signed. Other characters must be escaped.
        url = URL(value, encoded=value.isascii()) if isinstance(value, str) else value
        port, host = url.explicit_port, url.host
    except ValueError:
        raise InvalidValueError("is not a URL", advice) from None
    if url.scheme not in schemes:
        raise InvalidValueError(f"is not an {' or '.join(schemes)} URL", advice)
    if not host or port == 0:
        raise InvalidValueError(f"has no usable {'port' if host else 'host'}", advice)
    if url.raw_user is not None or url.raw_password is not None:
        raise InvalidValueError("contains credentials", credentials)
    if "#" in str(value):
        raise InvalidValueError("has a fragment, which is never sent", "remove the part from # on")
    return url


def _base_url(value: object) -> "URL":
    url = _upload_url(value, "leave them out")
    if url.raw_query_string:
        raise InvalidValueError("has a query", "leave it out: paths are appended to this URL")
    return url


def upload_url(credentials: str) -> Kind:
    """The kind of an upload API's URL. ``credentials`` is the advice for a URL that contains credentials."""
    return Kind("URL", lambda value: _upload_url(value, credentials), mask=_without_secrets)


def _without_secrets(text: str) -> str:
    """Mask the userinfo and the query, which can contain secrets."""
    text, mark, _ = _SECRETS_OF_URL.sub(lambda match: f"{match[1] or ''}***@", text).partition("?")
    return f"{text}?***" if mark else text


def _scanner(value: object) -> ScannerAddress:
    advice = "try 127.0.0.1:3310 or /run/clamav/clamd.ctl"
    match value:
        case Path():
            return _path(value)
        case str() if "/" in value:
            return _path(value)
        case str():
            host, _, port = value.rpartition(":")
            bare = ":" in host and not host.startswith("[")
        case (str(host), port):
            bare = False
        case _:
            host, port, bare = "", "", False
    if bare:  # ::1:3310 is ambiguous
        raise InvalidValueError("has an IPv6 address without brackets", "try [::1]:3310")
    try:
        return _host(host), _DIALLED_PORT.accept(port)
    except InvalidValueError:
        raise InvalidValueError("is neither HOST:PORT nor the path of a socket", advice) from None


def _jwks(value: object) -> "URL | Path":
    if isinstance(value, Path) or (isinstance(value, str) and "://" not in value):
        return _path(value)
    url = _upload_url(value, "the keys must be public")
    try:
        loopback = ipaddress.ip_address(url.host or "").is_loopback
    except ValueError:
        loopback = url.host == "localhost"
    if url.scheme != "https" and not loopback:
        raise InvalidValueError("is not encrypted, so that others could replace the keys", "give an https URL")
    return url


def _state(value: object) -> "URL":
    from yarl import URL  # noqa: PLC0415 - see the top of the file

    advice = "try redis://127.0.0.1:6379 or rediss://user:password@state.example.org"
    try:
        url = URL(value) if isinstance(value, str) and not _NOT_IN_URL.search(value) else value
        port = url.explicit_port if isinstance(url, URL) else 0
    except ValueError:
        raise InvalidValueError("is not a URL", advice) from None
    if not isinstance(url, URL) or url.scheme not in ("redis", "rediss"):
        raise InvalidValueError("is not a redis or rediss URL", advice)
    if not url.host or port == 0:
        raise InvalidValueError(f"has no usable {'port' if url.host else 'host'}", advice)
    if not _DATABASE.fullmatch(url.path):
        raise InvalidValueError("has a path that is not the number of a database", "leave it out, or try /1")
    if url.raw_query_string or "#" in str(value):
        raise InvalidValueError("has a query or a fragment", "leave it out: state-ca names the CA")
    return url


def _icap(value: object) -> "URL":
    advice = "try icap://127.0.0.1:1344/avscan"
    url = _url(value, ("icap", "icaps"), advice, "leave them out")
    if not url.raw_path.strip("/"):
        raise InvalidValueError("names no service", advice)
    return url


def _show_scanner(scanner: ScannerAddress) -> str:
    if isinstance(scanner, Path):
        return str(scanner)
    host, port = scanner
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


PATH = Kind("PATH", _path, anchor=from_directory)
MODE = Kind("MODE", _mode)
OWNER = Kind("USER:GROUP", _owner, _show_owner)
HOST = Kind("HOST", _host)
HOST_PATTERN = Kind("HOST", _host_pattern)
CERTIFICATE_NAME = Kind("NAME", _certificate_name)
NETWORK = Kind("NETWORK", _network)
ORIGIN = Kind("ORIGIN|*", _origin)
UPSTREAM = upload_url("give them with upstream-header, as 'Authorization: ...'")
WEBHOOK = Kind(
    "URL",
    lambda value: _url(
        value, ("http", "https"), "try https://hooks.example.org/uploads", "leave them out: events are signed"
    ),
    mask=_without_secrets,
)
BASE_URL = Kind("URL", _base_url, mask=_without_secrets)
JWKS = Kind(
    "URL|PATH",
    _jwks,
    anchor=lambda text, directory: text if "://" in text else from_directory(text, directory),
)
STATE = Kind("URL", _state, mask=_without_secrets)
ICAP = Kind("URL", _icap, mask=_without_secrets)
SCANNER = Kind(
    "HOST:PORT|PATH",
    _scanner,
    _show_scanner,
    anchor=lambda text, directory: from_directory(text, directory) if "/" in text else text,
)
