"""Invalid and ambiguous requests are rejected, and never cause a second request to the upstream."""

import asyncio
import contextlib
import logging
import re
import ssl

import pytest
from aiohttp.http import HttpVersion10, HttpVersion11
from peers import BOUNDARY, PATIENCE, Client, Recorder, chunks, connected, eventually, form, parse, part, request

from aiorelay.http.request_smuggling import FROM_CLIENTS, find_ambiguity

FORM = form(part("somefile", b"content", "a.txt"))
LENGTH = f"Content-Length: {len(FORM)}"
CHUNKED = chunks(FORM) + b"0\r\n\r\n"
SMUGGLED = request("/upload1", form(part("somefile", b"smuggled", "smuggled.txt")), "Connection: close")
KIB = 1024
MORE_THAN_IS_KEPT_BACK = 512 * KIB


def raw(*lines: str | bytes, body: bytes = FORM, start: str = "POST /upload1 HTTP/1.1", end: bytes = b"\r\n") -> bytes:
    """A request whose head has these lines and those that all requests have."""
    head = [start, "Host: relay.localhost", f"Content-Type: multipart/form-data; boundary={BOUNDARY}", *lines, ""]
    return b"".join((line if isinstance(line, bytes) else line.encode()) + end for line in head) + body


# Answered with 400, for any data after it.
NOT_HTTP = {
    "Host twice": raw("Host: relay.localhost", LENGTH),
    "two Hosts": raw("Host: other.example", LENGTH),
    "no Host": raw(LENGTH).replace(b"Host: relay.localhost\r\n", b""),
    "a Host with a quote": raw(LENGTH).replace(b"Host: relay.localhost", b'Host: a";for="192.0.2.1'),
    "a Host with a space": raw(LENGTH).replace(b"Host: relay.localhost", b"Host: a b"),
    "a Host with a path": raw(LENGTH).replace(b"Host: relay.localhost", b"Host: relay.localhost/upload"),
    "Content-Length twice": raw(LENGTH, LENGTH),
    "two Content-Lengths": raw(LENGTH, "Content-Length: 1"),
    "a list of Content-Lengths": raw(f"{LENGTH}, {len(FORM)}"),
    "Content-Length and Transfer-Encoding": raw(LENGTH, "Transfer-Encoding: chunked", body=CHUNKED),
    "Transfer-Encoding and Content-Length": raw("Transfer-Encoding: chunked", LENGTH, body=CHUNKED),
    "Transfer-Encoding twice": raw("Transfer-Encoding: chunked", "Transfer-Encoding: chunked", body=CHUNKED),
    "gzip, chunked": raw("Transfer-Encoding: gzip, chunked", body=CHUNKED),
    "chunked, chunked": raw("Transfer-Encoding: chunked, chunked", body=CHUNKED),
    "chunked, identity": raw("Transfer-Encoding: chunked, identity", body=CHUNKED),
    "identity": raw("Transfer-Encoding: identity", LENGTH),
    "gzip": raw("Transfer-Encoding: gzip"),
    "an empty Transfer-Encoding": raw("Transfer-Encoding:", LENGTH),
    "xchunked": raw("Transfer-Encoding: xchunked", LENGTH),
    "chunked with a parameter": raw("Transfer-Encoding: chunked;q=1", body=CHUNKED),
    "Transfer-Encoding in HTTP/1.0": raw("Transfer-Encoding: chunked", body=CHUNKED, start="POST /upload1 HTTP/1.0"),
    "a space before the colon": raw(LENGTH, "Transfer-Encoding : chunked"),
    "a head of 33 KiB": raw(LENGTH, *(f"X-{number}: {'x' * KIB}" for number in range(33))),
    "2000 header fields": raw(LENGTH, *(f"X-{number}: x" for number in range(2000))),
    "a header field of 64 KiB": raw(LENGTH, f"X: {'x' * 64 * KIB}"),
    "a header field's name of 64 KiB": raw(LENGTH, f"{'x' * 64 * KIB}: x"),
    "a request line of 64 KiB": raw(LENGTH, start=f"POST /upload1?{'x' * 64 * KIB} HTTP/1.1"),
    "a request line without an end": b"POST /" + b"x" * 256 * KIB,
    "lines that end in LF": raw(LENGTH, end=b"\n"),
    "lines that end in CR": raw(LENGTH, end=b"\r"),
    "a bare LF in a value": raw(LENGTH, "X: a\nTransfer-Encoding: chunked"),
    "a bare CR in a value": raw(LENGTH, "X: a\rb"),
    "a folded line": raw(LENGTH, "X: a\r\n b"),
    "a folded Transfer-Encoding": raw("Transfer-Encoding:\r\n chunked", body=CHUNKED),
    "NUL in a value": raw(LENGTH, b"X: a\0b"),
    "NUL in a name": raw(LENGTH, b"X\0Y: a"),
    "a name that is no token": raw(LENGTH, "X(Y): a"),
    "no name": raw(LENGTH, ": a"),
    "no colon": raw(LENGTH, "a"),
    "a negative Content-Length": raw("Content-Length: -5"),
    "+5": raw("Content-Length: +5"),
    "0x5": raw("Content-Length: 0x5"),
    "5.0": raw("Content-Length: 5.0"),
    "5 with an underscore": raw("Content-Length: 1_0"),
    "another script's digits": raw("Content-Length: \u0661\u0660"),
    "an empty Content-Length": raw("Content-Length:"),
    "a Content-Length beyond 64 bits": raw("Content-Length: 18446744073709551617"),
    "HTTP/2.0": raw(LENGTH, start="POST /upload1 HTTP/2.0"),
    "HTTP/1.2": raw(LENGTH, start="POST /upload1 HTTP/1.2"),
    "HTTP/0.9": b"GET /healthz\r\n\r\n",
    "no version": raw(LENGTH, start="POST /upload1"),
    "a method that is no token": raw(LENGTH, start="PO(ST /upload1 HTTP/1.1"),
    "an unknown method": raw(LENGTH, start="UPLOAD /upload1 HTTP/1.1"),
    "a target with a space": raw(LENGTH, start="POST /up load1 HTTP/1.1"),
    "a target without a slash": raw(LENGTH, start="POST upload1 HTTP/1.1"),
    "the target * of a POST": raw(LENGTH, start="POST * HTTP/1.1"),
    "CONNECT": raw(LENGTH, start="CONNECT relay.localhost:443 HTTP/1.1"),
    "CONNECT to a path": raw(LENGTH, start="CONNECT /upload1 HTTP/1.1"),
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(256)) * 4,
    "HTTP/2's preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
}


