"""An upload API on Flask's development server: flask_app.py FD STORE [FIELD]."""

import sys
from pathlib import Path

from flask import Flask, request
from werkzeug.serving import make_server
from werkzeug.utils import secure_filename

descriptor, store = int(sys.argv[1]), Path(sys.argv[2])
field = next(iter(sys.argv[3:]), "somefile")
app = Flask(__name__)


@app.post("/upload")
def upload():
    file = request.files[field]
    path = store / secure_filename(file.filename)
    file.save(path)
    return {"status": "done", "path": str(path), "fields": request.form}


make_server("127.0.0.1", 0, app, threaded=True, fd=descriptor).serve_forever()
