"""One process that scans files with compiled rules, one file at a time."""

import asyncio
import contextlib
import json
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

__all__ = ["SCRIPT", "ScanFailedError", "ScanProcess"]

SCRIPT: Final = Path(__file__).with_name("process.py")
_LONGEST_REPLY: Final = 64 * 1024


class ScanFailedError(Exception):
    """The process gave no result for a file. The text says why, for the log."""


class ScanProcess:
    """A process that scans, and the connection to it."""

    def __init__(self, process: asyncio.subprocess.Process, connection: socket.socket) -> None:
        self._process = process
        self._connection = connection
        self._scanning = False

    @classmethod
    async def start(cls, rules: int, *, longest: float) -> "ScanProcess":
        """Start a process that scans with the compiled rules in the file ``rules`` (a descriptor). Raises OSError.

        A scan ends soon after ``longest`` seconds, also if the relay was killed meanwhile.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        try:
            with theirs:
                arguments = map(str, (SCRIPT, "scan", rules, theirs.fileno(), int(longest) + 1))
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", *arguments),
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                    pass_fds=(rules, theirs.fileno()),
                    cwd="/",
                )
        except BaseException:
            ours.close()
            raise
        return cls(process, ours)

    @property
    def is_alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.returncode is None

    async def scan(self, file: int, variables: Mapping[str, str]) -> list[str]:
        """Return the names of the rules that ``file`` (a descriptor) matches. Raises ``ScanFailedError``.

        The process can be used again only if this has returned.
        """
        self._scanning = True
        reply = b""
        with contextlib.suppress(OSError):
            socket.send_fds(self._connection, [json.dumps(variables).encode()], [file])
            reply = await asyncio.get_running_loop().sock_recv(self._connection, _LONGEST_REPLY)
        if not reply:
            raise ScanFailedError("the process that scans has ended")
        self._scanning = False
        result = json.loads(reply)
        if "error" in result:
            raise ScanFailedError(result["error"])
        matches: list[str] = result["matches"]
        return matches

    def end(self) -> None:
        """End the process: it ends by itself when the connection is closed, unless it is scanning."""
        self._connection.close()
        if self._scanning:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def wait(self) -> None:
        """Wait until the process has ended."""
        await self._process.wait()
