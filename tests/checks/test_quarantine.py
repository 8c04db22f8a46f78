"""``quarantine``: files that checks refuse are kept with the verdict, others are not, and nothing is kept by halves."""

import asyncio
import contextlib
import fcntl
import hashlib
import io
import json
import logging
import os
import re
import signal
import socket
import stat
import subprocess
import zipfile
from pathlib import Path

import pytest
from peers import ask, chunks, connected, eventually, form, part, request
from processes import FREE_PORTS, started

from aiorelay import Refused
from aiorelay.errors import StartupError

pytestmark = pytest.mark.slow

LARGE = bytes(range(256)) * 12_000
REFUSED = "REFUSE"


class ByName:
    """A validator that refuses files with ``REFUSE`` in their name, at their end or at their first block."""

    def __init__(self, file):
        self.name = file.filename

    def feed(self, _chunk):
        if "REFUSE-EARLY" in self.name:
            raise Refused("early")

    def finish(self):
        if REFUSED in self.name:
            raise Refused("by its name")


VALIDATOR = f"{__name__}:ByName"


@pytest.fixture
def quarantine(tmp_path):
    return tmp_path / "quarantine"


@pytest.fixture
def relay(aiorelay_server, quarantine):
    async def start(**settings):
        return await aiorelay_server(quarantine=quarantine, validator=[VALIDATOR], **settings)

    return start


async def upload(chain, content, filename=REFUSED, **options):
    asked = request("/upload1", form(part("somefile", content, filename, "Content-Type: text/x-a")), **options)
    answer = await ask(chain.rest1, chain.tls, asked)
    return answer.status, answer.json().get("detail")


def verdicts(quarantine):
    return [json.loads(path.read_text()) for path in sorted(quarantine.glob("*.json"))]


def entries(quarantine):
    return sorted(path.name for path in quarantine.iterdir())


# -- what is kept


