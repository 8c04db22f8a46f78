"""The types of the public API: mypy accepts right uses and reports each wrong one."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import aiorelay

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent
README = (HERE.parent / "README.md").read_text()


def found_by_mypy(file, cache):
    """Return the lines with an error, each with its code."""
    command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", cache, HERE / "typing" / file]
    run = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cache)
    assert not run.stderr, run.stderr
    return {
        int(line): code for line, code in re.findall(r"^\S+?:(\d+): error: .* \[([\w-]+)\]$", run.stdout, re.MULTILINE)
    }


def test_a_type_checker_finds_each_wrong_line_and_no_other(tmp_path):
    lines = (HERE / "typing" / "wrong.py").read_text().splitlines()
    wrong = {number: line.partition("# wrong: ")[2] for number, line in enumerate(lines, 1) if "# wrong: " in line}
    assert found_by_mypy("wrong.py", tmp_path) == wrong
    assert found_by_mypy("right.py", tmp_path) == {}


def test_the_arguments_are_the_settings():
    from aiorelay.settings import SETTINGS  # noqa: PLC0415 - the test of a module that users do not import
    from aiorelay.settings.arguments import Arguments  # noqa: PLC0415 - as above

    assert list(Arguments.__annotations__) == list(SETTINGS)


def test_every_public_name_is_documented():
    listed = README.partition("The public names of")[2].partition("\n\n")[0]
    assert set(re.findall(r"`(\w+)`", listed)) - {"aiorelay"} == set(aiorelay.__all__)
    assert [name for name in aiorelay.__all__ if not hasattr(aiorelay, name)] == []


def test_the_version_is_that_of_the_distribution():
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", aiorelay.__version__)
