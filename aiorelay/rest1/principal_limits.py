"""Limit what one principal may upload: uploads per time, bytes per day.

a request ─▶ admit: one upload more, its declared length ─▶ Meter: its bytes
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Protocol

from aiohttp import web

from aiorelay.errors import QuotaExceeded, RateLimited, StateUnavailable, TooLarge
from aiorelay.rest1.rate_limits import DAY, Rate, Taken, fields, seconds_left_today, take

__all__ = ["Counters", "Limits", "MemoryCounters", "Meter", "PrincipalLimits"]

_FIELDS: Final = web.RequestKey("rate_limit_fields", dict[str, str])
_PRINCIPALS: Final = 100_000


class Counters(Protocol):
    """Keeps what principals have used. Several relays may share one.

    Its methods raise ``StateUnavailable`` if they cannot count. ``step`` is how many bytes of an upload are gathered
    before they are added.
    """

    @property
    def step(self) -> int: ...

    async def take(self, principal: str, rate: Rate) -> Taken:
        """Take one upload; see ``rate_limits.take``."""

    async def used(self, principal: str, day: int) -> int:
        """Return the bytes that were added on ``day``, which is counted from the epoch."""

    async def add(self, principal: str, day: int, size: int) -> int:
        """Add ``size`` bytes, and return how many were added on ``day``, these included."""


class MemoryCounters:
    """Counters of this process, for at most ``most`` principals: the one that was idle for longest is forgotten.

    To have it forgotten, a client needs as many names or addresses.
    """

    step = 1

    def __init__(self, most: int = _PRINCIPALS, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._arrivals: OrderedDict[str, float] = OrderedDict()
        self._bytes: OrderedDict[str, tuple[int, int]] = OrderedDict()

    async def take(self, principal: str, rate: Rate) -> Taken:
        now = self._clock()
        taken = take(rate, self._arrivals.pop(principal, now), now)
        self._arrivals[principal] = taken.arrival
        if len(self._arrivals) > self._most:
            self._arrivals.popitem(last=False)
        return taken

    async def used(self, principal: str, day: int) -> int:
        counted, used = self._bytes.get(principal, (day, 0))
        return used if counted == day else 0

    async def add(self, principal: str, day: int, size: int) -> int:
        used = await self.used(principal, day) + size
        self._bytes.pop(principal, None)
        self._bytes[principal] = day, used
        if len(self._bytes) > self._most:
            self._bytes.popitem(last=False)
        return used


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The limits of each principal; None means none. ``quota`` is in bytes per day (UTC)."""

    rate: Rate | None = None
    quota: int | None = None


class PrincipalLimits:
    """Enforces ``limits`` with ``counters``. ``clock`` is the time in seconds since the epoch."""

    def __init__(
        self, limits: Limits, counters: Counters | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._limits = limits
        self._counters = counters or MemoryCounters()
        self._clock = clock

    async def admit(
        self, request: web.BaseRequest, principal: str, length: int | None, *, counted: bool = True
    ) -> None:
        """Admit a new upload of ``length`` bytes, if that is known, and put its fields on the answer to ``request``.

        It is not ``counted`` as an upload if it is only a part of one. Raises ``RateLimited``, ``QuotaExceeded``,
        ``TooLarge`` if the upload is larger than the quota, and ``StateUnavailable``.
        """
        if counted and self._limits.rate is not None:
            await self._take(request, principal, self._limits.rate)
        if self._limits.quota is not None and length:
            if length > self._limits.quota:
                raise TooLarge(
                    f"The upload is larger than the {self._limits.quota} bytes that you may upload in a day."
                )
            self._check(await self._counters.used(principal, self._today()) + length)

    def add_fields(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Put the fields of the rate limit, if there is one, on the answer to a request that was admitted.

        They are added to those of the upload API: each is a list, which may have several field lines.
        """
        if self._limits.rate is not None:
            for name, value in request.get(_FIELDS, {}).items():
                response.headers.add(name, value)

    def meter(self, principal: str) -> "Meter | None":
        """Return a check that counts the bytes of a body, or None if there is no quota."""
        return None if self._limits.quota is None else Meter(self, principal, self._counters.step)

    async def count(self, principal: str, size: int) -> None:
        """Count ``size`` bytes that have arrived. Raises ``QuotaExceeded`` and ``StateUnavailable``."""
        self._check(await self._counters.add(principal, self._today(), size))

    async def _take(self, request: web.BaseRequest, principal: str, rate: Rate) -> None:
        taken = await self._counters.take(principal, rate)
        described = fields(rate, taken)
        if not taken.allowed:
            wait = max(math.ceil(taken.wait), 1)
            detail = f"You have made as many uploads as are allowed. Try again in {wait} s."
            raise RateLimited(detail, retry_after=wait, headers=described)
        request[_FIELDS] = described

    def _check(self, used: int) -> None:
        quota = self._limits.quota
        if quota is not None and used > quota:
            left = seconds_left_today(self._clock())
            detail = f"You may upload {quota} bytes in a day. Try again after midnight (UTC), in {left} s."
            raise QuotaExceeded(detail, retry_after=left)

    def _today(self) -> int:
        return int(self._clock() // DAY)


class Meter:
    """A check that counts the bytes of a body towards the quota of ``principal``, ``step`` or more at a time."""

    def __init__(self, limits: PrincipalLimits, principal: str, step: int = 1) -> None:
        self._limits = limits
        self._principal = principal
        self._step = step
        self._gathered = 0

    async def feed(self, chunk: bytes) -> None:
        self._gathered += len(chunk)
        if self._gathered >= self._step:
            await self._count()

    async def finish(self) -> None:
        if self._gathered:
            await self._count()

    async def close(self) -> None:
        """Count the bytes of a body that has broken off, too."""
        with suppress(QuotaExceeded, StateUnavailable):
            await self.finish()

    async def _count(self) -> None:
        size, self._gathered = self._gathered, 0
        await self._limits.count(self._principal, size)
