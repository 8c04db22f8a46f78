"""Limits of resumable uploads: what is refused early, the quota, full disks, expiry, and many uploads at once."""

import asyncio
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from peers import BOUNDARY, DONE, eventually, form, part
from processes import FREE_PORTS, started
from resumable_requests import Tus, code, path_of

pytestmark = pytest.mark.slow

KIB, MIB = 1024, 1024 * 1024
FORM_TYPE = f"multipart/form-data; boundary={BOUNDARY}"
PNG = b"\x89PNG\r\n\x1a\n"


async def told(relay, protocol, path) -> tuple[int, int | None]:
    """Return the status of HEAD, and the offset that it tells."""
    answer = await relay.speaking(protocol).head(path)
    offsets = answer.all("Upload-Offset")
    return answer.status, int(offsets[0]) if offsets else None


# -- early refusals


async def test_content_beyond_the_largest_size_is_refused_with_the_limit(start_relay, protocol):
    relay = await start_relay(max_size="1KiB")
    path = path_of(await relay.speaking(protocol).create(None, body=bytes(1024)))
    answer = await relay.speaking(protocol).append(path, 1024, b"x")
    assert (answer.status, code(answer)) == (413, "too-large")
    if protocol == "http":
        assert answer["Upload-Limit"].startswith("max-size=1024, ")
    assert await told(relay, protocol, path) == (410, None)


async def test_form_beyond_the_largest_form_is_refused_at_creation(start_relay):
    relay = await start_relay(max_size="1KiB", max_fields_size="1KiB")
    told = ["Upload-Complete: ?0", f"Upload-Length: {2 * MIB}"]
    answer = await relay.draft.ask("POST", "/upload1", *told, content_type=FORM_TYPE)
    assert (answer.status, code(answer)) == (413, "too-large")


async def test_file_of_a_refused_type_is_refused_by_its_first_bytes(start_relay, protocol):
    relay = await start_relay(accept=["image/png"])
    requests = relay.speaking(protocol)
    path = path_of(await requests.create(MIB))
    answer = await requests.append(path, 0, b"%PDF-1.7\n" + bytes(10_000))
    assert (answer.status, code(answer)) == (415, "type-refused")
    assert await told(relay, protocol, path) == (410, None)
    assert (await requests.get(path)).json()["problem"]["type"] == "urn:aiorelay:type-refused"


async def test_file_of_an_accepted_type_goes_on(start_relay, protocol):
    relay = await start_relay(accept=["image/png"])
    requests = relay.speaking(protocol)
    path = path_of(await requests.create(MIB))
    assert (await requests.append(path, 0, PNG[:4])).status == 204
    assert (await requests.append(path, 4, PNG[4:] + bytes(1000))).status == 204


async def test_file_of_a_refused_type_in_a_form_is_refused_by_its_first_bytes(start_relay):
    relay = await start_relay(accept=["image/png"])
    content = form(part("before", "1"), part("somefile", b"%PDF-1.7\n" + bytes(MIB), "a.png"))
    answer = await relay.draft.ask(
        "POST", "/upload1", "Upload-Complete: ?0", body=content[:10_000], content_type=FORM_TYPE
    )
    assert (answer.status, code(answer)) == (415, "type-refused")


async def test_form_that_is_malformed_is_refused_by_its_first_bytes(relay):
    answer = await relay.draft.ask(
        "POST", "/upload1", "Upload-Complete: ?0", body=b"no form" * 100, content_type=FORM_TYPE
    )
    assert (answer.status, code(answer)) == (400, "malformed-form")


async def test_part_of_a_concatenation_is_not_judged_alone(start_relay):
    relay = await start_relay(accept=["image/png"])
    first = path_of(await relay.tus.create(8, "Upload-Concat: partial", body=PNG))
    second = path_of(await relay.tus.create(4, "Upload-Concat: partial", body=b"%PDF"))
    answer = await relay.tus.ask("POST", "/files/", f"Upload-Concat: final;{first} {second}")
    assert answer.status == 201
    answer = await relay.tus.create(8, "Upload-Concat: partial", body=b"%PDF-1.7")
    answer = await relay.tus.ask("POST", "/files/", f"Upload-Concat: final;{path_of(answer)}")
    assert (answer.status, code(answer)) == (415, "type-refused")


# -- quota


async def test_upload_that_exceeds_the_quota_is_refused_at_creation(start_relay, protocol):
    relay = await start_relay(resumable_quota="1000")
    answer = await relay.speaking(protocol).create(1001)
    assert (answer.status, code(answer), answer.all("Location")) == (507, "storage-full", [])


async def test_quota_that_is_used_up_in_an_append_keeps_what_there_is_room_for(start_relay, protocol):
    relay = await start_relay(resumable_quota=f"{300 * KIB}")
    requests = relay.speaking(protocol)
    content = bytes(range(256)) * 800
    other = path_of(await requests.create(None, body=bytes(200 * KIB)))
    path = path_of(await requests.create(None))
    answer = await requests.append(path, 0, content, f"Upload-Length: {len(content)}", last=True)
    assert (answer.status, code(answer)) == (507, "storage-full")
    status, offset = await told(relay, protocol, path)
    assert status in {200, 204}
    assert 0 <= offset <= 100 * KIB
    assert answer.all("Upload-Offset") in ([], [str(offset)])
    await requests.delete(other)
    answer = await requests.append(path, offset, content[offset:], f"Upload-Length: {len(content)}", last=True)
    assert answer.status == 200
    assert relay.received() == [content]


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    """A file system of 4 MiB."""
    (point := tmp_path / "disk").mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "aiorelay-test", point], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    yield point
    subprocess.run(["umount", "--lazy", point], check=True)


