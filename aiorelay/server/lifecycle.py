"""Run both servers in one process and one loop: opened in order, drained, closed in reverse.

serve(settings) ─▶ Chain          for Python and for tests, inside the caller's loop
run(settings)   ─▶ exit status    the command: its own loop, signals, the lines that say it is ready
"""

import asyncio
import contextlib
import ctypes
import gc
import re
import shlex
import signal
import ssl
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from yarl import URL

from aiorelay.certificates.identity import Identity
from aiorelay.errors import StartupError
from aiorelay.http.authentication import Tokens
from aiorelay.observability import logs
from aiorelay.rest2 import store as stores
from aiorelay.server.listeners import Drain, address, listening, url
from aiorelay.server.wiring import ServerContext, serve_rest1, serve_rest2
from aiorelay.settings import Settings

__all__ = ["Chain", "keep_freed_blocks", "run", "serve"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


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
    """Serve until SIGINT or SIGTERM, and give the exit status: 0 drained, 1 cut short. Raises ``StartupError``.

    The process is expected to end then: it heeds neither signal any more.
    """
    logs.configure(settings.log_format, settings.log_level)
    keep_freed_blocks()
    with asyncio.Runner(loop_factory=_loop_factory(settings.loop)) as runner:
        return runner.run(_run(settings))


def _loop_factory(loop: str) -> Callable[[], asyncio.AbstractEventLoop] | None:
    if loop == "asyncio":
        return None
    try:
        factory: Callable[[], asyncio.AbstractEventLoop] = import_module("uvloop").new_event_loop
    except ImportError as error:
        raise StartupError("loop: uvloop is not installed; pip install 'aiorelay[uvloop]'") from error
    return factory


async def _run(settings: Settings) -> int:
    loop = asyncio.get_running_loop()
    stop, cut = asyncio.Event(), asyncio.Event()

    def on_signal() -> None:
        (cut if stop.is_set() else stop).set()

    # Not by add_signal_handler: the loop puts the default action back when it closes, and that kills the process.
    for number in _SIGNALS:
        signal.signal(number, lambda *_: loop.call_soon_threadsafe(on_signal))
    loop.add_signal_handler(signal.SIGHUP, lambda: None)  # with one of the loop's own, each signal wakes it
    try:
        async with _started(settings, cut) as (chain, shared):
            loop.add_signal_handler(signal.SIGHUP, shared.reload)
            lines = _ready_lines(chain, settings, shared.identity.name)
            print(*lines, sep="\n", flush=True)  # noqa: T201 - the command's output
            gc.freeze()  # what is here now stays: to look through it for garbage again and again is in vain
            await stop.wait()
            logs.log.info("shutting down: uploads in flight have %g s", settings.grace)
    finally:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # or one that comes now would take the exit status away
    return 0 if shared.drain.complete else 1


@asynccontextmanager
async def _started(
    settings: Settings, cut: asyncio.Event | None = None
) -> AsyncGenerator[tuple[Chain, ServerContext], None]:
    """Open everything in order; on leaving, drain and close it in reverse. ``cut`` ends the draining at once.

    Gives the chain, and what it stands on.
    """
    async with AsyncExitStack() as stack:
        host = address(settings.host)
        sockets = {
            name: stack.enter_context(listening(settings.host, port, f"--{name}-port", shared=settings.reuse_port))
            for name, port in (("rest1", settings.rest1_port), ("rest2", settings.rest2_port))
            if settings.only in (None, name)
        }
        shared = ServerContext(
            settings=settings,
            sockets=sockets,
            urls={name: url(host, bound[0].getsockname()[1]) for name, bound in sockets.items()},
            identity=Identity(settings, host),
            tokens=None if settings.token_file is None else Tokens(settings.token_file),
            drain=Drain(settings.grace, cut or asyncio.Event()),
        )
        store = await stack.enter_async_context(serve_rest2(shared)) if "rest2" in sockets else None
        if "rest1" in sockets:
            await stack.enter_async_context(serve_rest1(shared))
        await stack.enter_async_context(shared.renewing_certificates())
        chain = Chain(
            rest1=shared.urls.get("rest1"),
            rest2=shared.urls.get("rest2"),
            ca=shared.identity.ca,
            tls=shared.identity.client_context_by_address(),
            store=None if store is None else store.root,
        )
        yield chain, shared


def _ready_lines(chain: Chain, settings: Settings, name: str) -> list[str]:
    lines = [f"{server} {base}" for server, base in (("rest1", chain.rest1), ("rest2", chain.rest2)) if base]
    return [*lines, f"CA {chain.ca}", _curl_line(chain, settings, name)]


def _curl_line(chain: Chain, settings: Settings, name: str) -> str:
    """A command that uploads the certificate itself, wherever it is pasted; ``name`` is the one to verify.

    Where tokens are wanted, the shell's variable TOKEN has to hold one.
    """
    base, path = (chain.rest1, "/upload1") if chain.rest1 else (chain.rest2, "/upload")
    at = URL(base or "")
    named = url(name, at.port or 0)
    command = ["curl", "--cacert", str(chain.ca)]
    if at.host != name:
        there, here = (each.removeprefix("https://") for each in (named, url(at.host or "", at.port or 0)))
        command += ["--connect-to", f"{there}:{here}"]
    token = ' -H "Authorization: Bearer $TOKEN" ' if settings.token_file and chain.rest1 else " "
    file = f"{settings.field}=@{_quoted(chain.ca)}"
    return f"{shlex.join(command)}{token}{shlex.join(['-F', file, f'{named}{path}'])}"


def _quoted(path: Path) -> str:
    """A path as curl's -F takes it: bare, or where it would see more in it than a path, in quotes."""
    text = str(path)
    if not re.search(r'[",;\s\\]', text):
        return text
    return '"' + re.sub(r'(["\\])', r"\\\1", text) + '"'


# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

_LARGEST = 32 * 1024 * 1024  # that glibc takes for the second
_KEPT = 256 * 1024 * 1024


def keep_freed_blocks() -> bool:
    """Have freed blocks kept for the next ones, and say whether the C library can."""
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST) and mallopt(_M_TRIM_THRESHOLD, _KEPT))
    return False
