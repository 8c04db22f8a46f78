"""What ``aiorelay send`` does: files, standard input and URLs go through a relay, and its answer comes back.

sending    one source after another, each in one request
├── files      a file or standard input as a Part; only a file's length is known
├── exchange   one POST: its answer, or in words why there is none
└── following  the events of an ingest that goes on after its request was answered
outcome    what came of a source, for people and for programs
meter      bars on a terminal
token      the bearer token, and where it may be sent
"""

from aiorelay.client.files import STDIN
from aiorelay.client.outcome import SendResult
from aiorelay.client.sending import SendOptions, send
from aiorelay.client.token import is_confidential, read_token

__all__ = ["STDIN", "SendOptions", "SendResult", "is_confidential", "read_token", "send"]
