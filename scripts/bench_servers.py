"""The servers of the benchmark, as context managers. Each has its own port and is stopped at the end."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bench_case import BenchError

__all__ = ["aiorelay", "bare", "clamd", "crowd", "flask", "free_port", "nginx", "proxying", "serving", "storing"]

_NGINX = """
daemon off; worker_processes 1; pid nginx.pid; error_log error.log warn; {user}
events {{ worker_connections 512; }}
http {{
    access_log off; client_max_body_size 0; keepalive_requests 1000000; client_body_buffer_size 256k;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
    scgi_temp_path scgi;
    ssl_certificate {certificate}; ssl_certificate_key {certificate};
    {servers}
}}
"""

_PROXYING = """
    upstream storing {{ server {server}; keepalive 32; keepalive_requests 1000000; }}
    server {{
        listen 127.0.0.1:{port} ssl;
        location / {{
            proxy_pass {scheme}://storing; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_ssl_session_reuse on; proxy_request_buffering off;
        }}
    }}
"""

_STORING = """
    server {{
        listen 127.0.0.1:{port} ssl; root {directory};
        location / {{ dav_methods PUT; }}
    }}
"""

_SERVING = """
    server {{
        listen 127.0.0.1:{port}; root {directory}; sendfile on;
    }}
"""

_CLAMD = """
Foreground yes
DatabaseDirectory {directory}
TemporaryDirectory {directory}
LocalSocket {directory}/socket
SelfCheck 0
StreamMaxLength 2000M
MaxFileSize 2000M
MaxScanSize 4000M
"""

_SCRIPTS = str(Path(__file__).parent)  # from which a relay imports the validators


def free_port() -> int:
    """Return a port that is unused at present."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@contextmanager
def aiorelay(
    state: Path, store: Path, *flags: str, python: str = sys.executable
) -> Iterator[tuple[int, dict[str, str]]]:
    """Run a relay without fsync. Yields its process id and its URLs."""
    command = [python, "-m", "aiorelay", "--no-fsync", "--log-level=error"]
    if not any(flag.startswith("--rest1-port") for flag in flags):
        command += ["--rest1-port=0", "--rest2-port=0"]
    command += [f"--state-dir={state}", f"--store={store}", *flags]
    with _running(command, stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": _SCRIPTS}) as process:
        urls = {}
        for line in process.stdout or ():
            key, _, value = line.strip().partition(" ")
            urls[key] = value
            if key == "curl":
                break
        else:
            raise BenchError("aiorelay did not start.")
        yield process.pid, urls


@contextmanager
def bare(state: Path, store: Path) -> Iterator[tuple[int, str]]:
    """Run a relay that passes bytes on unread. Yields its process id and its URL."""
    command = [sys.executable, str(Path(__file__).with_name("bench_bare.py")), str(state), str(store)]
    with _running(command, stdout=subprocess.PIPE) as process:
        url = "" if process.stdout is None else process.stdout.readline().strip()
        if not url:
            raise BenchError("The bare relay did not start.")
        yield process.pid, url


def proxying(port: int, url: str) -> str:
    """Return the nginx configuration that forwards uploads to the server at ``url``, or ``unix:PATH``, unbuffered."""
    scheme, _, rest = url.partition(":")
    if scheme == "unix":
        return _PROXYING.format(port=port, scheme="http", server=url)
    return _PROXYING.format(port=port, scheme=scheme, server=rest.removeprefix("//"))


def storing(port: int, directory: Path) -> str:
    """Return the nginx configuration that stores PUT bodies."""
    return _STORING.format(port=port, directory=directory)


def serving(port: int, directory: Path) -> str:
    """Return the nginx configuration that serves files without TLS."""
    return _SERVING.format(port=port, directory=directory)


@contextmanager
def nginx(directory: Path, certificate: Path, *servers: str) -> Iterator[int]:
    """Run nginx with these servers. Yields its process id."""
    directory.mkdir()
    # The default user of the workers of a root process may not enter the temporary directories.
    user = "" if os.geteuid() else "user root;"
    config = directory / "nginx.conf"
    config.write_text(_NGINX.format(user=user, certificate=certificate, servers="\n".join(servers)))
    log = directory / "error.log"
    with _running(["nginx", "-p", str(directory), "-c", str(config), "-e", str(log)]) as process:
        _wait(process, (directory / "nginx.pid").exists)  # written when nginx listens
        yield process.pid


@contextmanager
def flask(url: str, certificate: Path, *role: str) -> Iterator[int]:
    """Run one of the two Flask apps at ``url``. Yields its process id."""
    port = url.rpartition(":")[2]
    command = [sys.executable, str(Path(__file__).with_name("bench_flask.py")), port, str(certificate), *role]
    with _running(command, stdout=subprocess.DEVNULL) as process:
        _wait(process, lambda: _accepts(socket.AF_INET, ("127.0.0.1", int(port))))
        yield process.pid


@contextmanager
def clamd(directory: Path) -> Iterator[tuple[int, Path]]:
    """Run a ClamAV daemon with one test signature. Yields its process id and its socket."""
    directory.mkdir()
    (directory / "own.ndb").write_text(f"Aiorelay.Bench:0:*:{b'AIORELAY-BENCH-SIGNATURE'.hex()}\n")
    (directory / "clamd.conf").write_text(_CLAMD.format(directory=directory))
    command = ["clamd", "--config-file", str(directory / "clamd.conf")]
    with _running(command, stdout=subprocess.DEVNULL) as process:
        _wait(process, lambda: _accepts(socket.AF_UNIX, str(directory / "socket")))
        yield process.pid, directory / "socket"


@contextmanager
def crowd(url: str, ca: Path, count: int) -> Iterator[None]:
    """Run ``count`` clients that hold idle or slow connections to ``url``."""
    host, _, port = url.removeprefix("https://").rpartition(":")
    command = [sys.executable, str(Path(__file__).with_name("bench_crowd.py")), host, port, str(ca), str(count)]
    with _running(command, stdout=subprocess.PIPE) as process:
        if process.stdout is None or not process.stdout.readline():
            raise BenchError("The idle clients did not connect.")
        yield


@contextmanager
def _running(
    command: Sequence[str], stdout: int | None = None, env: dict[str, str] | None = None
) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(command, stdout=stdout, text=True, env=env) as process:
        try:
            yield process
        finally:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(40)
            process.kill()


def _wait(process: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    while not ready():
        if process.poll() is not None:
            raise BenchError(f"{process.args!r} did not start.")
        time.sleep(0.05)


def _accepts(family: socket.AddressFamily, address: tuple[str, int] | str) -> bool:
    with socket.socket(family) as client:
        return client.connect_ex(address) == 0
