"""Resolve a source's host and connect to it; every address is checked before it is dialled.

``Dialler.socket`` checks all of them, whether they come from DNS, a URL, a redirect or a resumption. Of a name with
public and other addresses, only the public ones are dialled.
"""

import asyncio
import socket
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from aiorelay.sources.address_rules import IPAddress, IPNetwork, Listener, refusal

__all__ = ["Dialler", "Lookup", "Resolver", "is_local", "system_lookup"]

Lookup: TypeAlias = Callable[[str], Sequence[str]]
"""Maps a host name to its IP addresses. May block; raises OSError if there are none."""


def system_lookup(host: str) -> list[str]:
    """Ask the system's resolver."""
    # AI_ADDRCONFIG: no addresses of a family that this machine cannot dial.
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG)
    return [str(sockaddr[0]) for *_, sockaddr in found]


class Resolver(AbstractResolver):
    """Resolves names in its own threads; ``limit`` is the timeout of a lookup in seconds.

    A lookup cannot be cancelled: its thread waits for the name server. Other work does not share these threads.
    """

    _THREADS = 16

    def __init__(self, lookup: Lookup, limit: float) -> None:
        self._lookup = lookup
        self._limit = limit
        self._threads = ThreadPoolExecutor(self._THREADS, "aiorelay-dns")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of ``host``; raises OSError, of which TimeoutError is one."""
        del family  # the connector drops other families
        async with asyncio.timeout(self._limit):
            found = await asyncio.get_running_loop().run_in_executor(self._threads, self._lookup, host)
        if not found:
            raise OSError(f"{host} has no address")
        return [
            ResolveResult(hostname=host, host=address, port=port, family=socket.AF_UNSPEC, proto=0, flags=0)
            for address in dict.fromkeys(found)
        ]

    async def close(self) -> None:
        """Do nothing: connectors call this, but the threads are kept until ``stop``."""

    def stop(self) -> None:
        """Release the threads without waiting for pending lookups."""
        self._threads.shutdown(wait=False, cancel_futures=True)


class _RefusedError(OSError):
    """Tells the connector that this address failed, so that it tries the next one."""


class Dialler:
    """Makes the sockets of one exchange and records which addresses it refused."""

    def __init__(self, allowed: Sequence[IPNetwork], own: Collection[Listener]) -> None:
        self._allowed = allowed
        self._own = own
        self._dialled = False
        self._refusals: list[str] = []

    @property
    def refusal(self) -> str | None:
        """The range that the first address was refused for, if no address was dialled."""
        return self._refusals[0] if self._refusals and not self._dialled else None

    def socket(self, info: aiohttp.AddrInfoType) -> socket.socket:
        """Return a socket for one address if that may be dialled (a ``socket_factory`` of aiohttp)."""
        family, kind, protocol, _, address = info
        reason = refusal(str(address[0]), int(address[1]), allowed=self._allowed, own=self._own, local=is_local)
        if reason:
            self._refusals.append(reason)
            raise _RefusedError(reason)
        self._dialled = True
        return socket.socket(family, kind, protocol)


def is_local(address: IPAddress) -> bool:
    """Whether this machine has ``address``, that is, whether a socket can be bound to it."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True
