"""Scan each file with a ClamAV daemon: stream it to clamd's INSTREAM command while it is uploaded.

    parse_reply      clamd's reply → a Verdict, pure
    ClamAV           creates a scan for each file part

A file is ``unscannable`` if it is too long for clamd or encrypted, or if clamd failed to scan it.

A file that clamd reports as clean passes. clamd scans no further than ``MaxFileSize`` and ``MaxScanSize`` unless
``AlertExceedsMax`` is on, and reports encrypted files only with ``AlertEncrypted``.
"""

import asyncio
import contextlib
import re
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple

from aiorelay.checks.scanner_sockets import connect
from aiorelay.checks.verdicts import ScanOutcome, ScanPolicy, Verdict, printable_name
from aiorelay.errors import Problem
from aiorelay.multipart.form import Part
from aiorelay.settings.places import ScannerAddress

__all__ = ["ClamAV", "Scan", "parse_reply"]

_COMMAND = b"zINSTREAM\0"  # "z": command and reply end with NUL
_END = struct.pack(">I", 0)
_LONGEST_REPLY = 4096  # bytes; signature names are much shorter

# With ExtendedDetectionInfo, clamd appends the digest and the length of the match.
_FOUND = re.compile(r"(?:stream: )?(?P<name>.*?)(?:\([0-9a-f]+:[0-9]+\))? FOUND", re.DOTALL)
# Signatures that clamd reports for files it could not scan (AlertEncrypted, AlertExceedsMax).
_UNSCANNED = ("Heuristics.Encrypted.", "Heuristics.Limits.Exceeded")


def parse_reply(reply: bytes) -> Verdict:
    """Convert clamd's complete reply, including its final NUL, to a verdict.

    Only ``stream: OK`` is clean. A reply that ends in FOUND is a detection, even if it is malformed or truncated, so
    that ``fail_open`` cannot let the file pass. ``stream: … ERROR`` means that clamd failed to scan this file. Every
    other reply is invalid.
    """
    text = reply.decode("ascii", "replace")
    if found := _FOUND.fullmatch(text.rstrip("\0")):
        name = printable_name(found["name"])
        return Verdict("unscannable" if name.startswith(_UNSCANNED) else "infected", name)
    if not text.endswith("\0") or "\0" in text[:-1]:
        return Verdict("unavailable", "clamd's reply was truncated or malformed")
    text = text[:-1]
    if text == "stream: OK":
        return Verdict("clean")
    if text == "INSTREAM size limit exceeded. ERROR":
        return Verdict("unscannable", "it is longer than clamd's StreamMaxLength")
    if text.startswith("stream: ") and text.endswith(" ERROR"):
        return Verdict("unscannable", "clamd failed to scan it")
    return Verdict("unavailable", f"clamd replied {text[:80]!r}")


class ClamAV:
    """Factory of scans by the clamd at ``address``, one for each file part.

    ``timeout`` (seconds) applies to each operation: connecting, sending a block, waiting for the verdict.
    With ``fail_open``, files pass with a warning in the log if they are unscannable or clamd is unavailable.
    ``on_outcome`` is called once for each scan that ends with a verdict, before the verdict takes effect.
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
        self._policy = ScanPolicy(fail_open=fail_open, on_outcome=on_outcome)

    def __call__(self, part: Part) -> "Scan | None":
        """Return a scan for a file, None for a plain field."""
        return Scan(self._address, self._timeout, self._policy.problem) if part.is_file else None


class Scan:
    """The scan of one file: a check that raises the ``Problem`` that ``handle`` returns.

    It uses a plain socket, to learn clamd's reason for closing the connection ("size limit exceeded").
    """

    def __init__(self, address: ScannerAddress, timeout: float, handle: Callable[[Verdict], Problem | None]) -> None:
        self._address = address
        self._timeout = timeout
        self._handle = handle
        self._connection: _Connection | None = None
        self._decided = False
        self._problem: Problem | None = None

    async def feed(self, chunk: bytes) -> None:
        """Send a block and wait until the socket has accepted it. An early verdict takes effect immediately."""
        if chunk and not self._decided:  # a block of length 0 would end the stream
            self._decide(await self._send(struct.pack(">I", len(chunk)) + chunk))
        self._enforce()

    async def finish(self) -> None:
        """End the stream and wait for the verdict."""
        if not self._decided:
            self._decide(await self._send(_END) or await self._read_verdict())
        self._enforce()

    async def close(self) -> None:
        """Close the connection in any state."""
        if self._connection is not None:
            self._connection.reply.cancel()
            # The event loop must stop using the file descriptor before it is closed and can be reused.
            try:
                await asyncio.gather(self._connection.reply, return_exceptions=True)
            finally:
                self._connection.socket.close()

    def _decide(self, verdict: Verdict | None) -> None:
        if verdict is not None:
            self._problem = self._handle(verdict)
            self._decided = True

    def _enforce(self) -> None:
        if self._problem is not None:
            raise self._problem

    async def _send(self, frame: bytes) -> Verdict | None:
        """Send one frame. Return a verdict if clamd replied or closed the connection before accepting it."""
        try:
            async with asyncio.timeout(self._timeout):
                connection = await self._connected()
                if not connection.has_replied():
                    await asyncio.get_running_loop().sock_sendall(connection.socket, frame)
                    return None
        except TimeoutError:
            return Verdict("unavailable", f"clamd accepted no data for {self._timeout:g} s")
        except OSError as error:
            if self._connection is None:
                return Verdict("unavailable", f"clamd cannot be reached: {error.strerror or error}")
        return await self._read_early_verdict()

    async def _read_verdict(self) -> Verdict:
        """Wait for the reply and return its verdict."""
        try:
            async with asyncio.timeout(self._timeout):
                connection = await self._connected()
                return parse_reply(await connection.reply)
        except TimeoutError:
            return Verdict("unavailable", f"clamd gave no verdict for {self._timeout:g} s")
        except OSError as error:
            return Verdict("unavailable", f"the connection to clamd failed: {error.strerror or error}")

    async def _read_early_verdict(self) -> Verdict:
        """Return the verdict of a reply that came before the end of the file: ``clean`` is invalid then."""
        verdict = await self._read_verdict()
        if verdict.outcome == "clean":
            return Verdict("unavailable", "clamd reported a file as clean before its end")
        return verdict

    async def _connected(self) -> "_Connection":
        """Return the connection to clamd. The first call connects and sends INSTREAM. Raises OSError."""
        if self._connection is None:
            connection = await connect(self._address)
            self._connection = _Connection(connection, asyncio.create_task(_read_reply(connection)))
            await asyncio.get_running_loop().sock_sendall(connection, _COMMAND)
        return self._connection


class _Connection(NamedTuple):
    """A connection to clamd, and the task that reads its reply while the file is sent."""

    socket: socket.socket
    reply: asyncio.Task[bytes]

    def has_replied(self) -> bool:
        """Whether a reply or the end of the connection can be read. Raises OSError if the connection failed."""
        if self.reply.done():
            return True
        with contextlib.suppress(BlockingIOError):
            self.socket.recv(1, socket.MSG_PEEK)
            return True
        return False


async def _read_reply(connection: socket.socket) -> bytes:
    """Read to the NUL, the end or the size limit. Then shut down sending, which ends a blocked send."""
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
