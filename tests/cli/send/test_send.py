"""``aiorelay send``, called as a function with real relays, and as a program for signals and terminals."""

import asyncio
import hashlib
import json
import os
import signal
import ssl
import sys
from datetime import UTC, datetime, timedelta

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st
from peers import PATIENCE, answering, answering_early, eventually
from send_program import answer_of, finished, on_a_terminal, program, relay, uploads
from yarl import URL

from aiorelay.cli.send import SendResult, is_confidential, read_token
from aiorelay.cli.send.job_events import events_in, result_of_job
from aiorelay.cli.send.results import Answer
from aiorelay.errors import StartupError

pytestmark = pytest.mark.slow

# -- files


async def test_file_is_sent_and_the_answer_is_printed_unchanged(aiorelay_server, send, tmp_path):
    chain = await aiorelay_server()
    (tmp_path / "report.pdf").write_bytes(b"%PDF")
    status, out, err = await send("report.pdf", *relay(chain))
    assert (status, err) == (0, "")
    (stored,) = chain.stored()
    (file,) = json.loads(out)["files"]
    assert file == {
        "field": "somefile",
        "filename": "report.pdf",
        "path": str(stored),
        "size": 4,
        "sha256": hashlib.sha256(b"%PDF").hexdigest(),
        "content_type": "application/pdf",
    }
    assert out.endswith("}\n")
    assert stored.read_bytes() == b"%PDF"


@pytest.mark.parametrize("name", ["Ünï.txt", "日本 語.txt", "a b;c=d.txt", "-x.txt", "no-ending", 'q"uo"te.txt'])
async def test_file_names_are_sent_unchanged(name, aiorelay_server, send, tmp_path):
    chain = await aiorelay_server()
    (tmp_path / name).write_bytes(b"x")
    status, out, _ = await send(f"./{name}", *relay(chain))
    assert status == 0
    assert json.loads(out)["files"][0]["filename"] in {name, name.replace('"', "%22")}


async def test_undecodable_name_is_sent_with_replacement_characters(aiorelay_server, send, tmp_path):
    chain = await aiorelay_server()
    (tmp_path / os.fsdecode(b"\xff.txt")).write_bytes(b"x")
    status, out, _ = await send(os.fsdecode(b"\xff.txt"), *relay(chain))
    assert status == 0
    assert json.loads(out)["files"][0]["filename"] == "\ufffd.txt"


@pytest.mark.parametrize(
    ("name", "media_type"), [("a.tar.gz", "application/gzip"), ("no-ending", "application/octet-stream")]
)
async def test_media_type_depends_on_the_extension(name, media_type, aiorelay_server, send, tmp_path):
    chain = await aiorelay_server()
    (tmp_path / name).write_bytes(b"x")
    _, out, _ = await send(name, *relay(chain))
    assert json.loads(out)["files"][0]["content_type"] == media_type


async def test_generated_ca_of_this_machine_is_trusted(aiorelay_server, send, tmp_path, monkeypatch):
    chain = await aiorelay_server()
    monkeypatch.setenv("AIORELAY_STATE_DIR", str(chain.ca.parent.parent))
    (tmp_path / "a").write_bytes(b"x")
    assert (await send("a", "--to", chain.rest1))[0] == 0


async def test_sources_are_sent_in_order_even_if_one_fails(aiorelay_server, send, tmp_path):
    chain = await aiorelay_server(max_size=3)
    for name, content in {"a": b"a", "large": b"large", "b": b"b"}.items():
        (tmp_path / name).write_bytes(content)
    status, out, err = await send("a", "large", "missing", ".", *relay(chain), "b")
    assert status == 1
    assert [json.loads(line)["files"][0]["filename"] for line in out.splitlines()] == ["a", "b"]
    assert err.splitlines() == [
        "aiorelay: large: The upload is too large: A file may have at most 3 bytes (max-size).",
        "aiorelay: missing: No such file or directory.",
        "aiorelay: .: It is a directory. Send the files in it, or an archive of it.",
    ]


