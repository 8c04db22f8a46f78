"""The outbox and the dead letters on the disk: whose events they are, and what becomes of those of the dead."""

import errno
import fcntl
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aiorelay.errors import StartupError
from aiorelay.webhooks import dead_letters
from aiorelay.webhooks.dead_letters import DeadLetters
from aiorelay.webhooks.events import Event
from aiorelay.webhooks.outbox import Outbox

EVENT = Event("msg_1", b"{}")


@pytest.fixture
def opened(tmp_path: Path):
    """A factory of open outboxes in the same directory, each as of a process of its own."""
    every: list[Outbox] = []

    def start(*, fsync: bool = False) -> Outbox:
        outbox = Outbox(tmp_path, fsync=fsync)
        outbox.open()
        every.append(outbox)
        return outbox

    yield start
    for each in every:
        each.close()


def kept(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "outbox").glob("*/*"))


def killed(tmp_path: Path, *identities: str) -> None:
    """Write events by a process that is killed."""
    program = (
        "import os, pathlib, signal, sys;"
        "from aiorelay.webhooks.outbox import Outbox; from aiorelay.webhooks.events import Event;"
        "outbox = Outbox(pathlib.Path(sys.argv[1]), fsync=False); outbox.open();"
        "[outbox.write(Event(each, b'{}')) for each in sys.argv[2:]]; os.kill(os.getpid(), signal.SIGKILL)"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path, *identities], check=False)


@pytest.mark.parametrize("fsync", [True, False], ids=["fsync", "no fsync"])
def test_an_event_is_read_as_it_was_written(opened, tmp_path, fsync):
    outbox = opened(fsync=fsync)
    entry = outbox.write(EVENT)
    outbox.sync(outbox.unsynced())
    assert (entry.id, entry.size, outbox.read("msg_1")) == ("msg_1", 2, b"{}")
    assert abs(entry.since - time.time()) < 60
    assert kept(tmp_path) == ["msg_1.json"]


def test_files_are_for_their_owner_alone(opened, tmp_path):
    opened().write(EVENT)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.rglob("*")}
    assert modes == {0o700, 0o600}


def test_a_removed_event_is_gone(opened, tmp_path):
    outbox = opened()
    outbox.write(EVENT)
    outbox.remove("msg_1")
    outbox.remove("msg_1")
    assert kept(tmp_path) == []


def test_an_event_that_cannot_be_written_leaves_nothing(opened, tmp_path, monkeypatch):
    outbox = opened()

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        outbox.write(EVENT)
    assert kept(tmp_path) == []


def test_events_of_living_processes_are_left_to_them(opened):
    one, other = opened(), opened()
    one.write(EVENT)
    assert other.take_over() == []
    assert one.read("msg_1") == b"{}"


def test_events_of_a_killed_process_are_taken_over_by_one(opened, tmp_path):
    killed(tmp_path, "msg_1", "msg_2")
    one, other = opened(), opened()
    assert sorted(each.id for each in one.take_over()) == ["msg_1", "msg_2"]
    assert other.take_over() == []
    assert one.read("msg_1") == b"{}"
    assert len(list((tmp_path / "outbox").iterdir())) == 2


def test_events_that_are_left_at_the_end_are_taken_over(opened, tmp_path):
    ended = Outbox(tmp_path, fsync=False)
    ended.open()
    since = ended.write(EVENT).since
    ended.close()
    (entry,) = opened().take_over()
    assert abs(entry.since - since) < 1


def test_an_outbox_without_events_leaves_nothing(tmp_path):
    outbox = Outbox(tmp_path, fsync=False)
    outbox.open()
    outbox.close()
    assert list((tmp_path / "outbox").iterdir()) == []


def test_other_files_are_removed_when_events_are_taken_over(opened, tmp_path):
    killed(tmp_path, "msg_1")
    (dead,) = (tmp_path / "outbox").iterdir()
    for name in ("msg_1", "a b.json", f"{'x' * 101}.json"):
        (dead / name).touch()
    assert [each.id for each in opened().take_over()] == ["msg_1"]
    assert kept(tmp_path) == ["msg_1.json"]


def test_a_place_without_locks_is_refused(tmp_path, monkeypatch):
    def flock(_fd: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(StartupError, match=r"No locks available\. Choose a directory .* with --state-dir\."):
        Outbox(tmp_path, fsync=False).open()


def test_a_place_where_no_directory_can_be_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match="Choose a directory"):
        Outbox(tmp_path / "file", fsync=False).open()


# -- dead letters


def test_an_event_that_is_given_up_becomes_a_dead_letter(opened, tmp_path):
    outbox = opened()
    outbox.write(EVENT)
    assert outbox.give_up("msg_1")
    assert (kept(tmp_path), outbox.dead_letters.number) == ([], 1)
    assert list(DeadLetters(tmp_path).events()) == [("msg_1", b"{}")]


def test_dead_letters_are_bounded(opened, tmp_path, monkeypatch):
    monkeypatch.setattr(dead_letters, "MOST_DEAD_LETTERS", 1)
    outbox = opened()
    for identity in ("msg_1", "msg_2"):
        outbox.write(Event(identity, b"{}"))
    assert [outbox.give_up(each) for each in ("msg_1", "msg_2")] == [True, False]
    assert kept(tmp_path) == []
    assert [identity for identity, _ in DeadLetters(tmp_path).events()] == ["msg_1"]


def test_a_dead_letter_that_is_sent_again_has_another_day(opened, tmp_path):
    outbox = opened()
    outbox.write(EVENT)
    outbox.give_up("msg_1")
    os.utime(tmp_path / "dead-letters" / "msg_1.json", (0, 0))
    assert DeadLetters(tmp_path).send_again(["msg_1", "msg_2", "../secret"]) == ["msg_1"]
    (entry,) = outbox.take_over()
    assert abs(entry.since - time.time()) < 60
    outbox.dead_letters.count()
    assert outbox.dead_letters.number == 0


def test_sending_nothing_again_leaves_nothing(tmp_path):
    assert DeadLetters(tmp_path).send_again(["msg_1"]) == []
    assert list((tmp_path / "outbox").iterdir()) == []


def test_without_a_directory_there_are_no_dead_letters(tmp_path):
    assert list(DeadLetters(tmp_path).events()) == []
