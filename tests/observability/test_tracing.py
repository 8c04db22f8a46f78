"""Spans as an OTLP collector receives them, and uploads without a working collector."""

from contextlib import asynccontextmanager

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from peers import DONE, Client, answering, ask, connected, eventually, failing_first, form, json_request, part, request
from processes import FREE_PORTS, started

from aiorelay.server.lifecycle import serve
from aiorelay.settings import Settings

pytestmark = pytest.mark.slow  # it imports OpenTelemetry

TAKEN = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-protobuf\r\nContent-Length: 0\r\n\r\n"
UNAVAILABLE = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"
FORM = form(part("somefile", b"content", "a.txt"))
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = f"traceparent: 00-{TRACE}-{PARENT}-01"
PHASES = ["receive", "check", "forward", "wait"]


class Collector:
    """The spans that a recorder has received."""

    def __init__(self, recorder):
        self.url = f"http://127.0.0.1:{recorder.port}"
        self._recorder = recorder

    @property
    def bodies(self):
        return [each.body for each in self._recorder.requests]

    @property
    def resources(self):
        return [each for body in self.bodies for each in ExportTraceServiceRequest.FromString(body).resource_spans]

    @property
    def spans(self):
        spans = [span for each in self.resources for scope in each.scope_spans for span in scope.spans]
        return sorted(spans, key=lambda span: span.start_time_unix_nano)

    def named(self, name):
        return [span for span in self.spans if span.name == name]

    def one(self, name):
        (span,) = self.named(name)
        return span


def attributes(span):
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}


@pytest.fixture
async def collector(recorder, monkeypatch):
    collector = Collector(await recorder(answering(TAKEN)))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    monkeypatch.setenv("NO_PROXY", "*")
    return collector


@pytest.fixture
async def upstream(recorder):
    return await recorder()


@pytest.fixture
def traced(collector, upstream, tmp_path):  # noqa: ARG001 - the collector is configured by the environment
    """A factory of relays that send spans. All spans have been sent when a relay has stopped."""

    @asynccontextmanager
    async def relay(**settings):
        ours = {"otel": True, "only": "rest1", "rest1_port": 0, "state_dir": tmp_path, "upstream": upstream.url}
        async with serve(Settings(**ours | settings)) as chain:
            yield chain

    return relay


@pytest.fixture
def upload(traced):
    """A function that sends one request through a tracing relay and returns the answer after the spans were sent."""

    async def upload(sent, **settings):
        async with traced(**settings) as chain:
            return await ask(chain.rest1, chain.tls, sent)

    return upload


async def test_an_upload_is_a_span_of_its_clients_trace_with_its_phases_as_children(upload, collector):
    await upload(request("/upload1", FORM, TRACEPARENT))
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    server = collector.one("POST /upload1")
    assert (server.kind, server.parent_span_id.hex()) == (Span.SPAN_KIND_SERVER, PARENT)
    below = [span for span in collector.spans if span is not server and span.parent_span_id == server.span_id]
    assert sorted(span.name for span in below) == sorted(["POST", *PHASES])
    for span in below:
        assert server.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        assert span.end_time_unix_nano <= server.end_time_unix_nano


async def test_the_upload_api_receives_the_context_of_the_exchange(upload, collector, upstream):
    await upload(request("/upload1", FORM, TRACEPARENT, "tracestate: a=b", "tracestate: c=d"))
    (passed_on,) = upstream.requests
    client = collector.one("POST")
    assert client.kind == Span.SPAN_KIND_CLIENT
    assert passed_on["traceparent"] == f"00-{TRACE}-{client.span_id.hex()}-01"
    assert passed_on["tracestate"] == "a=b,c=d"


@pytest.mark.parametrize("header", ["X-None: there", "traceparent: nonsense"])
async def test_without_a_trace_of_the_client_a_new_one_begins(upload, collector, upstream, header):
    await upload(request("/upload1", FORM, header))
    server = collector.one("POST /upload1")
    assert server.parent_span_id == b""
    assert upstream.requests[0]["traceparent"].split("-")[1] == server.trace_id.hex()


