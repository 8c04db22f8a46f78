"""Answer plain HTTP on a TLS port with 400, in plain text, and the URL to use."""

import asyncio
import re
import socket
from typing import Final

__all__ = ["begins_plainly", "refusal", "refuse"]

_LONGEST_HEAD: Final = 8 * 1024
_REQUEST_LINE = re.compile(rb"([A-Z]+) [!-~]+ HTTP/1\.[01]\r?\n", re.ASCII)
_HOST = re.compile(rb"\nHost:[ \t]*([A-Za-z0-9.:\[\]_-]{1,255})[ \t]*\r?\n", re.IGNORECASE | re.ASCII)


def begins_plainly(first: bytes) -> bool:
    """Whether the first byte of a connection may begin an HTTP method. A TLS handshake begins with 22 (RFC 8446)."""
    return first.isalpha() and first.isupper()


def refusal(head: bytes) -> bytes | None:
    """Return the answer to a request's head; None if the head is not one of HTTP/1."""
    line = _REQUEST_LINE.match(head)
    if line is None:
        return None
    host = _HOST.search(head)
    where = f"https://{host[1].decode()}" if host else "an https URL"
    text = f"This port speaks HTTPS only. Use {where} instead.\n".encode()
    fields = (
        b"HTTP/1.1 400 Bad Request\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\n"
        b"Content-Length: %d\r\n"
        b"Connection: close\r\n\r\n" % len(text)
    )
    return fields if line[1] == b"HEAD" else fields + text


async def refuse(connection: socket.socket) -> bool:
    """Read the head of a request, answer it, and wait for the client to close; whether it was HTTP. Raises ``OSError``.

    The caller limits the time and closes the connection. What the client is still sending is read and dropped: to
    close with bytes unread would reset the connection, and the client might never see the answer.
    """
    loop = asyncio.get_running_loop()
    head = b""
    while b"\n\r\n" not in head and b"\n\n" not in head and len(head) < _LONGEST_HEAD:
        block = await loop.sock_recv(connection, _LONGEST_HEAD)
        if not block:
            return False
        head += block
        if b"\n" in head and not _REQUEST_LINE.match(head):
            return False
    answer = refusal(head)
    if answer is None:
        return False
    await loop.sock_sendall(connection, answer)
    connection.shutdown(socket.SHUT_WR)
    while await loop.sock_recv(connection, 64 * 1024):
        pass
    return True
