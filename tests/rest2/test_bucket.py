"""Files are stored in object storage completely or not at all."""

import asyncio
import hashlib
import os
import re
import secrets
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from object_stores import (
    BUCKET,
    MIB,
    Fault,
    FaultyStorage,
    Place,
    answering,
    hang,
    lose_answer,
    reset_in_body,
    wrong_etag,
)
from peers import PATIENCE, ask, connected, form, part, request, run
from processes import FREE_PORTS, started
from real_apis import SECRET_KEY

import aiorelay

pytestmark = pytest.mark.slow

PART = 8 * MIB
FOREVER = 10**6


@pytest.fixture(autouse=True)
def credentials(s3_credentials):
    """Let the relay use the object stores."""


@pytest.fixture
def place(seaweedfs) -> Place:
    return Place(seaweedfs, secrets.token_hex(8))


@pytest.fixture(params=["seaweedfs", "digest_verifier"])
def any_place(request) -> Place:
    return Place(request.getfixturevalue(request.param), secrets.token_hex(8))


@pytest.fixture
def storing(aiorelay_server):
    async def start(place: Place, endpoint: str | None = None, **settings):
        settings = {"only": "rest2", "s3_endpoint": endpoint or place.endpoint, **settings}
        return await aiorelay_server(store=place.url, **settings)

    return start


async def upload(chain, *parts: bytes, **options):
    return await ask(chain.rest2, chain.tls, request("/upload", form(*parts), **options))


def problem(answer) -> tuple[int, str]:
    return answer.status, answer.json()["type"].removeprefix("urn:aiorelay:")


async def soon(condition: Callable) -> None:
    async with asyncio.timeout(PATIENCE):
        while not await condition():  # noqa: ASYNC110 - another process's state
            await asyncio.sleep(0.05)


async def nothing_in(place: Place) -> bool:
    return not await place.objects() and not await place.unfinished()


def key_of(place: Place, path: str) -> str:
    return path.removeprefix(f"{place.url}/")


# -- kept


@pytest.mark.parametrize("size", [0, 1, PART - 1, PART, PART + 1, 3 * PART, 3 * PART + 5])
async def test_a_file_of_any_size_is_stored(any_place, storing, size):
    chain = await storing(any_place)
    content = os.urandom(size)
    answer = await upload(chain, part("any", content, "a b.txt", "Content-Type: text/x-own"))
    (described,) = answer.json()["files"]
    assert answer.status == 200
    assert described == {
        "field": "any",
        "filename": "a b.txt",
        "path": answer.json()["path"],
        "size": size,
        "sha256": hashlib.sha256(content).hexdigest(),
        "content_type": "text/x-own",
    }
    assert re.fullmatch(f"{re.escape(any_place.url)}/[0-9a-f]{{32}}/a b.txt", described["path"])
    assert await any_place.objects() == {key_of(any_place, described["path"]): content}
    assert (await any_place.head(key_of(any_place, described["path"])))["ContentType"] == "text/x-own"
    assert await any_place.unfinished() == []
    assert (chain.store, chain.stored()) == (None, [])


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_files_of_one_form_share_a_prefix(any_place, storing, chunked):
    chain = await storing(any_place)
    contents = [os.urandom(size) for size in (5 * MIB, 4 * MIB, 10, 2 * PART, 0, 3 * MIB)]
    answer = await upload(chain, *[part("a", content, "a.bin") for content in contents], chunked=chunked)
    objects = await any_place.objects()
    paths = [key_of(any_place, file["path"]) for file in answer.json()["files"]]
    assert [objects[path] for path in paths] == contents
    assert len(objects) == len(contents)
    assert len({path.partition("/")[0] for path in paths}) == 1


async def test_a_name_of_any_characters_is_stored(place, storing):
    chain = await storing(place)
    name = "ü 日本 a+b&c=d%41#e;f~'(g)!.txt"
    answer = await upload(chain, part("a", b"content", name))
    assert answer.json()["path"].endswith(f"/{name}")
    assert await place.objects() == {key_of(place, answer.json()["path"]): b"content"}


