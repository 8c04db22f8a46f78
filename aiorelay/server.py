"""The whole chain in one process and one loop: opened in order, drained, closed in reverse.

serve(settings) ─▶ Chain       for Python and for tests, inside the caller's loop
run(settings)   ─▶ exit status the command: its own loop, signals, the ready lines
"""

import asyncio
import contextlib
import shlex
import signal
import socket
import ssl
import tempfile
from collections.abc import AsyncGenerator, Callable, Generator, Iterable
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from yarl import URL

from aiorelay import store as stores
from aiorelay import telemetry, tls
from aiorelay.body import Patience
from aiorelay.checks.chosen import chosen
from aiorelay.checks.size import max_size
from aiorelay.errors import StartupError
from aiorelay.fetch import Fetcher
from aiorelay.fetch import Limits as FetchLimits
from aiorelay.form import Limits
from aiorelay.rest1 import Rest1
from aiorelay.rest2 import Rest2
from aiorelay.settings import Settings
from aiorelay.sources import Sources
from aiorelay.spool import Delivery, Spool
from aiorelay.upstream import Upstream

__all__ = ["Chain", "run", "serve"]

# For a TLS handshake, and for a request's head, in seconds; an idle connection is kept as long.
_HEAD_DEADLINE = 10.0
_BACKLOG = 1024
_THREADS = 8
# Bytes of a form that are neither file nor field: a hundred heads of the longest kind are more than any has.
_FRAMING = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A running chain: the base URLs of what it serves (None for what it does not), and how to trust and look into it.

    ``ca`` is the certificate to trust (PEM), ``tls`` a client's context that trusts it, ``store`` the directory in
    which the embedded rest2 keeps files.
    """

    rest1: str | None
    rest2: str | None
    ca: Path
    tls: ssl.SSLContext
    store: Path | None

    def stored(self) -> list[Path]:
        """Every file that rest2 has kept, in order of path."""
        return [] if self.store is None else stores.stored(self.store)


@asynccontextmanager
async def serve(settings: Settings | None = None) -> AsyncGenerator[Chain, None]:
    """Run what ``settings`` say inside the caller's loop; leaving drains it for at most ``grace`` seconds.

    Raises ``StartupError`` where it cannot start, in one sentence.
    """
    async with _started(settings or Settings()) as (chain, _):
        yield chain


def run(settings: Settings) -> int:
    """Serve until SIGINT or SIGTERM, and give the exit status: 0 drained, 1 cut short. Raises ``StartupError``."""
    telemetry.configure(settings.log_format, settings.log_level)
    return asyncio.run(_run(settings))


async def _run(settings: Settings) -> int:
    loop = asyncio.get_running_loop()
    stop, cut = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (cut if stop.is_set() else stop).set()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    async with _started(settings, cut) as (chain, drain):
        print(*_ready_lines(chain), sep="\n", flush=True)  # noqa: T201 - the ready lines are the command's output
        await stop.wait()
        telemetry.log.info("shutting down: uploads in flight have %g s", settings.grace)
    return 0 if drain.complete else 1


@asynccontextmanager
async def _started(
    settings: Settings, cut: asyncio.Event | None = None
) -> AsyncGenerator[tuple[Chain, "_Drain"], None]:
    """Open everything in order; on leaving, drain and close it in reverse. ``cut`` ends the draining at once."""
    async with AsyncExitStack() as stack:
        certificates = _Served(settings)
        listening = {
            name: stack.enter_context(_listening(settings.host, port, f"--{name}-port"))
            for name, port in (("rest1", settings.rest1_port), ("rest2", settings.rest2_port))
            if settings.only in (None, name)
        }
        urls = {name: _url(settings.host, sockets[0]) for name, sockets in listening.items()}
        pool = stack.enter_context(ThreadPoolExecutor(_THREADS, thread_name_prefix="checks"))
        checks = chosen(settings, pool, on_scan=lambda _outcome: None)
        patience = Patience(settings.idle_timeout, settings.min_rate)
        limits = Limits(parts=settings.max_parts, fields_size=settings.max_fields_size)
        drain = _Drain(settings.grace, cut or asyncio.Event())
        store: stores.Store | None = None
        if "rest2" in listening:
            store = stack.enter_context(_store(settings))
            rest2 = Rest2(store, limits=limits, checks=[max_size(settings.max_size)], patience=patience)
            await stack.enter_async_context(_serving(rest2.app(), listening["rest2"], certificates.context, drain))
        if "rest1" in listening:
            upstream = await stack.enter_async_context(_upstream(settings, urls.get("rest2"), certificates))
            own = [each.getsockname()[:2] for sockets in listening.values() for each in sockets]
            fetcher = Fetcher(
                allowed=settings.allow_net,
                own=own,
                hosts=settings.allow_host,
                limits=FetchLimits(idle=settings.idle_timeout),
            )
            stack.callback(fetcher.close)
            rest1 = Rest1(
                Delivery(upstream, _spool(settings, pool), _spooled(settings)),
                Sources(fetcher, settings.local_root, pool),
                field=settings.field,
                limits=limits,
                max_uploads=settings.max_uploads,
                checks=checks,
                patience=patience,
                pool=pool,
            )
            await stack.enter_async_context(_serving(rest1.app(), listening["rest1"], certificates.context, drain))
            stack.callback(rest1.drain)
        yield (
            Chain(
                rest1=urls.get("rest1"),
                rest2=urls.get("rest2"),
                ca=certificates.ca,
                tls=certificates.trusting(),
                store=None if store is None else store.root,
            ),
            drain,
        )


class _Served:
    """The certificate that both servers serve, and who is to be trusted for it."""

    def __init__(self, settings: Settings) -> None:
        self.own = settings.tls_cert is not None
        if settings.tls_cert is not None:
            self.context = tls.server_context_from(settings.tls_cert, settings.tls_key)
            self.ca = settings.tls_cert
        else:
            generated = tls.Certificates(settings.state_dir / "tls", settings.tls_name)
            self.context, self.ca = generated.context, generated.ca

    def trusting(self, *, system_trust: bool = False) -> ssl.SSLContext:
        """A client's context that trusts the certificate, whoever signed it and whatever it is called."""
        context = tls.client_context([self.ca], system_trust=system_trust)
        if self.own:  # it is itself the anchor: there may be no CA at hand, and loopback need not be among its names
            context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
            context.check_hostname = False
        return context


