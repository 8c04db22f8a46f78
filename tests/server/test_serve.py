"""``python -m aiorelay`` as a process: its output, its exit status, the files it leaves."""

import asyncio
import contextlib
import gc
import json
import os
import re
import signal
import socket
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from peers import Client, answering, ask, connected, eventually, form, part, request, run
from processes import FREE_PORTS, Process, started

import aiorelay
from aiorelay.certificates import tls
from aiorelay.observability import logs
from aiorelay.server.connections import Connections
from aiorelay.server.lifecycle import Control, obeying_signals
from aiorelay.server.listeners import Drain, listening, serving

pytestmark = pytest.mark.slow

CONTENT = os.urandom(3_000_000)  # half of it is more than a spool keeps in memory
FORM = form(part("somefile", CONTENT, "a.bin"), part("note", "after the file"))
UPLOAD = request("/upload1", FORM)
HALF = len(UPLOAD) // 2
HEALTH = request("/healthz", b"", method="GET", content_type=None)
READY = request("/readyz", b"", method="GET", content_type=None)


@pytest.fixture
def relay(tmp_path: Path):
    """A factory of relays on free ports, their state and store in the test's directory."""

    def start(*arguments: str, state: Path = tmp_path / "state", store: Path = tmp_path / "store"):
        return started("--state-dir", str(state), "--store", str(store), "--no-fsync", *FREE_PORTS, *arguments)

    return start


def kept(tmp_path: Path) -> list[Path]:
    """Return every file in the store, including hidden directories."""
    return [path for path in (tmp_path / "store").rglob("*") if path.is_file()]


async def paste(line: str) -> dict[str, object]:
    """Run a shell command in another directory and return the JSON that it prints."""
    status, out, err = await run("bash", "-c", f"cd / && {line}")
    assert status == 0, err
    answer: dict[str, object] = json.loads(out)
    return answer


async def self_signed(directory: Path, subject: str, *more: str) -> tuple[str, ...]:
    """Make a certificate and a key file with OpenSSL. Return the flags that serve it."""
    cert, key = directory / "cert.pem", directory / "key.pem"
    words = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    status, _, err = await run(*words, "-keyout", str(key), "-out", str(cert), "-subj", subject, *more)
    assert status == 0, err
    return "--tls-cert", str(cert), "--tls-key", str(key)


