"""Build both servers from the settings.

ServerContext ─┬─ serve_rest2    the storing server, with its store
               └─ serve_rest1    the relay, with its upstream, sources, checks and jobs
"""

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import AsyncGenerator, Callable, Generator, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from yarl import URL

from aiorelay.certificates import tls
from aiorelay.certificates.identity import Identity
from aiorelay.checks.size import max_size
from aiorelay.errors import StartupError
from aiorelay.http.authentication import Access, LoopbackOrToken, TokenAuthentication, TokenVerifier
from aiorelay.http.credentials import TokenField
from aiorelay.http.cross_origin import ANY_ORIGIN, SitePolicy
from aiorelay.http.json_web_keys import FileKeys, KeySource, UrlKeys
from aiorelay.http.json_web_tokens import JwtRules, JwtVerifier, check_installed
from aiorelay.http.own_hosts import OwnHosts
from aiorelay.http.request_body import BodyTimeouts
from aiorelay.http.request_smuggling import FROM_RELAYS
from aiorelay.http.tokens import Tokens
from aiorelay.observability import logs
from aiorelay.observability.tracing import NO_TRACING, Tracing, tracing
from aiorelay.rest1.app import Rest1
from aiorelay.rest1.health import Health
from aiorelay.rest1.intake import Intake
from aiorelay.rest1.jobs.file_records import FileJobRecords
from aiorelay.rest1.jobs.files import JobFiles
from aiorelay.rest1.jobs.records import Record
from aiorelay.rest1.jobs.redis_records import RedisJobRecords
from aiorelay.rest1.jobs.registry import Jobs
from aiorelay.rest1.observers import Observers
from aiorelay.rest1.principal_limits import Limits, PrincipalLimits
from aiorelay.rest1.rate_limits import Rate
from aiorelay.rest1.redis_counters import RedisCounters
from aiorelay.rest1.relay import Relay
from aiorelay.rest1.request_forms import FormReader
from aiorelay.rest1.resumable.completion import Completion
from aiorelay.rest1.resumable.routes import ResumableRoutes
from aiorelay.rest1.resumable.transfers import SizeLimits
from aiorelay.rest1.resumable.unfinished import Uploads
from aiorelay.rest1.routes import RoutedUploads, Routes
from aiorelay.rest1.web.pages import Pages
from aiorelay.rest2.app import Rest2
from aiorelay.server.connections import Connections
from aiorelay.server.listeners import Drain, address, serving
from aiorelay.server.relays import Relays, form_limits, largest_form, on_piece
from aiorelay.server.resources import Resources
from aiorelay.server.storage import open_object_sources, open_quarantine, open_store, open_uploads
from aiorelay.server.webhooks import publishing
from aiorelay.settings import Route, Settings
from aiorelay.sources.address_rules import Listener
from aiorelay.sources.fetch import Fetcher, FetchLimits
from aiorelay.sources.ingest import Sources
from aiorelay.state.server import StateAddress, StateServer, open_state
from aiorelay.webhooks.publisher import Publisher

__all__ = ["ServerContext", "serve_rest1", "serve_rest2", "token_authentication"]

_THREADS = 8
# Seconds between checks for renewal. A single wait until the renewal would miss changes of the wall clock.
_RENEWAL_INTERVAL = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerContext:
    """What both servers share: settings, resources, base URLs by server name, certificate, tokens, drain."""

    settings: Settings
    resources: Resources
    urls: Mapping[str, str]
    identity: Identity
    tokens: TokenAuthentication | None
    drain: Drain
    identities: list[Identity] = field(default_factory=list)
    reloads: list[Callable[[], None]] = field(default_factory=list)

    @property
    def timeouts(self) -> BodyTimeouts:
        return BodyTimeouts(self.settings.idle_timeout, self.settings.min_rate)

    def own_hosts(self) -> OwnHosts:
        """Return the names and addresses by which clients reach the servers."""
        settings = self.settings
        return OwnHosts((settings.host, *self.identity.names, *settings.public_name))

    def listeners(self) -> list[Listener]:
        """Return the address and port of each TCP listener."""
        every = [each for bound in self.resources.sockets.values() for each in bound]
        return [each.getsockname()[:2] for each in every if each.family != socket.AF_UNIX]

    def reload(self) -> None:
        """Reload certificates, tokens and rules. If one cannot be loaded, log an error and keep using the old one."""
        if self.tokens is not None:
            self.tokens.refresh()
        self._for_each_identity(Identity.reload)
        for reload in self.reloads:
            reload()
        logs.log.info("certificates, tokens and rules were loaded again; other settings need a restart")

    @asynccontextmanager
    async def renewing_certificates(self) -> AsyncGenerator[None, None]:
        """Renew generated certificates before they expire, in a task that ends with the context."""
        upkeep = asyncio.create_task(self._renew_certificates())
        try:
            yield
        finally:
            upkeep.cancel()

    async def _renew_certificates(self) -> None:
        while True:
            await asyncio.sleep(_RENEWAL_INTERVAL)
            self._for_each_identity(Identity.renew)

    def _for_each_identity(self, action: Callable[[Identity], None]) -> None:
        for identity in (self.identity, *self.identities):
            try:
                action(identity)
            except StartupError as problem:
                logs.log.error("cannot reload the certificate, the old one stays in use: %s", problem)


