"""The findings of the probe for the embedded upload API, common frameworks, and faulty APIs."""

import asyncio
import contextlib
import json
import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from yarl import URL

from aiorelay.cli.main import main
from aiorelay.cli.probe import NAMES, Finding
from aiorelay.cli.probe.findings import Setup, judge_unreached

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parents[2]
PYTHON = sys.executable
FLASK = (PYTHON, "{tests}/upstreams/flask_app.py", "{fd}", "{store}")
DJANGO = (PYTHON, "-m", "gunicorn", "--chdir", "{tests}/upstreams", "--bind", "fd://{fd}", "django_app:application")
EXPRESS = ("node", "{tests}/node/express_multer.mjs", "{fd}", "{store}")
KEEPS_TRUNCATED = (PYTHON, "{tests}/upstreams/keeps_truncated.py", "{fd}", "{store}")


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AIORELAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def program(tmp_path):
    """A factory of upload APIs that are programs: it gives the URL's authority, and they store in ``tmp_path/store``.

    A program is handed a listening socket, so that it is ready before it has started.
    """
    store = tmp_path / "store"
    store.mkdir()
    with contextlib.ExitStack() as stack:

        def start(*command):
            with socket.create_server(("127.0.0.1", 0)) as listener:
                values = {"fd": listener.fileno(), "store": store, "tests": TESTS}
                process = subprocess.Popen(
                    [word.format(**values) for word in command],
                    pass_fds=[listener.fileno()],
                    env={**os.environ, "STORE": str(store)},
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,  # they log errors for the broken uploads
                )
                stack.enter_context(process)
                stack.callback(process.terminate)
                return f"127.0.0.1:{listener.getsockname()[1]}"

        yield start


@pytest.fixture
async def api():
    """A factory of upload APIs from a function of the request. Returns the URL."""
    async with contextlib.AsyncExitStack() as stack:

        async def start(handler):
            runner = web.ServerRunner(web.Server(handler))
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            site = web.TCPSite(runner, "127.0.0.1", 0)
            await site.start()
            return f"http://127.0.0.1:{runner.addresses[0][1]}/upload"

        yield start


@pytest.fixture
def report(capsys):
    """Run the probe and return its JSON report."""

    async def run(*arguments):
        assert await asyncio.to_thread(main, ["probe", *arguments, "--no-patience", "--json"]) in {0, 1}
        out, err = capsys.readouterr()
        assert err == ""
        return json.loads(out)

    return run


def values(found, *names):
    return {name: found[name] for name in names}


async def receive(request):
    """Read a form. Return its files (name and filename) and its fields (name and value), in order."""
    parts = []
    try:
        async for part in await request.multipart():
            content = await part.read()
            parts.append((part.name, part.filename or content.decode()))
    except ValueError:
        raise web.HTTPBadRequest from None
    return parts


# -- real upload APIs


async def test_the_embedded_api_needs_no_further_flags(aiorelay_server, report):
    chain = await aiorelay_server()
    found = await report(f"{chain.rest2}/upload", "--cacert", str(chain.ca))
    assert list(found) == [*NAMES, "reasons"]
    assert list(found.pop("reasons")) == list(NAMES)
    assert found == {
        "reachable": True,
        "tls_verified": True,
        "accepts_chunked": True,
        "needs_length": False,
        "keeps_truncated": False,
        "order_sensitive": False,
        "filenames": ["plain", "spaces", "utf-8", "quotes", "semicolons"],
        "answers_early": False,
        "patience": None,
        "alive": True,
        "flags": shlex.join(["serve", "--upstream", f"{chain.rest2}/upload", "--upstream-ca", str(chain.ca)]),
    }
    assert not [path for path in chain.stored() if any(word in path.name for word in ("cut", "unfinished", "early"))]