class TestReadyLines:
    async def test_they_name_both_servers_the_ca_and_a_curl_line(self, relay, tmp_path):
        async with relay() as process:
            ca = tmp_path / "state" / "tls" / "ca.pem"
            port = r"https://127\.0\.0\.1:[1-9][0-9]+"
            rest1, rest2, *others = process.ready
            assert re.fullmatch(f"rest1 {port}", rest1)
            assert re.fullmatch(f"rest2 {port}", rest2)
            assert others == [f"CA {ca}", f"curl --cacert {ca} -F somefile=@{ca} {process.rest1}/upload1"]

    @pytest.mark.parametrize(
        "arguments",
        [
            ("--only", "rest2"),
            ("--host", "0.0.0.0"),
            ("--host", "::1"),
            ("--host", "::"),
            ("--host", "localhost"),
            ("--host", "127.0.0.2"),
            ("--tls-name", "files.example"),
            ("--tls-name", "*.files.example"),
            ("--field", "attachment"),
        ],
        ids=" ".join,
    )
    @pytest.mark.needs("curl")
    async def test_the_curl_line_uploads_the_ca_from_anywhere(self, relay, tmp_path, arguments):
        async with relay(*arguments) as process:
            await paste(process.curl)
            (file,) = kept(tmp_path)
            assert file.read_bytes() == process.ca.read_bytes()

    @pytest.mark.parametrize("name", ["with space", "it's", 'say "hi"', "a,b;type=x", "back\\slash", "$HOME `id`", "ü"])
    @pytest.mark.needs("curl")
    async def test_the_curl_line_works_wherever_the_state_is(self, relay, tmp_path, name):
        async with relay(state=tmp_path / name) as process:
            await paste(process.curl)
            assert [file.read_bytes() for file in kept(tmp_path)] == [(tmp_path / name / "tls/ca.pem").read_bytes()]

    @pytest.mark.parametrize(
        ("subject", "more"),
        [
            ("/CN=files.example", ("-addext", "subjectAltName=DNS:files.example")),
            ("/CN=files.example", ("-addext", "subjectAltName=DNS:*.files.example")),
            ("/CN=files.example", ("-addext", "subjectAltName=IP:192.0.2.7")),
            ("/CN=files.example", ("-addext", "subjectAltName=IP:2001:db8::7")),
            ("/CN=files.example", ()),
            ("/CN=localhost", ("-addext", "subjectAltName=IP:127.0.0.1")),
        ],
    )
    @pytest.mark.needs("curl", "openssl")
    async def test_the_curl_line_verifies_the_users_own_certificate_under_its_name(
        self, relay, tmp_path, subject, more
    ):
        arguments = await self_signed(tmp_path, subject, *more)
        async with relay(*arguments) as process:
            assert process.ca == tmp_path / "cert.pem"
            await paste(process.curl)
            assert [file.read_bytes() for file in kept(tmp_path)] == [process.ca.read_bytes()]

    @pytest.mark.needs("curl")
    async def test_the_curl_line_trusts_a_certificate_whose_ca_is_not_in_the_file(self, relay, tmp_path):
        leaf = trustme.CA().issue_cert("files.example")
        leaf.private_key_and_cert_chain_pem.write_to_path(tmp_path / "own.pem")
        async with relay("--tls-cert", str(tmp_path / "own.pem")) as process:
            await paste(process.curl)
            assert len(kept(tmp_path)) == 1

    @pytest.mark.needs("curl")
    async def test_rest1_alone_prints_its_own_lines_and_uploads_to_the_upstream(self, relay, recorder, tmp_path):
        upstream = await recorder()
        async with relay("--only", "rest1", "--upstream", upstream.url) as process:
            assert [line.split()[0] for line in process.ready] == ["rest1", "CA", "curl"]
            assert await paste(process.curl) == {"status": "done"}
            assert upstream.requests[0].parts[0][1] == process.ca.read_bytes()
        assert kept(tmp_path) == []

    @pytest.mark.needs("curl")
    @pytest.mark.parametrize(("path", "target"), [("/import", "/import"), ("/a/*", "/a/ca.pem")])
    async def test_the_curl_line_uses_the_first_route_if_there_are_only_routes(self, relay, recorder, path, target):
        upstream = await recorder()
        route = f"{path}={upstream.url},field=file"
        async with relay("--only", "rest1", "--route", route, "--route", "/other=http://127.0.0.1:1/") as process:
            assert await paste(process.curl) == {"status": "done"}
            assert process.curl.endswith(target)
            assert upstream.requests[0].parts[0][1] == process.ca.read_bytes()

    async def test_localhost_is_bound_on_all_its_addresses_with_one_port(self, relay):
        async with relay("--host", "localhost") as process:
            assert process.rest1.startswith("https://localhost:")
            port = process.rest1.rpartition(":")[2]
            found = await asyncio.get_running_loop().getaddrinfo("localhost", port, type=socket.SOCK_STREAM)
            for host in ("localhost", *(str(where[0]) for *_, where in found)):
                reader, writer = await asyncio.open_connection(host, int(port), ssl=process.tls, server_hostname=host)
                assert (await Client(reader, writer).ask(HEALTH)).status == 200
                writer.transport.abort()

    async def test_the_ca_is_the_same_at_the_second_start(self, relay):
        async with relay() as process:
            first = process.ca.read_bytes()
        async with relay() as process:
            assert process.ca.read_bytes() == first
            assert (await ask(process.rest1, process.tls, HEALTH)).status == 200


SIGNALS = pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])


