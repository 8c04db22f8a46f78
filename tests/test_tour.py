"""The README from a fresh clone: first uploads, and a relay in front of the reader's own API."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from browser import Page, chromium
from programs import missing, program
from shell import ROOT, Shell

pytestmark = pytest.mark.needs("chromium", "chromedriver", "git")

SERVE = "scripts/run"


class Reader(Shell):
    """A shell in a fresh clone, for the commands of its README."""

    def __init__(self, directory):
        if not (ROOT / ".git").exists():
            missing("The project is no clone.")
        subprocess.run([program("git"), "clone", "--quiet", ROOT, directory / "clone"], check=True)
        super().__init__(directory)
        # The code in the clone is not the code that coverage measures.
        self.environ = {name: value for name, value in self.environ.items() if not name.startswith("COV")}
        self.readme = (self.clone / "README.md").read_text()
        self.sample = (self.clone / "LICENSE").read_bytes()
        self._lend_environment()

    def _lend_environment(self):
        """Give the clone's scripts this environment, with the clone's code, so that they install none."""
        where = ["bash", "-c", 'source scripts/environment; printf %s "$venv"']
        venv = subprocess.run(
            where, cwd=self.clone, env=self.environ, check=True, capture_output=True, text=True
        ).stdout
        python = Path(venv, "bin/python")
        python.parent.mkdir(parents=True)
        python.write_text(f'#!/bin/sh\nPYTHONPATH="{self.clone}" exec "{sys.executable}" "$@"\n')
        python.chmod(0o755)
        made = 'source scripts/environment; _fingerprint >"$venv/made-core"'
        subprocess.run(["bash", "-c", made], cwd=self.clone, env=self.environ, check=True)

    def block(self, *words):
        """Return the one shell block in the README that contains all these words."""
        blocks = re.findall(r"```sh\n(.*?)```", self.readme, re.DOTALL)
        (found,) = [each for each in blocks if all(word in each for word in words)]
        return found.strip().replace("curl ", "curl -sS ")


@pytest.fixture
def reader(tmp_path):
    reader = Reader(tmp_path)
    yield reader
    reader.close()


@pytest.fixture
def relay(reader):
    """The URL of the upload page in the README, with the relay running."""
    assert f"```sh\n{SERVE}\n```" in reader.readme
    reader.serve(SERVE)
    (page,) = re.findall(r"In a browser: the page at <(\S+)>", reader.readme)
    return reader.with_free_ports(page)


@pytest.fixture
def behind_the_relay(reader):
    """The directory of the reader's API, behind a relay with the flags that ``probe`` reports."""
    reader.own_api()
    (advice,) = re.findall(r"^serve (.*)$", reader.run(reader.block("probe") + " --no-patience"), re.MULTILINE)
    command = reader.block("--only rest1", "--upstream")
    assert reader.with_free_ports(command) == f"scripts/run --only rest1 {advice}"
    reader.serve(command)
    for uploaded in reader.kept.glob("aiorelay-probe-*"):
        uploaded.unlink()
    return reader.kept


def stored(answer):
    """Return the content of the file that the embedded API has stored, by its answer."""
    return Path(json.loads(answer)["path"]).read_bytes()


def test_the_line_that_the_relay_prints_uploads(reader):
    curl = reader.serve(SERVE)[-1]
    ca = Path(reader.run("scripts/run ca").strip())
    assert stored(reader.run(f"{curl} -sS")) == ca.read_bytes()


@pytest.mark.parametrize("way", ["-F somefile=@LICENSE", "-T LICENSE", "--field note"], ids=["form", "raw", "send"])
@pytest.mark.usefixtures("relay")
def test_a_file_is_uploaded_from_the_shell(reader, way):
    assert stored(reader.run(reader.block(way))) == reader.sample


@pytest.mark.usefixtures("relay")
def test_a_large_file_is_sent_as_the_section_on_bad_networks_says(reader, tmp_path):
    command = reader.block("truncate").replace("4G", "40M").replace("/tmp/", f"{tmp_path}/")  # noqa: S108 - the README's
    (line,) = reader.run(command).splitlines()
    assert json.loads(line)["files"][0]["size"] == 40 * 2**20


def test_a_file_is_uploaded_in_a_browser(reader, relay, tmp_path):
    with chromium(tmp_path / "chromium") as browser:
        page = Page(browser, relay)
        page.choose(reader.clone / "LICENSE")
        (upload,) = page.until_state("Stored")
    assert stored(upload["answer"]) == reader.sample


@pytest.mark.parametrize("way", ["-F file=@", "-T LICENSE", "--file-field"], ids=["form", "raw", "send"])
def test_a_file_is_uploaded_to_the_readers_api(reader, behind_the_relay, way):
    reader.run(reader.block(way))
    (path,) = behind_the_relay.iterdir()
    assert (path.name, path.read_bytes()) == ("LICENSE", reader.sample)


def test_the_page_uploads_to_the_readers_api(reader, behind_the_relay, tmp_path):
    with chromium(tmp_path / "chromium") as browser:
        page = Page(browser, reader.with_free_ports("https://localhost:8000/"))
        page.choose(reader.clone / "LICENSE")
        page.until_state("Stored")
    (path,) = behind_the_relay.iterdir()
    assert (path.name, path.read_bytes()) == ("LICENSE", reader.sample)
