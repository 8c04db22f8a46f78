"""Run ClamAV's daemon, and c-icap in front of it or with its echo service."""

import contextlib
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from programs import program

from aiorelay.settings.places import ScannerAddress

__all__ = ["EICAR", "MARKER", "SIGNATURE", "Clamd", "running_c_icap", "running_clamd"]

MARKER = b"AIORELAY-TEST-SIGNATURE"
SIGNATURE = "Aiorelay.Test.UNOFFICIAL"  # clamd appends UNOFFICIAL to signatures of others
EICAR = (
    rb"X5O!P%@AP[4\PZX54(P^)7CC)7}$" + b"EICAR-STANDARD-ANTIVIRUS-TEST-FILE!$H+H*"
)  # in one piece it would be found here

# clamd inherits its listening sockets, as from systemd: its port is known, and clients can connect before it is ready.
_ACTIVATE = """
import os, sys
for target, given in zip((3, 4), [os.dup(os.dup(os.dup(int(fd)))) for fd in sys.argv[1:3]]):
    os.dup2(given, target)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2")
os.execvp("clamd", ["clamd", "--config-file", sys.argv[3]])
"""

# One process, so that the end of it is the end of all. The settings of virus_scan are Debian's: of a file over 2 MiB it
# sends a part back before it has scanned it, and files over 5 MiB are not scanned.
_C_ICAP = """
PidFile {home}/pid
CommandsSocket {home}/control
ServerLog {home}/log
AccessLog {home}/access
TmpDir {home}
Port 127.0.0.1:{port}
StartServers 1
MaxServers 1
ThreadsPerChild 16
MinSpareThreads 1
MaxSpareThreads 16
MaxKeepAliveRequests 1000
TemplateDir /usr/share/c_icap/templates/
LoadMagicFile /etc/c-icap/c-icap.magic
Service echo srv_echo.so
Service avscan virus_scan.so
virus_scan.ScanFileTypes TEXT DATA EXECUTABLE ARCHIVE GIF JPEG MSOFFICE
virus_scan.SendPercentData 5
virus_scan.StartSendPercentDataAfter 2M
virus_scan.MaxObjectSize 5M
virus_scan.DefaultEngine clamd
Module common clamd_mod.so
clamd_mod.ClamdSocket {socket}
"""


class Clamd(NamedTuple):
    """The addresses of a running clamd, which finds ``MARKER`` and ``EICAR``."""

    tcp: ScannerAddress
    unix: ScannerAddress


@contextlib.contextmanager
def running_clamd(home: Path, stream_max_length: int) -> Iterator[Clamd]:
    """Run clamd in the directory ``home`` until it answers."""
    program("clamd")
    (home / "own.ndb").write_text(f"Aiorelay.Test:0:*:{MARKER.hex()}\nEicar-Test:0:*:{EICAR.hex()}\n")
    config = home / "clamd.conf"
    config.write_text(
        f"Foreground yes\nDatabaseDirectory {home}\nTemporaryDirectory {home}\nSelfCheck 0\n"
        f"StreamMaxLength {stream_max_length}\nAlertEncrypted yes\n"
    )
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as unix,
        (home / "log").open("w") as log,
    ):
        unix.bind(str(home / "socket"))
        unix.listen()
        listening = (tcp.fileno(), unix.fileno())
        command = [sys.executable, "-c", _ACTIVATE, *map(str, listening), str(config)]
        with subprocess.Popen(command, pass_fds=listening, stdout=log, stderr=log) as process:
            try:
                with socket.create_connection(tcp.getsockname(), timeout=60) as client:
                    client.sendall(b"zPING\0")
                    assert client.recv(64) == b"PONG\0", (home / "log").read_text()
                yield Clamd(tcp.getsockname(), home / "socket")
            finally:
                process.kill()


@contextlib.contextmanager
def running_c_icap(clamd: Clamd) -> Iterator[int]:
    """Run c-icap with the services ``echo`` and ``avscan``, and return its port once it accepts connections."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="c-icap-") as name, _in_home(Path(name), port, clamd):
        yield port


@contextlib.contextmanager
def _in_home(home: Path, port: int, clamd: Clamd) -> Iterator[None]:
    (home / "c-icap.conf").write_text(_C_ICAP.format(home=home, port=port, socket=clamd.unix))
    with (
        (home / "output").open("w") as output,
        subprocess.Popen(
            [program("c-icap"), "-N", "-f", str(home / "c-icap.conf")], stdout=output, stderr=output
        ) as process,
    ):
        try:
            _until_it_accepts(process, port)
            yield
        finally:
            process.terminate()


def _until_it_accepts(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait: c-icap cannot inherit a listening socket."""
    deadline = time.monotonic() + 20
    while True:
        assert process.poll() is None, "c-icap has ended"
        try:
            with socket.create_connection(("127.0.0.1", port)):
                return
        except ConnectionRefusedError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
