"""aiorelay: an upload relay that checks files while it streams them to an upload API.

    cli/             argv to exit status; ``send/`` and ``probe/`` are its two clients
    pytest_plugin    the fixture ``aiorelay_server``, in ``pytest_fixture``, imported at its first use
    server/          start, drain and close both servers; sockets, connections, wiring
    rest1/           the relay: request to form, form to upstream, answer to client; ``resumable/``, ``jobs/``, ``web/``
    rest2/           the storing upload API and its store; it meets rest1 over HTTPS only
    webhooks/        events about uploads and jobs: written down, signed, delivered until they are accepted
    sources/         files that the relay reads itself: JSON documents, remote files (``fetch/``), address rules
    checks/          checks of a file while it streams: types, ``archives/``, digests, ClamAV, ``icap/``, validators
    certificates/    the generated CA, TLS contexts, the server certificate
    settings/        the table of settings; parsing of text into frozen values
    multipart/       Part and Form, the parser, part heads, framing
    http/            header fields, bodies, middleware, authentication, other origins, problem details
    state/           state that relays share, in Redis: connections, scripts, channels
    object_storage/  a client of S3
    files/           file names, local files, the spool, the writer
    observability/   logs, metrics, tracing
    concurrency/     work in threads, timeouts, minimum rate
    errors           every problem with its status and code

A folder imports from lower folders only. Each folder's docstring is the map of its files.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from aiorelay.checks.pipeline import Validator
    from aiorelay.errors import Refused, StartupError
    from aiorelay.multipart.form import FileInfo, Part
    from aiorelay.pytest_fixture import StartChain
    from aiorelay.server.lifecycle import Chain, serve
    from aiorelay.settings import Settings, SettingsError

    __version__: str

__all__ = [
    "Chain",
    "FileInfo",
    "Part",
    "Refused",
    "Settings",
    "SettingsError",
    "StartChain",
    "StartupError",
    "Validator",
    "__version__",
    "serve",
]

_MODULE_OF = {
    "Chain": "server.lifecycle",
    "FileInfo": "multipart.form",
    "Part": "multipart.form",
    "Refused": "errors",
    "Settings": "settings",
    "SettingsError": "settings",
    "StartChain": "pytest_fixture",
    "StartupError": "errors",
    "Validator": "checks.pipeline",
    "serve": "server.lifecycle",
}

if not TYPE_CHECKING:  # with __getattr__, type checkers would accept every attribute

    def __getattr__(name: str) -> object:
        """Import a public name at its first use (PEP 562), so that ``aiorelay config`` starts fast."""
        if name == "__version__":
            return import_module("importlib.metadata").version("aiorelay")
        if name in _MODULE_OF:
            return getattr(import_module(f"aiorelay.{_MODULE_OF[name]}"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