@asynccontextmanager
async def token_authentication(settings: Settings) -> AsyncGenerator[TokenAuthentication | None, None]:
    """Authenticate clients by tokens; None if that is off. Raises ``StartupError``."""
    async with AsyncExitStack() as stack:
        verifiers: list[TokenVerifier] = [] if settings.token_file is None else [Tokens(settings.token_file)]
        if settings.jwks is not None:
            verifiers.append(JwtVerifier(await _key_source(settings.jwks, stack), _jwt_rules(settings)))
        yield TokenAuthentication(TokenField(settings.token_header), verifiers) if verifiers else None


async def _key_source(jwks: URL | Path, stack: AsyncExitStack) -> KeySource:
    check_installed()
    if isinstance(jwks, Path):
        return FileKeys(jwks)
    keys = UrlKeys(jwks, tls.client_context())
    await stack.enter_async_context(keys.fetching())
    return keys


def _jwt_rules(settings: Settings) -> JwtRules:
    # Not None: the settings require both with jwks.
    return JwtRules(issuer=settings.jwt_issuer or "", audience=settings.jwt_audience or "", scope=settings.jwt_scope)


@asynccontextmanager
async def serve_rest2(shared: ServerContext) -> AsyncGenerator[Path | None, None]:
    """Serve rest2. Yields the directory in which it stores files, if it is one. Raises ``StartupError``."""
    settings, resources = shared.settings, shared.resources
    async with open_store(settings, resources.temporary_store, resources.metrics.storage) as (store, directory):
        access = LoopbackOrToken(shared.tokens) if shared.tokens or settings.client_ca else None
        checks = [max_size(settings.max_size)]
        sites = SitePolicy(shared.own_hosts(), (), proxied=Access(None, settings.trusted_proxy).believes)
        limits = form_limits(settings)
        rest2 = Rest2(store, access, sites, limits=limits, checks=checks, timeouts=shared.timeouts)
        context, sockets = shared.identity.context if settings.tls else None, resources.sockets["rest2"]
        connections = Connections(balance=resources.balance)
        app = rest2.app(connections.track)
        idle = settings.keep_alive_timeout
        async with serving(app, sockets, context, shared.drain, connections, keep_alive=idle, heads=FROM_RELAYS):
            try:
                yield directory
            finally:
                rest2.drain()


@asynccontextmanager
async def serve_rest1(shared: ServerContext) -> AsyncGenerator[None, None]:
    """Serve rest1. Raises ``StartupError``."""
    settings, resources = shared.settings, shared.resources
    async with AsyncExitStack() as stack:
        state = await stack.enter_async_context(_state(shared))
        pool = stack.enter_context(ThreadPoolExecutor(_THREADS, thread_name_prefix="checks"))
        traced = await stack.enter_async_context(tracing(settings.grace)) if settings.otel else NO_TRACING
        publisher = await stack.enter_async_context(publishing(settings, resources.metrics, shared.listeners()))
        intake = Intake(
            Access(shared.tokens, settings.trusted_proxy),
            Observers(resources.metrics, traced, publisher),
            shared.timeouts,
            pool,
            slots=resources.slots,
            on_piece=on_piece(settings),
            limits=_principal_limits(settings, resources, state),
        )
        relays = await _relays(shared, traced, pool, stack)
        relay = None if settings.only == "rest1" and settings.upstream is None else await relays.open(settings)
        opened = open_object_sources(settings, _fetch_limits(settings), resources.metrics.storage)
        objects = await stack.enter_async_context(opened)
        sources = Sources(stack.enter_context(_fetcher(shared)), objects, settings.local_root, pool)
        forms = FormReader(sources, field=settings.field, limits=form_limits(settings))
        routes = Routes(intake, [await _routed(each, settings, relays, sources) for each in settings.route])
        jobs = await stack.enter_async_context(_jobs(settings, state, publisher))
        stack.push_async_callback(shared.drain.requests, jobs.tasks)
        pages = _pages(settings, upload=relay is not None)
        resumable = None
        if settings.resumable and relay is not None:
            uploads = await stack.enter_async_context(open_uploads(settings, state, resources.metrics.storage))
            resumable = _resumable(shared, stack, intake, uploads, forms, relay, jobs)
        sites = SitePolicy(shared.own_hosts(), settings.allow_origin, proxied=intake.access.believes)
        rest1 = Rest1(intake, forms, relay, jobs, pages, resumable, routes, sites)
        connections = Connections(balance=resources.balance)
        app = rest1.app(connections.track, _health(settings, intake, relay, routes, state))
        sockets, context = resources.sockets["rest1"], _relay_context(shared)
        idle = settings.keep_alive_timeout
        await stack.enter_async_context(serving(app, sockets, context, shared.drain, connections, keep_alive=idle))
        stack.callback(rest1.drain)
        yield


async def _relays(shared: ServerContext, traced: Tracing, pool: Executor, stack: AsyncExitStack) -> Relays:
    metrics = shared.resources.metrics
    quarantine = await stack.enter_async_context(open_quarantine(shared.settings, pool, metrics))
    embedded, on_reload = shared.urls.get("rest2"), shared.reloads.append
    return Relays(shared.identity, embedded, metrics, traced, pool, stack, on_reload, quarantine)


def _pages(settings: Settings, *, upload: bool) -> Pages:
    return Pages(
        settings.field,
        upload=settings.page and upload,
        wants_token=settings.wants_token,
        resumable=settings.resumable,
        token_header=settings.token_header,
        embedded_by=[origin for origin in settings.allow_origin if origin != ANY_ORIGIN],
    )


async def _routed(route: Route, settings: Settings, relays: Relays, sources: Sources) -> RoutedUploads:
    """Return what takes the uploads of a route; ``settings`` are those of the relay."""
    settings = settings.of_route(route)
    forms = FormReader(sources, field=settings.field, limits=form_limits(settings))
    return RoutedUploads(route, await relays.open(settings), forms)


def _resumable(
    shared: ServerContext,
    stack: AsyncExitStack,
    intake: Intake,
    uploads: Uploads,
    forms: FormReader,
    relay: Relay,
    jobs: Jobs,
) -> ResumableRoutes:
    settings = shared.settings
    pool = stack.enter_context(ThreadPoolExecutor(_THREADS, thread_name_prefix="checksums"))
    completion = Completion(relay, forms, pool)
    stack.push_async_callback(shared.drain.requests, completion.tasks)
    limits = SizeLimits(file=settings.max_size, form=largest_form(settings))
    return ResumableRoutes(intake, uploads, completion, jobs, limits, pool, expiry=settings.upload_expiry)


@asynccontextmanager
async def _state(shared: ServerContext) -> AsyncGenerator[StateServer | None, None]:
    """Open the state that relays share; None if they share none."""
    settings = shared.settings
    if settings.state is None:
        yield None
        return
    address = StateAddress(url=settings.state, ca=settings.state_ca)
    async with open_state(address, shared.resources.metrics.state.called) as state:
        yield state


def _health(
    settings: Settings, intake: Intake, relay: Relay | None, routes: Routes, state: StateServer | None
) -> Health:
    relays = ({} if relay is None else {"/upload": relay}) | routes.relays
    counted = settings.rate_limit is not None or settings.upload_quota is not None
    return Health(intake, relays, state, needs_state=counted)


def _jobs(settings: Settings, state: StateServer | None, publisher: Publisher) -> Jobs:
    def publish(record: Record) -> None:
        publisher.job_ended(record.document, record.owner)

    if state is not None:
        return Jobs(RedisJobRecords(state, most=settings.max_jobs, on_lost=publish), publish)
    files = JobFiles(settings.state_dir / "jobs")
    most = settings.max_jobs // settings.processes  # each process keeps its share
    return Jobs(FileJobRecords(files, most=most, on_lost=publish), publish)


def _principal_limits(settings: Settings, resources: Resources, state: StateServer | None) -> PrincipalLimits:
    rate = Rate(*settings.rate_limit) if settings.rate_limit else None
    limits = Limits(rate=rate, quota=settings.upload_quota)
    return PrincipalLimits(limits, resources.counters if state is None else RedisCounters(state))


def _relay_context(shared: ServerContext) -> ssl.SSLContext | None:
    """Return the TLS context of rest1, None for plain HTTP.

    It is rest2's unless ``client_ca`` is set: rest1 then requires client certificates, and rest2 does not.
    """
    settings = shared.settings
    if not settings.tls or settings.listen_unix is not None:
        return None
    if settings.client_ca is None:
        if not settings.wants_token and not _is_loopback(shared.resources.sockets["rest1"]):
            logs.log.warning(
                "Anyone who can reach this machine can upload. Set --token-file, --jwks or --client-ca to prevent it."
            )
        return shared.identity.context
    identity = Identity(settings, address(settings.host))
    tls.require_client_certificates(identity.context, settings.client_ca)
    shared.identities.append(identity)
    return identity.context


def _is_loopback(sockets: Sequence[socket.socket]) -> bool:
    return all(ipaddress.ip_address(each.getsockname()[0].partition("%")[0]).is_loopback for each in sockets)


def _fetch_limits(settings: Settings) -> FetchLimits:
    return FetchLimits(idle=settings.idle_timeout, min_rate=settings.min_rate)


@contextlib.contextmanager
def _fetcher(shared: ServerContext) -> Generator[Fetcher, None, None]:
    settings = shared.settings
    fetcher = Fetcher(
        allowed=settings.allow_net,
        own=shared.listeners(),
        hosts=settings.allow_host,
        limits=_fetch_limits(settings),
    )
    try:
        yield fetcher
    finally:
        fetcher.close()
