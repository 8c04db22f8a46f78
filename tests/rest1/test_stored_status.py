"""Which answers of an upload API count as stored, in the log and in the metrics; and how long it took."""

import json
import re

import pytest
from peers import DONE, answering, ask, form, part, request
from processes import FREE_PORTS, started

FORM = form(part("somefile", b"content", "a.txt"))


def answer(status):
    return DONE.replace(b"200 OK", status)


@pytest.mark.parametrize(
    ("status", "settings", "outcome"),
    [
        (b"201 Created", {}, "stored"),
        (b"303 See Other", {}, "stored"),
        (b"302 Found", {}, "upstream-refused"),
        (b"302 Found", {"stored_status": ["200-299", "302"]}, "stored"),
        (b"303 See Other", {"stored_status": ["200-299", "302"]}, "upstream-refused"),
        (b"200 OK", {"stored_status": ["201"]}, "upstream-refused"),
        (b"404 Not Found", {"stored_status": ["200-403"]}, "upstream-refused"),
    ],
)
async def test_an_answer_counts_as_stored(aiorelay_server, recorder, caplog, status, settings, outcome):
    upstream = await recorder(answering(answer(status)))
    relay = await aiorelay_server(only="rest1", upstream=upstream.url, **settings)
    caplog.set_level("INFO", "aiorelay")
    assert (await ask(relay.rest1, relay.tls, request("/upload1", FORM))).status == int(status[:3])
    (upload,) = [record.members for record in caplog.records if hasattr(record, "members")]
    assert upload["outcome"] == outcome
    metrics = await ask(relay.rest1, relay.tls, request("/metrics", b"", method="GET", content_type=None))
    assert f'aiorelay_uploads_total{{endpoint="/upload1",outcome="{outcome}"}} 1.0' in metrics.body.decode()


@pytest.mark.parametrize("log_format", ["text", "json"])
@pytest.mark.slow
async def test_durations_are_written_without_exponents(tmp_path, log_format):
    flags = (*FREE_PORTS, "--log-format", log_format, "--state-dir", str(tmp_path))
    async with started(*flags) as process:
        for _ in range(20):
            await ask(process.rest1, process.tls, request("/upload1", FORM))
        await process.stop()
        lines = [line for line in process.log.splitlines() if "upload stored" in line]
    assert len(lines) == 20
    assert not [line for line in lines if re.search(r"[0-9]e-[0-9]", line)]
    if log_format == "json":
        assert all(0 <= json.loads(line)["phases"]["check"] < 60 for line in lines)
