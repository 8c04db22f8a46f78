"""The verdict falls before the last byte: whatever fails, the upload API never sees a whole request."""

import asyncio
import hashlib
from pathlib import Path

import pytest
from peers import BOUNDARY, Message, Recorder, chunks, connected, eventually, form, json_request, part, request

pytestmark = pytest.mark.slow

# Half of it is more than what is looked ahead: a shorter body is judged before the upload API hears of it.
CONTENT = bytes(range(256)).replace(b"\r", b"") * 2400
FILE = part("somefile", CONTENT, "a.bin")
CLOSING = f"\r\n--{BOUNDARY}--\r\n".encode()
MAX_SIZE = 700_000
TOO_LARGE = b"x" * (MAX_SIZE + 1)


def assert_held_back(upstream: Recorder) -> None:
    """At most one request was begun; nothing of it from the closing boundary's CRLF on has arrived."""
    assert len(upstream.connections) <= 1
    assert not upstream.requests
    for connection in upstream.connections:
        if not connection.received:
            continue
        message = connection.message
        assert not message.whole
        assert b"--" + message.boundary + b"--" not in message.body
        last = message.body.rpartition(b"--" + message.boundary)[2]
        assert last.startswith(b"\r\n")
        content = last.partition(b"\r\n\r\n")[2]
        assert b"\r" not in content, "no part's content in these tests has one: it would be the boundary's"


def form_with(body: bytes, length: int | None, *, chunked: bool) -> bytes:
    """A form's request; the chunked one ends as it should, whatever the body."""
    return request("/upload1", body, length=length, chunked=chunked)


ILL_FORMS = {
    "cut in the file": (form(FILE)[:-5000], "truncated"),
    "cut right after the file": (form(FILE)[: -len(CLOSING)], "truncated"),
    "cut in the closing boundary": (form(FILE)[: -len(CLOSING) + 10], "truncated"),
    "cut before the closing dashes": (form(FILE, end=b""), "truncated"),
    "one dash short": (form(FILE, end=b"-"), "truncated"),
    "boundary line that is not one": (form(FILE, end=b"x\r\n"), "malformed-form"),
    "bytes after the end": (form(FILE) + b"x", "malformed-form"),
    "a second form after the end": (form(FILE) + form(FILE), "malformed-form"),
    "cut in the last head": (form(FILE, b"Content-Disposition: form-data; na")[: -len(CLOSING)], "truncated"),
    "last head malformed": (form(FILE, b"Content-Disposition: form-data\r\n\r\nv"), "malformed-form"),
    "last head without blank line": (form(FILE, b"X: y"), "truncated"),
    "last part's name repeated": (
        form(FILE, b'Content-Disposition: form-data; name="a"; name="b"\r\n\r\nv'),
        "malformed-form",
    ),
    "part shorter than its Content-Length": (
        form(part("somefile", CONTENT, "a.bin", f"Content-Length: {len(CONTENT) + 1}")),
        "malformed-form",
    ),
    "part longer than its Content-Length": (
        form(part("somefile", CONTENT, "a.bin", f"Content-Length: {len(CONTENT) - 1}")),
        "malformed-form",
    ),
    "too large by the last byte": (form(part("somefile", TOO_LARGE, "a.bin")), "too-large"),
    "second file too large": (form(FILE, part("more", TOO_LARGE, "b.bin")), "too-large"),
    "fields too large at the end": (form(FILE, part("note", b"x" * 2001)), "too-large"),
    "too many parts": (form(FILE, *[part(f"n{i}", "v") for i in range(10)]), "too-many-parts"),
    "no file": (form(part("somefile", "text")), "missing-file"),
    "a file, but elsewhere": (form(part("other", CONTENT, "a.bin")), "missing-file"),
    "an input left empty": (form(part("somefile", "", "")), "missing-file"),
    "empty": (b"", "truncated"),
}
STRICT = {"max_size": MAX_SIZE, "max_fields_size": 2000, "max_parts": 10}


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize(("body", "code"), ILL_FORMS.values(), ids=ILL_FORMS)
async def test_an_ill_form_is_refused_and_never_ends_upstream(aiorelay_server, recorder, body, code, chunked):
    upstream = await recorder()
    chain = await aiorelay_server(only="rest1", upstream=upstream.url, **STRICT)
    async with connected(chain.rest1, chain.tls) as client:
        answer = await client.ask(form_with(body, None, chunked=chunked))
        assert answer.json()["type"] == f"urn:aiorelay:{code}"
        for connection in upstream.connections:
            await asyncio.wait_for(connection.cut.wait(), 20)
    assert_held_back(upstream)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize(("body", "code"), ILL_FORMS.values(), ids=ILL_FORMS)
