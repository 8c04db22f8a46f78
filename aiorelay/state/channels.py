"""Listen to channels of the state server on one connection, however many tasks listen.

A message only says that there is something new: who hears it reads the state again. So a message that is lost while
the connection is made again costs nothing, because then every listener reads again.
"""

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, Final, Self

from aiorelay.concurrency.cancellation import cancellable
from aiorelay.observability.logs import log

__all__ = ["Channels"]

_RECONNECT_INTERVAL: Final = 0.5
# A server that has been silent for so many seconds is asked whether it is still there.
_SILENCE: Final = 5.0


class Channels:
    """The channels of the server that ``connect`` makes connections to; they raise ``errors``.

    The first listener has the connection made.
    """

    def __init__(self, connect: Callable[[], Any], errors: tuple[type[Exception], ...]) -> None:
        self._connect = connect
        self._errors = errors
        self._listeners: defaultdict[str, set[asyncio.Event]] = defaultdict(set)
        self._wanted = asyncio.Event()
        self._connection: Any = None
        self._reading: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        self._reading = asyncio.create_task(self._read_forever())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._reading is not None:
            self._reading.cancel()
            await asyncio.wait([self._reading])

    @asynccontextmanager
    async def listening(self, channel: str) -> AsyncGenerator[asyncio.Event, None]:
        """Return an event that is set when a message comes, and when messages may have been lost."""
        heard = asyncio.Event()
        listeners = self._listeners[channel]
        listeners.add(heard)
        self._wanted.set()
        try:
            if len(listeners) == 1:
                await self._send("SUBSCRIBE", channel)
            yield heard
        finally:
            listeners.discard(heard)
            if not listeners and self._listeners.get(channel) is listeners:
                del self._listeners[channel]
                if not self._listeners:
                    self._wanted.clear()
                await self._send("UNSUBSCRIBE", channel)

    async def _send(self, *command: str) -> None:
        """Send a command if there is a connection. A new one subscribes to every channel anyway."""
        connection = self._connection
        if connection is not None and connection.is_connected:
            with suppress(*self._errors):
                await cancellable(connection.send_command(*command, check_health=False))

    async def _read_forever(self) -> None:
        while True:
            await self._wanted.wait()
            connection = self._connect()
            try:
                await cancellable(connection.connect())
                self._connection = connection
                if channels := list(self._listeners):
                    await cancellable(connection.send_command("SUBSCRIBE", *channels, check_health=False))
                await self._read(connection)
            except Exception as error:  # noqa: BLE001 - a connection that another task has closed raises all kinds
                log.debug("the connection to the channels of the state server has ended: %s", type(error).__name__)
            finally:
                self._connection = None
                await connection.disconnect(nowait=True)
            await asyncio.sleep(_RECONNECT_INTERVAL)

    async def _read(self, connection: Any) -> None:
        """Set the events of the channels whose messages come, or which have just been subscribed to."""
        asked = False
        while True:
            reply = await cancellable(connection.read_response(timeout=_SILENCE))
            if reply is None:
                if asked:
                    return
                await cancellable(connection.send_command("PING", check_health=False))
            asked = reply is None
            if isinstance(reply, list) and len(reply) == 3:
                for heard in self._listeners.get(reply[1].decode(), ()):
                    heard.set()
