"""Where a work of the benchmark is played: its files, its servers as cases, and what clients do to them."""

import random
import subprocess
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench_case import MIB, BenchError, Case, Load
from bench_servers import aiorelay, free_port, nginx, proxying

__all__ = ["BOUNDARY", "Stage", "run"]

BOUNDARY = "------------------------aiorelaybenchmarking01"  # as curl's begin, and as long

_NOISE = random.Random(1).randbytes(MIB)  # noqa: S311 - the same in each run


@dataclass(frozen=True)
class Stage:
    """A work's own ``directory``, and the ``stack`` its servers are on; all works share ``state``.

    ``size`` is that of the large file in MiB, ``seconds`` how long wrk may send small ones.
    """

    directory: Path
    state: Path
    size: int
    seconds: int
    stack: ExitStack

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
        """A file of noise."""
        path = self.directory / "sample"
        with path.open("wb") as file:
            file.writelines(_NOISE for _ in range(mib))
        return path

    def form(self, mib: int, name: str = "form", block: bytes = _NOISE) -> Path:
        """A form as a file; the file in it is made of ``block``, a MiB, over and over."""
        path = self.directory / name
        with path.open("wb") as file:
            file.write(
                f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="somefile"; filename="sample"\r\n'.encode()
            )
            file.write(b"Content-Type: application/octet-stream\r\n\r\n")
            file.writelines(block for _ in range(mib))
            file.write(f"\r\n--{BOUNDARY}--\r\n".encode())
        return path

    def relay(self, name: str, load: Load, mib: float, *flags: str, store: Path | None = None) -> Case:
        """A whole relay in a process of its own."""
        store = store or self.folder(name.replace(" ", "-"))
        process, urls = self.stack.enter_context(aiorelay(self.state, store, *flags))
        return Case(name, load, urls["rest1"], (process,), (process,), mib, store)

    def rest2_and_nginx(self, load: Load, mib: float, store: Path | None = None) -> tuple[Case, Case]:
        """A rest2 alone, and nginx before that same rest2."""
        store = store or self.folder("alone")
        rest2, urls = self.stack.enter_context(aiorelay(self.state, store, "--only=rest2"))
        port, url = free_port(), urls["rest2"]
        server = nginx(self.directory / "proxy", self.certificate, proxying(port, url))
        front = self.stack.enter_context(server)
        return (
            Case("rest2 alone", load, url, (rest2,), (rest2,), mib, store),
            Case("nginx", load, f"https://127.0.0.1:{port}", (front, rest2), (front,), mib, store),
        )

    def curl(self, *arguments: str) -> list[str]:
        return ["curl", "-sSf", "-o/dev/null", "-HExpect:", "--cacert", str(self.ca), *arguments]

    def upload(self, sample: Path, *, times: int = 1) -> Load:
        """Upload a file in a form, as users do; several times at once."""
        return lambda url: run(*[self.curl("-F", f"somefile=@{sample}", f"{url}/upload")] * times)

    def post(self, form: Path, *headers: str) -> Load:
        """Upload a form that was written before."""
        wanted = (f"Content-Type: multipart/form-data; boundary={BOUNDARY}", *headers)
        arguments = ("-XPOST", *(f"-H{header}" for header in wanted), f"-T{form}")
        return lambda url: run(self.curl(*arguments, f"{url}/upload"))


def run(*commands: list[str]) -> None:
    """Run commands at once, each to its end. Raises ``BenchError`` if one fails."""
    processes = [subprocess.Popen(command) for command in commands]
    try:
        for process in processes:
            if process.wait():
                raise BenchError(f"{process.args!r} failed with {process.returncode}.")
    finally:
        for process in processes:
            process.kill()
            process.wait()
