"""A remote URL as a stream."""

import asyncio
import gc
import hashlib
import os
import re
import socket
import ssl
import struct
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import cast

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict
from programs import program
from yarl import URL

from aiorelay import errors
from aiorelay.settings.places import HOST_PATTERN
from aiorelay.sources.fetch import Fetcher, FetchLimits, Remote
from aiorelay.sources.fetch.dial import is_local
from aiorelay.sources.fetch.naming import filename, media_type
from aiorelay.sources.fetch.ranges import StrongValidator, continuation, strong_validator

pytestmark = pytest.mark.slow

LOOPBACK = [ip_network("127.0.0.0/8"), ip_network("::1/128")]
TAG = 'ETag: "v1"'
DATA = hashlib.shake_128(b"a file").digest(1_000_000)
OLD = "Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT\r\nDate: Mon, 01 Jan 2024 00:01:00 GMT\r\n"


# ---- Fake origins: real sockets, scripted answers ---------------------------------------------------------------


@dataclass
class Answer:
    """What an origin says on one connection, and how it ends: close, reset or hang."""

    data: bytes
    end: str = "close"


@dataclass
class Origin:
    scheme: str
    port: int
    requests: list[str] = field(default_factory=list)
    connections: int = 0
    arrivals: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    def url(self, path: str = "/file.bin", host: str = "127.0.0.1") -> str:
        return f"{self.scheme}://{host}:{self.port}{path}"


@asynccontextmanager
async def origin(*answers: Answer | bytes, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0):
    """Serve the n-th connection the n-th answer, and later ones the last."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answer = answers[min(here.connections, len(answers) - 1)] if answers else b""
        here.connections += 1
        with suppress(OSError, asyncio.IncompleteReadError):
            here.requests.append((await reader.readuntil(b"\r\n\r\n")).decode("latin-1"))
            here.arrivals.put_nowait(here.requests[-1])
            answer = answer if isinstance(answer, Answer) else Answer(answer)
            writer.write(answer.data)
            await writer.drain()
            if answer.end == "hang":
                await reader.read()
                here.gone.set()
            elif answer.end == "reset":
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort() if isinstance(answer, Answer) and answer.end == "reset" else writer.close()
        with suppress(OSError):
            await writer.wait_closed()

    server = await asyncio.start_server(serve, host, port, ssl=tls)
    here = Origin("https" if tls else "http", server.sockets[0].getsockname()[1])
    try:
        yield here
    finally:
        server.close()  # and no wait_closed(): from Python 3.12.1 on, that waits for clients which tests end later


def ok(body: bytes = b"", *headers: str, length: int | None = None, status: str = "200 OK") -> bytes:
    """Frame an answer with a Content-Length: that of the body, unless another is given."""
    lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body) if length is None else length}", *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


def redirect(location: str, status: str = "302 Found") -> bytes:
    return ok(b"", f"Location: {location}", status=status)


def cut(at: int, *headers: str) -> bytes:
    """Frame an answer that promises all of DATA and breaks off after ``at`` bytes."""
    return ok(DATA[:at], *headers, length=len(DATA))


def rest(start: int, *headers: str, stop: int = len(DATA), total: int = len(DATA)) -> bytes:
    return ok(
        DATA[start:stop], f"Content-Range: bytes {start}-{stop - 1}/{total}", *headers, status="206 Partial Content"
    )


Opener = Callable[..., Awaitable[Remote]]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def trusting(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(scope="module")
def certificate(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "origin.example").configure_cert(context)
    return context


@pytest.fixture
async def opened(trusting: ssl.SSLContext) -> AsyncIterator[Opener]:
    """Open a URL with a fetcher of the test's wishes, and close both after the test."""
    async with AsyncExitStack() as stack:

        async def open_(url: str, **wishes: object) -> Remote:
            fetcher = Fetcher(**({"allowed": LOOPBACK, "tls": trusting} | wishes))  # type: ignore[arg-type]
            stack.enter_context(closing(fetcher))
            return await stack.enter_async_context(fetcher.open(url))

        yield open_


async def read(remote: Remote) -> bytes:
    return b"".join([block async for block in remote.chunks])


# ---- Bytes, names and types -------------------------------------------------------------------------------------


async def test_file_arrives_with_its_name_type_and_size(opened: Opener) -> None:
    async with origin(ok(DATA, "Content-Type: text/csv; charset=utf-8")) as server:
        remote = await opened(server.url("/a/b%20c.csv?sig=1"))
        assert (remote.filename, remote.media_type, remote.size) == ("b c.csv", "text/csv; charset=utf-8", len(DATA))
        assert await read(remote) == DATA


async def test_file_over_tls_arrives(opened: Opener, certificate: ssl.SSLContext) -> None:
    async with origin(ok(DATA), tls=certificate) as server:
        assert await read(await opened(server.url())) == DATA


async def test_empty_file_has_no_blocks(opened: Opener) -> None:
    async with origin(ok(b"")) as server:
        remote = await opened(server.url())
        assert remote.size == 0
        assert [block async for block in remote.chunks] == []


async def test_chunked_file_has_no_size(opened: Opener) -> None:
    body = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    async with origin(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + body) as server:
        remote = await opened(server.url("/"))
        assert (remote.size, remote.filename, remote.media_type) == (None, None, None)
        assert await read(remote) == b"hello world"


async def test_blocks_are_large_and_never_empty(opened: Opener) -> None:
    async with origin(ok(DATA * 16)) as server:
        blocks = [len(block) async for block in (await opened(server.url())).chunks]
        assert min(blocks) > 0
        assert sum(blocks) / len(blocks) > 32 * 1024


