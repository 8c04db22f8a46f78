"""Every check, through the whole relay: accepted uploads arrive complete, refused ones never do."""

import asyncio
import base64
import contextlib
import hashlib
import io
import itertools
import json
import zipfile
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from icap_peers import CONTINUE, UNMODIFIED, Peer, icap_peer, infected
from icap_peers import Request as IcapRequest
from peers import (
    Message,
    Recorder,
    ask,
    chunks,
    eventually,
    form,
    json_request,
    part,
    request,
    run,
)

from aiorelay import Part, Refused

pytestmark = pytest.mark.slow

# Without CR: a CR at the end of the received bytes would belong to the closing boundary.
CONTENT = bytes(range(14, 256)) * 1500


# -- ways to upload


def form_of(content: bytes, filename: str = "a.bin") -> bytes:
    return form(part("note", "first"), part("somefile", content, filename))


class Entrance:
    """Ways to upload ``content`` to a relay. Each method returns the bytes of the request."""

    def __init__(self, tmp_path: Path, start_recorder) -> None:
        self._directory = tmp_path
        self._start_recorder = start_recorder

    async def form(self, content: bytes, *headers: str, **_source: str) -> bytes:
        return request("/upload1", form_of(content), *headers)

    async def chunked_form(self, content: bytes, *headers: str, **_source: str) -> bytes:
        return request("/upload1", form_of(content), *headers, chunked=True)

    async def raw(self, content: bytes, *headers: str, **_source: str) -> bytes:
        return request("/upload/a.bin", content, *headers, method="PUT", content_type=None)

    async def chunked_raw(self, content: bytes, *headers: str, **_source: str) -> bytes:
        return request("/upload/a.bin", content, *headers, method="PUT", content_type=None, chunked=True)

    async def local(self, content: bytes, *headers: str, **source: str) -> bytes:
        (self._directory / "a.bin").write_bytes(content)
        document = {"somefile": {"source": str(self._directory / "a.bin"), **source}}
        return json_request(document, *headers)

    async def remote(self, content: bytes, *headers: str, **source: str) -> bytes:
        url = await self._served(b"Content-Length: %d\r\n\r\n%b" % (len(content), content))
        return json_request({"somefile": {"source": url, **source}}, *headers)

    async def chunked_remote(self, content: bytes, *headers: str, **source: str) -> bytes:
        url = await self._served(b"Transfer-Encoding: chunked\r\n\r\n" + chunks(content) + b"0\r\n\r\n")
        return json_request({"somefile": {"source": url, **source}}, *headers)

    async def _served(self, answer: bytes) -> str:
        async def script(connection):
            await connection.request()
            await connection.send(b"HTTP/1.1 200 OK\r\n" + answer)

        return (await self._start_recorder(script)).url


SOURCES = ["local", "remote", "chunked_remote"]
BODIES = ["form", "chunked_form", "raw", "chunked_raw"]
MODES = ["stream", "spool"]


@pytest.fixture(autouse=True)
def no_system_trust(monkeypatch, tmp_path):
    """Prevent the loading of the system's certificates, which takes longer than most tests."""
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path / "none"))


@pytest.fixture
def entrance(tmp_path, recorder):
    return Entrance(tmp_path, recorder)


@pytest.fixture
def relay(aiorelay_server, tmp_path):
    async def start(**settings):
        return await aiorelay_server(local_root=[tmp_path], allow_net=["127.0.0.0/8"], **settings)

    return start


def assert_never_complete(upstream: Recorder) -> None:
    """Assert that no request was complete, and that no byte of the closing boundary has arrived."""
    assert upstream.requests == []
    for connection in upstream.connections:
        if connection.received:
            message = connection.message
            last = message.body.rpartition(b"--" + message.boundary)[2]
            assert last.startswith(b"\r\n")
            assert b"\r" not in last.partition(b"\r\n\r\n")[2]


