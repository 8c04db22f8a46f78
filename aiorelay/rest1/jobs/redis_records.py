"""Keep the records of jobs in Redis, for all relays that share it.

    aiorelay:1:{jobs}:job:ID     hash: the record, its version, whether the job has ended or is to be cancelled, which
                                 relay tells that it is lost (teller, until) and whether it has (told); also the name of
                                 a channel, with a message for each new version
    aiorelay:1:{jobs}:running    sorted set: the jobs that run, by the time until which their relay has said so
    aiorelay:1:{jobs}:ended      sorted set: the others, by the time of their end

A relay renews its jobs at short intervals. If it has not done so for the length of a lease, they are lost. Times are
milliseconds of the server's clock. A server that has just started may know too little: its jobs have not been renewed
yet, or it has forgotten all of them and is told again.

A lost job is told by one of the relays, which marks it as its own for the length of a lease, tells it, and marks it as
told. If that relay ends in between, another one tells it.
"""

import asyncio
import contextlib
import math
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from aiorelay.errors import StateUnavailable
from aiorelay.observability.logs import log
from aiorelay.rest1.jobs.records import ID, Record, lost, too_many_jobs
from aiorelay.state.server import PREFIX, Script, StateServer

__all__ = ["RedisJobRecords"]

_HOUR: Final = 3600.0
_LEASE: Final = 5.0
_INTERVAL: Final = 0.5
# Seconds after its start within which a server is told again what it has forgotten.
_RECOVERY: Final = 2.0
# How often a relay looks for jobs of relays that have ended.
_LOSS_INTERVAL: Final = 2.0
# Seconds after which a lost job is told. Those who ask see it earlier, but they may ask again: a relay that could not
# reach the server for a moment still runs its jobs.
_LOSS_PATIENCE: Final = 30.0
# How often a job is looked at of which no message comes: its relay may have ended, or the message was lost.
_LOOK_INTERVAL: Final = 1.0

_JOB: Final = f"{PREFIX}{{jobs}}:job:"
_SETS: Final = (f"{PREFIX}{{jobs}}:running", f"{PREFIX}{{jobs}}:ended")

_NOW: Final = """
    local time = redis.call('TIME')
    local now = time[1] * 1000 + math.floor(time[2] / 1000)
"""

_UPTIME: Final = "(tonumber(string.match(redis.call('INFO', 'server'), 'uptime_in_seconds:(%d+)')) or 1000000)"

# 1, or 0 if as many jobs are running as may be.
_START: Final = Script(
    "job-start",
    _NOW
    + """
    local running, ended, job = KEYS[1], KEYS[2], KEYS[3]
    local id, record, version = ARGV[1], ARGV[2], ARGV[3]
    local lease, kept, most, prefix = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6]), ARGV[7]
    redis.call('ZREMRANGEBYSCORE', ended, '-inf', now - kept)
    while redis.call('ZCARD', running) + redis.call('ZCARD', ended) >= most do
        local first = redis.call('ZPOPMIN', ended)[1]
        if not first then
            return 0
        end
        redis.call('DEL', prefix .. first)
    end
    redis.call('HSET', job, 'record', record, 'version', version)
    redis.call('PEXPIRE', job, kept + lease)
    redis.call('ZADD', running, now + lease, id)
    redis.call('PEXPIRE', running, kept + lease)
    redis.call('PEXPIRE', ended, kept + lease)
    return 1
    """,
)

# The ids that the server does not know, and those that are to be cancelled.
_RENEW: Final = Script(
    "job-renew",
    _NOW
    + """
    local running, ended = KEYS[1], KEYS[2]
    local lease, kept, prefix = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3]
    local unknown, cancelled = {}, {}
    for at = 4, #ARGV, 3 do
        local id, version, record = ARGV[at], tonumber(ARGV[at + 1]), ARGV[at + 2]
        local job = prefix .. id
        local known = redis.call('HMGET', job, 'version', 'ended', 'cancel')
        if not known[2] then
            if record ~= '' and tonumber(known[1] or 0) < version then
                redis.call('HSET', job, 'record', record, 'version', version)
                redis.call('PUBLISH', job, version)
            elseif not known[1] then
                unknown[#unknown + 1] = id
            end
            if known[3] then
                cancelled[#cancelled + 1] = id
            end
            redis.call('PEXPIRE', job, kept + lease)
            redis.call('ZREM', ended, id)
            redis.call('ZADD', running, now + lease, id)
        end
    end
    redis.call('PEXPIRE', running, kept + lease)
    return {unknown, cancelled}
    """,
)

