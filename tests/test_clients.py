"""Forms of common clients pass the relay, and their files arrive unchanged."""

import asyncio
import hashlib
import io
import json
import os
import random
import ssl
from pathlib import Path

import aiohttp
import httpx
import pytest
import requests
from multipart_readers import READERS, by_werkzeug
from peers import parse
from programs import node_script, program
from requests_toolbelt import MultipartEncoder

pytestmark = pytest.mark.needs("curl", "node", "npm")

HERE = Path(__file__).parent
# Larger than one block, and full of bytes that are difficult for multipart parsers.
CONTENT = random.Random(1).randbytes(300_000) + b"\r\n--\r\n------\r\n\r" * 999  # noqa: S311 - any bytes will do


@pytest.fixture
def report(tmp_path):
    path = tmp_path / "report.pdf"
    path.write_bytes(CONTENT)
    return path


@pytest.fixture
async def chain(aiorelay_server):
    return await aiorelay_server(public_name=["relay.example"])


async def output(*command, stdin=b"", **environment):
    """Run a program that must succeed, and return its output."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | environment,
    )
    out, errors = await process.communicate(stdin)
    assert process.returncode == 0, (out, errors)
    return out.decode()


def files_of(answer, chain):
    """Return field, filename and content of the stored files; ``answer`` is the upstream's."""
    document = json.loads(answer)
    assert document["status"] == "done"
    for file in document["files"]:
        content = Path(file["path"]).read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        assert len(content) == file["size"]
    assert len(chain.stored()) == len(document["files"])
    return [(file["field"], file["filename"], Path(file["path"]).read_bytes()) for file in document["files"]]


# curl


async def curl(chain, *arguments, to="/upload1", stdin=b""):
    command = (program("curl"), "--silent", "--show-error", "--fail-with-body", "--cacert", chain.ca, *arguments)
    return files_of(await output(*command, chain.rest1 + to, stdin=stdin), chain)


@pytest.mark.parametrize(
    ("arguments", "filename"),
    [
        ([], "report.pdf"),
        (["-H", "Expect: 100-continue"], "report.pdf"),
        (["-H", "Expect:"], "report.pdf"),
        (["--http1.0"], "report.pdf"),
        (["-H", "Transfer-Encoding: chunked"], "report.pdf"),
        (["-F", "title=before"], "report.pdf"),
    ],
)
async def test_curl_sends_a_form(chain, report, arguments, filename):
    assert await curl(chain, *arguments, "-F", f"somefile=@{report}") == [("somefile", filename, CONTENT)]


@pytest.mark.parametrize("framing", [[], ["-H", "Transfer-Encoding: chunked"]])
async def test_curl_sends_fields_after_the_file(chain, report, framing):
    form = ("-F", "a=1", "-F", f"somefile=@{report};type=application/pdf", "-F", "b=2", "-F", "c=<-")
    assert await curl(chain, *framing, *form, stdin=b"\r\n" * 999) == [("somefile", "report.pdf", CONTENT)]


async def test_curl_sends_several_files(chain, report, tmp_path):
    small = tmp_path / "small.txt"
    small.write_bytes(b"")
    form = ("-F", f"somefile=@{small}", "-F", f"somefile=@{report}", "-F", f"other=@{report};filename=again.pdf")
    assert await curl(chain, *form) == [
        ("somefile", "small.txt", b""),
        ("somefile", "report.pdf", CONTENT),
        ("other", "again.pdf", CONTENT),
    ]


@pytest.mark.parametrize("name", ["größe 日本 😀.pdf", "a;b,c=d.pdf", "it's 100%.pdf", "q.tar.gz"])
async def test_curl_sends_any_filename(chain, report, name):
    path = report.rename(report.with_name(name))
    assert await curl(chain, "-F", f'somefile=@"{path}"') == [("somefile", name, CONTENT)]


@pytest.mark.parametrize("escape", [[], ["--form-escape"]])
async def test_curl_sends_quotes_in_a_filename(chain, report, escape):
    """curl writes %22 or a backslash. The quotes arrive as the HTML standard writes them."""
    form = f'somefile=@{report};filename="the \\"final\\" one.pdf"'
    assert await curl(chain, *escape, "-F", form) == [("somefile", "the %22final%22 one.pdf", CONTENT)]


async def test_curl_sends_a_form_from_standard_input(chain):
    sent = await curl(chain, "-F", "somefile=@-;filename=piped.bin", stdin=CONTENT)
    assert sent == [("somefile", "piped.bin", CONTENT)]


async def test_curl_puts_a_file(chain, report):
    assert await curl(chain, "-T", report, to="/upload/") == [("somefile", "report.pdf", CONTENT)]


