"""The setup of a work: its files, its servers as cases, and the loads of its clients."""

import random
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench_case import MIB, BenchError, Case, Load
from bench_servers import aiorelay, bare, free_port, nginx, proxying

__all__ = ["BOUNDARY", "Stage", "run"]

BOUNDARY = "------------------------aiorelaybenchmarking01"  # the same form and length as curl's

_NOISE = random.Random(1).randbytes(MIB)  # noqa: S311 - the same in each run


@dataclass(frozen=True)
class Stage:
    """The ``directory`` of a work, and the ``stack`` that stops its servers. All works share ``state``.

    ``size`` is the size of the large file in MiB, and ``seconds`` the duration of a run of wrk. ``pythons`` are the
    interpreters to compare, by the names of their versions.
    """

    directory: Path
    state: Path
    size: int
    seconds: int
    stack: ExitStack
    pythons: Mapping[str, str]

    @property
    def certificate(self) -> Path:
        return self.state / "tls/server.pem"

    @property
    def ca(self) -> Path:
        return self.state / "tls/ca.pem"

    def folder(self, name: str) -> Path:
        folder = self.directory / name
        folder.mkdir()
        return folder

    def sample(self, mib: int) -> Path:
        """Write a file of random bytes."""
        path = self.directory / "sample"
        with path.open("wb") as file:
            file.writelines(_NOISE for _ in range(mib))
        return path

    def form(self, mib: int, name: str = "form", block: bytes = _NOISE) -> Path:
        """Write a form to a file. The uploaded file repeats ``block``, which is one MiB."""
        path = self.directory / name
        with path.open("wb") as file:
            file.write(
                f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="somefile"; filename="sample"\r\n'.encode()
            )
            file.write(b"Content-Type: application/octet-stream\r\n\r\n")
            file.writelines(block for _ in range(mib))
            file.write(f"\r\n--{BOUNDARY}--\r\n".encode())
        return path

    def relay(
        self,
        name: str,
        load: Load,
        mib: float,
        *flags: str,
        store: Path | None = None,
        python: str = sys.executable,
    ) -> Case:
        """Start a relay in its own process."""
        store = store or self.folder(name.replace(" ", "-"))
        process, urls = self.stack.enter_context(aiorelay(self.state, store, *flags, python=python))
        return Case(name, load, urls["rest1"], (process,), (process,), mib, store)

    def rest2_and_nginx(self, load: Load, mib: float, store: Path | None = None) -> tuple[Case, Case]:
        """Start a rest2, and an nginx that forwards to it."""
        store = store or self.folder("alone")
        rest2, urls = self.stack.enter_context(aiorelay(self.state, store, "--only=rest2"))
        port, url = free_port(), urls["rest2"]
        server = nginx(self.directory / "proxy", self.certificate, proxying(port, url))
        front = self.stack.enter_context(server)
        return (
            Case("rest2 alone", load, url, (rest2,), (rest2,), mib, store),
            Case("nginx", load, f"https://127.0.0.1:{port}", (front, rest2), (front,), mib, store),
        )

    def bare(self, load: Load, mib: float, store: Path | None = None) -> Case:
        """Start a relay that passes bytes on unread: the floor of one event loop with aiohttp."""
        store = store or self.folder("bare")
        process, url = self.stack.enter_context(bare(self.state, store))
        return Case("bare aiohttp", load, url, (process,), (process,), mib, store)

    def memory(self) -> Path:
        """Make a directory in memory (tmpfs)."""
        return Path(self.stack.enter_context(TemporaryDirectory(prefix="aiorelay-bench-", dir="/dev/shm")))

    def curl(self, *arguments: str) -> list[str]:
        return ["curl", "-sSf", "-o/dev/null", "-HExpect:", "--cacert", str(self.ca), *arguments]

    def upload(self, sample: Path, *, times: int = 1) -> Load:
        """Upload a file in a form with curl, ``times`` in parallel."""
        return lambda url: run(*[self.curl("-F", f"somefile=@{sample}", f"{url}/upload")] * times)

    def post(self, form: Path, *headers: str) -> Load:
        """Upload a prepared form."""
        wanted = (f"Content-Type: multipart/form-data; boundary={BOUNDARY}", *headers)
        arguments = ("-XPOST", *(f"-H{header}" for header in wanted), f"-T{form}")
        return lambda url: run(self.curl(*arguments, f"{url}/upload"))


def run(*commands: list[str]) -> None:
    """Run commands in parallel. Raises ``BenchError`` if one fails."""
    processes = [subprocess.Popen(command) for command in commands]
    try:
        for process in processes:
            if process.wait():
                raise BenchError(f"{process.args!r} failed with {process.returncode}.")
    finally:
        for process in processes:
            process.kill()
            process.wait()
