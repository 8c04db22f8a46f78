"""Start several processes, restart those that end, pass on signals, end them.

the supervisor ── binds the sockets, makes the shared memory and the temporary store, prints the ready lines
├─ process 0
└─ process 1 …   forked; each serves both servers in its own event loop

SIGHUP              every process reloads certificates and tokens
SIGTERM, SIGINT     every process stops, within ``grace``; a second one cuts that short
a process ends      another one takes its number, after a pause if it has lived for a short time only
the start fails     the supervisor raises what the first process reports
"""

import gc
import json
import os
import resource
import selectors
import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, NoReturn

from aiorelay.errors import StartupError
from aiorelay.observability import logs
from aiorelay.observability.metrics import Metrics
from aiorelay.observability.shared_metrics import forget_gauges, share_metrics, shared_registry
from aiorelay.server.lifecycle import keep_freed_blocks
from aiorelay.server.processes.balance import Balance
from aiorelay.server.processes.counters import SharedCounters
from aiorelay.server.processes.slots import SharedSlots
from aiorelay.server.processes.table import ProcessTable
from aiorelay.server.processes.worker import CUT, RELOAD, STOP, Worker
from aiorelay.server.resources import Resources, Sockets, listening_sockets, store_root
from aiorelay.settings import Settings

__all__ = ["supervise"]

_SIGNALS: Final = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
# A process that has lived for less than this, in seconds, is started again after a pause.
_SHORT_LIFE: Final = 10.0
_LONGEST_PAUSE: Final = 30.0
# How long a process may take to end after its uploads have ended, in seconds. Then it is killed.
_LAST_STEPS: Final = 10.0


def supervise(settings: Settings) -> int:
    """Serve with ``settings.processes`` processes until SIGINT or SIGTERM.

    Return the exit status: 0 if all uploads ended in time, else 1. Raises ``StartupError``.
    """
    logs.configure(settings.log_format, settings.log_level)
    keep_freed_blocks()
    with ExitStack() as stack:
        shared = _Shared(
            settings,
            stack.enter_context(listening_sockets(settings)),
            stack.enter_context(store_root(settings)),
            stack.enter_context(_directory()),
        )
        return Supervisor(settings, shared).run()


@contextmanager
def _directory() -> Generator[Path, None, None]:
    try:
        directory = Path(tempfile.mkdtemp(prefix="aiorelay-processes-"))
    except OSError as error:
        raise StartupError(
            f"Cannot make a temporary directory: {error.strerror}. Choose another with the variable TMPDIR."
        ) from error
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


class _Shared:
    """What the processes share. ``directory`` holds the values of their metrics."""

    def __init__(self, settings: Settings, sockets: Sockets, store: Path | None, directory: Path) -> None:
        self.sockets = sockets
        self._store = store
        self._directory = directory
        self._table = ProcessTable(settings.processes)
        self._counters = SharedCounters()
        # No more uploads than descriptors are possible.
        descriptors, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = min(settings.max_uploads, settings.processes * descriptors)
        self._slots = SharedSlots(most, settings.max_uploads_per_client)

    def resources(self, process: int) -> Resources:
        """Return what the process with this number uses. To be called in that process."""
        self._table.started(process, os.getpid())
        share_metrics(self._directory, process)
        return Resources(
            sockets=self.sockets,
            store=self._store,
            slots=self._slots.of(process),
            counters=self._counters,
            metrics=Metrics(shared_registry(self._directory, self._table.pids)),
            balance=Balance(self._table, process),
        )

    def forget(self, process: int) -> None:
        """Forget a process that has ended: its uploads, its connections, its gauges."""
        self._table.ended(process)
        self._slots.free(process)
        forget_gauges(self._directory, process)

    def remove(self) -> None:
        """Remove temporary files, because the supervisor cannot."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def stop_listening(self) -> None:
        """Close the supervisor's sockets. Connections are refused when the processes have closed theirs too."""
        for listener in (each for bound in self.sockets.values() for each in bound):
            listener.close()


@dataclass(slots=True, eq=False)
class _Process:
    """A running process. ``ready`` are its ready lines, ``failure`` the sentence that it has reported instead."""

    number: int
    pid: int
    link: socket.socket
    started: float = field(default_factory=time.monotonic)
    ready: list[str] | None = None
    failure: str | None = None
    received: bytes = b""

    def tell(self, order: bytes) -> None:
        with suppress(OSError):  # it has ended
            self.link.send(order)

    def receive(self) -> bool:
        """Read what it reports. Return False if it has ended."""
        try:
            block = self.link.recv(64 * 1024)
        except ConnectionResetError:  # it has ended with an order unread
            return False
        self.received += block
        if self.received.endswith(b"\n"):
            message: dict[str, Any] = json.loads(self.received)
            self.ready, self.failure, self.received = message.get("ready"), message.get("failed"), b""
        return bool(block)


