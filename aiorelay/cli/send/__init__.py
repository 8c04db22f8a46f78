"""``aiorelay send``: send files, standard input and URLs through a relay and print its answers.

sender           send each source in one request
├── files        open a file or standard input
├── endpoint     one POST: its answer, or the reason why there is none
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
