"""The last byte of an upload is acknowledged only when the upload API has the file."""

import asyncio
import contextlib
import re

import pytest
from peers import DONE, connected, eventually, failing_first
from resumable_requests import code, path_of

pytestmark = pytest.mark.slow

CONTENT = bytes(range(256)) * 4096
END = len(CONTENT)
MIDDLE = END // 2


def answer_of(status: int, body: bytes = b"{}", *headers: bytes) -> bytes:
    lines = [b"HTTP/1.1 %d Status" % status, b"Content-Length: %d" % len(body), *headers, b"", b""]
    return b"\r\n".join(lines) + body


async def half(relay, protocol) -> str:
    """Create an upload of which the first half is there."""
    answer = await relay.speaking(protocol).create(END, body=CONTENT[:MIDDLE])
    assert answer.status == 201
    return path_of(answer)


async def rest(relay, protocol, path, at=MIDDLE, *headers):
    return await relay.speaking(protocol).append(path, at, CONTENT[at:], *headers, last=True)


async def told(relay, protocol, path) -> tuple[int, int | None]:
    """Return the status of HEAD, and the offset that it tells."""
    answer = await relay.speaking(protocol).head(path)
    offsets = answer.all("Upload-Offset")
    assert answer.all("Upload-Complete") in ([], ["?1" if offsets == [str(END)] else "?0"])
    return answer.status, int(offsets[0]) if offsets else None


OK = {"http": 204, "tus": 200}


@contextlib.asynccontextmanager
async def sending(relay, protocol, path, pause: int):
    """A client that has sent the content of the last request up to the offset ``pause``."""
    requests = relay.speaking(protocol)
    headers = requests.patch(MIDDLE, last=True)
    request = requests.raw("PATCH", path, *headers, body=CONTENT[MIDDLE:], **requests.content)
    async with connected(relay.chain.rest1, relay.chain.tls) as client:
        await client.send(request[: len(request) - (END - pause)])
        yield client


def waiting_for(release: asyncio.Event, answer: bytes = DONE):
    """Answer each request once ``release`` is set."""

    async def script(connection):
        while True:
            await connection.request()
            await release.wait()
            await connection.send(answer)

    return script


async def resetting(connection):
    await connection.head()
    connection.reset()


async def hanging(connection):
    await connection.request()
    await connection.hang()


# -- failures that pass


@pytest.mark.parametrize("status", [408, 425, 429, 500, 502, 503, 504, 507])
async def test_after_a_passing_status_the_last_byte_delivers_again(start_relay, protocol, status):
    relay = await start_relay(answer_of(status, b"later", b"Retry-After: 7"), DONE)
    path = await half(relay, protocol)
    assert await told(relay, protocol, path) == (OK[protocol], MIDDLE)
    answer = await rest(relay, protocol, path)
    assert (answer.status, answer.body, answer["Retry-After"]) == (status, b"later", "7")
    assert answer.all("Upload-Complete") in ([], ["?0"])
    assert await told(relay, protocol, path) == (OK[protocol], END - 1)
    answer = await rest(relay, protocol, path, END - 1)
    assert (answer.status, answer["Upload-Offset"]) == (200, str(END))
    assert await told(relay, protocol, path) == (OK[protocol], END)
    assert relay.received() == [CONTENT, CONTENT]


async def test_upload_api_that_is_away(start_relay, protocol):
    relay = await start_relay()
    relay.upstream._server.close()  # noqa: SLF001 - it is away from now on
    path = await half(relay, protocol)
    answer = await rest(relay, protocol, path)
    assert (answer.status, code(answer)) == (502, "upstream-failed")
    assert answer["Proxy-Status"] == "aiorelay; error=connection_refused"
    assert await told(relay, protocol, path) == (OK[protocol], END - 1)
    assert (await rest(relay, protocol, path, END - 1)).status == 502
    assert await told(relay, protocol, path) == (OK[protocol], END - 1)


