"""Jobs on disk: whose they are, and what is swept."""

import errno
import fcntl
import json
import stat
import threading
from pathlib import Path

import pytest

from aiorelay.errors import Internal, StartupError
from aiorelay.rest1.jobs.files import JobFiles
from aiorelay.rest1.jobs.records import Record


@pytest.fixture
def opened(tmp_path: Path):
    """A factory of open files in the same directory, each as of a process of its own."""
    all_of_them: list[JobFiles] = []

    def start() -> JobFiles:
        files = JobFiles(tmp_path / "state" / "jobs")
        files.open()
        all_of_them.append(files)
        return files

    yield start
    for files in all_of_them:
        files.close()


def record(identity: str, process: str, *, ended: float | None = None) -> Record:
    return Record(id=identity, owner=None, version=1, ended=ended, document={"state": "running"}, process=process)


def names(files: JobFiles) -> set[str]:
    return {path.name for path in files._directory.iterdir()}  # noqa: SLF001 - what is there is the fact


def test_record_is_read_as_it_was_written(opened) -> None:
    files = opened()
    written = Record(id="a", owner="me", version=7, ended=1.5, document={"x": ["é", None]}, process=files.process)
    files.write(written)
    assert files.read("a") == written


def test_files_are_for_their_owner_alone(opened, tmp_path: Path) -> None:
    files = opened()
    files.write(record("a", files.process))
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "state" / "jobs").iterdir()}
    assert modes == {0o600}
    assert stat.S_IMODE((tmp_path / "state" / "jobs").stat().st_mode) == 0o700


@pytest.mark.parametrize("identity", ["b", "", ".", "..", "../a", "../../secret", "a/b", "a\0", "a\n", "x" * 65, "é"])
def test_name_that_is_no_job_has_no_record(opened, tmp_path: Path, identity: str) -> None:
    files = opened()
    files.write(record("a", files.process))
    (tmp_path / "secret.json").write_text(json.dumps({"id": "x"}))
    assert files.read(identity) is None


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"1", b'{"id": "a"}', b"\xff", b'{"more": 1}'])
def test_file_that_is_no_record_is_none(opened, tmp_path: Path, content: bytes) -> None:
    files = opened()
    (tmp_path / "state" / "jobs" / "a.json").write_bytes(content)
    assert files.read("a") is None
    assert list(files.orphans()) == []


def test_process_is_alive_until_it_closes(opened, tmp_path: Path) -> None:
    mine, other = opened(), JobFiles(tmp_path / "state" / "jobs")
    other.open()
    assert mine.is_alive(other.process)
    assert other.is_alive(mine.process)
    other.close()
    assert not mine.is_alive(other.process)


def test_process_that_died_without_a_word_is_not_alive(opened, tmp_path: Path) -> None:
    files = opened()
    (tmp_path / "state" / "jobs" / "dead.alive").touch()  # nobody holds its lock
    assert not files.is_alive("dead")


def test_only_records_of_the_dead_are_left_behind(opened) -> None:
    mine, other = opened(), opened()
    for identity, process in (("mine", mine.process), ("others", other.process), ("left", "dead")):
        mine.write(record(identity, process))
    assert [each.id for each in mine.orphans()] == ["left"]


def test_what_the_dead_left_is_swept_and_nothing_else(opened, tmp_path: Path) -> None:
    mine, other = opened(), opened()
    directory = tmp_path / "state" / "jobs"
    mine.write(record("a", mine.process))
    other.request_cancellation("a")
    for name in ("dead.alive", "b.dead", f"c.{other.process}"):
        (directory / name).touch()
    list(mine.orphans())
    assert names(mine) == {"a.json", "a.end", f"c.{other.process}", f"{mine.process}.alive", f"{other.process}.alive"}


def test_removed_job_leaves_nothing(opened) -> None:
    files = opened()
    files.write(record("a", files.process))
    files.request_cancellation("a")
    assert files.is_cancellation_requested("a")
    files.remove("a")
    files.remove("a")
    assert names(files) == {f"{files.process}.alive"}


def test_closed_files_leave_nothing(tmp_path: Path) -> None:
    files = JobFiles(tmp_path / "jobs")
    files.open()
    files.close()
    assert list((tmp_path / "jobs").iterdir()) == []


def test_record_that_cannot_be_written_leaves_nothing(opened, tmp_path: Path) -> None:
    files = opened()
    (tmp_path / "state" / "jobs" / "a.json").mkdir()
    with pytest.raises(Internal):
        files.write(record("a", files.process))
    assert names(files) == {"a.json", f"{files.process}.alive"}


def test_place_where_no_directory_can_be_is_said_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StartupError, match=r"cannot keep jobs in .*; choose another place with --state-dir"):
        JobFiles(tmp_path / "file" / "jobs").open()


def test_process_that_begins_while_others_sweep_is_never_taken_for_dead(opened) -> None:
    sweeper = opened()
    ended = threading.Event()

    def sweep() -> None:
        while not ended.is_set():
            list(sweeper.orphans())

    thread = threading.Thread(target=sweep)
    thread.start()
    try:
        begun = [opened() for _ in range(200)]
    finally:
        ended.set()
        thread.join()
    assert all(sweeper.is_alive(files.process) for files in begun)


@pytest.mark.parametrize("released", [0, 1])
def test_claim_that_is_swept_before_it_is_locked_is_made_again(opened, tmp_path: Path, monkeypatch, released) -> None:
    """Whichever comes first, the sweeper's lock (not ``released`` yet) or its removal of the file."""
    directory = tmp_path / "state" / "jobs"
    real, swept = fcntl.flock, []

    def flock(fd: int, operation: int) -> None:
        if not swept:
            (path,) = directory.glob("*.alive")
            swept.append(path.open("r+b"))
            real(swept[0], fcntl.LOCK_EX)
            path.unlink()
            if released:
                swept[0].close()
        real(fd, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    files = opened()
    swept[0].close()
    assert names(files) == {f"{files.process}.alive"}


def test_without_locks_everybody_counts_as_alive(opened, tmp_path: Path, monkeypatch) -> None:
    def flock(_fd: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", flock)
    files = opened()
    (tmp_path / "state" / "jobs" / "other.alive").touch()
    files.write(record("a", "other"))
    assert list(files.orphans()) == []
    assert files.is_alive("other")
