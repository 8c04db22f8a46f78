"""An ICAP service on a socket, whose answers a test writes byte by byte."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from dataclasses import dataclass

from yarl import URL

CONTINUE = b"ICAP/1.0 100 Continue\r\n\r\n"
UNMODIFIED = b"ICAP/1.0 204 Unmodified\r\n\r\n"


def options(*lines: str, methods: str = "RESPMOD", allow: str = "204", istag: str = '"a"') -> bytes:
    """An answer to OPTIONS; ``lines`` are further fields."""
    fields = [f"Methods: {methods}", f"ISTag: {istag}", *([f"Allow: {allow}"] if allow else []), *lines]
    return "\r\n".join(["ICAP/1.0 200 OK", *fields, "Encapsulated: null-body=0", "", ""]).encode()


PREVIEW = options("Preview: 1024", "Transfer-Preview: *")
COMPLETE = options()


def infected(name: str = "Eicar") -> bytes:
    """An answer that names a threat, with a page in place of the file."""
    head, page = b"HTTP/1.1 403 Forbidden\r\n\r\n", b"blocked"
    fields = f"X-Infection-Found: Type=0; Resolution=2; Threat={name};\r\nEncapsulated: res-hdr=0, res-body={len(head)}"
    return f"ICAP/1.0 200 OK\r\n{fields}\r\n\r\n".encode() + head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(page), page)


@dataclass
class Request:
    """A request as received, up to the end of its preview or of its body.

    ``last_chunk`` is the line of the empty chunk; None for OPTIONS.
    """

    method: str
    fields: dict[str, str]
    heads: bytes = b""
    body: bytes = b""
    last_chunk: bytes | None = None


class Peer:
    """One connection of a client. Its methods raise ``EOFError`` and ``OSError`` when it is closed."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def head(self) -> Request:
        """Read the head of a request and what it encapsulates, without a body."""
        start, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode().removesuffix("\r\n\r\n").split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        length = int(fields["encapsulated"].rpartition("=")[2])
        return Request(start.split()[0], fields, await self.reader.readexactly(length))

    async def request(self) -> Request:
        """Read a request up to the end of its preview or of its body."""
        request = await self.head()
        if request.method != "OPTIONS":
            request.body, request.last_chunk = await self.chunks()
        return request

    async def chunks(self) -> tuple[bytes, bytes]:
        """Read chunks up to the empty one. Return their content, and the line of the empty one."""
        content = b""
        while True:
            line = (await self.reader.readuntil(b"\r\n")).removesuffix(b"\r\n")
            data = await self.reader.readexactly(int(line.partition(b";")[0], 16) + 2)
            if data == b"\r\n":
                return content, line
            content += data[:-2]

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()


Script = Callable[[Peer, Request], Awaitable[None]]


class IcapPeer:
    """A running service at ``url``. ``options`` answers OPTIONS and may be changed; it counts what it is asked."""

    def __init__(self, url: URL, answer: bytes) -> None:
        self.url = url
        self.options = answer
        self.options_asked = 0
        self.connections = 0
        self.requests: list[Request] = []


@contextlib.asynccontextmanager
async def icap_peer(
    script: Script, answer: bytes = PREVIEW, *, whole_requests: bool = True, tls: ssl.SSLContext | None = None
) -> AsyncGenerator[IcapPeer, None]:
    """Run a service that answers OPTIONS with ``answer`` and calls ``script`` for each other request.

    A connection is closed when ``script`` raises. Without ``whole_requests``, ``script`` reads the body itself. With
    ``tls``, the service speaks TLS (icaps).
    """
    ended: list[asyncio.Future[None]] = []

    async def serve(peer: Peer) -> None:
        while True:
            request = await (peer.request() if whole_requests else peer.head())
            if request.method == "OPTIONS":
                service.options_asked += 1
                await peer.send(service.options)
            else:
                service.requests.append(request)
                await script(peer, request)

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        end = asyncio.get_running_loop().create_future()
        ended.append(end)
        service.connections += 1
        try:
            await serve(Peer(reader, writer))
        except (EOFError, OSError):
            pass
        finally:
            writer.close()
            end.set_result(None)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    scheme, port = "icaps" if tls else "icap", server.sockets[0].getsockname()[1]
    service = IcapPeer(URL(f"{scheme}://127.0.0.1:{port}/avscan"), answer)
    try:
        yield service
    finally:
        server.close()
        await asyncio.gather(*ended)