async def test_uploads_at_once_do_not_mix(place, storing):
    chain = await storing(place)
    contents = {f"{number}.bin": os.urandom(number * MIB) for number in range(1, 13, 3)}
    async with asyncio.TaskGroup() as group:
        for name, content in contents.items():
            group.create_task(upload(chain, part("a", content, name)))
    assert {key.partition("/")[2]: content for key, content in (await place.objects()).items()} == contents


async def test_an_upload_through_the_relay_is_stored(place, aiorelay_server):
    chain = await aiorelay_server(store=place.url, s3_endpoint=place.endpoint)
    content = os.urandom(2 * PART)
    answer = await ask(chain.rest1, chain.tls, request("/upload1", form(part("somefile", content, "a"))))
    assert (await place.objects())[key_of(place, answer.json()["path"])] == content


async def test_a_store_may_be_a_whole_bucket(seaweedfs, storing):
    bucket = Place(seaweedfs, "")
    bucket.url = f"s3://{BUCKET}"
    answer = await upload(await storing(bucket), part("a", b"content", "a"))
    assert re.fullmatch(f"s3://{BUCKET}/[0-9a-f]{{32}}/a", answer.json()["path"])


# -- not kept


@pytest.mark.parametrize("way", ["reset", "finish", "close"])
async def test_aborted_uploads_leave_nothing(place, storing, way):
    chain = await storing(place)
    sent = request("/upload", form(part("a", b"first", "a"), part("b", os.urandom(3 * PART), "b")))
    async with connected(chain.rest2, chain.tls) as client:
        await client.send(sent[: 2 * PART])
        await soon(place.unfinished)
        assert await place.objects() == {}
        getattr(client, way)()
    await soon(lambda: nothing_in(place))


async def test_a_file_is_not_visible_before_the_form_is_complete(place, storing):
    chain = await storing(place)
    sent = request("/upload", form(part("a", os.urandom(2 * PART + 1), "a"), part("b", b"small", "b")))
    async with connected(chain.rest2, chain.tls) as client:
        await client.send(sent[:-4])
        await soon(place.unfinished)
        assert await place.objects() == {}
        answer = await client.ask(sent[-4:])
    assert answer.status == 200
    assert len(await place.objects()) == 2


@pytest.mark.parametrize("size", [10, 2 * PART])
async def test_refusals_leave_nothing(place, storing, size):
    chain = await storing(place, max_size=2 * PART)
    whole = form(part("a", b"x" * size, "a"), part("b", b"y" * size, "b"))
    assert problem(await ask(chain.rest2, chain.tls, request("/upload", whole[:-9]))) == (400, "truncated")
    too_large = form(part("a", b"x" * size, "a"), part("b", b"y" * (2 * PART + 1), "b"))
    assert problem(await ask(chain.rest2, chain.tls, request("/upload", too_large))) == (413, "too-large")
    assert await nothing_in(place)


async def test_a_shutdown_in_mid_upload_leaves_nothing(place, tmp_path):
    relay = started(*arguments(place, tmp_path), "--grace", "0")
    async with relay as relay, connected(relay.rest2, relay.tls) as client:
        await client.send(request("/upload", form(part("a", os.urandom(3 * PART), "a")))[: 2 * PART])
        await soon(place.unfinished)
        await relay.stop()
    assert await nothing_in(place)
    assert not list((tmp_path / "state" / "object-storage").glob("*/*"))


# -- leftovers


def arguments(place: Place, directory: Path) -> list[str]:
    state = str(directory / "state")
    return ["--only", "rest2", *FREE_PORTS, "--state-dir", state, "--store", place.url, "--s3-endpoint", place.endpoint]


async def test_the_next_start_aborts_what_a_kill_left(any_place, tmp_path):
    sent = request("/upload", form(part("a", os.urandom(3 * PART), "a")))
    async with started(*arguments(any_place, tmp_path)) as relay, connected(relay.rest2, relay.tls) as client:
        await client.send(sent[: 2 * PART])
        await soon(any_place.unfinished)
        await relay.stop(signal.SIGKILL)
    assert await any_place.objects() == {}
    assert len(await any_place.unfinished()) == 1
    async with started(*arguments(any_place, tmp_path)):
        assert await nothing_in(any_place)


