"""Plain HTTP for a proxy on the same machine: on the loopback, and on a Unix socket."""

import asyncio
import os
import re
import signal
import socket
import stat

import pytest
from aiohttp import web
from peers import Client, ask, connected, form, part, request, run
from processes import FREE_PORTS, started

from aiorelay.errors import StartupError
from aiorelay.server.connections import Connections
from aiorelay.server.listeners import Drain, listening, serving
from aiorelay.server.unix_socket import listening_at
from aiorelay.settings import Settings, SettingsError
from aiorelay.settings.places import Owner

pytestmark = pytest.mark.slow

FORM = form(part("somefile", b"content", "a.txt"))
UPLOAD = request("/upload1", FORM)
HEALTH = request("/healthz", b"", method="GET", content_type=None)
WAYS = ["loopback", "Unix socket"]


@pytest.fixture
def settings(tmp_path):
    """The settings of each way to listen without TLS."""
    return {"loopback": {"tls": False}, "Unix socket": {"listen_unix": tmp_path / "rest1.sock"}}


# -- settings


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "::1", "localhost"])
def test_the_loopback_may_do_without_tls(host):
    assert not Settings(tls=False, host=host).tls


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.0.2.1", "126.255.255.255", "128.0.0.1", "::2", "localhost.example"]
)
def test_no_other_host_may_do_without_tls(host):
    expected = f"tls: false would serve plain HTTP at {host}, which is not the loopback (argument tls); "
    with pytest.raises(SettingsError, match=re.escape(expected)):
        Settings(tls=False, host=host)


def test_a_relay_on_a_unix_socket_alone_has_no_host():
    Settings(tls=False, host="0.0.0.0", only="rest1", upstream="http://127.0.0.1:1/", listen_unix="/run/rest1.sock")


@pytest.mark.parametrize("given", [{"tls": False}, {"listen_unix": "/run/rest1.sock"}], ids=["tls", "listen_unix"])
def test_client_certificates_need_tls(given):
    with pytest.raises(SettingsError, match=r"client-ca: .* needs TLS"):
        Settings(client_ca="/ca.pem", **given)


@pytest.mark.parametrize(("text", "mode"), [("660", "660"), ("0666", "666"), ("000", "000")])
def test_a_mode_is_octal(text, mode):
    assert Settings(listen_unix_mode=text).listen_unix_mode == mode


@pytest.mark.parametrize("value", ["66", "668", "1660", "rw-rw----", 660, 0o660])
def test_a_mode_is_three_octal_digits_as_text(value):
    with pytest.raises(SettingsError, match="is not a file mode"):
        Settings.of({"listen_unix_mode": value})


@pytest.mark.parametrize(
    ("text", "owner"),
    [
        ("www-data", Owner("www-data", None)),
        ("www-data:www", Owner("www-data", "www")),
        (":www", Owner(None, "www")),
        ("33:0", Owner(33, 0)),
    ],
)
def test_an_owner_is_written_as_for_chown(text, owner):
    settings = Settings(listen_unix_owner=text)
    assert settings.listen_unix_owner == owner
    assert Settings(listen_unix_owner=owner) == settings


@pytest.mark.parametrize("text", ["", ":", "a:", "a:b:c", "a b", "-a"])
def test_other_owners_are_refused(text):
    with pytest.raises(SettingsError, match="is not an owner"):
        Settings(listen_unix_owner=text)


async def test_plain_http_elsewhere_exits_with_2_and_one_sentence(tmp_path):
    async with started(f"--state-dir={tmp_path}", *FREE_PORTS, "--no-tls", "--host", "0.0.0.0") as process:
        assert await process.ended() == 2
    assert process.log == (
        "aiorelay: tls: false would serve plain HTTP at 0.0.0.0, which is not the loopback (flag --no-tls); "
        "set host to 127.0.0.1, or serve TLS. See aiorelay serve --help.\n"
    )


# -- serving