async def test_python_http_server_serves_equal_bytes(opened: Opener, tmp_path: Path) -> None:
    (tmp_path / "data.csv").write_bytes(DATA)
    command = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(tmp_path), "0"]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, stderr=-3)
    try:
        assert process.stdout
        port = (await process.stdout.readline()).split()[5].decode()
        remote = await opened(f"http://127.0.0.1:{port}/data.csv")
        assert (remote.filename, remote.media_type, remote.size) == ("data.csv", "text/csv", len(DATA))
        assert hashlib.sha256(await read(remote)).digest() == hashlib.sha256(DATA).digest()
    finally:
        process.kill()
        await process.wait()


async def test_request_has_no_header_that_could_tell_or_code_anything(
    opened: Opener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login a password b")
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    answers = redirect("/two"), ok(b"x")
    async with origin(answers[0].replace(b"\r\n\r\n", b"\r\nSet-Cookie: a=b\r\n\r\n"), answers[1]) as server:
        assert await read(await opened(server.url())) == b"x"
    for request in server.requests:
        names = re.findall(r"^([\w-]+):", request, re.MULTILINE)
        assert sorted(names) == ["Accept", "Accept-Encoding", "Connection", "Host", "User-Agent"]
        assert "Accept-Encoding: identity\r\n" in request


async def test_query_goes_out_as_it_was_given(opened: Opener) -> None:
    async with origin(ok(b"x")) as server:
        await opened(server.url("/a%2Fb;c?X-Sig=a%2Bb%20c%3D&d=/%7E#fragment"))
        assert server.requests[0].startswith("GET /a%2Fb;c?X-Sig=a%2Bb%20c%3D&d=/~ HTTP/1.1\r\n")


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('attachment; filename="report.pdf"', "report.pdf"),
        ("attachment; filename=report.pdf", "report.pdf"),
        ("inline;filename = a b.pdf ;x=y", "a b.pdf"),
        ('ATTACHMENT; FILENAME="a.pdf"', "a.pdf"),
        ("attachment; filename=\"plain.txt\"; filename*=UTF-8''na%C3%AFve%20%e2%82%ac.txt", "naïve €.txt"),
        ("attachment; filename*=utf-8'de'f%FCr.txt; filename=b.txt", "b.txt"),
        ("attachment; filename*=ISO-8859-1''f%FCr.txt", "für.txt"),
        ("attachment; filename*=\"UTF-8''a%20b\"", "a b"),
        ("attachment; filename*=koi8-r''abc; filename=b.txt", "b.txt"),
        (r'attachment; filename="a\"b\\c.txt"', "c.txt"),
        (r'attachment; filename="say \"hi\".txt"', 'say "hi".txt'),
        ('attachment; filename="a;filename=b.txt"', "a;filename=b.txt"),
        ('attachment; x="; filename=no"; filename=yes', "yes"),
        ("attachment; filename=first; filename=second", "first"),
        ('attachment; filename="../../etc/passwd"', "passwd"),
        ('attachment; filename="C:/dir/f.txt"', "f.txt"),
        ("attachment; filename*=UTF-8''..%2F..%5Cevil%0D%0A%00.sh", "evil.sh"),
        ('attachment; filename="r\udce9sum\udce9.doc"', "résumé.doc"),
        ('attachment; filename="日本.txt"', "日本.txt"),
        ('attachment; filename=""', "url.bin"),
        ('attachment; filename=".."', "url.bin"),
        ('attachment; filename="dir/"', "url.bin"),
        ('attachment; filename="unclosed', "unclosed"),
        ("attachment; ;; filename", "url.bin"),
        ("filename=a.txt", "url.bin"),
        ("", "url.bin"),
        (None, "url.bin"),
    ],
)
def test_content_disposition_names_the_file(disposition: str | None, name: str) -> None:
    assert filename(disposition, URL("http://h/dir/url.bin")) == name


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("http://h/a/b.txt", "b.txt"),
        ("http://h/a/b.txt?x=/y", "b.txt"),
        ("http://h/%E6%97%A5%E6%9C%AC.txt", "日本.txt"),
        ("http://h/日本.txt", "日本.txt"),
        ("http://h/%2541.txt", "%41.txt"),
        ("http://h/f%FCr.txt", "für.txt"),
        ("http://h/..%2F..%2Fetc%2Fpasswd", "passwd"),
        ("http://h/a%5Cb.txt", "b.txt"),
        ("http://h/a%0D%0Ab.txt", "ab.txt"),
        ("http://h/a+b.txt", "a+b.txt"),
        ("http://h/%2E%2E", None),
        ("http://h/a/", None),
        ("http://h", None),
    ],
)
def test_last_segment_names_the_file(url: str, name: str | None) -> None:
    assert filename(None, URL(url)) == name


@given(st.sampled_from(["", "attachment; filename=", "attachment; filename*=UTF-8''"]), st.binary())
def test_name_is_one_component_whatever_the_header_says(start: str, value: bytes) -> None:
    name = filename(start + value.decode("utf-8", "surrogateescape"), URL("http://h/"))
    assert name is None or (name not in {"", ".", ".."} and not re.search(r"[/\\\x00-\x1f\x7f]", name))


@pytest.mark.parametrize(
    ("given_type", "name", "expected"),
    [
        ("image/svg+xml", "a.png", "image/svg+xml"),
        (' text/html; charset="utf-8" ', "a.png", 'text/html; charset="utf-8"'),
        ("nonsense", "a.png", "image/png"),
        ("text/html\x00", "a.png", "image/png"),
        (None, "a.PDF", "application/pdf"),
        (None, "a.unheard-of", None),
        (None, None, None),
    ],
)
def test_media_type_is_the_servers_else_that_of_the_ending(
    given_type: str | None, name: str | None, expected: str | None
) -> None:
    assert media_type(given_type, name) == expected


