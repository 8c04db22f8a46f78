"""Send one request over its own connection, complete or cut off, and read the response."""

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
    """Why there is no answer. The values complete a sentence that begins with "it"."""

    CLOSED = "closed the connection without an answer"
    TIMEOUT = "did not answer in time"
    NOT_HTTP = "sent an answer that is not HTTP"
    UNREACHABLE = "could not be reached any more"


@dataclass(frozen=True, slots=True)
class Waited:
    """The time until an answer with ``status``. None: the connection was closed, or the wait ended."""

    seconds: float
    status: int | None = None

    @property
    def refusal(self) -> int | None:
        """The status of an immediate refusal that is not about slowness (408)."""
        at_once = self.seconds < 1 and self.status is not None and 400 <= self.status < 500
        return self.status if at_once and self.status != 408 else None


@dataclass(frozen=True, slots=True)
class ProbeOutcome:
    """The result of a request: the final ``status`` and the texts in the answer, or ``no_answer``."""

    status: int | None = None
    texts: tuple[str, ...] = ()
    no_answer: NoAnswer | None = None
    location: str | None = None
    keys: frozenset[str] = frozenset()

    @property
    def kind(self) -> tuple[int | None, frozenset[str]]:
        """The status and the keys of the JSON document, which are equal for answers of the same meaning."""
        return self.status, self.keys

    @property
    def excerpt(self) -> str:
        """The status and the first 200 bytes of the answer."""
        said = self.texts[0].encode()[:200].decode("utf-8", "ignore").strip() if self.texts else ""
        return f"{self}: {said}" if said else str(self)

    def __str__(self) -> str:
        return f"answered {self.status}" if self.no_answer is None else self.no_answer.value

    def mentions(self, word: str) -> bool:
        """Whether the answer contains ``word``, in any escaping."""
        return any(word in text for text in self.texts)


class HttpClient:
    """A client of the API at ``url``. ``context`` is for https; ``headers`` are sent with every request."""

    def __init__(self, url: URL, context: ssl.SSLContext, headers: Iterable[tuple[str, str]]) -> None:
        self._url = url
        self._context = context
        self._headers = tuple(headers)

    def dial(self) -> socket.socket:
        """Open a connection, including TLS. Raises OSError, also for TLS failures (ssl.SSLError)."""
        host = self._url.raw_host or ""
        try:
            plain = socket.create_connection((host, self._url.port or 0), timeout=_CONNECT_TIMEOUT)
        except UnicodeError as error:  # a label is empty or too long
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
        """Send a request head and ``body`` unchanged, and wait up to ``patience`` seconds for the answer.

        ``body`` may be shorter than the head declares: the API then waits for the rest. With ``cut`` the sending side
        is closed after ``body``, so that the API sees the end and can still answer.
        """
        try:
            connection = self.dial()
        except OSError:
            return ProbeOutcome(no_answer=NoAnswer.UNREACHABLE)
        with connection:
            with contextlib.suppress(OSError):  # the API may have answered and closed already
                connection.sendall(self._head(headers) + body)
                if cut:
                    _close_sending_side(connection)
            connection.settimeout(patience)
            return _answer(connection)

    def wait(self, headers: Iterable[tuple[str, str]], body: bytes, *, drip: bytes, bound: float) -> Waited | None:
        """Send a head and ``body``, then ``drip`` each second. Measure the time until an answer or a disconnect.

        ``drip`` may be empty. The wait ends after ``bound`` seconds. Return None if no connection can be opened.
        """
        received = b""
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
                    received = connection.recv(64)
                except TimeoutError:
                    connection.settimeout(max(left, 1.0))
                    connection.sendall(drip)
                else:
                    break
        status = re.match(rb"HTTP/1\.[01] ([0-9]{3})", received)
        return Waited(min(round(time.monotonic() - begun, 1), bound), None if status is None else int(status[1]))

    def _head(self, headers: Iterable[tuple[str, str]]) -> bytes:
        host = ("Host", self._url.host_port_subcomponent or "")
        given = {name.lower() for name, _ in self._headers}
        lines = [] if "host" in given else [host]
        lines += [*self._headers, *headers, ("Connection", "close")]
        text = f"POST {self._url.raw_path_qs} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in lines)
        return text.encode() + b"\r\n"


def _close_sending_side(connection: socket.socket) -> None:
    """Close the sending side of TLS and TCP. Reading stays possible (RFC 8446, section 6.1)."""
    if isinstance(connection, ssl.SSLSocket):
        connection.settimeout(0)  # send close_notify, without waiting for the peer's
        with contextlib.suppress(ssl.SSLWantReadError):
            connection.unwrap()
    # Not SSLSocket.shutdown, which would drop the TLS state that is needed for reading.
    socket.socket.shutdown(connection, socket.SHUT_WR)


def _answer(connection: socket.socket) -> ProbeOutcome:
    response = HTTPResponse(connection, method="POST")
    try:
        response.begin()
    except TimeoutError:
        return ProbeOutcome(no_answer=NoAnswer.TIMEOUT)
    except OSError:  # RemoteDisconnected is one
        return ProbeOutcome(no_answer=NoAnswer.CLOSED)
    except (HTTPException, ValueError):
        return ProbeOutcome(no_answer=NoAnswer.NOT_HTTP)
    body = b""
    with contextlib.suppress(OSError, HTTPException, ValueError):  # the status alone is sufficient
        body = response.read(_LONGEST_ANSWER)
    heads = [value for name, value in response.getheaders() if name.lower() == "location"]
    text = body.decode("utf-8", "replace")
    return ProbeOutcome(
        response.status, tuple(_texts(text, heads)), location=heads[0] if heads else None, keys=frozenset(_keys(text))
    )


def _keys(body: str) -> Iterator[str]:
    """Yield the keys of a JSON document that is an object."""
    with contextlib.suppress(ValueError, RecursionError):
        document = json.loads(body)
        if isinstance(document, dict):
            yield from document


def _texts(body: str, heads: Iterable[str]) -> Iterator[str]:
    """Yield the texts of an answer: unchanged, with HTML and URL escapes decoded, and each string of its JSON."""
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
