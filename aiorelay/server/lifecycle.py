"""Run both servers in one process and one event loop: start in order, drain, close in reverse order.

serve(settings) ─▶ Chain          for Python code and tests, in the caller's loop
run(settings)   ─▶ exit status    for the command: its own loop, signal handlers, the lines on stdout
"""

import asyncio
import contextlib
import ctypes
import gc
import re
import shlex
import signal
import socket
import ssl
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager
from contextvars import copy_context
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from yarl import URL

from aiorelay.certificates.identity import Identity
from aiorelay.errors import StartupError
from aiorelay.observability import logs
from aiorelay.rest2.directory import stored
from aiorelay.server.listeners import Drain, address, url
from aiorelay.server.processes.siblings import Siblings
from aiorelay.server.resources import Resources, own_resources
from aiorelay.server.wiring import ServerContext, serve_rest1, serve_rest2, token_authentication
from aiorelay.settings import Settings

__all__ = [
    "Chain",
    "Control",
    "keep_freed_blocks",
    "loop_factory",
    "obeying_signals",
    "run",
    "run_until_stopped",
    "serve",
]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """A running chain of relay (rest1) and upload API (rest2).

    ``rest1`` and ``rest2`` are base URLs, or ``unix:PATH`` for a Unix socket; None for a server that is not running.
    ``ca`` is the path of the certificate to trust (PEM), and ``tls`` a client context that trusts it. ``store`` is the
    directory in which the embedded rest2 keeps files, None if it keeps them in object storage, and without rest2.
    """

    rest1: str | None
    rest2: str | None
    ca: Path
    tls: ssl.SSLContext
    store: Path | None

    def stored(self) -> list[Path]:
        """Return the paths of all files that rest2 has stored in its directory, sorted."""
        return [] if self.store is None else stored(self.store)


@asynccontextmanager
async def serve(settings: Settings | None = None) -> AsyncGenerator[Chain, None]:
    """Run the servers in the caller's loop. On exit, wait up to ``grace`` seconds for uploads in flight.

    ``settings`` defaults to ``Settings()``. Raises ``StartupError`` if a server cannot start.
    """
    settings = settings or Settings()
    if settings.processes > 1:
        raise StartupError("Only the command aiorelay serve can start several processes. Leave processes at 1.")
    with own_resources(settings) as resources:
        async with _started(settings, resources, asyncio.Event()) as (chain, _):
            yield chain


class Control:
    """What a running process is told: ``stop`` ends it when its uploads have ended, ``cut`` at once.

    ``on_reload`` loads certificates and tokens again.
    """

    def __init__(self) -> None:
        self.stop = asyncio.Event()
        self.cut = asyncio.Event()
        self.on_reload: Callable[[], object] = lambda: None

    def reload(self) -> None:
        """Load certificates and tokens again, once the servers have started."""
        self.on_reload()


def run(settings: Settings) -> int:
    """Serve until SIGINT or SIGTERM. Return the exit status: 0 if all uploads ended in time, 1 if some were cancelled.

    Afterwards the process ignores both signals, so it should exit. Raises ``StartupError``.
    """
    logs.configure(settings.log_format, settings.log_level)
    keep_freed_blocks()
    with asyncio.Runner(loop_factory=loop_factory(settings.loop)) as runner:
        return runner.run(_run(settings))


def loop_factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return what makes the event loop that a setting names, None for asyncio's own. Raises ``StartupError``."""
    if loop == "asyncio":
        return None
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    except ImportError as error:
        raise StartupError("loop: uvloop is not installed. Run: pip install 'aiorelay[uvloop]'.") from error
    return factory


async def _run(settings: Settings) -> int:
    control = Control()

    def on_signal() -> None:
        if control.stop.is_set():
            control.cut.set()
        else:
            logs.log.info("shutting down: uploads in flight have %g s to end", settings.grace)
            control.stop.set()

    with own_resources(settings) as resources, obeying_signals(control, on_signal):
        # The output of the command.
        return await run_until_stopped(settings, resources, control, lambda lines: print(*lines, sep="\n", flush=True))  # noqa: T201


@contextlib.contextmanager
def obeying_signals(control: Control, on_signal: Callable[[], object]) -> Generator[None, None, None]:
    """Call ``on_signal`` in the loop for each SIGINT and SIGTERM, which are ignored afterwards. Reload for SIGHUP."""
    loop = asyncio.get_running_loop()
    context = copy_context()  # a signal interrupts any task, whose request it has nothing to do with
    # Not add_signal_handler: closing the loop restores the default action, and a signal would then kill the process.
    for number in _SIGNALS:
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(on_signal, context=context))
    # This also sets the wakeup fd, so that any signal wakes the loop.
    loop.add_signal_handler(signal.SIGHUP, control.reload)
    try:
        yield
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # a signal from here on would replace the exit status


