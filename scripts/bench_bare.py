"""The least that a relay costs with aiohttp: one that passes bytes on unread, before rest2 in the same process.

bench_bare.py STATE STORE
"""

import asyncio
import ssl
import sys

import aiohttp
from aiohttp import web

from aiorelay import Settings, serve

_PASSED_ON = ("Content-Type", "Content-Length", "Transfer-Encoding")


async def main(state: str, store: str) -> None:
    """Serve until the process is terminated."""
    settings = Settings(only="rest2", state_dir=state, store=store, fsync=False, rest2_port=0, log_level="error")
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cafile=f"{state}/tls/ca.pem"), limit=0)
    async with serve(settings) as chain, aiohttp.ClientSession(connector=connector) as session:

        async def upload(request: web.Request) -> web.Response:
            headers = {name: value for name in _PASSED_ON if (value := request.headers.get(name))}
            body = request.content.iter_any()
            async with session.post(f"{chain.rest2}/upload", data=body, headers=headers) as answer:
                return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)

        app = web.Application()
        app.router.add_post("/upload", upload)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(f"{state}/tls/server.pem")
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        print(f"https://127.0.0.1:{runner.addresses[0][1]}", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
