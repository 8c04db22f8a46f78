"""A TCP proxy that cuts connections, as bad networks do. It forwards raw bytes, TLS included."""

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Iterable
from typing import Self
from urllib.parse import urlsplit

_BLOCK = 64 * 1024
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER of no time: closing resets


class CuttingProxy:
    """Stands between clients and ``target`` (a base URL), and is used as an asynchronous context manager.

    ``cuts`` are distances in bytes that clients send, over all connections: after each, the connection that brought
    the last of them is reset in both directions. Once they are used up, nothing is cut any more.
    """

    def __init__(self, target: str, cuts: Iterable[int] = ()) -> None:
        self._target = urlsplit(target)
        self._cuts = iter(cuts)
        self._left = next(self._cuts, None)
        self._answers_after: int | None = None
        self._connections: set[_Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.made_cuts = 0
        self.sent = 0
        """Bytes that clients have sent."""
        self.held_answer = asyncio.Event()
        """Set as soon as an answer is held back."""

    @property
    def url(self) -> str:
        """The base URL for clients, with the target's scheme and host."""
        port = self._server.sockets[0].getsockname()[1]
        return f"{self._target.scheme}://{self._target.hostname}:{port}"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await asyncio.sleep(0)  # what was just accepted is known afterwards
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for writer in self._writers:  # of tasks that never began
            writer.transport.abort()
        await self._server.wait_closed()

    def cut_again(self, cuts: Iterable[int]) -> None:
        """Begin anew with other ``cuts``, from this moment on."""
        self._cuts = iter(cuts)
        self._left = next(self._cuts, None)

    def cut_now(self) -> None:
        """Reset every open connection."""
        for connection in list(self._connections):
            connection.reset()

    def hold_answers(self, *, after: int = 0) -> None:
        """Pass nothing back to clients once they have sent ``after`` bytes more. ``lose_answers`` ends it."""
        self._answers_after = self.sent + after

    def lose_answers(self) -> None:
        """Reset every connection, with the answers held back on them, and hold back no more."""
        self._answers_after = None
        self.cut_now()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        task = asyncio.create_task(self._serve(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers = [writer]
        try:
            server, to_server = await asyncio.open_connection(self._target.hostname, self._target.port)
            writers.append(to_server)
            await self._connect(reader, writer, server, to_server)
        except OSError:
            pass  # the client learns of it by its own connection's end
        finally:
            for each in writers:
                each.transport.abort()
            self._writers.discard(writer)

    async def _connect(
        self,
        client: asyncio.StreamReader,
        to_client: asyncio.StreamWriter,
        server: asyncio.StreamReader,
        to_server: asyncio.StreamWriter,
    ) -> None:
        connection = _Connection(to_client, to_server)
        self._connections.add(connection)
        try:
            async with asyncio.TaskGroup() as directions:
                directions.create_task(self._forth(client, to_server, connection))
                directions.create_task(self._back(server, to_client))
        except* OSError:
            connection.reset()
        finally:
            self._connections.discard(connection)

    async def _forth(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: "_Connection"
    ) -> None:
        while block := await reader.read(_BLOCK):
            cut = self._left is not None and self._left <= len(block)
            passed = block[: self._left] if cut else block
            writer.write(passed)
            self.sent += len(passed)
            await writer.drain()
            if cut:
                self.made_cuts += 1
                self._left = next(self._cuts, None)
                connection.reset()
                return
            if self._left is not None:
                self._left -= len(block)
        writer.write_eof()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while block := await reader.read(_BLOCK):
            if self._answers_after is not None and self.sent >= self._answers_after:
                self.held_answer.set()
                continue
            writer.write(block)
            await writer.drain()
        if not self.held_answer.is_set():
            writer.write_eof()


class _Connection:
    """Both ends of one connection."""

    def __init__(self, *writers: asyncio.StreamWriter) -> None:
        self._writers = writers

    def reset(self) -> None:
        for writer in self._writers:
            end = writer.get_extra_info("socket")
            with contextlib.suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()


def random_cuts(seed: int, *, count: int, least: int = 1, most: int) -> list[int]:
    """``count`` distances between cuts, of ``least`` to ``most`` bytes, which ``seed`` decides."""
    chosen = random.Random(seed)  # noqa: S311 - any bytes will do
    return [chosen.randint(least, most) for _ in range(count)]