@pytest.mark.slow
@pytest.mark.needs("curl")
@pytest.mark.parametrize("only", [[], ["--only", "rest2"]], ids=["both", "rest2"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
async def test_the_ready_lines_without_tls_work(tmp_path, host, only):
    flags = ["--store", tmp_path / "store", "--no-tls", "--host", host, *only]
    async with started(f"--state-dir={tmp_path}/state", *FREE_PORTS, *flags) as process:
        *servers, curl = process.ready
        assert all(re.fullmatch(r"rest[12] http://(127\.0\.0\.1|\[::1\]|localhost):\d+", line) for line in servers)
        status, out, err = await run("bash", "-c", f"cd / && {curl}")
        assert status == 0, err
        assert '"status": "done"' in out


@pytest.mark.slow
@pytest.mark.needs("curl")
@pytest.mark.parametrize("name", ["rest1.sock", "it's a socket", "ü"])
async def test_the_ready_lines_of_a_unix_socket_work(tmp_path, name):
    flags = ["--store", tmp_path / "store", "--listen-unix", tmp_path / name]
    async with started(f"--state-dir={tmp_path}/state", *FREE_PORTS, *flags) as process:
        rest1, rest2, ca, curl = process.ready
        assert rest1 == f"rest1 unix:{tmp_path / name}"
        assert rest2.startswith("rest2 https://")
        assert ca.startswith("CA ")
        assert "--unix-socket" in curl
        status, out, err = await run("bash", "-c", f"cd / && {curl}")
        assert status == 0, err
        assert '"status": "done"' in out
        assert await process.stop(signal.SIGTERM) == 0
    assert not (tmp_path / name).exists()


@pytest.mark.parametrize("way", WAYS)
async def test_an_upload_passes_without_tls(aiorelay_server, settings, way):
    chain = await aiorelay_server(**settings[way])
    answer = await ask(chain.rest1, chain.tls, UPLOAD)
    assert answer.status == 200
    assert [each.name for each in chain.stored()] == ["a.txt"]


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
async def test_uvloop_serves_without_tls_too(tmp_path, way):
    flags = ["--no-tls"] if way == "loopback" else ["--listen-unix", tmp_path / "rest1.sock"]
    async with started(f"--state-dir={tmp_path}/state", *FREE_PORTS, "--loop=uvloop", *flags) as process:
        answer = await ask(process.rest1, None, UPLOAD)
        assert answer.status == 200


# -- whom the upload API is told of

PROXIED = ("X-Forwarded-For: 198.51.100.7", "X-Forwarded-Proto: https", "X-Forwarded-Host: www.example")


async def trace(start, recorder, headers=(), **settings):
    """Return the fields about the client that an upload API gets."""
    upstream = await recorder()
    chain = await start(only="rest1", upstream=upstream.url, **settings)
    sent = request("/upload1", FORM, *headers)
    assert (await ask(chain.rest1, chain.tls, sent)).status == 200
    (message,) = upstream.requests
    names = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host")
    return [", ".join(message.all(name)) for name in names]


async def test_the_scheme_is_http_on_the_loopback(aiorelay_server, recorder):
    assert await trace(aiorelay_server, recorder, tls=False) == [
        'for=127.0.0.1;host="relay.localhost";proto=http',
        "127.0.0.1",
        "http",
        "relay.localhost",
    ]


async def test_a_peer_on_the_loopback_is_not_trusted_by_default(aiorelay_server, recorder):
    assert "198.51.100.7" not in str(await trace(aiorelay_server, recorder, PROXIED, tls=False))


async def test_the_scheme_is_the_one_that_a_trusted_proxy_names(aiorelay_server, recorder):
    assert await trace(aiorelay_server, recorder, PROXIED, tls=False, trusted_proxy="127.0.0.1") == [
        'for=198.51.100.7;proto=https, for=127.0.0.1;host="relay.localhost";proto=http',
        "198.51.100.7, 127.0.0.1",
        "https",
        "www.example",
    ]


async def test_a_peer_on_a_unix_socket_has_no_address(aiorelay_server, recorder, settings):
    assert await trace(aiorelay_server, recorder, **settings["Unix socket"]) == [
        'for=unknown;host="relay.localhost";proto=http',
        "",
        "http",
        "relay.localhost",
    ]


async def test_a_peer_on_a_unix_socket_is_trusted(aiorelay_server, recorder, settings):
    assert await trace(aiorelay_server, recorder, PROXIED, **settings["Unix socket"]) == [
        'for=198.51.100.7;proto=https, for=unknown;host="relay.localhost";proto=http',
        "198.51.100.7",
        "https",
        "www.example",
    ]


async def test_a_client_cannot_name_itself_by_binding_its_end(aiorelay_server, settings, caplog, tmp_path, monkeypatch):
    caplog.set_level("INFO", "aiorelay")
    await aiorelay_server(**settings["Unix socket"])
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX) as client:
        client.bind("192.0.2.1")
        client.connect(str(tmp_path / "rest1.sock"))
        client.setblocking(False)
        reader, writer = await asyncio.open_unix_connection(sock=client)
        answer = await Client(reader, writer).ask(UPLOAD)
        writer.close()
    assert answer.status == 200
    (upload,) = [record.members for record in caplog.records if hasattr(record, "members")]
    assert upload["client"] == "unix"


@pytest.mark.parametrize("way", WAYS)
async def test_the_location_of_an_upload_has_the_clients_scheme(aiorelay_server, settings, way):
    chain = await aiorelay_server(trusted_proxy="127.0.0.1", **settings[way])
    creation = ("Tus-Resumable: 1.0.0", "Upload-Length: 7")
    sent = request("/files/", b"", *creation, content_type=None)
    assert (await ask(chain.rest1, chain.tls, sent))["Location"].startswith("http://relay.localhost/files/")
    sent = request("/files/", b"", *creation, *PROXIED, content_type=None)
    assert (await ask(chain.rest1, chain.tls, sent))["Location"].startswith("https://www.example/files/")


# -- the acceptor


@pytest.fixture(params=WAYS)
async def served(request, tmp_path):
    """The URL of an empty app without TLS, with a deadline of 0.2 seconds."""
    unix = listening_at(tmp_path / "socket", mode=0o600, owner=None, backlog=10)
    listeners = listening("127.0.0.1", 0, "--port") if request.param == "loopback" else unix
    with listeners as sockets:
        drain = Drain(0, asyncio.Event())
        async with serving(web.Application(), sockets, None, drain, Connections(), keep_alive=600, deadline=0.2):
            where = sockets[0].getsockname()
            yield f"unix:{where}" if isinstance(where, str) else f"http://127.0.0.1:{where[1]}"


@pytest.mark.parametrize("head", [b"", b"GET / HTT", HEALTH[:-2]], ids=["silent", "line", "head"])
async def test_a_head_that_is_not_finished_in_time_is_closed(served, head):
    async with connected(served, None) as client:
        await client.send(head)
        with pytest.raises(AssertionError, match="closed the connection without an answer"):
            await client.head()


async def test_tls_on_a_plain_port_is_refused(aiorelay_server):
    chain = await aiorelay_server(tls=False)
    hello = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00\r\n\r\n"
    assert (await ask(chain.rest1, chain.tls, hello)).status == 400


# -- the file of a Unix socket


def serve_at(path, **options):
    return listening_at(path, **{"mode": 0o660, "owner": None, "backlog": 1, **options})


def test_the_file_has_its_mode_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        with serve_at(tmp_path / "socket", mode=0o666):
            assert stat.S_IMODE((tmp_path / "socket").stat().st_mode) == 0o666
    finally:
        os.umask(before)


def test_the_file_has_its_group(tmp_path):
    with serve_at(tmp_path / "socket", owner=Owner(None, os.getgid())):
        assert (tmp_path / "socket").stat().st_gid == os.getgid()


def test_an_owner_that_does_not_exist_is_an_error_and_leaves_nothing(tmp_path):
    expected = r"Cannot give .*/socket the owner or the mode .*nobody-here.* Correct --listen-unix-owner"
    with pytest.raises(StartupError, match=expected), serve_at(tmp_path / "socket", owner=Owner("nobody-here", None)):
        pass
    assert not list(tmp_path.iterdir())


def test_a_stale_file_is_replaced(tmp_path):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(tmp_path / "socket"))
    with serve_at(tmp_path / "socket"), socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / "socket"))
    assert not (tmp_path / "socket").exists()


