"""Leave a new connection to the process with the fewest, as long as that process is quick to accept it.

All processes wait at the same sockets. The kernel wakes them together, and one that has more connections than another
waits a moment before it accepts.
"""

import asyncio
from typing import Final

from aiorelay.server.processes.table import ProcessTable

__all__ = ["Balance"]

# How long the process with the fewest connections may take to accept one, in seconds.
_HEAD_START: Final = 0.005


class Balance:
    """The connections of the process with the number ``process`` among those in ``table``."""

    def __init__(self, table: ProcessTable, process: int) -> None:
        self._table = table
        self._process = process
        self._open = 0
        self._accepting = False

    def start(self) -> None:
        """Enter that this process accepts connections."""
        self._accepting = True
        self.changed(0)

    def stop(self) -> None:
        """Enter that this process accepts no more connections."""
        self._accepting = False
        self._table.set_connections(self._process, None)

    def changed(self, by: int) -> None:
        """Count connections that were accepted, or closed."""
        self._open += by
        if self._accepting:
            self._table.set_connections(self._process, self._open)

    async def turn(self) -> None:
        """Wait until this process may accept a connection."""
        if self._open > self._table.fewest_connections():
            await asyncio.sleep(_HEAD_START)