# ---- What a source may not answer -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status", ["204 No Content", "206 Partial Content", "300 Choose", "304 Same", "404 No", "500 Oh"]
)
async def test_any_status_but_200_is_the_sources_failure_and_named(opened: Opener, status: str) -> None:
    async with origin(ok(b"", status=status)) as server:
        with pytest.raises(errors.SourceFailed, match=status[:3]):
            await opened(server.url())


@pytest.mark.parametrize(
    ("head", "words"),
    [
        ("HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx", "Content-Encoding"),
        ("HTTP/1.1 200 OK\r\n\r\nbody until close", "cannot be verified"),
        ("HTTP/1.0 200 OK\r\n\r\nbody until close", "cannot be verified"),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", "cannot be verified"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n", "."),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxy", "."),
        ("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nxy", "."),
        ("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nX: " + "y" * 70_000 + "\r\n\r\nx", "."),
        ("SSH-2.0-OpenSSH_9.2\r\n", "no valid HTTP"),
        ("\x00\x01\x02\r\n\r\n", "no valid HTTP"),
        ("HTTP/1.1 banana\r\n\r\n", "no valid HTTP"),
        ("HTTP/1.1 200 OK\r\nno colon here\r\n\r\n", "no valid HTTP"),
        ("HTTP/1.1 200 OK\r\nContent-Len", "."),
        ("", "closed the connection"),
    ],
)
async def test_answer_that_cannot_be_trusted_is_the_sources_failure(opened: Opener, head: str, words: str) -> None:
    async with origin(head.encode("latin-1")) as server:
        with pytest.raises(errors.SourceFailed, match=words):
            await opened(server.url())


async def test_nobody_listening_is_the_sources_failure(opened: Opener) -> None:
    async with origin() as server:
        url = server.url()
    with pytest.raises(errors.SourceFailed, match="could not be reached"):
        await opened(url)


async def test_foreign_certificate_is_the_sources_failure(opened: Opener, certificate: ssl.SSLContext) -> None:
    async with origin(ok(b"x"), tls=certificate) as server:
        with pytest.raises(errors.SourceFailed, match="not trusted"):
            await opened(server.url(), tls=ssl.create_default_context())
    assert server.requests == []


async def test_certificate_for_another_name_is_the_sources_failure(opened: Opener, certificate: ssl.SSLContext) -> None:
    async with origin(ok(b"x"), tls=certificate) as server:
        with pytest.raises(errors.SourceFailed, match="not for that name"):
            await opened(server.url(host="other.example"), lookup=lambda _: ["127.0.0.1"])


async def test_system_trust_is_the_default_and_can_be_named_by_ssl_cert_file(
    opened: Opener, authority: trustme.CA, certificate: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    async with origin(ok(b"x"), tls=certificate) as server:
        assert await read(await opened(server.url(), tls=None)) == b"x"


async def test_plain_http_where_tls_was_expected_is_the_sources_failure(opened: Opener) -> None:
    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(ok(b"x"))
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        with pytest.raises(errors.SourceFailed, match="TLS handshake"):
            await opened(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/")


# ---- Breaking off and resuming ----------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["close", "reset"])
async def test_body_that_breaks_off_is_resumed_to_equal_bytes(opened: Opener, end: str) -> None:
    etag = 'ETag: "v1"'
    async with range_server(etag, cuts=[300_000, 500_000, 900_000], end=end) as server:
        remote = await opened(server.url())
        assert hashlib.sha256(await read(remote)).digest() == hashlib.sha256(DATA).digest()
    assert server.connections == 4
    assert [request.count('If-Range: "v1"\r\n') for request in server.requests] == [0, 1, 1, 1]


@asynccontextmanager
async def range_server(validator: str, cuts: list[int], end: str = "close") -> AsyncIterator[Origin]:
    """Honour Range, and break off each connection at its position in the file until ``cuts`` are used up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        here.connections += 1
        request = (await reader.readuntil(b"\r\n\r\n")).decode()
        here.requests.append(request)
        asked = re.search(r"\r\nRange: bytes=(\d+)-\r\n", request)
        start = int(asked[1]) if asked else 0
        whole = rest(start, validator) if asked else ok(DATA, validator)
        stop = cuts.pop(0) if cuts else len(DATA)
        writer.write(whole[: len(whole) - (len(DATA) - max(stop, start))])
        with suppress(OSError):
            await writer.drain()
            if end == "reset" and stop < len(DATA):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1")
    here = Origin("http", server.sockets[0].getsockname()[1])
    async with server:
        yield here
        server.close()


NGINX = """
daemon off; master_process off; pid {tmp}/pid; error_log stderr;
events {{}}
http {{
  access_log off; client_body_temp_path {tmp}/t; proxy_temp_path {tmp}/t; fastcgi_temp_path {tmp}/t;
  uwsgi_temp_path {tmp}/t; scgi_temp_path {tmp}/t;
  server {{ listen unix:{tmp}/socket; root {tmp}; }}
}}
"""
CADDY = """
{{
  admin off
  auto_https off
}}
http:// {{
  bind unix/{tmp}/socket
  root * {tmp}
  file_server
}}
"""


@pytest.fixture
def site() -> Iterator[Path]:
    """A directory that holds one old file, with a short path because a socket's must be short."""
    with tempfile.TemporaryDirectory() as tmp:
        Path(tmp, "file.bin").write_bytes(DATA)
        os.utime(Path(tmp, "file.bin"), (0, 0))
        yield Path(tmp)


