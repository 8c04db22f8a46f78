"""The programs of a cluster, each of which can be stopped, killed and started again on the same ports."""

import asyncio
import os
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import aiohttp
import trustme

from aiorelay import Settings

__all__ = ["BUCKET", "Cluster", "Member"]

BUCKET = "relayed"
_SPOOL = f"s3://{BUCKET}/unfinished"
_START_TIMEOUT = 60.0
_KEYS: Mapping[str, str] = {
    "AWS_ACCESS_KEY_ID": "cluster",
    "AWS_SECRET_ACCESS_KEY": "secret-of-the-cluster",
    "AWS_DEFAULT_REGION": "us-east-1",
}
_IDENTITIES = """{"identities": [{"name": "cluster", "actions": ["Admin", "Read", "Write", "List"],
    "credentials": [{"accessKey": "cluster", "secretKey": "secret-of-the-cluster"}]}]}"""

_HAPROXY = """
global
    maxconn 1000
defaults
    mode http
    timeout connect 5s
    timeout client 1m
    timeout server 5m
    option redispatch 1
frontend uploads
    bind 127.0.0.1:{port} ssl crt {certificate}
    http-request del-header Forwarded
    http-request set-header X-Forwarded-For %[src]
    default_backend relays
backend relays
    balance leastconn
    option httpchk GET /readyz
    default-server check inter 500 ssl verify required ca-file {authorities} verifyhost localhost sni str(localhost)
{relays}
"""
_NGINX = """
daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/nginx.log error; {user}
events {{ worker_connections 512; }}
http {{
    access_log off; client_max_body_size 0;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi; scgi_temp_path {directory}/scgi;
    upstream relays {{ least_conn; {relays} keepalive 16; }}
    server {{
        listen 127.0.0.1:{port} ssl;
        ssl_certificate {certificate}; ssl_certificate_key {certificate};
        location / {{
            proxy_pass https://relays; proxy_http_version 1.1; proxy_set_header Connection "";
            proxy_request_buffering off; proxy_read_timeout 5m;
            proxy_ssl_trusted_certificate {authorities}; proxy_ssl_verify on; proxy_ssl_server_name on;
            proxy_ssl_name localhost;
            proxy_set_header Host $http_host; proxy_set_header Forwarded "";
            proxy_set_header X-Forwarded-For $remote_addr;
        }}
    }}
}}
"""


