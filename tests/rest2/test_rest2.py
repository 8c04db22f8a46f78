"""The embedded upload API: its response, its file names, and the removal of incomplete uploads."""

import asyncio
import hashlib
import os
import stat

import pytest
from peers import PATIENCE, ask, connected, eventually, form, nothing_left_behind, part, request

MIB = 1024 * 1024
DEAD = ".incoming-" + "0" * 32


@pytest.fixture
async def rest2(aiorelay_server):
    return await aiorelay_server(only="rest2")


async def upload(chain, *parts: bytes, **options):
    return await ask(chain.rest2, chain.tls, request("/upload", form(*parts), **options))


def code(answer) -> str:
    return answer.json()["type"].removeprefix("urn:aiorelay:")


def with_head(*fields: str, size: int = 32 * 1024) -> bytes:
    """An upload whose head has these fields and is padded to ``size`` bytes."""
    body = form(part("somefile", b"content", "a.txt"))
    while (left := size - len(request("/upload1", b"", *fields))) > 10:
        fields += (f"X: {'x' * min(1000, left - 5)}",)
    return request("/upload1", body, *fields)


LONG = 8000
HEADS = {
    "128 fields": with_head(*["X: x"] * 125, size=0),
    "32 KiB": with_head(),
    "many characters that are two bytes in UTF-8": with_head(*["X: " + "\udcff" * LONG] * 3),
    "lists that are appended to": with_head(*["Forwarded: for=" + "x" * LONG] * 3),
    "a long Host": with_head()
    .replace(b"relay.localhost", b"h" * (LONG - 10) + b".localhost")
    .replace(b"X: " + b"x" * 1000 + b"\r\n", b"", 8),
}


@pytest.mark.parametrize("sent", HEADS.values(), ids=HEADS)
async def test_any_head_that_the_relay_accepts_is_accepted_by_rest2(aiorelay_server, sent):
    chain = await aiorelay_server()
    assert (await ask(chain.rest1, chain.tls, sent)).status == 200


# -- the answer


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_answer_describes_the_file(rest2, chunked):
    answer = await upload(rest2, part("any", b"content", "a.txt", "Content-Type: text/x-own"), chunked=chunked)
    (path,) = rest2.stored()
    assert answer.status == 200
    assert answer.json() == {
        "status": "done",
        "path": str(path),
        "files": [
            {
                "field": "any",
                "filename": "a.txt",
                "path": str(path),
                "size": 7,
                "sha256": hashlib.sha256(b"content").hexdigest(),
                "content_type": "text/x-own",
            }
        ],
    }
    assert path.read_bytes() == b"content"
    assert path.parent.parent == rest2.store


async def test_files_of_one_form_share_a_new_directory(rest2):
    sent = [part("a", b"1", "one.txt"), part("note", "text"), part("b", b"22", "two.txt"), part("a", b"", "empty")]
    answer = (await upload(rest2, *sent)).json()
    assert [(file["field"], file["filename"], file["size"]) for file in answer["files"]] == [
        ("a", "one.txt", 1),
        ("b", "two.txt", 2),
        ("a", "empty", 0),
    ]
    assert answer["path"] == answer["files"][0]["path"]
    assert len({path.parent for path in rest2.stored()}) == 1
    await upload(rest2, *sent)
    assert len({path.parent for path in rest2.stored()}) == 2


async def test_files_of_the_same_name_are_all_kept(rest2):
    answer = await upload(rest2, *[part("a", str(number), "a.txt") for number in range(3)])
    files = answer.json()["files"]
    contents = {str(path): path.read_text() for path in rest2.stored()}
    assert [contents[file["path"]] for file in files] == ["0", "1", "2"]
    assert {file["filename"] for file in files} == {"a.txt"}


async def test_a_file_without_a_type_is_application_octet_stream(rest2):
    answer = await upload(rest2, part("a", b"content", "a.txt"))
    assert answer.json()["files"][0]["content_type"] == "application/octet-stream"


