"""Uploads at the paths of other upload APIs: where they go, what is refused, what the upload API never gets whole."""

import asyncio
import hashlib
import json
from base64 import b64encode

import pytest
from multidict import CIMultiDict, CIMultiDictProxy
from peers import ask, connected, eventually, form, part, request

from aiorelay.errors import MalformedField
from aiorelay.rest1.routes import with_one_filename
from aiorelay.rest1.upload_request import UploadRequest

pytestmark = pytest.mark.slow

FORM = form(part("somefile", b"content", "a.txt"))
LARGE = bytes(range(256)) * 4096  # 1 MiB: more than is judged before the upload API is contacted
CSV = b"a,b\r\n1,2\r\n"


def to(target, body=FORM, *headers, **options):
    return request(target, body, *headers, **options)


def raw(target, body, *headers, method="POST", content_type="text/csv", **options):
    return to(target, body, *headers, method=method, content_type=content_type, **options)


@pytest.fixture
async def routed(aiorelay_server, recorder):
    """A factory of relays with one route, and its upload API."""

    async def start(path, *, script=None, api="", settings=(), **own):
        upstream = await recorder(script)
        route = {"path": path, "upstream": f"http://127.0.0.1:{upstream.port}{api}", **own}
        return await aiorelay_server(route=[route], **dict(settings)), upstream

    return start


def problem(answer):
    assert answer["Content-Type"] == "application/problem+json", answer
    return answer.status, answer.json()["type"].removeprefix("urn:aiorelay:")


# -- where uploads go


@pytest.mark.parametrize(
    ("path", "api", "sent", "received"),
    [
        ("/import", "/api/import", "/import", "/api/import"),
        ("/import", "/api/import", "/import?a=1&b=%20", "/api/import?a=1&b=%20"),
        ("/import", "/api?key=x", "/import?a=1", "/api?key=x&a=1"),
        ("/", "/", "/", "/"),
        ("/", "", "/", "/"),
        ("/api/projects/7/import", "/api/projects/7/import", "/api/projects/7/import", "/api/projects/7/import"),
        ("/a/*", "/api/", "/a/b/c.txt", "/api/b/c.txt"),
        ("/a/*", "/api", "/a/b/c.txt?q=1", "/api/b/c.txt?q=1"),
        ("/a/*", "/api", "/a/", "/api/"),
        ("/a/*", "/api?key=x", "/a/b", "/api/b?key=x"),
        ("/a/*", "", "/a/%E4%20b//c", "/%E4%20b//c"),
        ("/*", "", "/any/thing", "/any/thing"),
        ("/upload1", "/own", "/upload1", "/own"),
    ],
)
async def test_a_form_goes_to_the_url_of_its_route(routed, path, api, sent, received):
    relay, upstream = await routed(path, api=api)
    assert (await ask(relay.rest1, relay.tls, to(sent))).status == 200
    (message,) = upstream.requests
    assert (message.method, message.target) == ("POST", received)
    assert message.parts == [('Content-Disposition: form-data; name="somefile"; filename="a.txt"', b"content")]
    assert relay.stored() == []


async def test_the_most_specific_route_is_used(aiorelay_server, recorder):
    apis = {path: await recorder() for path in ("/*", "/a/*", "/a/b/*", "/a/b/c")}
    relay = await aiorelay_server(route=[f"{path}={api.url}" for path, api in apis.items()])
    for path in ("/x", "/a/x", "/a/b/x", "/a/b/c"):
        assert (await ask(relay.rest1, relay.tls, to(path))).status == 200
    assert [len(api.requests) for api in apis.values()] == [1, 1, 1, 1]


async def test_the_relays_own_paths_go_before_prefixes(routed):
    relay, upstream = await routed("/*")
    assert (await ask(relay.rest1, relay.tls, to("/upload1"))).status == 200
    assert [each.name for each in relay.stored()] == ["a.txt"]
    assert upstream.requests == []