async def test_json_is_one_object_for_each_source(aiorelay_server, send, tmp_path):
    chain = await aiorelay_server(max_size=3)
    (tmp_path / "a").write_bytes(b"a")
    (tmp_path / "large").write_bytes(b"large")
    status, out, err = await send("--json", "a", "large", "missing", *relay(chain))
    assert (status, err) == (1, "")
    stored, refused, missing = map(json.loads, out.splitlines())
    assert (stored["source"], stored["status"], stored["answer"]["status"]) == ("a", 200, "done")
    assert (refused["source"], refused["status"], refused["problem"]["type"]) == (
        "large",
        413,
        "urn:aiorelay:too-large",
    )
    assert missing == {"source": "missing", "status": None, "problem": {"title": "No such file or directory."}}


async def test_form_has_a_content_length_and_fields_before_the_file(recorder, send, tmp_path):
    api = await recorder()
    (tmp_path / "a.png").write_bytes(b"png")
    status, out, _ = await send("a.png", "--to", api.url, "--field", "k=v=w", "--field", "ключ=", "--field", "k=2")
    assert (status, out) == (0, '{"status": "done"}\n')
    (request,) = uploads(api)
    assert request.target == "/api"
    assert int(request["Content-Length"]) == len(request.body)
    assert [(head.splitlines()[0], content) for head, content in request.parts] == [
        ('Content-Disposition: form-data; name="k"', b"v=w"),
        ('Content-Disposition: form-data; name="ключ"', b""),
        ('Content-Disposition: form-data; name="k"', b"2"),
        ('Content-Disposition: form-data; name="somefile"; filename="a.png"', b"png"),
    ]
    assert "Content-Type: image/png" in request.parts[3][0]


async def test_setting_field_names_the_field_of_the_file(recorder, send, tmp_path, monkeypatch):
    monkeypatch.setenv("AIORELAY_FIELD", "upload")
    api = await recorder()
    (tmp_path / "a").write_bytes(b"a")
    assert (await send("a", "--to", api.url))[0] == 0
    assert 'name="upload"' in uploads(api)[0].parts[0][0]


async def test_file_field_overrides_the_setting(recorder, send, tmp_path, monkeypatch):
    monkeypatch.setenv("AIORELAY_FIELD", "upload")
    api = await recorder()
    (tmp_path / "a").write_bytes(b"a")
    assert (await send("a", "--to", api.url, "--file-field", "document"))[0] == 0
    assert 'name="document"' in uploads(api)[0].parts[0][0]


async def test_query_of_an_endpoint_is_sent_unchanged(recorder, send, tmp_path):
    api = await recorder()
    (tmp_path / "a").write_bytes(b"a")
    assert (await send("a", "--to", f"{api.url}?signed=%2B%2f"))[0] == 0
    assert uploads(api)[0].target == "/api?signed=%2B%2f"


async def test_error_response_without_a_problem_document_is_quoted(recorder, send, tmp_path):
    api = await recorder(answering(answer_of(400, b"<p>no\n  thanks</p>", "text/html")))
    (tmp_path / "a").write_bytes(b"a")
    status, out, err = await send("a", "--to", api.url)
    assert (status, out, err) == (1, "", "aiorelay: a: 400 Bad Request: <p>no thanks</p>\n")


async def test_redirect_is_not_followed(recorder, send, tmp_path):
    api = await recorder(answering(answer_of(307, b"", "text/html", "Location: https://example.org/new")))
    (tmp_path / "a").write_bytes(b"a")
    status, _, err = await send("a", "--to", api.url)
    assert status == 1
    assert (
        err
        == "aiorelay: a: The server redirects to https://example.org/new. Repeat with --to https://example.org/new.\n"
    )


@pytest.mark.parametrize("size", [64 * 2**20, None], ids=["file", "endless"])
async def test_refusal_during_the_upload_is_shown(size, recorder, send, tmp_path):
    refusal = json.dumps({"title": "Too large", "detail": "Not here."}).encode()
    api = await recorder(answering_early(answer_of(413, refusal, "application/problem+json")))
    with (tmp_path / "big").open("wb") as file:
        file.truncate(size or 0)
    status, _, err = await send("big" if size else "/dev/zero", "--to", api.url)
    assert status == 1
    assert err.endswith(": Too large: Not here.\n")


