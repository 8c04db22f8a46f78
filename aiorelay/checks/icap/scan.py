"""Scan a file with an ICAP service while it is uploaded: a check that sends it there and waits for the answer."""

import asyncio
import enum
from collections.abc import Callable
from contextlib import AsyncExitStack

from aiorelay.checks.icap.connection import Connection
from aiorelay.checks.icap.requests import FileRequest
from aiorelay.checks.icap.service import Service, ServiceError
from aiorelay.checks.icap.transaction import Transaction
from aiorelay.checks.verdicts import ScanOutcome, ScanPolicy, Verdict
from aiorelay.errors import Problem
from aiorelay.multipart.form import Part

__all__ = ["ICAP", "IcapScan"]


class ICAP:
    """Factory of scans by ``service``, one for each file part.

    ``timeout`` (seconds) applies to each block and to the verdict: a connection, the options of the service and its
    answer to the preview are part of that. With ``fail_open``, files pass with a warning in the log if they are
    unscannable or the service is unavailable. ``on_outcome`` is called once for each scan that ends with a verdict,
    before the verdict takes effect.
    """

    def __init__(
        self,
        service: Service,
        *,
        timeout: float,
        fail_open: bool = False,
        on_outcome: Callable[[ScanOutcome], None] = lambda _outcome: None,
    ) -> None:
        self._service = service
        self._timeout = timeout
        self._policy = ScanPolicy(fail_open=fail_open, on_outcome=on_outcome)

    def __call__(self, part: Part) -> "IcapScan | None":
        """Return a scan for a file, None for a plain field."""
        return IcapScan(self._service, part, self._timeout, self._policy.problem) if part.is_file else None


class IcapScan:
    """The scan of one file: a check that raises the ``Problem`` that ``handle`` returns."""

    def __init__(
        self, service: Service, part: Part, timeout: float, handle: Callable[[Verdict], Problem | None]
    ) -> None:
        self._service = service
        self._part = part
        self._timeout = timeout
        self._handle = handle
        self._exchange: _Exchange | None = None
        self._decided = False
        self._problem: Problem | None = None

    async def feed(self, chunk: bytes) -> None:
        """Send a block and wait until the socket has accepted it. An early verdict takes effect immediately."""
        if chunk and not self._decided:
            await self._advance(chunk)
        self._enforce()

    async def finish(self) -> None:
        """End the file and wait for the verdict."""
        if not self._decided:
            await self._advance(None)
        self._enforce()

    async def close(self) -> None:
        """Close the connection in any state."""
        if self._exchange is not None:
            await self._exchange.close()

    def _enforce(self) -> None:
        if self._problem is not None:
            raise self._problem

    async def _advance(self, block: bytes | None) -> None:
        verdict = await self._verdict(block)
        if verdict is not None:
            if verdict.outcome == "unavailable":
                self._service.forget_options()
            self._problem = self._handle(verdict)
            self._decided = True
            await self.close()  # others may use the connection while the rest of the file is received

    async def _verdict(self, block: bytes | None) -> Verdict | None:
        """Send a block, or the end of the file for None. Return the verdict if there is one."""
        try:
            async with asyncio.timeout(self._timeout):
                if self._exchange is None:
                    self._exchange = await self._begin()
                return await self._exchange.advance(block)
        except TimeoutError:
            phase = self._exchange.phase if self._exchange else _Phase.ANSWER
            reason = f"the ICAP service {phase} for {self._timeout:g} s"
        except ServiceError as error:
            reason = str(error)
        except (OSError, EOFError) as error:
            reason = f"the ICAP service cannot be reached: {getattr(error, 'strerror', None) or error}"
        return Verdict("unavailable", reason)

    async def _begin(self) -> "_Exchange":
        options = await self._service.options()
        filename = self._part.filename or ""
        request = FileRequest(
            service=self._service.url,
            method=options.method,
            filename=filename,
            media_type=self._part.media_type,
            size=self._part.size,
        )
        preview = options.preview_of(filename)
        return _Exchange(self._service, Transaction(request, preview=preview, allow_204=options.allow_204))


