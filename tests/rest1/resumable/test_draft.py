"""HTTP resumable uploads (draft-ietf-httpbis-resumable-upload), request by request."""

import asyncio
import base64
import contextlib
import hashlib
import random
import re

import pytest
from peers import BOUNDARY, answering, connected, form, part
from resumable_requests import code, path_of

pytestmark = pytest.mark.slow

CONTENT = b"0123456789"
FORM = form(part("before", "1"), part("somefile", CONTENT, "a.txt", "Content-Type: text/plain"))
FORM_TYPE = f"multipart/form-data; boundary={BOUNDARY}"
PARTIAL = {"content_type": "application/partial-upload"}
IANA = "https://iana.org/assignments/http-problem-types#"


def sha256(content: bytes, field: str) -> str:
    return f"{field}: sha-256=:{base64.b64encode(hashlib.sha256(content).digest()).decode()}:"


async def created(relay, length=10, body=b""):
    answer = await relay.draft.create(length, body=body)
    assert answer.status == 201
    return path_of(answer)


async def offset(relay, path) -> int:
    return int((await relay.draft.head(path))["Upload-Offset"])


@contextlib.asynccontextmanager
async def appending(relay, path, *headers: str, at: int = 0, last: bool = True):
    """A client in the middle of an append: the relay has asked for its content, and all but 3 bytes are sent."""
    headers = (*relay.draft.patch(at, last=last), "Expect: 100-continue", *headers)
    request = relay.draft.raw("PATCH", path, *headers, body=CONTENT[at:], **PARTIAL)
    async with connected(relay.chain.rest1, relay.chain.tls) as client:
        head, _, body = request.partition(b"\r\n\r\n")
        await client.send(head + b"\r\n\r\n")
        assert (await client.head()).startswith(b"HTTP/1.1 100 ")
        await client.send(body[:-3])
        yield client


def limits(answer) -> dict[str, int]:
    pairs = re.findall(r"([a-z-]+)=(\d+)", answer["Upload-Limit"])
    return {name: int(value) for name, value in pairs}


# -- creation


@pytest.mark.parametrize("target", ["/upload", "/upload1"])
async def test_form_is_sent_in_two_requests(relay, target):
    answer = await relay.draft.ask(
        "POST", target, "Upload-Complete: ?0", f"Upload-Length: {len(FORM)}", body=FORM[:50], content_type=FORM_TYPE
    )
    assert answer.status == 201
    assert answer["Upload-Complete"] == "?0"
    answer = await relay.draft.append(path_of(answer), 50, FORM[50:], last=True)
    assert (answer.status, answer.json(), answer["Upload-Complete"]) == (200, {"status": "done"}, "?1")
    (received,) = relay.upstream.requests
    assert received.body == FORM
    assert received["Content-Type"] == FORM_TYPE


async def test_raw_body_is_sent_in_three_requests(relay):
    path = await created(relay, body=CONTENT[:3])
    answer = await relay.draft.append(path, 3, CONTENT[3:7], last=False)
    assert (answer.status, answer["Upload-Complete"], answer["Upload-Offset"]) == (204, "?0", "7")
    answer = await relay.draft.append(path, 7, CONTENT[7:], last=True)
    assert (answer.status, answer["Upload-Complete"], answer.json()) == (200, "?1", {"status": "done"})
    assert relay.received() == [CONTENT]


async def test_location_is_an_absolute_url_of_the_host_that_the_client_used(relay):
    answer = await relay.draft.create(10)
    assert re.fullmatch(r"https://relay\.localhost/uploads/[A-Za-z0-9_-]{32}", answer["Location"])


@pytest.mark.parametrize("length", [None, len(CONTENT)])
async def test_everything_in_the_creation_is_answered_as_the_upload_api_answers(relay, length):
    answer = await relay.draft.create(length, body=CONTENT, last=True)
    assert (answer.status, answer.json(), answer["Upload-Complete"]) == (200, {"status": "done"}, "?1")
    assert not answer.all("Location")
    assert relay.received() == [CONTENT]


