"""tus 1.0.0, request by request."""

import asyncio
import base64
import email.utils
import hashlib
import re
import time

import pytest
from peers import DONE, connected, eventually, failing_first
from resumable_requests import code, metadata, path_of

pytestmark = pytest.mark.slow

CONTENT = b"0123456789"
EXTENSIONS = {
    "creation",
    "creation-with-upload",
    "creation-defer-length",
    "checksum",
    "expiration",
    "termination",
    "concatenation",
}


async def created(relay, length=10, *headers: str, body=b""):
    answer = await relay.tus.create(length, *headers, body=body)
    assert answer.status == 201
    return path_of(answer)


async def offset(relay, path) -> int:
    return int((await relay.tus.head(path))["Upload-Offset"])


async def partial(relay, content: bytes) -> str:
    return await created(relay, len(content), "Upload-Concat: partial", body=content)


async def concatenate(relay, *paths: str, headers=()):
    return await relay.tus.ask("POST", "/files/", f"Upload-Concat: final;{' '.join(paths)}", *headers)


def checksum(content: bytes, algorithm: str = "sha1") -> str:
    digest = hashlib.new(algorithm, content).digest()
    return f"Upload-Checksum: {algorithm} {base64.b64encode(digest).decode()}"


# -- core


async def test_file_is_sent_in_three_requests(relay):
    path = await created(relay)
    answer = await relay.tus.append(path, 0, CONTENT[:3])
    assert (answer.status, answer["Upload-Offset"]) == (204, "3")
    assert email.utils.parsedate_to_datetime(answer["Upload-Expires"]).timestamp() > time.time()
    assert (await relay.tus.append(path, 3, CONTENT[3:7])).status == 204
    answer = await relay.tus.append(path, 7, CONTENT[7:])
    assert (answer.status, answer.json(), answer["Upload-Offset"]) == (200, {"status": "done"}, "10")
    assert relay.received() == [CONTENT]


async def test_chunked_appends(relay):
    path = await created(relay)
    assert (await relay.tus.append(path, 0, CONTENT[:9], chunked=True)).status == 204
    answer = await relay.tus.append(path, 9, CONTENT[9:], chunked=True)
    assert (answer.status, answer.json(), answer["Upload-Offset"]) == (200, {"status": "done"}, "10")
    assert relay.received() == [CONTENT]


@pytest.mark.parametrize(("method", "target", "status"), [
    ("OPTIONS", "/files/", 204), ("OPTIONS", "/files/x", 204), ("POST", "/files/", 400), ("PATCH", "/files/x", 415),
    ("HEAD", "/files/x", 404), ("GET", "/files/x", 404), ("DELETE", "/files/x", 404), ("PUT", "/files/x", 405),
    ("GET", "/files/x/y", 404), ("POST", "/files/x", 405),
])  # fmt: skip
async def test_every_answer_names_the_version(relay, method, target, status):
    answer = await relay.tus.ask(method, target)
    assert answer.status == status
    assert answer["Tus-Resumable"] == "1.0.0"


async def test_every_answer_to_clients_without_a_token_names_the_version(start_relay, tmp_path):
    (tokens := tmp_path / "tokens").write_text("me:" + "a" * 40 + "\n")
    relay = await start_relay(token_file=tokens)
    answer = await relay.tus.create(10)
    assert (answer.status, answer["Tus-Resumable"]) == (401, "1.0.0")


@pytest.mark.parametrize("version", [None, "0.2.2", "1.0.1"])
@pytest.mark.parametrize("method", ["POST", "PATCH", "HEAD", "DELETE"])
async def test_other_versions_are_refused(relay, method, version):
    path = await created(relay)
    headers = [] if version is None else [f"Tus-Resumable: {version}"]
    answer = await relay.draft.ask(method, "/files/" if method == "POST" else path, "Upload-Length: 5", *headers)
    assert (answer.status, answer["Tus-Version"], answer["Tus-Resumable"]) == (412, "1.0.0", "1.0.0")
    assert await offset(relay, path) == 0


async def test_options_need_no_version(start_relay):
    relay = await start_relay(max_size="1000")
    answer = await relay.draft.ask("OPTIONS", "/files/")
    assert answer["Tus-Version"] == "1.0.0"
    assert set(answer["Tus-Extension"].split(",")) == EXTENSIONS
    assert answer["Tus-Max-Size"] == "1000"
    assert answer["Tus-Checksum-Algorithm"] == "sha1,sha256,md5"


