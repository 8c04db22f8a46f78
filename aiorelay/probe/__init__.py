"""What an upload API accepts, found out by sending it about a dozen small test uploads.

uploads    the test uploads: small forms as bytes, harmless and recognisable by name
wire       one connection each: any bytes out, whole, unfinished or cut, and what comes back
trials     which uploads are tried, in which order
findings   what the outcomes say, pure: values, reasons, and the flags of ``aiorelay serve`` that fit
report     the findings as lines and as JSON

The requests are raw on purpose: half of them are broken, as a relay breaks off an upload that a check has refused.
"""

from aiorelay.probe.findings import NAMES, Finding, is_complete
from aiorelay.probe.report import as_json, as_lines
from aiorelay.probe.trials import Target, probe

__all__ = ["NAMES", "Finding", "Target", "as_json", "as_lines", "is_complete", "probe"]