@pytest.mark.parametrize(
    ("command", "config"), [(("nginx", "-c"), NGINX), (("caddy", "run", "--adapter", "caddyfile", "--config"), CADDY)]
)
@pytest.mark.needs("nginx", "caddy")
async def test_real_server_cut_in_the_middle_is_resumed_to_equal_bytes(
    opened: Opener, site: Path, command: tuple[str, ...], config: str
) -> None:
    (site / "config").write_text(config.format(tmp=site), encoding="utf-8")
    environment = {"PATH": os.environ.get("PATH", os.defpath), "HOME": str(site)}
    process = await asyncio.create_subprocess_exec(
        *(program(command[0]), *command[1:], str(site / "config")), env=environment, stderr=-3
    )
    try:
        async with cutting(f"{site}/socket", [200_000, 300_000, 100]) as server:
            remote = await opened(server.url())
            assert (remote.filename, remote.size) == ("file.bin", len(DATA))
            assert hashlib.sha256(await read(remote)).digest() == hashlib.sha256(DATA).digest()
            assert server.connections == 4
    finally:
        process.terminate()
        await process.wait()


@asynccontextmanager
async def cutting(target: str, cuts: list[int]) -> AsyncIterator[Origin]:
    """Pass connections on to a Unix socket, and cut the next one after so many bytes of its answer."""

    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        while True:  # the server makes its socket when it is ready
            with suppress(FileNotFoundError, ConnectionRefusedError):
                return await asyncio.open_unix_connection(target)
            await asyncio.sleep(0.01)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        here.connections += 1
        from_server, to_server = await connect()
        to_server.write(await reader.readuntil(b"\r\n\r\n"))
        head = await from_server.readuntil(b"\r\n\r\n")
        writer.write(head)
        left = cuts.pop(0) if cuts else len(DATA)
        while left and (block := await from_server.read(left)):
            left -= len(block)
            writer.write(block)
            with suppress(OSError):
                await writer.drain()
        for end in (to_server, writer):
            end.close()
            with suppress(OSError):
                await end.wait_closed()

    server = await asyncio.start_server(serve, "127.0.0.1")
    here = Origin("http", server.sockets[0].getsockname()[1])
    async with server:
        yield here
        server.close()


async def test_fourth_break_is_the_sources_failure(opened: Opener) -> None:
    async with range_server('ETag: "v1"', cuts=[100_000, 200_000, 300_000, 400_000]) as server:
        remote = await opened(server.url())
        with pytest.raises(errors.SourceFailed, match="3 attempts"):
            await read(remote)
    assert server.connections == 4


async def test_settled_last_modified_resumes_too(opened: Opener) -> None:
    async with range_server(OLD.strip(), cuts=[1]) as server:
        assert await read(await opened(server.url())) == DATA
    assert "If-Range: Mon, 01 Jan 2024 00:00:00 GMT\r\n" in server.requests[1]


async def test_resumption_asks_where_the_redirect_led(opened: Opener) -> None:
    async with range_server('ETag: "v1"', cuts=[10]) as server, origin(redirect(server.url("/there"))) as first:
        assert await read(await opened(first.url())) == DATA
    assert first.connections == 1
    assert server.requests[1].startswith("GET /there ")


async def test_chunked_body_is_resumed_by_the_length_that_the_206_tells(opened: Opener) -> None:
    head = b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nETag: "v1"\r\n\r\n'
    start = f"{len(DATA):x}\r\n".encode()
    async with origin(head + start, rest(0, 'ETag: "v1"')) as server:
        remote = await opened(server.url())
        assert remote.size is None
        assert await read(remote) == DATA


async def test_206_with_less_than_was_asked_for_is_resumed_again(opened: Opener) -> None:
    tag = 'ETag: "v1"'
    async with origin(cut(0, tag), rest(0, tag, stop=500_000), rest(500_000, tag)) as server:
        assert await read(await opened(server.url())) == DATA


@pytest.mark.parametrize(
    "failure",
    [b"", ok(status="503 Busy"), ok(status="500 Oh"), b"garbage\r\n\r\n"],
    ids=["close", "503", "500", "junk"],
)
async def test_failed_attempt_to_resume_is_repeated(opened: Opener, failure: bytes) -> None:
    async with origin(cut(0, 'ETag: "v1"'), failure, rest(0, 'ETag: "v1"')) as server:
        assert await read(await opened(server.url())) == DATA


async def test_failed_fetch_stays_failed(opened: Opener) -> None:
    async with origin(cut(0, TAG), b"") as server:
        remote = await opened(server.url())
        for _ in range(2):
            with pytest.raises(errors.SourceFailed, match="3 attempts"):
                await anext(remote.chunks)


@pytest.mark.parametrize(
    "headers",
    [
        (),
        ('ETag: W/"weak"',),
        ("ETag: unquoted",),
        ("Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT",),
        ("Last-Modified: Mon, 01 Jan 2024 00:00:00 GMT", "Date: Mon, 01 Jan 2024 00:00:59 GMT"),
        ("Last-Modified: yesterday", "Date: today"),
    ],
)
async def test_break_without_strong_validator_is_the_sources_failure(opened: Opener, headers: tuple[str]) -> None:
    async with origin(cut(1000, *headers)) as server:
        remote = await opened(server.url())
        with pytest.raises(errors.SourceFailed, match="no strong validator"):
            await read(remote)
    assert server.connections == 1


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (ok(DATA, 'ETag: "v2"'), "has changed"),
        (ok(DATA, TAG), "cannot be resumed"),
        (redirect("/elsewhere"), "cannot be resumed"),
        (ok(status="404 Gone"), "has changed"),
        (ok(status="416 Range Not Satisfiable"), "has changed"),
        (rest(0, 'ETag: "v2"'), "has changed"),
        (rest(0), "has changed"),
        (rest(0, TAG, total=len(DATA) + 1), "wrong place"),
        (rest(1, TAG), "wrong place"),
        (ok(DATA, TAG, "Content-Range: bytes 0-999999/*", status="206 P"), "wrong place"),
        (ok(DATA, TAG, "Content-Range: bytes 0-99/1000000", status="206 P"), "wrong place"),
        (ok(DATA, TAG, status="206 P"), "wrong place"),
        (
            b"HTTP/1.1 206 P\r\n" + TAG.encode() + b"\r\nContent-Range: bytes 0-999999/1000000\r\n\r\n" + DATA,
            "verified",
        ),
        (rest(0, TAG, "Content-Encoding: gzip"), "Content-Encoding"),
        (
            b"HTTP/1.1 206 P\r\n" + TAG.encode() + b"\r\nContent-Range: bytes 0-1/1000000\r\n"
            b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
            "more bytes",
        ),
    ],
)
async def test_resumption_that_does_not_fit_is_the_sources_failure(opened: Opener, second: bytes, words: str) -> None:
    async with origin(cut(0, TAG), second) as server:
        remote = await opened(server.url())
        with pytest.raises(errors.SourceFailed, match=words):
            await read(remote)
    assert server.connections == 2