@pytest.mark.parametrize(
    ("command", "accepts_chunked", "filenames", "flags"),
    [
        pytest.param(FLASK, True, ["plain"], [], id="flask"),
        pytest.param(
            DJANGO,
            False,
            ["plain", "spaces", "utf-8", "quotes", "semicolons"],
            ["--upstream-chunked", "never"],
            id="django",
        ),
        pytest.param(
            EXPRESS,
            True,
            ["plain", "spaces", "quotes", "semicolons"],
            [],
            id="express",
            marks=pytest.mark.needs("node", "npm"),
        ),
    ],
)
async def test_frameworks(command, accepts_chunked, filenames, flags, program, report, tmp_path):
    url = f"http://{program(*command)}/upload"
    found = await report(url)
    found.pop("reasons")
    assert found == {
        "reachable": True,
        "tls_verified": None,
        "accepts_chunked": accepts_chunked,
        "needs_length": not accepts_chunked,
        "keeps_truncated": False,
        "order_sensitive": False,
        "filenames": filenames,
        "answers_early": False,
        "patience": None,
        "alive": True,
        "flags": shlex.join(["serve", "--upstream", url, *flags]),
    }
    assert not list((tmp_path / "store").glob("*cut*"))


@pytest.mark.needs("curl")
async def test_a_relay_with_the_suggested_flags_uploads_to_a_strict_api(program, report, aiorelay_server, tmp_path):
    found = await report(f"http://{program(*DJANGO)}/upload")
    chosen = shlex.split(found["flags"])[1:]
    settings = {flag[2:].replace("-", "_"): value for flag, value in zip(chosen[::2], chosen[1::2], strict=True)}
    chain = await aiorelay_server(only="rest1", **settings)
    (tmp_path / "report.txt").write_text("whole")
    upload = ["curl", "--silent", "--cacert", chain.ca, "--header", "Transfer-Encoding: chunked"]
    curl = await asyncio.create_subprocess_exec(
        *upload, "--form", f"somefile=@{tmp_path}/report.txt", f"{chain.rest1}/upload1", stdout=subprocess.DEVNULL
    )
    assert await curl.wait() == 0
    assert (tmp_path / "store" / "report.txt").read_text() == "whole"


# -- incomplete uploads


async def test_an_api_that_answers_success_to_a_cut_upload_needs_the_spool(program, report, tmp_path):
    found = await report(f"http://{program(*KEEPS_TRUNCATED, 'answer')}/upload")
    assert found["keeps_truncated"] is True
    assert "--upstream-mode spool" in found["flags"]
    assert "--upstream-mode spool" in found["reasons"]["keeps_truncated"]
    assert list((tmp_path / "store").glob("*-cut.txt"))


async def test_a_cut_upload_is_detected_over_tls(program, report, tmp_path):
    authority, pem = trustme.CA(), tmp_path / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(pem))
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    served = program(*KEEPS_TRUNCATED, "answer", str(pem))
    found = await report(f"https://{served}/upload", "--cacert", str(tmp_path / "ca.pem"))
    assert values(found, "tls_verified", "keeps_truncated") == {"tls_verified": True, "keeps_truncated": True}


async def test_an_api_that_closes_the_connection_on_a_cut_upload_needs_the_spool(program, report, tmp_path):
    found = await report(f"http://{program(*KEEPS_TRUNCATED, 'hang-up')}/upload")
    assert found["keeps_truncated"] is None
    assert "--upstream-mode spool" in found["flags"]
    (kept,) = (tmp_path / "store").glob("*-cut.txt")
    assert f"has no {kept.name}" in found["reasons"]["keeps_truncated"]


async def test_an_api_that_needs_a_length_accepts_no_chunked_body(program, report):
    found = await report(f"http://{program(*KEEPS_TRUNCATED, 'answer')}/upload")
    assert values(found, "accepts_chunked", "needs_length") == {"accepts_chunked": False, "needs_length": True}
    assert "411" in found["reasons"]["needs_length"]
    assert "--upstream-chunked never" in found["flags"]


# -- no connection


