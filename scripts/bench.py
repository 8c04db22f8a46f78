"""Uploads a large file straight to rest2, through the relay, and through nginx to the same rest2, interleaved.

Figures are medians over the rounds. CPU seconds are those of every serving process of the chain, not of curl; RSS is
the peak of the process in front. Ratios between rows of one run hold better than the figures themselves.
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

_MIB = 2**20
_TICKS = os.sysconf("SC_CLK_TCK")

_NGINX = """
daemon off; worker_processes 1; pid {dir}/nginx.pid; error_log {dir}/error.log warn;
events {{ worker_connections 512; }}
http {{
    access_log off; client_max_body_size 0; client_body_temp_path {dir}/body; proxy_temp_path {dir}/proxy;
    fastcgi_temp_path {dir}/fastcgi; uwsgi_temp_path {dir}/uwsgi; scgi_temp_path {dir}/scgi;
    upstream storing {{ server 127.0.0.1:{rest2}; keepalive 32; }}
    server {{
        listen 127.0.0.1:{port} ssl; ssl_certificate {cert}; ssl_certificate_key {cert};
        location / {{
            proxy_pass https://storing; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_ssl_session_reuse on; proxy_request_buffering off; client_body_buffer_size 256k;
        }}
    }}
}}
"""


@dataclass
class Way:
    """One way to rest2: the URL to upload to, and the processes that serve it."""

    name: str
    url: str
    processes: Callable[[], list[int]]
    front: Callable[[], int]
    rates: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    rss: list[float] = field(default_factory=list)


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=1024, metavar="MIB", help="size of the file (1024)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (5)")
    parser.add_argument("--dir", type=Path, help="where the files go (the system's temporary directory)")
    options = parser.parse_args()
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="aiorelay-bench-", dir=options.dir)))
        sample = _sample(directory / "sample", options.size)
        ways = _ways(directory, stack)
        for _ in range(options.rounds):
            for way in ways:
                _measure(way, sample, options.size, directory)
        _report(ways, options)


def _sample(path: Path, size: int) -> Path:
    block = os.urandom(_MIB)
    with path.open("wb") as file:
        for _ in range(size):
            file.write(block)
    return path


def _ways(directory: Path, stack: ExitStack) -> list[Way]:
    chain, chain_urls = stack.enter_context(_aiorelay(directory, "chain"))
    alone, alone_urls = stack.enter_context(_aiorelay(directory, "alone", "--only", "rest2"))
    rest2 = alone_urls["rest2"]
    nginx, nginx_url = stack.enter_context(_nginx(directory, int(rest2.rpartition(":")[2])))
    return [
        Way("rest2 alone", f"{rest2}/upload", lambda: [alone], lambda: alone),
        Way("relay", f"{chain_urls['rest1']}/upload", lambda: [chain], lambda: chain),
        Way("nginx", f"{nginx_url}/upload", lambda: [alone, *_children(nginx)], lambda: _children(nginx)[0]),
    ]


@contextmanager
def _aiorelay(directory: Path, name: str, *flags: str) -> Iterator[tuple[int, dict[str, str]]]:
    """A relay with a store that does not sync, its process id and its URLs."""
    command = [
        sys.executable,
        "-m",
        "aiorelay",
        "--rest1-port=0",
        "--rest2-port=0",
        "--no-fsync",
        "--log-level=warning",
    ]
    command += [f"--state-dir={directory}/state", f"--store={directory}/{name}", *flags]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        urls = {}
        for line in process.stdout or ():
            key, _, value = line.strip().partition(" ")
            urls[key] = value
            if key == "curl":
                break
        try:
            yield process.pid, urls
        finally:
            process.terminate()


@contextmanager
def _nginx(directory: Path, rest2: int) -> Iterator[tuple[int, str]]:
    port, cert = 18443, directory / "state/tls/server.pem"
    config = directory / "nginx.conf"
    config.write_text(_NGINX.format(dir=directory, rest2=rest2, port=port, cert=cert))
    with subprocess.Popen(["nginx", "-p", directory, "-c", config, "-e", directory / "error.log"]) as process:
        while not (directory / "nginx.pid").exists():
            if process.poll() is not None:
                sys.exit((directory / "error.log").read_text())
            time.sleep(0.05)
        try:
            yield process.pid, f"https://127.0.0.1:{port}"
        finally:
            process.terminate()


def _measure(way: Way, sample: Path, size: int, directory: Path) -> None:
    processes, front = way.processes(), way.front()
    Path(f"/proc/{front}/clear_refs").write_text("5")  # the peak begins anew
    before = sum(map(_cpu, processes))
    started = time.perf_counter()
    curl = ["curl", "-sSf", "-o/dev/null", "-HExpect:", "--cacert", f"{directory}/state/tls/ca.pem"]
    subprocess.run([*curl, "-F", f"somefile=@{sample}", way.url], check=True)
    way.rates.append(size / (time.perf_counter() - started))
    way.cpu.append((sum(map(_cpu, processes)) - before) * 1024 / size)
    way.rss.append(_peak(front))
    for store in ("chain", "alone"):
        for kept in (directory / store).iterdir():
            shutil.rmtree(kept)


def _cpu(process: int) -> float:
    """CPU seconds that a process has used, in user mode and in the kernel."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _peak(process: int) -> float:
    """The peak resident size of a process in MiB."""
    line = next(line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _children(process: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def _report(ways: list[Way], options: argparse.Namespace) -> None:
    anchor = statistics.median(ways[-1].rates)
    print(f"{options.size} MiB, one client, median of {options.rounds} rounds on {os.cpu_count()} cores\n")
    print("| way | MB/s | of nginx | CPU s/GiB | peak RSS MiB |")
    print("|---|---|---|---|---|")
    for way in ways:
        rate = statistics.median(way.rates)
        row = f"{rate * _MIB / 1e6:.0f} | {rate / anchor:.2f} | {statistics.median(way.cpu):.2f} | {max(way.rss):.0f}"
        print(f"| {way.name} | {row} |")


if __name__ == "__main__":
    main()
