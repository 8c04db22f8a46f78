"""Clients that hold idle or slow connections: bench_crowd.py HOST PORT CA COUNT.

A third send nothing after the handshake, a third send a request head slowly, a third a body. They run until the process
is terminated. It prints a line when all are connected.
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
_INTERVAL = 0.5  # seconds


async def main(host: str, port: str, ca: str, count: str) -> None:
    """Open the connections and send slowly."""
    context = ssl.create_default_context(cafile=ca)
    kinds = itertools.cycle(_BEGINNINGS)
    crowd = [await _connect(host, int(port), context, next(kinds)) for _ in range(int(count))]
    print("connected", flush=True)
    while True:
        await asyncio.sleep(_INTERVAL)
        for writer, beginning in crowd:
            if beginning and not writer.is_closing():
                writer.write(b"x")


async def _connect(
    host: str, port: int, context: ssl.SSLContext, beginning: bytes
) -> tuple[asyncio.StreamWriter, bytes]:
    _, writer = await asyncio.open_connection(host, port, ssl=context)
    writer.write(beginning)
    return writer, beginning


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