# The same after a chunk that contains a complete form.
BROKEN_CHUNKS = {
    "a size of letters": b"xyz\r\n",
    "a size with 0x": b"0x5\r\nabcde\r\n",
    "a negative size": b"-5\r\nabcde\r\n",
    "a size with a sign": b"+5\r\nabcde\r\n",
    "a size with an underscore": b"1_0\r\n" + b"x" * 16 + b"\r\n",
    "no size": b"\r\nabcde\r\n",
    "a size beyond 64 bits": b"1" + b"0" * 16 + b"\r\nabcde\r\n",
    "a size that ends in LF": b"5\nabcde\r\n",
    "a size that ends in CR": b"5\rabcde\r\n",
    "a chunk that ends in LF": b"5\r\nabcde\n",
    "a chunk longer than its size": b"5\r\nabcdefgh\r\n",
    "a space before the size": b" 5\r\nabcde\r\n",
    "NUL in an extension": b"5;a=\0\r\nabcde\r\n",
    "LF in an extension": b"5;a\n;b\r\nabcde\r\n",
    "a folded trailer": b"0\r\nX: a\r\n b\r\n\r\n",
    "NUL in a trailer": b"0\r\nX: a\0b\r\n\r\n",
    "a trailer of 64 KiB": b"0\r\nX: " + b"a" * 64 * KIB + b"\r\n\r\n",
    "2000 trailers": b"0\r\n" + b"X: a\r\n" * 2000 + b"\r\n",
}

