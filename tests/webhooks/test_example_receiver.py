"""Receivers that others would write: the one in docs/webhooks.md, and one with the library for Node."""

import asyncio
import json
import re
import sys
from pathlib import Path

import pytest
from peers import PATIENCE, answering, ask, eventually, form, part, request, run
from programs import node_script
from webhook_receivers import ACCEPTED, SECRETS, secret_file, signed

pytestmark = pytest.mark.slow

PAGE = Path(__file__).parent.parent.parent / "docs" / "webhooks.md"
FORM = request("/upload1", form(part("somefile", "content", "a.txt")))


@pytest.fixture
def settings(tmp_path):
    return {
        "webhook_secret_file": secret_file(tmp_path),
        "webhook_allow_net": ["127.0.0.0/8"],
        "state_dir": tmp_path / "state",
    }


async def test_the_receiver_of_the_documents_prints_events(aiorelay_server, settings, tmp_path, unused_tcp_port):
    (program,) = re.findall(r"```python\n# receiver.py\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len([line for line in program.splitlines() if line.strip()]) == 10
    (tmp_path / "receiver.py").write_text(program.replace("9000", str(unused_tcp_port)))
    chain = await aiorelay_server(webhook=f"http://127.0.0.1:{unused_tcp_port}/uploads", **settings)
    assert (await ask(chain.rest1, chain.tls, FORM)).status == 200  # before there is a receiver
    pipe = asyncio.subprocess.PIPE
    receiver = await asyncio.create_subprocess_exec(
        sys.executable, "receiver.py", cwd=tmp_path, stdout=pipe, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(PATIENCE):
            while not (line := await receiver.stdout.readline()).startswith(b"upload."):
                assert line
        assert line.startswith(b"upload.stored")
        assert b"a.txt" in line
    finally:
        receiver.kill()
        await receiver.wait()


@pytest.mark.needs("node", "npm")
async def test_the_library_for_node_verifies_deliveries(aiorelay_server, recorder, settings):
    command = node_script("verify_webhook.mjs")
    receiver = await recorder(answering(ACCEPTED))
    chain = await aiorelay_server(webhook=receiver.url, **settings)
    await ask(chain.rest1, chain.tls, FORM)
    await eventually(lambda: len(receiver.requests) == 1)
    (delivery,) = receiver.requests
    given = json.dumps({"body": delivery.body.decode(), "headers": signed(delivery)}).encode()
    assert await run(*map(str, command), SECRETS[0], stdin=given) == (0, "upload.stored\n", "")
    status, _, _ = await run(*map(str, command), SECRETS[1], stdin=given)
    assert status == 1
