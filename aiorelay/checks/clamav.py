"""Scan with a ClamAV daemon: each file is streamed to clamd's INSTREAM command while it is uploaded.

    parse_reply      clamd's answer → a Verdict, pure
    ClamAV           makes a scan for each file part

A verdict is one of four outcomes: ``clean``, ``infected``, ``unscannable`` (too long for clamd, encrypted, or
given up on by it) and ``unavailable`` (nobody there, silence, or an answer that means nothing). Only the last
two may pass, and only where the operator asked for it (``fail_open``).

What clamd calls clean is taken as clean: it looks no further than its own ``MaxFileSize`` and ``MaxScanSize``
unless its ``AlertExceedsMax`` is on, and reports encrypted files only with ``AlertEncrypted``.
"""

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from aiorelay.errors import Infected, Problem, ScannerUnavailable, Unscannable
from aiorelay.multipart.form import Part
from aiorelay.observability.logs import log

__all__ = ["ClamAV", "Scan", "ScanOutcome", "ScannerAddress", "Verdict", "parse_reply"]

ScannerAddress = tuple[str, int] | Path
"""Where clamd listens: a host and a TCP port, or a unix socket."""

ScanOutcome = Literal["clean", "infected", "unscannable", "unavailable"]

_COMMAND = b"zINSTREAM\0"  # "z": command and answer end with NUL
_END = struct.pack(">I", 0)
_LONGEST_REPLY = 4096  # bytes; a signature's name is far shorter

# With ExtendedDetectionInfo, clamd adds the digest and the length of what matched.
_FOUND = re.compile(r"(?:stream: )?(?P<name>.*?)(?:\([0-9a-f]+:[0-9]+\))? FOUND", re.DOTALL)
# What clamd "finds" in a file that it could not look into (AlertEncrypted, AlertExceedsMax).
_NOT_LOOKED_INTO = ("Heuristics.Encrypted.", "Heuristics.Limits.Exceeded")


class Verdict(NamedTuple):
    """What became of one scan; ``reason`` is a signature's name, or why there is no verdict."""

    outcome: ScanOutcome
    reason: str = ""


def parse_reply(reply: bytes) -> Verdict:
    """Judge clamd's whole answer, its final NUL included.

    Only ``stream: OK`` is clean. Whatever ends in FOUND is a finding, however odd or cut short, so that no
    ``fail_open`` can turn it into a pass; ``stream: … ERROR`` is clamd giving up on this file; the rest is nonsense.
    """
    text = reply.decode("ascii", "replace")
    if found := _FOUND.fullmatch(text.rstrip("\0")):
        name = "".join(c for c in found["name"] if c.isprintable())[:200]
        return Verdict("unscannable" if name.startswith(_NOT_LOOKED_INTO) else "infected", name)
    if not text.endswith("\0") or "\0" in text[:-1]:
        return Verdict("unavailable", "clamd's answer was cut short or garbled")
    text = text[:-1]
    if text == "stream: OK":
        return Verdict("clean")
    if text == "INSTREAM size limit exceeded. ERROR":
        return Verdict("unscannable", "it is longer than clamd's StreamMaxLength")
    if text.startswith("stream: ") and text.endswith(" ERROR"):
        return Verdict("unscannable", "clamd gave up on it")
    return Verdict("unavailable", f"clamd answered {text[:80]!r}")


class ClamAV:
    """Scans every file part with the clamd at ``address``.

    ``timeout`` (seconds) bounds each wait for clamd: to connect, to take a block, to give its verdict.
    ``fail_open`` lets unscannable files and those of an absent scanner pass, with a warning in the log.
    ``on_outcome`` is called once for each scan that comes to a verdict, before it is acted on.
    """

    def __init__(
        self,
        address: ScannerAddress,
        *,
        timeout: float,
        fail_open: bool = False,
        on_outcome: Callable[[ScanOutcome], None] = lambda _outcome: None,
    ) -> None:
        self._address = address
        self._timeout = timeout
        self._fail_open = fail_open
        self._on_outcome = on_outcome

    def __call__(self, part: Part) -> "Scan | None":
        """Return a scan for a file, None for a plain field."""
        return Scan(self._address, self._timeout, self._judge) if part.is_file else None

    def _judge(self, verdict: Verdict) -> Problem | None:
        """Count and log a verdict; return the refusal it means, if any."""
        self._on_outcome(verdict.outcome)
        match verdict.outcome:
            case "clean":
                return None
            case "infected":
                return Infected(f"The virus scanner found {verdict.reason}.")
        passing = "let through" if self._fail_open else "refused"
        log.warning("a file was %s unscanned: %s", passing, verdict.reason)
        if self._fail_open:
            return None
        if verdict.outcome == "unscannable":
            return Unscannable(f"The virus scanner cannot look into the file: {verdict.reason}.")
        return ScannerUnavailable("The virus scanner gave no verdict; try again later.")