# The data after it may or may not be another request: expected statuses, and files sent to the upstream.
HTTP = {
    "two spaces in the request line": (raw(LENGTH, start="POST  /upload1  HTTP/1.1"), [200, 200], ["a", "smuggled"]),
    "empty lines ahead": (b"\r\n\r\n" + raw(LENGTH), [200, 200], ["a", "smuggled"]),
    "an absolute target": (
        raw(LENGTH, start="POST https://relay.localhost/upload1 HTTP/1.1"),
        [200, 200],
        ["a", "smuggled"],
    ),
    "a target elsewhere": (
        raw(LENGTH, start="POST http://user@other.example:99/upload1 HTTP/1.1"),
        [200, 200],
        ["a", "smuggled"],
    ),
    "OPTIONS *": (raw(start="OPTIONS * HTTP/1.1", body=b""), [404, 200], ["smuggled"]),
    "Transfer-Encoding in capitals": (raw("Transfer-Encoding: CHUNKED", body=CHUNKED), [200, 200], ["a", "smuggled"]),
    "zeros before a chunk's size": (
        raw("Transfer-Encoding: chunked", body=b"0" * KIB + CHUNKED),
        [200, 200],
        ["a", "smuggled"],
    ),
    "a chunk extension of 1 MiB": (
        raw("Transfer-Encoding: chunked", body=CHUNKED.replace(b"\r\n", b";" + b"a" * KIB * KIB + b"\r\n", 1)),
        [200, 200],
        ["a", "smuggled"],
    ),
    "a trailer": (
        raw("Transfer-Encoding: chunked", body=chunks(FORM) + b"0\r\nX: a\r\n\r\n"),
        [200, 200],
        ["a", "smuggled"],
    ),
    "a request in the body of a GET": (
        raw(f"Content-Length: {len(SMUGGLED)}", start="GET /healthz HTTP/1.1", body=SMUGGLED),
        [200, 200],
        ["smuggled"],
    ),
    "a request in the body of one that is refused": (
        raw(f"Content-Length: {len(SMUGGLED)}", start="POST /upload2 HTTP/1.1", body=SMUGGLED),
        [415, 200],
        ["smuggled"],
    ),
    "a request in the body of one to nowhere": (
        raw(f"Content-Length: {len(SMUGGLED)}", start="POST /nowhere HTTP/1.1", body=SMUGGLED),
        [404, 200],
        ["smuggled"],
    ),
    "the beginning of the next request in the body": (raw(f"Content-Length: {len(FORM) + 7}"), [400], []),
    "a request behind the last of a connection": (raw(LENGTH, "Connection: close"), [400], []),
    "a request behind one of HTTP/1.0": (raw(LENGTH, start="POST /upload1 HTTP/1.0"), [400], []),
    "an upgrade to websocket": (
        raw("Connection: upgrade", "Upgrade: websocket", start="GET /healthz HTTP/1.1", body=b""),
        [200, 200],
        ["smuggled"],
    ),
    "20 000 parts": (
        raw("Transfer-Encoding: chunked", body=chunks(form(*[part("a", b"")] * 20_000)) + b"0\r\n\r\n"),
        [413, 200],
        ["smuggled"],
    ),
}


async def answers(url: str, tls: ssl.SSLContext, sent: bytes) -> list[int]:
    """Send ``sent`` and another request, and return the statuses of all responses until the connection is closed."""
    port = int(url.rpartition(":")[2])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=tls, server_hostname="localhost")
    writer.write(sent + SMUGGLED)
    async with asyncio.timeout(PATIENCE):
        received = await until_closed(reader)
    writer.transport.abort()
    statuses = []
    while received:
        answer = parse(received, answer=True)
        assert answer is not None, received
        statuses.append(answer.status)
        received = received[answer.end :]
    return statuses


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    received = b""
    with contextlib.suppress(OSError):  # RST, if the server closes without reading everything
        while block := await reader.read(64 * KIB):
            received += block
    return received