async def test_attributes_are_named_by_the_semantic_conventions(upload, collector, upstream):
    await upload(request("/upload/b.txt", b"content", "X-Request-ID: id-1", method="PUT", content_type=None))
    assert attributes(collector.one("PUT /upload/")) == {
        "http.request.method": "PUT",
        "http.route": "/upload/",
        "url.scheme": "https",
        "url.path": "/upload/b.txt",
        "client.address": "127.0.0.1",
        "http.response.status_code": 200,
        "aiorelay.request_id": "id-1",
        "aiorelay.outcome": "stored",
        "aiorelay.bytes": 7,
    }
    assert attributes(collector.one("POST")) == {
        "http.request.method": "POST",
        "server.address": "127.0.0.1",
        "server.port": upstream.port,
        "url.full": upstream.url,
        "http.response.status_code": 200,
    }
    assert {span.status.code for span in collector.spans} == {Status.STATUS_CODE_UNSET}


async def test_the_span_of_a_route_has_its_path_and_that_of_the_exchange_its_method_and_url(
    upload, collector, upstream
):
    route = {"path": "/a/*", "upstream": upstream.url, "raw": True}
    await upload(request("/a/b%20c?secret=x", b"content", method="PUT", content_type=None), route=route)
    assert attributes(collector.one("PUT /a/*"))["http.route"] == "/a/*"
    exchange = attributes(collector.one("PUT"))
    assert (exchange["http.request.method"], exchange["url.full"]) == ("PUT", f"{upstream.url}/b%20c")


async def test_spans_contain_no_query_value_and_no_token(upload, collector, upstream, tmp_path):
    (tmp_path / "tokens").write_text("alice:secret-1\n")
    await upload(
        request("/upload1?key=secret-2", FORM, "Authorization: Bearer secret-1", "Cookie: secret-3"),
        token_file=tmp_path / "tokens",
        upstream=f"{upstream.url}?key=secret-4",
        upstream_header=["X-Api-Key: secret-5"],
    )
    assert upstream.requests[0].target == "/api?key=secret-4&key=secret-2"
    assert attributes(collector.one("POST"))["url.full"] == upstream.url
    assert not [body for body in collector.bodies if b"secret" in body]


async def test_the_error_type_of_a_refusal_is_the_code_of_its_problem(upload, collector):
    # Larger than the look-ahead: a smaller file is refused before the exchange begins.
    large = form(part("somefile", b"x" * 1_000_000, "a.txt"))
    refused = await upload(request("/upload1", large), max_size=900_000)
    assert refused.status == 413
    server, client = collector.one("POST /upload1"), collector.one("POST")
    assert attributes(server)["error.type"] == attributes(client)["error.type"] == "too-large"
    assert attributes(server)["http.response.status_code"] == 413
    # A refusal is no error of the server's span, but the aborted exchange has failed.
    assert (server.status.code, client.status.code) == (Status.STATUS_CODE_UNSET, Status.STATUS_CODE_ERROR)


async def test_an_unreachable_upload_api_is_an_error_of_both_spans(upload, collector):
    assert (await upload(request("/upload1", FORM), upstream="http://127.0.0.1:1/")).status == 502
    server, client = collector.one("POST /upload1"), collector.one("POST")
    assert attributes(server)["error.type"] == "upstream-failed"
    assert attributes(client)["error.type"] == "connection_refused"
    assert server.status.code == client.status.code == Status.STATUS_CODE_ERROR


async def test_a_refusal_by_the_upload_api_is_an_error_of_the_exchange(upload, collector, upstream):
    upstream.script = answering(DONE.replace(b"200 OK", b"409 Conflict"))
    assert (await upload(request("/upload1", FORM))).status == 409
    server, client = collector.one("POST /upload1"), collector.one("POST")
    assert attributes(client)["error.type"] == "409"
    assert "error.type" not in attributes(server)
    assert (server.status.code, client.status.code) == (Status.STATUS_CODE_UNSET, Status.STATUS_CODE_ERROR)


async def test_a_client_that_disconnects_has_a_span(traced, collector):
    async with traced() as chain, connected(chain.rest1, chain.tls) as client:
        await client.send(request("/upload1", FORM[:-9], TRACEPARENT, length=len(FORM)))
        await has_begun(chain, client)
    server = collector.one("POST /upload1")
    assert server.status.code == Status.STATUS_CODE_ERROR
    assert attributes(server)["aiorelay.outcome"] == "aborted"
    assert attributes(server)["error.type"]


async def has_begun(chain, client: Client) -> None:
    """Wait until the upload of ``client`` is in progress, then disconnect."""

    async def in_progress():
        answer = await ask(chain.rest1, chain.tls, request("/metrics", b"", method="GET"))
        return b"aiorelay_uploads_in_flight 1.0" in answer.body

    while not await in_progress():
        pass
    client.reset()


