"""Requests of web pages: CORS where it is allowed, refusal where it is not."""

import itertools

import pytest
from multidict import CIMultiDict
from peers import ask, connected, form, part, request

from aiorelay.http.cross_origin import (
    cors_fields,
    is_cross_site,
    own_origin,
    preflight_fields,
    vary_on_origin,
)

pytestmark = pytest.mark.slow

OWN = "https://relay.localhost"
APP = "https://app.example"
ALLOW = "Access-Control-Allow-Origin"
CREDENTIALS = "Access-Control-Allow-Credentials"
FORM = form(part("somefile", b"content", "a.txt"))


def code(answer):
    return answer.json()["type"].removeprefix("urn:aiorelay:")


def cors(answer):
    """The fields of CORS of an answer, each of which must be there once."""
    fields = [(name.lower(), value) for name, value in answer.headers if name.lower().startswith("access-control-")]
    assert len(dict(fields)) == len(fields)
    return dict(fields)


# -- the decisions


@pytest.mark.parametrize(
    ("site", "origin", "cross"),
    [
        (None, None, False),
        (None, OWN, False),
        (None, "http://relay.localhost", True),
        (None, "https://relay.localhost:8443", True),
        (None, "https://relay.localhost.evil.example", True),
        (None, APP, True),
        (None, "null", True),
        (None, "", True),
        ("none", None, False),
        ("none", APP, False),
        ("same-origin", None, False),
        ("same-origin", OWN, False),
        ("same-origin", APP, False),  # a proxy has changed the Host
        ("same-site", None, True),
        ("same-site", OWN, False),
        ("same-site", "https://other.localhost", True),
        ("same-site", "null", True),
        ("cross-site", None, True),
        ("cross-site", OWN, True),  # redirected by another site
        ("cross-site", APP, True),
        ("cross-site", "null", True),
        ("unknown", None, True),
        ("unknown", OWN, False),
        ("unknown", APP, True),
        ("", None, True),
    ],
)
def test_what_a_browser_marks_as_cross_site(site, origin, cross):
    assert is_cross_site(site, origin, OWN) == cross


@pytest.mark.parametrize(
    ("scheme", "headers", "proxied", "origin"),
    [
        ("https", {"Host": "Relay.Example"}, False, "https://relay.example"),
        ("https", {"Host": "relay.example:443"}, False, "https://relay.example"),
        ("https", {"Host": "relay.example:80"}, False, "https://relay.example:80"),
        ("http", {"Host": "relay.example:80"}, False, "http://relay.example"),
        ("https", {"Host": "[::1]:8000"}, False, "https://[::1]:8000"),
        ("https", {"Host": "a", "X-Forwarded-Host": "b", "X-Forwarded-Proto": "http"}, False, "https://a"),
        ("https", {"Host": "a", "X-Forwarded-Host": "b", "X-Forwarded-Proto": "http"}, True, "http://b"),
        ("https", {"Host": "a", "X-Forwarded-Host": "b:443, c"}, True, "https://b"),
        ("https", {"Host": "a", "X-Forwarded-Proto": "http, https"}, True, "http://a"),
        ("https", {"Host": "a", "X-Forwarded-Host": ""}, True, "https://a"),
        ("https", {}, False, "https://"),
    ],
)
def test_the_origin_of_the_server_is_the_one_that_the_browser_knows(scheme, headers, proxied, origin):
    assert own_origin(scheme, CIMultiDict(headers), proxied=proxied) == origin


