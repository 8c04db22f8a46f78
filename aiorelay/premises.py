"""What the servers stand on, and how each is opened there: its store or its sources, its app, its sockets.

Premises ─┬─ storing    rest2 with its store
          └─ relaying   rest1 with its upstream, sources, checks and jobs
"""

import asyncio
import contextlib
import ipaddress
import socket
import tempfile
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from yarl import URL

from aiorelay import store as stores
from aiorelay import telemetry, tls
from aiorelay.access import Access, Neighbourhood, Tokens
from aiorelay.ambiguity import FROM_RELAYS
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
from aiorelay.listeners import HEAD_DEADLINE, Drain, address, serving
from aiorelay.metrics import Metrics
from aiorelay.pages import Pages
from aiorelay.rest1 import Rest1
from aiorelay.rest2 import Rest2
from aiorelay.settings import Settings
from aiorelay.sources import Sources
from aiorelay.spool import Spool
from aiorelay.threads import Threads
from aiorelay.tracing import UNTRACED, Tracing, tracing
from aiorelay.upstream import Upstream, Waits

__all__ = ["Premises", "relaying", "storing"]

_THREADS = 8
# Bytes of a form that are neither file nor field: a hundred heads of the longest kind are more than any has.
_FRAMING = 1024 * 1024
# Certificates are looked after this often, in seconds: the wall clock may jump, so that no single wait would do.
_UPKEEP = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Premises:
    """What both servers share: settings, bound sockets and base URLs by server, certificate, tokens, the drain."""

    settings: Settings
    sockets: Mapping[str, Sequence[socket.socket]]
    urls: Mapping[str, str]
    identity: Identity
    tokens: Tokens | None
    drain: Drain
    metrics: Metrics = field(default_factory=Metrics)
    identities: list[Identity] = field(default_factory=list)

    @property
    def limits(self) -> Limits:
        return Limits(parts=self.settings.max_parts, fields_size=self.settings.max_fields_size)

    @property
    def patience(self) -> Patience:
        return Patience(self.settings.idle_timeout, self.settings.min_rate)

    def reload(self) -> None:
        """Read certificates and tokens again; what cannot be used is logged, and stays as it was."""
        if self.tokens is not None:
            self.tokens.refresh()
        self._tend(Identity.reload)

    @asynccontextmanager
    async def kept_up(self) -> AsyncGenerator[None, None]:
        """Renew certificates in time, for as long as the context lasts."""
        upkeep = asyncio.create_task(self._keep_up())
        try:
            yield
        finally:
            upkeep.cancel()

    async def _keep_up(self) -> None:
        while True:
            await asyncio.sleep(_UPKEEP)
            self._tend(Identity.renew)

    def _tend(self, tend: Callable[[Identity], None]) -> None:
        for identity in (self.identity, *self.identities):
            try:
                tend(identity)
            except StartupError as problem:
                telemetry.log.error("the certificate stays as it was: %s", problem)


@asynccontextmanager
async def storing(premises: Premises) -> AsyncGenerator[stores.Store, None]:
    """Serve rest2. Raises ``StartupError``."""
    settings = premises.settings
    with _store(settings) as store:
        door = Neighbourhood(premises.tokens) if premises.tokens or settings.client_ca else None
        checks = [max_size(settings.max_size)]
        rest2 = Rest2(store, door, limits=premises.limits, checks=checks, patience=premises.patience)
        context, sockets = premises.identity.context, premises.sockets["rest2"]
        async with serving(rest2.app(), sockets, context, premises.drain, heads=FROM_RELAYS):
            try:
                yield store
            finally:
                rest2.drain()


@asynccontextmanager
async def relaying(premises: Premises) -> AsyncGenerator[None, None]:
    """Serve rest1. Raises ``StartupError``."""
    settings = premises.settings
    async with AsyncExitStack() as stack:
        pool = stack.enter_context(ThreadPoolExecutor(_THREADS, thread_name_prefix="checks"))
        spool = _spool(settings, pool)
        traced = await stack.enter_async_context(tracing(settings.grace)) if settings.otel else UNTRACED
        upstream = await stack.enter_async_context(_upstream(premises, traced))
        sources = Sources(stack.enter_context(_fetcher(premises)), settings.local_root, pool)
        jobs = await stack.enter_async_context(Jobs(JobFiles(settings.state_dir / "jobs"), most=settings.max_jobs))
        stack.push_async_callback(premises.drain.requests, jobs.tasks)
        rest1 = Rest1(
            Delivery(upstream, spool, _spooled(settings)),
            sources,
            jobs,
            Access(premises.tokens, settings.trusted_proxy),
            premises.metrics,
            traced,
            Pages(settings.field, upload=settings.page, wants_token=premises.tokens is not None),
            field=settings.field,
            limits=premises.limits,
            max_uploads=settings.max_uploads,
            checks=chosen(
                settings,
                pool,
                stack.enter_context(Threads("validator")),
                spool=spool,
                on_scan=premises.metrics.scanned,
                on_timeout=premises.metrics.validators_given_up.inc,
            ),
            patience=premises.patience,
            pool=pool,
            stored_status=settings.stored_status,
            allow_pieces=settings.allow_pieces,
        )
        context = _relay_identity(premises).context
        await stack.enter_async_context(serving(rest1.app(), premises.sockets["rest1"], context, premises.drain))
        stack.callback(rest1.drain)
        yield


def _relay_identity(premises: Premises) -> Identity:
    """The identity of rest1: a context of its own where it asks clients for a certificate, which rest2 does not."""
    settings = premises.settings
    if settings.client_ca is None:
        if not settings.token_file and not _is_loopback(premises.sockets["rest1"]):
            telemetry.log.warning("anyone who can reach this machine may upload: see --token-file and --client-ca")
        return premises.identity
    identity = Identity(settings, address(settings.host))
    tls.require_client_certificates(identity.context, settings.client_ca)
    premises.identities.append(identity)
    return identity


def _is_loopback(sockets: Sequence[socket.socket]) -> bool:
    return all(ipaddress.ip_address(each.getsockname()[0].partition("%")[0]).is_loopback for each in sockets)


@contextlib.contextmanager
def _fetcher(premises: Premises) -> Generator[Fetcher, None, None]:
    settings = premises.settings
    fetcher = Fetcher(
        allowed=settings.allow_net,
        own=[each.getsockname()[:2] for bound in premises.sockets.values() for each in bound],
        hosts=settings.allow_host,
        limits=FetchLimits(idle=settings.idle_timeout, min_rate=settings.min_rate),
    )
    try:
        yield fetcher
    finally:
        fetcher.close()


@asynccontextmanager
async def _upstream(premises: Premises, traced: Tracing) -> AsyncGenerator[Upstream, None]:
    settings, identity = premises.settings, premises.identity
    target = settings.upstream or URL(f"{premises.urls['rest2']}/upload")
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
        waits=Waits(idle=settings.idle_timeout, answer=settings.answer_timeout),
        keeps_idle=HEAD_DEADLINE if settings.upstream is None else 0.0,
        tracing=traced,
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