async def test_nothing_of_an_ill_form_is_stored(aiorelay_server, body, code, chunked):
    chain = await aiorelay_server(**STRICT)
    async with connected(chain.rest1, chain.tls) as client:
        answer = await client.ask(form_with(body, None, chunked=chunked))
    assert (answer.status, answer.json()["type"]) == (answer.json()["status"], f"urn:aiorelay:{code}")
    await eventually(lambda: is_empty(chain.store))


def is_empty(directory: Path) -> bool:
    return not list(directory.iterdir())


def half_requests() -> dict[str, bytes]:
    """Requests that a client leaves unfinished."""
    whole = form(FILE, part("after", "the file"))
    in_file, at_end = len(whole) // 2, len(whole) - len(CLOSING)
    raw = {"method": "PUT", "content_type": None}
    half_chunks = request("/upload1", b"", chunked=True)[: -len(b"0\r\n\r\n")]
    half_raw_chunks = request("/upload/a.bin", b"", chunked=True, **raw)[: -len(b"0\r\n\r\n")]
    return {
        "form, in the file": (request("/upload1", whole[:in_file], length=len(whole))),
        "form, before the closing boundary": (request("/upload1", whole[:at_end], length=len(whole))),
        "form, in the closing boundary": (request("/upload1", whole[: at_end + 9], length=len(whole))),
        "form, before the closing dashes": (request("/upload1", whole[:-4], length=len(whole))),
        "form, before the last dash": (request("/upload1", whole[:-3], length=len(whole))),
        "form, longer than it is": (request("/upload1", whole, length=len(whole) + 1)),
        "chunked form, in the file": half_chunks + chunks(whole[:in_file]),
        "chunked form, before the closing boundary": half_chunks + chunks(whole[:at_end]),
        "chunked form, before the last chunk": half_chunks + chunks(whole),
        "raw, in the middle": request("/upload/a.bin", CONTENT[:400_000], length=len(CONTENT), **raw),
        "raw, before the last byte": request("/upload/a.bin", CONTENT[:-1], length=len(CONTENT), **raw),
        "chunked raw, in the middle": half_raw_chunks + chunks(CONTENT[:400_000]),
        "chunked raw, before the last chunk": half_raw_chunks + chunks(CONTENT),
    }


HALF = half_requests()
WAYS_TO_GO = ["reset", "finish", "close"]


@pytest.mark.parametrize("way", WAYS_TO_GO)
@pytest.mark.parametrize("sent", HALF.values(), ids=HALF)
async def test_a_client_that_goes_away_leaves_the_upstream_request_without_end(aiorelay_server, recorder, sent, way):
    upstream = await recorder()
    chain = await aiorelay_server(only="rest1", upstream=upstream.url)
    async with connected(chain.rest1, chain.tls) as client:
        await client.send(sent)
        await eventually(lambda: bool(upstream.connections and upstream.connections[0].received))
        getattr(client, way)()
        await asyncio.wait_for(upstream.connections[0].cut.wait(), 20)
    assert_held_back(upstream)


@pytest.mark.parametrize("sent", HALF.values(), ids=HALF)
async def test_nothing_of_a_client_that_goes_away_is_stored(aiorelay_server, sent):
    chain = await aiorelay_server()
    async with connected(chain.rest1, chain.tls) as client:
        await client.send(sent)
        await eventually(lambda: not is_empty(chain.store))
        client.reset()
        await eventually(lambda: is_empty(chain.store))
    assert chain.stored() == []


async def test_raw_body_too_large_by_its_last_byte(aiorelay_server, recorder):
    upstream = await recorder()
    chain = await aiorelay_server(only="rest1", upstream=upstream.url, max_size=MAX_SIZE)
    sent = request("/upload/a.bin", TOO_LARGE, method="PUT", content_type=None, chunked=True)
    async with connected(chain.rest1, chain.tls) as client:
        answer = await client.ask(sent)
    assert answer.json()["type"] == "urn:aiorelay:too-large"
    await eventually(lambda: all(connection.cut.is_set() for connection in upstream.connections))
    assert_held_back(upstream)


async def test_raw_body_with_broken_chunks(aiorelay_server, recorder):
    upstream = await recorder()
    chain = await aiorelay_server(only="rest1", upstream=upstream.url)
    head = request("/upload/a.bin", b"", method="PUT", content_type=None, chunked=True)[: -len(b"0\r\n\r\n")]
    async with connected(chain.rest1, chain.tls) as client:
        answer = await client.ask(head + chunks(CONTENT) + b"not a size\r\n")
    assert answer.status == 400
    await eventually(lambda: all(connection.cut.is_set() for connection in upstream.connections))
    assert_held_back(upstream)


# JSON sources: what is wrong with the last of them, or with the only one.