async def run_until_stopped(
    settings: Settings, resources: Resources, control: Control, on_ready: Callable[[list[str]], object]
) -> int:
    """Start the servers, call ``on_ready`` with the ready lines, and serve until ``control`` says to stop.

    Return the exit status: 0 if all uploads ended in time, 1 if some were cancelled. Raises ``StartupError``.
    """
    async with _started(settings, resources, control.cut) as (chain, shared):
        control.on_reload = shared.reload
        on_ready(_ready_lines(chain, settings, shared.identity.name))
        gc.freeze()  # the objects made so far live until the end; collections need not scan them
        # The loop would keep a list of the open asynchronous generators and close them at its end. No request is left
        # then. The loop still closes those that are garbage-collected.
        sys.set_asyncgen_hooks(firstiter=None)
        await control.stop.wait()
    if shared.drain.complete:
        return 0
    grace = f"after {settings.grace:g} s; a longer --grace gives them time"
    logs.log.error("unfinished requests were cancelled %s", "by a second signal" if control.cut.is_set() else grace)
    return 1


@asynccontextmanager
async def _started(
    settings: Settings, resources: Resources, cut: asyncio.Event
) -> AsyncGenerator[tuple[Chain, ServerContext], None]:
    """Start the servers in order. On exit, drain them and close them in reverse order.

    ``cut`` ends the draining at once. Yields the chain and the context that its servers share.
    """
    sockets = resources.sockets
    async with AsyncExitStack() as stack:
        shared = ServerContext(
            settings=settings,
            resources=resources,
            urls={name: _base_url(settings, bound[0]) for name, bound in sockets.items()},
            identity=Identity(settings, address(settings.host)),
            tokens=await stack.enter_async_context(token_authentication(settings)),
            drain=Drain(settings.grace, cut),
        )
        directory = await stack.enter_async_context(serve_rest2(shared)) if "rest2" in sockets else None
        if resources.siblings is not None:
            stack.push_async_callback(_stop_relaying, resources.siblings, shared.drain)
        if "rest1" in sockets:
            await stack.enter_async_context(serve_rest1(shared))
        await stack.enter_async_context(shared.renewing_certificates())
        chain = Chain(
            rest1=shared.urls.get("rest1"),
            rest2=shared.urls.get("rest2"),
            ca=shared.identity.ca,
            tls=shared.identity.client_context_by_address(),
            store=directory,
        )
        yield chain, shared


async def _stop_relaying(siblings: Siblings, drain: Drain) -> None:
    """Tell the other processes that this one sends nothing more, and keep the upload API for those that do."""
    await drain.others(siblings.stop_relaying())


def _base_url(settings: Settings, listener: socket.socket) -> str:
    if listener.family == socket.AF_UNIX:
        return f"unix:{settings.listen_unix}"
    return url(address(settings.host), listener.getsockname()[1], tls=settings.tls)


def _ready_lines(chain: Chain, settings: Settings, name: str) -> list[str]:
    bases = [(server, base) for server, base in (("rest1", chain.rest1), ("rest2", chain.rest2)) if base]
    ca = [f"CA {chain.ca}"] if any(base.startswith("https:") for _, base in bases) else []
    return [*(f"{server} {base}" for server, base in bases), *ca, _curl_line(chain, settings, name)]


def _curl_line(chain: Chain, settings: Settings, name: str) -> str:
    """Return a curl command that uploads the CA certificate. ``name`` is the host name that curl verifies.

    If the relay requires tokens, the command reads one from the shell variable TOKEN.
    """
    base, path, field = _sample_endpoint(chain, settings)
    at = URL(base)
    command = ["curl"]
    match at.scheme:
        case "unix":
            command += ["--unix-socket", base.removeprefix("unix:")]
            named = "http://localhost"
        case "http":
            named = base
        case _:
            named = url(name, at.port or 0)
            command += ["--cacert", str(chain.ca)]
            if at.host != name:
                there, here = (each.removeprefix("https://") for each in (named, url(at.host or "", at.port or 0)))
                command += ["--connect-to", f"{there}:{here}"]
    token = f' -H "{settings.token_header}: Bearer $TOKEN" ' if settings.wants_token and chain.rest1 else " "
    file = f"{field}=@{_quoted(chain.ca)}"
    return f"{shlex.join(command)}{token}{shlex.join(['-F', file, f'{named}{path}'])}"


def _sample_endpoint(chain: Chain, settings: Settings) -> tuple[str, str, str]:
    """Return the base URL, the path and the form field of a sample upload."""
    if chain.rest1 is None:
        return chain.rest2 or "", "/upload", settings.field
    if chain.rest2 is None and settings.upstream is None:  # routes alone
        route = settings.route[0]
        path = route.path if route.prefix is None else f"{route.prefix}{chain.ca.name}"
        return chain.rest1, path, settings.of_route(route).field
    return chain.rest1, "/upload1", settings.field


def _quoted(path: Path) -> str:
    """Return a path for curl's ``-F name=@PATH``, in quotes if it contains characters that are special there."""
    text = str(path)
    if not re.search(r'[",;\s\\]', text):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

_MMAP_THRESHOLD = 32 * 1024 * 1024  # the largest value that glibc accepts
_TRIM_THRESHOLD = 256 * 1024 * 1024


def keep_freed_blocks() -> bool:
    """Make malloc keep freed memory for later blocks. Return whether the C library supports it."""
    with contextlib.suppress(OSError, AttributeError):  # not glibc
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD) and mallopt(_M_TRIM_THRESHOLD, _TRIM_THRESHOLD))
    return False
