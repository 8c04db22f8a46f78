"""The protocol of checks: which bytes pass, which are held, when checks are closed, and what runs in threads."""

import asyncio
import itertools
import logging
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from aiorelay.checks.pipeline import Check, FirstBytesCheck, ThreadedCheck, checked, with_checks
from aiorelay.concurrency.double_buffer import PIECE
from aiorelay.errors import Internal, NotFound, Refused, TooLarge
from aiorelay.multipart.form import Form, Part


class Stream:
    """A source of blocks, which records whether it was read to its end or closed early."""

    def __init__(self, *blocks: bytes) -> None:
        self.blocks = blocks
        self.read = 0
        self.ended = False

    async def chunks(self) -> AsyncIterator[bytes]:
        try:
            for block in self.blocks:
                self.read += 1
                yield block
        finally:
            self.ended = True


def a_part(*blocks: bytes, filename: str | None = "a.bin", size: int | None = None) -> Part:
    return Part("somefile", filename, None, size, Stream(*blocks).chunks())


def a_form(*parts: Part) -> Form:
    async def in_order() -> AsyncGenerator[Part, None]:
        for part in parts:
            yield part

    return Form(b"b0undary", in_order(), 42)


class Recorder:
    """A check that records its calls, and refuses at the given place."""

    def __init__(self, *, objects_to: bytes | None = None, objects_at_end: bool = False) -> None:
        self.seen: list[bytes] = []
        self.finished = False
        self.closed = 0
        self.objects_to = objects_to
        self.objects_at_end = objects_at_end

    async def feed(self, chunk: bytes) -> None:
        self.seen.append(chunk)
        if chunk == self.objects_to:
            raise Refused("no such bytes")

    async def finish(self) -> None:
        self.finished = True
        if self.objects_at_end:
            raise Refused("not such a file")

    async def close(self) -> None:
        self.closed += 1


async def read(form: Form) -> list[tuple[str | None, bytes]]:
    return [(part.filename, b"".join([chunk async for chunk in part.chunks])) async for part in form.parts]


async def test_a_checked_form_keeps_its_boundary_length_order_and_bytes() -> None:
    form = checked(a_form(a_part(b"one", b"two"), a_part(b"three", filename="b.bin")), [lambda _: Recorder()])
    assert (form.boundary, form.length) == (b"b0undary", 42)
    assert await read(form) == [("a.bin", b"onetwo"), ("b.bin", b"three")]


def test_without_factories_the_form_is_the_same_object() -> None:
    form = a_form()
    assert checked(form, []) is form


async def test_a_part_without_checks_is_the_same_object() -> None:
    field, nameless = a_part(b"value", filename=None), a_part(filename="")
    passed = [part async for part in checked(a_form(field, nameless), [lambda _: None]).parts]
    assert passed[0] is field
    assert passed[1] is nameless


async def test_a_nameless_file_input_is_checked_if_it_has_bytes() -> None:
    made: list[Recorder] = []

    def maker(_: Part) -> Check:
        made.append(Recorder())
        return made[-1]

    form = checked(a_form(a_part(b"bytes", b"more", filename=""), a_part(filename="")), [maker])
    assert await read(form) == [("", b"bytesmore"), ("", b"")]
    assert [check.seen for check in made] == [[b"bytes", b"more"]]


async def test_a_nameless_file_input_keeps_its_first_block_where_no_check_is_made() -> None:
    form = checked(a_form(a_part(b"bytes", b"more", filename="")), [lambda _: None])
    assert await read(form) == [("", b"bytesmore")]


async def test_verdicts_on_the_form_are_asked_for_in_order_when_all_parts_have_ended() -> None:
    order: list[str] = []
    form = checked(a_form(a_part(b"one")), [], [lambda: order.append("first"), lambda: order.append("second")])
    part = await anext(form.parts)
    assert [chunk async for chunk in part.chunks] == [b"one"]
    assert order == []
    assert await anext(form.parts, None) is None
    assert order == ["first", "second"]


