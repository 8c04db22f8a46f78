"""The README keeps its word: every line of shell in it is run, and its table lists every setting."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from aiorelay.settings import SETTINGS

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


@pytest.fixture
def shell(tmp_path) -> Iterator["Shell"]:
    shell = Shell(tmp_path)
    yield shell
    shell.close()


class Shell:
    """A stranger's terminals: one for the server, one for everything else, on ports that are free.

    In ``directory / "clone"``: a true one if it is there, else what the README's commands need of one. At port 5000, as
    the README has it, there is the stranger's own upload API once ``own_api`` was called; it keeps files in ``kept``.
    """

    def __init__(self, directory: Path) -> None:
        self.clone = directory / "clone"
        if not self.clone.exists():
            self._imitate_clone()
        self.kept = directory / "kept"
        self.ports = {port: _free_port() for port in ("8000", "8001", "8765", "5000")}
        self.environ = os.environ | {
            "AIORELAY_REST1_PORT": self.ports["8000"],
            "AIORELAY_REST2_PORT": self.ports["8001"],
            "XDG_STATE_HOME": str(directory / "state"),
        }
        self.server: subprocess.Popen[str] | None = None
        self._api: subprocess.Popen[bytes] | None = None

    def _imitate_clone(self) -> None:
        (self.clone / "scripts").mkdir(parents=True)
        # Not a link: the script makes an environment beside itself, and there is one beside the real one.
        run = self.clone / "scripts" / "run"
        run.write_text(f'#!/bin/sh\nexec {shlex.quote(str(ROOT / "scripts" / "run"))} "$@"\n')
        run.chmod(0o755)
        shutil.copy(ROOT / "LICENSE", self.clone)
        validator = re.search(r"```python\n(# checks\.py\n.*?)```", README, re.DOTALL)
        (self.clone / "checks.py").write_text(validator[1])

    def own_api(self) -> None:
        self.kept.mkdir()
        with socket.create_server(("127.0.0.1", int(self.ports["5000"]))) as listener:
            handed = str(listener.fileno())
            self._api = subprocess.Popen(
                [sys.executable, ROOT / "tests/upstreams/flask_app.py", handed, self.kept, "file"],
                pass_fds=[listener.fileno()],
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    def here(self, text: str) -> str:
        """What the README says, with the ports that are free here."""
        for port, free in self.ports.items():
            text = text.replace(f":{port}", f":{free}").replace(f" {port}", f" {free}")
        return text

    def serve(self, command: str) -> list[str]:
        self.stop()
        self.server = subprocess.Popen(
            ["bash", "-c", f"exec env {self.here(command)}"],
            cwd=self.clone,
            env=self.environ,
            stdout=subprocess.PIPE,
            text=True,
        )
        lines = []
        for line in self.server.stdout:
            lines.append(line.strip())
            if line.startswith("curl "):
                return lines
        raise AssertionError(f"{command} did not start: {lines}")

    def run(self, commands: str) -> str:
        variables = "CA=$(scripts/run ca)\nif test -f tokens; then TOKEN=$(cut -d: -f2 tokens); fi"
        script = f"set -euo pipefail\n{variables}\n{self.here(commands)}"
        done = subprocess.run(
            ["bash", "-c", script], cwd=self.clone, env=self.environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stop(self) -> None:
        if self.server is not None:
            self.server.send_signal(signal.SIGTERM)
            assert self.server.wait(10) == 0
            self.server.stdout.close()
            self.server = None

    def close(self) -> None:
        try:
            self.stop()
        finally:
            if self._api is not None:
                self._api.terminate()
                self._api.wait()


def _free_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return str(server.getsockname()[1])


def test_every_line_of_shell_works(shell):
    shell.own_api()
    blocks = re.findall(r"```sh\n(.*?)```", README, re.DOTALL)
    for block in blocks:
        *before, command = block.strip().splitlines()
        if re.match(r"(\w+=\S+ )*scripts/run( -|$)", command):
            if before:
                shell.run("\n".join(before))
            ready = shell.serve(command)
            if not re.search("--only|--accept", command):  # of which the sample is neither
                assert '"status": "done"' in shell.run(f"{ready[-1]} -sS")
        elif "curl" in block:
            assert re.search('"(status|state)": ?"done"', shell.run(block.replace("curl ", "curl -sS ")))
        else:
            shell.run(block)
    assert len(blocks) > 8


def test_the_csv_validator_does_what_is_said_of_it(shell):
    shell.serve("PYTHONPATH=. scripts/run --validator checks:CsvHeader")
    (shell.clone / "good.csv").write_text("date,amount,account\n2026-01-01,1,2\n")
    (shell.clone / "bad.csv").write_text("amount\n1\n")
    url = "https://localhost:8000/upload1"
    assert '"status": "done"' in shell.run(f'curl -sS --cacert "$CA" -F somefile=@good.csv {url}')
    assert "urn:aiorelay:content-refused" in shell.run(f'curl -sS --cacert "$CA" -F somefile=@bad.csv {url}')


def test_the_table_lists_every_setting():
    table = README.partition("<!-- settings -->")[2].partition("<!-- /settings -->")[0]
    assert table.strip().splitlines() == settings_table()


def settings_table() -> list[str]:
    """The README's table of settings, as it must be."""
    rows = [
        f"| `{each.key}`{'*' if each.repeated else ''} | {each.default.replace('|', '&#124;')} | {each.help} |"
        for each in SETTINGS.values()
    ]
    return ["| setting | default | meaning |", "|---|---|---|", *rows]


if __name__ == "__main__":  # writes the table
    before, begin, rest = README.partition("<!-- settings -->")
    _, end, after = rest.partition("<!-- /settings -->")
    (ROOT / "README.md").write_text("\n".join([before + begin, "", *settings_table(), "", end + after]))
