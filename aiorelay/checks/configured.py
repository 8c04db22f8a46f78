"""Build the checks that the settings enable, in the order of precedence of their refusals."""

from collections.abc import Callable
from concurrent.futures import Executor

from aiorelay.checks.archives.check import UnpackLimits, archive_check
from aiorelay.checks.clamav import ClamAV, ScanOutcome
from aiorelay.checks.media_type.accept import Accept, accept, libmagic
from aiorelay.checks.pipeline import CheckFactory
from aiorelay.checks.side_by_side import side_by_side
from aiorelay.checks.size import max_size
from aiorelay.checks.validators import load_validator
from aiorelay.checks.yara.check import YaraOutcome, yara_check
from aiorelay.checks.yara.rules import YaraRules
from aiorelay.concurrency.threads import Threads
from aiorelay.files.spool import Spool
from aiorelay.settings import Settings

__all__ = ["configured_checks", "first_bytes_checks"]


def configured_checks(
    settings: Settings,
    pool: Executor,
    threads: Threads,
    *,
    spool: Callable[[], Spool],
    rules: YaraRules | None,
    on_scan: Callable[[ScanOutcome], None],
    on_yara: Callable[[YaraOutcome], None],
    on_timeout: Callable[[], object],
) -> list[CheckFactory]:
    """Return the factories of the checks that ``settings`` enable.

    The size and the first bytes are checked as they arrive. The other checks run side by side.

    ``pool`` runs CPU-bound work, ``threads`` runs validators, which may hang. ``spool`` creates a spool for a file that
    can only be checked when it is complete. ``rules`` are the YARA rules. ``on_scan`` is called with the outcome of
    each virus scan, ``on_yara`` with that of each scan by YARA rules, ``on_timeout`` for each validator that timed out.
    """
    factories: list[CheckFactory] = []
    if settings.archive_limits is not None:
        factories.append(archive_check(UnpackLimits(*settings.archive_limits), spool, pool))
    if settings.clamd is not None:
        fail_open = settings.clamd_fail == "open"
        factories.append(
            ClamAV(settings.clamd, timeout=settings.clamd_timeout, fail_open=fail_open, on_outcome=on_scan)
        )
    if rules is not None:
        factories.append(yara_check(rules, spool, settings.yara_max_size, on_yara))
    factories.extend(
        load_validator(name, threads, timeout=settings.validator_timeout, on_timeout=on_timeout)
        for name in settings.validator
    )
    return [max_size(settings.max_size), *first_bytes_checks(settings, pool), side_by_side(factories)]


def first_bytes_checks(settings: Settings, pool: Executor) -> list[CheckFactory]:
    """The makers of those checks that judge a file by its first bytes alone."""
    return [accept(Accept.parse(settings.accept), pool, libmagic())] if settings.accept else []
