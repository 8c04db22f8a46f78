"""Decide whether a principal may upload now, and describe that to clients. Pure.

The rate is limited by the generic cell rate algorithm (GCRA): one number for each principal, the theoretical arrival
time, says when all of its uploads will be available again. The fields are those of
draft-ietf-httpapi-ratelimit-headers-11.
"""

import ipaddress
import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Final

import http_sf

__all__ = ["DAY", "Rate", "Taken", "fields", "principal", "seconds_left_today", "take", "taken"]

DAY: Final = 86_400
"""The seconds of a day."""

_IPV6_CLIENT: Final = 64
# Of a rounding error: less than the shortest time that a setting can name.
_TOLERANCE: Final = 1e-6
_POLICY: Final = "uploads"
_Parameters = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rate:
    """At most ``uploads`` at once after a pause of ``period`` seconds, and on average as many in each period."""

    uploads: int
    period: float


@dataclass(frozen=True, slots=True)
class Taken:
    """The answer to a request for one upload.

    ``arrival`` is the new theoretical arrival time. ``remaining`` uploads are available now, and one more in ``wait``
    seconds.
    """

    allowed: bool
    arrival: float
    remaining: int
    wait: float


def take(rate: Rate, arrival: float, now: float) -> Taken:
    """Take one upload at the time ``now``, both times in seconds on the same clock.

    ``arrival`` is what the last call for the principal returned. Any time that has passed stands for a new principal.
    """
    interval = rate.period / rate.uploads
    owed = min(max(arrival - now, 0.0), rate.period)
    allowed = owed + interval <= rate.period + _TOLERANCE
    owed += interval if allowed else 0.0
    return taken(rate, allowed=allowed, owed=owed, now=now)


def taken(rate: Rate, *, allowed: bool, owed: float, now: float) -> Taken:
    """Return the answer to a request after which all uploads will be available again ``owed`` seconds after ``now``."""
    interval = rate.period / rate.uploads
    remaining = max(math.floor((rate.period - owed) / interval + _TOLERANCE), 0)
    wait = max(owed + (remaining + 1) * interval - rate.period, 0.0)
    return Taken(allowed, now + owed, remaining, wait)


def fields(rate: Rate, taken: Taken) -> dict[str, str]:
    """Return the header fields RateLimit-Policy and RateLimit. Seconds are rounded up."""
    policy: _Parameters = {"q": rate.uploads, "w": math.ceil(rate.period)}
    limit: _Parameters = {"r": taken.remaining, "t": math.ceil(taken.wait)}
    return {"RateLimit-Policy": http_sf.ser([(_POLICY, policy)]), "RateLimit": http_sf.ser([(_POLICY, limit)])}


@lru_cache(maxsize=1024)
def principal(who: str | None, client: str) -> str:
    """Return whose limits a request counts towards: the name ``who``, or else the address ``client``.

    One subscriber usually has a whole /64 of IPv6 (RFC 6177), so all of its addresses count as one.
    """
    if who is not None:
        return f"name {who}"
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:
        return f"address {client}"
    if address.version == 4:
        return f"address {address}"
    if address.ipv4_mapped is not None:
        return f"address {address.ipv4_mapped}"
    return f"address {ipaddress.ip_network((int(address), _IPV6_CLIENT), strict=False)}"


def seconds_left_today(now: float) -> int:
    """Return how long the day in UTC lasts after the time ``now`` in seconds since the epoch, rounded up."""
    return DAY - math.floor(now % DAY)