async def test_file_shorter_than_its_size_is_not_completed(recorder, send):
    api = await recorder()
    status, _, err = await send("/proc/self/status", "--to", api.url)
    assert status == 1
    assert err == "aiorelay: /proc/self/status: The file is longer than its length says.\n"
    assert uploads(api) == []


async def test_memory_stays_flat(aiorelay_server, tmp_path):
    """Sending 200 MiB needs only a few MiB more than sending 1 MiB."""
    chain = await aiorelay_server()
    measured = "import resource, sys; from aiorelay.cli.main import main; status = main(sys.argv[1:]); "
    measured += "print(status, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)"
    peaks = []
    for size in (2**20, 200 * 2**20):
        with (tmp_path / "big").open("wb") as file:
            file.truncate(size)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", measured, "send", "big", *map(str, relay(chain)),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        _, out, err = await finished(process)
        assert json.loads(out)["files"][0]["size"] == size
        status, peak = map(int, err.split())
        assert status == 0
        peaks.append(peak)
    assert peaks[1] - peaks[0] < 24


# -- standard input


@pytest.mark.parametrize("size", [0, 5, 300_000])
async def test_standard_input_is_streamed_from_a_pipe(size, aiorelay_server):
    chain = await aiorelay_server()
    status, out, err = await finished(await program("-", *relay(chain)), b"x" * size)
    assert (status, err) == (0, "")
    assert json.loads(out)["files"][0]["filename"] == "stdin"
    assert [path.stat().st_size for path in chain.stored()] == [size]


async def test_redirected_file_has_a_content_length(recorder, tmp_path):
    api = await recorder()
    (tmp_path / "a").write_bytes(b"content")
    with (tmp_path / "a").open("rb") as file:
        assert (await finished(await program("-", "--to", api.url, stdin=file)))[0] == 0
        file.read(3)
        os.lseek(file.fileno(), 3, os.SEEK_SET)
        assert (await finished(await program("-", "--to", api.url, stdin=file)))[0] == 0
    whole, rest = uploads(api)
    assert int(whole["Content-Length"]) == len(whole.body)
    assert whole.parts[0][1] == b"content"
    assert rest["Transfer-Encoding"] == "chunked"
    assert rest.parts[0][1] == b"tent"


