"""Upload a file with tuspy: upload_tuspy.py ENDPOINT FILE FILENAME OPTIONS

OPTIONS is JSON: the arguments of its uploader. Prints how it ended, as JSON.
"""

import json
import sys
from typing import Any

from tusclient.client import TusClient
from tusclient.exceptions import TusCommunicationError

endpoint, path, filename, options = sys.argv[1:]
metadata = {"filename": filename, "filetype": "application/pdf"}
uploader = None
outcome: dict[str, Any] = {"done": True, "status": 0, "body": ""}
try:
    uploader = TusClient(endpoint).uploader(path, metadata=metadata, **json.loads(options))
    uploader.upload()
    last: Any = uploader.request
    if last is not None:
        outcome |= {"status": last.status_code, "body": last.response_content.decode()}
except TusCommunicationError as error:
    outcome |= {"done": False, "status": error.status_code or 0, "body": str(error)}
print(json.dumps(outcome | {"url": uploader.url if uploader else None}))  # noqa: T201
