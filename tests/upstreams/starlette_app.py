"""An upload API on Starlette, for uvicorn: STORE names its directory; more than MAX_BODY bytes get 413."""

import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

MAX_BODY = float(os.environ.get("MAX_BODY", "inf"))


async def upload(request):
    if int(request.headers.get("Content-Length", 0)) > MAX_BODY:
        return PlainTextResponse("too large", status_code=413)
    async with request.form() as form:
        file = form["somefile"]
        target = Path(os.environ["STORE"]) / Path(file.filename).name
        target.write_bytes(await file.read())
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
    seen = [request.client.host, request.url.scheme]
    return JSONResponse({"status": "done", "path": str(target), "fields": fields, "seen": seen})


application = Starlette(routes=[Route("/upload", upload, methods=["POST"])])
