"""Send interim responses: those with a status of 1xx, before the answer (RFC 9110, section 15.2)."""

from collections.abc import Iterable

from aiohttp import web
from aiohttp.http import HttpVersion11

__all__ = ["send_interim_response"]


async def send_interim_response(
    request: web.BaseRequest, status: int, phrase: str, headers: Iterable[tuple[str, str]] = ()
) -> None:
    """Send an interim response to ``request``, unless its client is one of HTTP/1.0, which knows none.

    Raises ``OSError`` if the client has gone.
    """
    if request.version < HttpVersion11:
        return
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers), "", ""]
    await request.writer.write("\r\n".join(lines).encode())
    request.writer.output_size = 0  # else aiohttp takes the answer for begun
