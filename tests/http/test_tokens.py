"""The file of tokens."""

import hashlib
from pathlib import Path

import pytest

from aiorelay.errors import StartupError
from aiorelay.http.tokens import Tokens, is_token_name, make_token


@pytest.fixture
def token_file(tmp_path) -> Path:
    path = tmp_path / "tokens"
    path.write_text("# ours\nalice:s3cret.Token~1\n\nbob:b0b==\n")
    return path


@pytest.mark.parametrize(("token", "name"), [("s3cret.Token~1", "alice"), ("b0b==", "bob")])
def test_a_token_is_identified_by_its_name(token_file, token, name):
    assert Tokens(token_file).who(token) == name


@pytest.mark.parametrize("token", ["", "b0b", "b0b===", "alice", "sha256:", "\udcff"])
def test_any_other_token_is_of_nobody(token_file, token):
    assert Tokens(token_file).who(token) is None


@pytest.mark.parametrize("spelling", [str.lower, str.upper])
def test_a_token_may_be_stored_as_its_hash(tmp_path, spelling):
    path = tmp_path / "tokens"
    digest = hashlib.sha256(b"s3cret").hexdigest()
    path.write_text(f"alice:sha256:{spelling(digest)}\n")
    assert Tokens(path).who("s3cret") == "alice"
    assert Tokens(path).who(digest) is None


def test_a_token_that_was_made_is_known_by_its_line(tmp_path):
    path = tmp_path / "tokens"
    (token, line), (other, _) = make_token("alice"), make_token("alice")
    path.write_text(line)
    assert Tokens(path).who(token) == "alice"
    assert Tokens(path).who(other) is None
    assert len(bytes.fromhex(token)) == 32
    assert token not in line


@pytest.mark.parametrize(
    ("name", "fits"),
    [
        ("alice", True),
        ("CI of team 7", True),
        ("Zoë", True),
        ("", False),
        ("a:b", False),
        ("#alice", False),
        (" alice", False),
        ("alice ", False),
        ("a\nb", False),
        ("a\x85b", False),
    ],
)
def test_which_names_fit_into_a_line(tmp_path, name, fits):
    assert is_token_name(name) is fits
    if fits:
        path = tmp_path / "tokens"
        path.write_text(f"{name}:s3cret\n")
        assert Tokens(path).who("s3cret") == name


def test_a_changed_file_is_read_again(token_file):
    tokens = Tokens(token_file)
    token_file.write_text("carol:n3w-and-longer-than-before\n")
    assert tokens.who("n3w-and-longer-than-before") == "carol"
    assert tokens.who("b0b==") is None


@pytest.mark.parametrize("content", ["", "no colon\n", "x:with space\n"])
def test_a_file_that_breaks_leaves_the_tokens_as_they_were(token_file, content):
    tokens = Tokens(token_file)
    token_file.write_text(content)
    assert tokens.who("b0b==") == "bob"


@pytest.mark.parametrize("spoil", [lambda path: path.write_text("no colon\n"), Path.unlink], ids=["broken", "gone"])
def test_a_file_that_breaks_is_logged_once_and_once_more_when_it_is_well(token_file, caplog, spoil):
    caplog.set_level("INFO")
    tokens = Tokens(token_file)
    spoil(token_file)
    for _ in range(3):
        assert tokens.who("b0b==") == "bob"
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    token_file.write_text("carol:n3w\n")
    for _ in range(3):
        assert tokens.who("n3w") == "carol"
    assert [record.levelname for record in caplog.records] == ["ERROR", "INFO"]


def test_each_change_of_a_broken_file_is_logged(token_file, caplog):
    tokens = Tokens(token_file)
    for content in ("no colon\n", "still no colon\n"):
        token_file.write_text(content)
        for _ in range(3):
            assert tokens.who("b0b==") == "bob"
    assert [record.levelname for record in caplog.records] == ["ERROR", "ERROR"]


def test_a_file_that_vanishes_leaves_the_tokens_as_they_were(token_file):
    tokens = Tokens(token_file)
    token_file.unlink()
    assert tokens.who("b0b==") == "bob"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"# nothing\n",
        b"no colon\n",
        b"x:with space\n",
        b"\xff:\xfe\n",
        b":x\n",
        b"x:sha256:00\n",
        b"x:md5:" + b"0" * 32 + b"\n",
        b"x:sha256:" + b"0" * 65 + b"\n",
    ],
)
def test_a_malformed_file_is_a_startup_error(tmp_path, content):
    path = tmp_path / "tokens"
    path.write_bytes(content)
    with pytest.raises(StartupError, match="token") as error:
        Tokens(path)
    assert "\n" not in str(error.value)


def test_an_error_in_a_line_does_not_contain_the_line(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("a:good\nhunter two\n")
    with pytest.raises(StartupError, match="line 2") as error:
        Tokens(path)
    assert "hunter" not in str(error.value)