async def test_a_form_that_breaks_off_gets_no_verdict() -> None:
    async def broken() -> AsyncGenerator[Part, None]:
        yield a_part(b"one")
        raise TooLarge("broken")

    asked: list[bool] = []
    with pytest.raises(TooLarge):
        await read(checked(Form(b"b", broken(), None), [], [lambda: asked.append(True)]))
    assert asked == []


async def test_chunks_are_passed_on_as_they_are_fed() -> None:
    block, check = bytes(3), Recorder()
    part = with_checks(a_part(block, b"next"), [check])
    assert await anext(part.chunks) is block
    assert check.seen == [block]
    assert not check.finished


async def test_a_refused_block_is_not_passed_on() -> None:
    check = Recorder(objects_to=b"bad")
    part = with_checks(a_part(b"good", b"bad", b"after"), [check])
    assert await anext(part.chunks) == b"good"
    with pytest.raises(Refused, match="no such bytes"):
        await anext(part.chunks)
    assert await anext(part.chunks, None) is None
    assert check.closed == 1
    assert not check.finished


async def test_a_verdict_at_the_end_comes_before_the_end() -> None:
    check = Recorder(objects_at_end=True)
    part = with_checks(a_part(b"good"), [check])
    assert await anext(part.chunks) == b"good"
    with pytest.raises(Refused, match="not such a file"):
        await anext(part.chunks)
    assert check.closed == 1


async def test_a_refusal_by_a_factory_closes_other_checks_and_reads_nothing() -> None:
    check, stream = Recorder(), Stream(b"unread")

    def refuse(_: Part) -> Check:
        raise TooLarge("too large")

    form = checked(a_form(Part("f", "a", None, None, stream.chunks())), [lambda _: check, refuse])
    with pytest.raises(TooLarge):
        await anext(form.parts)
    assert (check.closed, stream.read) == (1, 0)


async def test_a_failing_source_closes_the_checks() -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"begun"
        raise ConnectionResetError

    check = Recorder()
    with pytest.raises(ConnectionResetError):
        await read(checked(a_form(Part("f", "a", None, None, broken())), [lambda _: check]))
    assert (check.closed, check.finished) == (1, False)


async def test_closing_a_form_half_way_closes_checks_and_sources() -> None:
    check, stream = Recorder(), Stream(b"one", b"two")
    form = checked(a_form(Part("f", "a", None, None, stream.chunks())), [lambda _: check])
    part = await anext(form.parts)
    await anext(part.chunks)
    await form.parts.aclose()
    assert check.closed == 1
    await part.chunks.aclose()  # type: ignore[attr-defined]
    assert stream.ended
    assert check.closed == 1


async def test_a_part_that_is_never_read_closes_its_checks() -> None:
    check = Recorder()
    parts = checked(
        a_form(a_part(b"one"), a_part(b"two", filename=None)), [lambda part: check if part.filename else None]
    )
    await anext(parts.parts)
    await anext(parts.parts)
    assert check.closed == 1


async def test_chunks_need_not_come_from_a_generator() -> None:
    class Twice:
        left = 2

        def __aiter__(self) -> "Twice":
            return self

        async def __anext__(self) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise StopAsyncIteration
            return b"block"

    part = Part("somefile", "", None, None, Twice())
    assert await read(checked(a_form(part), [lambda _: Recorder()])) == [("", b"blockblock")]


async def test_cancellation_half_way_closes_the_checks() -> None:
    waiting = asyncio.Event()

    async def silent() -> AsyncIterator[bytes]:
        yield b"begun"
        waiting.set()
        await asyncio.Event().wait()

    check = Recorder()
    task = asyncio.create_task(read(checked(a_form(Part("f", "a", None, None, silent())), [lambda _: check])))
    await waiting.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert check.closed == 1


class Heads:
    """The judge of a FirstBytesCheck, which records its arguments."""

    def __init__(self, *, refuses: bool = False) -> None:
        self.shown: list[bytes] = []
        self.refuses = refuses

    async def __call__(self, head: bytes) -> None:
        self.shown.append(head)
        if self.refuses:
            raise Refused("such a head")


