"""Checks that run at the same time: what an upload waits for, and which refusal counts."""

import asyncio
import contextlib
import socket
import threading

import pytest
from peers import ask, form, part, request

from aiorelay.checks.pipeline import checked
from aiorelay.checks.side_by_side import SideBySide, side_by_side
from aiorelay.errors import Refused, TooLarge
from aiorelay.multipart.form import Form, Part


class Scripted:
    """A check that waits for ``until`` and then refuses with ``why``, at the block ``at`` or at the end."""

    def __init__(self, name="", *, why=None, until=None, at=None):
        self.name = name
        self.why = why
        self.until = until
        self.at = at
        self.fed = []
        self.reached = asyncio.Event()
        self.cancelled = False
        self.closed = 0

    async def feed(self, chunk):
        self.fed.append(chunk)
        if chunk == self.at:
            await self.decide()

    async def finish(self):
        if self.at is None:
            await self.decide()

    async def close(self):
        self.closed += 1

    async def decide(self):
        self.reached.set()
        try:
            if self.until is not None:
                await self.until.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        if self.why is not None:
            raise Refused(self.why)


async def judge(*checks, blocks=(b"1", b"2", b"3")):
    """Feed a file to checks side by side. Return the refusal and the number of blocks that it came after."""
    check = SideBySide(checks)
    read = 0
    try:
        for block in blocks:
            read += 1
            await check.feed(block)
        await check.finish()
    except Refused as refusal:
        return refusal.detail, read
    finally:
        await check.close()
        assert [each.closed for each in checks] == [1] * len(checks)
    return None, read


async def test_verdicts_are_awaited_at_the_same_time():
    first = Scripted()
    second = Scripted(until=first.reached)
    first.until = second.reached
    assert await judge(first, second) == (None, 3)


async def test_a_block_is_fed_to_every_check_at_the_same_time():
    first = Scripted(at=b"1")
    second = Scripted(until=first.reached, at=b"1")
    first.until = second.reached
    assert await judge(first, second) == (None, 3)


async def test_the_next_block_waits_for_the_slowest_check():
    release = asyncio.Event()
    quick, slow = Scripted(), Scripted(until=release, at=b"1")
    judging = asyncio.create_task(judge(quick, slow))
    await slow.reached.wait()
    for _ in range(10):
        await asyncio.sleep(0)
    assert (quick.fed, slow.fed) == ([b"1"], [b"1"])
    release.set()
    assert await judging == (None, 3)


@pytest.mark.parametrize("quicker", ["first", "second"])
@pytest.mark.parametrize("at", [b"1", None], ids=["at a block", "at the end"])
async def test_the_first_of_two_refusals_in_order_counts_whichever_is_quicker(quicker, at):
    first, second = Scripted(why="first", at=at), Scripted(why="second", at=at)
    if quicker == "second":
        first.until = second.reached
    else:
        second.until = first.reached
    assert (await judge(first, second))[0] == "first"


async def test_a_refusal_at_the_end_precedes_one_at_a_block_if_its_check_comes_first():
    first, second, third = Scripted(why="first"), Scripted(why="second", at=b"1"), Scripted()
    assert await judge(first, second, third) == ("first", 3)
    assert (first.fed, second.fed, third.fed) == ([b"1", b"2", b"3"], [b"1"], [b"1"])


async def test_a_refusal_is_raised_when_the_checks_before_it_have_passed_the_file():
    assert await judge(Scripted(), Scripted(why="second", at=b"1"), Scripted(why="third")) == ("second", 3)


async def test_a_refusal_of_the_first_check_is_raised_at_once_and_ends_the_others():
    hanging = Scripted(until=asyncio.Event(), at=b"2")
    assert await judge(Scripted(why="first", until=hanging.reached, at=b"2"), hanging) == ("first", 2)
    assert hanging.cancelled


async def test_a_refusal_at_the_end_ends_the_verdicts_after_it():
    hanging = Scripted(until=asyncio.Event())
    assert await judge(Scripted(), Scripted(why="second", until=hanging.reached), hanging) == ("second", 3)
    assert hanging.cancelled


async def test_a_cancellation_ends_every_check():
    checks = [Scripted(until=asyncio.Event(), at=b"2") for _ in range(2)]
    judging = asyncio.create_task(judge(*checks))
    for check in checks:
        await check.reached.wait()
    judging.cancel()
    with pytest.raises(asyncio.CancelledError):
        await judging
    assert [check.cancelled for check in checks] == [True, True]