async def refusal(relay, recorder, sent: bytes, mode: str, **settings: object) -> Message:
    """Send an upload that must fail, to a recorder and to a store. Nothing may be complete or left there."""
    upstream = await recorder()
    chain = await relay(only="rest1", upstream=upstream.url, upstream_mode=mode, **settings)
    problem = await ask(chain.rest1, chain.tls, sent)
    await eventually(lambda: all(connection.cut.is_set() for connection in upstream.connections))
    assert_never_complete(upstream)
    if mode == "spool":
        assert upstream.connections == []
    chain = await relay(upstream_mode=mode, **settings)
    again = await ask(chain.rest1, chain.tls, sent)
    assert again.json() | {"instance": ""} == problem.json() | {"instance": ""}
    await eventually(lambda: not list(chain.store.iterdir()))
    return problem


def verdict(problem: Message) -> tuple[int, str]:
    assert problem["Content-Type"] == "application/problem+json"
    assert problem.json()["status"] == problem.status
    return problem.status, problem.json()["type"].removeprefix("urn:aiorelay:")


async def stored(relay, sent: bytes, **settings: object) -> bytes:
    """Send an upload that must succeed, and return the stored content."""
    chain = await relay(**settings)
    answer = await ask(chain.rest1, chain.tls, sent)
    assert answer.status == 200, answer.body
    (kept,) = chain.stored()
    return kept.read_bytes()


# -- checks that look at the file


class LastByte:
    """A user's validator, which refuses content that ends with an exclamation mark."""

    def __init__(self, part: Part) -> None:
        self.last = b""
        self.name = part.filename

    def feed(self, chunk: bytes) -> None:
        self.last = chunk[-1:]

    def finish(self) -> None:
        if self.last == b"!":
            raise Refused("Do not shout.")


class Broken(LastByte):
    """A validator that raises an unexpected exception."""

    def finish(self) -> None:
        if self.last == b"!":
            raise ZeroDivisionError("s3cret " + self.last.decode())