async def test_method_may_be_overridden(relay):
    path = await created(relay, None)
    answer = await relay.tus.ask(
        "POST",
        path,
        "X-HTTP-Method-Override: PATCH",
        "Upload-Offset: 0",
        "Upload-Length: 10",
        body=CONTENT,
        content_type="application/offset+octet-stream",
    )
    assert (answer.status, answer.json()) == (200, {"status": "done"})
    answer = await relay.tus.ask("POST", path, "X-HTTP-Method-Override: HEAD")
    assert (answer.status, answer["Upload-Offset"]) == (200, "10")


async def test_head_tells_everything_that_was_sent(relay):
    sent = metadata(filename="ä.txt", note="x")
    path = await created(relay, 10, sent, "Upload-Concat: partial", body=CONTENT[:4])
    answer = await relay.tus.head(path)
    assert (answer.status, answer["Upload-Offset"], answer["Upload-Length"]) == (200, "4", "10")
    assert answer["Cache-Control"] == "no-store"
    assert answer["Upload-Metadata"] == sent.partition(": ")[2]
    assert answer["Upload-Concat"] == "partial"


async def test_unknown_upload_has_no_offset(relay):
    answer = await relay.tus.head("/files/" + "a" * 32)
    assert (answer.status, answer.all("Upload-Offset")) == (404, [])


async def test_wrong_offset_changes_nothing(relay):
    path = await created(relay, body=CONTENT[:3])
    for at, body in [(0, CONTENT), (4, CONTENT[4:]), (9, CONTENT), (11, b"")]:
        answer = await relay.tus.append(path, at, body)
        assert (answer.status, code(answer)) == (409, "mismatching-upload-offset")
    assert await offset(relay, path) == 3


@pytest.mark.parametrize("value", ["", "-1", "x", "1.0"])
async def test_malformed_offset_is_refused(relay, value):
    path = await created(relay)
    answer = await relay.tus.ask(
        "PATCH", path, f"Upload-Offset: {value}", body=CONTENT, content_type="application/offset+octet-stream"
    )
    assert (answer.status, code(answer)) == (400, "malformed-field")


async def test_append_of_another_type_is_refused(relay):
    path = await created(relay)
    answer = await relay.tus.append(path, 0, CONTENT, content_type="application/octet-stream")
    assert (answer.status, code(answer)) == (415, "wrong-content-type")


async def test_content_beyond_the_length_is_refused_and_the_upload_goes_on(relay):
    path = await created(relay, body=CONTENT[:3])
    answer = await relay.tus.append(path, 3, CONTENT)
    assert (answer.status, code(answer)) == (413, "too-large")
    assert (await relay.tus.append(path, 3, CONTENT[3:])).status == 200


# -- creation


async def test_creation_names_the_upload_and_its_end(relay):
    answer = await relay.tus.create(10)
    assert re.fullmatch(r"https://relay\.localhost/files/[A-Za-z0-9_-]{32}", answer["Location"])
    assert email.utils.parsedate_to_datetime(answer["Upload-Expires"]).timestamp() > time.time()


@pytest.mark.parametrize("headers", [
    [], ["Upload-Length: 1", "Upload-Defer-Length: 1"], ["Upload-Defer-Length: 2"], ["Upload-Length: -1"],
    ["Upload-Length: 1", "Upload-Metadata: filename ???"], ["Upload-Length: 1", "Upload-Metadata: a YQ==,a YQ=="],
    ["Upload-Length: 1", "Upload-Concat: other"],
])  # fmt: skip
async def test_malformed_creation_creates_nothing(relay, headers, tmp_path):
    answer = await relay.tus.ask("POST", "/files/", *headers)
    assert (answer.status, code(answer)) == (400, "malformed-field")
    assert not list((tmp_path / "state" / "uploads").iterdir())


async def test_creation_beyond_the_largest_size_is_refused(start_relay):
    relay = await start_relay(max_size="1000")
    answer = await relay.tus.create(1001)
    assert (answer.status, code(answer), answer.all("Location")) == (413, "too-large", [])


async def test_metadata_become_the_parts_head_and_fields_before_the_file(relay):
    path = await created(
        relay, 10, metadata(folder="reports", filename="ä b.pdf", filetype="application/pdf", note="ü")
    )
    await relay.tus.append(path, 0, CONTENT)
    (received,) = relay.upstream.requests
    (folder, a), (note, b), (file, content) = received.parts
    assert ('name="folder"' in folder, a, 'name="note"' in note, b.decode()) == (True, b"reports", True, "ü")
    assert 'name="somefile"; filename="ä b.pdf"' in file
    assert "Content-Type: application/pdf" in file
    assert content == CONTENT