async def test_request_id_is_on_every_answer(rest2):
    sent = request("/upload", form(part("a", b"1", "a")), "X-Request-ID: my-id")
    assert (await ask(rest2.rest2, rest2.tls, sent))["X-Request-ID"] == "my-id"
    refused = await ask(rest2.rest2, rest2.tls, request("/upload", b"", "X-Request-ID: my-id"))
    assert refused["X-Request-ID"] == refused.json()["instance"] == "my-id"


# -- names


@pytest.mark.parametrize(
    ("filename", "stored"),
    [
        (b"../../x", "x"),
        (b"..\\..\\x", "x"),
        (b"C:\\dir\\a.txt", "a.txt"),
        (b"/etc/passwd", "passwd"),
        (b"..", "field"),
        (b".", "field"),
        (b"dir/", "field"),
        (b".bashrc", "bashrc"),
        (b"-rf", "rf"),
        (b"  .- a.txt", "a.txt"),
        (b"a.txt. ", "a.txt"),
        (b"CON", "_CON"),
        (b"nul.txt", "_nul.txt"),
        (b"com1.tar.gz", "_com1.tar.gz"),
        (b"a\x1b[31mb\x07.txt", "a[31mb.txt"),
        ("a\u202etxt.exe".encode(), "atxt.exe"),
        ("a\u200bb\ufeff.txt".encode(), "ab.txt"),
        (b"a<b>:c|d?e*f.txt", "a_b__c_d_e_f.txt"),
        ("日本 ü.txt".encode(), "日本 ü.txt"),
        ("u\u0308.txt".encode(), "ü.txt"),
        (b"\xff\xfe.txt", "\ufffd\ufffd.txt"),
        (b"\xed\xa0\x80.txt", "\ufffd\ufffd\ufffd.txt"),
        (b"x" * 300, "x" * 200),
        (b"x" * 300 + b".pdf", "x" * 196 + ".pdf"),
        ("ü".encode() * 300 + b".pdf", "ü" * 98 + ".pdf"),
        (DEAD.encode(), DEAD[1:]),
    ],
)
async def test_names_are_safe(rest2, filename, stored):
    named = b'Content-Disposition: form-data; name="field"; filename="' + filename + b'"\r\n\r\ncontent'
    answer = await upload(rest2, named)
    (path,) = rest2.stored()
    assert path.name == stored
    assert answer.json()["path"] == str(path)
    assert path.read_bytes() == b"content"
    assert path.parent.parent == rest2.store


async def test_a_nonempty_file_without_a_name_gets_that_of_its_field(rest2):
    answer = await upload(rest2, part("a", b"content", ""))
    assert answer.status == 200
    assert rest2.stored()[0].name == "a"


async def test_nul_in_a_name_is_refused(rest2):
    answer = await upload(rest2, b'Content-Disposition: form-data; name="a"; filename="a\0b"\r\n\r\ncontent')
    assert (answer.status, code(answer)) == (400, "malformed-form")
    assert list(rest2.store.iterdir()) == []


async def test_stored_files_are_not_executable(rest2):
    await upload(rest2, part("a", b"#!/bin/sh", "a.sh"))
    assert not rest2.stored()[0].stat().st_mode & (stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)


# -- refusals


