"""What the processes of one supervisor share: sockets, store, limits, metrics."""

import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

from aiorelay.errors import StartupError
from aiorelay.observability.metrics import Metrics
from aiorelay.observability.shared_metrics import forget_gauges, share_metrics, shared_registry
from aiorelay.server.processes.balance import Balance
from aiorelay.server.processes.counters import SharedCounters
from aiorelay.server.processes.siblings import Siblings
from aiorelay.server.processes.slots import SharedSlots
from aiorelay.server.processes.table import ProcessTable
from aiorelay.server.resources import Resources, Sockets, listening_sockets, temporary_store
from aiorelay.settings import Settings

__all__ = ["Shared", "shared_by_processes"]

# More uploads at once than any machine can have.
_MOST_SLOTS: Final = 2**20


class Shared:
    """Made by the supervisor before it forks. ``directory`` holds the values of the metrics of all processes."""

    def __init__(self, settings: Settings, sockets: Sockets, store: Path | None, directory: Path) -> None:
        self._sockets = sockets
        self._temporary_store = store
        self._directory = directory
        self._table = ProcessTable(settings.processes)
        self._counters = SharedCounters()
        self._slots = SharedSlots(min(settings.max_uploads, _MOST_SLOTS), settings.max_uploads_per_client)

    def resources(self, process: int) -> Resources:
        """Return what the process with this number uses. It is called in that process."""
        self._table.started(process, os.getpid())
        share_metrics(self._directory, process)
        return Resources(
            sockets=self._sockets,
            temporary_store=self._temporary_store,
            slots=self._slots.of(process),
            counters=self._counters,
            metrics=Metrics(shared_registry(self._directory, self._table.pids)),
            balance=Balance(self._table, process),
            siblings=Siblings(self._table, process),
        )

    def forget(self, process: int) -> None:
        """Forget the uploads, the connections and the gauges of a process that has ended."""
        self._table.ended(process)
        self._slots.free(process)
        forget_gauges(self._directory, process)

    def stop(self) -> None:
        """Close the supervisor's sockets. Connections are refused once the processes have closed theirs too."""
        self._table.stop()
        for listener in (each for bound in self._sockets.values() for each in bound):
            listener.close()

    def remove_files(self) -> None:
        """Remove the temporary files in place of a supervisor that was killed."""
        shutil.rmtree(self._directory, ignore_errors=True)
        if self._temporary_store is not None:
            with suppress(OSError):  # there are files in it
                self._temporary_store.rmdir()


@contextmanager
def shared_by_processes(settings: Settings) -> Generator[Shared, None, None]:
    """Open what the processes share. Raises ``StartupError``."""
    with ExitStack() as stack:
        sockets = stack.enter_context(listening_sockets(settings))
        store = stack.enter_context(temporary_store(settings))
        yield Shared(settings, sockets, store, stack.enter_context(_temporary_directory()))


@contextmanager
def _temporary_directory() -> Generator[Path, None, None]:
    try:
        directory = Path(tempfile.mkdtemp(prefix="aiorelay-processes-"))
    except OSError as error:
        raise StartupError(
            f"Cannot make a temporary directory: {error.strerror}. Choose another place with the variable TMPDIR."
        ) from error
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)
