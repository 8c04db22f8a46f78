"""Jobs: asynchronous ingests, from the answer 202 to the end and beyond."""

import asyncio
import base64
import contextlib
import hashlib
import io
import json
import signal
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import processes
import pytest
from aiohttp import web
from peers import DONE, PATIENCE, Connection, Script, answering, eventually

from aiorelay.errors import NotFound, SourceFailed
from aiorelay.rest1.answers import MAX_SERIALIZED_BODY
from aiorelay.rest1.jobs.file_records import FileJobRecords
from aiorelay.rest1.jobs.files import JobFiles
from aiorelay.rest1.jobs.registry import Job, Jobs
from aiorelay.rest1.jobs.routes import JobRoutes
from aiorelay.server.lifecycle import serve
from aiorelay.settings import Settings

pytestmark = pytest.mark.slow

BLOCK = b"x" * 512 * 1024  # twice what is kept back: half of it goes upstream by itself
LOOPBACK = ["127.0.0.0/8"]
ASYNC = {"Prefer": "respond-async"}


class Relay:
    """A client of the relay at ``base``."""

    def __init__(self, session: aiohttp.ClientSession, base: str, tls: Any) -> None:
        self._session = session
        self._base = base
        self._tls = tls

    def ask(self, method: str, path: str, **options: Any) -> Any:
        return self._session.request(method, self._base + path, ssl=self._tls, **options)

    async def ingest(self, source: object, *, query: str = "", **headers: str) -> str:
        """Start a job, and give its path."""
        async with self.ask("POST", f"/upload2{query}", json={"somefile": source}, headers=ASYNC | headers) as answer:
            assert answer.status == 202, await answer.text()
            return answer.headers["Location"]

    async def json(self, path: str, method: str = "GET", status: int = 200) -> Any:
        async with self.ask(method, path) as answer:
            assert answer.status == status, await answer.text()
            return await answer.json()

    async def until(self, path: str, **members: object) -> Any:
        """Wait until a job has these members."""
        async with asyncio.timeout(PATIENCE):
            while not members.items() <= (job := await self.json(path)).items():  # noqa: ASYNC110 - no event of ours
                await asyncio.sleep(0.01)
        return job


@pytest.fixture
async def session() -> AsyncGenerator[aiohttp.ClientSession, None]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PATIENCE)) as session:
        yield session


@pytest.fixture
async def relay(aiorelay_server, session, tmp_path):
    """A factory of relays with a state directory of their own, and their clients."""

    async def start(**settings: object) -> Relay:
        settings = {"allow_net": LOOPBACK, "state_dir": tmp_path / "state", "local_root": [tmp_path]} | settings
        chain = await aiorelay_server(**settings)
        return Relay(session, chain.rest1, chain.tls)

    return start


@pytest.fixture
def gate() -> asyncio.Event:
    return asyncio.Event()


@pytest.fixture
def local(tmp_path: Path) -> str:
    path = tmp_path / "report.txt"
    path.write_bytes(b"1234567890")
    return str(path)


def holding(gate: asyncio.Event, answer: bytes = DONE) -> Script:
    """An upload API that answers a whole request once the gate is open."""

    async def script(connection: Connection) -> None:
        await connection.request()
        await gate.wait()
        await connection.send(answer)

    return script


def source(gate: asyncio.Event, *, chunked: bool = False, cut: bool = False) -> Script:
    """A server with a file of two blocks, of which the second waits behind the gate."""

    async def script(connection: Connection) -> None:
        await connection.head()
        framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {2 * len(BLOCK)}"
        block = b"%x\r\n%b\r\n" % (len(BLOCK), BLOCK) if chunked else BLOCK
        await connection.send(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode() + block)
        await gate.wait()
        if not cut:
            await connection.send(block + (b"0\r\n\r\n" if chunked else b""))

    return script


def answer(status: str, body: bytes, *headers: str) -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body)}", "", ""]).encode() + body


async def events(response: aiohttp.ClientResponse) -> AsyncIterator[tuple[int, dict[str, Any]]]:
    """Each event's id and what it says, to the end of the stream."""
    event: dict[str, str] = {}
    async for line in response.content:
        name, _, value = line.decode().rstrip("\n").partition(": ")
        if name:
            event[name] = value
        elif event:
            assert event.pop("event") == "job"
            yield int(event["id"]), json.loads(event["data"])
            event = {}


# -- the answer and the end


