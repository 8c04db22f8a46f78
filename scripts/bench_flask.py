"""A typical pair of Flask apps: one reads a whole file and posts it to the other, which saves it.

    bench_flask.py PORT CERTIFICATE store DIRECTORY
    bench_flask.py PORT CERTIFICATE relay URL CA

Each runs in Flask's development server, as in tutorials.
"""

import logging
import sys
from pathlib import Path
from tempfile import mkdtemp

import requests
from flask import Flask, request


def main(port: str, certificate: str, role: str, *where: str) -> None:
    """Serve the storing or the relaying app."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = storing(Path(where[0])) if role == "store" else relaying(*where)
    app.run(port=int(port), ssl_context=(certificate, certificate))


def storing(directory: Path) -> Flask:
    """Return an app that saves uploads in ``directory``."""
    app = Flask("storing")

    @app.post("/upload")
    def upload() -> dict[str, str]:
        path = Path(mkdtemp(dir=directory)) / "saved"
        request.files["somefile"].save(path)
        return {"status": "done", "path": str(path)}

    return app


def relaying(url: str, ca: str) -> Flask:
    """Return an app that posts uploads to ``url`` and verifies its certificate with ``ca``."""
    app = Flask("relaying")

    @app.post("/upload")
    def upload() -> tuple[bytes, int]:
        file = request.files["somefile"]
        answer = requests.post(url, files={"somefile": (file.filename, file.read())}, verify=ca, timeout=600)
        return answer.content, answer.status_code

    return app


if __name__ == "__main__":
    main(*sys.argv[1:])
