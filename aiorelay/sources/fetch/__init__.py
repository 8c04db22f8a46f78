"""Fetch a remote file as a stream.

    Fetcher.open(url) ─▶ location   is the URL one that may be asked for?
                      ─▶ exchange   one GET over one connection, dialled through `dial` and its guard
                      ─▶ fetcher    redirects by hand, status, framing, name and type ─▶ Remote
                      ─▶ body       its bytes, resumed (`ranges`) where they break off

What goes wrong inside is a ``Problem`` by the time it leaves: refusals are 400 and 403, the source's own
faults 502 and 504. Details name the host that the client gave and never what it resolves to.
"""

from aiorelay.sources.fetch.exchange import FetchLimits
from aiorelay.sources.fetch.fetcher import Fetcher, Remote

__all__ = ["FetchLimits", "Fetcher", "Remote"]