@pytest.mark.parametrize(
    ("origin", "allowed", "expected"),
    [
        (None, (APP,), (None, None)),
        (None, ("*",), (None, None)),
        (APP, (APP,), (APP, "true")),
        ("https://APP.example", (APP,), (None, None)),
        ("https://app.example.", (APP,), (None, None)),
        ("https://app.example:8443", (APP,), (None, None)),
        ("http://app.example", (APP,), (None, None)),
        ("https://b.app.example", (APP,), (None, None)),
        ("null", (APP,), (None, None)),
        ("*", (APP,), (None, None)),
        (APP, ("*",), ("*", None)),
        ("null", ("*",), ("*", None)),
        ("*", ("*",), ("*", None)),
        (APP, ("*", APP), (APP, "true")),
        ("https://b.example", ("*", APP), ("*", None)),
        (APP, (), (None, None)),
    ],
)
def test_who_may_read_answers(origin, allowed, expected):
    fields = cors_fields(origin, allowed)
    assert (fields.get(ALLOW), fields.get(CREDENTIALS)) == expected
    assert ("Access-Control-Expose-Headers" in fields) == (expected[0] is not None)


@pytest.mark.parametrize(
    ("given", "added"),
    [
        ("X-Own,X-Other", ["X-Own", "X-Other"]),
        (" X-Own ,, ", ["X-Own"]),
        ("*", ["*"]),
        ("", []),
        ("X Own, X-Other", ["X-Other"]),
        ("a\x01", []),
    ],
    ids=["names", "spaces", "wildcard", "empty", "no name", "control character"],
)
def test_what_the_upload_api_exposes_is_exposed(given, added):
    plain = cors_fields(APP, (APP,))["Access-Control-Expose-Headers"]
    assert cors_fields(APP, (APP,), [given])["Access-Control-Expose-Headers"] == ", ".join([plain, *added])


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        ("authorization,content-type", "authorization, content-type"),
        ("tus-resumable, upload-length", "tus-resumable, upload-length"),
        ("", None),
        ("a b", None),
        ("a\x01", None),
        ("a,,b", "a, b"),
    ],
    ids=["two", "spaces", "none", "no name", "control character", "empty member"],
)
def test_a_preflight_allows_the_fields_that_it_asks_for(asked, allowed):
    assert preflight_fields(asked).get("Access-Control-Allow-Headers") == allowed


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], "Origin"),
        (["Accept"], "Accept, Origin"),
        (["Accept", "Cookie"], "Accept, Cookie, Origin"),
        (["Accept, origin"], "Accept, origin"),
        (["*"], "*"),
    ],
    ids=["none", "one", "two", "origin", "all"],
)
def test_caches_are_told_of_the_origin(given, expected):
    headers = CIMultiDict([("Vary", each) for each in given])
    vary_on_origin(headers)
    assert headers.getall("Vary") == [expected]


# -- refusals


SIMPLE = ("multipart/form-data; boundary=--x", "application/x-www-form-urlencoded", "text/plain")
CONTENT_TYPES = {
    "form": SIMPLE[0],
    "urlencoded": SIMPLE[1],
    "text": SIMPLE[2],
    "json": "application/json",
    "binary": "application/octet-stream",
    "none": None,
}
METHODS = {
    "POST form": ("POST", "/upload1"),
    "POST sources": ("POST", "/upload2"),
    "POST": ("POST", "/upload"),
    "PUT": ("PUT", "/upload/a.txt"),
    "create tus": ("POST", "/files/"),
    "override": ("POST", "/files/a"),
    "PATCH tus": ("PATCH", "/files/a"),
    "PATCH": ("PATCH", "/uploads/a"),
    "DELETE upload": ("DELETE", "/uploads/a"),
    "DELETE job": ("DELETE", "/jobs/a"),
    "nowhere": ("POST", "/nowhere"),
    "no method": ("MOVE", "/upload1"),
}
MARKS = {
    "another site": ("Sec-Fetch-Site: cross-site", "Origin: https://evil.example"),
    "another port": ("Sec-Fetch-Site: same-site", "Origin: https://relay.localhost:8443"),
    "only a site": ("Sec-Fetch-Site: cross-site",),
    "only an origin": ("Origin: https://evil.example",),
    "null": ("Origin: null",),
    "null of another site": ("Sec-Fetch-Site: cross-site", "Origin: null"),
    "null of the same site": ("Sec-Fetch-Site: same-site", "Origin: null"),
    "forged host": ("Origin: https://evil.example", "X-Forwarded-Host: evil.example"),
}