@pytest.mark.parametrize(
    ("blocks", "head"),
    [
        ([b"abcdef"], b"abcd"),
        ([b"abcd"], b"abcd"),
        ([b"abc"], b"abc"),
        ([b"a", b"b", b"c", b"d", b"e"], b"abcd"),
        ([b"ab", b"cdef", b"g"], b"abcd"),
        ([], b""),
    ],
)
async def test_a_head_is_judged_once_and_every_byte_is_passed_on(blocks: list[bytes], head: bytes) -> None:
    judge = Heads()
    part = with_checks(a_part(*blocks), [FirstBytesCheck(judge, 4)])
    assert [chunk async for chunk in part.chunks] == blocks
    assert judge.shown == [head]


@pytest.mark.parametrize("blocks", [[b"abcdef", b"g"], [b"a", b"b", b"c", b"de"], [b"abc"]])
async def test_nothing_is_passed_on_before_a_head_is_judged(blocks: list[bytes]) -> None:
    part = with_checks(a_part(*blocks), [FirstBytesCheck(Heads(refuses=True), 4)])
    with pytest.raises(Refused):
        await anext(part.chunks)


async def test_the_block_that_completes_a_head_does_not_wait_for_the_next() -> None:
    stream = Stream(b"ab", b"cd", b"ef")
    part = with_checks(Part("f", "a", None, None, stream.chunks()), [FirstBytesCheck(Heads(), 4)])
    assert [await anext(part.chunks), await anext(part.chunks)] == [b"ab", b"cd"]
    assert stream.read == 2


# In a thread


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(2) as executor:
        yield executor


class Judge:
    """A validator that records its calls and their threads, and calls the given functions."""

    def __init__(
        self, at_feed: Callable[[bytes], object] = lambda _: None, at_end: Callable[[], object] = lambda: None
    ) -> None:
        self.seen: list[bytes] = []
        self.threads: set[threading.Thread] = set()
        self.at_feed = at_feed
        self.at_end = at_end
        self.finished = False

    def feed(self, chunk: bytes) -> None:
        self.threads.add(threading.current_thread())
        self.seen.append(chunk)
        self.at_feed(chunk)

    def finish(self) -> None:
        self.threads.add(threading.current_thread())
        self.finished = True
        self.at_end()


async def judged(check: Check, blocks: Iterable[bytes]) -> None:
    try:
        for block in blocks:
            await check.feed(block)
            await asyncio.sleep(0)
        await check.finish()
    finally:
        await check.close()


@pytest.mark.parametrize(
    "sizes",
    [
        [],
        [1],
        [PIECE - 1],
        [PIECE],
        [PIECE + 1],
        [100_000] * 21,
        [PIECE] * 3,
    ],
)
async def test_a_validator_gets_every_block_in_order_outside_the_loop(
    pool: ThreadPoolExecutor, sizes: list[int]
) -> None:
    judge, blocks = Judge(), [bytes([number]) * size for number, size in enumerate(sizes)]
    await judged(ThreadedCheck(judge, pool, name="judge"), blocks)
    assert judge.seen == blocks
    assert judge.finished
    assert threading.current_thread() not in judge.threads


@pytest.mark.parametrize(("size", "hops"), [(99, False), (100, True)])
async def test_a_file_below_inline_is_judged_on_the_loop(pool: ThreadPoolExecutor, size: int, hops: bool) -> None:  # noqa: FBT001
    judge = Judge()
    await judged(ThreadedCheck(judge, pool, name="judge", inline=100), [bytes(size)])
    assert judge.seen == [bytes(size)]
    assert (threading.current_thread() not in judge.threads) is hops


async def test_a_last_piece_below_inline_still_comes_after_those_before(pool: ThreadPoolExecutor) -> None:
    judge, blocks = Judge(), [bytes(PIECE), b"the rest"]
    await judged(ThreadedCheck(judge, pool, name="judge", inline=100), blocks)
    assert judge.seen == blocks
    assert threading.current_thread() not in judge.threads


