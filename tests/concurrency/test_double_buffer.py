"""Blocks go to a thread in large pieces, one in work while the next gathers."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from aiorelay.concurrency.double_buffer import PIECE, DoubleBuffer


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as executor:
        yield executor


class Recorder:
    """Work that notes its pieces and its threads; a piece whose number is ``failing`` raises."""

    def __init__(self, failing: int | None = None) -> None:
        self.pieces: list[tuple[bytes, bool]] = []
        self.threads: set[int] = set()
        self._failing = failing

    def __call__(self, piece: list[bytes], last: bool, /) -> None:  # noqa: FBT001
        self.threads.add(threading.get_ident())
        if len(self.pieces) == self._failing:
            raise OSError("the piece failed")
        self.pieces.append((b"".join(piece), last))


async def fed(buffer: DoubleBuffer, *blocks: bytes) -> None:
    for block in blocks:
        await buffer.feed(block)
    await buffer.finish()


async def test_blocks_become_pieces_in_order_and_the_last_is_marked(pool: ThreadPoolExecutor) -> None:
    work = Recorder()
    await fed(DoubleBuffer(work, pool), b"a" * (PIECE - 1), b"bc", b"d")
    assert work.pieces == [(b"a" * (PIECE - 1) + b"bc", False), (b"d", True)]


async def test_a_piece_has_the_size_that_was_asked_for(pool: ThreadPoolExecutor) -> None:
    work = Recorder()
    await fed(DoubleBuffer(work, pool, piece=3), b"ab", b"cd", b"ef", b"gh", b"i")
    assert work.pieces == [(b"abcd", False), (b"efgh", False), (b"i", True)]


async def test_the_last_piece_can_have_threads_of_its_own(pool: ThreadPoolExecutor) -> None:
    work = Recorder()
    with ThreadPoolExecutor(1) as other:
        await fed(DoubleBuffer(work, pool, piece=2, last_pool=other), b"ab", b"cd", b"e")
        last = other.submit(threading.get_ident).result()
    assert work.pieces == [(b"ab", False), (b"cd", False), (b"e", True)]
    assert last in work.threads
    assert len(work.threads) > 1


async def test_many_small_blocks_are_a_piece_too(pool: ThreadPoolExecutor) -> None:
    work = Recorder()
    await fed(DoubleBuffer(work, pool), *[b"a"] * 1000)
    assert [len(piece) for piece, _ in work.pieces] == [512, 488]


@pytest.mark.parametrize(("size", "inline"), [(0, True), (99, True), (100, False)])
async def test_what_is_smaller_than_inline_stays_in_the_event_loop(
    pool: ThreadPoolExecutor,
    size: int,
    inline: bool,  # noqa: FBT001
) -> None:
    work = Recorder()
    await fed(DoubleBuffer(work, pool, inline=100), bytes(size))
    assert work.pieces == [(bytes(size), True)]
    assert (threading.get_ident() in work.threads) is inline


async def test_nothing_stays_in_the_event_loop_once_a_thread_had_a_piece(pool: ThreadPoolExecutor) -> None:
    work = Recorder()
    await fed(DoubleBuffer(work, pool, inline=PIECE), bytes(PIECE), b"small")
    assert threading.get_ident() not in work.threads


async def test_a_failure_is_raised_again_whenever_it_is_asked_for(pool: ThreadPoolExecutor) -> None:
    buffer = DoubleBuffer(Recorder(failing=0), pool)
    await buffer.feed(bytes(PIECE))
    for attempt in (buffer.feed(bytes(PIECE)), buffer.feed(b"x"), buffer.finish()):
        with pytest.raises(OSError, match="the piece failed"):
            await attempt


async def test_a_piece_that_takes_too_long_is_a_timeout(pool: ThreadPoolExecutor) -> None:
    released = threading.Event()
    buffer = DoubleBuffer(lambda _piece, _last: released.wait(), pool, timeout=0.01)
    try:
        with pytest.raises(TimeoutError):
            await fed(buffer, b"x")
    finally:
        released.set()


async def test_what_is_dropped_is_not_worked_on() -> None:
    begun, released = threading.Event(), threading.Event()
    work = Recorder()
    with ThreadPoolExecutor(1) as busy:
        busy.submit(lambda: (begun.set(), released.wait()))
        await asyncio.to_thread(begun.wait)
        buffer = DoubleBuffer(work, busy)
        await buffer.feed(bytes(PIECE))
        await buffer.feed(b"x")
        buffer.drop()
        released.set()
    assert work.pieces == []
