"""An upload API on Flask's development server: flask_app.py FD STORE [FIELD].

Optional variables: MAX_BODY (bytes; more is answered with 413), IDLE (seconds of silence on a connection), CERTIFICATE
(a PEM with chain and key: it speaks TLS).
"""

import os
import sys
from pathlib import Path

from flask import Flask, request
from werkzeug.middleware.proxy_fix import ProxyFix
from werkzeug.serving import WSGIRequestHandler, make_server
from werkzeug.utils import secure_filename

descriptor, store = int(sys.argv[1]), Path(sys.argv[2])
field = next(iter(sys.argv[3:]), "somefile")
app = Flask(__name__)
app.wsgi_app = ProxyFix(app.wsgi_app, x_for=1, x_proto=1, x_host=1)
if "MAX_BODY" in os.environ:
    app.config["MAX_CONTENT_LENGTH"] = int(os.environ["MAX_BODY"])


@app.post("/upload")
def upload():
    file = request.files[field]
    path = store / secure_filename(file.filename)
    file.save(path)
    return {"status": "done", "path": str(path), "fields": request.form, "seen": seen()}


def seen():
    """The client's address, and the scheme and host that it used."""
    return [request.remote_addr, request.scheme, request.host]


class Handler(WSGIRequestHandler):
    timeout = float(os.environ["IDLE"]) if "IDLE" in os.environ else None


certificate = os.environ.get("CERTIFICATE")
tls = (certificate, certificate) if certificate else None
server = make_server("127.0.0.1", 0, app, threaded=True, fd=descriptor, request_handler=Handler, ssl_context=tls)
server.serve_forever()
