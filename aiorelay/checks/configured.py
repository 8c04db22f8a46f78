"""Build the checks that the settings enable, cheapest first."""

from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

from aiorelay.checks.archives.check import UnpackLimits, archive_check
from aiorelay.checks.clamav import ClamAV
from aiorelay.checks.icap.scan import ICAP
from aiorelay.checks.icap.service import IcapServices
from aiorelay.checks.media_type.accept import Accept, accept, libmagic
from aiorelay.checks.pipeline import CheckFactory
from aiorelay.checks.size import max_size
from aiorelay.checks.validators import load_validator
from aiorelay.checks.verdicts import ScanOutcome
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
    icap: IcapServices,
    on_scan: Callable[[str, ScanOutcome], None],
    on_timeout: Callable[[], object],
) -> list[CheckFactory]:
    """Return the factories of the checks that ``settings`` enable.

    ``pool`` runs CPU-bound work, ``threads`` runs validators, which may hang. ``spool`` creates a spool for a file that
    can only be checked when it is complete. ``icap`` has the connections to ICAP services. ``on_scan`` is called with
    the scanner and the outcome of each virus scan, ``on_timeout`` for each validator that timed out.
    """
    factories = [max_size(settings.max_size), *first_bytes_checks(settings, pool)]
    if settings.archive_limits is not None:
        factories.append(archive_check(UnpackLimits(*settings.archive_limits), spool, pool))
    if settings.clamd is not None:
        fail_open = settings.clamd_fail == "open"
        on_outcome = partial(on_scan, "clamav")
        factories.append(
            ClamAV(settings.clamd, timeout=settings.clamd_timeout, fail_open=fail_open, on_outcome=on_outcome)
        )
    if settings.icap is not None:
        service, fail_open = icap.service(settings.icap), settings.icap_fail == "open"
        on_outcome = partial(on_scan, "icap")
        factories.append(ICAP(service, timeout=settings.icap_timeout, fail_open=fail_open, on_outcome=on_outcome))
    factories.extend(
        load_validator(name, threads, timeout=settings.validator_timeout, on_timeout=on_timeout)
        for name in settings.validator
    )
    return factories


def first_bytes_checks(settings: Settings, pool: Executor) -> list[CheckFactory]:
    """The makers of those checks that judge a file by its first bytes alone."""
    return [accept(Accept.parse(settings.accept), pool, libmagic())] if settings.accept else []
