"""``aiorelay probe``: find out what an upload API accepts by sending it about a dozen small test uploads.

    uploads        the test uploads: small, harmless forms that are recognisable by name
    http_client    one connection each: any bytes out, whole, unfinished or cut off, and what comes back
    trials         which uploads are tried, in which order
    findings       what the outcomes mean, pure: values, reasons, and the flags of ``aiorelay serve`` that fit
    report         the findings as lines and as JSON

Requests are written as raw bytes because half of them are broken on purpose, as a relay breaks off a refused upload.
"""

from aiorelay.cli.probe.findings import NAMES, Finding, is_complete
from aiorelay.cli.probe.report import as_json, as_lines
from aiorelay.cli.probe.trials import Target, probe

__all__ = ["NAMES", "Finding", "Target", "as_json", "as_lines", "is_complete", "probe"]