REFUSED = {
    "no file": (request("/upload", form(part("a", "text"))), 400, "missing-file"),
    "an input left empty": (request("/upload", form(part("a", "", ""))), 400, "missing-file"),
    "no part": (request("/upload", form()), 400, "missing-file"),
    "no body": (request("/upload", b""), 400, "truncated"),
    "truncated": (request("/upload", form(part("a", b"x" * MIB, "a"))[:-5]), 400, "truncated"),
    "truncated, chunked": (request("/upload", form(part("a", b"x" * MIB, "a"))[:-5], chunked=True), 400, "truncated"),
    "second file truncated": (
        request("/upload", form(part("a", b"x", "a"), part("b", b"x" * MIB, "b"))[:-50]),
        400,
        "truncated",
    ),
    "bytes after the end": (request("/upload", form(part("a", b"x", "a")) + b"x"), 400, "malformed-form"),
    "too large": (request("/upload", form(part("a", b"x" * (2 * MIB + 1), "a"))), 413, "too-large"),
    "no form": (request("/upload", b"x", content_type="text/plain"), 415, "wrong-content-type"),
    "no type": (request("/upload", b"x", content_type=None), 415, "wrong-content-type"),
    "zipped": (request("/upload", form(part("a", b"x", "a")), "Content-Encoding: gzip"), 415, "wrong-content-type"),
    "elsewhere": (request("/upload1", form(part("a", b"x", "a"))), 404, "not-found"),
    "another method": (request("/upload", b"", method="PUT"), 405, "method-not-allowed"),
}


@pytest.mark.parametrize(("sent", "status", "expected"), REFUSED.values(), ids=REFUSED)
async def test_refusals_leave_nothing(aiorelay_server, sent, status, expected):
    chain = await aiorelay_server(only="rest2", max_size=2 * MIB)
    answer = await ask(chain.rest2, chain.tls, sent)
    assert (answer.status, code(answer)) == (status, expected)
    assert list(chain.store.iterdir()) == []


@pytest.mark.parametrize("way", ["reset", "finish", "close"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_aborted_uploads_leave_nothing(rest2, way, chunked):
    content = os.urandom(3 * MIB)
    sent = request("/upload", form(part("a", b"first", "a"), part("b", content, "b")), chunked=chunked)
    with nothing_left_behind(rest2.store) as nothing_left:
        async with connected(rest2.rest2, rest2.tls) as client:
            await client.send(sent[: 2 * MIB])
            await eventually(lambda: any((each / "b").exists() for each in rest2.store.iterdir()))
            getattr(client, way)()
        await eventually(nothing_left)
    assert rest2.stored() == []


async def test_a_file_is_not_visible_before_it_is_complete(rest2):
    sent = request("/upload", form(part("a", os.urandom(3 * MIB), "a")))
    async with connected(rest2.rest2, rest2.tls) as client:
        await client.send(sent[:-4])
        await eventually(lambda: bool(list(rest2.store.iterdir())))
        assert rest2.stored() == []
        answer = await client.ask(sent[-4:])
    assert answer.status == 200
    assert len(rest2.stored()) == 1


# -- the store


async def test_the_start_removes_incomplete_uploads_of_a_killed_process(aiorelay_server, tmp_path):
    (tmp_path / DEAD).mkdir()
    (tmp_path / DEAD / "half").write_bytes(b"half")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a.txt").write_bytes(b"whole")
    chain = await aiorelay_server(only="rest2", store=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]
    assert [path.name for path in chain.stored()] == ["a.txt"]


@pytest.mark.parametrize("fsync", [True, False])
async def test_files_are_kept_with_and_without_fsync(aiorelay_server, tmp_path, fsync):
    chain = await aiorelay_server(only="rest2", store=tmp_path, fsync=fsync)
    content = os.urandom(MIB)
    answer = await upload(chain, part("a", content, "a"), part("b", b"", "b"))
    assert answer.status == 200
    assert [path.read_bytes() for path in chain.stored()] == [content, b""]


async def test_concurrent_uploads_do_not_mix(rest2):
    async def one(number: int) -> None:
        answer = await upload(rest2, part("a", str(number) * 100_000, "a.txt"))
        assert answer.json()["files"][0]["sha256"] == hashlib.sha256(str(number).encode() * 100_000).hexdigest()

    async with asyncio.timeout(PATIENCE), asyncio.TaskGroup() as group:
        for number in range(20):
            group.create_task(one(number))
    assert sorted(path.read_text()[:2] for path in rest2.stored()) == sorted(f"{n}{n}"[:2] for n in range(20))