async def test_answer_names_the_job_and_shows_it(relay, recorder, gate, local) -> None:
    upstream = await recorder(holding(gate))
    client = await relay(upstream=upstream.url)
    async with client.ask("POST", "/upload2", json={"somefile": local}, headers=ASYNC) as answered:
        job = await answered.json()
        assert answered.status == 202
        assert answered.headers["Preference-Applied"] == "respond-async"
        assert answered.headers["Location"] == f"/jobs/{job['id']}"
        assert answered.headers["Cache-Control"] == "no-store"
    assert len(job.pop("id")) == 32
    assert job == {
        "state": "running",
        "received": 0,
        "forwarded": 0,
        "total": None,
        "answer": None,
        "problem": None,
    }


async def test_job_ends_with_what_the_upstream_answered(relay, recorder, local) -> None:
    upstream = await recorder(answering(answer("201 Created", b"\xc3\xa9", "Set-Cookie: a=1", "Set-Cookie: b=2")))
    client = await relay(upstream=upstream.url)
    job = await client.until(await client.ingest(local), state="done")
    (request,) = upstream.requests
    assert job["answer"] == {
        "status": 201,
        "headers": [["Set-Cookie", "a=1"], ["Set-Cookie", "b=2"], ["Content-Length", "2"]],
        "body": "é",
        "body_encoding": "utf-8",
        "truncated": False,
    }
    assert (job["received"], job["total"], job["problem"]) == (10, 10, None)
    assert job["forwarded"] == len(request.body) == int(request["Content-Length"])
    assert request.parts[0][1] == b"1234567890"


async def test_job_tells_the_digests_that_its_request_wants(relay, local) -> None:
    client = await relay()
    path = await client.ingest([local, local], **{"Want-Repr-Digest": "sha-256=1"})
    job = await client.until(path, state="done")
    told = f"somefile=sha-256=:{base64.b64encode(hashlib.sha256(b'1234567890').digest()).decode()}:"
    assert [value for name, value in job["answer"]["headers"] if name == "Aiorelay-Digest"] == [told, told]


async def test_upstream_request_is_as_that_of_a_plain_upload(relay, recorder, local) -> None:
    upstream = await recorder()
    client = await relay(upstream=upstream.url)
    for preference in ("respond-async, return=minimal; x, wait=9", "return=minimal; x, wait=9"):
        headers = {"Prefer": preference, "X-Request-ID": "mine", "X-Own": "1"}
        async with client.ask("POST", "/upload2?a=b", json={"somefile": local, "k": "v"}, headers=headers) as answered:
            assert answered.headers["X-Request-ID"] == "mine"
    await eventually(lambda: len(upstream.requests) == 2)
    requests = [
        (request.start, sorted(pair for pair in request.headers if pair[0] != "Content-Type"))
        for request in upstream.requests
    ]
    assert requests[0] == requests[1]
    assert ("Prefer", "return=minimal; x, wait=9") in requests[0][1]


async def test_preference_that_the_relay_met_does_not_go_on(relay, recorder, local) -> None:
    upstream = await recorder()
    client = await relay(upstream=upstream.url)
    await client.until(await client.ingest(local), state="done")
    assert upstream.requests[0].all("Prefer") == []


async def test_upload_takes_json_as_a_job_too(relay, local) -> None:
    client = await relay()
    async with client.ask("POST", "/upload", json={"somefile": local}, headers=ASYNC) as answered:
        assert answered.status == 202
        await client.until(answered.headers["Location"], state="done")


@pytest.mark.parametrize("path", ["/upload", "/upload1"])
async def test_form_is_answered_at_once_whatever_is_preferred(relay, path: str) -> None:
    client = await relay()
    form = aiohttp.FormData()
    form.add_field("somefile", b"1", filename="a.txt")
    async with client.ask("POST", path, data=form, headers=ASYNC) as answered:
        assert answered.status == 200
        assert "Preference-Applied" not in answered.headers


async def test_upstream_that_refuses_has_answered(relay, recorder, local) -> None:
    upstream = await recorder(answering(answer("409 Conflict", b"no")))
    client = await relay(upstream=upstream.url)
    job = await client.until(await client.ingest(local), state="done")
    assert (job["answer"]["status"], job["answer"]["body"]) == (409, "no")


