"""``aiorelay probe``: find out what an upload API accepts by sending it about a dozen small test uploads.

    uploads        the test uploads: small, harmless forms with recognisable file names
    http_client    send one request per connection, complete or cut off, and read the response
    trials         send the test uploads in order
    findings       derive values, reasons and flags for ``aiorelay serve`` from the outcomes; no I/O
    report         the findings as lines and as JSON

Requests are written as raw bytes because many are incomplete on purpose: a relay aborts a refused upload in the same
way.
"""

from aiorelay.cli.probe.findings import NAMES, Finding, is_complete
from aiorelay.cli.probe.report import as_json, as_lines
from aiorelay.cli.probe.trials import Target, probe

__all__ = ["NAMES", "Finding", "Target", "as_json", "as_lines", "is_complete", "probe"]
