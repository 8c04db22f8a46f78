"""``aiorelay send`` over connections that break, and with relays that are killed in the middle of a file."""

import asyncio
import hashlib
import json
import os
import random
import signal

import pytest
from cutting_proxy import CuttingProxy
from hypothesis import given
from hypothesis import strategies as st
from peers import DONE, eventually
from processes import FREE_PORTS, started
from send_program import answer_of, finished, on_a_terminal, program, relay

from aiorelay.cli.send.files import opened
from aiorelay.cli.send.forms import FormFields, SeekableForm
from aiorelay.cli.send.retries import PATIENCE as PATIENCE_OF_SEND
from aiorelay.cli.send.retries import Pauses, parse_retry_after
from aiorelay.cli.send.unfinished import UnfinishedUpload, key_of, record

pytestmark = pytest.mark.slow

MIB = 2**20


@pytest.fixture
def big(tmp_path):
    """A file of 48 MiB in which every block is another one."""
    content = random.Random(13).randbytes(48 * MIB)  # noqa: S311 - any bytes will do
    (tmp_path / "big").write_bytes(content)
    return content


def digests(chain):
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in chain.stored()]


def records(tmp_path):
    return sorted((tmp_path / "state/aiorelay/unfinished-sends").iterdir())


def bytes_kept(state):
    """Return the bytes of the unfinished uploads in a state directory."""
    return sum(path.stat().st_size for path in (state / "uploads").rglob("*") if path.is_file())


# -- interruptions


async def test_connections_that_break_cost_pauses_only(aiorelay_server, send, big, tmp_path):
    chain = await aiorelay_server()
    async with CuttingProxy(chain.rest1, [5 * MIB, 1, 10 * MIB, 70_000, 12 * MIB]) as proxy:
        status, out, err = await send("big", "--to", proxy.url, "--cacert", chain.ca)
        assert (status, err, proxy.made_cuts) == (0, "", 5)
        assert proxy.sent < 2 * len(big)
    assert json.loads(out)["files"][0]["size"] == len(big)
    assert digests(chain) == [hashlib.sha256(big).hexdigest()]
    assert records(tmp_path) == []


async def test_connection_that_breaks_at_the_first_byte_does_not_make_the_upload_a_plain_one(
    aiorelay_server, send, big
):
    chain = await aiorelay_server()
    async with CuttingProxy(chain.rest1, [1, 20 * MIB]) as proxy:
        status, _, err = await send("big", "--to", proxy.url, "--cacert", chain.ca)
        assert (status, err, proxy.made_cuts) == (0, "", 2)
    assert digests(chain) == [hashlib.sha256(big).hexdigest()]


