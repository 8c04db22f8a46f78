"""The arithmetic of the limits, and their header fields."""

import math

import http_sf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiorelay.rest1.rate_limits import DAY, Rate, Taken, fields, principal, seconds_left_today, take

RATE = Rate(3, 60.0)


def taken_at(rate: Rate, times: list[float]) -> list[Taken]:
    """Take one upload at each of ``times``."""
    arrival, all_taken = -math.inf, []
    for now in times:
        all_taken.append(take(rate, arrival, now))
        arrival = all_taken[-1].arrival
    return all_taken


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0], [(True, 2, 20)]),
        ([0, 0, 0], [(True, 2, 20), (True, 1, 20), (True, 0, 20)]),
        ([0, 0, 0, 0], [(True, 2, 20), (True, 1, 20), (True, 0, 20), (False, 0, 20)]),
        ([0, 0, 0, 19], [(True, 2, 20), (True, 1, 20), (True, 0, 20), (False, 0, 1)]),
        ([0, 0, 0, 20], [(True, 2, 20), (True, 1, 20), (True, 0, 20), (True, 0, 20)]),
        ([0, 0, 0, 45], [(True, 2, 20), (True, 1, 20), (True, 0, 20), (True, 1, 15)]),
        ([0, 0, 0, 60], [(True, 2, 20), (True, 1, 20), (True, 0, 20), (True, 2, 20)]),
        ([0, 0, 0, 9999], [(True, 2, 20), (True, 1, 20), (True, 0, 20), (True, 2, 20)]),
        ([0, 5], [(True, 2, 20), (True, 1, 15)]),
    ],
    ids=str,
)
def test_uploads_are_taken_and_come_back_one_by_one(times, expected):
    assert [(each.allowed, each.remaining, round(each.wait, 3)) for each in taken_at(RATE, times)] == expected


def test_a_refused_upload_is_not_counted():
    refused = taken_at(RATE, [0, 0, 0, *[10] * 50, 20])
    assert [each.allowed for each in refused[3:]] == [*[False] * 50, True]


def test_a_clock_that_was_set_back_blocks_for_one_period_at_most():
    arrival = take(RATE, 0, 1_000_000).arrival
    assert take(RATE, arrival, 0).wait <= RATE.period


@given(
    st.integers(1, 50),
    st.floats(0.01, 1e6),
    st.lists(st.floats(0, 2), min_size=1, max_size=80),
)
def test_no_period_has_more_uploads_than_twice_the_rate_and_no_moment_more_than_the_rate(uploads, period, pauses):
    rate = Rate(uploads, period)
    times = [sum(pauses[:position]) * period for position in range(1, len(pauses) + 1)]
    allowed = [now for now, each in zip(times, taken_at(rate, times), strict=True) if each.allowed]
    for start in allowed:
        assert sum(now == start for now in allowed) <= uploads
        assert sum(start <= now < start + period * 0.999 for now in allowed) <= 2 * uploads


@given(st.integers(1, 50), st.floats(0.01, 1e6), st.integers(1, 120))
def test_the_next_upload_is_allowed_after_the_wait(uploads, period, number):
    rate = Rate(uploads, period)
    last = taken_at(rate, [0.0] * number)[-1]
    assert last.remaining == max(uploads - number, 0)
    assert take(rate, last.arrival, last.wait).allowed


def test_the_fields_are_structured_lists():
    described = fields(Rate(100, 60.0), Taken(allowed=True, arrival=0, remaining=99, wait=0.6))
    assert described == {"RateLimit-Policy": '"uploads";q=100;w=60', "RateLimit": '"uploads";r=99;t=1'}
    policy = http_sf.parse(described["RateLimit-Policy"].encode(), tltype="list")
    assert policy == [("uploads", {"q": 100, "w": 60})]


def test_a_window_of_less_than_a_second_is_one_second():
    assert fields(Rate(1, 0.2), take(Rate(1, 0.2), 0, 0))["RateLimit-Policy"] == '"uploads";q=1;w=1'


@pytest.mark.parametrize(
    ("who", "client", "expected"),
    [
        ("alice", "192.0.2.1", "name alice"),
        (None, "192.0.2.1", "address 192.0.2.1"),
        (None, "2001:db8:1:2:3:4:5:6", "address 2001:db8:1:2::/64"),
        (None, "2001:db8:1:2:ffff::", "address 2001:db8:1:2::/64"),
        (None, "2001:db8:1:3::", "address 2001:db8:1:3::/64"),
        (None, "fe80::1%eth0", "address fe80::/64"),
        (None, "::ffff:192.0.2.1", "address 192.0.2.1"),
        (None, "unknown", "address unknown"),
        ("address 192.0.2.1", "192.0.2.7", "name address 192.0.2.1"),
    ],
)
def test_a_principal_is_a_name_or_else_an_address(who, client, expected):
    assert principal(who, client) == expected


@pytest.mark.parametrize(("now", "left"), [(0, DAY), (0.5, DAY), (1, DAY - 1), (DAY - 0.5, 1), (DAY, DAY)])
def test_the_seconds_that_are_left_of_a_day(now, left):
    assert seconds_left_today(now) == left