def uploaded(upstream: Recorder) -> list[str]:
    """Return the file names without extension in complete requests since the last call."""
    found = []
    for connection in upstream.connections:
        found += [re.search(r'filename="(\w+)\.', message.parts[0][0])[1] for message in connection.requests]
        connection.requests.clear()
    return found


def is_seemly(record: logging.LogRecord) -> bool:
    return record.exc_info is None and "\n" not in record.getMessage() and record.levelno <= logging.WARNING


@pytest.fixture
async def relay(aiorelay_server, recorder, caplog):
    """A function that sends a request and another one, and returns the statuses and the files sent to the upstream."""
    upstream = await recorder()
    chain = await aiorelay_server(only="rest1", upstream=upstream.url)

    async def abuse(sent: bytes) -> tuple[list[int], list[str]]:
        return await answers(chain.rest1, chain.tls, sent), uploaded(upstream)

    yield abuse
    assert [record.getMessage() for record in caplog.get_records("call") if not is_seemly(record)] == []


async def test_an_invalid_request_is_answered_with_400_and_the_connection_closed(relay):
    seen = {what: await relay(sent) for what, sent in NOT_HTTP.items()}
    assert {what: outcome for what, outcome in seen.items() if outcome != ([400], [])} == {}


async def test_broken_chunks_are_answered_400_and_the_connection_closed(relay):
    begun = raw("Transfer-Encoding: chunked", body=chunks(FORM))
    seen = {what: await relay(begun + broken + b"0\r\n\r\n") for what, broken in BROKEN_CHUNKS.items()}
    assert {what: outcome for what, outcome in seen.items() if outcome != ([400], [])} == {}


@pytest.mark.slow
async def test_chunks_that_break_in_mid_body_are_answered_400_and_never_end_upstream(aiorelay_server, recorder):
    upstream = await recorder()
    chain = await aiorelay_server(only="rest1", upstream=upstream.url, idle_timeout="10m")

    large = form(part("somefile", b"x" * MORE_THAN_IS_KEPT_BACK, "a.txt"))
    begun = raw("Transfer-Encoding: chunked", body=chunks(large[:-9]))
    async with contextlib.AsyncExitStack() as stack:
        clients = [await stack.enter_async_context(connected(chain.rest1, chain.tls)) for _ in BROKEN_CHUNKS]
        for client in clients:
            await client.send(begun)
        await eventually(lambda: len(upstream.connections) == len(clients))
        answers = await asyncio.gather(*map(Client.ask, clients, BROKEN_CHUNKS.values()))
    seen = {what: (answer.status, answer.json()["type"]) for what, answer in zip(BROKEN_CHUNKS, answers, strict=True)}
    assert {what: outcome for what, outcome in seen.items() if outcome != (400, "urn:aiorelay:truncated")} == {}
    await eventually(lambda: all(connection.cut.is_set() for connection in upstream.connections))
    assert uploaded(upstream) == []


async def test_an_endless_chunk_extension_counts_as_an_idle_client(aiorelay_server, recorder):
    upstream = await recorder()
    chain = await aiorelay_server(only="rest1", upstream=upstream.url, idle_timeout="500ms")
    begun = raw("Transfer-Encoding: chunked", body=chunks(FORM[:-9]) + b"5;")
    async with connected(chain.rest1, chain.tls) as client:

        async def send_on() -> None:
            await client.send(begun)
            while True:
                await client.send(b"a" * 64 * KIB)

        sending = asyncio.create_task(send_on())
        answer = await client.answer()
        sending.cancel()
        await asyncio.wait([sending])
    assert (answer.status, answer.json()["type"]) == (408, "urn:aiorelay:too-slow")
    assert uploaded(upstream) == []


async def test_unusual_but_valid_requests_are_parsed_as_specified(relay):
    seen = {what: await relay(sent) for what, (sent, _, _) in HTTP.items()}
    assert seen == {what: (statuses, files) for what, (_, statuses, files) in HTTP.items()}


