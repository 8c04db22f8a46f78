"""Peers of the relay in tests, on real sockets.

Recorder   an upload API that records every byte and answers by a script
Client     a client that sends given bytes and returns the answer unparsed
"""

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

BOUNDARY = "----aiorelay-test-boundary"
PATIENCE = 20.0
"""Seconds that a test waits for what must happen; no test needs as long unless it fails."""

DONE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 18\r\n\r\n" + b'{"status": "done"}'


async def eventually(condition: Callable[[], bool]) -> None:
    """Wait until ``condition`` holds."""
    async with asyncio.timeout(PATIENCE):
        while not condition():  # noqa: ASYNC110 - there is no event for the state of the kernel or of a directory
            await asyncio.sleep(0.01)


# -- messages


@dataclass
class Message:
    """An HTTP/1.1 message, possibly incomplete."""

    start: str
    headers: list[tuple[str, str]]
    body: bytes = b""
    whole: bool = False
    end: int = 0
    informational: list[int] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def __getitem__(self, name: str) -> str:
        (value,) = self.all(name)
        return value

    @property
    def method(self) -> str:
        return self.start.split(" ")[0]

    @property
    def target(self) -> str:
        return self.start.split(" ")[1]

    @property
    def status(self) -> int:
        return int(self.start.split(" ")[1])

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def boundary(self) -> bytes:
        return self["Content-Type"].partition("boundary=")[2].strip('"').encode()

    @property
    def parts(self) -> list[tuple[str, bytes]]:
        """Each part's head (as text, without the blank line) and content."""
        pieces = (b"\r\n" + self.body).split(b"\r\n--" + self.boundary)
        assert pieces[0] == b""
        assert pieces[-1] in {b"--", b"--\r\n"}
        split = [piece[2:].split(b"\r\n\r\n", 1) for piece in pieces[1:-1]]
        return [(head.decode(), content) for head, content in split]


def parse(data: bytes, *, answer: bool = False) -> Message | None:
    """Return the first message in ``data``, or None while its head is incomplete."""
    head, blank, rest = data.partition(b"\r\n\r\n")
    if not blank:
        return None
    start, *lines = head.decode("utf-8", "surrogateescape").split("\r\n")
    pairs = [line.partition(":")[::2] for line in lines]
    message = Message(start, [(name, value.strip(" \t")) for name, value in pairs])
    at = len(head) + 4
    if answer and 100 <= message.status < 200:
        final = parse(rest, answer=True)
        if final is not None:
            final.informational.insert(0, message.status)
        return final
    if message.all("Transfer-Encoding"):
        message.body, message.whole, used = _dechunked(rest)
    elif lengths := message.all("Content-Length"):
        used = min(int(lengths[0]), len(rest))
        message.body, message.whole = rest[:used], used == int(lengths[0])
    elif answer and message.status not in {204, 304}:
        message.body, used = rest, len(rest)
    else:
        message.whole, used = True, 0
    message.end = at + used
    return message


def _dechunked(data: bytes) -> tuple[bytes, bool, int]:
    body, at = bytearray(), 0
    while (line_end := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:line_end], 16)
        if size == 0:
            whole = data[line_end:].startswith(b"\r\n\r\n")
            return bytes(body), whole, line_end + 4
        body += data[line_end + 2 : line_end + 2 + size]
        at = line_end + 2 + size + 2
    return bytes(body), False, len(data)


def part(name: str, content: bytes | str, filename: str | None = None, *more: str) -> bytes:
    """Return a part as the relay writes it; ``more`` are further lines of its head."""
    disposition = f'Content-Disposition: form-data; name="{name}"'
    disposition += "" if filename is None else f'; filename="{filename}"'
    content = content.encode() if isinstance(content, str) else content
    return "\r\n".join([disposition, *more, "", ""]).encode() + content


def form(*parts: bytes, end: bytes = b"--\r\n") -> bytes:
    """Return a form of ``parts``; ``end`` follows the last boundary."""
    delimiter = f"\r\n--{BOUNDARY}".encode()
    return (b"".join(delimiter + b"\r\n" + each for each in parts) + delimiter + end)[2:]


