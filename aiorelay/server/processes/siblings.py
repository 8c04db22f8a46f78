"""When all processes stop: no upload API ends while the relay of another process may still send to it."""

import asyncio
from typing import Final

from aiorelay.server.processes.table import ProcessTable

__all__ = ["Siblings"]

# Seconds between two looks at the other processes.
_POLL: Final = 0.01


class Siblings:
    """The processes in ``table``, as the one with the number ``process`` sees them."""

    def __init__(self, table: ProcessTable, process: int) -> None:
        self._table = table
        self._process = process

    async def stop_relaying(self) -> None:
        """Enter that this process sends nothing more. If all processes stop, wait until no other one sends."""
        self._table.relaying_ended(self._process)
        while self._table.stopping and self._table.is_any_relaying():  # noqa: ASYNC110 - shared memory has no events
            await asyncio.sleep(_POLL)