@pytest.mark.parametrize(
    "path", ["/upload/gr%C3%B6%C3%9Fe%20%E6%97%A5.pdf", "/upload/größe 日.pdf".replace(" ", "%20")]
)
async def test_curl_puts_standard_input(chain, path):
    assert await curl(chain, "-T", "-", to=path, stdin=CONTENT) == [("somefile", "größe 日.pdf", CONTENT)]


# Python


def requests_form(url, ca, report, name):
    with report.open("rb") as file:
        files = {"somefile": (name, file, "application/pdf")}
        return requests.post(url, data={"a": "1", "b": "ä"}, files=files, verify=ca, timeout=60)


def requests_list(url, ca, report, name):
    with report.open("rb") as file:
        return requests.post(url, files=[("somefile", (name, file)), ("note", (None, "after"))], verify=ca, timeout=60)


def toolbelt(url, ca, report, name):
    with report.open("rb") as file:
        form = MultipartEncoder([("a", "1"), ("somefile", (name, file, "application/pdf")), ("b", "2")])
        return requests.post(url, data=form, headers={"Content-Type": form.content_type}, verify=ca, timeout=60)


def toolbelt_chunked(url, ca, report, name):
    with report.open("rb") as file:
        form = MultipartEncoder([("somefile", (name, file, "application/pdf")), ("b", "2")])
        blocks = iter(lambda: form.read(10_000), b"")
        return requests.post(url, data=blocks, headers={"Content-Type": form.content_type}, verify=ca, timeout=60)


def httpx_form(url, ca, report, name):
    context = ssl.create_default_context(cafile=ca)
    with report.open("rb") as file, httpx.Client(verify=context, timeout=60) as client:
        return client.post(url, data={"a": "1"}, files={"somefile": (name, file, "application/pdf")})


def httpx_stream(url, ca, report, name):
    """Return a body of unknown length, which is sent in chunks."""
    context = ssl.create_default_context(cafile=ca)
    with report.open("rb") as file, httpx.Client(verify=context, timeout=60) as client:
        request = client.build_request("POST", url, files={"somefile": (name, io.BufferedReader(_Unseekable(file)))})
        return client.send(request)


class _Unseekable(io.RawIOBase):
    """A file of unknown length, like a pipe."""

    def __init__(self, file):
        self._file = file

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._file.readinto(buffer)


@pytest.mark.parametrize("name", ["report.pdf", "größe 日本 😀.pdf", "a;b=c.pdf"])
@pytest.mark.parametrize("client", [requests_form, requests_list, toolbelt, toolbelt_chunked, httpx_form, httpx_stream])
async def test_python_clients_send_a_form(chain, report, client, name):
    answer = await asyncio.to_thread(client, chain.rest1 + "/upload1", str(chain.ca), report, name)
    assert answer.status_code == 200, answer.text
    assert files_of(answer.text, chain) == [("somefile", name, CONTENT)]


@pytest.mark.parametrize("client", [requests_form, toolbelt, httpx_form])
async def test_python_clients_send_quotes_in_a_filename(chain, report, client):
    answer = await asyncio.to_thread(client, chain.rest1 + "/upload1", str(chain.ca), report, 'a "b".pdf')
    assert files_of(answer.text, chain) == [("somefile", "a %22b%22.pdf", CONTENT)]


async def aiohttp_pieces():
    for at in range(0, len(CONTENT), 7777):
        yield CONTENT[at : at + 7777]


@pytest.mark.parametrize("quote_fields", [True, False])
@pytest.mark.parametrize("known", [True, False], ids=["length", "chunked"])
async def test_aiohttp_sends_a_form(chain, known, quote_fields):
    form = aiohttp.FormData(quote_fields=quote_fields)
    form.add_field("title", "Bericht für März")
    content = io.BytesIO(CONTENT) if known else aiohttp_pieces()
    form.add_field("somefile", content, filename="report.pdf", content_type="application/pdf")
    form.add_field("note", "after")
    url = chain.rest1 + "/upload1"
    async with aiohttp.ClientSession() as client, client.post(url, data=form, ssl=chain.tls) as answer:
        assert answer.status == 200
        assert files_of(await answer.text(), chain) == [("somefile", "report.pdf", CONTENT)]


async def test_aiohttp_sends_a_filename_in_utf_8(chain):
    form = aiohttp.FormData(quote_fields=False)
    form.add_field("somefile", CONTENT, filename="größe 日本.pdf")
    url = chain.rest1 + "/upload1"
    async with aiohttp.ClientSession() as client, client.post(url, data=form, ssl=chain.tls) as answer:
        assert files_of(await answer.text(), chain) == [("somefile", "größe 日本.pdf", CONTENT)]


# Node.js


async def node(chain, script, *arguments):
    command = (*node_script(script), chain.rest1 + "/upload1", *arguments)
    return files_of(await output(*command, NODE_EXTRA_CA_CERTS=str(chain.ca)), chain)