async def test_a_slow_validator_delays_its_upload_but_not_the_loop(pool: ThreadPoolExecutor) -> None:
    """While the validator blocks, the event loop runs and the third piece waits: at most two are in memory."""
    entered, leave, events = asyncio.Event(), threading.Event(), []
    loop = asyncio.get_running_loop()

    def stand_still(_: bytes) -> None:
        loop.call_soon_threadsafe(entered.set)
        leave.wait()

    judge = Judge(stand_still)
    check = ThreadedCheck(judge, pool, name="judge")

    async def feed() -> None:
        for number in range(3):
            await check.feed(bytes(PIECE))
            events.append(f"piece {number} taken")
        await check.finish()
        events.append("finished")

    feeding = asyncio.create_task(feed())
    try:
        await entered.wait()
        for _ in range(100):
            await asyncio.sleep(0)
        events.append("the loop turned")
        assert len(judge.seen) == 1
    finally:
        leave.set()
    await feeding
    assert events == ["piece 0 taken", "the loop turned", "piece 1 taken", "piece 2 taken", "finished"]
    await check.close()


async def test_a_refusal_in_the_thread_is_raised_while_the_next_piece_is_gathered(pool: ThreadPoolExecutor) -> None:
    objected = asyncio.Event()
    loop = asyncio.get_running_loop()

    def object_(_: bytes) -> None:
        loop.call_soon_threadsafe(objected.set)
        raise Refused("why")

    check = ThreadedCheck(Judge(object_), pool, name="judge")
    await check.feed(bytes(PIECE))
    await objected.wait()
    fed = itertools.count(1)
    with pytest.raises(Refused, match="why"):
        await judged(check, (b"x" for _ in fed))
    assert next(fed) < PIECE


def fail_with(exception: BaseException) -> Callable[..., object]:
    def fail(*_: object) -> object:
        raise exception

    return fail


@pytest.mark.parametrize(
    "judge",
    [
        Judge(at_feed=fail_with(Refused("why"))),
        Judge(at_end=fail_with(Refused("why"))),
    ],
)
@pytest.mark.parametrize("inline", [0, 100])
async def test_a_refusal_is_passed_on_as_it_is(pool: ThreadPoolExecutor, judge: Judge, inline: int) -> None:
    with pytest.raises(Refused, match="why"):
        await judged(ThreadedCheck(judge, pool, name="judge", inline=inline), [b"bytes"])


@pytest.mark.parametrize("inline", [0, 100])
@pytest.mark.parametrize(
    "unexpected",
    [ValueError("s3cret"), StopIteration("s3cret"), SystemExit("s3cret"), asyncio.CancelledError("s3cret")],
    ids=lambda exception: type(exception).__name__,
)
async def test_any_other_exception_refuses_with_its_name_only_in_the_log(
    pool: ThreadPoolExecutor, caplog: pytest.LogCaptureFixture, unexpected: BaseException, inline: int
) -> None:
    with caplog.at_level(logging.DEBUG, "aiorelay"), pytest.raises(Internal) as refusal:
        await judged(ThreadedCheck(Judge(fail_with(unexpected)), pool, name="my.judge", inline=inline), [b"bytes"])
    name = type(unexpected).__name__
    assert name not in refusal.value.detail
    assert "my.judge" not in refusal.value.detail
    assert f"my.judge failed: {name} at " in caplog.text
    assert "test_checks.py:" in caplog.text
    assert "s3cret" not in caplog.text


async def test_only_the_declared_exceptions_are_raised_unchanged(pool: ThreadPoolExecutor) -> None:
    with pytest.raises(Internal):
        await judged(ThreadedCheck(Judge(fail_with(NotFound("x"))), pool, name="judge", objections=Refused), [b"bytes"])


async def test_cancellation_drops_pieces_that_were_not_started(pool: ThreadPoolExecutor) -> None:
    entered, leave, left = asyncio.Event(), threading.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def stand_still(_: bytes) -> None:
        loop.call_soon_threadsafe(entered.set)
        leave.wait()
        left.set()

    judge = Judge(stand_still)
    blocks = [bytes(PIECE // 2)] * 8
    form = checked(a_form(a_part(*blocks)), [lambda _: ThreadedCheck(judge, pool, name="judge")])
    reading = asyncio.create_task(read(form))
    await entered.wait()
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    leave.set()
    pool.shutdown()
    assert left.is_set()
    assert len(judge.seen) == 1
    assert not judge.finished