@pytest.mark.parametrize(
    ("body", "text", "encoding", "truncated"),
    [
        (b"", "", "utf-8", False),
        (b"\xff\0", base64.b64encode(b"\xff\0").decode(), "base64", False),
        (b"a" * MAX_SERIALIZED_BODY, "a" * MAX_SERIALIZED_BODY, "utf-8", False),
        (b"a" * MAX_SERIALIZED_BODY + b"b", "a" * MAX_SERIALIZED_BODY, "utf-8", True),
        (b"a" + "é".encode() * MAX_SERIALIZED_BODY, "a" + "é" * (MAX_SERIALIZED_BODY // 2 - 1), "utf-8", True),
        (b"\xff" * (MAX_SERIALIZED_BODY + 1), base64.b64encode(b"\xff" * MAX_SERIALIZED_BODY).decode(), "base64", True),
    ],
    ids=["empty", "binary", "longest", "too long", "cut inside a character", "too long and binary"],
)
async def test_body_of_the_answer_is_bounded_and_honest(
    relay, recorder, local, body: bytes, text: str, encoding: str, *, truncated: bool
) -> None:
    upstream = await recorder(answering(answer("200 OK", body)))
    client = await relay(upstream=upstream.url)
    told = (await client.until(await client.ingest(local), state="done"))["answer"]
    assert (told["body"], told["body_encoding"], told["truncated"]) == (text, encoding, truncated)


async def test_answer_that_breaks_off_fails_the_job(relay, recorder, local) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n123")

    upstream = await recorder(script)
    client = await relay(upstream=upstream.url)
    job = await client.until(await client.ingest(local), state="failed")
    assert job["answer"] is None
    assert job["problem"]["type"] == "urn:aiorelay:upstream-failed"


async def test_answer_that_falls_silent_fails_the_job(relay, recorder, local) -> None:
    async def script(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n123")
        await connection.until_cut()

    upstream = await recorder(script)
    client = await relay(upstream=upstream.url, answer_timeout="500ms")
    job = await client.until(await client.ingest(local), state="failed")
    assert job["problem"]["type"] == "urn:aiorelay:upstream-timeout"


async def test_failed_job_tells_the_problem_of_its_request(relay, recorder, gate) -> None:
    gate.set()
    origin = await recorder(source(gate, cut=True))
    upstream = await recorder()
    client = await relay(upstream=upstream.url)
    path = await client.ingest(origin.url, **{"X-Request-ID": "mine"})
    problem = (await client.until(path, state="failed"))["problem"]
    assert problem.pop("detail")
    assert problem == {
        "type": "urn:aiorelay:source-failed",
        "title": SourceFailed.title,
        "status": 502,
        "instance": "mine",
    }
    assert upstream.requests == []


async def test_address_that_may_not_be_dialled_fails_the_job(relay, recorder, gate) -> None:
    origin = await recorder(source(gate))
    client = await relay(allow_net=[])
    job = await client.until(await client.ingest(origin.url), state="failed")
    assert job["problem"]["type"] == "urn:aiorelay:address-refused"


REFUSED: list[tuple[object, dict[str, str], int, str]] = [
    (b"{", {}, 400, "malformed-json"),
    (b"{}", {}, 400, "missing-file"),
    (b'{"somefile": "relative"}', {}, 400, "bad-source"),
    (b'{"somefile": "http://user:secret@example.org/"}', {}, 400, "bad-source"),
    (b'{"somefile": "http://example.org:22/"}', {}, 403, "host-refused"),
    (b'{"somefile": "/etc/passwd"}', {}, 403, "path-refused"),
    (b'{"somefile": ["http://relay.example/", "/etc/passwd"]}', {}, 403, "path-refused"),
    (b'{"somefile": "TMP/absent"}', {}, 404, "source-missing"),
    (b'{"somefile": "TMP/absent", "a": "1", "b": "2"}', {}, 413, "too-many-parts"),
    (b"{" + b" " * 2**20 + b"}", {}, 413, "too-large"),
    (b"{}", {"Content-Type": "text/plain"}, 415, "wrong-content-type"),
    (b"{}", {"Content-Encoding": "gzip"}, 415, "wrong-content-type"),
    (b'{"somefile": "TMP/report.txt"}', {"Content-Digest": f"sha-256=:{'A' * 43}=:"}, 422, "digest-mismatch"),
]


@pytest.mark.parametrize(("body", "headers", "status", "code"), REFUSED, ids=lambda value: str(value)[:40])
async def test_what_the_request_alone_decides_is_answered_and_no_job(
    relay, recorder, tmp_path, body: bytes, headers: dict[str, str], status: int, code: str
) -> None:
    (tmp_path / "report.txt").touch()
    upstream = await recorder()
    client = await relay(upstream=upstream.url, allow_host=["relay.example"], max_parts=2)
    headers = ASYNC | {"Content-Type": "application/json"} | headers
    document = io.BytesIO(body.replace(b"TMP", bytes(tmp_path)))
    async with client.ask("POST", "/upload2", data=document, headers=headers) as answered:
        problem = await answered.json()
        assert (answered.status, problem["type"]) == (status, f"urn:aiorelay:{code}")
    assert list((tmp_path / "state" / "jobs").glob("*.json")) == []
    assert upstream.connections == []


async def test_line_of_the_log_comes_at_the_end_of_the_job(relay, recorder, gate, local, caplog) -> None:
    caplog.set_level("INFO", "aiorelay")

    def lines() -> list[dict[str, Any]]:
        return [record.members for record in caplog.records if hasattr(record, "members")]

    upstream = await recorder(holding(gate))
    client = await relay(upstream=upstream.url)
    path = await client.ingest(local)
    await eventually(lambda: len(upstream.requests) == 1)
    assert lines() == []
    gate.set()
    await client.until(path, state="done")
    (line,) = lines()
    assert (line["endpoint"], line["outcome"], line["status"]) == ("/upload2", "stored", 200)
    assert (line["files"], line["bytes"], line["client"]) == (["report.txt"], 10, "127.0.0.1")


async def test_nothing_secret_is_written_down(relay, recorder, gate, tmp_path, caplog) -> None:
    caplog.set_level("DEBUG", "aiorelay")
    origin, upstream = await recorder(source(gate)), await recorder()
    client = await relay(upstream=upstream.url)
    path = await client.ingest(f"{origin.url}?key=s3cret", query="?k=s3cret", Authorization="Bearer s3cret")
    await client.until(path, received=len(BLOCK))
    written = [file.read_text() for file in (tmp_path / "state" / "jobs").iterdir()]
    gate.set()
    await client.until(path, state="done")
    written += [file.read_text() for file in (tmp_path / "state" / "jobs").iterdir()]
    assert len(written) == 4
    assert "s3cret" not in "".join(written) + caplog.text


# -- on the way


@pytest.mark.parametrize(("chunked", "total"), [(False, 2 * len(BLOCK)), (True, None)])
async def test_job_tells_how_far_it_has_come(relay, recorder, gate, *, chunked: bool, total: int | None) -> None:
    origin, upstream = await recorder(source(gate, chunked=chunked)), await recorder()
    client = await relay(upstream=upstream.url)
    path = await client.ingest(origin.url)
    job = await client.until(path, received=len(BLOCK))
    assert (job["state"], job["total"], job["answer"]) == ("running", total, None)
    await eventually(lambda: len(upstream.connections[0].received) > len(BLOCK) // 2)
    assert (await client.json(path))["forwarded"] >= len(BLOCK) // 2
    gate.set()
    job = await client.until(path, state="done")
    assert (job["received"], job["total"]) == (2 * len(BLOCK), 2 * len(BLOCK))
    assert job["forwarded"] == len(upstream.requests[0].body)


async def test_total_of_several_files_is_known_once_the_last_is_open(relay, recorder, gate, local) -> None:
    one, other = await recorder(source(gate)), await recorder(source(gate))
    upstream = await recorder(holding(asyncio.Event()))
    client = await relay(upstream=upstream.url)
    path = await client.ingest([one.url, local, other.url])
    assert (await client.until(path, received=len(BLOCK)))["total"] is None
    gate.set()
    total = 4 * len(BLOCK) + 10
    assert (await client.until(path, received=total))["total"] == total


async def test_total_of_local_files_is_known_before_they_are_sent(relay, recorder, tmp_path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(BLOCK * 256)

    async def deaf(connection: Connection) -> None:
        await connection.head()
        await asyncio.Event().wait()

    upstream = await recorder(deaf)
    client = await relay(upstream=upstream.url)
    path = await client.ingest([str(tmp_path / "a"), str(tmp_path / "b")])
    job = await client.until(path, total=512 * len(BLOCK))
    assert job["received"] < job["total"]


async def test_spooled_job_has_forwarded_nothing_while_it_receives(relay, recorder, gate) -> None:
    origin, upstream = await recorder(source(gate)), await recorder()
    client = await relay(upstream=upstream.url, upstream_mode="spool")
    path = await client.ingest(origin.url)
    assert (await client.until(path, received=len(BLOCK)))["forwarded"] == 0
    gate.set()
    job = await client.until(path, state="done")
    assert job["forwarded"] == len(upstream.requests[0].body)


async def test_job_goes_on_without_its_client(relay, recorder, gate) -> None:
    origin, upstream = await recorder(source(gate)), await recorder()
    client = await relay(upstream=upstream.url)
    async with aiohttp.ClientSession() as gone:
        path = await Relay(gone, client._base, client._tls).ingest(origin.url)  # noqa: SLF001 - another client of it
    gate.set()
    await client.until(path, state="done")
    assert len(upstream.requests) == 1


async def test_running_job_counts_as_an_upload(relay, recorder, gate, local) -> None:
    upstream = await recorder(holding(gate))
    client = await relay(upstream=upstream.url, max_uploads=1)
    path = await client.ingest(local)
    for headers in ({}, ASYNC):
        async with client.ask("POST", "/upload2", json={"somefile": local}, headers=headers) as answered:
            assert (answered.status, (await answered.json())["type"]) == (503, "urn:aiorelay:busy")
    gate.set()
    await client.until(path, state="done")
    await client.until(await client.ingest(local), state="done")


# -- the end that somebody wants


async def test_cancelled_job_leaves_the_upstream_an_incomplete_request(relay, recorder, gate) -> None:
    origin, upstream = await recorder(source(gate)), await recorder()
    client = await relay(upstream=upstream.url)
    path = await client.ingest(origin.url)
    await eventually(
        lambda: bool(upstream.connections) and BLOCK[: len(BLOCK) // 2] in upstream.connections[0].received
    )
    job = await client.json(path, "DELETE")
    assert (job["state"], job["received"], job["answer"]) == ("cancelled", len(BLOCK), None)
    await asyncio.wait_for(upstream.connections[0].cut.wait(), PATIENCE)
    assert upstream.requests == []
    assert await client.json(path) == job


async def test_cancelled_job_gives_its_place_back(relay, recorder, gate, local) -> None:
    upstream = await recorder(holding(gate))
    client = await relay(upstream=upstream.url, max_uploads=1)
    assert (await client.json(await client.ingest(local), "DELETE"))["state"] == "cancelled"
    gate.set()
    await client.until(await client.ingest(local), state="done")


@pytest.mark.parametrize("times", [1, 2])
async def test_ended_job_cannot_be_cancelled(relay, local, times: int) -> None:
    client = await relay()
    path = await client.ingest(local)
    job = await client.until(path, state="done")
    for _ in range(times):
        assert await client.json(path, "DELETE") == job


@pytest.mark.parametrize("name", ["x" * 32, "..%2fsecret", "%2e%2e%2e", "a%00b", "%ff"])
@pytest.mark.parametrize(("method", "suffix"), [("GET", ""), ("GET", "/events"), ("DELETE", "")])
async def test_job_that_nobody_knows_is_not_found(relay, name: str, method: str, suffix: str) -> None:
    client = await relay()
    problem = await client.json(f"/jobs/{name}{suffix}", method, status=404)
    assert problem["type"] == "urn:aiorelay:not-found"


# -- how many, how long


async def test_more_jobs_than_may_run_are_refused(relay, recorder, gate, local) -> None:
    upstream = await recorder(holding(gate))
    client = await relay(upstream=upstream.url, max_jobs=1)
    path = await client.ingest(local)
    async with client.ask("POST", "/upload2", json={"somefile": local}, headers=ASYNC) as answered:
        assert (answered.status, (await answered.json())["type"]) == (429, "urn:aiorelay:too-many-jobs")
        assert int(answered.headers["Retry-After"]) > 0
    gate.set()
    await client.until(path, state="done")


async def test_oldest_end_makes_room(relay, local, tmp_path) -> None:
    client = await relay(max_jobs=2)
    paths = []
    for _ in range(3):
        paths.append(await client.ingest(local))
        await client.until(paths[-1], state="done")
    await client.json(paths[0], status=404)
    assert [(await client.json(path))["state"] for path in paths[1:]] == ["done", "done"]
    kept = {file.stem for file in (tmp_path / "state" / "jobs").glob("*.json")}
    assert kept == {path.removeprefix("/jobs/") for path in paths[1:]}


# -- events


async def test_events_tell_the_present_then_the_changes_then_the_end(relay, recorder, gate) -> None:
    origin, upstream = await recorder(source(gate)), await recorder()
    client = await relay(upstream=upstream.url)
    path = await client.ingest(origin.url)
    await client.until(path, received=len(BLOCK))
    async with client.ask("GET", f"{path}/events") as stream:
        assert (stream.status, stream.content_type) == (200, "text/event-stream")
        assert stream.headers["Cache-Control"] == "no-store"
        told = []
        async for identity, job in events(stream):
            told.append((identity, job))
            gate.set()
    states = [job["state"] for _, job in told]
    assert states[-1] == "done"
    assert set(states[:-1]) == {"running"}
    assert told[0][1]["received"] == len(BLOCK)
    assert told[-1][1] == await client.json(path)
    identities = [identity for identity, _ in told]
    assert identities == sorted(set(identities))


async def test_events_of_an_ended_job_are_its_end(relay, local) -> None:
    client = await relay()
    path = await client.ingest(local)
    job = await client.until(path, state="done")
    async with client.ask("GET", f"{path}/events") as stream:
        assert [told async for _, told in events(stream)] == [job]


async def test_reader_that_comes_back_misses_nothing_and_hears_nothing_twice(relay, recorder, gate) -> None:
    origin, upstream = await recorder(source(gate)), await recorder()
    client = await relay(upstream=upstream.url)
    path = await client.ingest(origin.url)
    await client.until(path, received=len(BLOCK))
    async with client.ask("GET", f"{path}/events") as stream:
        seen, _ = await anext(events(stream))
    gate.set()
    job = await client.until(path, state="done")
    async with client.ask("GET", f"{path}/events", headers={"Last-Event-ID": str(seen)}) as stream:
        ((last, told),) = [event async for event in events(stream)]
    assert last > seen
    assert told == job
    async with client.ask("GET", f"{path}/events", headers={"Last-Event-ID": str(last)}) as stream:
        assert (stream.status, await stream.read()) == (204, b"")  # an EventSource comes no more


@pytest.mark.parametrize("identity", ["", "x", "-1", "1e9", "٣", "9" * 17])
async def test_last_event_id_that_is_none_of_ours_counts_for_nothing(relay, local, identity: str) -> None:
    client = await relay()
    path = await client.ingest(local)
    job = await client.until(path, state="done")
    headers = {"Last-Event-ID": identity}
    async with client.ask("GET", f"{path}/events", headers=headers) as stream:
        assert [told async for _, told in events(stream)] == [job]


async def test_events_have_no_head(relay, local) -> None:
    client = await relay()
    path = await client.ingest(local)
    async with client.ask("HEAD", f"{path}/events") as answered:
        assert answered.status == 405


# -- the routes alone


@contextlib.asynccontextmanager
async def routes(directory: Path, **options: Any) -> AsyncGenerator[tuple[Jobs, web.AppRunner, int], None]:
    """Jobs, and a server of their routes, in which each client is who it says it is."""
    app = web.Application()
    async with Jobs(FileJobRecords(JobFiles(directory), most=10)) as jobs:
        JobRoutes(jobs, lambda request: request.headers.get("X-Me"), **{"idle": PATIENCE, **options}).add_to(app.router)
        runner = web.AppRunner(app, handler_cancellation=True)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        try:
            yield jobs, runner, runner.addresses[0][1]
        finally:
            jobs.drain()
            await runner.cleanup()


def until(gate: asyncio.Event) -> Callable[[Job], Any]:
    async def work(_job: Job) -> dict[str, Any]:
        await gate.wait()
        return {"status": 200}

    return work


async def test_silence_is_filled_with_comments(tmp_path, session, gate) -> None:
    async with routes(tmp_path, quiet=0.01) as (jobs, _, port):
        job = await jobs.start(until(gate), None)
        async with session.get(f"http://127.0.0.1:{port}/jobs/{job.id}/events") as stream:
            while await stream.content.readline() != b":\n":
                pass


async def test_reader_that_takes_nothing_is_dropped_and_holds_nobody_up(tmp_path, session, gate) -> None:
    loop = asyncio.get_running_loop()
    async with routes(tmp_path, idle=0.2, pace=0) as (jobs, runner, port):
        job = await jobs.start(until(gate), None)
        job.problem = {"detail": "x" * 20_000}  # long events, so that the buffers between are full soon
        with socket.socket() as slow:
            slow.setblocking(False)
            slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            await loop.sock_connect(slow, ("127.0.0.1", port))
            await loop.sock_sendall(slow, f"GET /jobs/{job.id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            await eventually(lambda: len(runner.server.connections) == 1)
            async with session.get(f"http://127.0.0.1:{port}/jobs/{job.id}/events") as stream:
                told = events(stream)
                async with asyncio.timeout(PATIENCE):
                    while len(runner.server.connections) == 2:
                        job.note(received=job.received + 1)
                        _, newest = await anext(told)
                        assert newest["received"] <= job.received
                gate.set()
                assert [job["state"] async for _, job in told][-1] == "done"


async def test_jobs_are_their_owners_alone(tmp_path, session, gate) -> None:
    async with routes(tmp_path) as (jobs, _, port):
        job = await jobs.start(until(gate), "me")
        url = f"http://127.0.0.1:{port}/jobs/{job.id}"
        async with session.get(url, headers={"X-Me": "me"}) as answered:
            assert answered.status == 200
        for other in (None, "you"):
            with pytest.raises(NotFound):
                await jobs.find(job.id, other)
        assert await jobs.find(job.id, "me") is job
        gate.set()


async def test_job_is_forgotten_some_time_after_its_end(tmp_path) -> None:
    async with Jobs(FileJobRecords(JobFiles(tmp_path), most=10, kept=0.05)) as jobs:
        gate = asyncio.Event()
        gate.set()
        job = await jobs.start(until(gate), None)

        await eventually(lambda: list(tmp_path.glob("*.json")) == [])
        await asyncio.wait_for(job.over.wait(), PATIENCE)
        with pytest.raises(NotFound):
            await jobs.find(job.id, None)


async def test_job_that_fails_unforeseen_tells_nobody_but_the_log(tmp_path, caplog) -> None:
    async def broken(_job: Job) -> dict[str, Any]:
        raise ZeroDivisionError("s3cret")

    async with Jobs(FileJobRecords(JobFiles(tmp_path), most=10)) as jobs:
        job = await jobs.start(broken, None)
        await asyncio.wait_for(job.over.wait(), PATIENCE)
    assert (job.state, job.problem["type"]) == ("failed", "urn:aiorelay:internal")
    assert "s3cret" not in json.dumps(job.describe())
    assert "ZeroDivisionError" in caplog.text


async def test_end_that_cannot_be_written_down_is_told_all_the_same(tmp_path, caplog, gate) -> None:
    async with Jobs(FileJobRecords(JobFiles(tmp_path), most=10)) as jobs:
        job = await jobs.start(until(gate), None)
        (tmp_path / f"{job.id}.json").unlink()
        (tmp_path / f"{job.id}.json").mkdir()
        gate.set()
        await asyncio.wait_for(job.over.wait(), PATIENCE)
        assert (await jobs.find(job.id, None)).state == "done"
    assert "could not be recorded" in caplog.text


# -- the end of the process


def own(tmp_path: Path, upstream: str, **more: object) -> Settings:
    given = {"rest1_port": 0, "only": "rest1", "state_dir": tmp_path / "state", "allow_net": LOOPBACK, "grace": 0}
    return Settings(**(given | {"upstream": upstream} | more))


async def test_shutdown_ends_event_streams_at_once(tmp_path, recorder, session, gate) -> None:
    """And the job that outlasts the grace is lost, of which the next process tells."""
    origin, upstream = await recorder(source(gate)), await recorder()
    async with serve(own(tmp_path, upstream.url)) as chain:
        client = Relay(session, chain.rest1, chain.tls)
        path = await client.ingest(origin.url)
        await client.until(path, received=len(BLOCK))
        stream = await client.ask("GET", f"{path}/events")
        told = events(stream)
        assert (await anext(told))[1]["state"] == "running"
    assert {job["state"] async for _, job in told} <= {"running"}  # a clean end, not a broken one
    assert upstream.requests == []
    async with serve(own(tmp_path, upstream.url)) as chain:
        assert (await Relay(session, chain.rest1, chain.tls).json(path))["state"] == "lost"


async def test_job_may_end_within_the_grace(tmp_path, recorder, session, gate) -> None:
    origin, upstream = await recorder(source(gate)), await recorder()
    closing = asyncio.Event()

    async def live() -> None:
        async with serve(own(tmp_path, upstream.url, grace=PATIENCE)) as chain:
            started.set_result(chain)
            await closing.wait()

    started = asyncio.get_running_loop().create_future()
    living = asyncio.create_task(live())
    chain = await started
    client = Relay(session, chain.rest1, chain.tls)
    path = await client.ingest(origin.url)
    await client.until(path, received=len(BLOCK))
    stream = await client.ask("GET", f"{path}/events")
    closing.set()
    await stream.read()  # ends although the job goes on
    gate.set()
    await asyncio.wait_for(living, PATIENCE)
    assert len(upstream.requests) == 1
    async with serve(own(tmp_path, upstream.url)) as chain:
        job = await Relay(session, chain.rest1, chain.tls).json(path)
    assert (job["state"], job["answer"]["body"]) == ("done", '{"status": "done"}')


async def test_job_of_a_killed_process_is_lost(tmp_path, recorder, session, gate) -> None:
    origin, upstream = await recorder(source(gate)), await recorder()
    arguments = ("--only", "rest1", "--rest1-port", "0", "--state-dir", tmp_path / "state", "--upstream", upstream.url)
    async with processes.started(*arguments, "--allow-net", "127.0.0.0/8") as process:
        client = Relay(session, process.rest1, process.tls)
        path = await client.ingest(origin.url)
        await client.until(path, received=len(BLOCK))
        async with client.ask("GET", f"{path}/events") as stream:
            seen, _ = await anext(events(stream))
        assert await process.stop(signal.SIGKILL) == -signal.SIGKILL
    async with processes.started(*arguments) as process:
        client = Relay(session, process.rest1, process.tls)
        job = await client.json(path)
        assert (job["state"], job["answer"], job["problem"]) == ("lost", None, None)
        async with client.ask("GET", f"{path}/events", headers={"Last-Event-ID": str(seen)}) as stream:
            assert [told["state"] async for _, told in events(stream)] == ["lost"]
        assert await client.json(path, "DELETE") == job
    assert upstream.requests == []


async def test_jobs_left_behind_are_kept_only_so_long_and_so_many(tmp_path) -> None:
    async with Jobs(FileJobRecords(JobFiles(tmp_path), most=10)) as jobs:
        started = []
        for _ in range(3):
            gate = asyncio.Event()
            gate.set()
            started.append(await jobs.start(until(gate), None))
            await asyncio.wait_for(started[-1].over.wait(), PATIENCE)
    async with Jobs(FileJobRecords(JobFiles(tmp_path), most=2)) as jobs:
        with pytest.raises(NotFound):
            await jobs.find(started[0].id, None)
        assert [(await jobs.find(job.id, None)).state for job in started[1:]] == ["done", "done"]
    async with Jobs(FileJobRecords(JobFiles(tmp_path), most=2, kept=0)) as jobs:
        with pytest.raises(NotFound):
            await jobs.find(started[1].id, None)
    assert list(tmp_path.iterdir()) == []


# -- two processes


async def test_job_of_another_living_process_is_seen_through_its_file(relay, recorder, gate) -> None:
    origin, upstream = await recorder(source(gate)), await recorder()
    one, other = await relay(upstream=upstream.url), await relay(upstream=upstream.url)
    path = await one.ingest(origin.url)
    await one.until(path, received=len(BLOCK))
    assert (await other.json(path))["state"] == "running"
    async with other.ask("GET", f"{path}/events") as stream:
        told = events(stream)
        assert (await anext(told))[1]["state"] == "running"
        gate.set()
        job = await one.until(path, state="done")
        assert [each async for _, each in told] == [job]
    assert await other.json(path) == job


async def test_job_of_another_living_process_can_be_cancelled(relay, recorder, gate) -> None:
    origin, upstream = await recorder(source(gate)), await recorder()
    one, other = await relay(upstream=upstream.url), await relay(upstream=upstream.url)
    path = await one.ingest(origin.url)
    await one.until(path, received=len(BLOCK))
    assert (await other.json(path, "DELETE"))["state"] == "cancelled"
    assert (await one.json(path))["state"] == "cancelled"
    assert upstream.requests == []


async def test_reader_of_a_job_that_another_process_forgot_is_let_go(tmp_path, gate) -> None:
    files = JobFiles(tmp_path)
    async with Jobs(FileJobRecords(files, most=1)) as one, Jobs(FileJobRecords(JobFiles(tmp_path), most=1)) as other:
        job = await one.start(until(gate), None)
        seen = await other.find(job.id, None)
        files.remove(job.id)
        await asyncio.wait_for(seen.news(seen.version), PATIENCE)
        assert seen.state == "lost"