async def test_each_try_is_an_exchange_of_its_own(upload, collector, upstream):
    upstream.script = failing_first(1, answering(UNAVAILABLE))
    await upload(request("/upload1", FORM, TRACEPARENT, "Idempotency-Key: k"), upstream_mode="spool")
    tries = collector.named("POST")
    assert [attributes(span)["http.response.status_code"] for span in tries] == [503, 200]
    told = [each["traceparent"].split("-")[2] for each in upstream.requests]
    assert told == [span.span_id.hex() for span in tries]


async def test_a_job_is_traced_to_its_end(traced, collector, upstream, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"content")
    async with traced(local_root=[tmp_path]) as chain:
        asked = json_request({"somefile": str(tmp_path / "a.txt")}, TRACEPARENT, "Prefer: respond-async")
        assert (await ask(chain.rest1, chain.tls, asked)).status == 202
        await eventually(lambda: upstream.requests)
    server, client = collector.one("POST /upload2"), collector.one("POST")
    assert server.parent_span_id.hex() == PARENT
    assert client.parent_span_id == server.span_id
    assert attributes(server)["aiorelay.outcome"] == "stored"
    assert server.end_time_unix_nano >= client.end_time_unix_nano


async def test_an_unsampled_trace_is_passed_on_unsampled(upload, collector, upstream):
    await upload(request("/upload1", FORM, f"{TRACEPARENT[:-2]}00"))
    assert collector.spans == []
    assert upstream.requests[0]["traceparent"].startswith(f"00-{TRACE}-")
    assert upstream.requests[0]["traceparent"].endswith("-00")


@pytest.mark.parametrize(("named", "name"), [("", "aiorelay"), ("uploads", "uploads")])
async def test_the_service_is_named_by_its_variable(upload, collector, monkeypatch, named, name):
    monkeypatch.setenv("OTEL_SERVICE_NAME", named)
    await upload(request("/upload1", FORM))
    assert [attributes(each.resource)["service.name"] for each in collector.resources] == [name]


async def test_without_otel_nothing_is_sent(upload, collector, upstream):
    await upload(request("/upload1", FORM, TRACEPARENT), otel=False)
    assert collector.bodies == []
    assert upstream.requests[0]["traceparent"] == TRACEPARENT.removeprefix("traceparent: ")


# -- as a process


@pytest.fixture
def arguments(upstream, tmp_path):
    return ["--otel", "--only", "rest1", "--upstream", upstream.url, *FREE_PORTS, "--state-dir", tmp_path]


async def test_spans_are_sent_before_the_process_ends(arguments, collector):
    async with started(*arguments) as process:
        await ask(process.rest1, process.tls, request("/upload1", FORM))
        assert await process.stop() == 0
    assert collector.one("POST /upload1")


async def silent(connection):
    await connection.hang()


@pytest.mark.parametrize("is_there", [False, True], ids=["away", "silent"])
async def test_a_failing_collector_is_logged_in_one_line(arguments, recorder, is_there):
    peer = await recorder(silent)
    env = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{peer.port if is_there else 1}",
        "OTEL_BSP_SCHEDULE_DELAY": "10",
        "NO_PROXY": "*",
    }
    async with started(*arguments, "--grace", "1s", env=env) as process:
        for _ in range(3):
            assert (await ask(process.rest1, process.tls, request("/upload1", FORM))).status == 200
        assert await process.stop() == 0
    assert "The last spans were not sent" in process.log
    assert all(line.startswith("20") for line in process.log.splitlines())
    assert is_there or "Transient error" in process.log


@pytest.mark.parametrize(("name", "value"), [("OTEL_PROPAGATORS", "nonsense"), ("OTEL_BSP_MAX_QUEUE_SIZE", "0")])
async def test_invalid_variables_are_a_startup_error(arguments, name, value):
    async with started(*arguments, env={name: value}) as process:
        assert await process.ended() == 1
    (line,) = process.log.splitlines()
    assert line.startswith("aiorelay: otel: OpenTelemetry cannot use its variables: ")


async def test_variables_that_the_sdk_ignores_are_logged(arguments):
    async with started(*arguments, env={"OTEL_BSP_MAX_QUEUE_SIZE": "nonsense"}) as process:
        assert await process.stop() == 0
    line, _ = process.log.splitlines()
    assert "OTEL_BSP_MAX_QUEUE_SIZE" in line
    assert "'nonsense'" in line
