"""Build the checks that the settings enable, in the order of precedence of their refusals."""

from collections.abc import Callable
from concurrent.futures import Executor
from functools import partial

from aiorelay.checks.archives.check import UnpackLimits, archive_check
from aiorelay.checks.clamav import ClamAV
from aiorelay.checks.icap.scan import ICAP
from aiorelay.checks.icap.service import IcapServices
from aiorelay.checks.media_type.accept import Accept, accept, libmagic
from aiorelay.checks.pipeline import CheckFactory
from aiorelay.checks.side_by_side import side_by_side
from aiorelay.checks.size import max_size
from aiorelay.checks.validators import load_validator
from aiorelay.checks.yara.check import yara_check
from aiorelay.checks.yara.rules import YaraRules
from aiorelay.concurrency.threads import Threads
from aiorelay.files.spool import Spool
from aiorelay.settings import Settings

__all__ = ["content_checks", "first_bytes_checks", "limit_checks"]


def limit_checks(settings: Settings, pool: Executor) -> list[CheckFactory]:
    """Return the factories of the checks that refuse by size or type, as soon as the bytes show it."""
    return [max_size(settings.max_size), *first_bytes_checks(settings, pool)]


def content_checks(
    settings: Settings,
    pool: Executor,
    threads: Threads,
    *,
    spool: Callable[[], Spool],
    rules: YaraRules | None,
    icap: IcapServices,
    on_scan: Callable[[str, str], None],
    on_timeout: Callable[[], object],
) -> CheckFactory:
    """Return the factory of the checks of a file's content that ``settings`` enable. They run side by side.

    ``pool`` runs CPU-bound work, ``threads`` runs validators, which may hang. ``spool`` creates a spool for a file that
    can only be checked when it is complete. ``rules`` are the YARA rules; ``icap`` has the connections to ICAP
    services. ``on_scan`` is called with the scanner and the outcome of each scan, ``on_timeout`` for each validator
    that timed out.
    """
    factories: list[CheckFactory] = []
    if settings.archive_limits is not None:
        factories.append(archive_check(UnpackLimits(*settings.archive_limits), spool, pool))
    if settings.clamd is not None:
        on_outcome, fail_open = partial(on_scan, "clamav"), settings.clamd_fail == "open"
        factories.append(
            ClamAV(settings.clamd, timeout=settings.clamd_timeout, fail_open=fail_open, on_outcome=on_outcome)
        )
    if settings.icap is not None:
        service = icap.service(settings.icap, settings.icap_ca)
        on_outcome, fail_open = partial(on_scan, "icap"), settings.icap_fail == "open"
        factories.append(ICAP(service, timeout=settings.icap_timeout, fail_open=fail_open, on_outcome=on_outcome))
    if rules is not None:
        factories.append(yara_check(rules, spool, settings.yara_max_size, partial(on_scan, "yara")))
    factories.extend(
        load_validator(name, threads, timeout=settings.validator_timeout, on_timeout=on_timeout)
        for name in settings.validator
    )
    return side_by_side(factories)


def first_bytes_checks(settings: Settings, pool: Executor) -> list[CheckFactory]:
    """The makers of those checks that judge a file by its first bytes alone."""
    return [accept(Accept.parse(settings.accept), pool, libmagic())] if settings.accept else []