async def test_token_is_used_for_every_request_and_kept_nowhere(aiorelay_server, tmp_path, big):
    (tmp_path / "tokens").write_text("me:s3cret~\n")
    chain = await aiorelay_server(token_file=tmp_path / "tokens")
    async with CuttingProxy(chain.rest1) as proxy:
        command = ("big", "--to", proxy.url, "--cacert", chain.ca, "--token-file", "tokens")
        proxy.hold_answers(after=len(big) // 2)
        first = await program(*command)
        await eventually(lambda: proxy.sent > len(big) // 2)
        first.send_signal(signal.SIGINT)
        assert (await finished(first))[0] == 130
        (path,) = records(tmp_path)
        assert b"s3cret" not in path.read_bytes()
        proxy.lose_answers()
        assert (await finished(await program(*command)))[0] == 0
    assert digests(chain) == [hashlib.sha256(big).hexdigest()]


async def test_fields_are_sent_once_although_the_form_is_resumed(recorder, aiorelay_server, send, big):
    api = await recorder()
    chain = await aiorelay_server(upstream=api.url, field="document")
    async with CuttingProxy(chain.rest1, [9 * MIB]) as proxy:
        flags = ("--field", "k=v", "--field", "k=w", "--file-field", "document")
        status, out, _ = await send("big", "--to", proxy.url, "--cacert", chain.ca, *flags)
    assert (status, out, proxy.made_cuts) == (0, '{"status": "done"}\n', 1)
    (request,) = [request for request in api.requests if request.whole]
    assert [content for _, content in request.parts] == [b"v", b"w", big]
    assert 'name="document"; filename="big"' in request.parts[2][0]


async def test_relay_that_is_killed_and_restarted_continues(tmp_path):
    """SIGKILL in the middle of a file; the file is stored once, and the beginning is not sent again."""
    size = 256 * MIB
    with (tmp_path / "large").open("wb") as file:
        file.write(random.Random(5).randbytes(4 * MIB))  # noqa: S311 - any bytes will do
        file.truncate(size)
    state, store = tmp_path / "relay", tmp_path / "store"
    flags = ("--state-dir", state, "--store", store, "--no-fsync")
    async with started(*flags, *FREE_PORTS) as first:
        port, ca = first.rest1.rpartition(":")[2], first.ca
        sending = await program("large", "--to", first.rest1, "--cacert", ca)
        await eventually(lambda: bytes_kept(state) > 32 * MIB)
        first.send(signal.SIGKILL)
        assert await first.ended() == -signal.SIGKILL
    kept = bytes_kept(state)
    assert 32 * MIB < kept < size
    async with started(*flags, "--rest1-port", port, "--rest2-port", "0") as second:
        status, out, err = await finished(sending)
        assert (status, err) == (0, "")
        assert "200" in second.log
    answer = json.loads(out)
    (path,) = [path for path in store.rglob("*") if path.is_file()]
    assert answer["files"][0]["size"] == path.stat().st_size == size
    with (tmp_path / "large").open("rb") as sent, path.open("rb") as stored:
        assert hashlib.file_digest(sent, "sha256").digest() == hashlib.file_digest(stored, "sha256").digest()


async def test_lost_answer_is_asked_for(aiorelay_server, send, big):
    chain = await aiorelay_server()
    async with CuttingProxy(chain.rest1) as proxy:
        proxy.hold_answers(after=len(big))
        sending = asyncio.create_task(send("big", "--to", proxy.url, "--cacert", chain.ca))
        await eventually(lambda: bool(chain.stored()))
        proxy.lose_answers()
        status, out, err = await sending
    assert (status, err) == (0, "")
    assert json.loads(out)["files"][0]["path"] == str(chain.stored()[0])
    assert digests(chain) == [hashlib.sha256(big).hexdigest()]


async def test_interrupted_command_continues_when_it_is_repeated(aiorelay_server, big, tmp_path):
    chain = await aiorelay_server()
    async with CuttingProxy(chain.rest1) as proxy:
        proxy.hold_answers(after=24 * MIB)  # so that it cannot end before it is interrupted
        first = await program("big", "--to", proxy.url, "--cacert", chain.ca)
        await eventually(lambda: proxy.sent > 30 * MIB)
        first.send_signal(signal.SIGINT)
        sentence = "aiorelay: big: Interrupted: Run the same command again to continue the upload.\n"
        assert await finished(first) == (130, "", sentence)
        (path,) = records(tmp_path)
        assert path.stat().st_mode & 0o777 == 0o600
        proxy.lose_answers()
        status, out, _ = await finished(await program("big", "--to", proxy.url, "--cacert", chain.ca))
        assert status == 0
        assert proxy.sent < 1.5 * len(big)
    assert json.loads(out)["status"] == "done"
    assert digests(chain) == [hashlib.sha256(big).hexdigest()]
    assert records(tmp_path) == []


async def test_file_that_was_changed_during_a_pause_is_an_error(recorder, send, tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 1000)

    async def script(connection):
        while True:
            request = await connection.head()
            if request.method == "PATCH":
                (tmp_path / "a").write_bytes(b"y" * 1000)
                os.utime(tmp_path / "a", (1, 1))
                connection.reset()
                return
            await answer_as_a_draft_server(connection, offset=200)

    api = await recorder(script)
    status, out, err = await send("a", "--to", api.url)
    assert (status, out) == (1, "")
    assert err == "aiorelay: a: The file was changed while it was read.\n"
    assert [request.method for request in api.requests][-2:] == ["HEAD", "DELETE"]
    assert records(tmp_path) == []


async def test_changed_file_is_sent_anew(aiorelay_server, send, tmp_path):
    chain = await aiorelay_server()
    for content in (b"one", b"two"):
        (tmp_path / "a").write_bytes(content)
        assert (await send("a", *relay(chain)))[0] == 0
    assert sorted(path.read_bytes() for path in chain.stored()) == [b"one", b"two"]


# -- answers of servers


DRAFT_OPTIONS = answer_of(204, b"", "", "Accept-Patch: application/partial-upload").replace(b"Content-Type: \r\n", b"")
CREATED = answer_of(201, b"", "text/plain", "Location: /uploads/1", "Upload-Complete: ?0")
MISMATCH = answer_of(409, b"{}", "application/problem+json", "Upload-Offset: 0")


async def answer_as_a_draft_server(connection, *, offset=0, received=0):
    """Answer one request that is no PATCH, as a server does that has ``offset`` bytes."""
    request = await connection.request()
    job = {"id": "1", "state": "running", "received": received, "forwarded": 0, "total": None}
    head = f"HTTP/1.1 204 No Content\r\nUpload-Offset: {offset}\r\nUpload-Complete: ?0\r\n\r\n".encode()
    answers = {
        "OPTIONS": DRAFT_OPTIONS,
        "POST": CREATED,
        "HEAD": head,
        "GET": answer_of(200, json.dumps(job).encode()),
        "DELETE": b"HTTP/1.1 204 No Content\r\n\r\n",
    }
    await connection.send(answers[request.method])


def draft_server(*answers, offset=0):
    """A server that answers one PATCH after another with ``answers``."""
    left = list(answers)

    async def script(connection):
        while True:
            if (await connection.head()).method != "PATCH":
                await answer_as_a_draft_server(connection, offset=offset)
                continue
            await connection.request()
            await connection.send(left.pop(0))

    return script


@pytest.mark.parametrize(
    "answer",
    [
        answer_of(503, b"{}", "text/plain", "Retry-After: 1"),
        answer_of(502, b"{}", "text/plain", "Upload-Complete: ?0"),
        answer_of(500, b""),
        answer_of(423, b""),
        answer_of(429, b""),
        MISMATCH,
    ],
    ids=["503", "502", "500", "423", "429", "409"],
)
async def test_passing_answer_is_followed_by_another_attempt_at_the_offset_of_the_server(
    answer, recorder, send, tmp_path
):
    (tmp_path / "a").write_bytes(b"content")
    api = await recorder(draft_server(answer, DONE, offset=70))
    assert await send("a", "--to", api.url) == (0, '{"status": "done"}\n', "")
    first, second = [request for request in api.requests if request.method == "PATCH"]
    assert [first["Upload-Offset"], second["Upload-Offset"]] == ["0", "70"]
    assert second.body == first.body[70:]
    assert {first["Upload-Complete"], first["Content-Type"]} == {"?1", "application/partial-upload"}


@pytest.mark.parametrize(
    "answer",
    [
        answer_of(413, b"no", "text/plain"),
        answer_of(422, b"no", "text/plain", "Upload-Complete: ?1"),
        answer_of(500, b"no", "text/plain", "Upload-Complete: ?1"),
        answer_of(409, b"no", "text/plain", "Upload-Complete: ?1"),
    ],
    ids=["413", "422", "500-complete", "409-complete"],
)
async def test_final_answer_is_a_result(answer, recorder, send, tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    api = await recorder(draft_server(answer))
    status, out, err = await send("a", "--to", api.url)
    assert (status, out) == (1, "")
    assert err.endswith(": no\n")
    assert records(tmp_path) == []


async def test_upload_that_the_relay_lost_is_not_sent_again_by_itself(recorder, send, tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    gone = answer_of(404, b"{}", "application/problem+json")

    async def script(connection):
        while True:
            request = await connection.head()
            if request.method in {"OPTIONS", "POST"}:
                await answer_as_a_draft_server(connection)
            elif request.method == "PATCH":
                connection.reset()
                return
            else:
                await connection.request()
                await connection.send(gone if request.method == "GET" else gone.partition(b"{")[0])

    api = await recorder(script)
    status, _, err = await send("a", "--to", api.url)
    assert (status, err) == (1, "aiorelay: a: The relay no longer has the upload. Send the file again.\n")
    assert [request.method for request in api.requests].count("POST") == 1


async def test_upload_that_is_gone_when_the_command_is_repeated_is_begun_anew(aiorelay_server, send, tmp_path):
    chain = await aiorelay_server()
    (tmp_path / "a").write_bytes(b"content")
    key = key_of(str(tmp_path / "a"), f"{chain.rest1}/upload1", "somefile", ())
    with record(tmp_path / "state/aiorelay/unfinished-sends", key) as kept:
        kept.save(UnfinishedUpload(f"{chain.rest1}/uploads/unknown", "boundary"))
    status, out, err = await send("a", *relay(chain))
    assert (status, err) == (0, "")
    assert json.loads(out)["files"][0]["size"] == 7


@pytest.mark.parametrize("settings", [{"resumable": False}, {"resumable_quota": 1}], ids=["off", "no-room"])
async def test_relay_that_cannot_keep_uploads_gets_a_plain_one(settings, aiorelay_server, send, tmp_path):
    chain = await aiorelay_server(**settings)
    (tmp_path / "a").write_bytes(b"content")
    status, out, err = await send("a", *relay(chain))
    assert (status, err) == (0, "")
    assert json.loads(out)["files"][0]["size"] == 7


async def test_upload_api_that_is_away_for_a_moment_gets_the_file(aiorelay_server, recorder, send, tmp_path):
    answers = [answer_of(503, b"away", "text/plain"), DONE]

    async def script(connection):
        while True:
            await connection.request()
            await connection.send(answers.pop(0))

    api = await recorder(script)
    chain = await aiorelay_server(upstream=api.url)
    (tmp_path / "a").write_bytes(b"content")
    assert await send("a", *relay(chain)) == (0, '{"status": "done"}\n', "")
    assert [request.parts[0][1] for request in api.requests] == [b"content"] * 2


@pytest.mark.usefixtures("big")
async def test_refusal_while_the_file_is_sent_is_the_result(aiorelay_server, send):
    chain = await aiorelay_server(accept=["image/*"])
    status, out, err = await send("big", *relay(chain))
    assert (status, out) == (1, "")
    assert err.startswith("aiorelay: big: The type is not accepted: ") or "accept" in err
    assert chain.stored() == []


def created_at(location, *, serving):
    """A server that says that its uploads are at ``location``, and has them at the path ``serving``, or None."""
    posts = [CREATED.replace(b"/uploads/1", location.encode()), DONE]

    async def script(connection):
        while True:
            request = await connection.head()
            if request.method == "POST":
                await connection.request()
                await connection.send(posts.pop(0))
            elif request.method == "PATCH" or (request.method != "OPTIONS" and request.target != serving):
                await connection.request()
                await connection.send(DONE if request.target == serving else b"HTTP/1.1 404 Not Found\r\n\r\n")
            else:
                await answer_as_a_draft_server(connection)

    return script


@pytest.mark.parametrize(
    "location", ["/uploads/1", "http://example.org/uploads/1", "https://127.0.0.1/uploads/1", "/tools/uploads/1"]
)
async def test_upload_is_found_below_the_path_of_a_proxy(location, recorder, send, tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    api = await recorder(created_at(location, serving="/tools/uploads/1"))
    status, out, err = await send("a", "--to", f"http://127.0.0.1:{api.port}/tools/upload1")
    assert (status, out, err) == (0, '{"status": "done"}\n', "")
    assert [request.target for request in api.requests if request.method == "PATCH"] == ["/tools/uploads/1"]


async def test_upload_that_cannot_be_found_is_sent_plainly(recorder, send, tmp_path):
    """The token is not sent to another origin."""
    (tmp_path / "token").write_text("s3cret")
    (tmp_path / "a").write_bytes(b"content")
    api = await recorder(created_at("https://example.org/uploads/1", serving=None))
    status, out, _ = await send("a", "--to", api.url, "--token-file", "token")
    assert (status, out) == (0, '{"status": "done"}\n')
    assert {request["Authorization"] for request in api.requests} == {"Bearer s3cret"}
    assert [request.method for request in api.requests][-1] == "POST"


# -- a terminal


async def test_terminal_shows_what_the_server_has_acknowledged(recorder, tmp_path):
    (tmp_path / "a").write_bytes(b"x" * 1000)

    async def script(connection):
        while True:
            if (await connection.head()).method != "PATCH":
                await answer_as_a_draft_server(connection, received=600)
                continue
            request = await connection.request()
            length = int(request["Content-Length"])
            assert length > 1000
            await eventually(lambda: sum(each.method == "GET" for each in api.requests) >= 2)
            await connection.send(DONE)

    api = await recorder(script)
    status, _, shown = await on_a_terminal("a", "--to", api.url)
    assert status == 0
    assert "600/1.1" in shown
    assert "100%|" in shown


async def test_terminal_shows_a_pause(recorder, tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    api = await recorder(draft_server(answer_of(503, b""), DONE))
    status, _, shown = await on_a_terminal("a", "--to", api.url)
    assert status == 0
    assert "503 Service Unavailable. Trying again in 0.25 s." in shown


# -- forms, pauses and records


@given(st.data())
def test_form_has_the_same_bytes_from_every_offset(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("file") / "a"
    path.write_bytes(bytes(data.draw(st.sampled_from([0, 1, 700_000]))))

    async def read():
        async with opened(str(path)) as file:
            form = await SeekableForm.of(b"boundary", FormFields("f", (("k", "v"),)), file, file.local)

            async def rest(offset):
                framed = form.framed(offset)
                body = b"".join([block async for block in framed.blocks])
                assert len(body) == framed.length
                return body

            whole = await rest(0)
            offset = data.draw(st.integers(0, form.length) | st.integers(max(form.length - 20, 0), form.length))
            assert await rest(offset) == whole[offset:]

    asyncio.run(read())


def test_pauses_grow_to_half_a_minute_and_end_after_ten_minutes():
    pauses = Pauses()
    waited = list(iter(lambda: pauses.after(5), None))
    assert waited[:9] == [0.25, 0.5, 1, 2, 4, 8, 16, 30, 30]
    assert PATIENCE_OF_SEND <= sum(waited) < PATIENCE_OF_SEND + 30


def test_progress_begins_the_pauses_anew():
    pauses = Pauses()
    assert [pauses.after(5), pauses.after(5), pauses.after(6), pauses.after(6)] == [0.25, 0.5, 0.25, 0.5]
    assert pauses.after(0) == 1


def test_server_can_ask_for_a_longer_pause():
    pauses = Pauses()
    assert [pauses.after(0, 7.0), pauses.after(0, 0.0), pauses.after(0, 1e9)] == [7.0, 0.5, PATIENCE_OF_SEND]


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("", None),
        ("5", 5.0),
        ("-5", None),
        ("5.5", None),
        ("soon", None),
        ("Thu, 01 Jan 1970 00:00:00 GMT", 0.0),
    ],
)
def test_retry_after(value, seconds):
    assert parse_retry_after(value) == seconds


def test_record_is_found_again_until_it_is_forgotten(tmp_path):
    upload = UnfinishedUpload("https://relay/uploads/1", "boundary")
    with record(tmp_path / "records", "key") as kept:
        kept.save(upload)
    with record(tmp_path / "records", "key") as kept:
        assert kept.upload == upload
        kept.forget()
    assert list((tmp_path / "records").iterdir()) == []


def test_record_in_use_is_not_used_twice(tmp_path):
    upload = UnfinishedUpload("https://relay/uploads/1", "boundary")
    with record(tmp_path, "key") as first:
        first.save(upload)
        with record(tmp_path, "key") as second:
            assert (second.upload, second.is_kept) == (None, False)
            second.save(UnfinishedUpload("https://relay/uploads/2", "other"))
            assert not second.is_kept
    with record(tmp_path, "key") as third:
        assert third.upload == upload


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b'{"url": 1}'], ids=list("abcdef"))
def test_damaged_record_is_none(content, tmp_path):
    (tmp_path / "key").write_bytes(content)
    with record(tmp_path, "key") as kept:
        assert kept.upload is None


def test_directory_that_cannot_be_written_keeps_nothing(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with record(tmp_path / "file", "key") as kept:
        kept.save(UnfinishedUpload("https://relay/uploads/1", "boundary"))
        assert not kept.is_kept


def test_old_records_are_removed(tmp_path):
    (tmp_path / "old").write_bytes(b"{}")
    os.utime(tmp_path / "old", (1, 1))
    with record(tmp_path, "key"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_key_is_that_of_the_file_as_it_is(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"one")
    keys = [key_of(str(path), "there")]
    keys += [key_of(str(path), "elsewhere")]
    os.utime(path, (1, 1))
    keys += [key_of(str(path), "there")]
    path.write_bytes(b"three")
    os.utime(path, (1, 1))
    keys += [key_of(str(path), "there")]
    assert len(set(keys)) == 4
    assert key_of(str(path), "there") == keys[-1]
    assert key_of(str(tmp_path / "missing"), "there") is None