async def test_the_next_start_keeps_what_others_write(place, tmp_path, storing):
    await place.begin("0123456789abcdef0123456789abcdef/of-another-machine")
    await place.begin("notes/of-somebody-else")
    sent = request("/upload", form(part("a", os.urandom(2 * PART), "a")))
    async with started(*arguments(place, tmp_path)) as relay, connected(relay.rest2, relay.tls) as client:
        await client.send(sent[:-10])
        await soon(lambda: has_more(place, 2))
        await storing(place, state_dir=tmp_path / "state")
        assert len(await place.unfinished()) == 3
        assert (await client.ask(sent[-10:])).status == 200
    assert sorted(await place.unfinished()) == [
        "0123456789abcdef0123456789abcdef/of-another-machine",
        "notes/of-somebody-else",
    ]


async def has_more(place: Place, count: int) -> bool:
    return len(await place.unfinished()) > count


# -- a storage that fails


RECOVERED = {
    "slow down": ("UploadPart", answering(503, "SlowDown"), 2),
    "internal error": ("UploadPart", answering(500, "InternalError"), 1),
    "reset in mid-part": ("UploadPart", reset_in_body, 2),
    "part changed on its way": ("UploadPart", answering(400, "XAmzContentSHA256Mismatch"), 1),
    "answer to a part lost": ("UploadPart", lose_answer, 1),
    "part hangs": ("UploadPart", hang, 1),
    "creation slowed down": ("CreateMultipartUpload", answering(503, "SlowDown"), 2),
    "answer to the creation lost": ("CreateMultipartUpload", lose_answer, 1),
    "completion slowed down": ("CompleteMultipartUpload", answering(503, "SlowDown"), 2),
    "completion fails in a 200": ("CompleteMultipartUpload", answering(200, "InternalError"), 1),
    "answer to the completion lost": ("CompleteMultipartUpload", lose_answer, 1),
    "small file slowed down": ("PutObject", answering(503, "SlowDown"), 2),
    "answer to the small file lost": ("PutObject", lose_answer, 1),
}


@pytest.mark.parametrize(("of", "act", "times"), RECOVERED.values(), ids=RECOVERED)
async def test_a_temporary_failure_is_retried(any_place, storing, of, act, times):
    fault = Fault(of, act, times)
    async with FaultyStorage(any_place.endpoint, fault) as faulty:
        chain = await storing(any_place, faulty.url, answer_timeout="6s")
        contents = [os.urandom(2 * PART), b"small"]
        answer = await upload(chain, *[part("a", content, "a") for content in contents])
        assert (answer.status, fault.times) == (200, 0)
        objects = await any_place.objects()
        assert [objects[key_of(any_place, file["path"])] for file in answer.json()["files"]] == contents
        assert len(objects) == 2
        assert await any_place.unfinished() == []


FAILED = {
    "slow down": ("UploadPart", answering(503, "SlowDown"), (503, "storage-unavailable")),
    "internal error": ("UploadPart", answering(500, "InternalError"), (502, "storage-failed")),
    "resets": ("UploadPart", reset_in_body, (502, "storage-failed")),
    "answers lost": ("UploadPart", lose_answer, (502, "storage-failed")),
    "hangs": ("UploadPart", hang, (502, "storage-failed")),
    "wrong ETags": ("UploadPart", wrong_etag, (502, "storage-failed")),
    "full": ("UploadPart", answering(507, "XMinioStorageFull"), (507, "storage-full")),
    "denied": ("CreateMultipartUpload", answering(403, "AccessDenied"), (502, "storage-failed")),
    "completion slowed down": (
        "CompleteMultipartUpload",
        answering(503, "SlowDown"),
        (503, "storage-unavailable"),
    ),
    "completion hangs": ("CompleteMultipartUpload", hang, (502, "storage-failed")),
    "small file slowed down": ("PutObject", answering(503, "SlowDown"), (503, "storage-unavailable")),
    "small file over the quota": ("PutObject", answering(403, "QuotaExceeded"), (507, "storage-full")),
}


@pytest.mark.parametrize(("of", "act", "expected"), FAILED.values(), ids=FAILED)
async def test_a_lasting_failure_leaves_nothing(any_place, storing, of, act, expected):
    async with FaultyStorage(any_place.endpoint, Fault(of, act, FOREVER)) as faulty:
        chain = await storing(any_place, faulty.url, answer_timeout="2s")
        parts = [part("a", os.urandom(2 * PART), "a"), part("b", b"small", "b")]
        assert problem(await upload(chain, *parts)) == expected
        assert await nothing_in(any_place)


