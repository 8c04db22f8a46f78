"""The relay as its users start it: a true process, its ready lines read, its end judged."""

import asyncio
import contextlib
import os
import re
import signal
import ssl
import sys
from collections.abc import AsyncGenerator, Mapping, Sequence
from pathlib import Path

from peers import PATIENCE, eventually

FREE_PORTS = ("--rest1-port", "0", "--rest2-port", "0")
UNSEEMLY = re.compile(rb"Traceback|never retrieved|Unclosed|never awaited")


class Process:
    """A running ``python -m aiorelay``.

    ``ready`` are its ready lines: ``rest1`` and ``rest2`` (base URLs), ``ca`` (path) and ``curl`` are read from them.
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
        """Read the ready lines; they end with the curl line, or with the process."""
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
        """The whole curl line."""
        return f"curl {self._line('curl')}"

    @property
    def tls(self) -> ssl.SSLContext:
        """A client's context that trusts the relay."""
        return ssl.create_default_context(cafile=str(self.ca))

    @property
    def log(self) -> str:
        """What it has said on stderr."""
        return self._log.decode()

    @property
    def peak_memory(self) -> int:
        """The most memory that it has held, in bytes (VmHWM)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024

    @property
    def open_files(self) -> list[str]:
        """What its file descriptors are open on."""
        links = []
        for each in Path(f"/proc/{self.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                links.append(str(each.readlink()))
        return links

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, which it misses if it has ended."""
        # Not by its own send_signal, which would reap it and take the status from who waits for that.
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    async def logged(self, words: str) -> None:
        """Wait until its log says ``words``."""
        await eventually(lambda: words in self.log)

    async def ended(self) -> int:
        """Wait for its end and give its exit status: it has said nothing but its ready lines and seemly logs."""
        async with asyncio.timeout(PATIENCE):
            rest = await self._stdout.read()
            await self._logging
            status = await self._process.wait()
        assert rest == b""
        assert not UNSEEMLY.search(self._log), self.log
        return status

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send it a signal, and wait for its end."""
        self.send(number)
        return await self.ended()

    async def close(self) -> None:
        """End it, if it has not ended, and let its log pass ``ended``."""
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
    """Start ``python -m aiorelay``, wait until it is ready or has ended; at the end stop it and look at its log.

    Nothing is said for it but what it is told: a test gives at least ``--state-dir`` and, mostly, ``*FREE_PORTS``.
    ``under`` is a command that becomes it, to change what is around it; ``python`` is what runs it.
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