class Scan:
    """One file on its way through clamd: a check that refuses by raising the ``Problem`` that ``judge`` returns.

    It speaks over a bare socket. An asyncio transport drops what it has not read once a write fails, and
    clamd's reason for hanging up ("size limit exceeded") would be lost with it.
    """

    def __init__(self, address: ScannerAddress, timeout: float, judge: Callable[[Verdict], Problem | None]) -> None:
        self._address = address
        self._timeout = timeout
        self._judge = judge
        self._line: _Line | None = None
        self._settled = False
        self._problem: Problem | None = None

    async def feed(self, chunk: bytes) -> None:
        """Send a block, and wait until clamd's socket has taken it. An early verdict is acted on at once."""
        if chunk and not self._settled:  # a block of length 0 would end the stream
            self._settle(await self._send(struct.pack(">I", len(chunk)) + chunk))
        self._enforce()

    async def finish(self) -> None:
        """End the stream and wait for the verdict."""
        if not self._settled:
            self._settle(await self._send(_END) or await self._hear())
        self._enforce()

    async def close(self) -> None:
        """Hang up, whatever the state."""
        if self._line is not None:
            self._line.reply.cancel()
            # The loop must have let go of the socket before it is closed and its number is given to another.
            try:
                await asyncio.gather(self._line.reply, return_exceptions=True)
            finally:
                self._line.socket.close()

    def _settle(self, verdict: Verdict | None) -> None:
        if verdict is not None:
            self._problem = self._judge(verdict)
            self._settled = True

    def _enforce(self) -> None:
        if self._problem is not None:
            raise self._problem

    async def _send(self, frame: bytes) -> Verdict | None:
        """Send one frame; return a verdict if clamd gave one, or went away, before it was taken."""
        try:
            async with asyncio.timeout(self._timeout):
                line = await self._connected()
                if not line.has_spoken():
                    await asyncio.get_running_loop().sock_sendall(line.socket, frame)
                    return None
        except TimeoutError:
            return Verdict("unavailable", f"clamd took nothing for {self._timeout:g} s")
        except OSError as error:
            if self._line is None:
                return Verdict("unavailable", f"clamd cannot be reached: {error.strerror or error}")
        return await self._hear_early()

    async def _hear(self) -> Verdict:
        """Wait for the answer and judge it."""
        try:
            async with asyncio.timeout(self._timeout):
                line = await self._connected()
                return parse_reply(await line.reply)
        except TimeoutError:
            return Verdict("unavailable", f"clamd gave no verdict for {self._timeout:g} s")
        except OSError as error:
            return Verdict("unavailable", f"clamd hung up: {error.strerror or error}")

    async def _hear_early(self) -> Verdict:
        """Judge an answer to a file that clamd has not seen the end of: it cannot know that it is clean."""
        verdict = await self._hear()
        if verdict.outcome == "clean":
            return Verdict("unavailable", "clamd called a file clean before its end")
        return verdict

    async def _connected(self) -> "_Line":
        """Return the line to clamd, INSTREAM asked for; dials the first time. Raises OSError."""
        if self._line is None:
            connection = await _connect(self._address)
            self._line = _Line(connection, asyncio.create_task(_read_reply(connection)))
            await asyncio.get_running_loop().sock_sendall(connection, _COMMAND)
        return self._line


class _Line(NamedTuple):
    """A connection to clamd, and the task that reads its answer while we write."""

    socket: socket.socket
    reply: asyncio.Task[bytes]

    def has_spoken(self) -> bool:
        """Whether an answer, or the end of the connection, is there to be read. Raises OSError if it broke."""
        if self.reply.done():
            return True
        with contextlib.suppress(BlockingIOError):
            self.socket.recv(1, socket.MSG_PEEK)
            return True
        return False


async def _connect(address: ScannerAddress) -> socket.socket:
    """Dial clamd; of a host with several addresses, the first that answers. Raises OSError."""
    loop = asyncio.get_running_loop()
    if isinstance(address, Path):
        return await _dial(socket.AF_UNIX, str(address))
    host, port = address
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for family, _, _, _, where in found[:-1]:
        with contextlib.suppress(OSError):
            return await _dial(family, where)
    return await _dial(found[-1][0], found[-1][4])


async def _dial(family: int, where: str | tuple[Any, ...]) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, where)
    except BaseException:
        connection.close()
        raise
    return connection


async def _read_reply(connection: socket.socket) -> bytes:
    """Read until the NUL, the end or far too much, then stop sending: that wakes a send clamd will never take."""
    loop = asyncio.get_running_loop()
    reply = b""
    try:
        while b"\0" not in reply and len(reply) < _LONGEST_REPLY:
            piece = await loop.sock_recv(connection, _LONGEST_REPLY)
            if not piece:
                break
            reply += piece
    finally:
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_WR)
    return reply