@pytest.mark.parametrize("body", [b"", CONTENT[:4]], ids=["empty", "some"])
async def test_creation_with_upload(relay, body):
    answer = await relay.tus.create(10, body=body)
    assert (answer.status, answer["Upload-Offset"]) == (201, str(len(body)))


@pytest.mark.parametrize("content", [CONTENT, b""], ids=["all", "nothing"])
async def test_creation_with_everything_is_delivered(relay, content):
    answer = await relay.tus.create(len(content), "Prefer: respond-async", body=content)
    assert (answer.status, answer.json(), answer["Upload-Offset"]) == (201, {"status": "done"}, str(len(content)))
    assert relay.received() == [content]
    assert (await relay.tus.head(path_of(answer)))["Upload-Offset"] == str(len(content))


@pytest.mark.parametrize(("headers", "body", "content_type", "status"), [
    (["Upload-Length: 10"], CONTENT, "text/plain", 415),
    (["Upload-Length: 10"], CONTENT + b"x", "application/offset+octet-stream", 413),
    (["Upload-Length: 10", checksum(b"other")], CONTENT[:4], "application/offset+octet-stream", 460),
    (["Upload-Length: 10", "Upload-Checksum: crc32 AAAA"], CONTENT[:4], "application/offset+octet-stream", 400),
])  # fmt: skip
async def test_creation_whose_content_is_refused_leaves_nothing(relay, headers, body, content_type, status, tmp_path):
    answer = await relay.tus.ask("POST", "/files/", *headers, body=body, content_type=content_type)
    assert (answer.status, answer.all("Location")) == (status, [])
    assert not list((tmp_path / "state" / "uploads").glob("*.data"))


async def test_creation_that_breaks_off_leaves_nothing(relay, tmp_path):
    """Its client was never told of an upload with which it could go on."""
    uploads = tmp_path / "state" / "uploads"
    request = relay.tus.raw("POST", "/files/", "Upload-Length: 10", body=CONTENT, **relay.tus.content)
    async with connected(relay.chain.rest1, relay.chain.tls) as client:
        await client.send(request[:-3])
        await eventually(lambda: bool(list(uploads.glob("*.data"))))
        client.close()
    await eventually(lambda: not list(uploads.glob("*.data")))


async def test_creation_with_everything_that_is_not_delivered_can_be_continued(start_relay):
    unavailable = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    relay = await start_relay(unavailable, DONE)
    answer = await relay.tus.create(10, body=CONTENT)
    assert (answer.status, answer["Upload-Offset"]) == (201, "9")
    assert (await relay.tus.append(path_of(answer), 9, CONTENT[9:])).status == 200


async def test_empty_file_that_is_not_delivered_has_no_location(start_relay):
    unavailable = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    relay = await start_relay(unavailable)
    answer = await relay.tus.create(0)
    assert (answer.status, answer.all("Location")) == (503, [])


# -- deferred length


async def test_length_is_told_later(relay):
    path = await created(relay, None)
    answer = await relay.tus.head(path)
    assert (answer["Upload-Defer-Length"], answer.all("Upload-Length")) == ("1", [])
    await relay.tus.append(path, 0, CONTENT[:4])
    await relay.tus.append(path, 4, CONTENT[4:6], "Upload-Length: 10")
    answer = await relay.tus.head(path)
    assert (answer["Upload-Length"], answer.all("Upload-Defer-Length")) == ("10", [])
    assert (await relay.tus.append(path, 6, CONTENT[6:8], "Upload-Length: 11")).status == 400
    assert (await relay.tus.append(path, 6, CONTENT[6:], "Upload-Length: 10")).status == 200
    assert (await relay.tus.head(path))["Upload-Length"] == "10"
    assert relay.received() == [CONTENT]


async def test_length_told_with_an_empty_append_ends_the_upload(relay):
    path = await created(relay, None, body=CONTENT)
    answer = await relay.tus.append(path, 10, b"", "Upload-Length: 10")
    assert (answer.status, answer.json()) == (200, {"status": "done"})


async def test_offset_does_not_decrease_when_a_deferred_upload_is_not_delivered(start_relay):
    unavailable = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    relay = await start_relay(unavailable, DONE)
    path = await created(relay, None, body=CONTENT)
    assert (await relay.tus.append(path, 10, b"", "Upload-Length: 10")).status == 503
    answer = await relay.tus.head(path)
    assert (answer["Upload-Offset"], answer["Upload-Defer-Length"], answer.all("Upload-Length")) == ("10", "1", [])
    assert (await relay.tus.append(path, 10, b"", "Upload-Length: 10")).status == 200
    assert (await relay.tus.head(path))["Upload-Length"] == "10"