async def test_an_unreachable_api_gives_a_report(report):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    found = await report(f"http://127.0.0.1:{port}/upload")
    reasons = found.pop("reasons")
    assert found == {**dict.fromkeys(NAMES), "reachable": False}
    assert reasons["reachable"] == "nothing listens there"


async def test_a_name_that_cannot_be_resolved(report):
    found = await report(f"http://{'a' * 64}.example/upload")
    assert found["reachable"] is False
    assert found["reasons"]["reachable"] == "its name cannot be resolved"


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TimeoutError(), "it does not accept the connection in time"),
        (OSError(113, "No route to host"), "no route to host"),
        (OSError(), "the connection fails"),
    ],
)
def test_the_reason_of_a_failed_connection(error, reason):
    found = judge_unreached(Setup(URL("https://example.org/upload"), "somefile"), error)
    assert found["reachable"] == Finding(False, reason)


async def test_an_api_that_stops_during_the_probe_leaves_findings_unknown(report):
    async def talk(reader, writer):
        if await reader.readline():  # the first connection is closed without a request
            server.close()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    found = await report(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/upload")
    await server.wait_closed()
    reasons = found.pop("reasons")
    url = found["flags"].split()[2]
    assert found == {
        **dict.fromkeys(NAMES),
        "reachable": True,
        "flags": f"serve --upstream {url} --upstream-mode spool",
    }
    assert reasons["needs_length"] == "the chunked upload was not evaluated: it could not be reached any more"


async def test_an_http_api_asked_over_tls(api, report):
    async def answer(_request):
        return web.Response()

    found = await report((await api(answer)).replace("http:", "https:"))
    assert found["reachable"] is False
    assert "TLS" in found["reasons"]["reachable"]


async def test_nothing_is_sent_to_an_api_that_does_not_verify(aiorelay_server, report):
    chain = await aiorelay_server()
    found = await report(f"{chain.rest2}/upload")
    reasons = found.pop("reasons")
    assert found == {**dict.fromkeys(NAMES), "reachable": True, "tls_verified": False}
    assert "--cacert" in reasons["tls_verified"]
    assert "--insecure" in reasons["tls_verified"]
    assert chain.stored() == []


async def test_an_api_that_does_not_verify_is_probed_with_insecure(aiorelay_server, report):
    chain = await aiorelay_server()
    found = await report(f"{chain.rest2}/upload", "--insecure")
    assert values(found, "tls_verified", "accepts_chunked") == {"tls_verified": False, "accepts_chunked": True}
    assert found["flags"] == f"serve --upstream {chain.rest2}/upload --upstream-insecure"


async def test_the_ca_generated_on_this_machine_is_trusted(aiorelay_server, report, monkeypatch):
    chain = await aiorelay_server()
    monkeypatch.setenv("AIORELAY_STATE_DIR", str(Path(chain.ca).parent.parent))
    found = await report(f"{chain.rest2}/upload", "--insecure")
    assert found["tls_verified"] is True
    assert found["flags"] == f"serve --upstream {chain.rest2}/upload"


# -- refused uploads


async def test_an_api_that_wants_a_header(api, report):
    async def answer(request):
        if request.headers.get("X-Api-Key") != "s3cret":
            return web.Response(status=401)
        return web.json_response(await receive(request))

    url = await api(answer)
    without = await report(url)
    assert values(without, "reachable", "accepts_chunked", "answers_early", "flags") == {
        "reachable": True,
        "accepts_chunked": None,
        "answers_early": True,
        "flags": None,
    }
    assert "--header" in without["reasons"]["accepts_chunked"]
    given = await report(url, "--header", "X-Api-Key: s3cret")
    assert given["accepts_chunked"] is True
    assert given["flags"] == f"serve --upstream {url} --upstream-header 'X-Api-Key: ***'"
    assert "s3cret" not in json.dumps(given)


async def test_an_api_with_another_field(api, report):
    async def answer(request):
        parts = await receive(request)
        return web.json_response(parts, status=200 if "document" in dict(parts) else 422)

    url = await api(answer)
    wrong = await report(url)
    assert wrong["accepts_chunked"] is None
    assert "--field" in wrong["reasons"]["accepts_chunked"]
    right = await report(url, "--field", "document")
    assert right["accepts_chunked"] is True
    assert right["flags"] == f"serve --upstream {url} --field document"


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (307, "it names no other URL"),
        (404, "is there an upload API at this path?"),
        (405, "is there an upload API at this path?"),
        (429, "try again later"),
        (500, "--content or --header"),
        (507, "it answered 507"),
    ],
)
async def test_a_refusal_comes_with_what_to_do(status, advice, api, report):
    async def answer(_request):
        return web.Response(status=status)

    found = await report(await api(answer))
    assert found["needs_length"] is None
    assert found["reasons"]["needs_length"].endswith(advice)