async def test_the_relay_passes_the_failure_on(place, aiorelay_server):
    async with FaultyStorage(place.endpoint, Fault("UploadPart", hang, FOREVER)) as faulty:
        chain = await aiorelay_server(store=place.url, s3_endpoint=faulty.url, answer_timeout="3s", idle_timeout="3s")
        sent = request("/upload1", form(part("somefile", os.urandom(5 * PART), "a")))
        assert problem(await ask(chain.rest1, chain.tls, sent)) == (502, "storage-failed")
        assert await nothing_in(place)


async def test_what_is_published_is_removed_when_another_file_fails(place, storing):
    async with FaultyStorage(place.endpoint, Fault("CompleteMultipartUpload", answering(500, "X"), FOREVER)) as faulty:
        chain = await storing(place, faulty.url, answer_timeout="2s")
        answer = await upload(chain, part("a", os.urandom(2 * PART), "a"), part("b", b"small", "b"))
        assert problem(answer) == (502, "storage-failed")
        assert "PutObject" in faulty.seen
        assert await nothing_in(place)


async def test_a_client_that_leaves_during_the_completion_leaves_nothing(place, storing):
    fault = Fault("CompleteMultipartUpload", hang)
    async with FaultyStorage(place.endpoint, fault) as faulty:
        chain = await storing(place, faulty.url, answer_timeout="3s")
        async with connected(chain.rest2, chain.tls) as client:
            await client.send(request("/upload", form(part("a", os.urandom(2 * PART), "a"))))
            await fault.met.wait()
            client.reset()
        await soon(lambda: nothing_in(place))


async def test_removal_goes_on_until_the_storage_is_back(place, storing):
    fault = Fault("AbortMultipartUpload", answering(503, "SlowDown"), 4)
    async with FaultyStorage(place.endpoint, fault) as faulty:
        chain = await storing(place, faulty.url)
        sent = form(part("a", os.urandom(2 * PART), "a"))[:-9]
        assert problem(await ask(chain.rest2, chain.tls, request("/upload", sent))) == (400, "truncated")
        await soon(lambda: nothing_in(place))
        assert fault.times == 0


# -- metrics


async def metrics(relay) -> list[str]:
    """Return the lines of ``/metrics`` that count requests to the storage, and their failures."""
    answer = await ask(relay.rest1, relay.tls, request("/metrics", b"", method="GET", content_type=None))
    counts = re.findall(r"^aiorelay_storage_(?:seconds_count|errors_total).*", answer.body.decode(), re.MULTILINE)
    return sorted(line.removeprefix("aiorelay_storage_") for line in counts)


LARGE_AND_SMALL = [part("somefile", bytes(2 * PART), "a"), part("somefile", b"small", "b")]
THEIR_COUNTS = [
    'seconds_count{call="CompleteMultipartUpload"} 1.0',
    'seconds_count{call="CreateMultipartUpload"} 1.0',
    'seconds_count{call="ListMultipartUploads"} 1.0',
    'seconds_count{call="PutObject"} 1.0',
    'seconds_count{call="UploadPart"} 2.0',
]


async def test_metrics_count_requests_by_their_names_in_s3(place, aiorelay_server):
    chain = await aiorelay_server(store=place.url, s3_endpoint=place.endpoint)
    assert (await ask(chain.rest1, chain.tls, request("/upload1", form(*LARGE_AND_SMALL)))).status == 200
    assert await metrics(chain) == THEIR_COUNTS


@pytest.mark.parametrize("act", [answering(503, "SlowDown"), reset_in_body], ids=["slow down", "reset"])
async def test_metrics_count_each_failed_attempt(place, aiorelay_server, act):
    async with FaultyStorage(place.endpoint, Fault("UploadPart", act, 2)) as faulty:
        chain = await aiorelay_server(store=place.url, s3_endpoint=faulty.url)
        assert (await ask(chain.rest1, chain.tls, request("/upload1", form(*LARGE_AND_SMALL)))).status == 200
        counts = [*THEIR_COUNTS[:-1], 'seconds_count{call="UploadPart"} 4.0']
        assert await metrics(chain) == ['errors_total{call="UploadPart"} 2.0', *counts]


