"""Limits that several processes share: slots and counters in shared memory."""

import pytest

from aiorelay.errors import Busy, RateLimited
from aiorelay.rest1.principal_limits import MemoryCounters
from aiorelay.rest1.rate_limits import Rate
from aiorelay.rest1.upload_slots import MemorySlots
from aiorelay.server.processes.counters import SharedCounters
from aiorelay.server.processes.slots import SharedSlots
from aiorelay.server.processes.table import ProcessTable


def shared_slots(most, most_of_one=None):
    return SharedSlots(most, most_of_one).of(0)


@pytest.fixture(params=[MemorySlots, shared_slots], ids=["memory", "shared"])
def make_slots(request):
    return request.param


class TestSlots:
    def test_a_slot_is_free_again_after_the_upload(self, make_slots):
        slots = make_slots(1)
        for _ in range(3):
            with slots.hold("a"), pytest.raises(Busy), slots.hold("b"):
                pass

    def test_a_principal_has_a_limit_of_its_own(self, make_slots):
        slots = make_slots(5, 2)
        with slots.hold("a"), slots.hold("b"), slots.hold("a"):
            with pytest.raises(RateLimited, match="2 uploads under way") as refused, slots.hold("a"):
                pass
            assert refused.value.headers["Retry-After"] == "5"
            with slots.hold("b"):
                pass
        with slots.hold("a"), slots.hold("a"):
            pass

    def test_slots_that_another_process_holds_are_taken_until_it_is_known_to_have_ended(self):
        slots = SharedSlots(3, 2)
        killed = [slots.of(1).hold("a") for _ in range(2)]
        for each in killed:
            each.__enter__()
        with slots.of(0).hold("b"):
            with pytest.raises(Busy), slots.of(0).hold("c"):
                pass
            slots.free(1)
            with slots.of(0).hold("a"), slots.of(2).hold("a"), pytest.raises(Busy), slots.of(0).hold("c"):
                pass


@pytest.fixture(params=[MemoryCounters, SharedCounters], ids=["memory", "shared"])
def counters(request):
    return request.param(clock=lambda: 1000.0)


class TestCounters:
    async def test_the_rate_is_that_of_each_principal(self, counters):
        rate = Rate(2, 60.0)
        assert [(await counters.take("a", rate)).allowed for _ in range(3)] == [True, True, False]
        assert (await counters.take("b", rate)).remaining == 1

    async def test_the_bytes_are_those_of_a_day(self, counters):
        assert await counters.add("a", 7, 10) == 10
        assert await counters.add("a", 7, 5) == 15
        assert await counters.used("a", 7) == 15
        assert await counters.used("b", 7) == 0
        assert await counters.used("a", 8) == 0
        assert await counters.add("a", 8, 1) == 1

    async def test_any_name_has_a_counter(self, counters):
        assert await counters.add("name \udcff", 7, 10) == 10
        assert await counters.used("name \udcff", 7) == 10

    async def test_the_one_that_was_idle_for_longest_is_forgotten(self):
        now = iter(range(1, 1000))
        counters = SharedCounters(rows=1, clock=lambda: float(next(now)))
        for name in "abcdefgh":
            await counters.add(name, 7, 1)
        await counters.used("a", 7)
        await counters.add("i", 7, 1)
        assert [await counters.used(name, 7) for name in "acdefghi"] == [1] * 8
        assert await counters.used("b", 7) == 0


def test_a_process_that_does_not_accept_has_no_part_in_the_balance():
    table = ProcessTable(2)
    table.started(0, 41)
    table.started(1, 42)
    table.set_connections(0, 7)
    assert table.fewest_connections() == 7
    table.set_connections(1, 3)
    assert table.fewest_connections() == 3
    table.ended(1)
    assert table.fewest_connections() == 7
    assert table.pids() == {0: 41}