@pytest.mark.parametrize(
    "rest", ["..", "../x", "a/../../x", "%2e%2e/x", "%252e%252e/x", "..%2fx", "a/..%5cx", "..%5Cx", ".", "./x", "%2E/x"]
)
async def test_a_path_that_leaves_the_api_is_not_found(routed, rest):
    relay, upstream = await routed("/a/*", api="/inner/")
    assert problem(await ask(relay.rest1, relay.tls, to(f"/a/{rest}"))) == (404, "not-found")
    assert upstream.connections == []


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/import", 405),
        ("DELETE", "/import", 405),
        ("PUT", "/import", 405),
        ("POST", "/import/x", 404),
        ("POST", "/imports", 404),
        ("POST", "/a", 404),
        ("GET", "/a/x", 405),
        ("GET", "/other", 404),
    ],
)
async def test_what_is_no_upload_is_not_passed_on(aiorelay_server, recorder, method, target, status):
    upstream = await recorder()
    relay = await aiorelay_server(route=[f"/import={upstream.url}", f"/a/*={upstream.url}"])
    assert (await ask(relay.rest1, relay.tls, to(target, method=method))).status == status
    assert upstream.connections == []


@pytest.mark.parametrize("content_type", ["application/json", "text/plain", None])
async def test_a_route_without_raw_takes_forms_only(routed, content_type):
    relay, upstream = await routed("/import")
    answer = await ask(relay.rest1, relay.tls, to("/import", b"{}", content_type=content_type))
    assert problem(answer) == (415, "wrong-content-type")
    assert upstream.connections == []


async def test_the_upload_apis_answer_is_passed_back(routed):
    async def script(connection):
        await connection.request()
        await connection.send(b"HTTP/1.1 418 Teapot\r\nX-Own: yes\r\nContent-Length: 5\r\n\r\nshort")

    relay, _ = await routed("/import", script=script)
    answer = await ask(relay.rest1, relay.tls, to("/import"))
    assert (answer.status, answer["X-Own"], answer.body) == (418, "yes", b"short")


# -- checks and limits


async def test_each_route_has_its_own_limits(aiorelay_server, recorder):
    upstream = await recorder()
    relay = await aiorelay_server(
        max_size=100,
        route=[
            {"path": "/small", "upstream": upstream.url, "max_size": 10},
            {"path": "/large", "upstream": upstream.url, "max_size": "1KiB"},
            {"path": "/inherited", "upstream": upstream.url},
            {"path": "/text", "upstream": upstream.url, "accept": [".txt"]},
            {"path": "/named", "upstream": upstream.url, "field": "file"},
        ],
    )

    async def status(path, size, name="a.txt", field="somefile"):
        body = form(part(field, bytes(size), name))
        return (await ask(relay.rest1, relay.tls, to(path, body))).status

    assert [await status("/small", size) for size in (10, 11)] == [200, 413]
    assert [await status("/large", size) for size in (1024, 1025)] == [200, 413]
    assert [await status("/inherited", size) for size in (100, 101)] == [200, 413]
    assert [await status("/upload1", size) for size in (100, 101)] == [200, 413]
    assert [await status("/text", 1, name) for name in ("a.txt", "a.bin")] == [200, 415]
    assert [await status("/named", 1, field=field) for field in ("file", "somefile")] == [200, 400]


async def test_the_headers_for_one_upload_api_do_not_go_to_another(aiorelay_server, recorder):
    first, second = await recorder(), await recorder()
    relay = await aiorelay_server(
        upstream=first.url,
        upstream_header=["X-Key: first"],
        route=[{"path": "/second", "upstream": second.url, "upstream_header": ["X-Other: second"]}],
    )
    for path in ("/upload1", "/second"):
        assert (await ask(relay.rest1, relay.tls, to(path))).status == 200
    assert (first.requests[0].all("X-Key"), first.requests[0].all("X-Other")) == (["first"], [])
    assert (second.requests[0].all("X-Key"), second.requests[0].all("X-Other")) == ([], ["second"])