async def test_everything_in_a_chunked_creation(relay):
    answer = await relay.draft.ask("PUT", "/upload/a.bin", "Upload-Complete: ?1", body=CONTENT, chunked=True)
    assert (answer.status, answer["Upload-Complete"]) == (200, "?1")
    assert relay.received() == [CONTENT]


async def test_header_fields_of_the_creation_and_of_the_last_request_are_passed_on(relay):
    answer = await relay.draft.ask(
        "PUT",
        "/upload/a.bin?x=1",
        "Upload-Complete: ?0",
        "X-Both: old",
        "X-First: 1",
        body=b"",
        content_type="image/png",
    )
    await relay.draft.append(path_of(answer), 0, CONTENT, "X-Both: new", "X-Last: 1", last=True)
    (received,) = relay.upstream.requests
    assert (received["X-Both"], received["X-First"], received["X-Last"]) == ("new", "1", "1")
    assert received.target == "/api?x=1"
    assert "Content-Type: image/png" in received.parts[0][0]
    assert not [name for name, _ in received.headers if name.lower().startswith("upload-")]


@pytest.mark.parametrize("value", ["1", "true", "?2", '"?1"', ""])
async def test_malformed_upload_complete_makes_an_ordinary_request(relay, value):
    answer = await relay.draft.ask("PUT", "/upload/a.bin", f"Upload-Complete: {value}", body=CONTENT)
    assert not answer.all("Location")
    assert not answer.all("Upload-Complete")


async def test_malformed_upload_length_is_ignored(relay):
    answer = await relay.draft.ask("PUT", "/upload/a.bin", "Upload-Complete: ?1", "Upload-Length: ten", body=CONTENT)
    assert answer.status == 200


async def test_lengths_that_differ_create_nothing(relay, tmp_path):
    answer = await relay.draft.create(11, body=CONTENT, last=True)
    assert (answer.status, answer.json()["type"]) == (400, f"{IANA}inconsistent-upload-length")
    assert not list((tmp_path / "state" / "uploads").iterdir())


@pytest.mark.parametrize(("method", "target", "content_type"), [
    ("POST", "/upload", "application/json"),
    ("POST", "/upload1", "text/plain"),
    ("PUT", "/upload/a.bin", FORM_TYPE),
])  # fmt: skip
async def test_other_content_types_are_refused(relay, method, target, content_type):
    answer = await relay.draft.ask(method, target, "Upload-Complete: ?0", body=b"{}", content_type=content_type)
    assert (answer.status, code(answer)) == (415, "wrong-content-type")


async def test_form_whose_length_is_too_large_is_refused_with_the_limit(start_relay):
    relay = await start_relay(max_size="1000")
    answer = await relay.draft.create(1001)
    assert (answer.status, code(answer), limits(answer)["max-size"]) == (413, "too-large", 1000)


# -- 104


async def interim(relay, request: bytes) -> tuple[list[str], list[str]]:
    """Return the heads of the interim responses to a request, and the head of the final one."""
    async with connected(relay.chain.rest1, relay.chain.tls) as client:
        await client.send(request)
        heads = []
        while not (head := (await client.head()).decode()).startswith("HTTP/1.1 2"):
            heads.append(head)
        return heads, head


def creation(relay, *headers: str) -> bytes:
    return relay.draft.raw("PUT", "/upload/a.bin", "Upload-Complete: ?0", *headers, body=CONTENT)


@pytest.mark.parametrize("version", ["6", "8"])
async def test_104_names_the_upload(relay, version):
    (head,), final = await interim(relay, creation(relay, f"Upload-Draft-Interop-Version: {version}"))
    assert head.startswith("HTTP/1.1 104 Upload Resumption Supported\r\n")
    assert f"\r\nUpload-Draft-Interop-Version: {version}\r\n" in head
    assert re.search(r"\r\nUpload-Limit: max-size=\d+, max-age=\d+\r\n", head)
    (location,) = re.findall(r"\r\nLocation: (.*)\r\n", head)
    assert f"\r\nLocation: {location}\r\n" in final


@pytest.mark.parametrize("headers", [[], ["Upload-Draft-Interop-Version: 5"], ["Upload-Draft-Interop-Version: x"]])
async def test_no_104_to_clients_of_other_versions(relay, headers):
    heads, final = await interim(relay, creation(relay, *headers))
    assert heads == []
    assert "Location: " in final