_END: Final = Script(
    "job-end",
    _NOW
    + """
    local running, ended, job = KEYS[1], KEYS[2], KEYS[3]
    local id, record, version, kept = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
    redis.call('HSET', job, 'record', record, 'version', version, 'ended', 1)
    redis.call('PEXPIRE', job, kept)
    redis.call('ZREM', running, id)
    redis.call('ZADD', ended, now, id)
    redis.call('PEXPIRE', ended, kept)
    redis.call('PUBLISH', job, version)
    """,
)

# The record or nil; whether its relay lives; and for how many seconds the server is up, where that matters.
_FIND: Final = Script(
    "job-find",
    _NOW
    + """
    local known = redis.call('HMGET', KEYS[2], 'record', 'ended')
    local renewed = redis.call('ZSCORE', KEYS[1], ARGV[1])
    if known[2] or (known[1] and renewed and tonumber(renewed) >= now) then
        return {known[1], 1, 0}
    end
    """
    + f"return {{known[1], 0, {_UPTIME}}}",
)

# The records of lost jobs that this relay is to tell.
_LOST: Final = Script(
    "job-lost",
    _NOW
    + f"""
    local running, ended = KEYS[1], KEYS[2]
    local teller, lease, patience, prefix = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
    local late = redis.call('ZRANGEBYSCORE', running, '-inf', '(' .. (now - patience), 'LIMIT', 0, 100)
    if #late == 0 or {_UPTIME} * 1000 <= lease then
        return {{}}
    end
    """
    + """
    local lost = {}
    for _, id in ipairs(late) do
        local job = prefix .. id
        local record, told, other, till = unpack(redis.call('HMGET', job, 'record', 'told', 'teller', 'until'))
        if told or not record then
            redis.call('ZADD', ended, redis.call('ZSCORE', running, id), id)
            redis.call('ZREM', running, id)
        elseif not other or other == teller or tonumber(till) < now then
            redis.call('HSET', job, 'teller', teller, 'until', now + lease)
            lost[#lost + 1] = record
        end
    end
    return lost
    """,
)

_TOLD: Final = Script(
    "job-told",
    _NOW
    + """
    local running, ended, job, id = KEYS[1], KEYS[2], KEYS[3], ARGV[1]
    if redis.call('EXISTS', job) == 1 then
        redis.call('HSET', job, 'told', 1)
    end
    local renewed = redis.call('ZSCORE', running, id)
    if renewed and tonumber(renewed) < now then
        redis.call('ZADD', ended, renewed, id)
        redis.call('ZREM', running, id)
    end
    """,
)

_CANCEL: Final = Script(
    "job-cancel",
    """
    if redis.call('EXISTS', KEYS[1]) == 1 then
        redis.call('HSET', KEYS[1], 'cancel', 1)
    end
    """,
)


