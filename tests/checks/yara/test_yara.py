"""``yara``: files that match rules are refused, with real rules and real processes."""

import asyncio
import contextlib
import json
import logging
import os
import signal
import sys
from pathlib import Path

import pytest
from peers import ask, connected, eventually, form, json_request, part, request, run
from processes import FREE_PORTS, started

from aiorelay.checks.yara.rules import YaraRules
from aiorelay.checks.yara.scanning import SCRIPT
from aiorelay.errors import StartupError

pytestmark = pytest.mark.slow

MARKER = b"AIORELAY-TEST-MARKER"
MARKED = f'rule Marked {{ strings: $a = "{MARKER.decode()}" condition: $a }}'
ENDLESS = "rule Endless { condition: filesize > 3 and for all i in (0..1000000000000) : (i >= 0) }"


@pytest.fixture
def rules(tmp_path):
    """Write files of rules; return their directory."""
    directory = tmp_path / "rules"

    def write(**files):
        for name, text in files.items():
            path = directory / name.replace("__", "/").replace("_yar", ".yar")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return directory

    return write


async def upload(chain, content, filename="a.bin"):
    answer = await ask(chain.rest1, chain.tls, request("/upload1", form(part("somefile", content, filename))))
    return answer.status, answer.json().get("detail")


def processes(of=None):
    """Return the ids of the scanning processes that a process, by default this one, has started and are not over."""
    main = of or os.getpid()
    return {pid for pid in map(int, Path(f"/proc/{main}/task/{main}/children").read_text().split()) if scans(pid)}


def scans(pid):
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        return str(SCRIPT).encode() in command or not command  # one that has ended and was not waited for has none
    return False


def matched(*names):
    return 422, f"The file matches the YARA rule{'s' if len(names) > 1 else ''} {', '.join(names)}."


# -- verdicts


@pytest.mark.parametrize(
    "content",
    [MARKER, bytes(3000000) + MARKER, MARKER + bytes(3000000), bytes(1048570) + MARKER],
    ids=["small", "at the end", "at the beginning", "across the end of the memory"],
)
async def test_a_file_that_matches_is_refused_with_the_name_of_the_rule(aiorelay_server, rules, caplog, content):
    chain = await aiorelay_server(yara=rules(a_yar=MARKED))
    with caplog.at_level(logging.INFO, "aiorelay"):
        assert await upload(chain, content) == matched("Marked")
    assert "a file matches the YARA rule Marked" in caplog.messages
    assert chain.stored() == []


@pytest.mark.parametrize("content", [b"", b"x", bytes(3000000), MARKER[:-1]], ids=["empty", "byte", "large", "almost"])
async def test_other_files_are_stored(aiorelay_server, rules, content):
    chain = await aiorelay_server(yara=rules(a_yar=MARKED))
    assert (await upload(chain, content))[0] == 200
    assert [path.read_bytes() for path in chain.stored()] == [content]


async def test_every_matching_rule_is_named_up_to_five(aiorelay_server, rules):
    chain = await aiorelay_server(yara=rules(a_yar="\n".join(f"rule r{n} {{ condition: true }}" for n in range(7))))
    assert await upload(chain, b"x") == (422, "The file matches the YARA rules r0, r1, r2, r3, r4 and 2 more.")


async def test_a_rule_of_the_same_name_in_two_files_is_named_once(aiorelay_server, rules):
    chain = await aiorelay_server(yara=rules(a_yar=MARKED, b_yar=MARKED))
    assert await upload(chain, MARKER) == matched("Marked")


async def test_a_private_rule_refuses_nothing_itself(aiorelay_server, rules):
    private = "private rule Any { condition: true } rule Long { condition: Any and filesize > 3 }"
    chain = await aiorelay_server(yara=rules(a_yar=private))
    assert (await upload(chain, b"abc"))[0] == 200
    assert await upload(chain, b"abcd") == matched("Long")


async def test_a_global_rule_restricts_the_rules_of_its_own_file(aiorelay_server, rules):
    never = "global private rule Never { condition: false } rule One { condition: true }"
    chain = await aiorelay_server(yara=rules(a_yar=never, b_yar="rule Two { condition: true }"))
    assert await upload(chain, b"x") == matched("Two")


@pytest.mark.parametrize(
    ("condition", "filename", "matches"),
    [
        ('filename == "tool.EXE"', "tool.EXE", True),
        ('extension == ".exe"', "tool.EXE", True),
        ('extension == ".gz"', "a.tar.gz", True),
        ('extension == ""', "none", True),
        ('filename contains "\\xc3\\xa9"', "caf\N{LATIN SMALL LETTER E WITH ACUTE}", True),
        ('filepath == "" and filetype == "" and owner == ""', "a", True),
        ('extension == ".exe"', "tool.com", False),
    ],
)
async def test_rules_know_the_name_of_the_file(aiorelay_server, rules, condition, filename, matches):
    chain = await aiorelay_server(yara=rules(a_yar=f"rule Named {{ condition: {condition} }}"))
    assert await upload(chain, b"x", filename) == matched("Named") if matches else (200, None)