async def test_broken_chunk_framing_is_the_sources_failure(opened: Opener) -> None:
    async with origin(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n0\r\n\r\n") as server:
        with pytest.raises(errors.SourceFailed):
            await read(await opened(server.url()))


async def test_every_cut_of_a_chunked_body_is_noticed(opened: Opener) -> None:
    whole = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    for end in range(whole.index(b"\r\n\r\n") + 4, len(whole)):
        async with origin(whole[:end]) as server:
            with pytest.raises(errors.SourceFailed):
                await read(await opened(server.url()))


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"ETag": '"a"'}, StrongValidator("ETag", '"a"')),
        ({"ETag": 'W/"a"'}, None),
        ({"ETag": 'w/"a"'}, None),
        ({"ETag": '"a", "b"'}, None),
        ({"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT"}, None),
        (
            {"Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT", "Date": "Mon, 01 Jan 2024 00:01:00 GMT"},
            StrongValidator("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT"),
        ),
        ({"Last-Modified": "Mon, 01 Jan 2024 00:00:00", "Date": "Mon, 01 Jan 2024 00:01:00 GMT"}, None),
    ],
)
def test_strong_validators(headers: dict[str, str], expected: StrongValidator | None) -> None:
    assert strong_validator(CIMultiDict(headers)) == expected


def test_206_may_leave_out_the_date_but_not_contradict_it() -> None:
    validator = StrongValidator("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
    assert validator.agrees({})
    assert not validator.agrees({"Last-Modified": "Tue, 02 Jan 2024 00:00:00 GMT"})


@given(st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.integers(0, 50), st.none() | st.integers(0, 50))
def test_continuation_fits_only_where_start_and_length_do(
    start: int, first: int, last: int, complete: int, total: int | None
) -> None:
    fits = first == start and first <= last < complete and total in (None, complete)
    result = continuation(f"bytes {first}-{last}/{complete}", start, total)
    assert result == ((last - first + 1, complete) if fits else None)


# ---- Redirects --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", ["301 M", "302 F", "303 S", "307 T", "308 P"])
async def test_redirect_is_followed_and_the_first_url_names_the_file(opened: Opener, status: str) -> None:
    async with origin(redirect("../else/where.png?x=1#y", status), ok(b"x")) as server:
        remote = await opened(server.url("/dir/name.txt"))
        assert await read(remote) == b"x"
    assert remote.filename == "name.txt"
    assert server.requests[1].startswith("GET /else/where.png?x=1 HTTP/1.1\r\n")


async def test_five_redirects_are_followed(opened: Opener) -> None:
    async with origin(*[redirect(f"/{hop}") for hop in range(5)], ok(b"x")) as server:
        assert await read(await opened(server.url())) == b"x"


async def test_sixth_redirect_is_the_sources_failure(opened: Opener) -> None:
    async with origin(redirect("/")) as server:
        with pytest.raises(errors.SourceFailed, match="more than 5 times"):
            await opened(server.url())
    assert server.connections == 6


@pytest.mark.parametrize("headers", [(), ("Location: ",), ("Location: http://[::1",), ("Location: http://h:99999/",)])
async def test_redirect_without_a_valid_location_is_the_sources_failure(opened: Opener, headers: tuple[str]) -> None:
    async with origin(ok(b"", *headers, status="302 Found")) as server:
        with pytest.raises(errors.SourceFailed, match=r"Location|not a URL"):
            await opened(server.url())


async def test_redirect_from_https_to_http_is_refused(opened: Opener, certificate: ssl.SSLContext) -> None:
    async with origin(ok(b"x")) as plain, origin(redirect(plain.url()), tls=certificate) as server:
        with pytest.raises(errors.AddressRefused, match="https to http"):
            await opened(server.url())
    assert plain.connections == 0


@pytest.mark.parametrize(
    ("location", "problem"),
    [
        ("ftp://127.0.0.1/", errors.BadSource),
        ("file:///etc/passwd", errors.BadSource),
        ("http://user:secret@127.0.0.1/", errors.BadSource),
        ("http://127.0.0.1:22/", errors.AddressRefused),
        ("http://10.0.0.1/", errors.AddressRefused),
        ("//169.254.169.254/latest/meta-data/", errors.AddressRefused),
        ("http://[fe80::1%25lo]/", errors.AddressRefused),
    ],
)
async def test_redirect_is_refused_with_the_codes_of_a_first_url(
    opened: Opener, location: str, problem: type[errors.Problem]
) -> None:
    async with origin(redirect(location)) as server:
        with pytest.raises(problem):
            await opened(server.url())


async def test_redirect_to_a_host_that_is_not_listed_is_refused(opened: Opener) -> None:
    async with origin(ok(b"x")) as other, origin(redirect(other.url(host="127.0.0.2"))) as server:
        with pytest.raises(errors.HostRefused):
            await opened(server.url(), hosts=["127.0.0.1"])
    assert other.connections == 0


# ---- URLs -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "ftp://example.org/",
        "file:///etc/passwd",
        "gopher://example.org/",
        "data:text/plain,x",
        "example.org/x",
        "//example.org/x",
        "/etc/passwd",
        "",
        "http://",
        "http:///x",
        "http:example.org",
        "http://user@example.org/",
        "http://user:pw@example.org/",
        "http://:@example.org/",
        "http://a:b@c@example.org/",
        "http://example.org:65536/",
        "http://example.org:x/",
        "http://exa mple.org/",
        "http://example.org\\@127.0.0.1/",
        "http://exam%70le.org/",
        "http://a..b/",
        "http://.example.org/",
        "http://[::1/",
        "http://exa\tmple.org/",
        "http://example.org/\r\nHost: x",
        "http://example.org/\x00",
        "http://" + "a" * 64 + ".org/",
        "http://" + "a." * 127 + "org/",
    ],
)
async def test_url_that_is_none_for_a_source_is_bad(opened: Opener, url: str) -> None:
    with pytest.raises(errors.BadSource):
        await opened(url, lookup=lambda _: pytest.fail("a bad URL was resolved"))