@pytest.mark.parametrize("waiting", [0, 3], ids=["idle", "full backlog"])
def test_a_file_on_which_somebody_listens_is_an_error(tmp_path, waiting):
    path = tmp_path / "socket"
    clients = [socket.socket(socket.AF_UNIX) for _ in range(waiting)]
    with serve_at(path):
        for client in clients:
            client.setblocking(False)
            client.connect_ex(str(path))
        with pytest.raises(StartupError, match=r"another process listens there\. Choose"), serve_at(path):
            pass
        assert path.exists()
    for client in clients:
        client.close()


def test_a_file_that_is_no_socket_is_an_error_and_stays(tmp_path):
    (tmp_path / "file").write_text("content")
    with pytest.raises(StartupError, match=r"there is a file that is no socket\. Choose"), serve_at(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "content"


@pytest.mark.parametrize(("name", "why"), [("x" * 200, "too long"), ("none/socket", "No such file")])
def test_a_path_that_cannot_be_bound_is_an_error(tmp_path, name, why):
    with pytest.raises(StartupError, match=f"Cannot listen on .*{why}.*--listen-unix"), serve_at(tmp_path / name):
        pass


def test_the_file_of_a_successor_stays(tmp_path):
    path = tmp_path / "socket"
    with serve_at(path):
        path.unlink()
        with socket.socket(socket.AF_UNIX) as successor:
            successor.bind(str(path))
    assert path.exists()


@pytest.mark.slow
async def test_a_relay_starts_again_after_it_was_killed(tmp_path):
    path = tmp_path / "rest1.sock"
    flags = [f"--state-dir={tmp_path}/state", *FREE_PORTS, "--listen-unix", path]
    async with started(*flags) as process:
        assert await process.stop(signal.SIGKILL) == -signal.SIGKILL
    assert path.exists()
    async with started(*flags) as process, connected(process.rest1, None) as client:
        assert (await client.ask(HEALTH)).status == 200
