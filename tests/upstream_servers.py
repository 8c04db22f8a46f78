"""Run upload APIs on common servers as processes: ``async with running("node", tmp_path) as api: …``.

    werkzeug             Flask on its development server
    gunicorn             Django on gunicorn's synchronous worker
    gunicorn-gthread     Django on its threaded worker
    uvicorn              Starlette
    node                 Express with multer on Node's http server
    go                   net/http, which is built once for each run of the tests
    php                  PHP's built-in server
    apache               Apache httpd in front of PHP (FastCGI)
    nginx                nginx in front of Flask

All of them accept a form with the file ``somefile`` at ``/upload`` and store it under its own name.
"""

import asyncio
import contextlib
import hashlib
import os
import re
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from peers import PATIENCE
from programs import node_script, program

TESTS = Path(__file__).parent
SCRIPTS = TESTS / "upstreams"
_BUILD_PATIENCE = 240.0  # seconds; the first build of Go's net/http on a slow machine takes one minute


class StoredFile(NamedTuple):
    name: str
    sha256: str


def stored_file(name: str, content: bytes) -> StoredFile:
    """A complete file, as ``UploadApi.stored`` returns it."""
    return StoredFile(name, hashlib.sha256(content).hexdigest())


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of an upload API. Not every server has every option (``IDLE_CLOCKS``, ``REQUEST_CLOCKS``).

    ``idle`` is the longest silence in a body and ``request`` the longest time for a whole request, in seconds.
    ``max_body`` is in bytes; a longer body is answered with 413, by its Content-Length alone where the server can.
    ``certificate`` is a PEM file with a chain and its key: then the API speaks TLS.
    """

    idle: float | None = None
    request: float | None = None
    max_body: int | None = None
    certificate: Path | None = None

    def environment(self) -> dict[str, str]:
        """Return the options as environment variables of the scripts in tests/upstreams."""
        values = {
            "IDLE": self.idle,
            "REQUEST": self.request,
            "MAX_BODY": self.max_body,
            "CERTIFICATE": self.certificate,
        }
        return {name: str(value) for name, value in values.items() if value is not None}


class UploadApi:
    """A running upload API at ``url``; ``log`` is the output of its processes."""

    def __init__(self, url: str, store: Path, log: bytearray) -> None:
        self.url = url
        self.port = int(url.rpartition(":")[2].partition("/")[0])
        self.store = store
        self._log = log

    @property
    def log(self) -> str:
        return self._log.decode(errors="replace")

    def stored(self) -> list[StoredFile]:
        """Return the files that are stored now, without those removed during the call."""
        found = []
        for path in self.store.iterdir():
            with contextlib.suppress(FileNotFoundError):
                found.append(stored_file(path.name, path.read_bytes()))
        return sorted(found)


@dataclass(frozen=True)
class Place:
    """The place of a server: it inherits ``listener``, or listens on its port after ``listener`` is closed."""

    directory: Path
    listener: socket.socket
    options: Options

    @property
    def store(self) -> Path:
        return self.directory / "store"

    @property
    def descriptor(self) -> str:
        return str(self.listener.fileno())

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        port: int = self.listener.getsockname()[1]
        return port


@dataclass(frozen=True)
class Command:
    """A server's process.

    ``ready`` is the text that it prints when it accepts connections; None if it inherits a listening socket.
    """

    words: tuple[str | Path, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    ready: str | None = None
    takes_stdin: bool = False


Maker = Callable[[Place, UploadApi | None], Command]
"""Says how to run a server in a place, in front of another upload API if there is one."""


def werkzeug(place: Place, _inner: UploadApi | None) -> Command:
    return Command((sys.executable, SCRIPTS / "flask_app.py", place.descriptor, place.store))


def gunicorn(place: Place, _inner: UploadApi | None, *more: str) -> Command:
    words: list[str | Path] = [
        sys.executable,
        "-m",
        "gunicorn",
        "--chdir",
        SCRIPTS,
        "--bind",
        f"fd://{place.descriptor}",
    ]
    if place.options.request:
        words += ["--timeout", f"{place.options.request:g}"]
    if place.options.certificate:
        words += ["--certfile", place.options.certificate, "--keyfile", place.options.certificate]
    return Command((*words, *more, "django_app:application"))


def gunicorn_sync(place: Place, _inner: UploadApi | None) -> Command:
    return gunicorn(place, None, "--workers", "3")


def gunicorn_gthread(place: Place, _inner: UploadApi | None) -> Command:
    return gunicorn(place, None, "--worker-class", "gthread", "--threads", "4")


def uvicorn(place: Place, _inner: UploadApi | None) -> Command:
    words: list[str | Path] = [sys.executable, "-m", "uvicorn", "--app-dir", SCRIPTS, "--fd", place.descriptor]
    if place.options.certificate:
        words += ["--ssl-certfile", place.options.certificate, "--ssl-keyfile", place.options.certificate]
    return Command((*words, "starlette_app:application"))


def node(place: Place, _inner: UploadApi | None) -> Command:
    return Command((*node_script("express_multer.mjs"), place.descriptor, place.store))


def go(place: Place, _inner: UploadApi | None) -> Command:
    return Command((_go_binary(place), place.descriptor, place.store))


def php(place: Place, _inner: UploadApi | None) -> Command:
    script = SCRIPTS / "upload.php"
    return Command(
        (program("php"), *_PHP_LIMITS, "-S", place.address, script),
        {"PHP_CLI_SERVER_WORKERS": "4"},
        ready=r"Development Server .* started",
    )


def php_fastcgi(_place: Place, _inner: UploadApi | None) -> Command:
    return Command((program("php-cgi"), *_PHP_LIMITS), {"PHP_FCGI_CHILDREN": "4"}, takes_stdin=True)


def apache(place: Place, inner: UploadApi | None) -> Command:
    assert inner is not None
    config = place.directory / "apache.conf"
    config.write_text(_apache_config(place, inner))
    return Command(
        (program("apache2"), "-D", "FOREGROUND", "-f", config, "-E", "/dev/stderr"), ready="resuming normal operations"
    )


def nginx(place: Place, inner: UploadApi | None) -> Command:
    assert inner is not None
    config = place.directory / "nginx.conf"
    config.write_text(_nginx_config(place, inner))
    # nginx inherits the sockets in the variable NGINX, as in a binary upgrade.
    return Command(
        (program("nginx"), "-p", place.directory, "-e", "stderr", "-c", config), {"NGINX": f"{place.descriptor};"}
    )


SERVERS: Mapping[str, Maker] = {
    "werkzeug": werkzeug,
    "gunicorn": gunicorn_sync,
    "gunicorn-gthread": gunicorn_gthread,
    "uvicorn": uvicorn,
    "node": node,
    "go": go,
    "php": php,
    "apache": apache,
    "nginx": nginx,
}
PROGRAMS = ("apache2", "go", "nginx", "node", "npm", "php", "php-cgi")
"""What ``needs`` of them all."""
IDLE_CLOCKS = ("werkzeug", "node", "apache", "nginx")
"""Servers that bound the silence in a body: the option ``idle``."""
REQUEST_CLOCKS = ("gunicorn", "node", "go")
"""Servers that bound the whole request: the option ``request``."""
SPEAK_TLS = tuple(name for name in SERVERS if name != "php")
_BEHIND: Mapping[str, Maker] = {"apache": php_fastcgi, "nginx": werkzeug}


@asynccontextmanager
async def running(name: str, directory: Path, **options: object) -> AsyncGenerator[UploadApi, None]:
    """Run the upload API ``name`` with ``Options`` and files in ``directory``, which must exist."""
    chosen = Options(**options)  # type: ignore[arg-type]
    if name == "go":
        await _built_go(directory)
    async with AsyncExitStack() as stack:
        inner = None
        if name in _BEHIND:
            behind = directory / "behind"
            behind.mkdir()
            inner = await stack.enter_async_context(
                _served(_BEHIND[name], behind, Options(max_body=chosen.max_body), None)
            )
        yield await stack.enter_async_context(_served(SERVERS[name], directory, chosen, inner))


@asynccontextmanager
async def _served(
    maker: Maker, directory: Path, options: Options, inner: UploadApi | None
) -> AsyncGenerator[UploadApi, None]:
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:
        place = Place(directory, listener, options)
        if inner is None:
            place.store.mkdir()
        command = maker(place, inner)
        scheme = "https" if options.certificate else "http"
        url = f"{scheme}://127.0.0.1:{place.port}/upload"
        if command.ready:
            listener.close()  # it always opens its port itself
        process = await asyncio.create_subprocess_exec(
            *command.words,
            pass_fds=[] if command.ready else [listener.fileno()],
            stdin=listener.fileno() if command.takes_stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "STORE": str(place.store), **options.environment(), **command.environment},
            start_new_session=True,
        )
    log = bytearray()
    ready = asyncio.Event()
    reading = asyncio.create_task(_keep_log(process, log, command.ready, ready))
    try:
        await asyncio.wait_for(ready.wait(), PATIENCE)
        assert process.returncode is None, log.decode(errors="replace")
        yield UploadApi(url, (inner or place).store, log)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # including its workers
        await process.wait()
        await reading


async def _keep_log(
    process: asyncio.subprocess.Process, log: bytearray, words: str | None, ready: asyncio.Event
) -> None:
    """Read the output of a process; ``ready`` is set when it contains ``words``, or the process has ended."""
    if words is None:
        ready.set()
    assert process.stdout is not None
    while block := await process.stdout.read(64 * 1024):
        log += block
        if words and not ready.is_set() and re.search(words.encode(), log):
            ready.set()
    ready.set()


# PHP's own limit would take effect before the server's.
_PHP_LIMITS = ("-d", "upload_max_filesize=4G", "-d", "post_max_size=0", "-d", "variables_order=EGPCS")


def _apache_config(place: Place, inner: UploadApi) -> str:
    modules = ["mpm_event", "authz_core", "reqtimeout", "proxy", "proxy_fcgi", "ssl"]
    certificate = place.options.certificate
    tls = f'SSLEngine on\nSSLCertificateFile "{certificate}"' if certificate else ""
    return "\n".join(
        [
            *[f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so" for name in modules],
            f'ServerRoot "{place.directory}"',
            f'DefaultRuntimeDir "{place.directory}"',
            f'PidFile "{place.directory}/apache.pid"',
            'ErrorLog "/dev/stderr"',
            "LogLevel notice",
            "User www-data",
            "Group www-data",
            "ServerName 127.0.0.1",
            f"Listen {place.address}",
            tls,
            "LimitRequestBody 0",
            f"RequestReadTimeout header=10-20,MinRate=500 body={place.options.idle or 10:g},MinRate=500",
            "ProxyFCGIBackendType GENERIC",
            f'ProxyPassMatch "^/upload$" "fcgi://127.0.0.1:{inner.port}{SCRIPTS}/upload.php"',
            "",
        ]
    )


def _nginx_config(place: Place, inner: UploadApi) -> str:
    certificate = place.options.certificate
    tls = f"ssl_certificate {certificate}; ssl_certificate_key {certificate};" if certificate else ""
    temporary = "".join(
        f"{each}_temp_path {place.directory}/{each};\n" for each in ("client_body", "proxy", "fastcgi", "scgi", "uwsgi")
    )
    return f"""
user root;
daemon off;
error_log stderr notice;
pid {place.directory}/nginx.pid;
events {{}}
http {{
    access_log off;
    {temporary}
    server {{
        listen {place.address}{" ssl" if certificate else ""};
        {tls}
        client_body_timeout {place.options.idle or 10:g}s;
        client_max_body_size {place.options.max_body or 0};
        location / {{ proxy_pass http://127.0.0.1:{inner.port}; }}
    }}
}}
"""


def _go_binary(place: Place) -> Path:
    return place.directory.parent / "aiorelay-upload-go" / "upload"


async def _built_go(directory: Path) -> None:
    """Build the Go API once for all tests whose directories have the same parent."""
    home = directory.parent / "aiorelay-upload-go"
    if (home / "upload").exists():
        return
    home.mkdir(exist_ok=True)
    unfinished = home / f"unfinished-{os.getpid()}"
    build = await asyncio.create_subprocess_exec(
        program("go"), "build", "-o", unfinished, SCRIPTS / "upload.go", env={**os.environ, "GO111MODULE": "off"}
    )
    async with asyncio.timeout(_BUILD_PATIENCE):
        assert await build.wait() == 0
    unfinished.rename(home / "upload")
