"""One ICAP service: its options, its idle connections, and how many connections it permits."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Final

from yarl import URL

from aiorelay.checks.icap.answers import AnswerParser, End, Head, MalformedAnswer
from aiorelay.checks.icap.connection import Connection
from aiorelay.checks.icap.options import ServiceOptions, read_options
from aiorelay.checks.icap.requests import options_request

__all__ = ["IcapServices", "Service", "ServiceError"]

_PORTS: Final = {"icap": 1344, "icaps": 11344}
# Seconds. Firewalls forget idle connections after some minutes, and services permit only so many.
_IDLE: Final = 60.0
_LONGEST_OPTIONS: Final = 256 * 1024


class ServiceError(Exception):
    """There is no service to use. The message says why, for the log."""


class IcapServices:
    """The services that are in use, one for each URL and CA, so that all scans share its connections.

    ``tls_context`` makes the context for ``icaps``, of the file of a CA or None.
    """

    def __init__(self, tls_context: Callable[[Path | None], ssl.SSLContext]) -> None:
        self._tls_context = tls_context
        self._services: dict[tuple[URL, Path | None], Service] = {}

    def service(self, url: URL, ca: Path | None = None) -> "Service":
        """Return the service at ``url``, whose certificate ``ca`` has signed. Raises what ``tls_context`` raises."""
        if (url, ca) not in self._services:
            self._services[url, ca] = Service(url, self._tls_context(ca) if url.scheme == "icaps" else None)
        return self._services[url, ca]

    def close(self) -> None:
        """Close the idle connections of all services."""
        for service in self._services.values():
            service.close()


class Service:
    """The service at ``url``. ``context`` is for ``icaps``; None connects without TLS."""

    def __init__(self, url: URL, context: ssl.SSLContext | None) -> None:
        self.url = url
        self._context = context
        self._idle: dict[Connection, asyncio.TimerHandle] = {}
        self._options: ServiceOptions | None = None
        self._valid_until = 0.0
        self._asking = asyncio.Lock()
        self._limit: int | None = None
        self._slots: asyncio.Semaphore | None = None

    async def options(self) -> ServiceOptions:
        """Return what the service says of itself. Ask it if that is not known or no longer valid.

        Raises ``ServiceError``, and OSError if it cannot be reached.
        """
        async with self._asking:
            loop = asyncio.get_running_loop()
            if self._options is None or loop.time() >= self._valid_until:
                async with self.slot():
                    self._options = await self._ask()
                self._valid_until = loop.time() + self._options.ttl
                self._permit(self._options.max_connections)
            return self._options

    def saw(self, istag: str | None) -> None:
        """Ask for the options again if an answer has another ISTag (RFC 3507, section 4.7)."""
        if self._options is not None and istag is not None and istag != self._options.istag:
            self.forget_options()

    def forget_options(self) -> None:
        """Ask for the options before the next scan."""
        self._options = None

    @contextlib.asynccontextmanager
    async def slot(self) -> AsyncGenerator[None, None]:
        """Wait for one of the connections that the service permits, and count as using it."""
        slots = self._slots
        if slots is None:
            yield
        else:
            async with slots:
                yield

    async def connection(self) -> Connection:
        """Return an idle connection, the one used last, or a new one. Raises what ``new_connection`` raises."""
        while self._idle:
            connection, timer = self._idle.popitem()
            timer.cancel()
            if connection.is_idle():
                connection.reused = True
                return connection
            connection.close()
        return await self.new_connection()

    async def new_connection(self) -> Connection:
        """Connect. Raises OSError, and ``ServiceError`` if the certificate cannot be verified."""
        assert self.url.host is not None  # noqa: S101 - the setting requires one
        port = self.url.explicit_port or _PORTS[self.url.scheme]
        try:
            return await Connection.open(self.url.host, port, self._context)
        except ssl.SSLCertVerificationError as error:
            raise ServiceError(
                f"the certificate of the ICAP service cannot be verified ({error.verify_message}); see icap-ca"
            ) from error

    def keep(self, connection: Connection) -> None:
        """Keep a connection for another request."""
        self._idle[connection] = asyncio.get_running_loop().call_later(_IDLE, self._drop, connection)

    def close(self) -> None:
        """Close the idle connections."""
        while self._idle:
            connection, timer = self._idle.popitem()
            timer.cancel()
            connection.close()

    def _drop(self, connection: Connection) -> None:
        del self._idle[connection]
        connection.close()

    def _permit(self, limit: int | None) -> None:
        if limit != self._limit:
            self._limit = limit
            self._slots = None if limit is None else asyncio.Semaphore(limit)

    async def _ask(self) -> ServiceOptions:
        """Ask for the options; once more on a new connection if an idle one turns out to be closed."""
        connection = await self.connection()
        try:
            return await self._ask_on(connection)
        except (ConnectionError, EOFError):
            if not connection.reused:
                raise
        return await self._ask_on(await self.new_connection())

    async def _ask_on(self, connection: Connection) -> ServiceOptions:
        """Raises ``EOFError`` if the service closes the connection without an answer."""
        kept = False
        try:
            await connection.send(options_request(self.url))
            head = await _answer_to_options(connection)
            options = read_options(head)
            kept = head.keeps_connection
        except MalformedAnswer as malformed:
            raise ServiceError(f"the ICAP service cannot be used: {malformed}") from None
        finally:
            if kept:
                self.keep(connection)
            else:
                connection.close()
        return options


async def _answer_to_options(connection: Connection) -> Head:
    """Read one answer to its end and return its head. Its body, if it has one, is of no use here (section 4.10.2)."""
    parser = AnswerParser()
    received = 0
    heads: list[Head] = []
    while data := await connection.receive():
        received += len(data)
        events = parser.receive(data)
        heads += [event for event in events if isinstance(event, Head)]
        if parser.surplus or len(heads) > 1:
            raise MalformedAnswer("it answered OPTIONS more than once")
        if any(isinstance(event, End) for event in events):
            return heads[0]
        if received > _LONGEST_OPTIONS:
            raise MalformedAnswer(f"its answer to OPTIONS is longer than {_LONGEST_OPTIONS} bytes")
    if received:
        raise MalformedAnswer("it closed the connection within its answer to OPTIONS")
    raise EOFError("the service closed the connection without an answer")
