"""Count what principals use in Redis, together with other relays.

    aiorelay:1:rate:{PRINCIPAL}          the theoretical arrival time (GCRA), in microseconds of the server's clock
    aiorelay:1:bytes:DAY:{PRINCIPAL}     the bytes of a day

PRINCIPAL is hashed, so that a key is short, whatever the name is.
"""

import hashlib
from typing import Final

from aiorelay.rest1.rate_limits import DAY, Rate, Taken, taken
from aiorelay.state.server import PREFIX, Script, StateServer

__all__ = ["RedisCounters"]

_MICRO: Final = 1_000_000
_STEP: Final = 4 * 1024 * 1024

# As rate_limits.take, in microseconds. The number that is kept expires when it says nothing any more.
_TAKE: Final = Script(
    "rate-limit",
    """
    local time = redis.call('TIME')
    local now = time[1] * 1000000 + time[2]
    local period, interval = tonumber(ARGV[1]), tonumber(ARGV[1]) / tonumber(ARGV[2])
    local owed = math.min(math.max(tonumber(redis.call('GET', KEYS[1]) or now) - now, 0), period)
    if owed + interval > period + 1 then
        return {0, owed, now}
    end
    owed = math.ceil(owed + interval)
    redis.call('SET', KEYS[1], string.format('%.0f', now + owed), 'PX', math.ceil(owed / 1000))
    return {1, owed, now}
    """,
)
_USED: Final = Script("quota", "return redis.call('GET', KEYS[1]) or 0")
_ADD: Final = Script(
    "quota",
    """
    local used = redis.call('INCRBY', KEYS[1], ARGV[1])
    redis.call('EXPIRE', KEYS[1], ARGV[2])
    return used
    """,
)


class RedisCounters:
    """Counters on ``server``. If a connection breaks, an upload or its bytes may be counted twice."""

    step = _STEP

    def __init__(self, server: StateServer) -> None:
        self._server = server

    async def take(self, principal: str, rate: Rate) -> Taken:
        period = round(rate.period * _MICRO)
        allowed, owed, now = await self._server.run(_TAKE, [f"{PREFIX}rate:{_tag(principal)}"], period, rate.uploads)
        return taken(rate, allowed=bool(allowed), owed=owed / _MICRO, now=now / _MICRO)

    async def used(self, principal: str, day: int) -> int:
        return int(await self._server.run(_USED, [_bytes(principal, day)]))

    async def add(self, principal: str, day: int, size: int) -> int:
        return int(await self._server.run(_ADD, [_bytes(principal, day)], size, 2 * DAY))


def _bytes(principal: str, day: int) -> str:
    return f"{PREFIX}bytes:{day}:{_tag(principal)}"


def _tag(principal: str) -> str:
    # Surrogates are bytes of a name that are not UTF-8.
    return f"{{{hashlib.sha256(principal.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}}}"
