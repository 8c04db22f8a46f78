"""Bind sockets, serve an application on them over TLS, and drain its requests at the end."""

import asyncio
import errno
import resource
import socket
import ssl
from asyncio.trsock import TransportSocket
from collections.abc import AsyncGenerator, Generator, Iterable, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager

from aiohttp import web

from aiorelay.errors import StartupError
from aiorelay.http.request_smuggling import FROM_CLIENTS, HeadLimits
from aiorelay.observability import logs
from aiorelay.server.connections import Acceptor, Connections, drop_disconnected

__all__ = ["HEAD_DEADLINE", "Drain", "address", "listening", "serving", "url"]

# The longest handshake or request head in seconds; an idle connection is kept as long.
HEAD_DEADLINE = 10.0
_BACKLOG = 1024
# Connections that a server takes however few descriptors it may have.
_FEWEST = 4
# Bytes of a body that wait for its reader before no more are read: TLS brings four times as many at once, and once
# is enough to go on with.
_READ_AHEAD = 64 * 1024
# For what is still in buffers when a connection is closed, in seconds.
_FLUSH_TIMEOUT = 1.0


def address(host: str) -> str:
    """The host at which a listener bound to ``host`` can be reached from this machine."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound


def url(host: str, port: int) -> str:
    """The base URL of a server."""
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


@contextmanager
def listening(host: str, port: int, flag: str, *, shared: bool = False) -> Generator[list[socket.socket], None, None]:
    """Sockets bound to every address of ``host``, all to one port; ``flag`` is the one that chooses the port.

    Other processes may be bound to it too if it is ``shared`` (SO_REUSEPORT); the kernel parts connections among them.
    Raises ``StartupError``.
    """
    with ExitStack() as stack:
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            sockets = _bound({(family, where): None for family, _, _, _, where in found}, port, stack, shared=shared)
        except OSError as error:
            flag = flag if error.errno in {errno.EADDRINUSE, errno.EACCES} else "--host"
            raise StartupError(
                f"cannot listen on {host} port {port}: {error.strerror}; choose another with {flag}"
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
            # localhost is ::1 also where there is no IPv6; one address is enough.
            if error.errno not in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
                raise
            absent = error
            continue
        listener.listen(_BACKLOG)
        sockets.append(listener)
    if absent is not None and not sockets:
        raise absent
    return sockets


class Drain:
    """Waits for the requests in flight, for ``grace`` seconds in all or until ``cut`` is set.

    ``complete`` tells whether all of them have ended by themselves.
    """

    def __init__(self, grace: float, cut: asyncio.Event) -> None:
        self.complete = True
        self._grace = grace
        self._cut = cut
        self._deadline: float | None = None

    async def requests(self, in_flight: set[asyncio.Task[object]]) -> None:
        """Wait for those in flight, and for those that come meanwhile; then cancel what is left, and wait for that."""
        while in_flight and await self._wait(in_flight, self._left()):
            pass
        self.complete = self.complete and not in_flight
        for task in in_flight:
            task.cancel()
        if in_flight:
            await asyncio.wait(in_flight)

    async def flush_closed(self, sockets: Sequence[TransportSocket]) -> None:
        """Give connections that were closed a moment to send what they still hold."""
        loop = asyncio.get_running_loop()
        end = loop.time() + min(_FLUSH_TIMEOUT, self._left())
        open_still = list(sockets)
        while open_still and loop.time() < end and not self._cut.is_set():
            await asyncio.sleep(_FLUSH_TIMEOUT / 100)
            open_still = [each for each in open_still if each.fileno() >= 0]

    async def _wait(self, tasks: Iterable[asyncio.Task[object]], seconds: float) -> bool:
        """Wait for one of ``tasks``: False if the time is up."""
        cut = asyncio.create_task(self._cut.wait())
        try:
            done, _ = await asyncio.wait({cut, *tasks}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            cut.cancel()
        return bool(done) and cut not in done

    def _left(self) -> float:
        now = asyncio.get_running_loop().time()
        if self._deadline is None:
            self._deadline = now + self._grace
        return max(0.0, self._deadline - now)


@asynccontextmanager
async def serving(
    app: web.Application,
    sockets: Sequence[socket.socket],
    context: ssl.SSLContext,
    drain: Drain,
    connections: Connections,
    *,
    deadline: float = HEAD_DEADLINE,
    heads: HeadLimits = FROM_CLIENTS,
) -> AsyncGenerator[None, None]:
    """Serve ``app`` over TLS; on leaving, stop listening, drain, and close what is left.

    ``connections`` are to be the server's; the application's first middleware is their ``track``.

    ``deadline`` is for a TLS handshake and for a request's head, in seconds; an idle connection is kept as long.
    ``heads`` are the limits of a head.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        auto_decompress=False,
        handler_cancellation=True,
        keepalive_timeout=deadline,
        max_line_size=heads.line,
        max_field_size=heads.line,
        max_headers=heads.fields,
        read_bufsize=_READ_AHEAD,
        logger=logs.ServerLog(logs.log, {}),
        shutdown_timeout=0.1,
    )
    async with AsyncExitStack() as stack:
        stack.callback(asyncio.create_task(drop_disconnected(connections.busy)).cancel)
        stack.push_async_callback(
            drain.requests, connections.in_flight
        )  # those that began while connections were closed
        stack.push_async_callback(_close, runner, drain)
        await runner.setup()
        stack.push_async_callback(drain.requests, connections.in_flight)
        most = _most_connections()
        acceptor = Acceptor(_server(runner), sockets, context, connections, limit=most, deadline=deadline)
        stack.push_async_callback(acceptor.close)
        yield


def _most_connections() -> int:
    """How many connections one server takes: an upload needs three more descriptors, and the other server its own."""
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(_FEWEST, limit // 4 - 1)


async def _close(runner: web.AppRunner, drain: Drain) -> None:
    connections = [] if runner.server is None else runner.server.connections
    sockets = [each.transport.get_extra_info("socket") for each in connections if each.transport is not None]
    await runner.cleanup()
    await drain.flush_closed([each for each in sockets if each is not None])  # as it is for one that is gone already


def _server(runner: web.AppRunner) -> web.Server:
    if runner.server is None:
        raise AssertionError("a runner that was set up has a server")
    return runner.server
