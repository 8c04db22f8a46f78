"""Clients that hold connections and give next to nothing: bench_crowd.py HOST PORT CA COUNT.

A third say nothing after the handshake, a third drip the head of a request, a third its body. All do so until the
process is ended. It prints a line once all are there.
"""

import asyncio
import itertools
import ssl
import sys

_BEGINNINGS = (
    b"",
    b"POST /upload HTTP/1.1\r\nHost: crowd\r\nX-Drip: ",
    b"PUT /upload/drip HTTP/1.1\r\nHost: crowd\r\nContent-Length: 1000000\r\n\r\n",
)
_EVERY = 0.5  # seconds


async def main(host: str, port: str, ca: str, count: str) -> None:
    """Open the connections, and drip."""
    context = ssl.create_default_context(cafile=ca)
    kinds = itertools.cycle(_BEGINNINGS)
    crowd = [await _come(host, int(port), context, next(kinds)) for _ in range(int(count))]
    print("there", flush=True)
    while True:
        await asyncio.sleep(_EVERY)
        for writer, beginning in crowd:
            if beginning and not writer.is_closing():
                writer.write(b"x")


async def _come(host: str, port: int, context: ssl.SSLContext, beginning: bytes) -> tuple[asyncio.StreamWriter, bytes]:
    _, writer = await asyncio.open_connection(host, port, ssl=context)
    writer.write(beginning)
    return writer, beginning


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