async def source_server(recorder, body: bytes = CONTENT, promised: int | None = None, *, cut: bool = False) -> str:
    """The URL of a web server with one file, which may be shorter than promised."""
    length = f"Content-Length: {len(body) if promised is None else promised}\r\n".encode()

    async def script(connection):
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\n" + length + b"\r\n" + body)
        if cut:
            connection.close()
        await connection.until_cut()

    return (await recorder(script)).url


async def refused_ingest(aiorelay_server, recorder, tmp_path: Path, document: object, **settings: object) -> Message:
    """Ask for an ingest that must fail, of a recorder and of a chain of its own, and give the first's answer."""
    upstream = await recorder()
    common = {"local_root": [tmp_path], "allow_net": ["127.0.0.0/8"], **settings}
    chain = await aiorelay_server(only="rest1", upstream=upstream.url, **common)
    async with connected(chain.rest1, chain.tls) as client:
        answer = await client.ask(json_request(document))
    await eventually(lambda: all(connection.cut.is_set() for connection in upstream.connections))
    assert_held_back(upstream)
    chain = await aiorelay_server(**common)
    async with connected(chain.rest1, chain.tls) as client:
        again = await client.ask(json_request(document))
    assert again.status == answer.status
    await eventually(lambda: is_empty(chain.store))
    return answer


async def test_local_file_with_another_digest(aiorelay_server, recorder, tmp_path):
    (tmp_path / "a.bin").write_bytes(CONTENT)
    document = {"somefile": {"source": str(tmp_path / "a.bin"), "sha256": "0" * 64}}
    answer = await refused_ingest(aiorelay_server, recorder, tmp_path, document)
    assert answer.json()["type"] == "urn:aiorelay:digest-mismatch"


async def test_second_local_file_with_another_digest(aiorelay_server, recorder, tmp_path):
    (tmp_path / "a.bin").write_bytes(CONTENT)
    path = str(tmp_path / "a.bin")
    document = {"somefile": [path, {"source": path, "sha256": hashlib.sha256(b"").hexdigest()}]}
    answer = await refused_ingest(aiorelay_server, recorder, tmp_path, document)
    assert answer.json()["type"] == "urn:aiorelay:digest-mismatch"


async def test_remote_file_with_another_digest(aiorelay_server, recorder, tmp_path):
    document = {"somefile": {"source": await source_server(recorder), "sha256": "0" * 64}}
    answer = await refused_ingest(aiorelay_server, recorder, tmp_path, document)
    assert answer.json()["type"] == "urn:aiorelay:digest-mismatch"


async def test_remote_file_that_breaks_off(aiorelay_server, recorder, tmp_path):
    url = await source_server(recorder, CONTENT, len(CONTENT) + 1, cut=True)
    answer = await refused_ingest(aiorelay_server, recorder, tmp_path, {"somefile": url})
    assert answer.json()["type"] == "urn:aiorelay:source-failed"


async def test_remote_file_that_stalls(aiorelay_server, recorder, tmp_path):
    url = await source_server(recorder, CONTENT, len(CONTENT) + 1)
    answer = await refused_ingest(aiorelay_server, recorder, tmp_path, {"somefile": url}, idle_timeout="200ms")
    assert answer.json()["type"] == "urn:aiorelay:source-timeout"


async def test_second_of_two_remote_files_is_missing(aiorelay_server, recorder, tmp_path):
    async def missing(connection):
        await connection.request()
        await connection.send(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    document = {"somefile": [await source_server(recorder), (await recorder(missing)).url]}
    answer = await refused_ingest(aiorelay_server, recorder, tmp_path, document)
    assert answer.json()["type"] == "urn:aiorelay:source-failed"


async def test_second_file_too_large(aiorelay_server, recorder, tmp_path):
    (tmp_path / "a.bin").write_bytes(CONTENT)
    (tmp_path / "b.bin").write_bytes(TOO_LARGE)
    document = {"somefile": [str(tmp_path / "a.bin"), str(tmp_path / "b.bin")]}
    answer = await refused_ingest(aiorelay_server, recorder, tmp_path, document, max_size=MAX_SIZE)
    assert answer.json()["type"] == "urn:aiorelay:too-large"


@pytest.mark.parametrize("way", WAYS_TO_GO)
async def test_a_client_that_goes_away_while_its_url_is_fetched(aiorelay_server, recorder, way):
    url = await source_server(recorder, CONTENT, len(CONTENT) + 1)
    upstream = await recorder()
    chain = await aiorelay_server(only="rest1", upstream=upstream.url, allow_net=["127.0.0.0/8"])
    async with connected(chain.rest1, chain.tls) as client:
        await client.send(json_request({"somefile": url}))
        await eventually(lambda: bool(upstream.connections and upstream.connections[0].received))
        getattr(client, way)()
        await asyncio.wait_for(upstream.connections[0].cut.wait(), 20)
    assert_held_back(upstream)