@pytest.fixture
async def clamd():
    """A server that speaks like clamd and finds a signature in content that ends with an exclamation mark."""

    async def scan(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
            assert await reader.readexactly(10) == b"zINSTREAM\0"
            stream = b""
            while length := int.from_bytes(await reader.readexactly(4)):
                stream = (await reader.readexactly(length))[-1:]
            writer.write(b"stream: Shout FOUND\0" if stream == b"!" else b"stream: OK\0")

    async with await asyncio.start_server(scan, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"


@pytest.fixture
async def icap():
    """An ICAP service that finds a threat in content that ends with an exclamation mark."""

    async def scan(peer: Peer, request: IcapRequest) -> None:
        content = request.body
        if request.last_chunk == b"0":
            await peer.send(CONTINUE)
            content, _ = await peer.chunks()
        await peer.send(infected("Shout") if content.endswith(b"!") else UNMODIFIED)
        raise EOFError  # which closes the connection

    async with icap_peer(scan) as service:
        yield service.url


def zipped(content: bytes) -> bytes:
    """A zip whose last byte is part of the length of its comment."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(zipfile.ZipInfo("a.txt"), content)
    return packed.getvalue()


@dataclass
class FileCheck:
    """A check, a file that passes it, a file that fails at its last byte, and the expected problem."""

    settings: dict[str, object]
    good: bytes
    bad: bytes
    problem: tuple[int, str]
    scanner: str = ""


FILE_CHECKS = {
    "max-size": FileCheck({"max_size": len(CONTENT)}, CONTENT, CONTENT + b"!", (413, "too-large")),
    "accept": FileCheck({"accept": ["text/plain"]}, b"text " * 100, b"text " * 100 + b"\x01", (415, "type-refused")),
    "validator": FileCheck(
        {"validator": [f"{__name__}:LastByte"]}, CONTENT + b".", CONTENT + b"!", (422, "content-refused")
    ),
    "broken validator": FileCheck(
        {"validator": [f"{__name__}:Broken"]}, CONTENT + b".", CONTENT + b"!", (500, "internal")
    ),
    "archives": FileCheck(
        {"archive_max_entries": 1},
        zipped(b"text " * 3000),
        zipped(b"text " * 3000)[:-1] + b"!",
        (422, "archive-refused"),
    ),
    "clamd": FileCheck({}, CONTENT + b".", CONTENT + b"!", (422, "infected"), scanner="clamd"),
    "icap": FileCheck({}, CONTENT + b".", CONTENT + b"!", (422, "infected"), scanner="icap"),
}


def with_modes(*parameters):
    """Return all combinations of ``parameters``, each with one mode: every value meets every mode.

    The mode decides when the checked body is sent. It does not interact with the way of the upload or its check.
    """
    return [
        (*(values[index] for values, index in zip(parameters, indexes, strict=True)), MODES[sum(indexes) % len(MODES)])
        for indexes in itertools.product(*(range(len(values)) for values in parameters))
    ]


@pytest.fixture
def check(request, clamd, icap):
    found = FILE_CHECKS[request.param]
    scanners = {"clamd": clamd, "icap": icap}
    return replace(found, settings={found.scanner: scanners[found.scanner]}) if found.scanner else found


CHECKED = with_modes(list(FILE_CHECKS), BODIES + SOURCES)


@pytest.mark.parametrize(("check", "way", "mode"), CHECKED, indirect=["check"])
async def test_a_file_that_passes_arrives_byte_for_byte(relay, entrance, check, way, mode):
    sent = await getattr(entrance, way)(check.good)
    assert await stored(relay, sent, upstream_mode=mode, **check.settings) == check.good


@pytest.mark.parametrize(("check", "way", "mode"), CHECKED, indirect=["check"])
async def test_a_file_that_fails_at_its_last_byte_is_never_complete(relay, recorder, entrance, check, way, mode):
    sent = await getattr(entrance, way)(check.bad)
    assert verdict(await refusal(relay, recorder, sent, mode, **check.settings)) == check.problem


@pytest.mark.parametrize("way", ["form", "chunked_form"])
async def test_the_second_file_is_checked_like_the_first(relay, recorder, way):
    body = form(part("somefile", CONTENT, "a.bin"), part("other", CONTENT + b"!", "b.bin"), part("note", "last"))
    sent = request("/upload1", body, chunked=way == "chunked_form")
    problem = await refusal(relay, recorder, sent, "stream", validator=[f"{__name__}:LastByte"])
    assert verdict(problem) == (422, "content-refused")
    assert problem.json()["detail"] == "Do not shout."


async def test_fields_are_not_checked_as_files(relay):
    body = form(part("note", "shout!"), part("somefile", CONTENT, "a.bin"))
    settings = {"validator": [f"{__name__}:LastByte"], "accept": [".bin"]}
    assert await stored(relay, request("/upload1", body), **settings) == CONTENT


async def test_the_name_of_an_unexpected_exception_is_only_in_the_log(relay, recorder, entrance, caplog):
    sent = await entrance.form(CONTENT + b"!")
    problem = await refusal(relay, recorder, sent, "stream", validator=[f"{__name__}:Broken"])
    assert "ZeroDivisionError" not in problem.body.decode()
    assert f"validator {__name__}:Broken failed: ZeroDivisionError" in caplog.text
    assert "s3cret" not in caplog.text + problem.body.decode()


# -- checksums


def digest(content: bytes, algorithm: str = "sha-256") -> str:
    raw = hashlib.new(algorithm.replace("-", ""), content).digest()
    return f"{algorithm}=:{base64.b64encode(raw).decode()}:"


ALTERED = CONTENT[:-1] + b"!"


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", SOURCES)
async def test_a_source_that_matches_its_sha256_arrives(relay, entrance, way, mode):
    sent = await getattr(entrance, way)(CONTENT, sha256=hashlib.sha256(CONTENT).hexdigest().upper())
    assert await stored(relay, sent, upstream_mode=mode) == CONTENT


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("way", SOURCES)
async def test_a_source_with_a_wrong_last_byte_is_never_complete(relay, recorder, entrance, way, mode):
    sent = await getattr(entrance, way)(ALTERED, sha256=hashlib.sha256(CONTENT).hexdigest())
    assert verdict(await refusal(relay, recorder, sent, mode)) == (422, "digest-mismatch")


ALGORITHMS = ["sha-256", "sha-512"]
DIGESTS = [("Content-Digest", way) for way in BODIES] + [("Repr-Digest", "raw"), ("Repr-Digest", "chunked_raw")]
DIGESTED = [(*name_and_way, algorithm, mode) for name_and_way, algorithm, mode in with_modes(DIGESTS, ALGORITHMS)]


def body_of(way: str, content: bytes) -> bytes:
    """The body of a request, of which the digest is computed."""
    return form_of(content) if "form" in way else content


@pytest.mark.parametrize(("name", "way", "algorithm", "mode"), DIGESTED)
async def test_a_body_that_matches_its_digest_arrives(relay, entrance, name, way, algorithm, mode):
    sent = await getattr(entrance, way)(CONTENT, f"{name}: {digest(body_of(way, CONTENT), algorithm)}")
    assert await stored(relay, sent, upstream_mode=mode) == CONTENT


@pytest.mark.parametrize(("name", "way", "algorithm", "mode"), DIGESTED)
async def test_a_body_with_a_wrong_last_file_byte_is_never_complete(
    relay, recorder, entrance, name, way, algorithm, mode
):
    sent = await getattr(entrance, way)(ALTERED, f"{name}: {digest(body_of(way, CONTENT), algorithm)}")
    assert verdict(await refusal(relay, recorder, sent, mode)) == (422, "digest-mismatch")


async def test_a_form_that_differs_only_after_its_last_boundary_is_never_complete(relay, recorder):
    body = form_of(CONTENT)
    sent = request("/upload1", body.removesuffix(b"\r\n"), f"Content-Digest: {digest(body)}")
    assert verdict(await refusal(relay, recorder, sent, "stream")) == (422, "digest-mismatch")


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_the_digest_of_a_json_body_is_of_the_json(relay, recorder, tmp_path, algorithm, chunked):
    (tmp_path / "a.bin").write_bytes(CONTENT)
    document = json.dumps({"somefile": str(tmp_path / "a.bin")}).encode()
    given = f"Content-Digest: {digest(document, algorithm)}"
    assert await stored(relay, json_request(document, given, chunked=chunked)) == CONTENT
    altered = json_request(document + b" ", given, chunked=chunked)
    assert verdict(await refusal(relay, recorder, altered, "stream")) == (422, "digest-mismatch")


async def test_both_of_two_digests_must_match(relay, recorder, entrance):
    given = f"Content-Digest: {digest(CONTENT)}, {digest(ALTERED, 'sha-512')}"
    for content in (CONTENT, ALTERED):
        sent = await entrance.raw(content, given)
        assert verdict(await refusal(relay, recorder, sent, "stream")) == (422, "digest-mismatch")


@pytest.mark.parametrize("way", ["form", "local"])
async def test_repr_digest_of_a_form_or_json_is_not_checked(relay, entrance, way):
    """A form or a JSON document is not the representation, so the relay does not check its Repr-Digest."""
    sent = await getattr(entrance, way)(CONTENT, f"Repr-Digest: {digest(b'something else')}")
    assert await stored(relay, sent) == CONTENT


@pytest.mark.parametrize("name", ["Content-Digest", "Content-MD5"])
async def test_the_digest_of_an_unchanged_form_is_passed_on(relay, recorder, name):
    upstream = await recorder()
    chain = await relay(only="rest1", upstream=upstream.url)
    body = form(part("note", "text"), part("somefile", CONTENT, "a.bin", "Content-Type: text/plain"))
    value = digest(body) if name == "Content-Digest" else base64.b64encode(bytes(16)).decode()
    await ask(chain.rest1, chain.tls, request("/upload1", body, f"{name}: {value}"))
    (sent,) = upstream.requests
    assert (sent.body, sent[name]) == (body, value)


SWAPPED = b'Content-Type: text/plain\r\nContent-Disposition: form-data; name="somefile"; filename="a.bin"\r\n\r\n'


@pytest.mark.parametrize(
    ("first", "chunked"), [(True, False), (True, True), (False, True)], ids=["length", "chunked", "chunked, later"]
)
async def test_the_digest_of_a_form_that_may_change_is_not_passed_on(relay, recorder, first, chunked):
    upstream = await recorder()
    chain = await relay(only="rest1", upstream=upstream.url)
    usual = part("somefile", CONTENT, "a.bin")
    body = form(*[SWAPPED + CONTENT, usual] if first else [usual, SWAPPED + CONTENT])
    sent = request("/upload1", body, f"Content-Digest: {digest(body)}", chunked=chunked)
    assert (await ask(chain.rest1, chain.tls, sent)).status == 200
    assert upstream.requests[0].all("Content-Digest") == []
    assert upstream.requests[0].body != body


# -- digests wanted


def digests_told(answer: Message) -> list[str]:
    return answer.all("Aiorelay-Digest")


CONTENTS = {"empty": b"", "small": b"small", "large": CONTENT * 3}


@pytest.mark.parametrize(("size", "way", "mode"), with_modes(list(CONTENTS), BODIES + SOURCES))
async def test_a_client_that_wants_a_digest_gets_that_of_the_file(relay, entrance, size, way, mode):
    content = CONTENTS[size]
    sent = await getattr(entrance, way)(content, "Want-Repr-Digest: sha-256=10")
    chain = await relay(upstream_mode=mode)
    answer = await ask(chain.rest1, chain.tls, sent)
    assert digests_told(answer) == [f"somefile={digest(content)}"]
    assert answer.json()["files"][0]["sha256"] == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("sha-256=3, sha-512=10", "sha-512"),
        ("unixsum=10", None),
        ("nonsense", None),
    ],
)
async def test_the_preferred_algorithm_is_used(relay, entrance, wanted, told):
    sent = await entrance.raw(CONTENT, f"Want-Repr-Digest: {wanted}")
    chain = await relay()
    answer = await ask(chain.rest1, chain.tls, sent)
    assert answer.status == 200
    assert digests_told(answer) == ([] if told is None else [f"somefile={digest(CONTENT, told)}"])


async def test_a_client_that_wants_no_digest_gets_none(relay, entrance):
    chain = await relay()
    answer = await ask(chain.rest1, chain.tls, await entrance.form(CONTENT))
    assert digests_told(answer) == []


async def test_digests_of_files_but_not_of_fields_are_returned_in_order(relay):
    body = form(
        part("note", "text"),
        part("somefile", b"one", "1"),
        part("a b=ü,%", b"two", "2"),
        part("left empty", b"", ""),
        part("named-not", b"three", ""),
    )
    chain = await relay()
    answer = await ask(chain.rest1, chain.tls, request("/upload1", body, "Want-Repr-Digest: sha-256=1"))
    assert digests_told(answer) == [
        f"somefile={digest(b'one')}",
        f"a%20b%3D%C3%BC%2C%25={digest(b'two')}",
        f"named-not={digest(b'three')}",
    ]


async def test_the_digest_is_added_to_any_upstream_response(relay, recorder, entrance):
    async def script(connection):
        await connection.request()
        await connection.send(b"HTTP/1.1 409 Conflict\r\nContent-Length: 0\r\n\r\n")

    upstream = await recorder(script)
    chain = await relay(only="rest1", upstream=upstream.url)
    answer = await ask(chain.rest1, chain.tls, await entrance.raw(CONTENT, "Want-Repr-Digest: sha-256=1"))
    assert (answer.status, digests_told(answer)) == (409, [f"somefile={digest(CONTENT)}"])
    assert upstream.requests[0]["Want-Repr-Digest"] == "sha-256=1"


async def test_a_refusal_has_no_digest(relay, entrance):
    chain = await relay(validator=[f"{__name__}:LastByte"])
    answer = await ask(chain.rest1, chain.tls, await entrance.raw(ALTERED, "Want-Repr-Digest: sha-256=1"))
    assert (answer.status, digests_told(answer)) == (422, [])


# -- limits on parts and fields


async def test_the_maximum_number_of_parts_arrives(relay, tmp_path):
    body = form(part("a", "1"), part("b", "2"), part("somefile", CONTENT, "a.bin"))
    assert await stored(relay, request("/upload1", body), max_parts=3) == CONTENT
    (tmp_path / "a.bin").write_bytes(CONTENT)
    document = {"a": "1", "b": "2", "somefile": str(tmp_path / "a.bin")}
    assert await stored(relay, json_request(document), max_parts=3) == CONTENT


@pytest.mark.parametrize("mode", MODES)
async def test_one_part_too_many_in_a_form(relay, recorder, mode):
    body = form(part("a", "1"), part("somefile", CONTENT, "a.bin"), part("b", "2"), part("c", "3"))
    problem = await refusal(relay, recorder, request("/upload1", body), mode, max_parts=3)
    assert verdict(problem) == (413, "too-many-parts")


@pytest.mark.parametrize("mode", MODES)
async def test_one_part_too_many_in_json(relay, recorder, mode, tmp_path):
    (tmp_path / "a.bin").write_bytes(CONTENT)
    sent = json_request({"a": "1", "b": "2", "somefile": [str(tmp_path / "a.bin")] * 2})
    problem = await refusal(relay, recorder, sent, mode, max_parts=3)
    assert verdict(problem) == (413, "too-many-parts")


@pytest.mark.parametrize("value", ["x" * 7, "ü" * 3 + "x"], ids=["ascii", "utf-8"])
async def test_fields_of_the_maximum_size_arrive(relay, tmp_path, value):
    body = form(part("a", "123"), part("b", value), part("somefile", CONTENT, "a.bin"))
    assert await stored(relay, request("/upload1", body), max_fields_size=10) == CONTENT
    (tmp_path / "a.bin").write_bytes(CONTENT)
    document = {"a": "123", "b": value, "somefile": str(tmp_path / "a.bin")}
    assert await stored(relay, json_request(document), max_fields_size=10) == CONTENT


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_fields_too_large_by_a_byte_in_a_form(relay, recorder, mode, chunked):
    body = form(part("a", "123"), part("somefile", CONTENT, "a.bin"), part("b", "x" * 8))
    problem = await refusal(relay, recorder, request("/upload1", body, chunked=chunked), mode, max_fields_size=10)
    assert verdict(problem) == (413, "too-large")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("value", ["x" * 8, "ü" * 4], ids=["ascii", "utf-8"])
async def test_fields_too_large_by_a_byte_in_json(relay, recorder, mode, tmp_path, value):
    (tmp_path / "a.bin").write_bytes(CONTENT)
    sent = json_request({"a": "123", "b": value, "somefile": str(tmp_path / "a.bin")})
    assert verdict(await refusal(relay, recorder, sent, mode, max_fields_size=10)) == (413, "too-large")


# -- early refusals


@dataclass
class HeadRefusal:
    """The arguments of curl, and the problem that the head of its request causes."""

    target: str
    arguments: list[str]
    problem: tuple[int, str]
    settings: dict[str, object] = field(default_factory=dict)


RAW = ["-T", "FILE"]
HEAD_REFUSALS = {
    "raw, too large": HeadRefusal("/upload/a.bin", RAW, (413, "too-large"), {"max_size": "1MiB"}),
    "raw, a part of a file": HeadRefusal(
        "/upload/a.bin", [*RAW, "-H", "Content-Range: bytes 0-1/2"], (400, "partial-upload")
    ),
    "raw, coded": HeadRefusal("/upload/a.bin", [*RAW, "-H", "Content-Encoding: gzip"], (415, "wrong-content-type")),
    "raw, itself a form": HeadRefusal(
        "/upload/a.bin", [*RAW, "-H", "Content-Type: multipart/form-data; boundary=x"], (415, "wrong-content-type")
    ),
    "raw, unreadable digest": HeadRefusal(
        "/upload/a.bin", [*RAW, "-H", "Content-Digest: sha-256=x"], (400, "bad-digest")
    ),
    "form where JSON belongs": HeadRefusal("/upload2", ["-F", "somefile=@FILE"], (415, "wrong-content-type")),
    "form without boundary": HeadRefusal(
        "/upload1", ["--data-binary", "@FILE", "-H", "Content-Type: multipart/form-data"], (400, "malformed-form")
    ),
    "JSON, too large": HeadRefusal(
        "/upload2", ["--data-binary", "@FILE", "-H", "Content-Type: application/json"], (413, "too-large")
    ),
}


def curl(chain, target: str, arguments: list[str], file: Path, out: Path) -> tuple[str, ...]:
    arguments = [argument.replace("FILE", str(file)) for argument in arguments]
    told = "%{http_code} %{size_upload}"
    return (
        *("curl", "--disable", "-sS", "--cacert", str(chain.ca), "-o", str(out), "-w", told, *arguments),
        chain.rest1 + target,
    )


def sparse(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


@pytest.mark.parametrize("refused", HEAD_REFUSALS.values(), ids=HEAD_REFUSALS)
@pytest.mark.needs("curl")
async def test_a_refusal_by_the_head_reaches_curl_before_it_sends_the_body(relay, recorder, tmp_path, refused):
    upstream = await recorder()
    chain = await relay(only="rest1", upstream=upstream.url, **refused.settings)
    file, out = sparse(tmp_path / "sent.bin", 8 * 1024 * 1024), tmp_path / "out"
    arguments = [*refused.arguments, "-H", "Expect: 100-continue", "--expect100-timeout", "60"]
    status, told, errors = await run(*curl(chain, refused.target, arguments, file, out))
    code, sent = told.split()
    problem = json.loads(out.read_bytes())
    assert (status, errors) == (0, "")
    assert (int(code), problem["type"].removeprefix("urn:aiorelay:")) == refused.problem
    assert sent == "0"
    assert upstream.connections == []


MIDWAY = {
    "form": ("/upload1", ["-F", "somefile=@FILE"]),
    "raw": ("/upload/", ["-T", "FILE", "-H", "Transfer-Encoding: chunked"]),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("target", "arguments"), MIDWAY.values(), ids=MIDWAY)
@pytest.mark.needs("curl")
async def test_a_refusal_midway_reaches_a_curl_that_is_still_sending(relay, tmp_path, target, arguments, mode):
    """All of 20 uploads of 50 MiB."""
    chain = await relay(max_size="10MiB", upstream_mode=mode)
    size = 50 * 1024 * 1024
    file = sparse(tmp_path / "sent.bin", size)
    for number in range(20):
        out = tmp_path / f"out{number}"
        status, told, errors = await run(*curl(chain, target, arguments, file, out))
        code, sent = told.split()
        assert (status, code, errors) == (0, "413", "")
        assert json.loads(out.read_bytes())["type"] == "urn:aiorelay:too-large"
        assert int(sent) < size
    await eventually(lambda: not list(chain.store.iterdir()))


@pytest.mark.parametrize("way", ["local", "remote"])
async def test_a_source_too_large_by_its_length_is_refused_before_anything_is_sent(relay, recorder, entrance, way):
    upstream = await recorder()
    chain = await relay(only="rest1", upstream=upstream.url, max_size=len(CONTENT) - 1)
    problem = await ask(chain.rest1, chain.tls, await getattr(entrance, way)(CONTENT))
    assert verdict(problem) == (413, "too-large")
    assert upstream.connections == []


# -- the type of a file


@pytest.mark.parametrize(
    ("name", "media_type"),
    [
        ("a.pdf", "application/pdf"),
        ("a.tar.gz", "application/gzip"),
        ("a.webp", "image/webp"),
        ("data:,a.pdf", "application/pdf"),
        ("a.unheard-of", "application/octet-stream"),
    ],
)
async def test_a_file_without_a_type_gets_that_of_its_extension(relay, tmp_path, name, media_type):
    (tmp_path / name).write_bytes(CONTENT)
    chain = await relay()
    for sent in (
        json_request({"somefile": str(tmp_path / name)}),
        request(f"/upload/{name}", CONTENT, method="PUT", content_type=None),
    ):
        answer = await ask(chain.rest1, chain.tls, sent)
        assert (answer.status, answer.json()["files"][0]["content_type"]) == (200, media_type)


@pytest.mark.parametrize(
    ("content_type", "filename", "media_type"),
    [
        ("text/csv; charset=utf-8", "a.txt", "text/csv; charset=utf-8"),
        ("multipart/mixed; boundary=x", "a.txt", "text/plain"),
        ("Multipart/Form-Data; boundary=x", "a.unheard-of", "application/octet-stream"),
        ("multipart/x-zip", "a.zip", "application/zip"),
        ("text", "a.txt", "text/plain"),
        ("text/", "a.unheard-of", "application/octet-stream"),
        ("text/plain charset", "a.csv", "text/csv"),
        ("", "a.txt", "text/plain"),
    ],
)
async def test_a_remote_file_has_the_servers_type_if_a_part_can_have_it(
    relay, recorder, content_type, filename, media_type
):
    async def script(connection):
        await connection.request()
        head = f"HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {len(CONTENT)}\r\n\r\n"
        await connection.send(head.encode() + CONTENT)

    source = await recorder(script)
    chain = await relay()
    answer = await ask(chain.rest1, chain.tls, json_request({"somefile": f"{source.url}/{filename}"}))
    assert (answer.status, answer.json()["files"][0]["content_type"]) == (200, media_type)
