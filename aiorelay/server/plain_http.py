"""Answer plain HTTP on a TLS port with 400 and the https URL to use."""

import asyncio
import re
import socket
from typing import Final

__all__ = ["is_plain_http", "reject", "rejection"]

_LONGEST_HEAD: Final = 8 * 1024
_REQUEST_LINE = re.compile(rb"([A-Z]+) [!-~]+ HTTP/1\.[01]\r?\n", re.ASCII)
_HOST = re.compile(rb"\nHost:[ \t]*([A-Za-z0-9.:\[\]_-]{1,255})[ \t]*\r?\n", re.IGNORECASE | re.ASCII)


def is_plain_http(first: bytes) -> bool:
    """Whether the first byte of a connection may begin an HTTP method. A TLS record begins with 22 (RFC 8446)."""
    return first.isalpha() and first.isupper()


def rejection(head: bytes) -> bytes | None:
    """Return the response to a request head, or None if the head is not HTTP/1."""
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


async def reject(connection: socket.socket) -> bool:
    """Read a request head, answer it, and wait for the client to close. Return whether the head was HTTP.

    The caller limits the time and closes the connection. The rest of the request is read and discarded: closing with
    unread bytes would reset the connection, and the client might not receive the response. Raises ``OSError``.
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
    answer = rejection(head)
    if answer is None:
        return False
    await loop.sock_sendall(connection, answer)
    connection.shutdown(socket.SHUT_WR)
    while await loop.sock_recv(connection, 64 * 1024):
        pass
    return True