@pytest.mark.parametrize("end", ["", "/", "?x", "#x"])
async def test_host_of_a_mebibyte_is_bad_without_being_read(opened: Opener, end: str) -> None:
    """Its international form alone would take seconds, in which nothing else is served."""
    with pytest.raises(errors.BadSource, match="too long"):
        await opened(f"http://{'é.' * 300_000}{end}")


@pytest.mark.parametrize("port", [1, 21, 22, 25, 79, 81, 442, 444, 1023])
async def test_low_port_is_refused(opened: Opener, port: int) -> None:
    with pytest.raises(errors.AddressRefused, match=f"Port {port}"):
        await opened(f"http://127.0.0.1:{port}/")


async def test_low_port_of_a_listed_host_is_dialled(opened: Opener) -> None:
    with pytest.raises(errors.SourceFailed, match="could not be reached"):
        await opened("http://127.0.0.1:1/", hosts=["127.0.0.1"])


async def test_host_that_is_not_listed_is_refused_before_it_is_resolved(opened: Opener) -> None:
    with pytest.raises(errors.HostRefused):
        await opened(
            "http://a.example.net/", hosts=["*.example.org"], lookup=lambda _: pytest.fail("the host was resolved")
        )


@pytest.mark.parametrize("host", ["files.example.org", "FILES.Example.org", "files.example.org.", "bücher.example"])
async def test_listed_host_is_asked(opened: Opener, host: str) -> None:
    async with origin(ok(b"x")) as server:
        hosts = ["*.example.org", HOST_PATTERN.accept("bücher.example")]
        assert await read(await opened(server.url(host=host), hosts=hosts, lookup=lambda _: ["127.0.0.1"])) == b"x"


@pytest.mark.parametrize(
    "url",
    [
        "http://user:s3cret@127.0.0.1/?token=s3cret",
        "http://127.0.0.1:22/?token=s3cret",
        "http://10.0.0.1/s3cret?token=s3cret",
        "http://127.0.0.1:1025/?token=s3cret",
        "http://[bad/?token=s3cret",
        "s3cret://127.0.0.1/",
        "http://h:s3cret/",
        "http://gone.example/?token=s3cret",
    ],
)
async def test_problem_and_log_show_no_query_and_no_credentials(
    opened: Opener, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")

    def nowhere(host: str) -> list[str]:
        raise socket.gaierror(f"no {host}")

    with pytest.raises(errors.Problem) as caught:
        await opened(url, lookup=nowhere)
    assert "s3cret" not in caught.value.detail + caplog.text


# ---- Addresses --------------------------------------------------------------------------------------------------


class NameServer(asyncio.DatagramProtocol):
    """A DNS server (RFC 1035) with a list of answers per name; each look-up of a type takes the next, the last stays.

    Its ``lookup`` is a stub resolver as the system has one: it asks for A and AAAA.
    """

    _TYPES = ((socket.AF_INET, 1), (socket.AF_INET6, 28))

    def __init__(self, **zone: list[list[str]]) -> None:
        self.zone = {f"{name}.example": answers for name, answers in zone.items()}
        self.asked: dict[tuple[str, int], int] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.DatagramTransport", transport)
        self.address = transport.get_extra_info("sockname")

    def datagram_received(self, data: bytes, addr: tuple[str | int, ...]) -> None:
        question, labels, at = data[12:], [], 12
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]].decode())
            at += 1 + data[at]
        name, kind = ".".join(labels), struct.unpack_from("!H", data, at + 1)[0]
        answers = self.zone.get(name)
        turn = self.asked[name, kind] = self.asked.get((name, kind), -1) + 1
        family = next(family for family, known in self._TYPES if known == kind)
        packed = []
        for address in answers[min(turn, len(answers) - 1)] if answers else ():
            with suppress(OSError):
                packed.append(socket.inet_pton(family, address))
        head = data[:2] + struct.pack("!HHHHH", 0x8180 if answers else 0x8183, 1, len(packed), 0, 0)
        records = b"".join(struct.pack("!HHHIH", 0xC00C, kind, 1, 0, len(rdata)) + rdata for rdata in packed)
        self.transport.sendto(head + question + records, addr)

    def lookup(self, host: str) -> list[str]:
        return [address for family, kind in self._TYPES for address in self._ask(host, family, kind)]

    def _ask(self, host: str, family: int, kind: int) -> Iterator[str]:
        labels = b"".join(bytes([len(label)]) + label.encode() for label in host.removesuffix(".").split("."))
        question = labels + struct.pack("!BHH", 0, kind, 1)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
            asking.settimeout(10)
            asking.sendto(struct.pack("!HHHHHH", 1, 0x0100, 1, 0, 0, 0) + question, self.address)
            answer = asking.recv(4096)
        if answer[3] & 15:
            raise socket.gaierror(socket.EAI_NONAME, "no such name")
        at = 12 + len(question)
        for _ in range(struct.unpack_from("!H", answer, 6)[0]):
            size = struct.unpack_from("!H", answer, at + 10)[0]
            yield socket.inet_ntop(family, answer[at + 12 : at + 12 + size])
            at += 12 + size