async def test_upload_api_that_fails_in_mid_stream_gets_the_file_again_once_all_bytes_are_there(start_relay, protocol):
    failed = asyncio.Event()

    async def failing(connection):
        await resetting(connection)
        failed.set()

    relay = await start_relay(script=failing_first(1, failing))
    path = await half(relay, protocol)
    pause = MIDDLE + 300_000  # more than the relay holds back
    async with sending(relay, protocol, path, pause) as client:
        await failed.wait()
        await asyncio.sleep(0.1)  # the relay learns of it while it waits for the client
        await client.send(CONTENT[pause:])
        answer = await client.answer()
    assert (answer.status, answer.json()) == (200, {"status": "done"})
    assert relay.received() == [CONTENT]
    assert len(relay.upstream.connections) == 2


async def test_upload_api_that_hangs(start_relay, protocol):
    relay = await start_relay(script=failing_first(1, hanging), answer_timeout=1)
    path = await half(relay, protocol)
    answer = await rest(relay, protocol, path)
    assert (answer.status, code(answer)) == (504, "upstream-timeout")
    assert await told(relay, protocol, path) == (OK[protocol], END - 1)
    assert (await rest(relay, protocol, path, END - 1)).status == 200
    assert relay.received() == [CONTENT, CONTENT]


async def test_early_503_is_passed_on_once_everything_is_kept(start_relay, protocol):
    async def early(connection):
        await connection.head()
        await connection.send(answer_of(503, b"later", b"Connection: close"))
        await connection.until_cut()

    relay = await start_relay(script=failing_first(1, early))
    path = await half(relay, protocol)
    assert (await rest(relay, protocol, path)).status == 503
    assert await told(relay, protocol, path) == (OK[protocol], END - 1)
    assert (await rest(relay, protocol, path, END - 1)).status == 200
    assert relay.received() == [CONTENT]


async def test_upload_api_that_claims_success_too_early_gets_the_file_again(start_relay, protocol):
    async def early(connection):
        await connection.head()
        await connection.send(answer_of(200, b"early", b"Connection: close"))
        connection.reset()

    relay = await start_relay(script=failing_first(1, early))
    path = await half(relay, protocol)
    assert (await rest(relay, protocol, path)).json() == {"status": "done"}
    assert await told(relay, protocol, path) == (OK[protocol], END)
    assert relay.received() == [CONTENT]


async def test_broken_answer_after_200_means_stored(start_relay, protocol):
    async def broken(connection):
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        connection.reset()

    relay = await start_relay(script=broken)
    path = await half(relay, protocol)
    answer = await rest(relay, protocol, path)
    assert (answer.status, answer["Upload-Offset"]) == (200, str(END))
    assert await told(relay, protocol, path) == (OK[protocol], END)
    assert len(relay.received()) == 1


# -- refusals


@pytest.mark.parametrize("status", [400, 401, 403, 413, 415, 422])
async def test_refusal_of_the_upload_api_is_passed_on_and_final(start_relay, protocol, status):
    relay = await start_relay(answer_of(status, b"no"))
    path = await half(relay, protocol)
    answer = await rest(relay, protocol, path)
    assert (answer.status, answer.body) == (status, b"no")
    assert answer.all("Upload-Complete") in ([], ["?1"])
    assert await told(relay, protocol, path) == (410, None)
    for at in (END - 1, END):
        assert (await rest(relay, protocol, path, at)).status == 410
    described = (await relay.speaking(protocol).get(path)).json()
    assert (described["state"], described["answer"]["status"], described["answer"]["body"]) == ("done", status, "no")
    assert len(relay.upstream.requests) == 1


async def test_early_refusal_of_the_upload_api_is_passed_on_and_final(start_relay, protocol):
    async def early(connection):
        await connection.head()
        await connection.send(answer_of(413, b"no", b"Connection: close"))
        await connection.until_cut()

    relay = await start_relay(script=early)
    path = await half(relay, protocol)
    assert (await rest(relay, protocol, path)).status == 413
    assert await told(relay, protocol, path) == (410, None)