@pytest.fixture
async def refused(aiorelay_server):
    """A function that sends a request with a body, and returns the problem before the body is sent."""
    chain = await aiorelay_server(allow_origin=[APP])

    async def send(method, target, content_type, *headers):
        head = request(target, b"", *headers, method=method, content_type=content_type, length=10_000)
        answer = await ask(chain.rest1, chain.tls, head)
        assert not cors(answer)
        assert answer.informational == []
        return answer.status, code(answer)

    return send


@pytest.mark.parametrize("mark", MARKS.values(), ids=MARKS)
@pytest.mark.parametrize("where", METHODS.values(), ids=METHODS)
async def test_a_page_of_another_site_changes_nothing(refused, where, mark):
    for content_type, waits in itertools.product(CONTENT_TYPES.values(), [(), ("Expect: 100-continue",)]):
        assert await refused(*where, content_type, *mark, *waits) == (403, "origin-refused"), (content_type, waits)


async def test_a_refusal_says_what_to_do(aiorelay_server):
    chain = await aiorelay_server()
    answer = await ask(chain.rest1, chain.tls, request("/upload1", FORM, f"Origin: {APP}"))
    assert APP in answer.json()["detail"]
    assert "allow-origin" in answer.json()["detail"]


async def test_a_page_of_another_site_is_refused_before_its_token_is_looked_at(aiorelay_server, tmp_path):
    (tokens := tmp_path / "tokens").write_text("alice:secret\n")
    chain = await aiorelay_server(token_file=tokens)
    answer = await ask(chain.rest1, chain.tls, request("/upload1", FORM, f"Origin: {APP}"))
    assert (answer.status, code(answer)) == (403, "origin-refused")


PASSING = {
    "no browser": (),
    "the page": ("Sec-Fetch-Site: same-origin", f"Origin: {OWN}"),
    "the page without a site": (f"Origin: {OWN}",),
    "the page behind a proxy": ("Sec-Fetch-Site: same-origin", "Origin: https://uploads.example"),
    "the user": ("Sec-Fetch-Site: none",),
    "an allowed origin": ("Sec-Fetch-Site: cross-site", f"Origin: {APP}"),
}