@dataclass(eq=False)
class Member:
    """A program with its ``command``, which is ready as soon as ``is_ready`` says so. Its output goes to ``log``."""

    name: str
    command: list[str]
    log: Path
    is_ready: Callable[[], Awaitable[bool]]
    process: asyncio.subprocess.Process | None = field(default=None, init=False)

    async def start(self) -> None:
        """Start the program, and wait until it is ready."""
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.log.parent,
            )
        try:
            async with asyncio.timeout(_START_TIMEOUT):
                while not await self.is_ready():
                    if self.process.returncode is not None:
                        sys.exit(f"{self.name} ended with {self.process.returncode}:\n{self.log.read_text()}")
                    await asyncio.sleep(0.1)
        except TimeoutError:
            sys.exit(f"{self.name} was not ready in {_START_TIMEOUT:.0f} s:\n{self.log.read_text()}")

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Send a signal, and return the exit status."""
        if self.process is None:
            return 0
        with suppress(ProcessLookupError):
            self.process.send_signal(number)
        return await self.process.wait()


@dataclass
class Cluster:
    """The members, the balancer's ``url``, the CA ``ca`` to verify it with, and the ``filer`` of the object store.

    ``shared`` are the settings of what the relays share.
    """

    directory: Path
    relays: list[Member]
    redis: Member
    store: Member
    balancer: Member
    url: str
    ca: Path
    filer: str
    shared: Settings

    @property
    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=self.ca)

    @classmethod
    @asynccontextmanager
    async def started(cls, directory: Path, balancer: str, number: int) -> AsyncIterator[Self]:
        """Start all members in ``directory``; stop them at the end."""
        os.environ.update(_KEYS)
        store, endpoint, filer = _object_store(directory)
        redis, state = _redis(directory)
        ports = _free_ports(2 * number + 1)
        front = ports.pop()
        relays = [
            _relay(directory, f"relay{each}", ports[2 * each : 2 * each + 2], endpoint, state) for each in range(number)
        ]
        async with AsyncExitStack() as stack:
            for member in (store, redis):
                stack.push_async_callback(member.stop, signal.SIGKILL)
                await member.start()
            await _make_bucket(filer)
            for member in relays:
                stack.push_async_callback(member.stop, signal.SIGKILL)
            await asyncio.gather(*(member.start() for member in relays))
            before = _balancer(directory, balancer, front, ports[::2])
            stack.push_async_callback(before.stop, signal.SIGKILL)
            await before.start()
            url = f"https://127.0.0.1:{front}"
            shared = Settings(state=state, spool=_SPOOL, s3_endpoint=endpoint)
            yield cls(directory, relays, redis, store, before, url, directory / "ca.pem", filer, shared)


def _relay(directory: Path, name: str, ports: list[int], endpoint: str, state: str) -> Member:
    command = [
        *(sys.executable, "-m", "aiorelay", f"--rest1-port={ports[0]}", f"--rest2-port={ports[1]}"),
        *(f"--state-dir={directory}/{name}", f"--state={state}", f"--s3-endpoint={endpoint}"),
        *(f"--store=s3://{BUCKET}/stored", f"--spool={_SPOOL}"),
        *("--trusted-proxy=127.0.0.1", "--allow-net=127.0.0.0/8", "--log-level=warning"),
    ]
    return Member(name, command, directory / f"{name}.log", lambda: _answers(f"https://127.0.0.1:{ports[0]}/healthz"))


def _redis(directory: Path) -> tuple[Member, str]:
    (port,) = _free_ports(1)
    (directory / "redis").mkdir()
    command = [
        *("redis-server", "--bind", "127.0.0.1", "--port", f"{port}", "--dir", f"{directory}/redis"),
        *("--appendonly", "yes", "--appendfsync", "always", "--save", ""),
    ]

    async def is_ready() -> bool:
        with suppress(OSError):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"PING\r\n")
            said = await reader.readline()
            writer.close()
            return said == b"+PONG\r\n"
        return False

    return Member("redis", command, directory / "redis.log", is_ready), f"redis://127.0.0.1:{port}/0"


def _object_store(directory: Path) -> tuple[Member, str, str]:
    """Return SeaweedFS, the URL of its S3 endpoint, and that of its filer, which needs no signatures."""
    config, data = directory / "identities.json", directory / "objects"
    config.write_text(_IDENTITIES)
    data.mkdir()
    names = ["master.port", "volume.port", "filer.port", "s3.port"]
    ports = dict(zip([*names, *(f"{name}.grpc" for name in names)], _free_ports(8), strict=True))
    command = [
        *(str(Path(sys.executable).with_name("weed")), "-v=0", "server", f"-dir={data}", "-filer", "-s3"),
        *(f"-{name}={port}" for name, port in ports.items()),
        *("-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-volume.max=20", f"-s3.config={config}"),
        *(f"-filer.localSocket={directory}/filer.sock", f"-s3.localSocket={directory}/s3.sock"),
    ]
    endpoint, filer = (f"http://127.0.0.1:{ports[name]}" for name in ("s3.port", "filer.port"))

    async def is_ready() -> bool:
        return await _answers(f"{filer}/", 200) and await _answers(f"{endpoint}/", 200, 403)

    return Member("store", command, directory / "store.log", is_ready), endpoint, filer


def _balancer(directory: Path, kind: str, port: int, relays: list[int]) -> Member:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(directory / "ca.pem")
    certificate = directory / "balancer.pem"
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
    authorities = directory / "relays-ca.pem"
    found = sorted(directory.glob("relay*/tls/ca.pem"))
    authorities.write_text("".join(path.read_text() for path in found))
    places = {"port": port, "certificate": certificate, "authorities": authorities, "directory": directory}
    config = directory / f"{kind}.cfg"
    if kind == "haproxy":
        servers = "\n".join(f"    server relay{at} 127.0.0.1:{each}" for at, each in enumerate(relays))
        config.write_text(_HAPROXY.format(relays=servers, **places))
        command = ["haproxy", "-db", "-f", str(config)]
    else:
        servers = " ".join(f"server 127.0.0.1:{each} fail_timeout=2s;" for each in relays)
        user = "" if os.geteuid() else "user root;"
        config.write_text(_NGINX.format(relays=servers, user=user, **places))
        command = ["nginx", "-c", str(config), "-e", str(directory / "nginx.log")]
    url = f"https://127.0.0.1:{port}/readyz"
    return Member(kind, command, directory / f"{kind}.log", lambda: _answers(url, 200))


async def _make_bucket(filer: str) -> None:
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        await session.put(f"{filer}/buckets/{BUCKET}/first/object", data=b"first")


async def _answers(url: str, *statuses: int) -> bool:
    """Return whether a server answers with one of these statuses, by default 200. Its certificate is not verified."""
    timeout = aiohttp.ClientTimeout(total=5)
    with suppress(aiohttp.ClientError, TimeoutError):
        async with aiohttp.ClientSession(timeout=timeout) as session, session.get(url, ssl=False) as answer:
            return answer.status in (statuses or (200,))
    return False


def _free_ports(number: int) -> list[int]:
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(number)]
    ports: list[int] = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports
