"""Build the relays: one for each upload API, with its connections, its checks and its limits."""

from collections.abc import Callable
from concurrent.futures import Executor
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

from yarl import URL

from aiorelay.certificates import tls
from aiorelay.certificates.identity import Identity
from aiorelay.checks.configured import content_checks, first_bytes_checks, limit_checks
from aiorelay.checks.icap.service import IcapServices
from aiorelay.checks.pipeline import CheckFactory
from aiorelay.checks.quarantine.check import with_quarantine
from aiorelay.checks.quarantine.directory import Quarantine
from aiorelay.checks.yara.rules import YaraRules
from aiorelay.concurrency.threads import Threads
from aiorelay.errors import StartupError
from aiorelay.files.spool import Spool
from aiorelay.multipart.parser import FormLimits
from aiorelay.observability import logs
from aiorelay.observability.metrics import Metrics
from aiorelay.observability.tracing import Tracing
from aiorelay.rest1.delivery import Delivery
from aiorelay.rest1.pieces import refuse_piece, warn_of_piece
from aiorelay.rest1.relay import Relay
from aiorelay.rest1.upstream import Upstream, UpstreamTimeouts
from aiorelay.settings import Settings

__all__ = ["Relays", "form_limits", "largest_form", "on_piece"]

# Room for the bytes of a form that are neither file nor field: more than a hundred part heads of the largest size.
_FRAMING = 1024 * 1024


class Relays:
    """Opens relays, which ``stack`` closes.

    ``embedded`` is the base URL of the embedded upload API, if it runs, and ``identity`` its certificate. ``pool`` runs
    CPU-bound work. ``on_reload`` gets what is to be called on SIGHUP. ``quarantine`` keeps files that are refused.
    """

    def __init__(
        self,
        identity: Identity,
        embedded: str | None,
        metrics: Metrics,
        traced: Tracing,
        pool: Executor,
        stack: AsyncExitStack,
        on_reload: Callable[[Callable[[], None]], object],
        quarantine: Quarantine | None,
    ) -> None:
        self._identity = identity
        self._embedded = embedded
        self._metrics = metrics
        self._traced = traced
        self._pool = pool
        self._stack = stack
        self._on_reload = on_reload
        self._quarantine = quarantine
        self._rules: dict[tuple[Path, float], YaraRules] = {}
        self._icap = IcapServices(tls.scanner_context)
        stack.callback(self._icap.close)

    async def open(self, settings: Settings) -> Relay:
        """Open the relay to the upload API of ``settings``, with their checks. Raises ``StartupError``."""
        spool = _spool(settings, self._pool)
        upstream = await self._stack.enter_async_context(self._upstream(settings))
        content = content_checks(
            settings,
            self._pool,
            self._stack.enter_context(Threads("validator")),
            spool=spool,
            rules=await self._yara(settings),
            icap=self._icap,
            on_scan=self._metrics.scanned,
            on_timeout=self._metrics.validators_given_up.inc,
        )
        return Relay(
            Delivery(upstream, spool, _spooled(settings)),
            [*limit_checks(settings, self._pool), self._kept(content)],
            first_bytes_checks(settings, self._pool),
            self._pool,
            field=settings.field,
            stored_status=settings.stored_status,
            public=settings.upstream_public,
            on_piece=on_piece(settings),
        )

    def _kept(self, checks: CheckFactory) -> CheckFactory:
        """Return the same checks. The quarantine, if there is one, keeps the files that they refuse."""
        if self._quarantine is None:
            return checks
        return with_quarantine(checks, self._quarantine, self._metrics.quarantined)

    async def _yara(self, settings: Settings) -> YaraRules | None:
        """Return the rules of ``settings``. Relays with the same rules share them."""
        if settings.yara is None:
            return None
        wanted = settings.yara, settings.validator_timeout
        if wanted not in self._rules:
            rules = YaraRules(settings.yara, timeout=settings.validator_timeout)
            self._rules[wanted] = await self._stack.enter_async_context(rules.loaded())
            self._on_reload(rules.reload)
        return self._rules[wanted]

    def _upstream(self, settings: Settings) -> Upstream:
        if settings.upstream_insecure:
            logs.log.warning(
                "upstream-insecure is on: anyone between the relay and the upstream can read and change uploads."
            )
        timeouts = UpstreamTimeouts(idle=settings.idle_timeout, answer=settings.answer_timeout)
        if settings.upstream is None:
            return Upstream(
                URL(f"{self._embedded}/upload"),
                context=self._identity.client_context_by_name(),
                server_name=self._identity.name if settings.tls else None,
                headers=settings.upstream_header,
                timeouts=timeouts,
                server_keep_alive=settings.keep_alive_timeout,
                tracing=self._traced,
            )
        authorities = [settings.upstream_ca] if settings.upstream_ca else [self._identity.ca]
        context = tls.client_context(
            authorities, system_trust=settings.upstream_ca is None, verify=not settings.upstream_insecure
        )
        return Upstream(
            settings.upstream,
            context=context,
            headers=settings.upstream_header,
            timeouts=timeouts,
            tracing=self._traced,
        )


def _spooled(settings: Settings) -> str:
    if settings.upstream_mode == "spool":
        return "always"
    return "unknown-length" if settings.upstream_chunked == "never" else "never"


def _spool(settings: Settings, pool: Executor) -> Callable[[], Spool]:
    """Return a factory of spools in the state directory, each with room for the largest file and its form."""
    directory = settings.state_dir / "spool"
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StartupError(
            f"Cannot spool in {directory}: {error.strerror}. Choose another directory with --state-dir."
        ) from error
    return lambda: Spool(directory, largest_form(settings), pool)


def largest_form(settings: Settings) -> int:
    """Return the size of the largest form in bytes: its file, its fields and its part heads."""
    return settings.max_size + settings.max_fields_size + _FRAMING


def on_piece(settings: Settings) -> Callable[[], None]:
    """Return what is called when an upload is a piece of a file. It may raise ``PartialUpload``."""
    return warn_of_piece if settings.allow_pieces else partial(refuse_piece, resumable=settings.resumable)


def form_limits(settings: Settings) -> FormLimits:
    """Return the limits of a form's parts."""
    return FormLimits(parts=settings.max_parts, fields_size=settings.max_fields_size)
