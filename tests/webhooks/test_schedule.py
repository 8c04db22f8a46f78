"""Pauses, and receivers that are away."""

import pytest

from aiorelay.webhooks.schedule import DAY, ReceiverState, Schedule, retry_after


@pytest.mark.parametrize(
    ("age", "pause"), [(0, 5), (4, 5), (5, 5), (10, 10), (3599, 3599), (3600, 3600), (3601, 3600), (DAY, 3600)]
)
def test_a_pause_is_as_long_as_the_event_is_old(age, pause):
    assert Schedule().pause(age) == pause


def test_an_event_is_tried_for_a_day():
    schedule, age, tries = Schedule(), 0.0, 0
    while age < schedule.until(0, 0):
        age += schedule.pause(age)
        tries += 1
    assert DAY <= age < DAY + 3600
    assert tries == 34


def test_an_old_event_is_tried_for_an_hour_by_a_new_process():
    assert Schedule().until(since=0, now=3 * DAY) == 3 * DAY + 3600


def test_a_receiver_rests_longer_and_longer():
    state, now, pauses = ReceiverState(), 100.0, []
    for _ in range(8):
        state.failed(now, None)
        pauses.append(state.resting_until - now)
        now = state.resting_until
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_deliveries_that_fail_together_count_once():
    state = ReceiverState()
    for _ in range(8):
        state.failed(100, None)
    assert (state.resting_until, state.failures) == (101, 1)


def test_a_receiver_that_accepts_is_there_again():
    state = ReceiverState()
    state.failed(100, None)
    assert state.is_away
    state.accepted()
    assert not state.is_away
    state.failed(200, None)
    assert state.resting_until == 201


def test_the_longest_pause_that_a_receiver_asks_for_counts():
    state = ReceiverState()
    for pause in (30, 3600, 60):
        state.failed(100, pause)
    assert state.resting_until == 3700


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0),
        (" 120 ", 120),
        ("86401", DAY),
        ("9" * 30, DAY),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("", None),
        ("٣", None),
        ("Thu, 01 Jan 1970 00:20:00 GMT", 200),
        ("Thu, 01 Jan 1970 00:01:00 GMT", 0),
        ("Fri, 31 Dec 9999 23:59:59 GMT", DAY),
        ("Thu, 01 Jan 1970 99:00:00 GMT", None),
    ],
    ids=lambda value: "Arabic digit" if value == "٣" else None,
)
def test_retry_after_is_read(value, seconds):
    assert retry_after(value, now=1000) == seconds
