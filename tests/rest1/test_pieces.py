"""Uploads of one piece of a file are refused before the upload API has received the complete form."""

from itertools import product

import pytest
from peers import connected, form, part, request

CONTENT = b"x" * 700_000  # more than is read before the upload API is contacted


def of_dropzone(pieces):
    fields = {"dzuuid": "f1", "dzchunkindex": "0", "dztotalfilesize": "3000000", "dzchunksize": "1000000"}
    return fields | {"dztotalchunkcount": str(pieces), "dzchunkbyteoffset": "0"}


def of_resumable_js(pieces, prefix="resumable"):
    names = {"ChunkNumber": "1", "ChunkSize": "1000000", "CurrentChunkSize": "1000000", "TotalSize": "3000000"}
    return {prefix + name: value for name, value in (names | {"TotalChunks": str(pieces)}).items()}


def of_flow_js(pieces):
    return of_resumable_js(pieces, "flow")


def of_fine_uploader(pieces):
    fields = {"qquuid": "f1", "qqpartindex": "0", "qqpartbyteoffset": "0", "qqchunksize": "1000000"}
    return fields | {"qqtotalparts": str(pieces), "qqtotalfilesize": "3000000", "qqfilename": "a.txt"}


UPLOADERS = pytest.mark.parametrize("fields_of", [of_dropzone, of_resumable_js, of_flow_js, of_fine_uploader])


def upload(fields, *, file_first=False):
    file, rest = part("somefile", CONTENT, "a.txt"), [part(name, value.encode()) for name, value in fields.items()]
    return request("/upload1", form(*([file, *rest] if file_first else [*rest, file])))


@pytest.fixture
async def relay(aiorelay_server, recorder):
    upstream = await recorder()

    async def start(**settings):
        return upstream, await aiorelay_server(only="rest1", upstream=upstream.url, **settings)

    return start


async def answer_to(chain, sent):
    async with connected(chain.rest1, chain.tls) as client:
        return await client.ask(sent)


@UPLOADERS
@pytest.mark.parametrize("file_first", [False, True], ids=["fields first", "file first"])
async def test_a_piece_is_refused(relay, fields_of, file_first):
    upstream, chain = await relay()
    answer = await answer_to(chain, upload(fields_of(3), file_first=file_first))
    assert (answer.status, answer.json()["type"]) == (400, "urn:aiorelay:partial-upload")
    assert upstream.requests == []


@UPLOADERS
async def test_a_file_in_one_piece_is_a_whole_file(relay, fields_of):
    _, chain = await relay()
    assert (await answer_to(chain, upload(fields_of(1)))).status == 200


@pytest.mark.parametrize("name", ["dzchunkindex", "resumableChunkNumber", "flowChunkNumber", "qqpartindex"])
async def test_an_index_without_the_number_of_pieces_is_one_of_several(relay, name):
    upstream, chain = await relay()
    assert (await answer_to(chain, upload({name: "0"}))).status == 400
    assert upstream.requests == []


HEADS_OF_PIECES = [
    "Content-Range: bytes 0-99/200",
    "Upload-Offset: 0",
    "Upload-Length: 3000000",
    "Upload-Complete: ?0",
    "Upload-Complete: ?1\r\nUpload-Offset: 100",
]
# Upload-Complete: ?0 creates a resumable upload, except of a JSON document.
RESUMABLE = {(target, "Upload-Complete: ?0", True) for target in ("/upload1", "/upload", "/upload/a.txt")}


@pytest.mark.parametrize(
    ("target", "fields", "resumable"),
    sorted(
        {*product(["/upload1", "/upload", "/upload/a.txt", "/upload2"], HEADS_OF_PIECES, [False, True])} - RESUMABLE
    ),
)
async def test_a_head_that_declares_a_piece_is_refused_before_the_body_is_read(relay, target, fields, resumable):
    upstream, chain = await relay(resumable=resumable)
    options = {"method": "PUT", "content_type": "text/plain"} if target == "/upload/a.txt" else {}
    head = request(target, b"", length=10**9, **options).replace(b"\r\n", b"\r\n" + fields.encode() + b"\r\n", 1)
    answer = await answer_to(chain, head)
    assert (answer.status, answer.json()["type"]) == (400, "urn:aiorelay:partial-upload")
    assert ("/files/" in answer.json()["detail"]) == resumable
    assert upstream.connections == []


async def test_a_query_may_declare_a_piece(relay):
    _, chain = await relay()
    sent = request("/upload/a.txt?resumableChunkNumber=1&resumableTotalChunks=3", b"x", method="PUT")
    assert (await answer_to(chain, sent)).status == 400


async def test_a_client_of_resumable_uploads_may_send_a_whole_file(relay):
    _, chain = await relay()
    whole = upload({}).replace(b"\r\n", b"\r\nUpload-Complete: ?1\r\n", 1)
    assert (await answer_to(chain, whole)).status == 200


async def test_allow_pieces_accepts_pieces_with_a_warning(relay, caplog):
    upstream, chain = await relay(allow_pieces=True)
    assert (await answer_to(chain, upload(of_dropzone(3)))).status == 200
    assert len(upstream.requests) == 1
    assert caplog.messages.count("accepted a piece of a file (allow-pieces); the checks see only the piece") == 1