@pytest.fixture
def tokens(tmp_path):
    path = tmp_path / "tokens"
    path.write_text("alice:a-token\nbob:b-token\n")
    return path


@pytest.mark.parametrize(
    ("token", "refused"),
    [("a-token", None), ("b-token", (403, "token-refused")), ("x", (401, "unauthenticated"))],
    ids=["alice", "bob", "nobody"],
)
async def test_a_route_may_be_for_some_tokens_only(routed, tokens, token, refused):
    relay, upstream = await routed("/import", tokens=["alice"], settings={"token_file": tokens})
    answer = await ask(relay.rest1, relay.tls, to("/import", FORM, f"Authorization: Bearer {token}"))
    assert (None if answer.status == 200 else problem(answer)) == refused
    assert len(upstream.requests) == (refused is None)


async def test_tokens_that_no_route_names_may_use_the_relay(routed, tokens):
    relay, _ = await routed("/import", tokens=["alice"], settings={"token_file": tokens})
    answer = await ask(relay.rest1, relay.tls, to("/upload1", FORM, "Authorization: Bearer b-token"))
    assert answer.status == 200


# -- raw bodies


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("size", [0, 1, 7, len(LARGE)])
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_raw_body_arrives_as_it_was_sent(routed, method, size, framing):
    relay, upstream = await routed("/media", api="/wp-json/wp/v2/media", raw=True)
    content = LARGE[:size]
    headers = ('Content-Disposition: attachment; filename="a.csv"', "Content-Language: de")
    sent = raw("/media", content, *headers, method=method, chunked=framing == "chunked")
    assert (await ask(relay.rest1, relay.tls, sent)).status == 200
    (message,) = upstream.requests
    assert (message.method, message.target, message["Content-Type"]) == (method, "/wp-json/wp/v2/media", "text/csv")
    assert message["Content-Disposition"] == 'attachment; filename="a.csv"'
    assert message["Content-Language"] == "de"
    assert message.body == content
    if framing == "length":
        assert message["Content-Length"] == str(size)


async def test_a_raw_body_without_a_type_gets_none(routed):
    relay, upstream = await routed("/media", raw=True)
    assert (await ask(relay.rest1, relay.tls, raw("/media", CSV, content_type=None))).status == 200
    assert upstream.requests[0].all("Content-Type") == []


@pytest.mark.parametrize("mode", ["stream", "spool"])
async def test_the_digest_of_a_raw_body_is_checked_and_passed_on(routed, mode):
    relay, upstream = await routed("/media", raw=True, upstream_mode=mode)
    digest = f"Content-Digest: sha-256=:{b64encode(hashlib.sha256(LARGE).digest()).decode()}:"
    assert (await ask(relay.rest1, relay.tls, raw("/media", LARGE, digest))).status == 200
    assert upstream.requests[0].body == LARGE
    assert f"Content-Digest: {upstream.requests[0]['Content-Digest']}" == digest
    answer = await ask(relay.rest1, relay.tls, raw("/media", LARGE[:-1] + b"x", digest))
    assert problem(answer) == (422, "digest-mismatch")
    assert len(upstream.requests) == 1