@pytest.mark.parametrize("name", ["report.pdf", "größe 日本 😀.pdf"])
async def test_node_fetch_sends_a_form(chain, report, name):
    assert await node(chain, "upload_fetch.mjs", report, name) == [("somefile", name, CONTENT)]


@pytest.mark.parametrize("name", ["report.pdf", "größe 日本 😀.pdf"])
async def test_got_sends_a_native_form(chain, report, name):
    assert await node(chain, "upload_got.mjs", report, name) == [("somefile", name, CONTENT)]


@pytest.mark.parametrize("mode", ["stream", "length", "buffer"])
@pytest.mark.parametrize("name", ["report.pdf", "größe 日本 😀.pdf"])
async def test_axios_sends_a_form(chain, report, name, mode):
    assert await node(chain, "upload_axios.mjs", report, name, mode) == [("somefile", name, CONTENT)]


# Clients whose requests are kept as captures, with head

KEPT = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\r\n--\r\n------\xff\xfe\n\r\n\r\n"
"""The file that each of them carries."""

CAPTURES = [
    ("apache-httpclient", "report.png"),
    ("chrome", "the %22final%22 report.png"),
    ("dart", "report.png"),
    ("dotnet", "report.png"),
    ("dotnet-beyond-ascii", "naïve report.png"),
    ("firefox", "naïve report.png"),
    ("firefox3", "the %22final%22 report.png"),
    ("flash-8", "report.png"),
    ("go", "the %22final%22 report.png"),
    ("go-pipe", "the %22final%22 report.png"),
    ("ie6", "report.png"),
    ("ie7", "report.png"),
    ("java-net-http", "report.png"),
    ("okhttp", "report.png"),
    ("opera8", "r\ufffdsum\ufffd.png"),
    ("perl-lwp", "report.png"),
    ("php-guzzle", "report.png"),
    ("requests-1", "naïve report.png"),
    ("ruby-multipart-post", "report.png"),
    ("spring", "report.png"),
    ("webkit3", "Übersicht 日本.png"),
]


def capture(name):
    return (HERE / "captures" / f"{name}.http").read_bytes()


def with_the_other_end(request):
    """Return the form without the CRLF after its last boundary, or with one if it had none."""
    head, blank, body = request.partition(b"\r\n\r\n")
    other = body[:-2] if body.endswith(b"--\r\n") else body + b"\r\n"
    promise = b"ength: %d\r\n"
    assert promise % len(body) in head + b"\r\n"
    return (head + b"\r\n").replace(promise % len(body), promise % len(other)) + blank[2:] + other


async def exchange(chain, request):
    """Send bytes over TLS, and return the status and body of the answer."""
    host, port = chain.rest1.removeprefix("https://").rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port), ssl=chain.tls)
    try:
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        assert "Content-Length: " in head, head
        body = await reader.readexactly(int(head.partition("Content-Length: ")[2].split()[0]))
        return int(head.split()[1]), body
    finally:
        writer.close()
        await writer.wait_closed()


def test_every_capture_is_sent():
    assert sorted(path.stem for path in (HERE / "captures").glob("*.http")) == sorted(name for name, _ in CAPTURES)


@pytest.mark.parametrize(("name", "filename"), CAPTURES)
async def test_a_captured_request_passes(chain, name, filename):
    status, answer = await exchange(chain, capture(name))
    assert status == 200, answer
    assert files_of(answer, chain) == [("somefile", filename, KEPT)]


@pytest.mark.parametrize(
    ("name", "filename"), [row for row in CAPTURES if b"chunked\r\n" not in capture(row[0]).partition(b"\r\n\r\n")[0]]
)
async def test_a_captured_request_passes_with_and_without_a_crlf_at_its_end(chain, name, filename):
    status, answer = await exchange(chain, with_the_other_end(capture(name)))
    assert status == 200, answer
    assert files_of(answer, chain) == [("somefile", filename, KEPT)]


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize("name", [name for name, _ in CAPTURES if name != "opera8"])  # which Werkzeug cannot read
async def test_a_captured_form_arrives_with_all_its_parts(aiorelay_server, recorder, name, reader):
    """Names, types, bytes and order are those that Werkzeug finds in the client's form."""
    upstream = await recorder()
    chain = await aiorelay_server(upstream=upstream.url, only="rest1", public_name=["relay.example"])
    sent = parse(capture(name))
    assert (await exchange(chain, capture(name)))[0] == 200
    (received,) = upstream.requests
    wanted = [(field, media_type, content) for field, _, media_type, content in by_werkzeug(sent.boundary, sent.body)]
    found = reader(received.boundary, received.body)
    assert [(field, media_type, content) for field, _, media_type, content in found] == wanted
    assert ("somefile", KEPT) in [(field, content) for field, _, content in wanted]
