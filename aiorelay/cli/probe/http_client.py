"""Send one request over a connection of its own, whole or cut off, and read the response."""

import contextlib
import enum
import html
import json
import re
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http.client import HTTPException, HTTPResponse
from typing import Any
from urllib.parse import unquote

from yarl import URL

__all__ = ["HttpClient", "NoAnswer", "ProbeOutcome", "Waited"]

_CONNECT_TIMEOUT = 10.0
_LONGEST_ANSWER = 256 * 1024


class NoAnswer(enum.Enum):
    """Why there is no answer, as what goes on from "it"."""

    HUNG_UP = "hung up without an answer"
    LATE = "did not answer in time"
    GARBLED = "answered with what is not HTTP"
    GONE = "could not be reached any more"


@dataclass(frozen=True, slots=True)
class Waited:
    """How many ``seconds`` passed until an answer with ``status``, or None for a hang-up or the end of the wait."""

    seconds: float
    status: int | None = None

    @property
    def refusal(self) -> int | None:
        """The status of an answer that came at once and speaks of the upload, not of its slowness (408)."""
        at_once = self.seconds < 1 and self.status is not None and 400 <= self.status < 500
        return self.status if at_once and self.status != 408 else None


@dataclass(frozen=True, slots=True)
class ProbeOutcome:
    """What came back: a final ``status`` with the texts that the answer holds, or a ``silence``."""

    status: int | None = None
    texts: tuple[str, ...] = ()
    silence: NoAnswer | None = None
    location: str | None = None
    keys: frozenset[str] = frozenset()

    @property
    def kind(self) -> tuple[int | None, frozenset[str]]:
        """What answers of the same meaning have in common: the status and the keys of the JSON document."""
        return self.status, self.keys

    @property
    def excerpt(self) -> str:
        """The status with the first 200 bytes of the answer, for people."""
        said = self.texts[0].encode()[:200].decode("utf-8", "ignore").strip() if self.texts else ""
        return f"{self}: {said}" if said else str(self)

    def __str__(self) -> str:
        return f"answered {self.status}" if self.silence is None else self.silence.value

    def mentions(self, word: str) -> bool:
        """Whether ``word`` stands in the answer, whichever way it is escaped there."""
        return any(word in text for text in self.texts)


class HttpClient:
    """The way to the API at ``url``: ``context`` is for https, ``headers`` go with every request."""

    def __init__(self, url: URL, context: ssl.SSLContext, headers: Iterable[tuple[str, str]]) -> None:
        self._url = url
        self._context = context
        self._headers = tuple(headers)

    def dial(self) -> socket.socket:
        """Open a connection, TLS included. Raises OSError, of which ssl.SSLError is one."""
        host = self._url.raw_host or ""
        try:
            plain = socket.create_connection((host, self._url.port or 0), timeout=_CONNECT_TIMEOUT)
        except UnicodeError as error:  # a label that is empty or too long, which never reaches the resolver
            raise socket.gaierror(socket.EAI_NONAME, "not a host name") from error
        if self._url.scheme != "https":
            return plain
        try:
            return self._context.wrap_socket(plain, server_hostname=host)
        except BaseException:
            plain.close()
            raise

    def post(
        self, headers: Iterable[tuple[str, str]], body: bytes, *, patience: float, cut: bool = False
    ) -> ProbeOutcome:
        """Send a request head and ``body``, as it is, and wait up to ``patience`` seconds for the answer.

        Where ``body`` is less than the head promises, the API is left waiting for the rest; or, with ``cut``,
        the sending side is closed, so that it sees the end and can still answer.
        """
        try:
            connection = self.dial()
        except OSError:
            return ProbeOutcome(silence=NoAnswer.GONE)
        with connection:
            with contextlib.suppress(OSError):  # it may have answered and closed already
                connection.sendall(self._head(headers) + body)
                if cut:
                    _close_sending_side(connection)
            connection.settimeout(patience)
            return _answer(connection)

    def wait(self, headers: Iterable[tuple[str, str]], body: bytes, *, drip: bytes, bound: float) -> Waited | None:
        """Send a head and ``body``, then ``drip`` each second, and measure the seconds until an answer or a hang-up.

        An empty ``drip`` is a silent body. ``bound`` seconds are the most; None where no connection can be made.
        """
        said = b""
        try:
            connection = self.dial()
        except OSError:
            return None
        begun = time.monotonic()
        with connection, contextlib.suppress(OSError):
            connection.sendall(self._head(headers) + body)
            while (left := begun + bound - time.monotonic()) > 0:
                connection.settimeout(min(1.0, left))
                try:
                    said = connection.recv(64)
                except TimeoutError:
                    connection.settimeout(max(left, 1.0))
                    connection.sendall(drip)
                else:
                    break
        status = re.match(rb"HTTP/1\.[01] ([0-9]{3})", said)
        return Waited(min(round(time.monotonic() - begun, 1), bound), None if status is None else int(status[1]))

    def _head(self, headers: Iterable[tuple[str, str]]) -> bytes:
        host = ("Host", self._url.host_port_subcomponent or "")
        given = {name.lower() for name, _ in self._headers}
        lines = [] if "host" in given else [host]
        lines += [*self._headers, *headers, ("Connection", "close")]
        text = f"POST {self._url.raw_path_qs} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines)
        return text.encode() + b"\r\n"


def _close_sending_side(connection: socket.socket) -> None:
    """Send the end of the stream, TLS's and TCP's; what the peer sends can be read still (RFC 8446, section 6.1)."""
    if isinstance(connection, ssl.SSLSocket):
        connection.settimeout(0)  # send close_notify, without waiting for the peer's
        with contextlib.suppress(ssl.SSLWantReadError):
            connection.unwrap()
    # Not the SSLSocket's own shutdown, which would forget how to decrypt.
    socket.socket.shutdown(connection, socket.SHUT_WR)


def _answer(connection: socket.socket) -> ProbeOutcome:
    response = HTTPResponse(connection, method="POST")
    try:
        response.begin()
    except TimeoutError:
        return ProbeOutcome(silence=NoAnswer.LATE)
    except OSError:  # RemoteDisconnected is one
        return ProbeOutcome(silence=NoAnswer.HUNG_UP)
    except (HTTPException, ValueError):
        return ProbeOutcome(silence=NoAnswer.GARBLED)
    body = b""
    with contextlib.suppress(OSError, HTTPException, ValueError):  # the status says most
        body = response.read(_LONGEST_ANSWER)
    heads = [value for name, value in response.getheaders() if name.lower() == "location"]
    text = body.decode("utf-8", "replace")
    return ProbeOutcome(
        response.status, tuple(_texts(text, heads)), location=heads[0] if heads else None, keys=frozenset(_keys(text))
    )


def _keys(body: str) -> Iterator[str]:
    """The keys at the top of a JSON document."""
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(body)
        if isinstance(document, dict):
            yield from document


def _texts(body: str, heads: Iterable[str]) -> Iterator[str]:
    """Every reading of an answer: as it is, without the escapes of HTML and URLs, and each string of its JSON."""
    strings = [body, html.unescape(body), *heads]
    with contextlib.suppress(ValueError, RecursionError):
        strings += _strings(json.loads(body))
    for text in strings:
        yield text
        yield unquote(text)


def _strings(document: Any) -> Iterator[str]:
    match document:
        case str():
            yield document
        case dict():
            for key, value in document.items():
                yield key
                yield from _strings(value)
        case list():
            for value in document:
                yield from _strings(value)