async def test_refusal_of_a_check_is_final(start_relay, protocol):
    relay = await start_relay(archive_max_ratio=100)
    content = b"PK\x03\x04" + CONTENT
    path = path_of(await relay.speaking(protocol).create(len(content), body=content[:1000]))
    answer = await relay.speaking(protocol).append(path, 1000, content[1000:], last=True)
    assert (answer.status, code(answer)) == (422, "archive-refused")
    assert await told(relay, protocol, path) == (410, None)
    described = (await relay.speaking(protocol).get(path)).json()
    assert (described["state"], described["answer"], described["problem"]["type"]) == (
        "failed",
        None,
        "urn:aiorelay:archive-refused",
    )
    assert relay.upstream.requests == []


# -- lost answers


async def test_client_that_leaves_once_all_bytes_are_there_finds_the_answer(start_relay, protocol):
    release = asyncio.Event()
    relay = await start_relay(script=waiting_for(release))
    path = await half(relay, protocol)
    requests = relay.speaking(protocol)
    async with sending(relay, protocol, path, END) as client:
        await eventually(lambda: bool(relay.upstream.requests))
        client.reset()
    assert await told(relay, protocol, path) == (OK[protocol], END - 1)
    described = (await requests.get(path)).json()
    assert (described["state"], described["received"], described["total"]) == ("running", END, END)
    release.set()
    while (described := (await requests.get(path)).json())["state"] == "running":  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0.01)
    assert (described["state"], described["answer"]["status"], described["answer"]["body"]) == (
        "done",
        200,
        '{"status": "done"}',
    )
    assert await told(relay, protocol, path) == (OK[protocol], END)
    assert relay.received() == [CONTENT]


@pytest.mark.parametrize("at", [END - 1, END])
async def test_request_that_joins_a_delivery_gets_its_answer(start_relay, protocol, at):
    release = asyncio.Event()
    relay = await start_relay(script=waiting_for(release, answer_of(200, b"stored", b"X-Own: 1")))
    path = await half(relay, protocol)
    first = asyncio.create_task(rest(relay, protocol, path))
    await eventually(lambda: bool(relay.upstream.requests))
    assert await told(relay, protocol, path) == (OK[protocol], END - 1)
    joined = asyncio.create_task(rest(relay, protocol, path, at))
    await asyncio.sleep(0.2)
    release.set()
    for answer in (await first, await joined):
        assert (answer.status, answer.body, answer["X-Own"], answer["Upload-Offset"]) == (200, b"stored", "1", str(END))
    assert relay.received() == [CONTENT]


async def test_last_byte_again_after_the_end_gets_the_same_answer(relay, protocol):
    path = await half(relay, protocol)
    first = await rest(relay, protocol, path)
    again = await rest(relay, protocol, path, END - 1)
    assert (again.status, again.body, again["Upload-Offset"]) == (first.status, first.body, str(END))
    assert len(relay.received()) == 1


async def test_nothing_after_the_end_gets_the_same_answer_in_tus(relay):
    path = await half(relay, "tus")
    await rest(relay, "tus", path)
    again = await rest(relay, "tus", path, END)
    assert (again.status, again.json(), again["Upload-Offset"]) == (200, {"status": "done"}, str(END))
    assert len(relay.received()) == 1


@pytest.mark.parametrize("at", [END - 1, END])
async def test_request_that_joins_a_delivery_which_fails_delivers_again(start_relay, protocol, at):
    release = asyncio.Event()

    async def failing(connection):
        await connection.request()
        await release.wait()
        await connection.send(answer_of(503))

    relay = await start_relay(script=failing_first(1, failing))
    path = await half(relay, protocol)
    first = asyncio.create_task(rest(relay, protocol, path))
    await eventually(lambda: bool(relay.upstream.requests))
    joined = asyncio.create_task(rest(relay, protocol, path, at))
    await asyncio.sleep(0.2)
    release.set()
    assert (await first).status == 503
    assert (await joined).status == 200
    assert relay.received() == [CONTENT, CONTENT]


