"""``aiorelay send``: send files, standard input and URLs through a relay and print its answers.

sender           send each source: a file as a resumable upload if the server accepts those, else in one request
├── files        open a file or standard input
├── forms        the form of a file, as a stream or from any offset
├── endpoint     one POST or PATCH: its answer, or the reason why there is none
├── resumable    create an upload and continue it after interruptions
│   ├── retries      the pauses between attempts
│   └── unfinished   remember unfinished uploads for the next run
└── job_events   follow the server-sent events of a job to its end
results          the result of a source, as text and as JSON
progress_bars    progress on a terminal
token            the bearer token, and where it may be sent
"""

from aiorelay.cli.send.files import STDIN
from aiorelay.cli.send.results import SendResult
from aiorelay.cli.send.sender import SendOptions, send
from aiorelay.cli.send.token import is_confidential, read_token

__all__ = ["STDIN", "SendOptions", "SendResult", "is_confidential", "read_token", "send"]
