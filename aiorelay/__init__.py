"""aiorelay: an upload relay that streams, checks and passes on.

    cli · pytest_plugin        what a user touches
    server                     opens, drains and closes the whole chain
    listeners · identity       sockets served over TLS until drained · the certificate, and its name for clients
    rest1 · rest2              the relay · the storing server; they meet only over HTTPS
    upstream · sources         the only view of the upload API · JSON sources and raw bodies as Forms
    form · framing · body      multipart in, strict · multipart out, its end held back · a request's blocks
    fetch · local · store      a remote URL · a local file · files kept whole or not at all
    checks                     what judges a file while it streams
    guard · tls · problems     which addresses may be dialled · certificates · errors as answers
    head · headers · telemetry part heads · header fields · logs
    upload · errors · settings the nouns · the error tree · what the relay is told

Arrows point down only.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiorelay.checks import Validator
    from aiorelay.errors import Refused, StartupError
    from aiorelay.server import Chain, serve
    from aiorelay.settings import Settings
    from aiorelay.upload import Part

__all__ = ["Chain", "Part", "Refused", "Settings", "StartupError", "Validator", "serve"]

_ROOMS = {
    "Chain": "server",
    "Part": "upload",
    "Refused": "errors",
    "Settings": "settings",
    "StartupError": "errors",
    "Validator": "checks",
    "serve": "server",
}


def __getattr__(name: str) -> object:
    """Import what is asked for only then (PEP 562): ``aiorelay config`` needs no HTTP."""
    if name in _ROOMS:
        return getattr(import_module(f"aiorelay.{_ROOMS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
