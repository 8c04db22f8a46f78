"""Upload a file with tuspy: upload_tuspy.py ENDPOINT FILE FILENAME OPTIONS

OPTIONS is JSON: the arguments of its uploader. Prints how it ended, as JSON.
"""

import json
import sys

from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError

endpoint, path, filename, options = sys.argv[1:]
metadata = {"filename": filename, "filetype": "application/pdf"}
uploader, outcome = None, {"done": True, "status": 0, "body": ""}
try:
    uploader = TusClient(endpoint).uploader(path, metadata=metadata, **json.loads(options))
    uploader.upload()
except TusCommunicationError as error:
    outcome |= {"done": False, "status": error.status_code or 0, "body": str(error)}
if outcome["done"] and uploader is not None and uploader.request is not None:
    outcome |= {"status": uploader.request.status_code, "body": uploader.request.response_content.decode()}
print(json.dumps(outcome | {"url": uploader.url if uploader else None}))  # noqa: T201