# -- jobs


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_last_request_may_become_a_job(relay, protocol, chunked):
    path = await half(relay, protocol)
    requests = relay.speaking(protocol)
    answer = await requests.append(path, MIDDLE, CONTENT[MIDDLE:], "Prefer: respond-async", last=True, chunked=chunked)
    assert (answer.status, answer["Preference-Applied"]) == (202, "respond-async")
    assert re.fullmatch(r"/jobs/[\w-]+", answer["Location"])
    while (job := (await requests.get(answer["Location"])).json())["state"] == "running":  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0.01)
    assert (job["state"], job["answer"]["status"], job["received"], job["total"]) == ("done", 200, END, END)
    assert await told(relay, protocol, path) == (OK[protocol], END)
    assert relay.received() == [CONTENT]


async def test_failed_job_leaves_the_upload(start_relay, protocol):
    relay = await start_relay(script=failing_first(1, resetting))
    path = await half(relay, protocol)
    requests = relay.speaking(protocol)
    answer = await rest(relay, protocol, path, MIDDLE, "Prefer: respond-async")
    while (job := (await requests.get(answer["Location"])).json())["state"] == "running":  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0.01)
    assert (job["state"], job["problem"]["type"]) == ("failed", "urn:aiorelay:upstream-failed")
    assert await told(relay, protocol, path) == (OK[protocol], END - 1)
    assert (await rest(relay, protocol, path, END - 1)).status == 200


async def test_upload_of_unknown_length_that_fails_as_a_job_has_its_length(start_relay):
    relay = await start_relay(script=failing_first(1, resetting))
    path = path_of(await relay.draft.create(None))
    answer = await relay.draft.append(path, 0, CONTENT, "Prefer: respond-async", last=True, chunked=True)
    while (await relay.draft.get(answer["Location"])).json()["state"] == "running":  # noqa: ASYNC110 - no event tells
        await asyncio.sleep(0.01)
    answer = await relay.draft.head(path)
    assert (answer["Upload-Length"], answer["Upload-Offset"]) == (str(END), str(END - 1))


# -- owners


async def test_upload_belongs_to_the_token_that_made_it(start_relay, protocol, tmp_path):
    (tokens := tmp_path / "tokens").write_text(f"me:{'a' * 40}\nother:{'b' * 40}\n")
    relay = await start_relay(token_file=tokens)
    mine, others, nobodys = relay.speaking(protocol), relay.speaking(protocol), relay.speaking(protocol)
    mine.headers, others.headers = [f"Authorization: Bearer {'a' * 40}"], [f"Authorization: Bearer {'b' * 40}"]
    path = path_of(await mine.create(END, body=CONTENT[:MIDDLE]))
    for requests, status in ((others, 404), (nobodys, 401)):
        assert {answer.status for answer in [
            await requests.head(path),
            await requests.get(path),
            await requests.delete(path),
            await requests.append(path, MIDDLE, CONTENT[MIDDLE:], last=True),
        ]} == {status}  # fmt: skip
    assert (await mine.append(path, MIDDLE, CONTENT[MIDDLE:], last=True)).status == 200
    assert relay.received() == [CONTENT]


async def test_part_of_another_token_cannot_be_concatenated(start_relay, tmp_path):
    (tokens := tmp_path / "tokens").write_text(f"me:{'a' * 40}\nother:{'b' * 40}\n")
    relay = await start_relay(token_file=tokens)
    mine, others = relay.tus, relay.tus
    mine.headers, others.headers = [f"Authorization: Bearer {'a' * 40}"], [f"Authorization: Bearer {'b' * 40}"]
    path = path_of(await mine.create(3, "Upload-Concat: partial", body=b"abc"))
    answer = await others.ask("POST", "/files/", f"Upload-Concat: final;{path}")
    assert (answer.status, code(answer)) == (400, "malformed-field")