async def test_a_long_name_is_no_obstacle(aiorelay_server, rules):
    chain = await aiorelay_server(yara=rules(a_yar=MARKED))
    assert (await upload(chain, b"x", "\N{GRINNING FACE}" * 60 + ".txt"))[0] == 200
    assert await upload(chain, MARKER, "\N{GRINNING FACE}" * 1500) == matched("Marked")


async def test_modules_can_be_imported(aiorelay_server, rules):
    summed = 'import "hash" rule Summed { condition: hash.md5(0, filesize) == "900150983cd24fb0d6963f7d28e17f72" }'
    chain = await aiorelay_server(yara=rules(a_yar=summed))
    assert await upload(chain, b"abc") == matched("Summed")


async def test_fields_are_not_scanned(aiorelay_server, rules):
    chain = await aiorelay_server(yara=rules(a_yar=MARKED))
    body = form(part("note", MARKER), part("somefile", b"x", "a"))
    assert (await ask(chain.rest1, chain.tls, request("/upload1", body))).status == 200


async def test_many_uploads_at_once_get_their_own_verdicts(aiorelay_server, rules):
    chain = await aiorelay_server(yara=rules(a_yar=MARKED))
    contents = [MARKER if number % 3 == 0 else b"clean" for number in range(30)]
    answers = await asyncio.gather(*(upload(chain, content) for content in contents))
    assert [status for status, _ in answers] == [422 if content == MARKER else 200 for content in contents]
    assert len(processes()) <= max(1, min(4, len(os.sched_getaffinity(0))))