async def test_an_answer_that_is_not_http(report):
    async def talk(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()

    async with await asyncio.start_server(talk, "127.0.0.1", 0) as server:
        found = await report(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/upload")
    assert "not HTTP" in found["reasons"]["flags"]
    assert found["answers_early"] is None


# -- the meaning of answers


async def test_a_success_without_the_file_name_is_no_success_if_other_answers_contain_it(api, report):
    async def answer(request):
        parts = [] if "Transfer-Encoding" in request.headers else await receive(request)
        return web.json_response({"files": parts})

    found = await report(await api(answer))
    assert found["accepts_chunked"] is False
    assert "without naming the file" in found["reasons"]["accepts_chunked"]


async def test_a_busy_answer_is_no_finding_about_the_upload(api, report):
    async def answer(request):
        if "Transfer-Encoding" in request.headers or "filename" not in await request.text():
            return web.Response(status=503)
        return web.Response(status=503 if "value-" in await request.text() else 201)

    found = await report(await api(answer))
    assert values(found, "accepts_chunked", "needs_length", "order_sensitive") == {
        "accepts_chunked": None,
        "needs_length": None,
        "order_sensitive": None,
    }


@pytest.mark.parametrize(
    ("sees", "sensitive", "reason"),
    [
        (lambda parts: (200, parts), False, "it accepts fields before and after the file"),
        (lambda parts: (200 if parts[-1][0] == "somefile" else 400, parts), True, "it answered 400 to a field after"),
        (lambda parts: (200 if parts[0][0] == "somefile" else 400, parts), True, "it answered 400 to a field before"),
        (lambda parts: (200, parts[: [name for name, _ in parts].index("somefile") + 1]), True, "only fields before"),
        (lambda parts: (200, parts[[name for name, _ in parts].index("somefile") :]), True, "only fields after"),
        (
            lambda parts: (200 if len(parts) == 1 else 400, parts),
            None,
            "400 to a form with an additional field",
        ),
    ],
)
async def test_the_order_of_fields_and_file(sees, sensitive, reason, api, report):
    async def answer(request):
        status, parts = sees(await receive(request))
        return web.json_response(parts, status=status)

    found = await report(await api(answer))
    assert found["order_sensitive"] is sensitive
    assert reason in found["reasons"]["order_sensitive"]


@pytest.mark.parametrize(
    "write",
    [
        lambda name: web.Response(text=name),
        lambda name: web.Response(text=f'<a title="{name.replace(chr(34), "&quot;")}">', content_type="text/html"),
        lambda name: web.json_response({"files": [{"name": name}]}),
        lambda name: web.Response(status=201, headers={"Location": str(URL.build(path=f"/files/{name}"))}),
    ],
    ids=["text", "html", "json", "location"],
)
async def test_a_file_name_is_found_in_any_escaping(write, api, report):
    async def answer(request):
        return write(dict(await receive(request))["somefile"])

    found = await report(await api(answer))
    assert found["filenames"] == ["plain", "spaces", "utf-8", "quotes", "semicolons"]


async def test_changed_or_refused_names_are_reported(api, report):
    async def answer(request):
        name = dict(await receive(request))["somefile"]
        return web.Response(text=name.replace(" ", "_"), status=200 if name.isascii() else 400)

    found = await report(await api(answer))
    assert found["filenames"] == ["plain", "quotes", "semicolons"]
    assert found["reasons"]["filenames"] == "it changed spaces; it answered 400 to utf-8"


async def test_without_file_names_in_the_answers_the_finding_is_unknown(api, report):
    async def answer(request):
        return web.Response(status=204 if await receive(request) else 400)

    found = await report(await api(answer))
    assert found["filenames"] is None
    assert "do not contain the file names; it accepted plain, spaces, utf-8" in found["reasons"]["filenames"]


async def test_success_for_half_an_upload_is_an_early_answer(api, report):
    async def answer(request):
        has_file = b"filename" in await request.content.readany()
        return web.Response(status=202 if has_file else 400)

    found = await report(await api(answer))
    assert values(found, "answers_early", "keeps_truncated") == {"answers_early": True, "keeps_truncated": True}


# -- the command


async def test_the_text_report_has_a_line_for_each_finding(aiorelay_server, capsys):
    chain = await aiorelay_server()
    assert (
        await asyncio.to_thread(main, ["probe", f"{chain.rest2}/upload", "--cacert", str(chain.ca), "--no-patience"])
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines[:-1]] == list(NAMES)
    assert lines[-1] == shlex.join(["serve", "--upstream", f"{chain.rest2}/upload", "--upstream-ca", str(chain.ca)])
    assert "accepts_chunked: yes  (it answered 200 to a chunked upload)" in lines
    assert "needs_length: no" in lines
    assert "filenames: plain, spaces, utf-8, quotes, semicolons  (its answers contain all names unchanged)" in lines


def test_the_text_report_says_unknown(capsys):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    assert main(["probe", f"http://127.0.0.1:{port}/upload"]) == 1
    assert "\nneeds_length: unknown\n" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "aiorelay: the following arguments are required: URL. See aiorelay probe --help."),
        (["ftp://example.org/"], "aiorelay: URL: 'ftp://example.org/' is not an http or https URL; try https://"),
        (
            ["https://me:s3cret@a/"],
            "aiorelay: URL: 'https://***@a/' contains credentials; give them with --header, as 'Authorization: ...'.",
        ),
        (["http://a/", "--header", "Secret"], "aiorelay: --header: '***' is not a header line; write it as"),
        (["http://a/", "--header", "Content-Length: 1"], "aiorelay: --header: 'Content-Length: ***' is a header that"),
        (["http://a/", "--field", ""], "aiorelay: --field: '' is not a field name"),
        (["http://a/", "--max-size=5"], "aiorelay: unrecognized arguments: --max-size. See aiorelay probe --help."),
        (["http://a/", "http://b/"], "aiorelay: unrecognized arguments: http://b/. See aiorelay probe --help."),
    ],
)
def test_misuse_is_one_line_and_status_2(arguments, sentence, capsys):
    assert main(["probe", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(sentence)
    assert err.count("\n") == 1


def test_a_ca_that_cannot_be_read_is_status_1(tmp_path, capsys):
    assert main(["probe", "https://127.0.0.1:9/", "--cacert", str(tmp_path / "none.pem")]) == 1
    assert "none.pem cannot be read" in capsys.readouterr().err


def test_its_help_lists_only_its_own_flags(capsys):
    assert main(["probe", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"  {flag} " in out for flag in ("--field", "--cacert", "--insecure", "--header", "--json"))
    assert "--max-size" not in out


def test_as_a_program():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    command = [PYTHON, "-m", "aiorelay", "probe", f"http://127.0.0.1:{port}/upload", "--json"]
    ended = subprocess.run(command, capture_output=True, check=False)
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["reachable"] is False
    assert ended.stderr == b""
