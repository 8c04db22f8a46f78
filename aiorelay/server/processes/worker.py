"""One of several processes: report to the supervisor, and obey it.

to the supervisor     one line of JSON: {"ready": LINES}, or {"failed": SENTENCE}
from the supervisor   RELOAD, STOP or CUT, one byte each

Both go over one pair of sockets. If the supervisor is killed, the pair is closed, and the process stops.
"""

import asyncio
import json
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from aiorelay.errors import StartupError
from aiorelay.observability import logs
from aiorelay.server.lifecycle import Control, loop_factory, obeying_signals, run_until_stopped
from aiorelay.server.resources import Resources
from aiorelay.settings import Settings

__all__ = ["CUT", "RELOAD", "STOP", "Worker"]

RELOAD: Final = b"R"
STOP: Final = b"S"
CUT: Final = b"C"

_FAILED: Final = 1


class Worker:
    """A process that has been forked from the supervisor at the other end of ``link``.

    ``orphaned`` is true if the supervisor has ended first. Without ``warns``, what is wrong with the settings is not
    logged, because another process logs it.
    """

    def __init__(self, settings: Settings, link: socket.socket, *, warns: bool) -> None:
        self.orphaned = False
        self._settings = settings
        self._link = link
        self._warns = warns

    def run(self, resources: Resources) -> int:
        """Serve until the supervisor or a signal says to stop. Return the exit status.

        SIGINT and SIGTERM must be blocked. They are unblocked when there are handlers.
        """
        if not self._warns:
            logs.log.setLevel("ERROR")
        try:
            with asyncio.Runner(loop_factory=loop_factory(self._settings.loop)) as runner:
                return runner.run(self._run(resources))
        except StartupError as error:
            self._report(failed=str(error))
            return _FAILED

    async def _run(self, resources: Resources) -> int:
        control = Control()

        def ready(lines: list[str]) -> None:
            logs.log.setLevel(self._settings.log_level.upper())
            self._report(ready=lines)

        # A signal may reach the supervisor and this process, so it does not cut what has been told to stop.
        with obeying_signals(control, control.stop.set), self._obeying(control):
            signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
            return await run_until_stopped(self._settings, resources, control, ready)

    @contextmanager
    def _obeying(self, control: Control) -> Iterator[None]:
        loop = asyncio.get_running_loop()
        self._link.setblocking(False)

        def receive() -> None:
            try:
                orders = self._link.recv(64)
            except ConnectionResetError:
                orders = b""
            if not orders:
                loop.remove_reader(self._link)
                self.orphaned = True
                logs.log.error("the process that supervises this one has ended: shutting down")
            if RELOAD in orders:
                control.reload()
            if STOP in orders or CUT in orders or not orders:
                control.stop.set()
            if CUT in orders:
                control.cut.set()

        loop.add_reader(self._link, receive)
        try:
            yield
        finally:
            loop.remove_reader(self._link)

    def _report(self, **message: Any) -> None:
        try:
            self._link.sendall(json.dumps(message).encode() + b"\n")
        except OSError:  # the supervisor has ended
            logs.log.debug("the supervisor cannot be reached")
