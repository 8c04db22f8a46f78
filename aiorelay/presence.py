"""Clients that have left while nobody reads from them, and so nobody is told.

asyncio learns from reading that a peer is gone. While an upload stalls, be it for the upload API, a scanner or a disk,
its client is not read: back-pressure. So those are looked at, once a second, as nginx looks at its clients.
"""

import asyncio
import select
from collections.abc import Collection, Iterable

from aiohttp import web

__all__ = ["disconnected", "drop_disconnected"]

_EVERY = 1.0  # seconds
# Not everywhere; where it is missing, only a reset is seen.
_HUNG_UP: int = getattr(select, "POLLRDHUP", 0)


def disconnected(transports: Iterable[asyncio.Transport]) -> list[asyncio.Transport]:
    """Those that are not read at present, and whose peer has reset the connection or hung up.

    A peer that has hung up (FIN) has left even if the rest of its body waits in the kernel: asyncio's TLS knows no
    connection that is closed on one side only, and would close it as soon as it has read so far, unanswered. A peer
    that left with bytes unsent cannot be told from one that is there: its kernel sends its FIN behind them.
    """
    poll = select.poll()
    unread = {}
    for transport in transports:
        if not transport.is_reading() and not transport.is_closing():
            descriptor = transport.get_extra_info("socket").fileno()
            unread[descriptor] = transport
            poll.register(descriptor, _HUNG_UP)  # POLLERR and POLLHUP are told in any case
    return [unread[descriptor] for descriptor, _ in poll.poll(0)]


async def drop_disconnected(handlers: Collection[web.RequestHandler]) -> None:
    """Until cancelled, cut off those ``handlers`` whose client has left, which cancels their requests."""
    while True:
        await asyncio.sleep(_EVERY)
        for transport in disconnected(each.transport for each in handlers if each.transport is not None):
            transport.abort()