async def test_no_104_to_clients_of_http_1_0(relay):
    request = creation(relay, "Upload-Draft-Interop-Version: 8").replace(b" HTTP/1.1\r\n", b" HTTP/1.0\r\n", 1)
    async with connected(relay.chain.rest1, relay.chain.tls) as client:
        await client.send(request)
        assert (await client.head()).split(b" ")[1] == b"201"


async def test_100_is_sent_besides_104(relay):
    request = creation(relay, "Upload-Draft-Interop-Version: 8", "Expect: 100-continue")
    heads, _ = await interim(relay, request)
    assert [head.split(" ")[1].strip() for head in heads] == ["104", "100"]


async def test_creation_that_breaks_off_after_104_can_be_continued(relay):
    request = creation(relay, "Upload-Draft-Interop-Version: 8")
    async with connected(relay.chain.rest1, relay.chain.tls) as client:
        await client.send(request[:-3])
        head = (await client.head()).decode()
        client.close()
    (path,) = re.findall(r"Location: https://relay\.localhost(.*)\r\n", head)
    at = await offset(relay, path)
    assert at in {0, 7}  # 0: what has not been read when the connection ends is lost
    assert (await relay.draft.append(path, at, CONTENT[at:], last=True)).status == 200
    assert relay.received() == [CONTENT]


async def test_104_tells_the_progress_of_a_slow_append(relay):
    path = await created(relay)
    headers = ["Upload-Draft-Interop-Version: 8", *relay.draft.patch(0, last=True)]
    request = relay.draft.raw("PATCH", path, *headers, body=CONTENT, **PARTIAL)
    async with connected(relay.chain.rest1, relay.chain.tls) as client:
        await client.send(request[:-7])
        await asyncio.sleep(1.1)  # the interval of the interim responses
        await client.send(request[-7:-4])
        head = (await client.head()).decode()
        assert head.startswith("HTTP/1.1 104 ")
        assert "Location" not in head
        assert int(re.findall(r"Upload-Offset: (\d+)", head)[0]) <= 6
        await client.send(request[-4:])
        assert (await client.answer()).status == 200


# -- appends


async def test_wrong_offset_changes_nothing(relay):
    path = await created(relay, body=CONTENT[:3])
    answer = await relay.draft.append(path, 5, CONTENT[5:], last=True)
    assert (answer.status, answer["Upload-Offset"], answer["Upload-Complete"]) == (409, "3", "?0")
    problem = answer.json()
    assert (problem["type"], problem["expected-offset"], problem["provided-offset"]) == (
        f"{IANA}mismatching-upload-offset",
        3,
        5,
    )
    assert (await relay.draft.append(path, 3, CONTENT[3:], last=True)).status == 200
    assert relay.received() == [CONTENT]


@pytest.mark.parametrize("headers", [
    [], ["Upload-Offset: 0"], ["Upload-Complete: ?1"], ["Upload-Offset: -1", "Upload-Complete: ?1"],
    ["Upload-Offset: 0", "Upload-Complete: 1"],
])  # fmt: skip
async def test_append_without_its_fields_is_refused(relay, headers):
    path = await created(relay)
    answer = await relay.draft.ask("PATCH", path, *headers, body=CONTENT, **PARTIAL)
    assert (answer.status, code(answer)) == (400, "malformed-field")
    assert await offset(relay, path) == 0


async def test_append_of_another_type_is_told_the_right_one(relay):
    path = await created(relay)
    answer = await relay.draft.append(path, 0, CONTENT, last=True, content_type="application/octet-stream")
    assert (answer.status, answer["Accept-Patch"]) == (415, "application/partial-upload")


@pytest.mark.parametrize(("length", "told", "last"), [(10, 11, False), (10, None, True), (None, 9, True)])
async def test_append_with_another_length_changes_nothing(relay, length, told, last):
    path = await created(relay, length)
    headers = [f"Upload-Length: {told}"] if told else []
    answer = await relay.draft.append(path, 0, b"12345678", *headers, last=last)
    assert (answer.status, answer.json()["type"]) == (400, f"{IANA}inconsistent-upload-length")
    assert await offset(relay, path) == 0