class TestEnd:
    @SIGNALS
    async def test_a_signal_ends_it_with_0_even_with_idle_connections(self, relay, number):
        async with relay() as process, contextlib.AsyncExitStack() as stack:
            for base in (process.rest1, process.rest1, process.rest2):
                client = await stack.enter_async_context(connected(base, process.tls))
                await client.ask(HEALTH)
            assert await process.stop(number) == 0

    @SIGNALS
    async def test_repeated_signals_do_not_change_the_exit_status(self, relay, number):
        async with relay() as process:
            while process.running:
                process.send(number)
                await asyncio.sleep(0.001)
            assert await process.ended() in {0, 1}

    @SIGNALS
    @pytest.mark.parametrize("mode", ["stream", "spool"])
    async def test_an_upload_in_flight_is_completed_and_answered(self, relay, tmp_path, number, mode):
        async with relay("--upstream-mode", mode) as process, connected(process.rest1, process.tls) as client:
            await client.send(UPLOAD[:HALF])
            await uploading(process, tmp_path, mode)
            process.send(number)
            await process.logged("shutting down")
            assert (await client.ask(UPLOAD[HALF:])).status == 200
            assert await process.ended() == 0
        assert [file.read_bytes() for file in kept(tmp_path)] == [CONTENT]

    async def test_new_uploads_are_refused_during_the_drain(self, relay, tmp_path):
        async with (
            relay() as process,
            connected(process.rest1, process.tls) as uploader,
            connected(process.rest1, process.tls) as other,
        ):
            assert (await other.ask(READY)).status == 200
            await uploader.send(UPLOAD[:HALF])
            await uploading(process, tmp_path)
            process.send(signal.SIGTERM)
            await process.logged("shutting down")
            await eventually(lambda: refuses(process.rest1))
            assert (await other.ask(HEALTH)).status == 200
            assert (await other.ask(READY)).status == 503
            refusal = await other.ask(UPLOAD)
            assert refusal.json()["type"] == "urn:aiorelay:shutting-down"
            assert int(refusal["Retry-After"]) > 0
            assert (await uploader.ask(UPLOAD[HALF:])).status == 200
            assert await process.ended() == 0
        assert len(kept(tmp_path)) == 1

    async def test_rest2_drains_too(self, relay, tmp_path):
        async with (
            relay("--only", "rest2") as process,
            connected(process.rest2, process.tls) as uploader,
            connected(process.rest2, process.tls) as other,
        ):
            upload = UPLOAD.replace(b"/upload1", b"/upload")
            await other.ask(HEALTH)
            await uploader.send(upload[:HALF])
            await uploading(process, tmp_path)
            process.send(signal.SIGTERM)
            await process.logged("shutting down")
            await eventually(lambda: refuses(process.rest2))
            assert (await other.ask(upload)).json()["type"] == "urn:aiorelay:shutting-down"
            assert (await uploader.ask(upload[HALF:])).status == 200
            assert await process.ended() == 0
        assert len(kept(tmp_path)) == 1

    async def test_an_upload_that_exceeds_grace_is_cancelled_and_not_stored(self, relay, tmp_path):
        async with relay("--grace", "300ms") as process, connected(process.rest1, process.tls) as client:
            await client.send(UPLOAD[:-1])
            await uploading(process, tmp_path)
            assert await process.stop() == 1
        assert "ERROR   unfinished requests were cancelled after 0.3 s; a longer --grace" in process.log
        assert left_behind(tmp_path) == []

    @pytest.mark.parametrize("mode", ["stream", "spool"])
    async def test_a_second_signal_cancels_uploads_and_nothing_is_stored(self, relay, tmp_path, mode):
        async with (
            relay("--grace", "1h", "--upstream-mode", mode) as process,
            connected(process.rest1, process.tls) as client,
        ):
            await client.send(UPLOAD[:-1])
            await uploading(process, tmp_path, mode)
            process.send(signal.SIGTERM)
            await process.logged("shutting down")
            assert await process.stop(signal.SIGINT) == 1
        assert "ERROR   unfinished requests were cancelled by a second signal" in process.log
        assert left_behind(tmp_path) == []

    async def test_the_upstream_never_receives_the_end_of_a_cancelled_upload(self, relay, recorder):
        upstream = await recorder()
        arguments = ("--only", "rest1", "--upstream", upstream.url, "--grace", "0")
        async with relay(*arguments) as process, connected(process.rest1, process.tls) as client:
            await client.send(UPLOAD[:-1])
            await eventually(lambda: upstream.connections and len(upstream.connections[0].received) > HALF)
            assert await process.stop() == 1
        await upstream.connections[0].cut.wait()
        assert not upstream.requests

    async def test_a_signal_is_not_logged_as_part_of_the_request_that_it_interrupts(self):
        seen = asyncio.get_running_loop().create_future()
        previous = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            with obeying_signals(Control(), lambda: seen.set_result(logs.request_id.get())):
                logs.request_id.set("interrupted")
                signal.raise_signal(signal.SIGTERM)
                assert await seen == "-"
        finally:
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)
            for number, handler in previous.items():
                signal.signal(number, handler)

    async def test_a_large_answer_is_sent_completely(self, relay, recorder):
        body = os.urandom(4_000_000)
        answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        upstream = await recorder(answering(answer))
        arguments = ("--only", "rest1", "--upstream", upstream.url)
        async with relay(*arguments) as process, connected(process.rest1, process.tls) as client:
            await client.send(UPLOAD)
            await eventually(lambda: upstream.requests)
            process.send(signal.SIGTERM)
            await process.logged("shutting down")
            assert (await client.answer()).body == body
            assert await process.ended() == 0

    async def test_a_temporary_store_is_removed_if_empty(self, tmp_path):
        arguments = ("--state-dir", str(tmp_path / "state"), *FREE_PORTS)
        temporary = tmp_path / "tmp"
        temporary.mkdir()
        async with started(*arguments, env={"TMPDIR": str(temporary)}):
            assert len(list(temporary.iterdir())) == 1
        assert list(temporary.iterdir()) == []
        async with started(*arguments, env={"TMPDIR": str(temporary)}) as process:
            await ask(process.rest1, process.tls, UPLOAD)
        assert [file.read_bytes() for file in temporary.glob("*/*/*")] == [CONTENT]