class _Drain:
    """Waits for the requests in flight, for ``grace`` seconds in all or until ``cut`` is set."""

    def __init__(self, grace: float, cut: asyncio.Event) -> None:
        self.complete = True
        self._grace = grace
        self._cut = cut
        self._deadline: float | None = None

    async def __call__(self, in_flight: set[asyncio.Task[object]]) -> None:
        loop = asyncio.get_running_loop()
        if self._deadline is None:
            self._deadline = loop.time() + self._grace
        cut = asyncio.create_task(self._cut.wait())
        try:
            while in_flight and not cut.done() and (left := self._deadline - loop.time()) > 0:
                await asyncio.wait({cut, *in_flight}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        finally:
            cut.cancel()
        self.complete = self.complete and not in_flight


@asynccontextmanager
async def _serving(
    app: web.Application, sockets: Iterable[socket.socket], context: ssl.SSLContext, drain: _Drain
) -> AsyncGenerator[None, None]:
    """Serve ``app`` over TLS; on leaving, stop listening, drain, and close what is left."""
    loop = asyncio.get_running_loop()
    in_flight: set[asyncio.Task[object]] = set()
    app.middlewares.insert(0, _noting(in_flight))
    runner = web.AppRunner(
        app,
        access_log=None,
        auto_decompress=False,
        handler_cancellation=True,
        keepalive_timeout=_HEAD_DEADLINE,
        logger=telemetry.ServerLog(telemetry.log, {}),
        shutdown_timeout=0.1,
    )
    await runner.setup()
    connection = runner.server
    if connection is None:
        raise AssertionError("a runner that was set up has a server")
    servers = [
        await loop.create_server(
            connection, sock=each, ssl=context, ssl_handshake_timeout=_HEAD_DEADLINE, backlog=_BACKLOG
        )
        for each in sockets
    ]
    try:
        yield
    finally:
        for server in servers:
            server.close()
        await drain(in_flight)
        await runner.cleanup()


def _noting(in_flight: set[asyncio.Task[object]]) -> Middleware:
    @web.middleware
    async def note(request: web.Request, handler: Handler) -> web.StreamResponse:
        if task := asyncio.current_task():
            in_flight.add(task)
            task.add_done_callback(in_flight.discard)
        return await handler(request)

    return note


@asynccontextmanager
async def _upstream(settings: Settings, embedded: str | None, served: _Served) -> AsyncGenerator[Upstream, None]:
    url = settings.upstream or URL(f"{embedded or _url_of(settings.host, settings.rest2_port)}/upload")
    if settings.upstream is None:
        context = served.trusting()
    else:
        authorities = [settings.upstream_ca] if settings.upstream_ca else [served.ca]
        context = tls.client_context(
            authorities, system_trust=settings.upstream_ca is None, verify=not settings.upstream_insecure
        )
    if settings.upstream_insecure:
        telemetry.log.warning(
            "upstream-insecure is on: whoever is between the relay and the upstream can read and change uploads"
        )
    async with Upstream(
        url,
        context=context,
        server_name="localhost" if settings.upstream is None and not served.own else None,
        headers=settings.upstream_header,
        idle=settings.idle_timeout,
        answer_timeout=settings.answer_timeout,
    ) as upstream:
        yield upstream


def _spooled(settings: Settings) -> str:
    if settings.upstream_mode == "spool":
        return "always"
    return "unknown-length" if settings.upstream_chunked == "never" else "never"


def _spool(settings: Settings, pool: Executor) -> Callable[[], Spool]:
    """Make spools in the state directory, each with room for the largest file and the form around it."""
    directory = settings.state_dir / "spool"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(
            f"cannot spool in {directory}: {error.strerror}; choose another place with --state-dir"
        ) from error
    quota = settings.max_size + settings.max_fields_size + _FRAMING
    return lambda: Spool(directory, quota, pool)


@contextlib.contextmanager
def _store(settings: Settings) -> Generator[stores.Store, None, None]:
    """The opened store; one in a temporary directory leaves that behind unless it is empty."""
    root = settings.store or Path(tempfile.mkdtemp(prefix="aiorelay-store-"))
    store = stores.Store(root, fsync=settings.durable)
    store.open()
    try:
        yield store
    finally:
        store.close()
        if settings.store is None:
            with contextlib.suppress(OSError):
                root.rmdir()


@contextlib.contextmanager
def _listening(host: str, port: int, flag: str) -> Generator[list[socket.socket], None, None]:
    """Sockets bound to every address of ``host``, all to one port. Raises ``StartupError``."""
    with contextlib.ExitStack() as stack:
        sockets: list[socket.socket] = []
        try:
            for family, kind, protocol, _, address in socket.getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
            ):
                listener = stack.enter_context(socket.socket(family, kind, protocol))
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                bound = sockets[0].getsockname()[1] if sockets else port
                listener.bind((address[0], bound, *address[2:]))
                listener.listen(_BACKLOG)
                sockets.append(listener)
        except OSError as error:
            raise StartupError(
                f"cannot listen on {host} port {port}: {error.strerror}; choose another with {flag}"
            ) from error
        yield sockets


def _url(host: str, listener: socket.socket) -> str:
    return _url_of(host, listener.getsockname()[1])


def _url_of(host: str, port: int) -> str:
    """The base URL at which a listener can be reached from this machine."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"https://[{host}]:{port}" if ":" in host else f"https://{host}:{port}"


def _ready_lines(chain: Chain) -> list[str]:
    lines = [f"{name} {url}" for name, url in (("rest1", chain.rest1), ("rest2", chain.rest2)) if url is not None]
    ca = shlex.quote(str(chain.ca))
    target = f"{chain.rest1}/upload1" if chain.rest1 else f"{chain.rest2}/upload"
    return [*lines, f"CA {chain.ca}", f"curl --cacert {ca} -F somefile=@{ca} {target}"]
