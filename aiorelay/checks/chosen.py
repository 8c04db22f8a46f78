"""The checks that the settings choose, cheapest first."""

from collections.abc import Callable
from concurrent.futures import Executor

from aiorelay.checks import Maker
from aiorelay.checks.archive_check import archives
from aiorelay.checks.archives import Limits
from aiorelay.checks.clamav import ClamAV, Outcome
from aiorelay.checks.media_type import Accept, accept, libmagic
from aiorelay.checks.own import load
from aiorelay.checks.size import max_size
from aiorelay.settings import Settings
from aiorelay.spool import Spool
from aiorelay.threads import Threads

__all__ = ["chosen"]


def chosen(
    settings: Settings,
    pool: Executor,
    threads: Threads,
    *,
    spool: Callable[[], Spool],
    on_scan: Callable[[Outcome], None],
    on_timeout: Callable[[], object],
) -> list[Maker]:
    """The makers of the checks that ``settings`` turn on.

    ``pool`` runs what is slow, ``threads`` what may hang, ``spool`` makes room for what must be whole to be judged.
    ``on_scan`` counts scans, ``on_timeout`` validators that were given up.
    """
    makers = [max_size(settings.max_size)]
    if settings.accept:
        makers.append(accept(Accept.parse(settings.accept), pool, libmagic()))
    if settings.archive_limits is not None:
        makers.append(archives(Limits(*settings.archive_limits), spool, pool))
    if settings.clamd is not None:
        fail_open = settings.clamd_fail == "open"
        makers.append(ClamAV(settings.clamd, timeout=settings.clamd_timeout, fail_open=fail_open, on_outcome=on_scan))
    makers.extend(
        load(name, threads, timeout=settings.validator_timeout, on_timeout=on_timeout) for name in settings.validator
    )
    return makers
