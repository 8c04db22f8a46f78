"""The whole chain in one process and one loop: opened in order, drained, closed in reverse.

serve(settings) ─▶ Chain       for Python and for tests, inside the caller's loop
run(settings)   ─▶ exit status the command: its own loop, signals, the ready lines
"""

import asyncio
import contextlib
import re
import shlex
import signal
import ssl
import tempfile
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from yarl import URL

from aiorelay import store as stores
from aiorelay import telemetry, tls
from aiorelay.body import Patience
from aiorelay.checks.chosen import chosen
from aiorelay.checks.size import max_size
from aiorelay.delivery import Delivery
from aiorelay.errors import StartupError
from aiorelay.fetch import Fetcher
from aiorelay.fetch import Limits as FetchLimits
from aiorelay.form import Limits
from aiorelay.identity import Identity
from aiorelay.job_files import JobFiles
from aiorelay.jobs import Jobs
from aiorelay.listeners import Drain, address, listening, serving, url
from aiorelay.rest1 import Rest1
from aiorelay.rest2 import Rest2
from aiorelay.settings import Settings
from aiorelay.sources import Sources
from aiorelay.spool import Spool
from aiorelay.upstream import Upstream

__all__ = ["Chain", "run", "serve"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
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
    async with _started(settings or Settings()) as (chain, _, _):
        yield chain


def run(settings: Settings) -> int:
    """Serve until SIGINT or SIGTERM, and give the exit status: 0 drained, 1 cut short. Raises ``StartupError``.

    The process is expected to end then: it heeds neither signal any more.
    """
    telemetry.configure(settings.log_format, settings.log_level)
    return asyncio.run(_run(settings))


async def _run(settings: Settings) -> int:
    loop = asyncio.get_running_loop()
    stop, cut = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (cut if stop.is_set() else stop).set()

    for number in _SIGNALS:
        loop.add_signal_handler(number, on_signal)
    try:
        async with _started(settings, cut) as (chain, drain, name):
            print(*_ready_lines(chain, settings.field, name), sep="\n", flush=True)  # noqa: T201 - the ready lines are the command's output
            await stop.wait()
            telemetry.log.info("shutting down: uploads in flight have %g s", settings.grace)
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)  # or one that comes now would take the exit status away
    return 0 if drain.complete else 1


@asynccontextmanager
async def _started(
    settings: Settings, cut: asyncio.Event | None = None
) -> AsyncGenerator[tuple[Chain, Drain, str], None]:
    """Open everything in order; on leaving, drain and close it in reverse. ``cut`` ends the draining at once.

    Gives the chain, how its draining went, and the name under which its certificate is verified.
    """
    async with AsyncExitStack() as stack:
        host = address(settings.host)
        identity = Identity(settings, host)
        sockets = {
            name: stack.enter_context(listening(settings.host, port, f"--{name}-port"))
            for name, port in (("rest1", settings.rest1_port), ("rest2", settings.rest2_port))
            if settings.only in (None, name)
        }
        urls = {name: url(host, bound[0].getsockname()[1]) for name, bound in sockets.items()}
        pool = stack.enter_context(ThreadPoolExecutor(_THREADS, thread_name_prefix="checks"))
        spool = _spool(settings, pool)
        checks = chosen(settings, pool, spool=spool, on_scan=lambda _outcome: None)
        patience = Patience(settings.idle_timeout, settings.min_rate)
        limits = Limits(parts=settings.max_parts, fields_size=settings.max_fields_size)
        drain = Drain(settings.grace, cut or asyncio.Event())
        store: stores.Store | None = None
        if "rest2" in sockets:
            store = stack.enter_context(_store(settings))
            rest2 = Rest2(store, limits=limits, checks=[max_size(settings.max_size)], patience=patience)
            await stack.enter_async_context(serving(rest2.app(), sockets["rest2"], identity.context, drain))
            stack.callback(rest2.drain)
        if "rest1" in sockets:
            upstream = await stack.enter_async_context(_upstream(settings, urls.get("rest2"), identity))
            own = [each.getsockname()[:2] for bound in sockets.values() for each in bound]
            fetcher = Fetcher(
                allowed=settings.allow_net,
                own=own,
                hosts=settings.allow_host,
                limits=FetchLimits(idle=settings.idle_timeout),
            )
            stack.callback(fetcher.close)
            jobs = await stack.enter_async_context(Jobs(JobFiles(settings.state_dir / "jobs"), most=settings.max_jobs))
            stack.push_async_callback(drain.requests, jobs.tasks)
            rest1 = Rest1(
                Delivery(upstream, spool, _spooled(settings)),
                Sources(fetcher, settings.local_root, pool),
                jobs,
                field=settings.field,
                limits=limits,
                max_uploads=settings.max_uploads,
                checks=checks,
                patience=patience,
                pool=pool,
            )
            await stack.enter_async_context(serving(rest1.app(), sockets["rest1"], identity.context, drain))
            stack.callback(rest1.drain)
        yield (
            Chain(
                rest1=urls.get("rest1"),
                rest2=urls.get("rest2"),
                ca=identity.ca,
                tls=identity.trusting_at_host(),
                store=None if store is None else store.root,
            ),
            drain,
            identity.name,
        )