class _Phase(enum.StrEnum):
    """What a scan waits for: the predicate of the service in the reason for a timeout."""

    SLOT = "had no connection to spare (Max-Connections)"
    CONNECTION = "accepted no connection"
    BLOCK = "accepted no data"
    ANSWER = "gave no answer"


class _Exchange:
    """A transaction over a connection of the service, whose answer is read while the file is sent."""

    def __init__(self, service: Service, transaction: Transaction) -> None:
        self._service = service
        self._transaction = transaction
        self._stack = AsyncExitStack()
        self._connection: Connection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._answered = asyncio.Event()
        self._lost: str | None = None
        self.phase = _Phase.ANSWER

    async def advance(self, block: bytes | None) -> Verdict | None:
        """Send a block, or the end of the file for None, and wait if it is the service's turn. Raises OSError."""
        transaction = self._transaction
        if transaction.verdict is None:
            await self._write(transaction.end() if block is None else transaction.send(block))
            await self._wait()
            if block is not None and transaction.verdict is None:
                await self._write(transaction.resume())
        return transaction.verdict

    async def close(self) -> None:
        """Give the connection back to the service, or close it."""
        async with self._stack:
            connection, self._connection = self._connection, None
            if connection is None:
                return
            reusable = self._transaction.reusable
            try:
                await self._stop_reading()
            finally:
                if reusable:
                    self._service.keep(connection)
                else:
                    connection.close()
            self._service.saw(self._transaction.istag)

    async def _write(self, data: bytes) -> None:
        if not data:
            return
        if self._connection is None:
            self.phase = _Phase.SLOT
            await self._stack.enter_async_context(self._service.slot())
            self.phase = _Phase.CONNECTION
            self._begin_reading(await self._service.connection())
        assert self._connection is not None and self._reader is not None  # noqa: S101, PT018 - just set
        if self._lost is None:
            self.phase = _Phase.BLOCK
            try:
                await self._connection.send(data)
            except OSError:
                # The answer that explains it may still be unread.
                await asyncio.wait([self._reader])
                self._lost = self._lost or "the ICAP service closed the connection"
        await self._recover()

    async def _wait(self) -> None:
        while self._transaction.waits:
            self.phase = _Phase.ANSWER
            self._answered.clear()
            if self._lost is None:
                await self._answered.wait()
            await self._recover()

    async def _recover(self) -> None:
        """If the connection was lost, send all of the request again on a new one, or give up.

        A service may close an idle connection at any time, also while a request is on its way. Only then, before any
        byte of an answer, and if all that was sent is still there, is it sent again.
        """
        if self._lost is None or self._transaction.verdict is not None:
            return
        again = self._transaction.replay()
        if self._connection is None or not self._connection.reused or again is None:
            self._transaction.fail(self._lost)
            return
        await self._stop_reading()
        self._connection.close()
        self._connection = None
        self._begin_reading(await self._service.new_connection())
        await self._write(again)

    def _begin_reading(self, connection: Connection) -> None:
        self._lost = None
        self._connection = connection
        self._reader = asyncio.create_task(self._read(connection))

    async def _read(self, connection: Connection) -> None:
        """Read until there is a verdict, then stop what is still being sent unless the request has ended."""
        try:
            while self._transaction.verdict is None:
                data = await connection.receive()
                if not data:
                    self._lost = "the ICAP service closed the connection without a verdict"
                    break
                self._transaction.receive(data)
                self._answered.set()
        except OSError as error:
            self._lost = f"the connection to the ICAP service failed: {error.strerror or error}"
        finally:
            self._answered.set()
            if not self._transaction.reusable:
                connection.end_sending()

    async def _stop_reading(self) -> None:
        # The event loop must stop using the file descriptor before it is closed and can be reused.
        if self._reader is not None:
            self._reader.cancel()
            await asyncio.gather(self._reader, return_exceptions=True)
