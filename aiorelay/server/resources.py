"""What the servers of a process use: its own, or shared with the other processes of its supervisor."""

import socket
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from aiorelay.errors import StartupError
from aiorelay.observability.metrics import Metrics
from aiorelay.rest1.principal_limits import Counters, MemoryCounters
from aiorelay.rest1.upload_slots import MemorySlots, UploadSlots
from aiorelay.server.listeners import BACKLOG, listening
from aiorelay.server.processes.balance import Balance
from aiorelay.server.processes.siblings import Siblings
from aiorelay.server.unix_socket import listening_at
from aiorelay.settings import Settings

__all__ = ["Resources", "Sockets", "listening_sockets", "own_resources", "temporary_store"]

Sockets = Mapping[str, Sequence[socket.socket]]
"""The listening sockets by the name of the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """The sockets, the temporary store, the limits and the metrics of a process.

    ``temporary_store`` is the directory in which rest2 keeps files if the settings name none. ``balance`` shares
    connections with other processes, and ``siblings`` are those.
    """

    sockets: Sockets
    temporary_store: Path | None
    slots: UploadSlots
    counters: Counters
    metrics: Metrics
    balance: Balance | None = None
    siblings: Siblings | None = None


@contextmanager
def own_resources(settings: Settings) -> Generator[Resources, None, None]:
    """Open what a single process needs. Raises ``StartupError``."""
    with listening_sockets(settings) as sockets, temporary_store(settings) as store:
        yield Resources(
            sockets=sockets,
            temporary_store=store,
            slots=MemorySlots(settings.max_uploads, settings.max_uploads_per_client),
            counters=MemoryCounters(),
            metrics=Metrics(),
        )


@contextmanager
def listening_sockets(settings: Settings) -> Generator[Sockets, None, None]:
    """Bind the sockets of all servers. Raises ``StartupError``."""
    with ExitStack() as stack:
        names = [name for name in ("rest1", "rest2") if settings.only in (None, name)]
        yield {name: stack.enter_context(_listening(settings, name)) for name in names}


def _listening(settings: Settings, server: str) -> AbstractContextManager[list[socket.socket]]:
    if server == "rest1" and settings.listen_unix is not None:
        mode = int(settings.listen_unix_mode, 8)
        return listening_at(settings.listen_unix, mode=mode, owner=settings.listen_unix_owner, backlog=BACKLOG)
    port = settings.rest1_port if server == "rest1" else settings.rest2_port
    return listening(settings.host, port, f"--{server}-port", shared=settings.reuse_port)


@contextmanager
def temporary_store(settings: Settings) -> Generator[Path | None, None, None]:
    """Make a directory for rest2 if the settings name no store. It is removed at the end if it is empty.

    Raises ``StartupError``.
    """
    if settings.only == "rest1" or settings.store is not None:
        yield None
        return
    try:
        root = Path(tempfile.mkdtemp(prefix="aiorelay-store-"))
    except OSError as error:
        raise StartupError(
            f"Cannot make a temporary store: {error.strerror}. Choose a directory with --store."
        ) from error
    try:
        yield root
    finally:
        with suppress(OSError):
            root.rmdir()