@pytest.mark.parametrize("content", [b"", b"bytes", LARGE], ids=["empty", "small", "large"])
async def test_a_refused_file_is_kept_with_its_verdict(relay, quarantine, content):
    chain = await relay()
    status, detail = await upload(chain, content, "../" + REFUSED + "\N{EURO SIGN}.exe")
    assert (status, detail) == (422, "by its name")
    (verdict,) = verdicts(quarantine)
    name = verdict["id"]
    assert entries(quarantine) == [name, f"{name}.json"]
    assert re.fullmatch("[0-9a-f]{32}", name)
    assert (quarantine / name).read_bytes() == content
    assert {stat.S_IMODE(path.stat().st_mode) for path in quarantine.iterdir()} == {0o600}
    assert stat.S_IMODE(quarantine.stat().st_mode) == 0o700
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", verdict.pop("time"))
    assert len(verdict.pop("request_id")) == 32
    assert verdict == {
        "id": name,
        "code": "content-refused",
        "detail": "by its name",
        "field": "somefile",
        "filename": REFUSED + "\N{EURO SIGN}.exe",
        "media_type": "text/x-a",
        "complete": True,
        "size": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


async def test_the_verdict_has_the_id_of_the_request(relay, quarantine, caplog):
    chain = await relay()
    with caplog.at_level(logging.INFO, "aiorelay"):
        body = form(part("somefile", b"x", REFUSED))
        answer = await ask(chain.rest1, chain.tls, request("/upload1", body, "X-Request-ID: mine"))
    (verdict,) = verdicts(quarantine)
    assert (verdict["request_id"], answer.json()["instance"]) == ("mine", "mine")
    assert f"a refused file was kept in quarantine as {verdict['id']}" in caplog.messages


async def test_of_a_form_only_the_refused_file_is_kept(relay, quarantine):
    chain = await relay()
    body = form(part("somefile", b"one", "a"), part("somefile", b"two", REFUSED), part("somefile", b"three", "c"))
    assert (await ask(chain.rest1, chain.tls, request("/upload1", body))).status == 422
    (verdict,) = verdicts(quarantine)
    assert (quarantine / verdict["id"]).read_bytes() == b"two"
    assert len(entries(quarantine)) == 2


async def test_of_a_file_that_is_refused_early_the_beginning_is_kept(relay, quarantine):
    chain = await relay()
    refused_early = form(part("somefile", LARGE * 10, "REFUSE-EARLY"))
    answer = await ask(chain.rest1, chain.tls, request("/upload1", refused_early))
    assert (answer.status, answer.json()["detail"]) == (422, "early")
    (verdict,) = verdicts(quarantine)
    kept = (quarantine / verdict["id"]).read_bytes()
    assert verdict["complete"] is False
    assert 0 < len(kept) == verdict["size"] < len(LARGE) * 10
    assert (LARGE * 10).startswith(kept)


async def test_a_file_that_yara_refuses_is_kept(relay, quarantine, tmp_path):
    (tmp_path / "a.yar").write_text('rule Marked { strings: $a = "MARKER" condition: $a }')
    chain = await relay(yara=tmp_path / "a.yar")
    assert (await upload(chain, LARGE + b"MARKER", "a"))[0] == 422
    (verdict,) = verdicts(quarantine)
    assert verdict["detail"] == "The file matches the YARA rule Marked."
    assert (quarantine / verdict["id"]).read_bytes() == LARGE + b"MARKER"


async def test_a_file_that_is_too_large_to_be_scanned_is_kept_as_far_as_it_came(relay, quarantine, tmp_path):
    (tmp_path / "a.yar").write_text("rule Never { condition: false }")
    chain = await relay(yara=tmp_path / "a.yar", yara_max_size="1MiB")
    assert (await upload(chain, LARGE, "a"))[0] == 422
    (verdict,) = verdicts(quarantine)
    assert (verdict["code"], verdict["complete"]) == ("unscannable", False)


async def test_an_archive_that_is_refused_is_kept(relay, quarantine):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("../a", b"")
    chain = await relay(archive_max_entries=10)
    assert (await upload(chain, packed.getvalue(), "a"))[0] == 422
    assert [verdict["code"] for verdict in verdicts(quarantine)] == ["archive-refused"]


@contextlib.asynccontextmanager
async def scanner(reply):
    """A ClamAV daemon that reads each file to its end and gives the same reply."""

    async def handle(reader, writer):
        with contextlib.closing(writer):
            await reader.readexactly(len(b"zINSTREAM\0"))
            while length := int.from_bytes(await reader.readexactly(4)):
                await reader.readexactly(length)
            writer.write(reply)
            await writer.drain()

    async with await asyncio.start_server(handle, "127.0.0.1", 0, family=socket.AF_INET) as server:
        yield "{}:{}".format(*server.sockets[0].getsockname())


@pytest.mark.parametrize(
    ("reply", "code", "kept"),
    [
        (b"stream: Eicar FOUND\0", "infected", True),
        (b"stream: Heuristics.Encrypted.Zip FOUND\0", "unscannable", True),
        (b"", "scanner-unavailable", False),
        (b"stream: OK\0", None, False),
    ],
)
async def test_what_the_scanner_refuses_is_kept_but_not_what_it_did_not_judge(relay, quarantine, reply, code, kept):
    async with scanner(reply) as address:
        chain = await relay(clamd=address)
        body = form(part("somefile", LARGE, "a"))
        answer = await ask(chain.rest1, chain.tls, request("/upload1", body))
    assert answer.json().get("type") == (code and f"urn:aiorelay:{code}")
    assert [verdict["code"] for verdict in verdicts(quarantine)] == ([code] if kept else [])
    assert len(entries(quarantine)) == (2 if kept else 0)


# -- what is not kept


@pytest.mark.parametrize("content", [b"bytes", LARGE], ids=["small", "large"])
async def test_a_file_that_passes_is_not_kept(relay, quarantine, content):
    chain = await relay()
    assert (await upload(chain, content, "a"))[0] == 200
    assert entries(quarantine) == []


async def test_without_checks_of_content_nothing_is_recorded(aiorelay_server, quarantine):
    chain = await aiorelay_server(quarantine=quarantine, max_size="1MiB")
    assert (await upload(chain, LARGE))[0] == 413
    assert (await upload(chain, b"x"))[0] == 200
    assert entries(quarantine) == []


@pytest.mark.parametrize(
    ("headers", "settings", "status"),
    [
        (["Content-Digest: sha-256=:" + "A" * 43 + "=:"], {}, 422),
        ([], {"max_size": "2MiB"}, 413),
        ([], {"accept": ["application/pdf"]}, 415),
    ],
    ids=["digest", "size", "type"],
)
async def test_other_refusals_keep_nothing(relay, quarantine, headers, settings, status):
    chain = await relay(**settings)
    body = form(part("somefile", LARGE, "a"))
    assert (await ask(chain.rest1, chain.tls, request("/upload1", body, *headers))).status == status
    await eventually(lambda: entries(quarantine) == [])


async def test_a_client_that_leaves_keeps_nothing(relay, quarantine):
    chain = await relay()
    whole = request("/upload1", form(part("somefile", LARGE, REFUSED)))
    async with connected(chain.rest1, chain.tls) as client:
        await client.send(whole[:-1000])
        await eventually(lambda: len(entries(quarantine)) == 1)
        (unfinished,) = entries(quarantine)
        assert unfinished.endswith(".part")
        assert stat.S_IMODE((quarantine / unfinished).stat().st_mode) == 0o600
    await eventually(lambda: entries(quarantine) == [])


# -- limits


async def test_a_full_quarantine_keeps_no_more_and_the_refusal_stays(relay, quarantine, caplog):
    chain = await relay(quarantine_max_size=len(LARGE) + 10)
    for content, kept in ((LARGE, 1), (b"too many bytes", 1), (b"few bytes", 2), (b"xx", 2)):
        assert await upload(chain, content) == (422, "by its name")
        assert len(verdicts(quarantine)) == kept
    assert caplog.text.count("a refused file was not kept in quarantine: the quarantine is full") == 2
    metrics = (await ask(chain.rest1, chain.tls, b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")).body.decode()
    for outcome in ("kept", "lost"):
        assert f'aiorelay_quarantined_files_total{{outcome="{outcome}"}} 2.0' in metrics


async def test_files_that_are_being_checked_count_towards_the_limit(relay, quarantine):
    chain = await relay(quarantine_max_size=len(LARGE) + 10)
    unfinished = request("/upload1", form(part("somefile", LARGE, "a")))[:-10]
    async with connected(chain.rest1, chain.tls) as client:
        await client.send(unfinished)
        await eventually(lambda: len(entries(quarantine)) == 1)
        await eventually(lambda: sum(path.stat().st_size for path in quarantine.iterdir()) > len(LARGE) * 3 // 4)
        assert await upload(chain, LARGE[: len(LARGE) // 3]) == (422, "by its name")
        assert verdicts(quarantine) == []
    await eventually(lambda: entries(quarantine) == [])
    assert await upload(chain, LARGE) == (422, "by its name")
    assert len(verdicts(quarantine)) == 1


async def test_a_file_over_the_limit_passes_if_no_check_refuses_it(relay, quarantine):
    chain = await relay(quarantine_max_size=10)
    assert (await upload(chain, LARGE, "a"))[0] == 200
    assert entries(quarantine) == []


async def test_what_was_kept_before_counts_after_a_restart(aiorelay_server, quarantine):
    for _ in range(2):
        chain = await aiorelay_server(quarantine=quarantine, validator=[VALIDATOR], quarantine_max_size=len(LARGE) + 10)
        assert await upload(chain, LARGE) == (422, "by its name")
        assert len(verdicts(quarantine)) == 1


@pytest.fixture
def full(tmp_path):
    """A filesystem of one MiB."""
    point = tmp_path / "full"
    point.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "aiorelay-test", point], capture_output=True, check=False
    )
    if done.returncode:
        pytest.skip("mounting needs root")
    yield point
    subprocess.run(["umount", "--lazy", point], check=True)


@pytest.mark.parametrize("content", [LARGE, LARGE[: 1024 * 1024]], ids=["while it streams", "at its end"])
async def test_a_full_disk_changes_no_refusal(aiorelay_server, full, caplog, content):
    chain = await aiorelay_server(quarantine=full, validator=[VALIDATOR])
    (full / "other").write_bytes(bytes(4096))
    assert await upload(chain, content) == (422, "by its name")
    assert "a refused file was not kept in quarantine: No space left on device" in caplog.text
    await eventually(lambda: entries(full) == ["other"])
    assert (await upload(chain, content, "a"))[0] == 200


async def test_a_directory_that_disappears_changes_no_refusal(relay, quarantine, caplog):
    chain = await relay()
    quarantine.rmdir()
    assert await upload(chain, b"x") == (422, "by its name")
    assert "a refused file was not kept in quarantine: No such file or directory" in caplog.text


async def test_a_kept_file_expires(relay, quarantine):
    chain = await relay(quarantine_expiry="1s")
    (quarantine / "notes.txt").write_text("of somebody else")
    await upload(chain, b"x")
    assert len(entries(quarantine)) == 3
    await eventually(lambda: entries(quarantine) == ["notes.txt"])


# -- starts


@pytest.mark.parametrize("kind", ["a file", "below a file"])
async def test_a_directory_that_cannot_be_used_refuses_the_start(aiorelay_server, tmp_path, kind):
    (tmp_path / "file").write_bytes(b"")
    path = tmp_path / "file" if kind == "a file" else tmp_path / "file" / "below"
    with pytest.raises(StartupError, match=f"quarantine: cannot keep files in {path}: "):
        await aiorelay_server(quarantine=path)


async def test_a_directory_of_others_keeps_its_mode(relay, quarantine):
    quarantine.mkdir()
    quarantine.chmod(0o750)
    await upload(await relay(), b"x")
    assert stat.S_IMODE(quarantine.stat().st_mode) == 0o750


ID, OTHER = "0123456789abcdef" * 2, "fedcba9876543210" * 2


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ([f".{ID}.part"], []),
        ([f".{ID}.part", f".{ID}.json.part"], []),
        ([ID], []),
        ([ID, f".{ID}.json.part"], []),
        ([ID, f"{ID}.json"], [ID, f"{ID}.json"]),
        ([f"{ID}.json"], [f"{ID}.json"]),
        ([f".{ID}.part", OTHER, f"{OTHER}.json"], [OTHER, f"{OTHER}.json"]),
        ([f"{ID}.txt", "a.part", ".a.part", "a.json"], [".a.part", f"{ID}.txt", "a.json", "a.part"]),
    ],
    ids=["begun", "verdict begun", "no verdict", "half a verdict", "kept", "verdict alone", "mixed", "of others"],
)
async def test_a_start_removes_what_is_incomplete(relay, quarantine, before, after):
    quarantine.mkdir()
    for name in before:
        (quarantine / name).write_bytes(b"x")
    await relay()
    assert entries(quarantine) == after


@pytest.mark.parametrize("name", [f".{ID}.part", ID])
async def test_a_start_leaves_what_another_process_writes(relay, quarantine, name):
    quarantine.mkdir()
    with (quarantine / name).open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        await relay()
        assert entries(quarantine) == [name]


async def test_a_kill_leaves_nothing_that_looks_kept(quarantine, tmp_path):
    options = (f"--state-dir={tmp_path}/state", f"--quarantine={quarantine}", f"--validator={VALIDATOR}", *FREE_PORTS)
    environment = {"PYTHONPATH": os.pathsep.join(map(str, (Path(__file__).parent, Path(__file__).parent.parent)))}
    options = [option.replace(__name__, Path(__file__).stem) for option in options]
    async with started(*options, env=environment) as process, connected(process.rest1, process.tls) as client:
        await client.send(request("/upload1", form(part("somefile", LARGE, REFUSED)))[:-10])
        await eventually(lambda: len(entries(quarantine)) == 1)
        process.send(signal.SIGKILL)
        with contextlib.suppress(AssertionError):
            await process.ended()
    (name,) = entries(quarantine)
    assert name.startswith(".")
    async with started(*options, env=environment):
        assert entries(quarantine) == []


async def test_chunked_uploads_are_kept_too(relay, quarantine):
    chain = await relay()
    assert await upload(chain, LARGE, chunked=True) == (422, "by its name")
    (verdict,) = verdicts(quarantine)
    assert (quarantine / verdict["id"]).read_bytes() == LARGE
    assert chunks(b"") == b""
