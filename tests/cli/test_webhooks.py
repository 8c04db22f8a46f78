"""The command that lists dead letters and sends them again."""

import json
from pathlib import Path

import pytest

from aiorelay.cli.main import main

EVENT = {"type": "upload.stored", "timestamp": "2026-01-31T12:00:00.000Z", "data": {"request_id": "mine"}}


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory with two dead letters, of which one cannot be read."""
    (letters := tmp_path / "dead-letters").mkdir()
    (letters / "msg_1.json").write_text(json.dumps(EVENT))
    (letters / "msg_2.json").write_text("{")
    (letters / "notes.txt").touch()
    return tmp_path


def waiting(state: Path) -> list[str]:
    return sorted(path.name for path in (state / "outbox").glob("*/*"))


def test_list_prints_a_line_for_each(state, capsys):
    assert main(["webhooks", "list", "--state-dir", str(state)]) == 0
    lines = sorted(capsys.readouterr().out.splitlines())
    assert lines == ["msg_1 2026-01-31T12:00:00.000Z upload.stored mine", "msg_2 - - -"]


def test_list_prints_nothing_without_dead_letters(tmp_path, capsys):
    assert main(["webhooks", "list", "--state-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("action", ["list", "send-again"])
def test_a_state_directory_that_does_not_exist_is_one_line_and_status_1(tmp_path, capsys, action):
    assert main(["webhooks", action, "--state-dir", str(tmp_path / "none")]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"aiorelay: state-dir: {tmp_path}/none is no directory; give the state-dir of the relay")
    assert list(tmp_path.iterdir()) == []


def test_only_the_action_is_required(capsys):
    assert main(["webhooks"]) == 2
    assert "the following arguments are required: list|send-again. " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("named", "sent"),
    [([], ["msg_1", "msg_2"]), (["msg_2", "msg_2"], ["msg_2"])],
    ids=["all", "one"],
)
def test_send_again_puts_events_into_the_outbox(state, capsys, named, sent):
    assert main(["webhooks", "send-again", *named, "--state-dir", str(state)]) == 0
    assert sorted(capsys.readouterr().out.split()) == sent
    assert waiting(state) == [f"{each}.json" for each in sent]
    assert not [each for each in sent if (state / "dead-letters" / f"{each}.json").exists()]


def test_send_again_without_dead_letters_does_nothing(tmp_path, capsys):
    assert main(["webhooks", "send-again", "--state-dir", str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_id_is_one_line_and_status_1(state, capsys):
    assert main(["webhooks", "send-again", "msg_1", "../msg_2", "--state-dir", str(state)]) == 1
    said = capsys.readouterr()
    assert said.out == "msg_1\n"
    assert said.err.startswith("aiorelay: ID: ../msg_2: there is no such dead letter; see aiorelay webhooks list.")
    assert waiting(state) == ["msg_1.json"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "the following arguments are required: list|send-again"),
        (["lst"], "list|send-again: invalid choice: 'lst'"),
        (["list", "msg_1"], "unrecognized arguments: msg_1; list takes no ID"),
    ],
    ids=["no action", "another action", "list with an id"],
)
def test_misuse_is_status_2(capsys, arguments, said):
    assert main(["webhooks", *arguments]) == 2
    assert said in capsys.readouterr().err