async def uploading(process: Process, tmp_path: Path, mode: str = "stream") -> None:
    """Wait until bytes of the upload have been written to a temporary file."""
    where = tmp_path / ("state/spool/" if mode == "spool" else "store/.incoming-")
    await eventually(lambda: any(each.startswith(str(where)) for each in process.open_files))


def refuses(base: str) -> bool:
    host, _, port = base.removeprefix("https://").rpartition(":")
    with socket.socket() as client:
        return client.connect_ex((host, int(port))) != 0


def left_behind(tmp_path: Path) -> list[Path]:
    """Return the files in the store and the spool."""
    return [*(tmp_path / "store").iterdir(), *(tmp_path / "state" / "spool").iterdir()]


BELOW_A_FILE = "{file}/below"
FAILURES = [
    (["--rest1-port", "{taken}"], r"Cannot listen on 127.0.0.1 port {taken}: Address already in use\. .*--rest1-port"),
    (["--rest2-port", "{taken}"], r"Cannot listen on 127.0.0.1 port {taken}: Address already in use\. .*--rest2-port"),
    (["--host", "192.0.2.1"], r"Cannot listen on 192.0.2.1 port 0: Cannot assign requested address\. .*--host"),
    (["--host", "nowhere.invalid"], "Cannot listen on nowhere.invalid port 0: .*--host"),
    (["--store", BELOW_A_FILE], "cannot store files in .*below: Not a directory; see --store"),
    (["--store", "/proc/store"], "cannot store files in /proc/store: No such file or directory; see --store"),
    (["--state-dir", BELOW_A_FILE], "The certificate store cannot be used, .*: Not a directory.*--state-dir"),
    (["--state-dir", "/proc/state"], "The certificate store cannot be used, .*--state-dir"),
    (["--tls-cert", BELOW_A_FILE], "below .--tls-cert. cannot be read: Not a directory"),
    (["--upstream", "https://127.0.0.1", "--upstream-ca", "{file}"], "{file} holds no CA certificate"),
    (["--icap", "icaps://127.0.0.1/scan", "--icap-ca", "{file}"], "{file} holds no CA certificate"),
    (["--icap", "icaps://127.0.0.1/scan", "--icap-ca", BELOW_A_FILE], "below cannot be read: Not a directory"),
]


@pytest.mark.parametrize(("arguments", "sentence"), FAILURES, ids=lambda value: " ".join(value)[:40])
async def test_a_failure_to_start_is_one_line_and_status_1(tmp_path, arguments, sentence):
    file = tmp_path / "file"
    file.write_text("")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as other:
        places = {"taken": other.getsockname()[1], "file": file}
        start = ["--state-dir", str(tmp_path / "state"), *FREE_PORTS, *(each.format(**places) for each in arguments)]
        async with started(*start, env={"TMPDIR": str(temporary)}) as process:
            assert await process.ended() == 1
    assert process.ready == []
    assert re.fullmatch(f"aiorelay: .*{sentence.format(**places)}.*[.] See aiorelay serve --help[.]\n", process.log)
    assert list(temporary.iterdir()) == []