async def test_metrics_are_the_sum_of_all_processes(place, tmp_path):
    places = ["--state-dir", str(tmp_path / "state"), "--store", place.url, "--s3-endpoint", place.endpoint]
    sent = request("/upload1", form(part("somefile", b"small", "a")))
    async with started("--processes", "2", *FREE_PORTS, *places) as relay:
        for _ in range(6):  # each on a new connection, to any process
            assert (await ask(relay.rest1, relay.tls, sent)).status == 200
        at_the_start = 'seconds_count{call="ListMultipartUploads"} 2.0'
        assert await metrics(relay) == [at_the_start, 'seconds_count{call="PutObject"} 6.0']


# -- starting


@pytest.mark.parametrize(
    ("store", "environment", "words"),
    [
        ("s3://no-such-bucket", {}, "cannot be used: NoSuchBucket (404); create the bucket"),
        (f"s3://{BUCKET}", {"AWS_ACCESS_KEY_ID": "somebody"}, "InvalidAccessKeyId"),
        (f"s3://{BUCKET}", {"AWS_SECRET_ACCESS_KEY": "wrong"}, "SignatureDoesNotMatch"),
        (f"s3://{BUCKET}", {"AWS_ACCESS_KEY_ID": ""}, "there are no credentials. Set AWS_ACCESS_KEY_ID"),
    ],
    ids=["no bucket", "no such key", "wrong secret", "no credentials"],
)
async def test_a_store_that_cannot_be_used_is_told_at_the_start(
    seaweedfs, aiorelay_server, monkeypatch, store, environment, words
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(aiorelay.StartupError, match=re.escape(words)):
        await aiorelay_server(only="rest2", store=store, s3_endpoint=seaweedfs)


async def test_aws_needs_a_region(aiorelay_server, monkeypatch):
    monkeypatch.delenv("AWS_DEFAULT_REGION")
    with pytest.raises(aiorelay.StartupError, match="Set AWS_DEFAULT_REGION"):
        await aiorelay_server(only="rest2", store=f"s3://{BUCKET}")


async def test_a_storage_that_is_away_at_the_start_may_come_back(place, storing):
    async with FaultyStorage(
        place.endpoint, Fault("ListMultipartUploads", answering(503, "SlowDown"), FOREVER)
    ) as faulty:
        chain = await storing(place, faulty.url)
        assert (await upload(chain, part("a", b"content", "a"))).status == 200


async def test_the_log_never_contains_the_secret_key(place, tmp_path):
    fault = Fault("PutObject", answering(403, "AccessDenied"), FOREVER)
    async with FaultyStorage(place.endpoint, fault) as faulty:
        place.endpoint = faulty.url
        async with started(*arguments(place, tmp_path), "--log-level", "debug") as relay:
            answer = await ask(relay.rest2, relay.tls, request("/upload", form(part("a", b"content", "a"))))
            await relay.logged("AccessDenied")
        assert answer.status == 502
        assert SECRET_KEY not in relay.log + answer.body.decode()


async def test_a_relay_without_object_storage_does_not_import_the_sdk():
    script = (
        "import asyncio, sys, tempfile, aiorelay\n"
        "async def main():\n"
        "    async with aiorelay.serve(aiorelay.Settings(rest1_port=0, rest2_port=0, state_dir=tempfile.mkdtemp())):\n"
        "        print(sorted(name for name in sys.modules if name.startswith('botocore')))\n"
        "asyncio.run(main())\n"
    )
    assert (await run(sys.executable, "-c", script))[1] == "[]\n"


async def test_memory_holds_two_parts_of_an_upload(place, tmp_path):
    async with started(*arguments(place, tmp_path)) as relay:
        await ask(relay.rest2, relay.tls, request("/upload", form(part("a", os.urandom(PART), "a"))))
        before = relay.peak_memory
        sent = request("/upload", form(part("a", os.urandom(16 * PART), "a")))
        assert (await ask(relay.rest2, relay.tls, sent)).status == 200
        assert relay.peak_memory - before < 3 * PART