@pytest.mark.parametrize(
    ("own", "body", "refused"),
    [
        ({"max_size": len(LARGE) - 1}, LARGE, (413, "too-large")),
        ({"accept": ["application/pdf"]}, LARGE, (415, "type-refused")),
        ({"accept": [".png"]}, LARGE, (415, "type-refused")),
    ],
    ids=["size", "type", "ending"],
)
async def test_a_raw_body_is_checked(routed, own, body, refused):
    relay, upstream = await routed("/media", raw=True, **own)
    name = 'Content-Disposition: attachment; filename="a.csv"'
    assert problem(await ask(relay.rest1, relay.tls, raw("/media", body, name))) == refused
    assert upstream.requests == []


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_refused_raw_body_is_never_whole(routed, tmp_path, monkeypatch, framing):
    (tmp_path / "refusing_at_the_end.py").write_text(
        "import aiorelay\n"
        "class Refusing:\n"
        "    def __init__(self, part): self.size = 0\n"
        "    def feed(self, chunk): self.size += len(chunk)\n"
        "    def finish(self): raise aiorelay.Refused('no')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    relay, upstream = await routed("/media", raw=True, validator="refusing_at_the_end:Refusing")
    sent = raw("/media", LARGE, chunked=framing == "chunked")
    assert problem(await ask(relay.rest1, relay.tls, sent)) == (422, "content-refused")
    (connection,) = upstream.connections
    await eventually(connection.cut.is_set)
    assert upstream.requests == []
    received = connection.message
    assert 0 < len(received.body) < len(LARGE)


async def test_a_raw_body_that_breaks_off_is_never_whole(routed):
    relay, upstream = await routed("/media", raw=True)
    async with connected(relay.rest1, relay.tls) as client:
        await client.send(raw("/media", LARGE[:-1], length=len(LARGE)))
        await eventually(lambda: bool(upstream.connections))
        client.reset()
    (connection,) = upstream.connections
    await eventually(connection.cut.is_set)
    assert upstream.requests == []


async def test_a_form_on_a_raw_route_is_checked_as_a_form(routed):
    relay, upstream = await routed("/media", raw=True, field="file", accept=[".csv"])
    good, bad = (form(part("file", CSV, name)) for name in ("a.csv", "a.exe"))
    assert (await ask(relay.rest1, relay.tls, to("/media", good))).status == 200
    assert upstream.requests[0].parts[0][1] == CSV
    assert problem(await ask(relay.rest1, relay.tls, to("/media", bad))) == (415, "type-refused")


@pytest.mark.parametrize(
    ("method", "content_type"),
    [
        ("PUT", "multipart/form-data; boundary=x"),
        ("POST", "multipart/mixed; boundary=x"),
        ("POST", "Multipart/Related"),
    ],
)
async def test_other_multipart_bodies_are_not_raw(routed, method, content_type):
    relay, upstream = await routed("/media", raw=True)
    answer = await ask(relay.rest1, relay.tls, raw("/media", FORM, method=method, content_type=content_type))
    assert problem(answer) == (415, "wrong-content-type")
    assert upstream.connections == []


async def test_pieces_are_refused_on_routes_too(routed):
    relay, upstream = await routed("/media", raw=True)
    answer = await ask(relay.rest1, relay.tls, raw("/media", CSV, "Content-Range: bytes 0-9/100", method="PUT"))
    assert problem(answer) == (400, "partial-upload")
    assert upstream.connections == []


# -- the name of a raw body


def asked(*dispositions, segment="media", rest=None):
    fields = CIMultiDict([("Content-Disposition", value) for value in dispositions])
    return UploadRequest(
        endpoint="/media",
        who=None,
        principal="address 127.0.0.1",
        media_type="text/csv",
        content_type="text/csv",
        filename=segment,
        query="",
        digests={},
        wanted_digest=None,
        respond_async=False,
        fields=CIMultiDictProxy(fields),
        rest=rest,
    )


@pytest.mark.parametrize(
    ("disposition", "name", "sent"),
    [
        ("attachment", "media", "attachment"),
        ('attachment; filename="a.csv"', "a.csv", 'attachment; filename="a.csv"'),
        ("attachment; filename=a.csv", "a.csv", "attachment; filename=a.csv"),
        ('inline; filename="a.csv"; size=3', "a.csv", 'inline; filename="a.csv"; size=3'),
        ("attachment; filename*=UTF-8''b.csv", "b.csv", 'attachment; filename="b.csv"'),
        ("attachment; filename=\"a.php\"; filename*=UTF-8''b.csv", "b.csv", 'attachment; filename="b.csv"'),
        ('attachment; filename="../a.csv"', "a.csv", 'attachment; filename="a.csv"'),
        ('attachment; filename="C:\\\\a.csv"', "a.csv", 'attachment; filename="a.csv"'),
    ],
    ids=["none", "quoted", "token", "others", "extended", "two names", "path", "Windows path"],
)
def test_the_file_of_a_raw_body_has_one_name(disposition, name, sent):
    named = with_one_filename(asked(disposition))
    assert named.filename == name
    assert named.fields["Content-Disposition"] == sent


@pytest.mark.parametrize(
    "dispositions",
    [
        ['attachment; filename="a.csv"', 'attachment; filename="b.php"'],
        ['attachment; filename="a.csv"; filename="b.php"'],
        ['attachment; filename="a.csv" x'],
        ["attachment; filename=a b.csv"],
        ["attachment; filename*0=a.csv"],
        ['attachment; filename=".."'],
        ["a b; filename=a.csv"],
        [""],
    ],
)
def test_a_name_that_readers_may_read_differently_is_refused(dispositions):
    with pytest.raises(MalformedField):
        with_one_filename(asked(*dispositions))


@pytest.mark.parametrize(
    ("segment", "accepted"), [("a.csv", True), ("A.CSV", True), ("7", True), ("", True), ("a.php", False)]
)
def test_the_path_of_a_prefix_must_not_name_another_type_of_file(segment, accepted):
    wanted = asked('attachment; filename="a.csv"', segment=segment, rest=f"x/{segment}")
    if accepted:
        assert with_one_filename(wanted).filename == "a.csv"
    else:
        with pytest.raises(MalformedField):
            with_one_filename(wanted)


# -- what operators see


async def test_log_and_metrics_name_the_route(routed, caplog):
    caplog.set_level("INFO", "aiorelay")
    relay, _ = await routed("/a/*")
    assert (await ask(relay.rest1, relay.tls, to("/a/b?secret=x"))).status == 200
    (upload,) = [record.members for record in caplog.records if hasattr(record, "members")]
    assert upload["endpoint"] == "/a/*"
    metrics = await ask(relay.rest1, relay.tls, to("/metrics", b"", method="GET", content_type=None))
    assert b'aiorelay_uploads_total{endpoint="/a/*",outcome="stored"} 1.0' in metrics.body


async def test_readyz_names_the_routes_whose_api_is_away(aiorelay_server, recorder):
    upstream = await recorder()
    relay = await aiorelay_server(
        only="rest1", route=[f"/here={upstream.url}", "/away=http://127.0.0.1:1/", "/gone=http://127.0.0.1:1/"]
    )
    ready = to("/readyz", b"", method="GET", content_type=None)
    answer = await ask(relay.rest1, relay.tls, ready)
    assert (answer.status, answer.json()) == (200, {"status": "ready", "unreachable": ["/away", "/gone"]})
    none = await aiorelay_server(only="rest1", route="/away=http://127.0.0.1:1/")
    assert (await ask(none.rest1, none.tls, ready)).status == 503


async def test_a_relay_may_have_routes_alone(aiorelay_server, recorder):
    upstream = await recorder()
    relay = await aiorelay_server(only="rest1", route=f"/import={upstream.url}")
    assert (await ask(relay.rest1, relay.tls, to("/import"))).status == 200
    for path in ("/upload", "/upload1", "/files/", "/upload2"):
        assert (await ask(relay.rest1, relay.tls, to(path))).status == 404
    document = await ask(relay.rest1, relay.tls, to("/openapi.json", b"", method="GET", content_type=None))
    assert "/upload1" not in json.loads(document.body)["paths"]


async def test_routes_share_the_limit_of_simultaneous_uploads(routed):
    relay, upstream = await routed("/import", settings={"max_uploads": 1})
    async with connected(relay.rest1, relay.tls) as client:
        whole = to("/import", form(part("somefile", LARGE, "a.bin")))
        await client.send(whole[:-100])
        await eventually(lambda: bool(upstream.connections))
        assert problem(await ask(relay.rest1, relay.tls, to("/import"))) == (503, "busy")
        assert (await client.ask(whole[-100:])).status == 200
    await asyncio.sleep(0)
