"""Connect to a scanner with a plain socket.

When a write fails, an asyncio transport discards the data that it has not read, among them the scanner's reason for
closing the connection. A socket still gives them.
"""

import asyncio
import contextlib
import socket
from pathlib import Path
from typing import Any

from aiorelay.settings.places import ScannerAddress

__all__ = ["connect"]


async def connect(address: ScannerAddress) -> socket.socket:
    """Connect to a scanner, trying the addresses of its host in order. Raises OSError."""
    loop = asyncio.get_running_loop()
    if isinstance(address, Path):
        return await _connect_to(socket.AF_UNIX, str(address))
    host, port = address
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    for family, _, _, _, where in found[:-1]:
        with contextlib.suppress(OSError):
            return await _connect_to(family, where)
    return await _connect_to(found[-1][0], found[-1][4])


async def _connect_to(family: int, where: str | tuple[Any, ...]) -> socket.socket:
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, where)
    except BaseException:
        connection.close()
        raise
    return connection
