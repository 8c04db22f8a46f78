"""The relay as a process: start it, read its ready lines, check its end. Ports for other processes."""

import asyncio
import contextlib
import os
import re
import secrets
import signal
import socket
import ssl
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path

from peers import PATIENCE, eventually

FREE_PORTS = ("--rest1-port", "0", "--rest2-port", "0")
_FIRST_PORT, _PORTS = 10_000, 22_000  # the system gives ports from 32768 on
UNSEEMLY = re.compile(rb"Traceback|never retrieved|Unclosed|never awaited")


def free_ports(number: int) -> list[int]:
    """Return ports that are free, below those that the system gives to connections meanwhile."""
    with contextlib.ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < number:
            port = _FIRST_PORT + secrets.randbelow(_PORTS)
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server(("127.0.0.1", port)))
                ports.append(port)
        return ports


def open_files(pid: int) -> list[str]:
    """Return the targets of the file descriptors of a process."""
    links = []
    with contextlib.suppress(FileNotFoundError):  # closed or ended in the meantime
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                links.append(str(each.readlink()))
    return links


class Process:
    """A running ``python -m aiorelay``.

    ``ready`` are its ready lines. ``rest1`` and ``rest2`` (base URLs), ``ca`` (path) and ``curl`` are read from them.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        self.pid = process.pid
        self.ready: list[str] = []
        self._process = process
        self._stdout = process.stdout
        self._log = bytearray()
        self._logging = asyncio.create_task(self._keep_log())

    async def until_ready(self) -> None:
        """Read the ready lines, up to the curl line or the end of the process."""
        async with asyncio.timeout(PATIENCE):
            while line := (await self._stdout.readline()).decode():
                self.ready.append(line.removesuffix("\n"))
                if line.startswith("curl "):
                    return

    def _line(self, word: str) -> str:
        (line,) = [line for line in self.ready if line.startswith(f"{word} ")]
        return line.removeprefix(f"{word} ")

    @property
    def rest1(self) -> str:
        return self._line("rest1")

    @property
    def rest2(self) -> str:
        return self._line("rest2")

    @property
    def ca(self) -> Path:
        return Path(self._line("CA"))

    @property
    def curl(self) -> str:
        """The curl line."""
        return f"curl {self._line('curl')}"

    @property
    def tls(self) -> ssl.SSLContext:
        """A client context that trusts the relay."""
        return ssl.create_default_context(cafile=str(self.ca))

    @property
    def log(self) -> str:
        """The text that it has written to stderr."""
        return self._log.decode()

    @property
    def peak_memory(self) -> int:
        """The peak of its resident memory, in bytes (VmHWM)."""
        return self._memory("VmHWM")

    @property
    def resident_memory(self) -> int:
        """Its resident memory, in bytes (VmRSS)."""
        return self._memory("VmRSS")

    def _memory(self, kind: str) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition(f"{kind}:")[2].split()[0]) * 1024

    @property
    def open_files(self) -> list[str]:
        """The targets of its file descriptors."""
        return open_files(self.pid)

    @property
    def children(self) -> list[int]:
        """The ids of the processes that it has forked, which run."""
        return [int(pid) for pid in Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text().split()]

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        # Not its send_signal: that would reap the process and discard the exit status.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def logged(self, words: str) -> None:
        """Wait until its log contains ``words``."""
        await eventually(lambda: words in self.log)

    async def ended(self) -> int:
        """Wait for its end, assert that its output has no surprises, and return its exit status."""
        async with asyncio.timeout(PATIENCE):
            rest = await self._stdout.read()
            await self._logging
            status = await self._process.wait()
        assert rest == b""
        assert not UNSEEMLY.search(self._log), self.log
        return status

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal, wait for its end, and return its exit status."""
        self.send(number)
        return await self.ended()

    async def close(self) -> None:
        """End it if it still runs, and check its log with ``ended``."""
        try:
            if self._process.returncode is None:
                await self.stop()
        finally:
            if self._process.returncode is None:
                self._process.kill()
                await self._process.wait()
            self._logging.cancel()

    async def _keep_log(self) -> None:
        assert self._process.stderr is not None
        while block := await self._process.stderr.read(64 * 1024):
            self._log += block


@contextlib.asynccontextmanager
async def started(
    *arguments: str | os.PathLike[str],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    under: Sequence[str] = (),
    python: str | os.PathLike[str] = sys.executable,
) -> AsyncGenerator[Process, None]:
    """Start ``python -m aiorelay``, and wait until it is ready or has ended. At the end, stop it and check its log.

    There are no default arguments: a test gives at least ``--state-dir`` and usually ``*FREE_PORTS``. ``under`` is a
    command that executes it, such as ``prlimit``; ``python`` is the interpreter.
    """
    pipe = asyncio.subprocess.PIPE
    process = Process(
        await asyncio.create_subprocess_exec(
            *under,
            python,
            "-m",
            "aiorelay",
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
            cwd=cwd,
            env={**os.environ, **(env or {})},
        )
    )
    try:
        await process.until_ready()
        yield process
    finally:
        await process.close()
