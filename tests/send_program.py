"""``aiorelay send`` as a program, and answers of the servers that it sends to."""

import asyncio
import fcntl
import os
import pty
import struct
import sys
import termios
from typing import Any

from peers import PATIENCE, Message, Recorder

from aiorelay.server.lifecycle import Chain


async def program(
    *arguments: object, stdin: Any = asyncio.subprocess.PIPE, **options: Any
) -> asyncio.subprocess.Process:
    """Start ``aiorelay send``."""
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "aiorelay",
        "send",
        *map(str, arguments),
        stdin=stdin,
        **{"stdout": pipe, "stderr": pipe, **options},
    )


async def finished(process: asyncio.subprocess.Process, stdin: bytes = b"") -> tuple[int | None, str, str]:
    """Wait for the end of a program. Return its exit status, standard output and standard error."""
    async with asyncio.timeout(PATIENCE * 3):
        out, err = await process.communicate(stdin if process.stdin else None)
    return process.returncode, out.decode(), (err or b"").decode()


def relay(chain: Chain) -> tuple[object, ...]:
    """Return the flags that send to the relay of ``chain``."""
    return "--to", chain.rest1, "--cacert", chain.ca


def uploads(api: Recorder) -> list[Message]:
    """Return the requests with content that an upload API got."""
    return [request for request in api.requests if request.method != "OPTIONS"]


def answer_of(status: int, body: bytes, media_type: str = "application/json", *more: str) -> bytes:
    """Return a response; ``more`` are further lines of its head."""
    head = [f"HTTP/1.1 {status} Whatever", f"Content-Type: {media_type}", f"Content-Length: {len(body)}", *more]
    return "\r\n".join([*head, "", ""]).encode() + body


async def on_a_terminal(*arguments: object, lines: int = 30, columns: int = 100) -> tuple[int | None, str, str]:
    """Run ``aiorelay send`` on a terminal. Return what it prints besides its answers, and its exit status."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    process = await program(*arguments, stderr=theirs, stdin=asyncio.subprocess.DEVNULL)
    os.close(theirs)

    def read() -> bytes:
        shown = b""
        while True:
            try:
                shown += os.read(ours, 4096)
            except OSError:  # EIO: all processes have closed the terminal
                return shown

    shown, (status, out, _) = await asyncio.gather(asyncio.to_thread(read), finished(process))
    os.close(ours)
    return status, out, shown.decode()
