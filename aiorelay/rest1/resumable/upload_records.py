"""The records of unfinished uploads in Redis: what they are, how many bytes they have, and who may append.

    aiorelay:1:{uploads}:upload:ID      hash: the record and the fields below; also the name of a channel, with a
                                        message when a request claims the upload or gives it back
    aiorelay:1:{uploads}:segments:ID    list: the bytes that count of each segment, and its name
    aiorelay:1:{uploads}:expiry         sorted set: the uploads by the time at which they are to be swept
    aiorelay:1:{uploads}:used           the bytes of all uploads
    aiorelay:1:{uploads}:listed         is there while no relay has to list the segments of all uploads

    record, length, size, written       as JSON; bytes or nothing; bytes; the time of the last byte
    ended, outcome                      the time of the end; how it ended, as JSON
    claim                               the number of the newest claim: each request that appends has one
    holder, until, delivering           the claim that has the upload, the end of its lease, whether it delivers

A claim is a fencing token: what a request writes counts only while it holds the upload. Times are milliseconds of the
server's clock.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

from aiorelay.errors import StorageFull
from aiorelay.rest1.resumable.unfinished import Upload
from aiorelay.state.server import PREFIX, Script, StateServer

__all__ = [
    "DELIVERING",
    "HELD",
    "ID",
    "OVER",
    "SUPERSEDED",
    "TAKEN",
    "FoundUpload",
    "Lives",
    "Segment",
    "UploadRecords",
    "channel",
]

ID: Final = re.compile(r"[A-Za-z0-9_-]{32}")
"""The ids of uploads."""

_TAG: Final = f"{PREFIX}{{uploads}}:"
_TOTALS: Final = (f"{_TAG}expiry", f"{_TAG}used")
_LISTED: Final = f"{_TAG}listed"

_NOW: Final = """
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    local upload, segments, expiry, used = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
    local function expire(after)
        for _, key in ipairs(KEYS) do
            local longest = math.max(after + 86400000, redis.call('PTTL', key))
            redis.call('PEXPIRE', key, longest)
        end
    end