async def test_wrong_settings_exit_with_2_and_one_line(relay):
    async with relay("--max-size", "large") as process:
        assert await process.ended() == 2
    assert process.ready == []
    assert re.fullmatch(r"aiorelay: max-size: .*\. See aiorelay serve --help\.\n", process.log)


class TestNotHttp:
    @pytest.mark.parametrize(
        "garbage",
        [b"\x00\x01\x02\xff\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"x" * 9000],
        ids=["bytes", "HTTP/2", "HTTP/9.9", "no end"],
    )
    async def test_it_is_answered_400_and_logged_in_one_line(self, relay, garbage):
        async with relay() as process, connected(process.rest1, process.tls) as client:
            answer = await client.ask(garbage)
            assert answer.status == 400
            assert not answer.all("Content-Type") or "problem" not in answer["Content-Type"]
            assert (await ask(process.rest1, process.tls, HEALTH)).status == 200
            assert await process.stop() == 0
        assert len(process.log.splitlines()) == 2, "one line for the garbage, one for the shutdown"

    @pytest.mark.parametrize("server", ["rest1", "rest2"])
    @pytest.mark.needs("curl")
    async def test_plain_http_is_told_to_use_https(self, relay, tmp_path, server):
        (tmp_path / "large").write_bytes(bytes(20 * 2**20))
        async with relay() as process:
            base = getattr(process, server)
            plain = base.replace("https:", "http:")
            for upload in ([], ["-F", f"somefile=@{tmp_path / 'large'}"], ["-T", f"{tmp_path / 'large'}"]):
                curl = await asyncio.create_subprocess_exec(
                    "curl", "-sS", "-w", " %{http_code} %{content_type}", *upload, f"{plain}/upload1", stdout=-1
                )
                out, _ = await curl.communicate()
                assert out.decode() == (
                    f"This port speaks HTTPS only. Use {base} instead.\n 400 text/plain; charset=utf-8"
                )
            assert (await ask(process.rest1, process.tls, HEALTH)).status == 200
            assert await process.stop() == 0


class TestDeadline:
    @contextlib.asynccontextmanager
    async def served(self, directory, *, deadline, keep_alive):
        """The URL of an empty app."""
        context = tls.Certificates(directory / "tls", ["localhost"]).context
        times, connections = {"deadline": deadline, "keep_alive": keep_alive}, Connections()
        app = web.Application(middlewares=[connections.track])
        with listening("127.0.0.1", 0, "--port") as sockets:
            drain = Drain(0, asyncio.Event())
            async with serving(app, sockets, context, drain, connections, **times):
                yield f"https://127.0.0.1:{sockets[0].getsockname()[1]}"

    @pytest.fixture
    async def base(self, tmp_path):
        """The URL of an empty app with a deadline of 0.2 seconds."""
        async with self.served(tmp_path, deadline=0.2, keep_alive=600) as base:
            yield base

    async def test_a_handshake_that_is_not_finished_is_closed(self, base):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(base.rpartition(":")[2]))
        assert await reader.read() == b""
        writer.close()

    @pytest.mark.parametrize("head", [b"", b"GET / HTT", HEALTH[:-2]])
    async def test_a_head_that_is_not_finished_is_closed(self, base, tmp_path, head):
        trusting = tls.client_context([tmp_path / "tls" / "ca.pem"])
        async with connected(base, trusting) as client:
            await client.send(head)
            with pytest.raises(AssertionError, match="closed the connection without an answer"):
                await client.head()

    async def test_a_later_head_that_is_not_finished_is_closed(self, base, tmp_path):
        trusting = tls.client_context([tmp_path / "tls" / "ca.pem"])
        async with connected(base, trusting) as client:
            assert (await client.ask(HEALTH)).status == 404
            assert (await client.ask(HEALTH)).status == 404
            await client.send(HEALTH[:-2])
            with pytest.raises(AssertionError, match="closed the connection without an answer"):
                await client.head()

    async def test_an_idle_connection_has_more_time_than_a_head(self, base, tmp_path):
        trusting = tls.client_context([tmp_path / "tls" / "ca.pem"])
        async with connected(base, trusting) as client:
            assert (await client.ask(HEALTH)).status == 404
            for _ in range(2):
                await self.test_a_head_that_is_not_finished_is_closed(base, tmp_path, b"GET / HTT")
            assert (await client.ask(HEALTH)).status == 404

    async def test_an_idle_connection_is_closed_after_its_time(self, tmp_path):
        async with self.served(tmp_path, deadline=600, keep_alive=0.2) as base:
            trusting = tls.client_context([tmp_path / "tls" / "ca.pem"])
            async with connected(base, trusting) as client:
                assert (await client.ask(HEALTH)).status == 404
                with pytest.raises(AssertionError, match="closed the connection without an answer"):
                    await client.head()


