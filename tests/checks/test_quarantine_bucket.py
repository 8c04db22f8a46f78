"""``quarantine = s3://…``: refused files are moved to object storage, and none is lost while the storage fails."""

import hashlib
import json
import os
import re
import secrets
import signal
import time
from pathlib import Path

import pytest
from object_stores import MIB, Fault, FaultyStorage, Place, answering, hang, lose_answer
from peers import ask, eventually, form, part, request
from processes import FREE_PORTS, started

from aiorelay import Refused, StartupError

pytestmark = pytest.mark.slow

LARGE = bytes(range(256)) * (17 * MIB // 256)  # three parts
FOREVER = 10**6
DENIED = answering(403, "AccessDenied")


class Everything:
    """A validator that refuses every file at its end."""

    def __init__(self, _file):
        pass

    def feed(self, _chunk):
        pass

    def finish(self):
        raise Refused("never")


@pytest.fixture(autouse=True)
def credentials(s3_credentials):
    """Let the relay use the object stores."""


@pytest.fixture
def place(digest_verifier):
    return Place(digest_verifier, secrets.token_hex(8))


@pytest.fixture(params=["seaweedfs", "digest_verifier"])
def any_place(request):
    return Place(request.getfixturevalue(request.param), secrets.token_hex(8))


@pytest.fixture
def waiting(tmp_path):
    return tmp_path / "state" / "quarantine"


@pytest.fixture
def relay(aiorelay_server, tmp_path):
    async def start(place, endpoint=None, **settings):
        settings = {"state_dir": tmp_path / "state", "s3_endpoint": endpoint or place.endpoint, **settings}
        return await aiorelay_server(quarantine=place.url, validator=[f"{__name__}:Everything"], **settings)

    return start


async def refused(rest1, tls, content=b"bytes"):
    """Upload a file, which is refused as without a quarantine."""
    answer = await ask(rest1, tls, request("/upload1", form(part("somefile", content, "a.exe"))))
    assert (answer.status, answer.json()["detail"]) == (422, "never")


async def counted(chain, outcome):
    answer = await ask(chain.rest1, chain.tls, b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    return f'aiorelay_quarantined_files_total{{outcome="{outcome}"}} 1.0' in answer.body.decode()


def entries(directory):
    return sorted(path.name for path in directory.iterdir())


def is_kept(objects, content):
    """Whether the objects are one file with its verdict, and nothing else."""
    (name,) = (key for key in objects if not key.endswith(".json"))
    verdict = json.loads(objects[f"{name}.json"])
    assert re.fullmatch("[0-9a-f]{32}", name)
    assert (verdict["id"], verdict["filename"], verdict["detail"]) == (name, "a.exe", "never")
    assert (verdict["size"], verdict["sha256"]) == (len(content), hashlib.sha256(content).hexdigest())
    return len(objects) == 2 and objects[name] == content


@pytest.mark.parametrize("content", [b"", b"bytes", LARGE], ids=["empty", "small", "large"])
async def test_a_refused_file_is_moved_to_the_bucket(any_place, relay, waiting, content):
    chain = await relay(any_place)
    await refused(chain.rest1, chain.tls, content)
    await eventually(lambda: entries(waiting) == [])
    assert is_kept(await any_place.objects(), content)
    assert await any_place.unfinished() == []
    assert await counted(chain, "kept")
    assert await counted(chain, "moved")


@pytest.mark.parametrize(
    ("of", "content", "left"),
    [
        ("PutObject", b"bytes", 0),
        ("UploadPart", LARGE, 0),
        ("CompleteMultipartUpload", LARGE, 0),
        ("PutObject", LARGE, 1),
    ],
    ids=["small", "part", "completion", "verdict"],
)
async def test_a_file_waits_while_the_storage_refuses_it(relay, place, waiting, caplog, of, content, left):
    async with FaultyStorage(place.endpoint, Fault(of, DENIED, FOREVER)) as faulty:
        chain = await relay(place, faulty.url)
        await refused(chain.rest1, chain.tls, content)
        await eventually(lambda: "cannot be moved" in caplog.text)
        assert await counted(chain, "delayed")
    assert list((await place.objects()).values()) == [content] * left
    assert await place.unfinished() == []
    assert len(entries(waiting)) == 2
    await relay(place)
    await eventually(lambda: len(entries(waiting)) == 0)
    assert is_kept(await place.objects(), content)


@pytest.mark.parametrize("act", [answering(503, "SlowDown"), lose_answer], ids=["slow down", "answer lost"])
@pytest.mark.parametrize("of", ["PutObject", "CreateMultipartUpload", "UploadPart"])
async def test_a_request_is_repeated(relay, place, waiting, of, act):
    async with FaultyStorage(place.endpoint, Fault(of, act)) as faulty:
        chain = await relay(place, faulty.url)
        await refused(chain.rest1, chain.tls, LARGE)
        await eventually(lambda: entries(waiting) == [])
    assert is_kept(await place.objects(), LARGE)
    assert await place.unfinished() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["stopped", "killed"])
async def test_the_next_start_moves_what_an_end_interrupted(place, waiting, tmp_path, number):
    def process(endpoint):
        options = ("--validator", f"{Path(__file__).stem}:Everything", "--quarantine", place.url, *FREE_PORTS)
        paths = os.pathsep.join(map(str, (Path(__file__).parent, Path(__file__).parent.parent)))
        state = ("--state-dir", str(tmp_path / "state"), "--s3-endpoint", endpoint)
        return started(*options, *state, env={"PYTHONPATH": paths})

    fault = Fault("UploadPart", hang)
    async with FaultyStorage(place.endpoint, fault) as faulty, process(faulty.url) as first:
        await refused(first.rest1, first.tls, LARGE)
        await fault.met.wait()
        await first.stop(number)
    assert await place.objects() == {}
    assert len(await place.unfinished()) == (number == signal.SIGKILL)
    assert len(entries(waiting)) == 2
    async with process(place.endpoint):
        await eventually(lambda: entries(waiting) == [])
    assert is_kept(await place.objects(), LARGE)
    assert await place.unfinished() == []


async def test_a_file_that_waited_too_long_is_given_up(relay, place, waiting, caplog):
    async with FaultyStorage(place.endpoint, Fault("PutObject", DENIED, FOREVER)) as faulty:
        first = await relay(place, faulty.url)
        await refused(first.rest1, first.tls)
        await eventually(lambda: "cannot be moved" in caplog.text)
        for path in waiting.iterdir():
            os.utime(path, (time.time() - 7200, time.time() - 7200))
        second = await relay(place, faulty.url, quarantine_expiry="1h")
        await eventually(lambda: entries(waiting) == [])
        assert await counted(second, "lost")
    assert "expired before it could be moved" in caplog.text
    assert await place.objects() == {}


async def test_files_that_wait_count_towards_the_limit(relay, place, waiting, caplog):
    async with FaultyStorage(place.endpoint, Fault("PutObject", DENIED, FOREVER)) as faulty:
        chain = await relay(place, faulty.url, quarantine_max_size=8)
        await refused(chain.rest1, chain.tls)
        await refused(chain.rest1, chain.tls)
        assert "the quarantine is full" in caplog.text
        assert len(entries(waiting)) == 2


async def test_a_file_that_cannot_be_moved_does_not_keep_others(relay, place, waiting, caplog):
    async with FaultyStorage(place.endpoint, Fault("PutObject", DENIED)) as faulty:
        chain = await relay(place, faulty.url)
        await refused(chain.rest1, chain.tls)
        await eventually(lambda: "cannot be moved" in caplog.text)
        await refused(chain.rest1, chain.tls)
        await eventually(lambda: len(entries(waiting)) == 2)
    assert is_kept(await place.objects(), b"bytes")


async def test_a_moved_file_gives_its_room_back(relay, place, waiting):
    chain = await relay(place, quarantine_max_size=8)
    for count in (2, 4):
        await refused(chain.rest1, chain.tls)
        await eventually(lambda: entries(waiting) == [])
        assert len(await place.objects()) == count


async def test_a_bucket_that_does_not_exist_refuses_the_start(aiorelay_server, place):
    with pytest.raises(StartupError, match="quarantine: s3://no-such-bucket cannot be used: NoSuchBucket"):
        await aiorelay_server(quarantine="s3://no-such-bucket", s3_endpoint=place.endpoint)


async def test_a_storage_that_is_away_at_the_start_may_come_back(relay, place, waiting):
    fault = Fault("ListMultipartUploads", answering(503, "SlowDown"), FOREVER)
    async with FaultyStorage(place.endpoint, fault) as faulty:
        chain = await relay(place, faulty.url)
        await refused(chain.rest1, chain.tls)
        await eventually(lambda: entries(waiting) == [])
    assert is_kept(await place.objects(), b"bytes")