async def test_verdicts_are_counted(aiorelay_server, rules):
    chain = await aiorelay_server(yara=rules(a_yar=MARKED), yara_max_size="1KiB")
    for content in (b"x", MARKER, bytes(1025)):
        await upload(chain, content)
    metrics = (await ask(chain.rest1, chain.tls, b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")).body.decode()
    for outcome in ("clean", "matched", "unscannable"):
        assert f'aiorelay_scans_total{{outcome="{outcome}",scanner="yara"}} 1.0' in metrics


# -- where rules come from


async def test_a_directory_is_searched_for_rules(aiorelay_server, rules):
    directory = rules(
        a_yar="rule One { condition: true }",
        sub__b_yara="rule Two { condition: true }",
        ignored_txt="not a rule",
        **{".hidden__c_yar": "nonsense", ".d_yar": "nonsense"},
    )
    (directory / "link.yar").symlink_to(directory / "sub" / "b.yara")
    (directory / "sub" / "C.YAR").write_text("rule Three { condition: true }")
    chain = await aiorelay_server(yara=directory)
    assert await upload(chain, b"x") == matched("One", "Two", "Three")


async def test_one_file_can_be_given_whatever_its_name(aiorelay_server, rules):
    chain = await aiorelay_server(yara=rules(rules_txt=MARKED, other_yar="nonsense") / "rules_txt")
    assert await upload(chain, MARKER) == matched("Marked")


@pytest.mark.parametrize(
    ("including", "included"),
    [
        ("index_yar", "marked.inc"),
        ("index_yar", "sub/marked.inc"),
        ("sub__index_yar", "marked.inc"),
        ("index_yar", "../marked.inc"),
        ("index_yar", "ABSOLUTE"),
    ],
)
async def test_a_file_can_include_others(aiorelay_server, rules, tmp_path, including, included):
    directory = rules(sub__other="")
    target = (directory / including.replace("__", "/")).parent / included
    if included == "ABSOLUTE":
        included = target = tmp_path / "elsewhere.inc"
    target.write_text(MARKED)
    chain = await aiorelay_server(yara=rules(**{including: f'include "{included}"'}))
    assert await upload(chain, MARKER) == matched("Marked")


BROKEN = {
    "syntax": ({"a_yar": "rule A {\n\n  foo }"}, "/a.yar, line 3: syntax error: expecting"),
    "unknown identifier": ({"a_yar": "rule A {\n condition: foo }"}, "/a.yar, line 2: unknown identifier `foo`"),
    "unknown module": ({"a_yar": 'import "magic"'}, "/a.yar, line 1: unknown module `magic`"),
    "twice the same name": ({"a_yar": MARKED + MARKED}, "/a.yar, line 1: duplicate rule `Marked`"),
    "second file": ({"a_yar": MARKED, "b_yar": "rule"}, "/b.yar, line 1: syntax error"),
    "included file": ({"a_yar": 'include "b.inc"', "b.inc": "\nrule"}, "/b.inc, line 2: syntax error"),
    "no such include": ({"a_yar": 'include "b.inc"'}, "/a.yar, line 1: include file not found"),
    "no rule": ({"a_yar": "// nothing"}, "there is no rule in "),
    "no file": ({"a_txt": MARKED}, "has no file named *.yar or *.yara."),
}


@pytest.mark.parametrize(("files", "fault"), BROKEN.values(), ids=BROKEN)
async def test_broken_rules_refuse_the_start(aiorelay_server, rules, files, fault):
    with pytest.raises(StartupError) as error:
        await aiorelay_server(yara=rules(**files))
    text = str(error.value)
    assert text.startswith("yara: ")
    assert fault in text
    assert "\n" not in text
    assert processes() == set()


async def test_rules_that_cannot_be_read_refuse_the_start(aiorelay_server, rules, tmp_path):
    (rules(a_yar=MARKED) / "b.yar").write_bytes(b"rule \xff")
    with pytest.raises(StartupError, match=r"b\.yar is not UTF-8\."):
        await aiorelay_server(yara=tmp_path / "rules")
    with pytest.raises(StartupError, match="missing cannot be read: No such file or directory"):
        await aiorelay_server(yara=tmp_path / "missing")


async def test_the_command_ends_with_one_line(rules, tmp_path):
    arguments = (f"--state-dir={tmp_path}/state", f"--yara={rules(a_yar='rule')}", *FREE_PORTS)
    status, out, err = await run(sys.executable, "-m", "aiorelay", *arguments)
    assert (status, out, err.count("\n")) == (1, "", 1)
    assert f"yara: {tmp_path}/rules/a.yar, line 1: syntax error" in err


# -- reloading


async def test_changed_rules_are_loaded(aiorelay_server, rules, caplog):
    chain = await aiorelay_server(yara=rules(a_yar=MARKED))
    assert await upload(chain, b"other") == (200, None)
    with caplog.at_level(logging.INFO, "aiorelay"):
        rules(b_yar='rule Other { strings: $a = "other" condition: $a }')
        await eventually(lambda: "loaded 2 YARA rules from 2 files" in caplog.messages)
    assert await upload(chain, b"other") == matched("Other")
    assert await upload(chain, MARKER) == matched("Marked")


async def test_broken_rules_leave_the_old_ones_in_place(aiorelay_server, rules, caplog):
    directory = rules(a_yar=MARKED)
    chain = await aiorelay_server(yara=directory)
    with caplog.at_level(logging.INFO, "aiorelay"):
        rules(a_yar="rule")
        await eventually(lambda: "the YARA rules stay as they were" in caplog.text)
        assert f"{directory}/a.yar, line 1: syntax error" in caplog.text
        assert await upload(chain, MARKER) == matched("Marked")
        (directory / "a.yar").unlink()
        await eventually(lambda: "has no file named" in caplog.text)
        rules(a_yar=MARKED)
        await eventually(lambda: "loaded 1 YARA rules from 1 files" in caplog.messages)
    assert await upload(chain, MARKER) == matched("Marked")


async def test_sighup_loads_included_files_again(rules, tmp_path):
    rules(a_yar=f'include "{tmp_path}/elsewhere.inc"')
    (tmp_path / "elsewhere.inc").write_text(MARKED)
    async with started(f"--state-dir={tmp_path}/state", f"--yara={tmp_path}/rules", *FREE_PORTS) as relay:
        (tmp_path / "elsewhere.inc").write_text(f"{MARKED} rule Short {{ condition: filesize < 3 }}")
        relay.send(signal.SIGHUP)
        await relay.logged("loaded 2 YARA rules")
        answer = await ask(relay.rest1, relay.tls, request("/upload1", form(part("somefile", b"x", "a"))))
        assert answer.json()["detail"] == "The file matches the YARA rule Short."


async def test_a_scan_under_way_ends_with_the_rules_that_it_began_with(rules, caplog, tmp_path):
    slow = ENDLESS.replace("1000000000000", "300000000").replace("Endless", "Slow")
    file = (tmp_path / "file").open("w+b")
    file.write(b"bytes")
    file.flush()
    with file:
        async with YaraRules(rules(a_yar=slow), timeout=120).loaded() as loaded:
            scanning = asyncio.create_task(loaded.matches(file.fileno(), {}))
            await eventually(processes)
            with caplog.at_level(logging.INFO, "aiorelay"):
                rules(a_yar="rule New { condition: true }")
                loaded.reload()
                await eventually(lambda: "loaded 1 YARA rules from 1 files" in caplog.messages)
            assert await loaded.matches(file.fileno(), {}) == ["New"]
            assert await scanning == ["Slow"]
            assert len(processes()) == 1


# -- limits


@pytest.mark.parametrize("length", [1000, 1001])
@pytest.mark.parametrize("way", ["form", "local"])
async def test_a_file_over_the_limit_is_refused_unscanned(aiorelay_server, rules, tmp_path, way, length):
    chain = await aiorelay_server(yara=rules(a_yar=MARKED), yara_max_size=1000, local_root=[tmp_path])
    if way == "form":
        asked = request("/upload1", form(part("somefile", bytes(length), "a")))
    else:
        (tmp_path / "a").write_bytes(bytes(length))
        asked = json_request({"somefile": str(tmp_path / "a")})
    answer = await ask(chain.rest1, chain.tls, asked)
    if length == 1000:
        assert answer.status == 200
    else:
        assert (answer.status, answer.json()["type"]) == (422, "urn:aiorelay:unscannable")
        assert answer.json()["detail"] == "Files of more than 1 KB cannot be checked (yara-max-size)."


async def test_a_scan_that_takes_too_long_is_ended_and_refuses_the_file(aiorelay_server, rules, caplog):
    chain = await aiorelay_server(yara=rules(a_yar=ENDLESS, b_yar=MARKED), validator_timeout="500ms")
    answers = await asyncio.gather(*(upload(chain, b"long") for _ in range(5)))
    assert answers == [(503, "The YARA rules gave no verdict. Try again later.")] * 5
    assert "a file was refused without a scan by the YARA rules: no verdict for 0.5 s" in caplog.text
    assert (await upload(chain, b"abc"))[0] == 200


async def test_a_client_that_leaves_ends_the_scan(aiorelay_server, rules):
    chain = await aiorelay_server(yara=rules(a_yar=ENDLESS))
    async with connected(chain.rest1, chain.tls) as client:
        await client.send(request("/upload1", form(part("somefile", b"long", "a"))))
        await eventually(processes)
    await eventually(lambda: not processes())


async def test_a_process_that_was_killed_is_replaced(aiorelay_server, rules):
    chain = await aiorelay_server(yara=rules(a_yar=MARKED))
    assert await upload(chain, MARKER) == matched("Marked")
    (pid,) = processes()
    os.kill(pid, signal.SIGKILL)
    await eventually(lambda: not processes())
    assert await upload(chain, MARKER) == matched("Marked")


async def test_a_process_that_is_killed_in_a_scan_refuses_the_file(aiorelay_server, rules, caplog):
    chain = await aiorelay_server(yara=rules(a_yar=ENDLESS))
    uploading = asyncio.create_task(upload(chain, b"long"))
    await eventually(processes)
    (pid,) = processes()
    os.kill(pid, signal.SIGKILL)
    assert (await uploading)[0] == 503
    assert "the process that scans has ended" in caplog.text


async def test_signals_to_the_process_group_do_not_end_scans(aiorelay_server, rules):
    chain = await aiorelay_server(yara=rules(a_yar=MARKED))
    await upload(chain, b"x")
    (pid,) = processes()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(pid, number)
    assert await upload(chain, MARKER) == matched("Marked")
    assert processes() == {pid}


async def test_no_process_outlives_the_relay(rules, tmp_path):
    async with started(f"--state-dir={tmp_path}/state", f"--yara={rules(a_yar=MARKED)}", *FREE_PORTS) as relay:
        await ask(relay.rest1, relay.tls, request("/upload1", form(part("somefile", b"x", "a"))))
        (pid,) = processes(relay.pid)
        relay.send(signal.SIGKILL)
        await eventually(lambda: not Path(f"/proc/{pid}").exists())
        with contextlib.suppress(AssertionError):
            await relay.ended()


async def test_no_process_runs_before_the_first_scan(rules):
    async with YaraRules(rules(a_yar=MARKED), timeout=60).loaded():
        assert processes() == set()


async def test_a_refusal_is_a_problem_document(aiorelay_server, rules):
    chain = await aiorelay_server(yara=rules(a_yar=MARKED))
    answer = await ask(chain.rest1, chain.tls, request("/upload1", form(part("somefile", MARKER, "a"))))
    assert json.loads(answer.body)["type"] == "urn:aiorelay:content-refused"


async def test_routes_with_the_same_rules_share_them(aiorelay_server, rules, caplog):
    upstream = (await aiorelay_server()).rest2
    with caplog.at_level(logging.INFO, "aiorelay"):
        chain = await aiorelay_server(yara=rules(a_yar=MARKED), route=[f"/r={upstream}/upload,upstream-insecure=true"])
    assert caplog.messages.count("loaded 1 YARA rules from 1 files") == 1
    answer = await ask(chain.rest1, chain.tls, request("/r", form(part("somefile", MARKER, "a"))))
    assert answer.status == 422