class Supervisor:
    """Keeps ``settings.processes`` processes running until a signal ends it."""

    def __init__(self, settings: Settings, shared: _Shared) -> None:
        self._settings = settings
        self._shared = shared
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._woken = socket.socketpair()
        self._processes: dict[int, _Process] = {}
        self._restarts: dict[int, float] = {}  # when a process is to be started again, by its number
        self._short_lives: dict[int, int] = {}
        self._announced = False
        self._stopping = False
        self._kill_at: float | None = None
        self._status = 0

    def run(self) -> int:
        """Start the processes, and return the exit status when all have ended. Raises ``StartupError``."""
        gc.freeze()  # so that the collector does not write to memory that the processes share
        with self._catching_signals():
            try:
                for number in range(self._settings.processes):
                    self._start(number)
                while self._processes or self._restarts:
                    self._step()
            finally:
                self._end_all()
        return self._status

    @contextmanager
    def _catching_signals(self) -> Generator[None, None, None]:
        for each in (self._wakeup, self._woken):
            each.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, self._on_signals)
        for number in _SIGNALS:
            signal.signal(number, lambda *_: None)
        signal.set_wakeup_fd(self._wakeup.fileno())
        try:
            yield
        finally:
            for number in _SIGNALS:
                signal.signal(number, signal.SIG_IGN)  # a signal from here on would replace the exit status
            signal.set_wakeup_fd(-1)
            self._selector.close()
            self._wakeup.close()
            self._woken.close()

    def _step(self) -> None:
        """Wait for the next event, and do what is due."""
        now = time.monotonic()
        times = [*self._restarts.values(), *([] if self._kill_at is None else [self._kill_at])]
        timeout = max(0.0, min(times) - now) if times else None
        for key, _ in self._selector.select(timeout):
            key.data()
        now = time.monotonic()
        for number in [number for number, due in self._restarts.items() if due <= now]:
            del self._restarts[number]
            self._start(number)
        if self._kill_at is not None and self._kill_at <= now:
            self._kill_at = None
            self._kill()

    def _start(self, number: int) -> None:
        ours, theirs = socket.socketpair()
        # Until a process has handlers of its own, its signals wait.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        try:
            pid = os.fork()
            if not pid:
                ours.close()
                self._become(number, theirs)
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
        theirs.close()
        self._processes[number] = process = _Process(number, pid, ours)
        self._selector.register(ours, selectors.EVENT_READ, partial(self._on_report, process))

    def _become(self, number: int, link: socket.socket) -> NoReturn:
        """Be the process with this number, from the fork to the end."""
        status = 1
        try:
            signal.set_wakeup_fd(-1)
            self._selector.close()
            for each in (self._wakeup, self._woken, *(process.link for process in self._processes.values())):
                each.close()
            worker = Worker(self._settings, link, warns=number == 0 and not self._announced)
            status = worker.run(self._shared.resources(number))
            if worker.orphaned:
                self._shared.remove()
        except BaseException:
            logs.log.exception("unexpected failure of process %d", number)
        finally:
            sys.stderr.flush()
            os._exit(status)  # what the supervisor has opened is the supervisor's to close

    def _on_signals(self) -> None:
        for number in self._woken.recv(64):
            if number == signal.SIGHUP:
                self._tell_all(RELOAD)
            elif number in _SIGNALS:
                self._stop()

    def _stop(self) -> None:
        cut, self._stopping = self._stopping, True
        if not cut:
            logs.log.info("shutting down: uploads in flight have %g s to end", self._settings.grace)
        self._restarts.clear()
        self._shared.stop_listening()
        self._tell_all(CUT if cut else STOP)
        self._kill_at = time.monotonic() + _LAST_STEPS + (0 if cut else self._settings.grace)

    def _tell_all(self, order: bytes) -> None:
        for process in self._processes.values():
            process.tell(order)

    def _on_report(self, process: _Process) -> None:
        if not process.receive():
            self._on_end(process)
        elif not self._announced and all(each.ready for each in self._processes.values()):
            self._announced = True
            print(*(process.ready or ()), sep="\n", flush=True)  # noqa: T201 - the command's output

    def _on_end(self, process: _Process) -> None:
        status = self._reap(process)
        if self._stopping:
            self._status = self._status or int(status != 0)
        elif not self._announced:
            raise StartupError(process.failure or f"A process {_how_it_ended(status)} before it was ready.")
        else:
            self._schedule_restart(process, status)

    def _reap(self, process: _Process) -> int:
        self._selector.unregister(process.link)
        process.link.close()
        del self._processes[process.number]
        _, status = os.waitpid(process.pid, 0)
        self._shared.forget(process.number)
        return os.waitstatus_to_exitcode(status)

    def _schedule_restart(self, process: _Process, status: int) -> None:
        lived = time.monotonic() - process.started
        short = self._short_lives.get(process.number, 0) + 1 if lived < _SHORT_LIFE else 0
        self._short_lives[process.number] = short
        pause = min(2.0 ** (short - 1), _LONGEST_PAUSE) if short else 0.0
        why = f": {process.failure}" if process.failure else ""
        logs.log.error(
            "process %d (pid %d) %s%s; starting another in %g s",
            process.number,
            process.pid,
            _how_it_ended(status),
            why,
            pause,
        )
        self._restarts[process.number] = time.monotonic() + pause

    def _kill(self) -> None:
        for process in self._processes.values():
            logs.log.error("process %d (pid %d) does not end: killing it", process.number, process.pid)
            with suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGKILL)

    def _end_all(self) -> None:
        """End the processes that are left if the start has failed."""
        self._tell_all(CUT)
        self._announced = self._stopping = True
        self._kill_at = time.monotonic() + _LAST_STEPS
        self._restarts.clear()
        while self._processes:
            self._step()


def _how_it_ended(status: int) -> str:
    if status >= 0:
        return f"ended with status {status}"
    try:
        return f"was ended by {signal.Signals(-status).name}"
    except ValueError:
        return f"was ended by signal {-status}"