async def test_named_pipe_is_read_to_its_end(recorder, send, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    api = await recorder()
    sending = asyncio.create_task(send("pipe", "--to", api.url))
    await asyncio.to_thread((tmp_path / "pipe").write_bytes, b"late")
    assert (await sending)[0] == 0
    assert uploads(api)[0].parts[0][1] == b"late"


async def test_closed_standard_input_is_one_line(recorder):
    api = await recorder()
    process = await asyncio.create_subprocess_exec(
        "sh", "-c", 'exec "$@" <&-', "sh", sys.executable, "-m", "aiorelay", "send", "-", "--to", api.url,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert await finished(process) == (
        1,
        "",
        "aiorelay: -: Standard input is closed. Redirect a file or a pipe to it.\n",
    )


async def test_interrupt_aborts_the_upload_with_status_130_and_no_traceback(recorder):
    api = await recorder()
    process = await program("-", "--to", api.url)
    process.stdin.write(b"x" * 1_000_000)
    await eventually(lambda: api.connections and len(api.connections[0].received) > 500_000)
    process.send_signal(signal.SIGINT)
    assert await finished(process) == (130, "", "")
    await eventually(api.connections[0].cut.is_set)
    assert api.requests == []


# -- URLs


async def test_url_is_ingested_and_its_answer_printed(aiorelay_server, recorder, send):
    source = await recorder(answering(answer_of(200, b"remote", "text/plain")))
    chain = await aiorelay_server(allow_net=["127.0.0.0/8"])
    status, out, err = await send(source.url, *relay(chain))
    assert (status, err) == (0, "")
    assert json.loads(out)["files"][0]["content_type"] == "text/plain"
    assert [path.read_bytes() for path in chain.stored()] == [b"remote"]


async def test_url_that_is_refused_is_one_line(aiorelay_server, send):
    chain = await aiorelay_server()
    status, out, err = await send("http://10.0.0.1/x", *relay(chain))
    assert (status, out) == (1, "")
    assert err.startswith("aiorelay: http://10.0.0.1/x: The address may not be dialled: ")
    assert err.count("\n") == 1


async def test_url_that_fails_while_it_is_fetched_is_one_line(aiorelay_server, recorder, send):
    source = await recorder(answering(answer_of(404, b"", "text/plain")))
    chain = await aiorelay_server(allow_net=["127.0.0.0/8"])
    status, out, _ = await send(source.url, "--json", *relay(chain))
    assert status == 1
    assert (json.loads(out)["status"], json.loads(out)["problem"]["title"]) == (502, "The source failed")


@pytest.mark.parametrize("url", ["https://example.org/a", "s3://bucket/a"])
async def test_relay_without_jobs_answers_synchronously(recorder, send, url):
    api = await recorder()
    status, out, _ = await send(url, "--to", api.url, "--field", "k=v")
    assert (status, out) == (0, '{"status": "done"}\n')
    assert api.requests[0].json() == {"k": "v", "somefile": url}
    assert api.requests[0]["Prefer"] == "respond-async"


@pytest.mark.parametrize("fields", [["k=1", "k=2"], ["somefile=x"]])
async def test_repeated_field_is_refused_with_a_url(fields, recorder, send):
    api = await recorder()
    flags = [word for field in fields for word in ("--field", field)]
    status, _, err = await send("https://example.org/a", "--to", api.url, *flags)
    assert status == 1
    assert "A field can be given only once with a URL" in err
    assert api.requests == []


ACCEPTED = answer_of(202, b"{}", "application/json", "Location: /jobs/7", "Preference-Applied: respond-async")


def event(number, **job):
    job = {
        "state": "running",
        "received": number,
        "forwarded": number,
        "total": 9,
        "answer": None,
        "problem": None,
    } | job
    return f"event: job\nid: {number}\ndata: {json.dumps(job)}\n\n".encode()


def stream(*events):
    return b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n:\n\n" + b"".join(events)


def telling(*streams):
    """A relay that starts a job and sends its events: one stream for each connection, ended by closing it."""
    left = list(streams)

    async def script(connection):
        while True:
            request = await connection.request()
            match request.method, request.target:
                case "POST", _:
                    await connection.send(ACCEPTED)
                case "GET", "/jobs/7/events":
                    await connection.send(left.pop(0))
                    return
                case method, target:
                    assert (method, target) == ("DELETE", "/jobs/7")
                    await connection.send(answer_of(200, b"{}"))

    return script


async def test_job_is_followed_after_lost_connections(recorder, send):
    answer = {"status": 201, "headers": {"Content-Type": "application/json"}, "body": '{"id": 1}'}
    unavailable = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
    api = await recorder(
        telling(stream(event(3), event(5)), stream(), unavailable, stream(event(9, state="done", answer=answer)))
    )
    status, out, err = await send("https://example.org/a", "--to", api.url)
    assert (status, out, err) == (0, '{"id": 1}\n', "")
    asked = [request.all("Last-Event-ID") for request in api.requests if request.method == "GET"]
    assert asked == [[], ["5"], ["5"], ["5"]]


async def test_unknown_job_is_one_line(recorder, send):
    problem = json.dumps({"title": "Nothing there", "detail": "No such job."}).encode()
    api = await recorder(telling(answer_of(404, problem, "application/problem+json")))
    status, _, err = await send("https://example.org/a", "--to", api.url)
    assert status == 1
    assert err.endswith("/a: The relay refuses the events of the job: Nothing there: No such job.\n")


async def test_job_of_another_origin_is_not_followed(recorder, send):
    """The token must not be sent to another origin."""
    api = await recorder(answering(ACCEPTED.replace(b"/jobs/7", b"https://example.org/jobs/7")))
    assert (await send("https://example.org/a", "--to", api.url))[:2] == (0, "{}\n")


async def test_interrupt_cancels_the_job(recorder):
    waiting = asyncio.Event()

    async def script(connection):
        request = await connection.request()
        match request.method:
            case "POST":
                await connection.send(ACCEPTED)
                request = await connection.request()
        if request.method == "GET":
            await connection.send(stream(event(3)))
            waiting.set()
            await connection.until_cut()
        else:
            await connection.send(answer_of(200, b"{}"))

    api = await recorder(script)
    process = await program("https://example.org/a", "--to", api.url)
    async with asyncio.timeout(PATIENCE):
        await waiting.wait()
    process.send_signal(signal.SIGINT)
    assert await finished(process) == (130, "", "")
    assert (api.requests[-1].method, api.requests[-1].target) == ("DELETE", "/jobs/7")


# -- a terminal


@pytest.mark.parametrize(
    ("lines", "columns"), [(30, 100), (30, 0), (0, 100), (0, 0)], ids=["30x100", "30x0", "0x100", "0x0"]
)
async def test_terminal_shows_a_bar_with_rate_and_time_left(lines, columns, aiorelay_server, tmp_path):
    chain = await aiorelay_server()
    with (tmp_path / "bi\x1bg").open("wb") as file:
        file.truncate(50 * 2**20)
    status, out, shown = await on_a_terminal("bi\x1bg", *relay(chain), lines=lines, columns=columns)
    assert status == 0
    assert json.loads(out)["status"] == "done"
    assert "bi?g: 100%|" in shown
    assert "50.0M/50.0M [" in shown
    assert "B/s, waiting for the answer]" in shown


async def test_terminal_shows_both_legs_of_an_ingest(recorder):
    answer = {"status": 200, "headers": {}, "body": "ok"}
    states = [event(1, received=4, forwarded=2), event(2, received=9, forwarded=9, state="done", answer=answer)]
    api = await recorder(telling(stream(*states)))
    status, out, shown = await on_a_terminal("https://example.org/a", "--to", api.url)
    assert (status, out) == (0, "ok\n")
    assert "https://example.org/a fetched: 100%|" in shown
    assert "https://example.org/a forwarded: 100%|" in shown
    assert "waiting for the answer]" in shown


# -- trust


async def test_unknown_ca_is_one_line(aiorelay_server, send, tmp_path):
    chain = await aiorelay_server()
    (tmp_path / "a").write_bytes(b"a")
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "other.pem"))
    for flags in ([], ["--cacert", "other.pem"]):
        status, _, err = await send("a", "--to", chain.rest1, *flags)
        assert status == 1
        assert err == f"aiorelay: a: The certificate of {chain.rest1} is not trusted. Give its CA with --cacert.\n"