@asynccontextmanager
async def name_server(**zone: list[list[str]]) -> AsyncIterator[NameServer]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: NameServer(**zone), local_addr=("127.0.0.1", 0))
    yield server
    transport.close()


# Ways to write an address of the loopback, or of something else that must not be dialled.
SPELLINGS = (Path(__file__).parents[2] / "spellings.txt").read_text(encoding="utf-8").split()

ZONE = {
    "inside": [["127.0.0.1"]],
    "mapped": [["::ffff:127.0.0.1"]],
    "six": [["::1"]],
    "zero": [["0.0.0.0", "::"]],
    "nat": [["64:ff9b::7f00:1"]],
    "both": [["127.0.0.1", "::1", "10.0.0.1"]],
}


@asynccontextmanager
async def watched_loopback() -> AsyncIterator[list[Origin]]:
    """Listen on one port of every address of this machine; see at the end that only an allowed client came."""
    async with origin(ok(b"secret"), host="0.0.0.0") as four, AsyncExitStack() as stack:
        watched = [four]
        with suppress(OSError):  # a machine without IPv6
            watched.append(await stack.enter_async_context(origin(ok(b"secret"), host="::", port=four.port)))
        yield watched
        assert [server.connections for server in watched] == [0] * len(watched)
        with closing(Fetcher(allowed=LOOPBACK)) as fetcher:
            async with fetcher.open(four.url()):
                assert four.connections == 1


def hostile(names: NameServer) -> Callable[[str], list[str]]:
    """A resolver by which every name that the name server does not have means this machine."""
    return lambda host: names.lookup(host) if host.endswith(".example") else ["127.0.0.1", "::1"]


async def test_no_spelling_of_an_address_reaches_the_loopback(opened: Opener) -> None:
    assert len(SPELLINGS) > 140
    async with watched_loopback() as (inside, *_), name_server(**ZONE) as names:
        for spelling in SPELLINGS:
            for scheme in ("http", "https"):
                with pytest.raises(errors.Problem) as caught:
                    await opened(f"{scheme}://{spelling}:{inside.port}/", allowed=(), lookup=hostile(names))
                assert caught.value.status in (400, 403), f"{spelling}: {caught.value.detail}"


async def test_no_redirect_to_a_spelling_reaches_the_loopback(opened: Opener) -> None:
    async with watched_loopback() as (inside, *_), name_server(**ZONE) as names:
        for spelling in SPELLINGS:
            location = f"http://{spelling}:{inside.port}/".encode().decode("latin-1")
            async with origin(redirect(location), host="127.0.0.3") as public:
                allowed = [ip_network("127.0.0.3/32")]
                with pytest.raises(errors.Problem) as caught:
                    await opened(public.url(host="127.0.0.3"), allowed=allowed, lookup=hostile(names))
                assert caught.value.status in (400, 403, 502), f"{spelling}: {caught.value.detail}"
                assert public.connections == 1


async def test_of_mixed_answers_only_those_that_passed_are_dialled(opened: Opener) -> None:
    mixed = ["127.0.0.1", "10.0.0.1", "127.0.0.3", "127.0.0.2", "::ffff:127.0.0.1", "169.254.169.254"]
    async with origin(ok(b"secret")) as inside, name_server(mixed=[mixed]) as names:
        async with origin(ok(b"public"), host="127.0.0.3", port=inside.port) as public:
            with pytest.raises(errors.AddressRefused):
                await opened(public.url(host="mixed.example"), allowed=(), lookup=names.lookup)
            allowed = [ip_network("127.0.0.3/32")]
            remote = await opened(public.url(host="mixed.example"), allowed=allowed, lookup=names.lookup)
            assert await read(remote) == b"public"
        assert inside.connections == 0


async def test_refusal_names_the_host_and_the_range_but_no_address(opened: Opener) -> None:
    async with name_server(inside=[["10.11.12.13"]]) as names:
        with pytest.raises(errors.AddressRefused, match=r"inside\.example .*private-use 10\.0\.0\.0/8") as caught:
            await opened("http://inside.example/", allowed=(), lookup=names.lookup)
    assert "10.11" not in caught.value.detail


async def test_name_that_rebinds_between_redirects_is_refused(opened: Opener) -> None:
    async with watched_loopback() as (inside, *_), name_server(moving=[["127.0.0.3"], ["127.0.0.1"]]) as names:
        location = f"http://moving.example:{inside.port}/"
        async with origin(redirect(location), host="127.0.0.3") as public:
            allowed = [ip_network("127.0.0.3/32")]
            with pytest.raises(errors.AddressRefused):
                await opened(public.url(host="moving.example"), allowed=allowed, lookup=names.lookup)
            assert public.connections == 1


async def test_name_that_rebinds_before_a_resumption_is_refused(opened: Opener) -> None:
    async with name_server(moving=[["127.0.0.3"], ["127.0.0.1"]]) as names, origin(ok(b"x")) as inside:
        async with origin(cut(10, TAG), host="127.0.0.3", port=inside.port) as public:
            allowed = [ip_network("127.0.0.3/32")]
            remote = await opened(public.url(host="moving.example"), allowed=allowed, lookup=names.lookup)
            with pytest.raises(errors.AddressRefused):
                await read(remote)
            assert public.connections == 1
        assert inside.connections == 0


async def test_name_is_looked_up_once_for_each_connection(opened: Opener) -> None:
    async with name_server(steady=[["127.0.0.1"]]) as names, origin(redirect("/two"), ok(b"x")) as server:
        await opened(server.url(host="steady.example"), lookup=names.lookup)
        assert set(names.asked.values()) == {1}


