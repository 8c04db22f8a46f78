"""The events that a process has to deliver: order, bounds, what is known once."""

import pytest

from aiorelay.webhooks import queue
from aiorelay.webhooks.queue import Entry, Queue


def entry(identity: str, *, size: int = 10, since: float = 0) -> Entry:
    return Entry(identity, size, since)


@pytest.fixture
def events() -> Queue:
    """Three events that are due at 1, 2 and 3, and given up at 100."""
    made = Queue()
    for due, identity in ((2, "b"), (1, "a"), (3, "c")):
        made.add(entry(identity, since=due), due, until=100)
    return made


def popped(events: Queue, now: float) -> list[str]:
    found = []
    while (each := events.pop(now)) is not None:
        found.append(each.id)
    return found


def test_events_come_when_they_are_due(events):
    assert [popped(events, now) for now in (0.9, 1, 3)] == [[], ["a"], ["b", "c"]]


def test_an_event_that_is_being_sent_is_counted_and_does_not_come_again(events):
    events.pop(1)
    assert (len(events), events.size, events.next_due) == (3, 30, 2)


def test_a_postponed_event_comes_later(events):
    events.pop(1)
    events.postpone("a", 5)
    assert popped(events, 4) == ["b", "c"]
    assert popped(events, 5) == ["a"]


def test_a_removed_event_is_forgotten(events):
    events.pop(1)
    for identity in ("a", "b", "unknown"):
        events.remove(identity)
    assert (len(events), events.size, events.next_due, events.oldest) == (1, 10, 3, 3)


def test_a_known_event_is_not_added_again(events):
    events.pop(1)
    events.add(entry("a"), 1, until=100)
    events.add(entry("b"), 1, until=100)
    assert (len(events), popped(events, 1)) == (3, [])


def test_an_event_that_was_removed_and_added_comes_when_it_is_due_now(events):
    events.remove("a")
    events.add(entry("a"), 9, until=100)
    assert popped(events, 8) == ["b", "c"]


def test_the_oldest_event_may_be_one_that_is_being_sent(events):
    events.pop(1)
    assert events.oldest == 1
    assert Queue().oldest is None


def test_waiting_events_are_given_up_after_their_time(events):
    events.add(entry("d"), 9, until=50)
    events.pop(1)
    assert [events.given_up(now) for now in (49, 50)] == [[], [entry("d")]]
    assert {each.id for each in events.given_up(100)} == {"b", "c", "d"}
    assert [events.is_given_up("a", now) for now in (99, 100)] == [False, True]


@pytest.mark.parametrize(("events_at_most", "bytes_at_most"), [(3, 100), (100, 30)])
def test_a_queue_is_full_at_a_number_of_events_or_bytes(events, monkeypatch, events_at_most, bytes_at_most):
    monkeypatch.setattr(queue, "MOST_EVENTS", events_at_most)
    monkeypatch.setattr(queue, "MOST_BYTES", bytes_at_most)
    assert events.is_full
    events.remove("a")
    assert not events.is_full
