"""Run the commands of the README as a reader would."""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

from processes import free_ports

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
_PORTS = ("8000", "8001", "8765", "5000")


class Shell:
    """A terminal for the server and one for other commands. The ports of the README are replaced by free ones.

    The working directory is ``directory / "clone"``: a git clone if it exists, else a directory with the files that the
    commands need. ``own_api`` starts an upload API at port 5000 of the README; it stores files in ``kept``.
    """

    def __init__(self, directory: Path) -> None:
        self.clone = directory / "clone"
        if not self.clone.exists():
            self._imitate_clone()
        self.kept = directory / "kept"
        self.ports = dict(zip(_PORTS, map(str, free_ports(len(_PORTS))), strict=True))
        self.environ = os.environ | {
            "AIORELAY_REST1_PORT": self.ports["8000"],
            "AIORELAY_REST2_PORT": self.ports["8001"],
            "XDG_STATE_HOME": str(directory / "state"),
        }
        self.server: subprocess.Popen[str] | None = None
        self._api: subprocess.Popen[bytes] | None = None

    def _imitate_clone(self) -> None:
        (self.clone / "scripts").mkdir(parents=True)
        # Not a link: the script makes its environment beside itself, and the real one has one already.
        run = self.clone / "scripts" / "run"
        run.write_text(f'#!/bin/sh\nexec {shlex.quote(str(ROOT / "scripts" / "run"))} "$@"\n')
        run.chmod(0o755)
        shutil.copy(ROOT / "LICENSE", self.clone)
        validator = re.search(r"```python\n(# checks\.py\n.*?)```", README, re.DOTALL)
        assert validator is not None
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

    def with_free_ports(self, text: str) -> str:
        """Return ``text`` with the ports of the README replaced by free ones."""
        for port, free in self.ports.items():
            text = text.replace(f":{port}", f":{free}").replace(f" {port}", f" {free}")
        return text

    def serve(self, command: str) -> list[str]:
        self.stop()
        self.server = subprocess.Popen(
            ["bash", "-c", f"exec env {self.with_free_ports(command)}"],
            cwd=self.clone,
            env=self.environ,
            stdout=subprocess.PIPE,
            text=True,
        )
        lines = []
        assert self.server.stdout is not None
        for line in self.server.stdout:
            lines.append(line.strip())
            if line.startswith("curl "):
                return lines
        raise AssertionError(f"{command} did not start: {lines}")

    def run(self, commands: str) -> str:
        variables = "CA=$(scripts/run ca)\nif test -f alice.txt; then TOKEN=$(sed -n 's/^token //p' alice.txt); fi"
        script = f"set -euo pipefail\n{variables}\n{self.with_free_ports(commands)}"
        done = subprocess.run(
            ["bash", "-c", script], cwd=self.clone, env=self.environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def stop(self) -> None:
        if self.server is not None:
            self.server.send_signal(signal.SIGTERM)
            assert self.server.wait(10) == 0
            assert self.server.stdout is not None
            self.server.stdout.close()
            self.server = None

    def close(self) -> None:
        try:
            self.stop()
        finally:
            if self._api is not None:
                self._api.terminate()
                self._api.wait()