def request(
    target: str,
    body: bytes,
    *headers: str,
    method: str = "POST",
    length: int | None = None,
    chunked: bool = False,
    content_type: str | None = f"multipart/form-data; boundary={BOUNDARY}",
) -> bytes:
    """Return the bytes of a request; with ``chunked``, each chunk of the body is given, the empty one last."""
    lines = [f"{method} {target} HTTP/1.1", "Host: relay.localhost", *headers]
    if content_type is not None:
        lines.append(f"Content-Type: {content_type}")
    if chunked:
        lines.append("Transfer-Encoding: chunked")
        body = chunks(body) + b"0\r\n\r\n"
    else:
        lines.append(f"Content-Length: {len(body) if length is None else length}")
    return "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body


def chunks(body: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in (body[:7], body[7:]) if each)


def json_request(document: object, *headers: str, target: str = "/upload2", **options: Any) -> bytes:
    body = document if isinstance(document, bytes) else json.dumps(document).encode()
    return request(target, body, *headers, content_type="application/json", **options)


# -- the upload API


class Cut(Exception):  # noqa: N818 - it is an expected event
    """The relay closed the connection before its request was whole."""


class Connection:
    """One connection from the relay, and the bytes received over it."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.received = bytearray()
        self.requests: list[Message] = []
        self.cut = asyncio.Event()
        self._reader = reader
        self._writer = writer
        self._at = 0

    @property
    def message(self) -> Message:
        """The request after the complete ones, possibly incomplete."""
        message = parse(bytes(self.received[self._at :]))
        assert message is not None
        return message

    async def read(self) -> bytes:
        """Read more; empty if the relay has closed the connection."""
        try:
            block = await self._reader.read(256 * 1024)
        except (OSError, ssl.SSLError):
            block = b""
        self.received += block
        if not block:
            self.cut.set()
        return block

    async def head(self) -> Message:
        """Read to the end of a request's head."""
        while b"\r\n\r\n" not in self.received[self._at :]:
            if not await self.read():
                raise Cut
        return self.message

    def received_more(self) -> bool:
        """Whether bytes were received after the last complete request."""
        return len(self.received) > self._at

    async def request(self) -> Message:
        """Read a complete request. Raises ``Cut``."""
        head = await self.head()
        while not self._may_be_whole(head) or not (message := self.message).whole:
            if not await self.read():
                raise Cut
        self._at += message.end
        self.requests.append(message)
        return message

    def _may_be_whole(self, head: Message) -> bool:
        if lengths := head.all("Content-Length"):
            return len(self.received) - self._at >= head.end - len(head.body) + int(lengths[0])
        return not head.all("Transfer-Encoding") or self.received.endswith(b"0\r\n\r\n")

    async def until_cut(self) -> None:
        while await self.read():
            pass

    async def hang(self) -> None:
        """Stop reading and answering."""
        await asyncio.Event().wait()

    def hang_up(self) -> None:
        """Send FIN."""
        self._writer.write_eof()

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    def reset(self) -> None:
        """Close the connection with RST."""
        reset(self._writer)

    def close(self) -> None:
        self._writer.close()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection with RST."""
    transport_socket = writer.get_extra_info("socket")
    transport_socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


Script = Callable[[Connection], Awaitable[None]]


def answering(*answers: bytes) -> Script:
    """Answer each request when it is complete; repeat the last answer."""

    async def script(connection: Connection) -> None:
        left = list(answers) or [DONE]
        while True:
            await connection.request()
            await connection.send(left.pop(0) if len(left) > 1 else left[0])

    return script


def answering_early(answer: bytes) -> Script:
    """Answer after the head, and continue to read."""

    async def script(connection: Connection) -> None:
        await connection.head()
        await connection.send(answer)
        await connection.until_cut()

    return script


def failing_first(failures: int, script: Script) -> Script:
    """Run ``script`` on the first connections, then answer with success."""
    seen: list[Connection] = []

    async def serve(connection: Connection) -> None:
        seen.append(connection)
        if len(seen) <= failures:
            await script(connection)
        else:
            await connection.request()
            await connection.send(DONE)

    return serve


class Recorder:
    """An upload API at ``url`` that runs ``script`` on every connection."""

    def __init__(self, script: Script | None = None, *, tls: ssl.SSLContext | None = None) -> None:
        self.script = script or answering()
        self.connections: list[Connection] = []
        self._tls = tls
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def requests(self) -> list[Message]:
        """Every complete request."""
        return [each for connection in self.connections for each in connection.requests]

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self.port}/api"

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._tls)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.append(asyncio.current_task())  # type: ignore[arg-type]
        connection = Connection(reader, writer)
        self.connections.append(connection)
        try:
            await self.script(connection)
        except (Cut, OSError, asyncio.CancelledError):
            pass
        finally:
            writer.close()


# -- the client


class Client:
    """A TLS connection to the relay that sends exactly the given bytes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.received = bytearray()
        self._reader = reader
        self._writer = writer

    async def send(self, *blocks: bytes) -> None:
        for block in blocks:
            self._writer.write(block)
            await self._writer.drain()

    async def head(self) -> bytes:
        """Read and remove one head, which may be informational."""
        async with asyncio.timeout(PATIENCE):
            while (end := self.received.find(b"\r\n\r\n")) < 0:
                assert await self._read(), "the relay closed the connection without an answer"
        head = bytes(self.received[: end + 4])
        del self.received[: end + 4]
        return head

    async def answer(self, patience: float = PATIENCE) -> Message:
        """Read an answer to its end or the end of the connection, for at most ``patience`` seconds."""
        async with asyncio.timeout(patience):
            while not ((message := parse(bytes(self.received), answer=True)) and message.whole):
                if not await self._read():
                    break
        assert message is not None, "the relay closed the connection without an answer"
        del self.received[: message.end]
        return message

    async def ask(self, *blocks: bytes, patience: float = PATIENCE) -> Message:
        """Send a request, and return the answer even if it arrives before the end of the request."""
        sending = asyncio.create_task(self.send(*blocks))
        try:
            return await self.answer(patience)
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _read(self) -> bytes:
        try:
            block = await self._reader.read(256 * 1024)
        except (OSError, ssl.SSLError):
            block = b""
        self.received += block
        return block

    def reset(self) -> None:
        """Send RST."""
        reset(self._writer)

    def finish(self) -> None:
        """Send FIN without close_notify."""
        self._writer.get_extra_info("socket").shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Send close_notify, then FIN."""
        self._writer.close()


@contextlib.asynccontextmanager
async def connected(url: str, tls: ssl.SSLContext) -> AsyncGenerator[Client, None]:
    """A connection to the server at the base URL ``url``, or at ``unix:PATH``."""
    scheme, _, rest = url.partition(":")
    host, _, port = rest.removeprefix("//").rpartition(":")
    if scheme == "unix":
        reader, writer = await asyncio.open_unix_connection(rest)
    elif scheme == "http":
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port))
    else:
        reader, writer = await asyncio.open_connection(
            host.strip("[]"), int(port), ssl=tls, server_hostname="localhost"
        )
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()


async def ask(url: str, tls: ssl.SSLContext, *blocks: bytes, patience: float = PATIENCE) -> Message:
    """Send one request over a new connection, and return the answer."""
    async with connected(url, tls) as client:
        return await client.ask(*blocks, patience=patience)


async def run(*command: str, stdin: bytes = b"") -> tuple[int, str, str]:
    """Run a program, and return its exit status, standard output and standard error."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe)
    out, err = await process.communicate(stdin)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@contextlib.contextmanager
def nothing_left_behind(directory: Path) -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether all new tasks, descriptors and entries of ``directory`` are gone."""

    def seen() -> tuple[set[object], ...]:
        descriptors = {f"{each.name} {_target(each)}" for each in Path("/proc/self/fd").iterdir()}
        return set(asyncio.all_tasks()), set(descriptors), {each.name for each in directory.iterdir()}

    before = seen()
    yield lambda: all(now <= then for now, then in zip(seen(), before, strict=True))


def _target(descriptor: Path) -> str:
    try:
        return str(descriptor.readlink())
    except FileNotFoundError:  # the descriptor of the listing itself
        return ""


def names(parts: Sequence[tuple[str, bytes]]) -> list[str]:
    """Return the name of each part."""
    return [head.partition('name="')[2].partition('"')[0] for head, _ in parts]