EXPIRED = {"not_before": datetime.now(UTC) - timedelta(2), "not_after": datetime.now(UTC) - timedelta(1)}


@pytest.mark.parametrize(
    ("name", "dates", "words"),
    [
        ("example.org", {}, "is for other names. Use one of them with --to."),
        ("127.0.0.1", EXPIRED, "has expired. Its operator must renew it."),
    ],
)
async def test_invalid_certificate_is_one_line(name, dates, words, recorder, send, tmp_path):
    api = await recorder(tls=served(name, tmp_path, **dates))
    (tmp_path / "a").write_bytes(b"a")
    status, _, err = await send("a", "--to", api.url, "--cacert", "ca.pem")
    assert status == 1
    assert err == f"aiorelay: a: The certificate of https://127.0.0.1:{api.port} {words}\n"


def served(name, directory, **dates):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(directory / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert(name, **dates).configure_cert(context)
    return context


async def test_cacert_without_a_certificate_is_one_line(send, tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    status, _, err = await send("a", "--cacert", "a")
    assert status == 1
    assert err.startswith(f"aiorelay: The file {tmp_path}/a holds no CA certificate in PEM form. Choose ")


async def test_unreachable_server_is_one_line(recorder, send, tmp_path):
    api = await recorder()
    (tmp_path / "a").write_bytes(b"a")
    origin = f"http://127.0.0.1:{api.port}"
    await api.__aexit__()
    status, _, err = await send("a", "--to", origin)
    assert (status, err) == (1, f"aiorelay: a: {origin} cannot be reached. Is the relay running there?\n")


async def test_name_that_cannot_be_resolved_is_one_line(send, tmp_path):
    (tmp_path / "a").write_bytes(b"a")
    status, _, err = await send("a", "--to", "https://relay.invalid")
    assert status == 1
    assert err == "aiorelay: a: The name relay.invalid cannot be resolved. Give the relay's URL with --to.\n"


async def test_wrong_scheme_is_one_line(aiorelay_server, recorder, send, tmp_path):
    async def script(connection):
        await connection.read()
        await connection.send(answer_of(400, b"what?"))

    chain, api = await aiorelay_server(), await recorder(script)
    (tmp_path / "a").write_bytes(b"a")
    _, _, err = await send("a", "--to", chain.rest1.replace("https", "http"))
    assert f"This port speaks HTTPS only. Use {chain.rest1} instead." in err
    _, _, err = await send("a", "--to", api.url.replace("http", "https"))
    assert "is not a TLS server. Does its URL begin with http://?" in err


async def test_incomplete_answer_is_one_line(recorder, send, tmp_path):
    async def script(connection):
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhalf")

    api = await recorder(script)
    (tmp_path / "a").write_bytes(b"a")
    assert await send("a", "--to", api.url) == (
        1,
        "",
        "aiorelay: a: The connection was lost during the answer (status 200). Try again.\n",
    )


# -- the token


@pytest.mark.parametrize("line", ["s3cret~", "ann:s3cret~", "# ours\n\nann lee:s3cret~\nbob:other\n"])
async def test_token_is_sent_and_never_printed(line, recorder, send, tmp_path):
    api = await recorder(tls=served("127.0.0.1", tmp_path))
    (tmp_path / "token").write_text(line)
    (tmp_path / "a").write_bytes(b"a")
    status, out, err = await send("a", "--to", api.url, "--cacert", "ca.pem", "--token-file", "token")
    assert (status, err) == (0, "")
    assert "s3cret" not in out
    assert uploads(api)[0]["Authorization"] == "Bearer s3cret~"


async def test_token_is_sent_with_the_requests_for_the_job(recorder, send, tmp_path):
    answer = {"status": 200, "headers": {}, "body": "ok"}
    api = await recorder(telling(stream(event(9, state="done", answer=answer))))
    (tmp_path / "token").write_text("s3cret")
    assert (await send("https://example.org/a", "--to", api.url, "--token-file", "token"))[0] == 0
    assert [request["Authorization"] for request in api.requests] == ["Bearer s3cret"] * 2


@pytest.mark.parametrize("content", [b"", b"# nothing\n", b"two words s3cret", b"a:b:c d", b"\xff\xfe"])
def test_invalid_token_file_is_refused_without_showing_its_content(content, tmp_path):
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(StartupError, match="does not begin with a token") as refused:
        read_token(tmp_path / "token")
    assert "s3cret" not in str(refused.value)


def test_missing_token_file_is_an_error(tmp_path):
    with pytest.raises(StartupError, match="cannot be read: No such file"):
        read_token(tmp_path / "token")


@pytest.mark.parametrize(
    ("url", "confidential"),
    [
        ("https://example.org", True),
        ("http://127.0.0.1:8000", True),
        ("http://127.255.0.1", True),
        ("http://[::1]:8000", True),
        ("http://localhost", True),
        ("http://128.0.0.1", False),
        ("http://example.org", False),
        ("http://localhost.example.org", False),
    ],
)
def test_token_is_sent_only_over_tls_or_loopback(url, confidential):
    assert is_confidential(URL(url)) is confidential


# -- usage


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "aiorelay: the following arguments are required: SOURCE"),
        (["a", "--to", "ftp://example.org"], "aiorelay: --to: 'ftp://example.org' is not an http or https URL"),
        (
            ["a", "--to", "https://me:s3cret@example.org"],
            "aiorelay: --to: 'https://***@example.org' contains credentials; give a bearer token with --token-file.",
        ),
        (["a", "--field", "novalue"], "aiorelay: --field: expected NAME=VALUE."),
        (["a", "--field", "=v"], "aiorelay: --field: expected NAME=VALUE."),
        (["a", "--max-size", "5"], "aiorelay: unrecognized arguments: --max-size."),
        (["-", "a", "-"], "aiorelay: SOURCE: standard input can be sent only once"),
        (
            ["a", "--token-file", "t", "--to", "http://example.org"],
            "aiorelay: --token-file: the token would be sent unencrypted",
        ),
    ],
)
async def test_misuse_is_one_line_and_status_2(arguments, sentence, send):
    status, out, err = await send(*arguments)
    assert (status, out) == (2, "")
    assert err.startswith(sentence)
    assert err.endswith(". See aiorelay send --help.\n")


