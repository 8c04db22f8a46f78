"""Objects of object storage as sources."""

import os
import re
import secrets

import pytest
from aiohttp import web
from object_stores import BUCKET, MIB, Exchange, Fault, FaultyStorage, Place, answering, hang
from peers import ask, json_request, request

import aiorelay

pytestmark = pytest.mark.slow

SIZE = 5 * MIB + 7


@pytest.fixture(autouse=True)
def credentials(s3_credentials):
    """Let the relay use the object stores."""


@pytest.fixture
def place(seaweedfs) -> Place:
    return Place(seaweedfs, secrets.token_hex(8))


@pytest.fixture
def relaying(aiorelay_server):
    async def start(endpoint: str, **settings):
        return await aiorelay_server(s3_source=[BUCKET], s3_endpoint=endpoint, **settings)

    return start


async def fetch(chain, source: object, **more: str):
    return await ask(chain.rest1, chain.tls, json_request({"somefile": source, **more}))


def problem(answer) -> tuple[int, str]:
    return answer.status, answer.json()["type"].removeprefix("urn:aiorelay:")


def breaking_at(count: int):
    """An answer that breaks off after ``count`` bytes of its body."""

    async def act(exchange: Exchange) -> web.StreamResponse:
        whole = await exchange.forward()
        answer = web.StreamResponse(status=whole.status, headers=whole.headers)
        answer.content_length = len(whole.body)
        await answer.prepare(exchange.request)
        await answer.write(whole.body[:count])
        exchange.cut()
        return answer

    return act


def after(change, act):
    """``act``, and then ``change``."""

    async def both(exchange: Exchange) -> web.StreamResponse:
        answer = await act(exchange)
        await change()
        return answer

    return both


@pytest.mark.parametrize("size", [0, 1, SIZE])
async def test_an_object_is_relayed(place, relaying, size):
    content = os.urandom(size)
    await place.put("dir/ü a+b.bin", content, ContentType="binary/octet-stream")
    answer = await fetch(await relaying(place.endpoint), f"{place.url}/dir/ü a+b.bin", note="text")
    (file,) = answer.json()["files"]
    assert (answer.status, file["filename"], file["size"]) == (200, "ü a+b.bin", size)
    assert file["content_type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("options", "name", "kind"),
    [
        ({"ContentType": "text/x-own"}, "a.pdf", "text/x-own"),
        ({"ContentType": "binary/octet-stream"}, "a.pdf", "application/pdf"),
        ({"ContentDisposition": 'attachment; filename="b"', "ContentType": "text/csv"}, "b", "text/csv"),
    ],
    ids=["its type", "type by name", "its disposition"],
)
async def test_name_and_type_are_those_of_the_object(place, relaying, options, name, kind):
    await place.put("a.pdf", b"content", **options)
    (file,) = (await fetch(await relaying(place.endpoint), f"{place.url}/a.pdf")).json()["files"]
    assert (file["filename"], file["content_type"]) == (name, kind)


async def test_several_objects_make_one_form(place, relaying):
    for name in ("a", "b"):
        await place.put(name, name.encode())
    answer = await fetch(await relaying(place.endpoint), [f"{place.url}/a", {"source": f"{place.url}/b"}])
    assert [file["filename"] for file in answer.json()["files"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("s3://secret/key", (403, "host-refused")),
        (f"s3://{BUCKET}", (400, "bad-source")),
        (f"s3://{BUCKET}/", (400, "bad-source")),
        (f"s3://{BUCKET}/a/../b", (400, "bad-source")),
        (f"s3://{BUCKET}/{'k' * 1025}", (400, "bad-source")),
        (f"s3://{BUCKET}/nothing", (404, "source-missing")),
    ],
    ids=["another bucket", "no key", "empty key", "dots", "long key", "missing"],
)
async def test_refusals(seaweedfs, relaying, source, expected):
    assert problem(await fetch(await relaying(seaweedfs), source)) == expected


@pytest.mark.parametrize(
    ("act", "failures"),
    [(answering(404, "NoSuchKey"), []), (answering(403, "AccessDenied"), ['{call="GetObject"} 1.0'])],
    ids=["missing", "denied"],
)
async def test_a_missing_object_is_no_failure_in_the_metrics(seaweedfs, relaying, act, failures):
    async with FaultyStorage(seaweedfs, Fault("GetObject", act)) as faulty:
        chain = await relaying(faulty.url)
        await fetch(chain, f"s3://{BUCKET}/a")
    answer = await ask(chain.rest1, chain.tls, request("/metrics", b"", method="GET", content_type=None))
    metrics = answer.body.decode()
    assert re.findall(r"^aiorelay_storage_seconds_count(.*)", metrics, re.MULTILINE) == ['{call="GetObject"} 1.0']
    assert re.findall(r"^aiorelay_storage_errors_total(.*)", metrics, re.MULTILINE) == failures


async def test_without_source_buckets_objects_are_refused(aiorelay_server):
    assert problem(await fetch(await aiorelay_server(), f"s3://{BUCKET}/a")) == (403, "host-refused")


async def test_a_body_that_breaks_off_is_resumed(place, relaying):
    content = os.urandom(SIZE)
    await place.put("a", content)
    async with FaultyStorage(place.endpoint, Fault("GetObject", breaking_at(MIB), 3)) as faulty:
        chain = await relaying(faulty.url)
        assert (await fetch(chain, f"{place.url}/a")).status == 200
        assert faulty.seen.count("GetObject") == 4
    assert chain.stored()[0].read_bytes() == content


async def test_an_object_that_changed_is_not_resumed(place, relaying):
    await place.put("a", os.urandom(SIZE))

    async def change() -> None:
        await place.put("a", os.urandom(SIZE))

    async with FaultyStorage(place.endpoint, Fault("GetObject", after(change, breaking_at(MIB)))) as faulty:
        chain = await relaying(faulty.url)
        assert problem(await fetch(chain, f"{place.url}/a")) == (502, "source-failed")
    assert chain.stored() == []


@pytest.mark.parametrize(
    ("act", "times", "idle", "expected"),
    [
        (breaking_at(MIB), 4, "10s", (502, "source-failed")),
        (answering(503, "SlowDown"), 4, "10s", (502, "source-failed")),
        (answering(403, "AccessDenied"), 1, "10s", (502, "source-failed")),
        (hang, 1, "500ms", (504, "source-timeout")),
    ],
    ids=["breaks off", "slow down", "denied", "hangs"],
)
async def test_a_lasting_failure_is_told(place, relaying, act, times, idle, expected):
    await place.put("a", os.urandom(SIZE))
    async with FaultyStorage(place.endpoint, Fault("GetObject", act, times)) as faulty:
        chain = await relaying(faulty.url, idle_timeout=idle)
        assert problem(await fetch(chain, f"{place.url}/a")) == expected
    assert chain.stored() == []


async def test_a_temporary_failure_is_retried(place, relaying):
    await place.put("a", b"content")
    async with FaultyStorage(place.endpoint, Fault("GetObject", answering(503, "SlowDown"), 2)) as faulty:
        assert (await fetch(await relaying(faulty.url), f"{place.url}/a")).status == 200


async def test_sources_need_credentials(aiorelay_server, monkeypatch):
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "")
    with pytest.raises(aiorelay.StartupError, match=re.escape("s3-source: there are no credentials.")):
        await aiorelay_server(s3_source=[BUCKET])