async def test_own_listener_stays_shut_unless_its_address_is_allowed(opened: Opener) -> None:
    async with origin(ok(b"x")) as server:
        own = {("0.0.0.0", server.port)}
        with pytest.raises(errors.AddressRefused):
            await opened(server.url(), allowed=(), own=own)
        assert server.connections == 0
        assert await read(await opened(server.url(), own=own)) == b"x"


async def test_listener_added_after_the_fetcher_was_made_is_shut(trusting: ssl.SSLContext) -> None:
    own: set[tuple[str, int]] = set()
    with closing(Fetcher(own=own, tls=trusting, lookup=lambda _: ["192.88.98.1"])) as fetcher:
        own.add(("192.88.98.1", 8000))
        with pytest.raises(errors.AddressRefused, match="own listener"):
            async with fetcher.open("http://relay.example:8000/"):
                pass


def test_only_addresses_of_this_machine_are_local() -> None:
    assert is_local(ip_address("127.0.0.1"))
    assert not is_local(ip_address("192.0.2.1"))
    assert not is_local(ip_address("2001:db8::1"))


async def test_name_without_addresses_is_the_sources_failure(opened: Opener) -> None:
    async with name_server(empty=[[]]) as names:
        for host in ("empty.example", "unknown.example"):
            with pytest.raises(errors.SourceFailed, match="no address in DNS"):
                await opened(f"http://{host}/", lookup=names.lookup)


async def test_system_resolver_is_the_default(opened: Opener) -> None:
    async with origin(ok(b"x")) as server:
        assert await read(await opened(server.url(host="localhost"))) == b"x"


# ---- Waiting, and not waiting ---------------------------------------------------------------------------------------


async def test_slow_name_server_is_a_timeout(opened: Opener) -> None:
    answered = threading.Event()

    def slow(host: str) -> list[str]:
        answered.wait()
        raise socket.gaierror(host)

    try:
        with pytest.raises(errors.SourceTimeout):
            await opened("http://slow.example/", lookup=slow, limits=FetchLimits(dns=0.1))
    finally:
        answered.set()


async def test_connection_that_is_not_taken_up_is_a_timeout(opened: Opener) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        with socket.socket() as first, socket.socket() as second:
            for filler in (first, second):  # the queue is full now, and the kernel drops what comes
                filler.setblocking(False)
                filler.connect_ex(listener.getsockname())
            with pytest.raises(errors.SourceTimeout):
                await opened(f"http://127.0.0.1:{listener.getsockname()[1]}/", limits=FetchLimits(connect=0.2))


async def test_tls_handshake_that_never_ends_is_a_timeout(opened: Opener) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(errors.SourceTimeout):
        await opened(f"https://127.0.0.1:{listener.getsockname()[1]}/", limits=FetchLimits(connect=0.2))


@pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"])
async def test_head_that_does_not_come_is_a_timeout(opened: Opener, head: bytes) -> None:
    async with origin(Answer(head, "hang")) as server:
        with pytest.raises(errors.SourceTimeout):
            await opened(server.url(), limits=FetchLimits(idle=0.2))
        await server.gone.wait()


async def test_silence_in_the_body_is_a_timeout(opened: Opener) -> None:
    async with origin(Answer(cut(10, TAG), "hang")) as server:
        remote = await opened(server.url(), limits=FetchLimits(idle=0.2))
        with pytest.raises(errors.SourceTimeout):
            await read(remote)
    assert server.connections == 1


async def test_slow_reader_is_no_silence(opened: Opener) -> None:
    async with origin(ok(DATA * 8)) as server:
        remote = await opened(server.url(), limits=FetchLimits(idle=0.3))
        await anext(remote.chunks)
        await asyncio.sleep(0.6)  # longer than the limit: the source has said all that it could
        assert len(await read(remote)) > 0


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.slow
async def test_leaving_closes_the_connection_at_once(
    trusting: ssl.SSLContext, certificate: ssl.SSLContext, *, secure: bool
) -> None:
    async with origin(Answer(cut(1000), "hang"), tls=certificate if secure else None) as server:
        with closing(Fetcher(allowed=LOOPBACK, tls=trusting)) as fetcher:
            async with fetcher.open(server.url()) as remote:
                await anext(remote.chunks)
            await server.gone.wait()
            with pytest.raises(errors.SourceFailed, match="was cancelled"):
                await anext(remote.chunks)
    gc.collect()


@pytest.mark.parametrize("secure", [False, True])
@pytest.mark.parametrize("answer", [b"", cut(1000)], ids=["in the head", "in the body"])
@pytest.mark.slow
async def test_cancelling_closes_the_connection_at_once(
    trusting: ssl.SSLContext, certificate: ssl.SSLContext, answer: bytes, *, secure: bool
) -> None:
    async with origin(Answer(answer, "hang"), tls=certificate if secure else None) as server:
        with closing(Fetcher(allowed=LOOPBACK, tls=trusting)) as fetcher:

            async def fetch() -> None:
                async with fetcher.open(server.url()) as remote:
                    await read(remote)

            task = asyncio.create_task(fetch())
            await server.arrivals.get()
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await server.gone.wait()
    gc.collect()


@pytest.mark.slow
async def test_leaving_while_another_task_waits_for_the_next_attempt_ends_that_task(trusting: ssl.SSLContext) -> None:
    async with origin(cut(1000, TAG), b"") as server:
        with closing(Fetcher(allowed=LOOPBACK, tls=trusting)) as fetcher:
            async with fetcher.open(server.url()) as remote:
                reading = asyncio.create_task(read(remote))
                await server.arrivals.get()
                await server.arrivals.get()
            with pytest.raises(errors.SourceFailed, match="was cancelled"):
                await reading
    gc.collect()
