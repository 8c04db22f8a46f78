"""Start several processes, restart those that end, pass on signals, end them.

the supervisor ── opens what the processes share, prints the ready lines
  ├─ process 0
  └─ process 1 …   forked; each serves both servers in its own event loop

SIGHUP             every process loads certificates and tokens again
SIGTERM, SIGINT    every process stops within ``grace``; a second signal cuts that short
a process ends     another one takes its number, after a pause if it has lived for a short time only
the start fails    the supervisor raises what the first process reports
"""

import gc
import json
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, NoReturn

from aiorelay.errors import StartupError
from aiorelay.observability import logs
from aiorelay.server.lifecycle import keep_freed_blocks
from aiorelay.server.processes.shared import Shared, shared_by_processes
from aiorelay.server.processes.worker import CUT, RELOAD, STOP, Worker
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

    Return the exit status: 0 if all uploads ended in time, else 1. Afterwards this process ignores signals, so it
    should exit. Raises ``StartupError``.
    """
    logs.configure(settings.log_format, settings.log_level)
    keep_freed_blocks()
    with shared_by_processes(settings) as shared:
        return _Supervisor(settings, shared).run()


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


class _Supervisor:
    """Keeps ``settings.processes`` processes running until a signal ends it."""

    def __init__(self, settings: Settings, shared: Shared) -> None:
        self._settings = settings
        self._shared = shared
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._woken = socket.socketpair()
        self._processes: dict[int, _Process] = {}
        self._restarts: dict[int, float] = {}  # when a process is to be started again, by its number
        self._short_lives: dict[int, int] = {}  # how often a process has ended soon, one time after the other
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
            self._start_again(number)
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

    def _start_again(self, number: int) -> None:
        del self._restarts[number]
        try:
            self._start(number)
        except OSError as error:
            logs.log.error("process %d cannot be started: %s", number, error.strerror)
            self._restarts[number] = time.monotonic() + _LONGEST_PAUSE

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
                self._shared.remove_files()
        except BaseException:  # noqa: BLE001 - the last resort: logged with its traceback
            logs.log.exception("unexpected failure of process %d", number)
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError, ValueError, AttributeError):  # closed
                    stream.flush()
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
        self._shared.stop()
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
