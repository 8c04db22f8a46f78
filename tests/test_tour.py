"""A stranger's first five minutes: from a fresh clone to uploads, and to an API of their own, by the README alone."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from browser import Page, chromium
from shell import ROOT, Shell

SERVE = "scripts/run"


class Stranger(Shell):
    """Somebody with a clone of this project, who does what its README says."""

    def __init__(self, directory):
        git = shutil.which("git")
        if git is None or not (ROOT / ".git").exists():
            (pytest.fail if os.environ.get("CI") else pytest.skip)("needs git, and a clone to begin with")
        subprocess.run([git, "clone", "--quiet", ROOT, directory / "clone"], check=True)
        super().__init__(directory)
        # What runs there is not the code that coverage looks at here.
        self.environ = {name: value for name, value in self.environ.items() if not name.startswith("COV")}
        self.readme = (self.clone / "README.md").read_text()
        self.sample = (self.clone / "LICENSE").read_bytes()
        self._lend_environment()

    def _lend_environment(self):
        """Let the clone's scripts find an environment, lest they install one: ours, with the clone's code."""
        python = self.clone / ".venv/bin/python"
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nPYTHONPATH="{self.clone}" exec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        made = 'source scripts/environment; _fingerprint >"$root/.venv/made-core"'
        subprocess.run(["bash", "-c", made], cwd=self.clone, env=self.environ, check=True)

    def told(self, *words):
        """The one block of shell in the README that has all these words."""
        blocks = re.findall(r"```sh\n(.*?)```", self.readme, re.DOTALL)
        (block,) = [block for block in blocks if all(word in block for word in words)]
        return block.strip().replace("curl ", "curl -sS ")


@pytest.fixture
def stranger(tmp_path):
    stranger = Stranger(tmp_path)
    yield stranger
    stranger.close()


@pytest.fixture
def relay(stranger):
    """The relay's own address, as the README says it, once it runs as the README says."""
    assert f"```sh\n{SERVE}\n```" in stranger.readme
    stranger.serve(SERVE)
    (page,) = re.findall(r"In a browser: the page at <(\S+)>", stranger.readme)
    return stranger.here(page)


@pytest.fixture
def behind_the_relay(stranger):
    """A directory: that of an API of the stranger's, behind a relay with the flags that ``probe`` advises."""
    stranger.own_api()
    (advice,) = re.findall(r"^serve (.*)$", stranger.run(stranger.told("probe") + " --no-patience"), re.MULTILINE)
    command = stranger.told("--only rest1")
    assert stranger.here(command) == f"scripts/run --only rest1 {advice}"
    stranger.serve(command)
    for uploaded in stranger.kept.glob("aiorelay-probe-*"):
        uploaded.unlink()
    return stranger.kept


def stored(answer):
    """The content of the file that the embedded API says it has stored."""
    return Path(json.loads(answer)["path"]).read_bytes()


def test_the_line_that_the_relay_prints_uploads(stranger):
    curl = stranger.serve(SERVE)[-1]
    ca = Path(stranger.run("scripts/run ca").strip())
    assert stored(stranger.run(f"{curl} -sS")) == ca.read_bytes()


@pytest.mark.parametrize("way", ["-F somefile=@LICENSE", "-T LICENSE", "--field note"], ids=["form", "raw", "send"])
@pytest.mark.usefixtures("relay")
def test_a_file_is_uploaded_from_the_shell(stranger, way):
    assert stored(stranger.run(stranger.told(way))) == stranger.sample


def test_a_file_is_uploaded_in_a_browser(stranger, relay, tmp_path):
    with chromium(tmp_path / "chromium") as browser:
        page = Page(browser, relay)
        page.choose(stranger.clone / "LICENSE")
        (upload,) = page.until_state("Stored")
    assert stored(upload["answer"]) == stranger.sample


@pytest.mark.parametrize("way", ["-F file=@", "-T LICENSE", "--file-field"], ids=["form", "raw", "send"])
def test_a_file_for_ones_own_api_goes_through_the_relay(stranger, behind_the_relay, way):
    stranger.run(stranger.told(way))
    (path,) = behind_the_relay.iterdir()
    assert (path.name, path.read_bytes()) == ("LICENSE", stranger.sample)


def test_the_page_uploads_to_ones_own_api(stranger, behind_the_relay, tmp_path):
    with chromium(tmp_path / "chromium") as browser:
        page = Page(browser, stranger.here("https://localhost:8000/"))
        page.choose(stranger.clone / "LICENSE")
        page.until_state("Stored")
    (path,) = behind_the_relay.iterdir()
    assert (path.name, path.read_bytes()) == ("LICENSE", stranger.sample)
