"""An upload API on Starlette, for uvicorn: STORE names its directory."""

import os
from pathlib import Path

from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route


async def upload(request):
    async with request.form() as form:
        file = form["somefile"]
        target = Path(os.environ["STORE"]) / Path(file.filename).name
        target.write_bytes(await file.read())
        fields = {name: value for name, value in form.items() if isinstance(value, str)}
    return JSONResponse({"status": "done", "path": str(target), "fields": fields})


application = Starlette(routes=[Route("/upload", upload, methods=["POST"])])