async def test_content_beyond_the_length_ends_the_upload(relay):
    path = await created(relay)
    answer = await relay.draft.append(path, 0, CONTENT + b"x", last=False)
    assert (answer.status, answer.json()["type"]) == (400, f"{IANA}inconsistent-upload-length")
    for method in ("HEAD", "PATCH"):
        headers = relay.draft.patch(0, last=False)
        assert (await relay.draft.ask(method, path, *headers, **PARTIAL)).status == 410


async def test_chunked_content_beyond_the_length_ends_the_upload_and_is_never_whole_upstream(relay):
    path = await created(relay)
    answer = await relay.draft.append(path, 0, CONTENT + b"x", last=True, chunked=True)
    assert (answer.status, code(answer)) == (400, "inconsistent-upload-length")
    assert (await relay.draft.head(path)).status == 410
    assert relay.upstream.requests == []


async def test_last_content_that_ends_before_the_length_ends_the_upload(relay):
    path = await created(relay)
    answer = await relay.draft.append(path, 0, CONTENT[:5], last=True, chunked=True)
    assert (answer.status, code(answer)) == (400, "inconsistent-upload-length")
    assert (await relay.draft.head(path)).status == 410
    assert relay.upstream.requests == []


async def test_append_to_a_stored_upload_is_refused(relay):
    answer = await relay.draft.create(None, "Upload-Draft-Interop-Version: 8", body=CONTENT[:5])
    path = path_of(answer)
    await relay.draft.append(path, 5, CONTENT[5:], last=True)
    for at, body, status, expected in [
        (10, b"x", 400, "inconsistent-upload-length"),
        (10, b"", 400, "completed-upload"),
        (0, CONTENT, 409, "mismatching-upload-offset"),  # as Chromium repeats an append by itself
    ]:
        answer = await relay.draft.append(path, at, body, last=True)
        assert (answer.status, answer.json()["type"]) == (status, f"{IANA}{expected}")
    assert len(relay.received()) == 1


@pytest.mark.parametrize("length", [None, len(CONTENT)])
async def test_last_append_may_be_empty(relay, length):
    path = await created(relay, length, body=CONTENT)
    answer = await relay.draft.append(path, 10, b"", last=True)
    assert (answer.status, answer["Upload-Complete"]) == (200, "?1")
    assert relay.received() == [CONTENT]


async def test_broken_off_append_keeps_what_has_come(relay):
    path = await created(relay)
    async with appending(relay, path) as client:
        client.close()
    while (await relay.draft.get(path)).json()["received"] < 7:  # noqa: ASYNC110 - there is no event for what the relay has written
        await asyncio.sleep(0.01)
    assert await offset(relay, path) == 7
    assert (await relay.draft.append(path, 7, CONTENT[7:], last=True)).status == 200
    assert relay.received() == [CONTENT]


# -- HEAD, GET, DELETE, OPTIONS


async def test_head_tells_how_far_it_has_come(relay):
    path = await created(relay, body=CONTENT[:4])
    answer = await relay.draft.head(path)
    assert (answer.status, answer["Upload-Offset"], answer["Upload-Length"], answer["Upload-Complete"]) == (
        204,
        "4",
        "10",
        "?0",
    )
    assert answer["Cache-Control"] == "no-store"
    assert {"max-size", "max-age"} == set(limits(answer))


async def test_head_of_an_upload_without_length_tells_none(relay):
    assert not (await relay.draft.head(await created(relay, None))).all("Upload-Length")


async def test_head_of_a_stored_upload_says_complete(relay):
    path = await created(relay, body=CONTENT[:4])
    await relay.draft.append(path, 4, CONTENT[4:], last=True)
    answer = await relay.draft.head(path)
    assert (answer.status, answer["Upload-Offset"], answer["Upload-Complete"]) == (204, "10", "?1")


async def test_deleted_upload_is_gone(relay):
    path = await created(relay, body=CONTENT[:4])
    assert (await relay.draft.delete(path)).status == 204
    assert (await relay.draft.head(path)).status == 410
    assert (await relay.draft.append(path, 4, CONTENT[4:], last=True)).status == 410
    assert (await relay.draft.get(path)).status == 410