class TestFromPython:
    @pytest.fixture
    def settings(self, tmp_path):
        """A factory of settings with free ports, a shared CA and a store of their own."""

        def make(name: str = "store", **more: object) -> aiorelay.Settings:
            places = {"state_dir": tmp_path / "state", "store": tmp_path / name}
            return aiorelay.Settings(rest1_port=0, rest2_port=0, grace=0, fsync=False, **places, **more)

        return make

    async def test_serve_runs_both_servers_in_the_callers_loop(self, settings, tmp_path):
        async with aiorelay.serve(settings()) as chain:
            assert (await ask(chain.rest1, chain.tls, UPLOAD)).status == 200
            assert (await ask(chain.rest2, chain.tls, UPLOAD.replace(b"/upload1", b"/upload"))).status == 200
            assert [file.read_bytes() for file in chain.stored()] == [CONTENT, CONTENT]
            assert chain.store == tmp_path / "store"
            assert chain.ca == tmp_path / "state" / "tls" / "ca.pem"
        assert refuses(chain.rest1)
        assert refuses(chain.rest2)

    async def test_two_chains_share_a_loop_and_not_their_files(self, settings):
        async with aiorelay.serve(settings("a")) as one, aiorelay.serve(settings("b")) as other:
            assert (await ask(one.rest1, other.tls, UPLOAD)).status == 200
            assert len(one.stored()) == 1
            assert other.stored() == []

    async def test_a_chain_that_has_ended_takes_no_memory(self, settings):
        def applications() -> int:
            gc.collect()
            return sum(type(each) is web.Application for each in gc.get_objects())

        async def run_once() -> None:
            async with aiorelay.serve(settings()) as chain:
                for upload in (UPLOAD, request("/nowhere", FORM)):
                    await ask(chain.rest1, chain.tls, upload)

        before = applications()
        await run_once()
        assert applications() <= before

    async def test_an_exception_closes_everything(self, settings):
        before = descriptors()

        async def leave() -> None:
            async with aiorelay.serve(settings()) as chain:
                await ask(chain.rest1, chain.tls, HEALTH)
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await leave()
        await eventually(lambda: descriptors() == before)

    async def test_a_start_that_fails_closes_what_it_had_opened(self, settings, tmp_path):
        before = descriptors()
        (tmp_path / "file").write_text("")
        with pytest.raises(aiorelay.StartupError, match="cannot store files"):
            async with aiorelay.serve(settings("file/below")):
                pass
        assert descriptors() == before

    async def test_a_start_that_is_cancelled_anywhere_leaves_nothing_open(self, settings):
        async with aiorelay.serve(settings()):
            pass  # opens the descriptors that are kept for the life of the process
        before = descriptors()

        async def start() -> None:
            async with aiorelay.serve(settings()):
                await asyncio.Event().wait()

        for turns in range(12):
            task = asyncio.create_task(start())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await eventually(lambda: descriptors() == before)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


class TestSharing:
    """Several processes on one port, and another event loop."""

    async def test_two_processes_share_a_port(self, tmp_path):
        where = f"--state-dir={tmp_path}/state"
        async with started(where, "--reuse-port", *FREE_PORTS) as one:
            urls = {"rest1": one.rest1, "rest2": one.rest2}
            ports = [f"--{name}-port={url.rpartition(':')[2]}" for name, url in urls.items()]
            async with started(where, "--reuse-port", *ports) as other:
                assert other.rest1 == one.rest1

    @pytest.mark.needs("curl")
    async def test_uvloop_serves_too(self, tmp_path):
        async with started(f"--state-dir={tmp_path}/state", "--loop=uvloop", *FREE_PORTS) as relay:
            done = await asyncio.create_subprocess_shell(relay.curl, stdout=asyncio.subprocess.PIPE)
            answer, _ = await done.communicate()
            assert json.loads(answer)["status"] == "done"