async def test_deferred_length_beyond_the_largest_size_is_refused(start_relay):
    relay = await start_relay(max_size="1000")
    path = await created(relay, None)
    answer = await relay.tus.append(path, 0, CONTENT, "Upload-Length: 1001")
    assert (answer.status, code(answer)) == (413, "too-large")


# -- checksums


@pytest.mark.parametrize("algorithm", ["sha1", "sha256", "md5"])
async def test_right_checksum(relay, algorithm):
    path = await created(relay)
    assert (await relay.tus.append(path, 0, CONTENT[:4], checksum(CONTENT[:4], algorithm))).status == 204
    assert (await relay.tus.append(path, 4, CONTENT[4:], checksum(CONTENT[4:], algorithm))).status == 200
    assert relay.received() == [CONTENT]


@pytest.mark.parametrize("end", [7, 10], ids=["more to come", "last"])
async def test_wrong_checksum_discards_the_content(relay, end):
    path = await created(relay, body=CONTENT[:4])
    answer = await relay.tus.append(path, 4, CONTENT[4:end], checksum(b"other"))
    assert (answer.status, code(answer), answer["Tus-Resumable"]) == (460, "checksum-mismatch", "1.0.0")
    assert await offset(relay, path) == 4
    assert relay.upstream.requests == []
    assert (await relay.tus.append(path, 4, CONTENT[4:])).status == 200


@pytest.mark.parametrize("value", ["crc32 AAAA", "sha1 !", "sha1 YQ=="])
async def test_checksum_that_is_no_checksum_discards_the_content(relay, value):
    path = await created(relay, body=CONTENT[:4])
    answer = await relay.tus.append(path, 4, CONTENT[4:], f"Upload-Checksum: {value}")
    assert (answer.status, code(answer)) == (400, "bad-digest")
    assert await offset(relay, path) == 4


# -- expiration, termination


async def test_terminated_upload_is_gone(relay):
    path = await created(relay, body=CONTENT[:4])
    assert (await relay.tus.delete(path)).status == 204
    answer = await relay.tus.head(path)
    assert (answer.status, answer.all("Upload-Offset")) == (410, [])
    assert (await relay.tus.append(path, 4, CONTENT[4:])).status == 410
    assert (await relay.tus.delete(path)).status == 410


# -- concatenation


@pytest.mark.parametrize("form", ["{path}", "https://relay.localhost{path}", "{name}"], ids=["path", "url", "relative"])
async def test_parts_become_one_file_in_the_order_of_the_list(relay, form):
    paths = [await partial(relay, content) for content in (b"world", b"", b"hello ")]
    named = [form.format(path=path, name=path.rpartition("/")[2]) for path in (paths[2], paths[1], paths[0])]
    answer = await concatenate(relay, *named, headers=[metadata(filename="a.txt")])
    assert (answer.status, answer.json(), answer["Upload-Offset"]) == (201, {"status": "done"}, "11")
    assert relay.received() == [b"hello world"]
    final = path_of(answer)
    head = await relay.tus.head(final)
    assert (head["Upload-Offset"], head["Upload-Length"]) == ("11", "11")
    assert head["Upload-Concat"] == f"final;{' '.join(named)}"
    assert (await relay.tus.get(final)).json()["answer"]["status"] == 200
    assert (await relay.tus.append(final, 11, b"x")).status == 403


async def test_part_is_not_delivered_by_itself(relay):
    path = await created(relay, 10, "Upload-Concat: partial")
    assert (await relay.tus.append(path, 0, CONTENT)).status == 204
    assert await offset(relay, path) == 10
    assert relay.upstream.connections == []


async def test_same_concatenation_again_is_the_same_upload(relay):
    paths = [await partial(relay, each) for each in (b"a", b"b")]
    first = await concatenate(relay, *paths)
    again = await concatenate(relay, *paths)
    assert (again.status, again["Location"], again.json()) == (201, first["Location"], first.json())
    assert relay.received() == [b"ab"]
    for path in paths:
        assert await offset(relay, path) == 1