async def test_delete_ends_the_request_that_appends(relay):
    path = await created(relay)
    async with appending(relay, path) as client:
        assert (await relay.draft.delete(path)).status == 204
        assert (await client.answer()).status == 409
    assert (await relay.draft.head(path)).status == 410


@pytest.mark.parametrize("target", ["/upload", "/upload1", "/upload/a.bin", "/uploads/x"])
async def test_options_tell_what_can_be_appended(start_relay, target):
    relay = await start_relay(max_size="1000", upload_expiry="2h")
    answer = await relay.draft.ask("OPTIONS", target)
    assert answer.status == 204
    assert answer["Accept-Patch"] == "application/partial-upload"
    assert limits(answer)["max-size"] >= 1000
    assert limits(answer)["max-age"] == 7200


async def test_upload_that_never_was_is_not_found(relay):
    for method in ("HEAD", "GET", "DELETE"):
        assert (await relay.draft.ask(method, "/uploads/" + "a" * 32)).status == 404
    assert (await relay.draft.append("/uploads/" + "a" * 32, 0, CONTENT, last=True)).status == 404


# -- digests


async def test_content_that_does_not_match_its_digest_is_discarded(relay):
    path = await created(relay, body=CONTENT[:2])
    for last in (False, True):
        answer = await relay.draft.append(path, 2, CONTENT[2:], sha256(b"other", "Content-Digest"), last=last)
        assert (answer.status, code(answer), answer["Upload-Complete"]) == (422, "digest-mismatch", "?0")
        assert await offset(relay, path) == 2
    answer = await relay.draft.append(path, 2, CONTENT[2:], sha256(CONTENT[2:], "Content-Digest"), last=True)
    assert answer.status == 200
    assert relay.received() == [CONTENT]


@pytest.mark.parametrize("last", [False, True])
async def test_broken_off_content_with_a_digest_is_discarded(relay, last):
    path = await created(relay, body=CONTENT[:2])
    async with appending(relay, path, sha256(CONTENT[2:], "Content-Digest"), at=2, last=last) as client:
        assert await offset(relay, path) == 2  # which ends the append
        assert (await client.answer()).status == 409
    assert await offset(relay, path) == 2


async def test_digest_of_the_whole_is_checked_at_the_end_and_refuses_for_good(relay):
    answer = await relay.draft.create(10, sha256(b"other", "Repr-Digest"), body=CONTENT[:4])
    path = path_of(answer)
    answer = await relay.draft.append(path, 4, CONTENT[4:], last=True)
    assert (answer.status, code(answer), answer["Upload-Complete"]) == (422, "digest-mismatch", "?1")
    assert (await relay.draft.head(path)).status == 410
    assert relay.upstream.requests == []


async def test_right_digest_of_the_whole(relay):
    path = path_of(await relay.draft.create(10, sha256(CONTENT, "Repr-Digest"), body=CONTENT[:4]))
    assert (await relay.draft.append(path, 4, CONTENT[4:], last=True)).status == 200


@pytest.mark.parametrize(("content", "status"), [(FORM, 200), (b"other", 422)], ids=["right", "wrong"])
async def test_digest_of_a_form_is_that_of_the_multipart_body(relay, content, status):
    digest = sha256(content, "Repr-Digest")
    answer = await relay.draft.ask(
        "POST", "/upload1", "Upload-Complete: ?0", digest, body=FORM[:50], content_type=FORM_TYPE
    )
    answer = await relay.draft.append(path_of(answer), 50, FORM[50:], last=True)
    assert answer.status == status
    assert len(relay.upstream.requests) == (status == 200)


async def test_wanted_digest_is_that_of_the_file(relay):
    path = path_of(await relay.draft.create(10, "Want-Repr-Digest: sha-256=1", body=CONTENT[:4]))
    answer = await relay.draft.append(path, 4, CONTENT[4:], last=True)
    assert base64.b64encode(hashlib.sha256(CONTENT).digest()).decode() in answer["Aiorelay-Digest"]