# -- factories


def refuse_at_once(_part):
    raise TooLarge("too large")


def a_form(*blocks):
    async def chunks():
        for block in blocks:
            yield block

    async def parts():
        yield Part("somefile", "a.bin", None, None, chunks())

    return Form(b"b", parts(), None)


async def read(form_of_parts):
    return [b"".join([chunk async for chunk in each.chunks]) async for each in form_of_parts.parts]


async def test_without_checks_there_is_none():
    part_of_form = await anext(a_form().parts)
    assert side_by_side([])(part_of_form) is None
    assert side_by_side([lambda _: None])(part_of_form) is None


async def test_a_single_check_stays_the_same_object():
    check = Scripted()
    assert side_by_side([lambda _: None, lambda _: check])(await anext(a_form().parts)) is check


async def test_a_factory_that_refuses_is_told_after_the_checks_before_it():
    passing, refusing = Scripted(), Scripted(why="first")
    with pytest.raises(TooLarge):
        await read(checked(a_form(b"1", b"2"), [side_by_side([lambda _: passing, refuse_at_once])]))
    assert (passing.fed, passing.closed) == ([b"1", b"2"], 1)
    with pytest.raises(Refused):
        await read(checked(a_form(b"1", b"2"), [side_by_side([lambda _: refusing, refuse_at_once])]))


async def test_a_factory_that_refuses_first_is_told_at_once():
    with pytest.raises(TooLarge):
        await anext(checked(a_form(), [side_by_side([refuse_at_once, lambda _: Scripted()])]).parts)


# -- over sockets

MEETING = threading.Barrier(2, timeout=60)
SECOND_REFUSES = threading.Event()


class Meeting:
    """A validator whose verdict waits until the verdict of another one is awaited too."""

    def __init__(self, file):
        pass

    def feed(self, chunk):
        pass

    def finish(self):
        MEETING.wait()


class MeetingToo(Meeting):
    """The same, as another validator."""


class RefusesLast(Meeting):
    def finish(self):
        SECOND_REFUSES.wait(60)
        raise Refused("the first in order")


class RefusesFirst(Meeting):
    def feed(self, _chunk):
        SECOND_REFUSES.set()
        raise Refused("the second in order")


UPLOAD = request("/upload1", form(part("somefile", b"bytes", "a.bin")))
SCANNED = threading.Event()


class AfterTheScanner(Meeting):
    def finish(self):
        if not SCANNED.wait(60):
            raise Refused("the scanner did not get the whole file meanwhile")


@contextlib.asynccontextmanager
async def slow_scanner(verdict):
    """A ClamAV daemon that replies when ``verdict`` is set; ``SCANNED`` is set when it has a whole file."""

    async def handle(reader, writer):
        with contextlib.closing(writer):
            await reader.readexactly(len(b"zINSTREAM\0"))
            while length := int.from_bytes(await reader.readexactly(4)):
                await reader.readexactly(length)
            SCANNED.set()
            await verdict.wait()
            writer.write(b"stream: OK\0")
            await writer.drain()

    async with await asyncio.start_server(handle, "127.0.0.1", 0, family=socket.AF_INET) as server:
        yield "{}:{}".format(*server.sockets[0].getsockname())


async def test_two_validators_give_their_verdicts_at_the_same_time(aiorelay_server):
    chain = await aiorelay_server(validator=[f"{__name__}:Meeting", f"{__name__}:MeetingToo"])
    assert (await ask(chain.rest1, chain.tls, UPLOAD)).status == 200


async def test_of_two_validators_that_refuse_the_first_in_order_counts(aiorelay_server):
    chain = await aiorelay_server(validator=[f"{__name__}:RefusesLast", f"{__name__}:RefusesFirst"])
    answer = await ask(chain.rest1, chain.tls, UPLOAD)
    assert (answer.status, answer.json()["detail"]) == (422, "the first in order")


async def test_a_validator_does_not_wait_for_the_scanner(aiorelay_server):
    verdict = asyncio.Event()
    async with slow_scanner(verdict) as address:
        chain = await aiorelay_server(clamd=address, validator=[f"{__name__}:AfterTheScanner"])
        asking = asyncio.create_task(ask(chain.rest1, chain.tls, UPLOAD))
        await asyncio.to_thread(SCANNED.wait, 60)
        verdict.set()
        assert (await asking).status == 200