@asynccontextmanager
async def _upstream(settings: Settings, embedded: str | None, identity: Identity) -> AsyncGenerator[Upstream, None]:
    target = settings.upstream or URL(f"{embedded or url(address(settings.host), settings.rest2_port)}/upload")
    if settings.upstream is None:
        context = identity.trusting()
    else:
        authorities = [settings.upstream_ca] if settings.upstream_ca else [identity.ca]
        context = tls.client_context(
            authorities, system_trust=settings.upstream_ca is None, verify=not settings.upstream_insecure
        )
    if settings.upstream_insecure:
        telemetry.log.warning(
            "upstream-insecure is on: whoever is between the relay and the upstream can read and change uploads"
        )
    async with Upstream(
        target,
        context=context,
        server_name=identity.name if settings.upstream is None else None,
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
    with contextlib.ExitStack() as stack:
        root = settings.store or _temporary(stack)
        store = stores.Store(root, fsync=settings.durable)
        store.open()
        stack.callback(store.close)
        yield store


def _temporary(stack: contextlib.ExitStack) -> Path:
    try:
        root = Path(tempfile.mkdtemp(prefix="aiorelay-store-"))
    except OSError as error:
        raise StartupError(f"cannot make a temporary store: {error.strerror}; choose a place with --store") from error

    def leave() -> None:
        with contextlib.suppress(OSError):
            root.rmdir()

    stack.callback(leave)
    return root


def _ready_lines(chain: Chain, field: str, name: str) -> list[str]:
    lines = [f"{server} {base}" for server, base in (("rest1", chain.rest1), ("rest2", chain.rest2)) if base]
    return [*lines, f"CA {chain.ca}", _curl_line(chain, field, name)]


def _curl_line(chain: Chain, field: str, name: str) -> str:
    """A command that uploads the certificate itself, wherever it is pasted; ``name`` is the one to verify."""
    base, path = (chain.rest1, "/upload1") if chain.rest1 else (chain.rest2, "/upload")
    at = URL(base or "")
    named = url(name, at.port or 0)
    command = ["curl", "--cacert", str(chain.ca)]
    if at.host != name:
        there, here = (each.removeprefix("https://") for each in (named, url(at.host or "", at.port or 0)))
        command += ["--connect-to", f"{there}:{here}"]
    return shlex.join([*command, "-F", f"{field}=@{_quoted(chain.ca)}", f"{named}{path}"])


def _quoted(path: Path) -> str:
    """A path as curl's -F takes it: bare, or where it would see more in it than a path, in quotes."""
    text = str(path)
    if not re.search(r'[",;\s\\]', text):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'
