"""The log line and the metrics of each request of a resumable upload."""

import asyncio
import re

import pytest
from peers import BOUNDARY, DONE, connected, eventually, failing_first, form, part
from resumable_requests import path_of

pytestmark = pytest.mark.slow

CONTENT = bytes(range(256)) * 40
END = len(CONTENT)
ENDPOINTS = {"http": "/uploads/", "tus": "/files/"}


@pytest.fixture
def lines(caplog):
    """The members of each upload's line in the log, in order."""
    caplog.set_level("INFO", logger="aiorelay")
    return lambda: [record.members for record in caplog.records if hasattr(record, "members")]


def told(lines, *members: str) -> list[tuple]:
    return [tuple(line[member] for member in members) for line in lines()]


async def uploads(relay) -> dict[str, int]:
    """Return the uploads that the metrics count, by outcome."""
    answer = await relay.draft.ask("GET", "/metrics")
    pairs = re.findall(r'aiorelay_uploads_total\{.*outcome="([a-z-]+)".*\} (\d+)\.0', answer.body.decode())
    counted: dict[str, int] = {}
    for outcome, count in pairs:
        counted[outcome] = counted.get(outcome, 0) + int(count)
    return counted


async def test_each_request_has_its_line_and_one_says_stored(relay, protocol, lines):
    requests = relay.speaking(protocol)
    name = "Upload-Metadata: filename YS5iaW4="  # a.bin
    path = path_of(await requests.create(END, name, body=CONTENT[:1000]))
    await requests.append(path, 1000, CONTENT[1000:5000])
    await requests.append(path, 5000, CONTENT[5000:], last=True)
    await requests.append(path, END - 1, CONTENT[END - 1 :], last=True)
    assert told(lines, "outcome", "status", "files", "bytes") == [
        ("unfinished", 201, ["a.bin"], 1000),
        ("unfinished", 204, ["a.bin"], 4000),
        ("stored", 200, ["a.bin"], END),
        ("repeated", 200, [], 0),
    ]
    first = "/upload/" if protocol == "http" else "/files/"
    assert told(lines, "endpoint") == [(first,), *[(ENDPOINTS[protocol],)] * 3]
    assert await uploads(relay) == {"unfinished": 2, "stored": 1, "repeated": 1}


async def test_form_is_told_of_by_the_names_of_its_files(relay, lines):
    content = form(part("somefile", b"content", "b.txt"))
    answer = await relay.draft.ask(
        "POST",
        "/upload1",
        "Upload-Complete: ?0",
        body=content[:20],
        content_type=f"multipart/form-data; boundary={BOUNDARY}",
    )
    await relay.draft.append(path_of(answer), 20, content[20:], last=True)
    assert told(lines, "outcome", "files", "bytes") == [("unfinished", [], 20), ("stored", ["b.txt"], 7)]


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_whole_upload_in_one_append(relay, protocol, lines, chunked):
    requests = relay.speaking(protocol)
    path = path_of(await requests.create(END))
    await requests.append(path, 0, CONTENT, last=True, chunked=chunked)
    assert told(lines, "outcome", "status", "bytes") == [("unfinished", 201, 0), ("stored", 200, END)]


async def test_job_is_stored_when_it_is(relay, protocol, lines):
    requests = relay.speaking(protocol)
    path = path_of(await requests.create(END))
    await requests.append(path, 0, CONTENT, "Prefer: respond-async", last=True)
    await eventually(lambda: len(lines()) == 2)
    assert told(lines, "outcome", "status", "bytes") == [("unfinished", 201, 0), ("stored", 200, END)]


async def test_delivery_that_needed_two_tries_counts_once(start_relay, protocol, lines):
    content = CONTENT * 120
    failed = asyncio.Event()

    async def failing(connection):
        await connection.head()
        connection.reset()
        failed.set()

    relay = await start_relay(script=failing_first(1, failing))
    requests = relay.speaking(protocol)
    path = path_of(await requests.create(len(content), body=content[:600_000]))
    request = requests.raw(
        "PATCH", path, *requests.patch(600_000, last=True), body=content[600_000:], **requests.content
    )
    async with connected(relay.chain.rest1, relay.chain.tls) as client:
        await client.send(request[:-100_000])
        await failed.wait()
        await client.send(request[-100_000:])
        assert (await client.answer()).status == 200
    last = lines()[-1]
    assert (last["outcome"], last["status"], len(last["files"]), last["bytes"]) == ("stored", 200, 1, len(content))
    assert "refused_by" not in last


async def test_refusals(start_relay, protocol, lines):
    relay = await start_relay(b"HTTP/1.1 422 No\r\nContent-Length: 0\r\n\r\n")
    requests = relay.speaking(protocol)
    path = path_of(await requests.create(END))
    await requests.append(path, 5, CONTENT[5:])
    await requests.append(path, 0, CONTENT, last=True)
    assert told(lines, "outcome", "status") == [("unfinished", 201), ("refused", 409), ("upstream-refused", 422)]
    assert lines()[1]["refused_by"] == "mismatching-upload-offset"


async def test_append_that_breaks_off_says_how_much_has_come(relay, protocol, lines):
    requests = relay.speaking(protocol)
    path = path_of(await requests.create(END))
    request = requests.raw("PATCH", path, *requests.patch(0, last=False), body=CONTENT[:9000], **requests.content)
    async with connected(relay.chain.rest1, relay.chain.tls) as client:
        await client.send(request[:-10])
        await asyncio.sleep(0.1)  # what has not been read when the connection ends is lost
        client.close()
    await eventually(lambda: len(lines()) == 2)
    assert (lines()[1]["outcome"], lines()[1]["bytes"]) == ("aborted", 8990)


async def test_lines_name_the_token(start_relay, protocol, lines, tmp_path):
    (tokens := tmp_path / "tokens").write_text(f"me:{'a' * 40}\n")
    relay = await start_relay(DONE, token_file=tokens)
    requests = relay.speaking(protocol)
    requests.headers = [f"Authorization: Bearer {'a' * 40}"]
    path = path_of(await requests.create(END))
    await requests.append(path, 0, CONTENT, last=True)
    assert told(lines, "who") == [("me",), ("me",)]


async def test_upload_that_was_concatenated_names_its_file(relay, lines):
    parts = [path_of(await relay.tus.create(3, "Upload-Concat: partial", body=each)) for each in (b"abc", b"def")]
    await relay.tus.ask(
        "POST", "/files/", f"Upload-Concat: final;{' '.join(parts)}", "Upload-Metadata: filename YS5iaW4="
    )
    assert told(lines, "outcome", "files", "bytes")[-1] == ("stored", ["a.bin"], 6)
