"""Fetch a remote file as a stream.

    Fetcher.open(url) ─▶ location   is the URL one that may be asked for?
                      ─▶ exchange   one GET over one connection; `dial` checks the address
                      ─▶ fetcher    redirects, status, framing, name and type (`naming`) ─▶ Remote
                      ─▶ body       its bytes, resumed (`ranges`) if they break off

All errors are raised as a ``Problem``: 400 and 403 for refused sources, 502 and 504 for failures of the source. Details
name the host that the client gave, never its addresses.
"""

from aiorelay.sources.fetch.exchange import FetchLimits
from aiorelay.sources.fetch.fetcher import Fetcher, Remote

__all__ = ["FetchLimits", "Fetcher", "Remote"]