async def test_same_concatenation_at_the_same_time_is_delivered_once(start_relay):
    release = asyncio.Event()

    async def script(connection):
        await connection.request()
        await release.wait()
        await connection.send(DONE)

    relay = await start_relay(script=script)
    paths = [await partial(relay, each) for each in (b"a", b"b")]
    first = asyncio.create_task(concatenate(relay, *paths))
    await eventually(lambda: bool(relay.upstream.requests))
    again = asyncio.create_task(concatenate(relay, *paths))
    release.set()
    assert (await first).status == (await again).status == 201
    assert (await first)["Location"] == (await again)["Location"]
    assert relay.received() == [b"ab"]


async def test_two_concatenations_of_the_same_parts_do_not_wait_for_each_other(relay):
    a, b = [await partial(relay, each) for each in (b"a", b"b")]
    answers = await asyncio.gather(*(concatenate(relay, *order) for order in [(a, b), (b, a)] * 5))
    assert {answer.status for answer in answers} <= {201, 400, 409}  # 409: a newer one waits for the same parts
    assert len(relay.received()) == 1


async def test_parts_stay_when_the_delivery_fails(start_relay):
    relay = await start_relay(script=failing_first(1, reset))
    paths = [await partial(relay, each) for each in (b"a", b"b")]
    answer = await concatenate(relay, *paths)
    assert (answer.status, answer.all("Location")) == (502, [])
    assert (await concatenate(relay, *paths)).status == 201
    assert relay.received() == [b"ab"]


async def reset(connection):
    await connection.head()
    connection.reset()


async def test_refused_concatenation_has_no_location_and_its_parts_are_over(start_relay):
    relay = await start_relay(b"HTTP/1.1 422 Unprocessable Content\r\nLocation: /x\r\nContent-Length: 0\r\n\r\n")
    paths = [await partial(relay, each) for each in (b"a", b"b")]
    answer = await concatenate(relay, *paths)
    assert (answer.status, answer.all("Location")) == (422, [])
    assert (await concatenate(relay, *paths)).status == 410


async def test_what_cannot_be_concatenated(relay):
    whole, unfinished = await created(relay), await created(relay, 10, "Upload-Concat: partial", body=CONTENT[:4])
    part = await partial(relay, b"a")
    for paths in ([whole, part], [unfinished], ["/files/" + "a" * 32], [part, part]):
        answer = await concatenate(relay, *paths)
        assert (answer.status, code(answer)) == (400, "malformed-field")
    answer = await concatenate(relay, part, headers=["Upload-Length: 1"])
    assert (answer.status, code(answer)) == (400, "malformed-field")
    assert (await concatenate(relay, part)).status == 201


async def test_removed_part_is_gone(relay):
    paths = [await partial(relay, each) for each in (b"a", b"b")]
    await relay.tus.delete(paths[1])
    assert (await concatenate(relay, *paths)).status == 410


# -- statuses of the upload API


@pytest.mark.parametrize("status", [409, 423, 460])
async def test_status_that_means_something_else_in_tus_is_replaced(start_relay, status):
    relay = await start_relay(b"HTTP/1.1 %d Other\r\nContent-Length: 2\r\n\r\nno" % status)
    answer = await relay.tus.append(await created(relay), 0, CONTENT)
    assert (answer.status, answer.body) == (422, b"no")
    assert answer["Proxy-Status"] == f"aiorelay; received-status={status}"


async def test_redirect_that_means_stored_is_a_success(start_relay):
    relay = await start_relay(b"HTTP/1.1 303 See Other\r\nLocation: /files/1\r\nContent-Length: 0\r\n\r\n")
    path = await created(relay)
    answer = await relay.tus.append(path, 0, CONTENT)
    assert (answer.status, answer.all("Location"), answer["Upload-Offset"]) == (200, [], "10")
    assert (await relay.tus.get(path)).json()["answer"]["status"] == 303


async def test_other_redirects_are_failures(start_relay):
    relay = await start_relay(b"HTTP/1.1 307 Temporary\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n")
    path = await created(relay)
    answer = await relay.tus.append(path, 0, CONTENT)
    assert (answer.status, answer.all("Location")) == (502, [])
    assert await offset(relay, path) == 9


async def test_answer_to_a_creation_is_201_with_our_location(start_relay):
    relay = await start_relay(b"HTTP/1.1 200 OK\r\nLocation: /theirs\r\nX-Own: 1\r\nContent-Length: 2\r\n\r\nok")
    answer = await relay.tus.create(10, body=CONTENT)
    assert (answer.status, answer["X-Own"], answer.body) == (201, "1", b"ok")
    assert "/files/" in answer["Location"]