"""
_MINE: Final = (
    _NOW
    + """
    if redis.call('HGET', upload, 'holder') ~= ARGV[1] or redis.call('HEXISTS', upload, 'ended') == 1 then
        return -1
    end
    """
)

# The time, or -1 without room.
_CREATE: Final = Script(
    "upload-create",
    _NOW
    + """
    local id, record, length, size, room, quota, lives = unpack(ARGV)
    if tonumber(redis.call('GET', used) or 0) + room > tonumber(quota) then
        return -1
    end
    if redis.call('EXISTS', upload) == 0 then
        redis.call('INCRBY', used, size)
    end
    redis.call('HSET', upload, 'record', record, 'length', length, 'size', size, 'written', now)
    redis.call('ZADD', expiry, now + lives, id)
    expire(lives)
    return now
    """,
)
_FIND: Final = Script(
    "upload-find",
    _NOW
    + """
    local known = redis.call('HMGET', upload, 'record', 'length', 'size', 'written', 'ended', 'outcome', 'until')
    known[8] = now
    return known
    """,
)
# The claim; 0 or 1 if the upload is held, 1 by one that delivers; 2 if it is taken now; 3 if a newer claim has come.
_CLAIM: Final = Script(
    "upload-claim",
    _NOW
    + """
    local lease, mine = tonumber(ARGV[1]), tonumber(ARGV[2])
    local ended, newest, holder, ends, delivering =
        unpack(redis.call('HMGET', upload, 'ended', 'claim', 'holder', 'until', 'delivering'))
    if ended or redis.call('EXISTS', upload) == 0 then
        return {0, 4}
    end
    if mine == 0 then
        mine = redis.call('HINCRBY', upload, 'claim', 1)
    elseif tonumber(newest) > mine then
        return {mine, 3}
    end
    if holder and tonumber(holder) ~= mine and tonumber(ends) >= now then
        redis.call('PUBLISH', upload, mine)
        return {mine, tonumber(delivering)}
    end
    redis.call('HSET', upload, 'holder', mine, 'until', now + lease, 'delivering', 0)
    return {mine, 2}
    """,
)
# The newest claim, or -1 if the upload is not held by this one.
_RENEW: Final = Script(
    "upload-renew",
    _MINE
    + """
    redis.call('HSET', upload, 'until', now + ARGV[2], 'delivering', ARGV[3])
    return tonumber(redis.call('HGET', upload, 'claim'))
    """,
)
_RELEASE: Final = Script(
    "upload-release",
    _NOW
    + """
    if redis.call('HGET', upload, 'holder') == ARGV[1] then
        redis.call('HDEL', upload, 'holder', 'until', 'delivering')
        redis.call('PUBLISH', upload, ARGV[1])
    end
    """,
)
# The size, -1 if the upload is not held by this claim, -2 without room.
_APPEND: Final = Script(
    "upload-append",
    _MINE
    + """
    local _, lease, entry, size, quota, lives, id = unpack(ARGV)
    if redis.call('LINDEX', segments, -1) ~= entry then
        if tonumber(redis.call('GET', used) or 0) + size > tonumber(quota) then
            return -2
        end
        redis.call('RPUSH', segments, entry)
        redis.call('HINCRBY', upload, 'size', size)
        redis.call('INCRBY', used, size)
    end
    redis.call('HSET', upload, 'written', now, 'until', now + lease)
    redis.call('ZADD', expiry, now + lives, id)
    expire(lives)
    return tonumber(redis.call('HGET', upload, 'size'))
    """,
)
# 1, or -1. Keeps so many entries, of which the last one may be replaced.
_TRUNCATE: Final = Script(
    "upload-truncate",
    _MINE
    + """
    local _, size, kept, last = unpack(ARGV)
    redis.call('INCRBY', used, size - redis.call('HGET', upload, 'size'))
    redis.call('HSET', upload, 'size', size)
    if tonumber(kept) == 0 then
        redis.call('DEL', segments)
    else
        redis.call('LTRIM', segments, 0, kept - 1)
        redis.call('LSET', segments, -1, last)
    end
    return 1
    """,
)
_SET_LENGTH: Final = Script("upload-length", _MINE + "redis.call('HSET', upload, 'length', ARGV[2]) return 1")
_SEGMENTS: Final = Script("upload-segments", "return redis.call('LRANGE', KEYS[2], 0, -1)")
# The time, or -1. How a delivery has ended is a fact, also if another request holds the upload by then: that needs no
# claim (0).
_END: Final = Script(
    "upload-end",
    _NOW
    + """
    local mine, id, outcome, kept = unpack(ARGV)
    if redis.call('EXISTS', upload) == 0 then
        return -1
    end
    if redis.call('HEXISTS', upload, 'ended') == 0 then
        if mine ~= '0' and redis.call('HGET', upload, 'holder') ~= mine then
            return -1
        end
        redis.call('HSET', upload, 'ended', now)
        if outcome ~= '' then
            redis.call('HSET', upload, 'outcome', outcome)
        end
        redis.call('DECRBY', used, redis.call('HGET', upload, 'size'))
    elseif outcome == '' then
        redis.call('HDEL', upload, 'outcome')
    end
    redis.call('HDEL', upload, 'holder', 'until', 'delivering')
    redis.call('DEL', segments)
    redis.call('ZREM', expiry, id)
    redis.call('PEXPIRE', upload, kept)
    redis.call('PUBLISH', upload, mine)
    return tonumber(redis.call('HGET', upload, 'ended'))
    """,
)
# The uploads that have expired; a request that holds one is left alone.
_DUE: Final = Script(
    "upload-due",
    """
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
    local due = {}
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, 100)) do
        local ends = redis.call('HGET', ARGV[1] .. id, 'until')
        if not ends or tonumber(ends) < now then
            due[#due + 1] = id
        end
    end
    return due
    """,
)
_FORGET: Final = Script("upload-forget", "redis.call('ZREM', KEYS[1], ARGV[1])")
_LIST: Final = Script("upload-list", "return redis.call('SET', KEYS[1], 1, 'NX', 'PX', ARGV[1]) and 1 or 0")

HELD, DELIVERING, TAKEN, SUPERSEDED, OVER = range(5)


@dataclass(frozen=True, slots=True)
class Segment:
    """The first ``size`` bytes of the segment ``name``."""

    size: int
    name: str

    @property
    def entry(self) -> str:
        return f"{self.size} {self.name}"

    @classmethod
    def of(cls, entry: bytes) -> "Segment":
        size, _, name = entry.decode().partition(" ")
        return cls(int(size), name)


@dataclass(frozen=True, slots=True)
class FoundUpload:
    """An upload as it was found at the time ``now``, in seconds since the epoch. ``is_held``: a request has it."""

    upload: Upload
    now: float
    is_held: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Lives:
    """How long things are kept, in seconds: uploads after their last byte, the records of ended ones, and leases."""

    expiry: float
    kept: float
    lease: float


class UploadRecords:
    """The records on ``server``. All uploads together may have ``quota`` bytes.

    Methods raise ``StateUnavailable``. Those that take a ``claim`` return -1 if it does not hold the upload any more.
    """

    def __init__(self, server: StateServer, quota: int, lives: Lives) -> None:
        self.channels = server.channels
        self.lives = lives
        self._server = server
        self._quota = quota
        self._expiry, self._kept, self._lease = (
            math.ceil(each * 1000) for each in (lives.expiry, lives.kept, lives.lease)
        )

    async def create(self, upload: Upload) -> float:
        """Write down a new upload, and return the time. Raises ``StorageFull`` without room for its length."""
        length = "" if upload.length is None else upload.length
        room = 1 if upload.length is None else upload.length - upload.size
        arguments = (upload.id, _static(upload), length, upload.size, room, self._quota, self._expiry)
        now = await self._run(_CREATE, upload.id, *arguments)
        if now < 0:
            raise StorageFull("The server keeps as many bytes of unfinished uploads as it may; try again later.")
        return float(now) / 1000

    async def find(self, identity: str) -> FoundUpload | None:
        """Return the record of an upload, or None if there is none."""
        record, length, size, written, ended, outcome, until, now = await self._run(_FIND, identity)
        if record is None:
            return None
        expires = int(written) / 1000 + self.lives.expiry if ended is None else int(ended) / 1000 + self.lives.kept
        members = json.loads(record)
        known = {field.name for field in fields(Upload)}
        upload = Upload(
            **{
                **{name: value for name, value in members.items() if name in known},
                "id": identity,
                "length": int(length) if length else None,
                "size": int(size),
                "expires": expires,
                "ended": None if ended is None else int(ended) / 1000,
                "outcome": None if outcome is None else json.loads(outcome),
            }
        )
        return FoundUpload(upload, now / 1000, until is not None and int(until) >= now)

    async def claim(self, identity: str, claim: int) -> tuple[int, int]:
        """Claim an upload, for the first time (0) or again; return the claim and what has become of it."""
        number, result = await self._run(_CLAIM, identity, self._lease, claim)
        return int(number), int(result)

    async def renew(self, identity: str, claim: int, *, delivering: bool) -> int:
        """Hold the upload for another lease, and return the newest claim."""
        return int(await self._run(_RENEW, identity, claim, self._lease, int(delivering)))

    async def release(self, identity: str, claim: int) -> None:
        await self._run(_RELEASE, identity, claim)

    async def append(self, identity: str, claim: int, segment: Segment) -> int:
        """Append a segment that is kept, and return the size of the upload then. Raises ``StorageFull``."""
        arguments = (self._lease, segment.entry, segment.size, self._quota, self._expiry, identity)
        size = int(await self._run(_APPEND, identity, claim, *arguments))
        if size == -2:
            raise StorageFull("The server keeps as many bytes of unfinished uploads as it may; try again later.")
        return size

    async def segments(self, identity: str) -> list[Segment]:
        return [Segment.of(entry) for entry in await self._run(_SEGMENTS, identity)]

    async def truncate(self, identity: str, claim: int, segments: Sequence[Segment]) -> int:
        """Keep these of the segments, and so many bytes of the last one."""
        last = segments[-1].entry if segments else ""
        size = sum(segment.size for segment in segments)
        return int(await self._run(_TRUNCATE, identity, claim, size, len(segments), last))

    async def set_length(self, identity: str, claim: int, length: int) -> int:
        return int(await self._run(_SET_LENGTH, identity, claim, length))

    async def end(self, identity: str, claim: int, outcome: dict[str, Any] | None) -> float:
        """Write down how an upload ended, and return the time. An outcome needs no claim."""
        text = "" if outcome is None else json.dumps(outcome)
        ended = int(await self._run(_END, identity, claim, identity, text, self._kept))
        return ended if ended < 0 else ended / 1000

    async def due(self) -> list[str]:
        """Return the ids of some uploads that have expired."""
        due = await self._server.run(_DUE, _TOTALS[:1], channel(""))
        return [identity.decode() for identity in due]

    async def forget(self, identity: str) -> None:
        """Do not return an upload from ``due`` any more."""
        await self._server.run(_FORGET, _TOTALS[:1], identity)

    async def may_list(self, interval: float) -> bool:
        """Return True to the first relay that asks in so many seconds: it lists the segments of all uploads."""
        return bool(await self._server.run(_LIST, [_LISTED], math.ceil(interval * 1000)))

    async def _run(self, script: Script, identity: str, *arguments: str | int) -> Any:
        return await self._server.run(script, [channel(identity), f"{_TAG}segments:{identity}", *_TOTALS], *arguments)


def channel(identity: str) -> str:
    """Return the channel of an upload."""
    return f"{_TAG}upload:{identity}"


def _static(upload: Upload) -> str:
    members = asdict(upload)
    return json.dumps({name: members[name] for name in ("owner", "protocol", "created", "request", "partial")})