@pytest.mark.parametrize("what", ["gzip, chunked", "Transfer-Encoding in HTTP/1.0", "2000 header fields", "CONNECT"])
async def test_the_embedded_upload_api_is_as_strict(aiorelay_server, what):
    chain = await aiorelay_server(only="rest2")
    sent = NOT_HTTP[what].replace(b"/upload1", b"/upload")
    assert await answers(chain.rest2, chain.tls, sent) == [400]
    assert chain.stored() == []


async def test_a_refusal_is_logged_in_one_line(aiorelay_server, caplog):
    chain = await aiorelay_server(only="rest2")
    await answers(chain.rest2, chain.tls, NOT_HTTP["gzip, chunked"])
    (line,) = caplog.messages
    assert line == "rejected an invalid request: The only supported Transfer-Encoding is chunked."


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer hush\x01\r\n\r\n", "Invalid header value char"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization : Bearer hush\r\n\r\n", "Invalid header token"),
        (b"GET / HTTP/1.1\r\nHost: x\r\nAuthorization: " + b"hush" * 9000 + b"\r\n\r\n", "Got more than"),
        (b"POST /upload1?key=hush\xff HTTP/1.1\r\nHost: x\r\n\r\n", "Invalid"),
        (b"hush hush hush\r\n\r\n", "Invalid method"),
    ],
    ids=["a token", "a field's name", "a long field", "a query", "content"],
)
async def test_an_invalid_request_is_logged_without_its_content(aiorelay_server, caplog, lines, said):
    chain = await aiorelay_server()
    await answers(chain.rest1, chain.tls, lines)
    (line,) = caplog.messages
    assert "hush" not in line
    assert said in line


TE = b"Transfer-Encoding"
FITTING = FROM_CLIENTS.size - len("GET/") - 4 - len("X") - 4


@pytest.mark.parametrize(
    ("method", "version", "fields", "is_fault"),
    [
        ("GET", HttpVersion11, [], False),
        ("GET", HttpVersion10, [], False),
        ("CONNECT", HttpVersion11, [], True),
        ("POST", HttpVersion11, [(TE, b"chunked")], False),
        ("POST", HttpVersion11, [(TE.lower(), b"Chunked")], False),
        ("POST", HttpVersion10, [(TE, b"chunked")], True),
        ("POST", HttpVersion11, [(TE, b"gzip, chunked")], True),
        ("POST", HttpVersion11, [(TE, b"identity")], True),
        ("POST", HttpVersion11, [(TE, b"")], True),
        ("POST", HttpVersion11, [(TE, b"chunked"), (TE, b"chunked")], True),
        ("GET", HttpVersion11, [(b"Host", b"")], False),
        ("GET", HttpVersion11, [(b"Host", b"a_b.xn--c.example.:8000")], False),
        ("GET", HttpVersion11, [(b"host", b"[2001:db8::1]:8000")], False),
        ("GET", HttpVersion11, [(b"Host", b"a%41:")], False),
        ("GET", HttpVersion11, [(b"Host", b"a%4")], True),
        ("GET", HttpVersion11, [(b"Host", b"a:b")], True),
        ("GET", HttpVersion11, [(b"Host", b"a@b")], True),
        ("GET", HttpVersion11, [(b"Host", b'a"b')], True),
        ("GET", HttpVersion11, [(b"host", b"a\\")], True),
        ("GET", HttpVersion11, [(b"Host", b"2001:db8::1")], True),
        ("GET", HttpVersion11, [(b"Host", "\u00e9".encode())], True),
        ("GET", HttpVersion11, [(b"X", b"x" * FITTING)], False),
        ("GET", HttpVersion11, [(b"X", b"x" * (FITTING + 1))], True),
    ],
)
def test_ambiguous_heads_are_found(method, version, fields, is_fault):
    assert (find_ambiguity(method, "/", version, fields, FROM_CLIENTS.size) is not None) == is_fault