async def test_flags_may_stand_among_the_sources(recorder, send, tmp_path):
    api = await recorder()
    for name in "ab":
        (tmp_path / name).write_text(name)
    assert (await send("a", "--to", api.url, "b"))[0] == 0
    assert [request.parts[0][1] for request in uploads(api)] == [b"a", b"b"]


# -- results


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (Answer(422, "application/problem+json", b'{"title": "T", "detail": "D."}'), "T: D."),
        (Answer(409, "application/problem+json", b'{"detail": "D."}'), "Conflict: D."),
        (Answer(409, "application/problem+json", b"[]"), "409 Conflict: []"),
        (Answer(409, "application/problem+json", b"{"), "409 Conflict: {"),
        (Answer(500, "text/plain", b""), "500 Internal Server Error"),
        (Answer(599, "text/plain", b"\xff"), "599 refused: \ufffd"),
        (Answer(400, "", b"x" * 1000), f"400 Bad Request: {'x' * 300}…"),
        (Answer(400, "application/json", b"[" * 100_000), f"400 Bad Request: {'[' * 300}…"),
    ],
)
def test_sentence_of_a_refusal(answer, sentence):
    assert SendResult.of("a", answer).sentence == sentence


@pytest.mark.parametrize(
    ("answer", "content"),
    [
        (Answer(200, "application/json", b'{"a": 1}'), {"a": 1}),
        (Answer(201, "application/hal+json", b"[1]"), [1]),
        (Answer(200, "application/json", b"{"), "{"),
        (Answer(200, "text/plain", "ü".encode()), "ü"),
        (Answer(204, "", b""), ""),
    ],
)
def test_answer_in_json(answer, content):
    assert json.loads(SendResult.of("a", answer).as_json()) == {
        "source": "a",
        "status": answer.status,
        "answer": content,
    }