class RedisJobRecords:
    """The records of at most ``most`` jobs on ``server``, each kept for ``kept`` seconds after its end.

    See ``JobRecords``. ``lease`` is how long the jobs of a relay that has ended count as running, in seconds.
    ``on_lost`` is called with each job that is lost, in one of the relays, and again if that relay ends at this moment.
    """

    interval = _INTERVAL

    def __init__(
        self,
        server: StateServer,
        *,
        most: int,
        kept: float = _HOUR,
        lease: float = _LEASE,
        on_lost: Callable[[Record], object] = lambda _record: None,
    ) -> None:
        self._server = server
        self._most = most
        self._kept = math.ceil(kept * 1000)
        self._lease = math.ceil(lease * 1000)
        self._on_lost = on_lost
        self._teller = secrets.token_hex(16)
        self._looked = -math.inf  # when for lost jobs
        self._written: dict[str, int] = {}  # the versions that the server has
        self._unwritten: dict[str, Record] = {}  # how jobs ended while the server was away

    async def open(self) -> None:
        """There is nothing to take over: leases run out by themselves."""

    async def close(self) -> None:
        """Try once more to write down what could not be."""
        await self._write_unwritten()
        if self._unwritten:
            log.warning("the ends of %d jobs could not be recorded", len(self._unwritten))

    async def start(self, record: Record) -> None:
        if not await self._start(record):
            await self._tell_lost(patience=0)  # which makes room
            if not await self._start(record):
                raise too_many_jobs()

    async def end(self, record: Record) -> None:
        self._written.pop(record.id, None)
        self._unwritten[record.id] = record
        await self._write_unwritten()

    async def renew(self, running: Sequence[Record]) -> set[str]:
        cancelled: set[str] = set()
        if self._unwritten:
            await self._write_unwritten()
        with contextlib.suppress(StateUnavailable):
            if running:
                cancelled = await self._renew(running)
            now = asyncio.get_running_loop().time()
            if now >= self._looked + _LOSS_INTERVAL:
                self._looked = now
                await self._tell_lost(_LOSS_PATIENCE)
        return cancelled

    async def find(self, identity: str) -> Record | None:
        if identity in self._unwritten:
            return self._unwritten[identity]
        if not ID.fullmatch(identity):
            return None
        text, alive, up = await self._server.run(_FIND, [_SETS[0], _JOB + identity], identity)
        if text is None and up <= _RECOVERY:
            raise StateUnavailable("The relay does not know yet whether there is such a job. Try again.")
        if text is None:
            return None
        record = Record.from_json(text)
        return record if alive or up * 1000 <= self._lease else lost(record)

    async def news(self, identity: str, version: int) -> Record | None:
        async with self._server.channels.listening(_JOB + identity) as heard:
            while True:
                heard.clear()
                with contextlib.suppress(StateUnavailable):
                    record = await self.find(identity)
                    if record is None or record.version > version:
                        return record
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_LOOK_INTERVAL):
                        await heard.wait()

    async def request_cancellation(self, identity: str) -> None:
        await self._server.run(_CANCEL, [_JOB + identity])

    async def _start(self, record: Record) -> bool:
        """Write down a job that begins, and return whether there is room for it."""
        arguments = (record.id, record.to_json(), record.version, self._lease, self._kept, self._most, _JOB)
        return bool(await self._server.run(_START, [*_SETS, _JOB + record.id], *arguments))

    async def _tell_lost(self, patience: float) -> None:
        """Tell which jobs have been lost for at least ``patience`` seconds, unless another relay does."""
        arguments = (self._teller, self._lease, math.ceil(patience * 1000), _JOB)
        for text in await self._server.run(_LOST, _SETS, *arguments):
            record = replace(lost(Record.from_json(text)), ended=time.time())
            self._on_lost(record)
            await self._server.run(_TOLD, [*_SETS, _JOB + record.id], record.id)

    async def _renew(self, running: Sequence[Record]) -> set[str]:
        arguments: list[str | int] = []
        for record in running:
            changed = self._written.get(record.id) != record.version
            arguments += [record.id, record.version, record.to_json() if changed else ""]
        unknown, cancelled = await self._server.run(_RENEW, _SETS, self._lease, self._kept, _JOB, *arguments)
        self._written = {record.id: record.version for record in running}
        for identity in unknown:
            self._written.pop(identity.decode(), None)  # written again next time
        return {identity.decode() for identity in cancelled}

    async def _write_unwritten(self) -> None:
        for record in list(self._unwritten.values()):
            arguments = (record.id, record.to_json(), record.version, self._kept)
            try:
                await self._server.run(_END, [*_SETS, _JOB + record.id], *arguments)
            except StateUnavailable:
                return
            self._unwritten.pop(record.id, None)