@pytest.mark.parametrize("wanted_at", ["creation", "end"])
async def test_wanted_digest_of_the_whole_is_on_the_last_answer(relay, wanted_at):
    wanted = {wanted_at: ["Want-Repr-Digest: sha-256=1"]}
    answer = await relay.draft.ask(
        "POST", "/upload1", "Upload-Complete: ?0", *wanted.get("creation", []), body=FORM[:50], content_type=FORM_TYPE
    )
    answer = await relay.draft.append(path_of(answer), 50, FORM[50:], *wanted.get("end", []), last=True)
    assert f"Repr-Digest: {answer['Repr-Digest']}" == sha256(FORM, "Repr-Digest")


async def test_stored_upload_can_be_removed(relay):
    path = path_of(await relay.draft.create(10, body=CONTENT[:4]))
    assert (await relay.draft.append(path, 4, CONTENT[4:], last=True)).status == 200
    assert (await relay.draft.delete(path)).status == 204
    assert {(await relay.draft.head(path)).status, (await relay.draft.delete(path)).status} == {410}


# -- newer requests


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("method", ["HEAD", "PATCH"])
async def test_newer_request_ends_an_older_one(relay, last, method):
    path = await created(relay)
    async with appending(relay, path, last=last) as older:
        await relay.draft.ask(method, path, *relay.draft.patch(0, last=False), **PARTIAL)
        answer = await older.answer()
        assert (answer.status, code(answer)) == (409, "superseded")
    at = await offset(relay, path)
    assert (await relay.draft.append(path, at, CONTENT[at:], last=True)).status == 200
    assert relay.received() == [CONTENT]


@pytest.mark.parametrize("last", [False, True])
async def test_newer_request_in_another_process_ends_an_older_one(start_relay, last):
    """Two servers that share a state directory know nothing of each other, as two processes would not."""
    relay, other = await start_relay(), await start_relay()
    path = await created(relay)
    async with appending(relay, path, last=last) as older:
        at = await offset(other, path)
        assert (await older.answer()).status == 409
        assert (await other.draft.append(path, at, CONTENT[at:], last=True)).status == 200
    assert other.received() == [CONTENT]
    assert relay.received() == []


async def test_append_that_gives_way_at_any_moment_is_neither_a_refusal_nor_an_end(relay):
    choices = random.Random(1)  # noqa: S311 - no secret
    blocks = [bytes(16 * 1024)] * 1000
    for _ in range(15):
        path = await created(relay, None)
        head = relay.draft.raw("PATCH", path, *relay.draft.patch(0, last=True), length=2**30, **PARTIAL)
        async with connected(relay.chain.rest1, relay.chain.tls) as client:
            append = asyncio.create_task(client.ask(head, *blocks))
            await asyncio.sleep(choices.random() / 100)
            while not append.done():  # the first HEAD may come before the append
                assert (await relay.draft.head(path)).status == 204
            answer = append.result()
        assert (answer.status, code(answer)) == (409, "superseded")
        assert (await relay.draft.delete(path)).status == 204


async def test_interrupted_stored_answer_is_the_upload_apis(relay):
    """An answer's own Location is the upload API's, and not the upload's."""
    stored = b"HTTP/1.1 201 Created\r\nLocation: /mine/1\r\nContent-Length: 0\r\n\r\n"
    relay.upstream.script = answering(stored)
    answer = await relay.draft.create(10, body=CONTENT, last=True)
    assert (answer.status, answer["Location"]) == (201, "/mine/1")


@pytest.mark.parametrize("method", ["HEAD", "GET", "PATCH", "DELETE"])
async def test_upload_of_tus_is_none_of_the_draft(relay, method):
    part = path_of(await relay.tus.create(10, "Upload-Concat: partial", body=CONTENT)).replace("/files/", "/uploads/")
    answer = await relay.draft.ask(method, part, *relay.draft.patch(10, last=True), **PARTIAL)
    assert answer.status == 404
    assert relay.upstream.connections == []


@pytest.mark.parametrize("method", ["HEAD", "GET", "PATCH", "DELETE"])
async def test_upload_of_the_draft_is_none_of_tus(relay, method):
    path = (await created(relay, 10, CONTENT[:5])).replace("/uploads/", "/files/")
    answer = await relay.tus.ask(method, path, "Upload-Offset: 5", body=b"", **relay.tus.content)
    assert answer.status == 404
