"""``aiorelay send``: files, standard input and URLs go through a relay, and its answer comes back.

sender           one source after another, each in one request
├── files        a file or standard input as a part; only a file's length is known
├── endpoint     one POST: its answer, or in words why there is none
└── job_events   the server-sent events of a job, followed to its end
results          the result of a source, for people and as JSON
progress_bars    progress on a terminal
token            the bearer token, and where it may be sent
"""

from aiorelay.cli.send.files import STDIN
from aiorelay.cli.send.results import SendResult
from aiorelay.cli.send.sender import SendOptions, send
from aiorelay.cli.send.token import is_confidential, read_token

__all__ = ["STDIN", "SendOptions", "SendResult", "is_confidential", "read_token", "send"]