async def test_disk_that_is_full_at_creation(start_relay, protocol, small_disk):
    relay = await start_relay(state_dir=small_disk)
    answer = await relay.speaking(protocol).create(5 * MIB)
    assert (answer.status, code(answer)) == (507, "storage-full")


@pytest.mark.parametrize("fsync", [False, True])
async def test_disk_that_is_full_in_an_append_keeps_what_there_is_room_for(start_relay, protocol, small_disk, fsync):
    relay = await start_relay(state_dir=small_disk, fsync=fsync)
    requests = relay.speaking(protocol)
    content = bytes(range(256)) * (3 * MIB // 256)
    (ballast := small_disk / "ballast").write_bytes(bytes(2 * MIB))
    path = path_of(await requests.create(None))
    answer = await requests.append(path, 0, content, f"Upload-Length: {len(content)}", last=True)
    assert (answer.status, code(answer)) == (507, "storage-full")
    status, offset = await told(relay, protocol, path)
    assert status in {200, 204}
    assert MIB <= offset < 2 * MIB
    ballast.unlink()
    answer = await requests.append(path, offset, content[offset:], f"Upload-Length: {len(content)}", last=True)
    assert answer.status == 200
    assert relay.received() == [content]


# -- expiry


async def test_expired_upload_is_gone_and_swept(start_relay, protocol, tmp_path):
    relay = await start_relay(upload_expiry="500ms")
    requests = relay.speaking(protocol)
    path = path_of(await requests.create(100, body=b"content"))
    await asyncio.sleep(0.6)
    assert await told(relay, protocol, path) == (410, None)
    assert (await requests.append(path, 7, b"more")).status == 410
    uploads = tmp_path / "state" / "uploads"
    await eventually(lambda: not list(uploads.glob("*.data")))
    assert await told(relay, protocol, path) == (410, None)


async def test_upload_that_expired_while_nothing_ran_is_swept_at_the_start(start_relay, protocol, tmp_path):
    relay = await start_relay()
    path = path_of(await relay.speaking(protocol).create(100, body=b"content"))
    await asyncio.sleep(0.2)
    again = await start_relay(upload_expiry="100ms")
    assert not list((tmp_path / "state" / "uploads").glob("*.data"))
    assert await told(again, protocol, path) == (410, None)


async def test_upload_survives_a_restart(start_relay, protocol):
    relay = await start_relay()
    path = path_of(await relay.speaking(protocol).create(10, body=b"01234"))
    again = await start_relay()
    assert (await again.speaking(protocol).append(path, 5, b"56789", last=True)).status == 200
    assert again.received() == [b"0123456789"]


async def test_switched_off(start_relay):
    relay = await start_relay(resumable=False)
    assert (await relay.tus.create(10)).status == 404
    assert (await relay.draft.head("/uploads/" + "a" * 32)).status == 404
    assert (await relay.draft.create(10, body=b"0123456789", last=True)).all("Upload-Complete") == []


async def test_busy_relay_still_tells_the_offset(start_relay, protocol):
    """A client of tus takes any failure of HEAD for the end of its upload."""
    release = asyncio.Event()

    async def waiting(connection):
        await connection.request()
        await release.wait()
        await connection.send(DONE)

    relay = await start_relay(script=waiting, max_uploads=1)
    requests = relay.speaking(protocol)
    path = path_of(await requests.create(10, body=b"01234"))
    delivery = asyncio.create_task(requests.append(path, 5, b"56789", last=True))
    await eventually(lambda: bool(relay.upstream.requests))
    assert (await requests.create(10)).status == 503
    status, offset = await told(relay, protocol, path)
    assert (status in {200, 204}, offset) == (True, 9)
    release.set()
    assert (await delivery).status == 200


# -- many


@pytest.mark.timeout(120)
async def test_a_thousand_unfinished_uploads_keep_no_descriptors_and_little_memory(tmp_path):
    arguments = [*FREE_PORTS, "--store", tmp_path / "store", "--state-dir", tmp_path / "state", "--no-fsync"]
    async with started(*arguments) as process:
        requests = Tus(process.rest1, process.tls)

        async def create(count: int) -> None:
            for _ in range(count):
                assert (await requests.create(10 * KIB, body=bytes(KIB))).status == 201

        await asyncio.gather(*(create(25) for _ in range(4)))
        before = process.resident_memory
        await asyncio.gather(*(create(225) for _ in range(4)))
        assert process.resident_memory - before < 8 * MIB
        assert not [name for name in process.open_files if "/uploads/" in name]
        assert len(list((tmp_path / "state" / "uploads").glob("*.data"))) == 1000
