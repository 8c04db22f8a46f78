"""The metrics, and the log line of an upload."""

import io
import json
import logging

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from aiorelay.observability import logs


def form(content: bytes = b"content") -> aiohttp.FormData:
    data = aiohttp.FormData()
    data.add_field("somefile", content, filename="a.txt")
    return data


async def scrape(chain, **headers) -> dict[tuple[str, frozenset], float]:
    url = f"{chain.rest1}/metrics"
    async with aiohttp.ClientSession() as client, client.get(url, ssl=chain.tls, headers=headers) as answer:
        assert answer.content_type == "text/plain"
        text = await answer.text()
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}


def labels(**pairs: str) -> frozenset:
    return frozenset(pairs.items())


async def upload(chain, content: bytes = b"content") -> int:
    url = f"{chain.rest1}/upload1"
    async with aiohttp.ClientSession() as client, client.post(url, data=form(content), ssl=chain.tls) as answer:
        return answer.status


async def test_uploads_are_counted_by_endpoint_and_outcome(aiorelay_server):
    chain = await aiorelay_server(max_size=10)
    assert [await upload(chain), await upload(chain), await upload(chain, bytes(11))] == [200, 200, 413]
    metrics = await scrape(chain)
    assert metrics["aiorelay_uploads_total", labels(endpoint="/upload1", outcome="stored")] == 2
    assert metrics["aiorelay_uploads_total", labels(endpoint="/upload1", outcome="refused")] == 1
    assert metrics["aiorelay_upload_bytes_total", labels(leg="received")] == 2 * 7 + 11
    assert metrics["aiorelay_upload_bytes_total", labels(leg="forwarded")] > 2 * 7
    assert metrics["aiorelay_uploads_in_flight", labels()] == 0
    for phase in ("receive", "check", "forward", "wait"):
        assert metrics["aiorelay_upload_seconds_count", labels(phase=phase)] == 3
    assert metrics["process_open_fds", labels()] > 0


async def test_failures_of_the_upstream_are_counted_by_kind(aiorelay_server, unused_tcp_port):
    chain = await aiorelay_server(only="rest1", upstream=f"http://127.0.0.1:{unused_tcp_port}/")
    assert await upload(chain) == 502
    metrics = await scrape(chain)
    assert metrics["aiorelay_upstream_errors_total", labels(kind="connection_refused")] == 1


async def test_metrics_require_a_token_if_uploads_do(aiorelay_server, tmp_path):
    (tmp_path / "tokens").write_text("prometheus:t0ken\n")
    chain = await aiorelay_server(token_file=tmp_path / "tokens")
    async with aiohttp.ClientSession() as client, client.get(f"{chain.rest1}/metrics", ssl=chain.tls) as answer:
        assert answer.status == 401
    assert await scrape(chain, Authorization="Bearer t0ken")


@pytest.fixture
def logged():
    stream = io.StringIO()
    before = logs.log.handlers, logs.log.level, logs.log.propagate
    logs.configure("json", "info", stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logs.log.handlers, level, logs.log.propagate = before
    logs.log.setLevel(level)


async def test_an_upload_is_one_json_line(aiorelay_server, logged):
    chain = await aiorelay_server()
    async with aiohttp.ClientSession() as client:
        url = f"{chain.rest1}/upload1?secret=1"
        async with client.post(url, data=form(), ssl=chain.tls, headers={"X-Request-ID": "my-id"}) as answer:
            assert answer.headers["X-Request-ID"] == "my-id"
    [line] = [line for line in logged() if line["message"].startswith("upload")]
    assert line.pop("time").endswith("Z")
    assert line.pop("seconds") >= 0
    assert line.pop("phases").keys() == {"receive", "check", "forward", "wait"}
    assert line == {
        "level": "info",
        "message": "upload stored",
        "request_id": "my-id",
        "endpoint": "/upload1",
        "client": "127.0.0.1",
        "who": None,
        "files": ["a.txt"],
        "bytes": 7,
        "status": 200,
        "outcome": "stored",
    }


async def test_the_line_of_a_refusal_contains_its_code(aiorelay_server, logged):
    chain = await aiorelay_server(max_size=3)
    assert await upload(chain) == 413
    [line] = [line for line in logged() if line["message"].startswith("upload")]
    assert (line["outcome"], line["refused_by"], line["status"]) == ("refused", "too-large", 413)


@pytest.mark.parametrize(("given", "kept"), [("a.B_c-1", True), ("x" * 128, True), ("x" * 129, False), ("a b", False)])
def test_an_acceptable_request_id_is_kept(given, kept):
    assert (logs.set_request_id({"X-Request-ID": given}) == given) is kept


def test_line_breaks_are_escaped_in_text():
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    before = logs.log.handlers, logs.log.level, logs.log.propagate
    logs.configure("text", "info", stream)
    try:
        entry = logs.UploadRecord("/upload1", "127.0.0.1", files=["a\nb c", "é"])
        entry.answered(200, stored=True)
        entry.write()
    finally:
        logs.log.handlers, level, logs.log.propagate = before
        logs.log.setLevel(level)
        handler.close()
    assert stream.getvalue().count("\n") == 1
