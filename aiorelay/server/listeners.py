"""Bind sockets, serve an application on them, and wait for its requests at the end."""

import asyncio
import errno
import resource
import socket
import ssl
from asyncio.trsock import TransportSocket
from collections.abc import AsyncGenerator, Collection, Coroutine, Generator, Iterable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager

from aiohttp import web, web_app

from aiorelay.errors import StartupError
from aiorelay.http.request_smuggling import FROM_CLIENTS, HeadLimits
from aiorelay.observability import logs
from aiorelay.server.connections import Acceptor, Connections, drop_disconnected, drop_slow_heads

__all__ = ["BACKLOG", "Drain", "address", "listening", "serving", "url"]

# The longest time for a handshake or a request head, in seconds.
_HEAD_DEADLINE = 10.0
BACKLOG = 1024
"""Connections that wait to be accepted."""
# A lower bound for the limit of connections, for processes with very few descriptors.
_MIN_CONNECTIONS = 4
# Bytes of a body to buffer before reading is paused. One read of TLS brings up to 512 KiB, so a larger buffer gains
# nothing.
_READ_AHEAD = 64 * 1024
# The longest time to flush the buffers of closed connections, in seconds.
_FLUSH_TIMEOUT = 1.0


def address(host: str) -> str:
    """Return the host under which this machine can reach a listener that is bound to ``host``."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


def url(host: str, port: int, *, tls: bool = True) -> str:
    """Return the base URL of a server."""
    scheme = "https" if tls else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


@contextmanager
def listening(host: str, port: int, flag: str, *, shared: bool = False) -> Generator[list[socket.socket], None, None]:
    """Bind a listening socket to one port on each address of ``host``, and close the sockets on exit.

    ``flag`` is the command-line flag that sets the port, for the error message. If ``shared`` is true, other processes
    may bind the port too (SO_REUSEPORT), and the kernel distributes the connections. Raises ``StartupError``.
    """
    with ExitStack() as stack:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            sockets = _bound({(family, where): None for family, _, _, _, where in found}, port, stack, shared=shared)
        except OSError as error:
            flag = flag if error.errno in {errno.EADDRINUSE, errno.EACCES} else "--host"
            raise StartupError(
                f"Cannot listen on {host} port {port}: {error.strerror}. Choose another with {flag}."
            ) from error
        yield sockets


def _bound(
    places: Iterable[tuple[int, tuple[object, ...]]], port: int, stack: ExitStack, *, shared: bool
) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    for family, where in places:
        try:
            listener = stack.enter_context(socket.socket(family, socket.SOCK_STREAM))
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if shared:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            listener.bind((where[0], sockets[0].getsockname()[1] if sockets else port, *where[2:]))
        except OSError as error:
            # localhost resolves to ::1 even on hosts without IPv6. One usable address is enough.
            if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                raise
            absent = error
            continue
        listener.listen(BACKLOG)
        sockets.append(listener)
    if absent is not None and not sockets:
        raise absent
    return sockets


class Drain:
    """Wait for the requests in flight, for ``grace`` seconds in total or until ``cut`` is set.

    ``complete`` is true if no request had to be cancelled.
    """

    def __init__(self, grace: float, cut: asyncio.Event) -> None:
        self.complete = True
        self._grace = grace
        self._cut = cut
        self._deadline: float | None = None

    async def requests(self, in_flight: Collection[asyncio.Task[object]]) -> None:
        """Wait for the requests in flight, including new ones. Then cancel the rest and wait until they have ended."""
        while in_flight and await self._wait(in_flight, self._seconds_left()):
            pass
        self.complete = self.complete and not in_flight
        for task in in_flight:
            task.cancel()
        if in_flight:
            await asyncio.wait(in_flight)

    async def others(self, ended: Coroutine[object, object, None]) -> None:
        """Wait until ``ended`` is done, for as long as for requests."""
        waiting = asyncio.create_task(ended)
        await self._wait([waiting], self._seconds_left())
        waiting.cancel()

    async def flush_closed(self, sockets: Sequence[TransportSocket]) -> None:
        """Wait for closed connections to send what is left in their buffers, for at most a second."""
        loop = asyncio.get_running_loop()
        end = loop.time() + min(_FLUSH_TIMEOUT, self._seconds_left())
        open_still = list(sockets)
        while open_still and loop.time() < end and not self._cut.is_set():
            await asyncio.sleep(_FLUSH_TIMEOUT / 100)
            open_still = [each for each in open_still if each.fileno() >= 0]

    async def _wait(self, tasks: Iterable[asyncio.Task[object]], seconds: float) -> bool:
        """Wait until one of ``tasks`` has ended. Return False if the time is over or ``cut`` is set."""
        cut = asyncio.create_task(self._cut.wait())
        try:
            done, _ = await asyncio.wait({cut, *tasks}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            cut.cancel()
        return bool(done) and cut not in done

    def _seconds_left(self) -> float:
        now = asyncio.get_running_loop().time()
        if self._deadline is None:
            self._deadline = now + self._grace
        return max(0.0, self._deadline - now)


@asynccontextmanager
async def serving(
    app: web.Application,
    sockets: Sequence[socket.socket],
    context: ssl.SSLContext | None,
    drain: Drain,
    connections: Connections,
    *,
    keep_alive: float,
    deadline: float = _HEAD_DEADLINE,
    heads: HeadLimits = FROM_CLIENTS,
) -> AsyncGenerator[None, None]:
    """Serve ``app``. On exit, stop listening, drain the requests, and close the connections.

    ``context`` is the TLS context, None for plain HTTP. ``connections`` must belong to this server, and its ``track``
    must be the first middleware of ``app``. ``deadline`` limits a TLS handshake and a request head, ``keep_alive`` an
    idle connection, in seconds. ``heads`` holds the limits of a request head.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        auto_decompress=False,
        handler_cancellation=True,
        keepalive_timeout=keep_alive,
        max_line_size=heads.line,
        max_field_size=heads.line,
        max_headers=heads.fields,
        read_bufsize=_READ_AHEAD,
        logger=logs.ServerLog(logs.log, {}),
        shutdown_timeout=0.1,
    )
    async with AsyncExitStack() as stack:
        stack.callback(_forget_handlers)
        stack.callback(asyncio.create_task(drop_disconnected(connections.in_flight.values())).cancel)
        stack.callback(asyncio.create_task(drop_slow_heads(connections, deadline)).cancel)
        # Requests that began while connections were closed.
        stack.push_async_callback(drain.requests, connections.in_flight)
        stack.push_async_callback(_close, runner, drain)
        await runner.setup()
        stack.push_async_callback(drain.requests, connections.in_flight)
        limit = _max_connections()
        acceptor = Acceptor(_server(runner), sockets, context, connections, limit=limit, deadline=deadline)
        stack.push_async_callback(acceptor.close)
        yield


def _max_connections() -> int:
    """Return the limit of connections of one server, a quarter of the process's limit of descriptors.

    An upload can need three descriptors besides its connection.
    """
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(_MIN_CONNECTIONS, limit // 4 - 1)


async def _close(runner: web.AppRunner, drain: Drain) -> None:
    connections = [] if runner.server is None else runner.server.connections
    sockets = [each.transport.get_extra_info("socket") for each in connections if each.transport is not None]
    await runner.cleanup()
    await drain.flush_closed([each for each in sockets if each is not None])  # None: already disconnected


def _forget_handlers() -> None:
    """Release the applications that have ended.

    aiohttp keeps the last 1024 handlers that were called, of all applications, each with all that it refers to: some
    megabytes for each relay that a process has run, as tests do.
    """
    cached = getattr(web_app, "_cached_build_middleware", None)
    if cached is not None:
        cached.cache_clear()


def _server(runner: web.AppRunner) -> web.Server:
    if runner.server is None:
        raise AssertionError("the runner has no server before setup()")
    return runner.server