@pytest.mark.parametrize("headers", PASSING.values(), ids=PASSING)
async def test_others_may_upload(aiorelay_server, headers):
    chain = await aiorelay_server(allow_origin=[APP])
    assert (await ask(chain.rest1, chain.tls, request("/upload1", FORM, *headers))).status == 200


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_link_on_another_site_may_be_followed(aiorelay_server, method):
    chain = await aiorelay_server()
    head = request("/", b"", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: navigate", method=method, content_type=None)
    async with connected(chain.rest1, chain.tls) as client:
        await client.send(head)
        assert b" 200 " in await client.head()


@pytest.mark.parametrize(
    ("trusted", "status"), [(["127.0.0.1"], 200), ([], 403)], ids=["a trusted proxy", "somebody else"]
)
async def test_a_trusted_proxy_names_the_origin_of_the_relay(aiorelay_server, trusted, status):
    chain = await aiorelay_server(trusted_proxy=trusted)
    said = ("Origin: http://www.example", "X-Forwarded-Host: www.example", "X-Forwarded-Proto: http")
    assert (await ask(chain.rest1, chain.tls, request("/upload1", FORM, *said))).status == status


@pytest.mark.parametrize("mark", MARKS.values(), ids=MARKS)
async def test_a_page_of_another_site_cannot_store_in_rest2(aiorelay_server, mark):
    chain = await aiorelay_server(allow_origin=["*"])
    answer = await ask(chain.rest2, chain.tls, request("/upload", FORM, *mark))
    assert (answer.status, code(answer), chain.stored()) == (403, "origin-refused", [])


# -- CORS


def preflight(target="/upload1", *, origin=APP, method="POST", headers="authorization,content-type"):
    lines = [f"OPTIONS {target} HTTP/1.1", "Host: relay.localhost", f"Origin: {origin}"]
    lines += [f"Access-Control-Request-Method: {method}", f"Access-Control-Request-Headers: {headers}"]
    return "\r\n".join([*lines, "", ""]).encode()


TARGETS = ("/upload", "/upload1", "/upload2", "/upload/a.txt", "/uploads/a", "/files/", "/files/a")
TARGETS += ("/jobs/a", "/jobs/a/events", "/healthz", "/metrics", "/openapi.json", "/", "/nothing")


@pytest.mark.parametrize("target", TARGETS)
async def test_a_preflight_is_answered_before_authentication(aiorelay_server, tmp_path, target):
    (tokens := tmp_path / "tokens").write_text("alice:secret\n")
    chain = await aiorelay_server(token_file=tokens, allow_origin=[APP])
    answer = await ask(chain.rest1, chain.tls, preflight(target))
    assert (answer.status, answer["Vary"]) == (204, "Origin")
    fields = cors(answer)
    assert set(fields.pop("access-control-allow-methods").split(", ")) >= {"GET", "POST", "PUT", "PATCH", "DELETE"}
    assert int(fields.pop("access-control-max-age")) >= 600
    assert fields.pop("access-control-expose-headers")
    assert fields == {
        "access-control-allow-origin": APP,
        "access-control-allow-credentials": "true",
        "access-control-allow-headers": "authorization, content-type",
    }


@pytest.mark.parametrize("settings", [{}, {"allow_origin": [APP]}], ids=["no origins", "other origins"])
async def test_a_preflight_of_another_origin_is_refused(aiorelay_server, settings):
    chain = await aiorelay_server(**settings)
    answer = await ask(chain.rest1, chain.tls, preflight(origin="https://evil.example"))
    assert (answer.status, code(answer), cors(answer)) == (403, "origin-refused", {})


async def test_options_without_a_preflight_are_answered_as_ever(aiorelay_server):
    chain = await aiorelay_server(allow_origin=[APP])
    head = f"OPTIONS /files/ HTTP/1.1\r\nHost: localhost\r\nOrigin: {APP}\r\n\r\n"
    answer = await ask(chain.rest1, chain.tls, head.encode())
    assert (answer.status, answer["Tus-Version"], answer[ALLOW]) == (204, "1.0.0", APP)
    assert "access-control-allow-methods" not in cors(answer)


FAILURES = {
    "no file": (request("/upload1", form(part("a", b"b")), f"Origin: {APP}"), 400),
    "no token": (request("/metrics", b"", f"Origin: {APP}", method="GET", content_type=None), 401),
    "no resource": (request("/nothing", b"", f"Origin: {APP}", method="GET", content_type=None), 404),
    "no job": (request("/jobs/a", b"", f"Origin: {APP}", "Authorization: Bearer secret", method="GET"), 404),
    "no method": (request("/upload1", FORM, f"Origin: {APP}", method="PUT"), 405),
    "too large": (request("/upload1", FORM, f"Origin: {APP}", "Authorization: Bearer secret", length=10**9), 413),
    "no version of tus": (request("/files/", b"", f"Origin: {APP}"), 412),
    "another host": (request("/upload1", FORM, f"Origin: {APP}").replace(b"relay.localhost", b"evil.example"), 421),
    "no host name": (request("/upload1", FORM, f"Origin: {APP}").replace(b"relay.localhost", b'a"b'), 400),
}


@pytest.mark.parametrize(("sent", "status"), FAILURES.values(), ids=FAILURES)
async def test_a_page_can_read_a_refusal(aiorelay_server, tmp_path, sent, status):
    (tokens := tmp_path / "tokens").write_text("alice:secret\n")
    chain = await aiorelay_server(token_file=tokens, allow_origin=[APP], max_size=1)
    if status == 400:
        sent = sent.replace(b"Origin:", b"Authorization: Bearer secret\r\nOrigin:", 1)
    answer = await ask(chain.rest1, chain.tls, sent)
    assert (answer.status, cors(answer)["access-control-allow-origin"]) == (status, APP)


EXPOSED = (
    "Location Upload-Offset Upload-Length Upload-Complete Upload-Limit Upload-Expires Upload-Metadata Upload-Concat "
    "Upload-Defer-Length Tus-Resumable Tus-Version Tus-Extension Tus-Max-Size Tus-Checksum-Algorithm X-Request-ID "
    "Aiorelay-Digest Preference-Applied Retry-After Proxy-Status Accept-Patch"
)


async def test_a_page_can_read_the_fields_that_the_relay_sets(aiorelay_server):
    chain = await aiorelay_server(allow_origin=[APP])
    answer = await ask(chain.rest1, chain.tls, request("/upload1", FORM, f"Origin: {APP}"))
    assert set(cors(answer)["access-control-expose-headers"].split(", ")) >= set(EXPOSED.split())


def answering_with_cors(status=200, *more):
    body = b'{"status": "done"}'
    lines = [
        f"HTTP/1.1 {status} Whatever",
        f"Content-Length: {len(body)}",
        "access-control-allow-origin: *",
        "Access-Control-Allow-Credentials: true",
        "Access-Control-Allow-Methods: TRACE",
        "Access-Control-Expose-Headers: X-Own",
        "Access-Control-Max-Age: 1",
        "Vary: Accept",
        "X-Own: yes",
        *more,
        "",
        "",
    ]
    answer = "\r\n".join(lines).encode() + body

    async def script(connection):
        while True:
            await connection.request()
            await connection.send(answer)

    return script


WAYS = {
    "form": request("/upload1", FORM, f"Origin: {APP}"),
    "raw": request("/upload/a.txt", b"content", f"Origin: {APP}", method="PUT", content_type=None),
    "resumable": request("/upload1", FORM, f"Origin: {APP}", "Upload-Complete: ?1"),
    "tus": request(
        "/files/",
        b"content",
        f"Origin: {APP}",
        "Tus-Resumable: 1.0.0",
        "Upload-Length: 7",
        content_type="application/offset+octet-stream",
    ),
}


@pytest.mark.parametrize("status", [200, 409])
@pytest.mark.parametrize("sent", WAYS.values(), ids=WAYS)
async def test_the_fields_of_the_upload_api_are_replaced(aiorelay_server, recorder, sent, status):
    upstream = await recorder(answering_with_cors(status))
    chain = await aiorelay_server(only="rest1", upstream=upstream.url, allow_origin=[APP])
    answer = await ask(chain.rest1, chain.tls, sent)
    fields = cors(answer)
    exposed = fields.pop("access-control-expose-headers").split(", ")
    assert {"X-Own", "X-Request-ID"} <= set(exposed)
    assert fields == {"access-control-allow-origin": APP, "access-control-allow-credentials": "true"}
    assert answer["Vary"] == "Accept, Origin"


async def test_the_fields_of_the_upload_api_are_removed_for_others(aiorelay_server, recorder):
    upstream = await recorder(answering_with_cors())
    chain = await aiorelay_server(only="rest1", upstream=upstream.url, allow_origin=[APP])
    answer = await ask(chain.rest1, chain.tls, request("/upload1", FORM))
    assert (answer.status, cors(answer), answer["Vary"]) == (200, {}, "Accept, Origin")


async def test_a_wildcard_never_comes_with_credentials(aiorelay_server, recorder):
    upstream = await recorder(answering_with_cors())
    chain = await aiorelay_server(only="rest1", upstream=upstream.url, allow_origin=["*"])
    for sent in (WAYS["form"], preflight(), WAYS["form"].replace(APP.encode(), b"null")):
        fields = cors(await ask(chain.rest1, chain.tls, sent))
        assert fields["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in fields


async def test_without_the_setting_answers_are_passed_back_unchanged(aiorelay_server, recorder):
    upstream = await recorder(answering_with_cors())
    chain = await aiorelay_server(only="rest1", upstream=upstream.url)
    answer = await ask(chain.rest1, chain.tls, request("/upload1", FORM))
    assert (answer[ALLOW], answer["Vary"]) == ("*", "Accept")
