"""curl uploads by the draft, as docs/resumable.md shows."""

import asyncio
import random
import re

import pytest

pytestmark = pytest.mark.needs("curl")

CONTENT = random.Random(5).randbytes(1_000_000)  # noqa: S311 - any bytes will do
APPEND = ("-H", "Content-Type: application/partial-upload", "-H", "Upload-Complete: ?1")


async def curl(chain, *arguments, content=None):
    """Return curl's exit status and what it prints."""
    process = await asyncio.create_subprocess_exec("curl", "-sS", "--cacert", chain.ca, *arguments, stdin=-1, stdout=-1)
    printed, _ = await process.communicate(content)
    return process.returncode, printed.decode()


def told(head, field):
    return re.search(rf"(?im)^{field}: (\S+)\r?$", head)[1]


async def test_curl_continues_where_it_was_interrupted(aiorelay_server, tmp_path):
    chain = await aiorelay_server(state_dir=tmp_path)
    _, head = await curl(chain, "-i", "-X", "PUT", "-H", "Upload-Complete: ?0", f"{chain.rest1}/upload/a.bin")
    url = told(head, "Location")
    file = tmp_path / "a.bin"
    file.write_bytes(CONTENT)
    slowly = ("--limit-rate", "200k", "--max-time", "1")
    status, _ = await curl(chain, *slowly, "-X", "PATCH", "-T", file, *APPEND, "-H", "Upload-Offset: 0", url)
    assert status == 28  # the operation timed out
    _, head = await curl(chain, "-I", url)
    offset = int(told(head, "Upload-Offset"))
    assert 0 < offset < len(CONTENT)
    rest = ("-X", "PATCH", "-T", "-", *APPEND, "-H", f"Upload-Offset: {offset}", url)
    status, answer = await curl(chain, *rest, content=CONTENT[offset:])
    assert (status, '"status": "done"' in answer) == (0, True)
    assert [path.read_bytes() == CONTENT for path in chain.stored()] == [True]