@pytest.mark.parametrize(
    ("job", "stored", "said"),
    [
        (
            {"state": "done", "answer": {"status": 200, "headers": {"content-type": "Text/Plain; x"}, "body": "b"}},
            True,
            "",
        ),
        ({"state": "done", "answer": {"status": 200, "headers": [["Content-Type", "a/b"]], "body": None}}, True, ""),
        ({"state": "done", "answer": {"status": 200, "body": {"a": 1}}}, True, ""),
        ({"state": "done", "answer": {"status": 400, "headers": {}, "body": "no"}}, False, "400 Bad Request: no"),
        ({"state": "failed", "problem": {"title": "T", "detail": "D", "status": 502}}, False, "T: D"),
        ({"state": "lost"}, False, "The relay stopped before the upload was complete. Send it again."),
        ({"state": "cancelled", "answer": None}, False, "The job ended as cancelled without an answer. Send it again."),
    ],
)
def test_result_of_an_ended_job(job, stored, said):
    outcome = result_of_job("a", job)
    assert (outcome.stored, outcome.sentence) == (stored, said)


def test_answer_of_a_job_that_is_not_text():
    answer = {"status": 200, "headers": {"Content-Type": "image/png"}, "body": "iVBORw==", "body_encoding": "base64"}
    result = result_of_job("a", {"state": "done", "answer": answer})
    assert result.answer == Answer(200, "image/png", b"\x89PNG")


@given(st.lists(st.tuples(st.integers(0, 9), st.text("aü:, {}\x00", min_size=1)), max_size=5), st.data())
def test_events_are_parsed_from_any_block_sizes(events, data):
    body = "".join(f": comment\nevent: job\nid: {number}\ndata: {text}\n\n" for number, text in events).encode()
    if data.draw(st.booleans()):
        body = body.replace(b"\n", b"\r\n")
    body += data.draw(st.sampled_from([b"", b"data: not ended", b"data: not ended\n", b"id: 3\n\n:\n\n"]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)))))

    async def blocks():
        for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True):
            yield body[start:end]

    async def read():
        return [(each.id, each.data) async for each in events_in(blocks())]

    assert asyncio.run(read()) == [(str(number), text) for number, text in events]
