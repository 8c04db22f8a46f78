"""Whole passes: what goes into the relay, what comes out of it upstream, and what comes back."""

import asyncio
import gzip
import hashlib
import json
import os
import re
import socket
import ssl

import pytest
from peers import (
    BOUNDARY,
    DONE,
    answering,
    ask,
    chunks,
    connected,
    eventually,
    form,
    json_request,
    names,
    part,
    request,
    run,
)

MIB = 1024 * 1024
FILE = part("somefile", b"content", "a.txt", "Content-Type: text/plain")
FORM = form(FILE)
PUT = {"method": "PUT", "content_type": None}


@pytest.fixture
async def relay(aiorelay_server, recorder):
    """A relay, and the upload API behind it, which answers what it is told to."""

    class Relay:
        async def start(self, *answers: bytes, suffix: str = "", **settings: object) -> None:
            self.upstream = await recorder(answering(*answers))
            self.chain = await aiorelay_server(only="rest1", upstream=self.upstream.url + suffix, **settings)

        async def ask(self, *blocks: bytes):
            """Give the answer to a request, and the one request that went upstream."""
            answer = await ask(self.chain.rest1, self.chain.tls, *blocks)
            (passed_on,) = self.upstream.requests
            self.upstream.connections[0].requests.clear()
            return answer, passed_on

        async def refused(self, *blocks: bytes):
            """Give the problem that a request met before anything of it went upstream."""
            answer = await ask(self.chain.rest1, self.chain.tls, *blocks)
            assert not self.upstream.connections
            return answer

    relay = Relay()
    await relay.start()
    return relay


def head(name: str, filename: str | None = None, *lines: str) -> str:
    return part(name, b"", filename, *lines).decode().removesuffix("\r\n\r\n")


def code(answer) -> str:
    return answer.json()["type"].removeprefix("urn:aiorelay:")


# -- forms


@pytest.mark.parametrize("target", ["/upload1", "/upload"])
@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
async def test_form_goes_on_as_it_came(relay, target, chunked):
    answer, passed_on = await relay.ask(request(target, FORM, chunked=chunked))
    assert answer.json() == {"status": "done"}
    assert passed_on.start == "POST /api HTTP/1.1"
    assert passed_on["Content-Type"] == f"multipart/form-data; boundary={BOUNDARY}"
    assert passed_on.body == FORM


async def test_parts_stay_in_order(relay):
    sent = form(
        part("before", "1"),
        FILE,
        part("between", "2"),
        part("other", b"\0" * 100_000, "b.bin", "Content-Type: application/x-own; a=b"),
        part("somefile", b"", "empty.txt"),
        part("after", "3"),
        part("after", "4"),
    )
    _, passed_on = await relay.ask(request("/upload1", sent))
    assert passed_on.body == sent
    assert names(passed_on.parts) == ["before", "somefile", "between", "other", "somefile", "after", "after"]
    assert passed_on["Content-Length"] == str(len(sent))


@pytest.mark.parametrize(
    ("sent", "passed_on"),
    [
        ('filename="日本 ü 🎉.txt"', "日本 ü 🎉.txt"),
        ('filename="C:\\dir\\a.txt"', "a.txt"),
        ('filename="../../a.txt"', "a.txt"),
        ('filename="/etc/a.txt"', "a.txt"),
        ('filename="a%22b%0D%0A.txt"', "a%22b%0D%0A.txt"),
        ("filename=plain.txt", "plain.txt"),
        ("filename=a.txt; filename*=UTF-8''a.txt", "a.txt"),
        ("filename*=UTF-8''%E6%97%A5.txt", "日.txt"),
        (f'filename="{"x" * 300}.txt"', f"{'x' * 300}.txt"),
    ],
)
@pytest.mark.parametrize("late", [False, True], ids=["first", "after another file"])
async def test_file_names_go_on_as_their_last_component(relay, sent, passed_on, late):
    named = f'Content-Disposition: form-data; name="somefile"; {sent}\r\n\r\nx'.encode()
    _, received = await relay.ask(request("/upload1", form(*[FILE] * late, named)))
    disposition = received.parts[-1][0].split("\r\n")[0]
    name = re.search(r'filename="([^"]*)"|filename=([^;]*)', disposition)
    assert name is not None
    assert passed_on in (name[1], name[2])
    assert len(received.body) == int(received["Content-Length"])


async def test_escaped_quote_goes_on_as_the_html_standard_quotes_it(relay):
    named = b'Content-Disposition: form-data; name="somefile"; filename="a\\"b.txt"\r\n\r\nx'
    _, received = await relay.ask(request("/upload1", form(named)))
    assert received.parts == [(head("somefile", "a%22b.txt"), b"x")]


async def test_name_that_has_grown_after_the_length_was_promised_is_refused(relay):
    named = b'Content-Disposition: form-data; name="somefile"; filename="a\\"b.txt"\r\n\r\nx'
    answer = await ask(relay.chain.rest1, relay.chain.tls, request("/upload1", form(FILE, named)))
    assert (answer.status, code(answer)) == (400, "malformed-form")
    assert not relay.upstream.requests
    _, received = await relay.ask(request("/upload1", form(FILE, named), chunked=True))
    assert received.parts[1] == (head("somefile", "a%22b.txt"), b"x")


async def test_five_mebibytes_of_every_byte_arrive_as_sent(relay):
    content = os.urandom(5 * MIB) + f"\r\n--{BOUNDARY[:-1]}".encode() * 50 + b"\r\n\r\n--\r"
    _, passed_on = await relay.ask(request("/upload1", form(part("somefile", content, "a.bin"))))
    assert passed_on.parts[0][1] == content


async def test_form_sent_byte_by_byte(relay):
    sent = request("/upload1", form(part("before", "1"), FILE, part("after", "2")))
    async with connected(relay.chain.rest1, relay.chain.tls) as client:
        for byte in sent:
            await client.send(bytes([byte]))
            await asyncio.sleep(0)
        answer = await client.answer()
    assert answer.status == 200
    assert sent.endswith(relay.upstream.requests[0].body)


async def test_form_without_a_final_newline(relay):
    _, passed_on = await relay.ask(request("/upload1", form(FILE, end=b"--")))
    assert len(passed_on.body) == int(passed_on["Content-Length"])
    assert [content for _, content in passed_on.parts] == [b"content"]


# -- lengths


@pytest.mark.parametrize(
    ("sent", "known"),
    [
        (request("/upload1", form(part("a", "b"), FILE, part("after", "the file"))), True),
        (request("/upload1", FORM, chunked=True), False),
        (request("/upload/a.txt", b"x" * 100_000, **PUT), True),
        (request("/upload/a.txt", b"", **PUT), True),
        (request("/upload/a.txt", b"x" * 100_000, chunked=True, **PUT), False),
    ],
    ids=["form", "chunked form", "raw", "empty raw", "chunked raw"],
)
async def test_length_goes_upstream_where_it_is_known(relay, sent, known):
    _, passed_on = await relay.ask(sent)
    assert passed_on.all("Content-Length") == ([str(len(passed_on.body))] if known else [])
    assert passed_on.all("Transfer-Encoding") == ([] if known else ["chunked"])


async def test_length_of_local_files_goes_upstream(relay, tmp_path):
    await relay.start(local_root=[tmp_path])
    (tmp_path / "a.txt").write_bytes(b"x" * 300_000)
    (tmp_path / "empty").touch()
    document = {"somefile": [str(tmp_path / "a.txt"), str(tmp_path / "empty")], "a": "ü"}
    _, passed_on = await relay.ask(json_request(document))
    assert passed_on["Content-Length"] == str(len(passed_on.body))
    assert names(passed_on.parts) == ["a", "somefile", "somefile"]


@pytest.mark.parametrize("known", [True, False])
async def test_length_of_a_remote_file_goes_upstream_if_its_server_says_it(relay, recorder, known):
    framing = (
        b"Content-Length: 7\r\n\r\ncontent" if known else b"Transfer-Encoding: chunked\r\n\r\n7\r\ncontent\r\n0\r\n\r\n"
    )
    source = await recorder(answering(b"HTTP/1.1 200 OK\r\n" + framing))
    await relay.start(allow_net=["127.0.0.0/8"])
    _, passed_on = await relay.ask(json_request({"somefile": f"{source.url}/a.txt"}))
    assert passed_on.all("Content-Length") == ([str(len(passed_on.body))] if known else [])
    assert passed_on.parts == [(head("somefile", "a.txt", "Content-Type: text/plain"), b"content")]


# -- raw bodies


@pytest.mark.parametrize(
    ("target", "name"),
    [
        ("/upload/a.txt", "a.txt"),
        ("/upload/%E6%97%A5%20b.txt", "日 b.txt"),
        ("/upload/a%2Fb.txt", "b.txt"),
        ("/upload/..%5Cb.txt", "b.txt"),
        ("/upload/a%22b.txt", "a%22b.txt"),
        ("/upload/", "somefile"),
        ("/upload/..", "somefile"),
        ("/upload/a+b;c=d.txt?e=f", "a+b;c=d.txt"),
    ],
)
async def test_raw_body_becomes_a_form_of_one_file(relay, target, name):
    _, passed_on = await relay.ask(request(target, b"content", method="PUT", content_type="text/x-own"))
    assert passed_on.method == "POST"
    assert passed_on.parts == [(head("somefile", name, "Content-Type: text/x-own"), b"content")]


async def test_type_of_a_raw_body_is_told_by_its_ending_if_the_client_does_not_say(relay):
    _, passed_on = await relay.ask(request("/upload/a.pdf", b"%PDF", **PUT))
    assert passed_on.parts[0][0].endswith("Content-Type: application/pdf")


@pytest.mark.needs("curl")
async def test_curl_uploads_a_file_by_its_name(relay, tmp_path):
    (tmp_path / "a b.txt").write_bytes(b"content")
    chain = relay.chain
    _, out, _ = await run(
        "curl", "-sS", "--cacert", str(chain.ca), "-T", f"{tmp_path}/a b.txt", f"{chain.rest1}/upload/"
    )
    assert json.loads(out) == {"status": "done"}
    assert relay.upstream.requests[0].parts[0][0].startswith(head("somefile", "a b.txt"))


async def test_part_of_a_file_is_refused(relay):
    answer = await relay.refused(request("/upload/a.txt", b"x", "Content-Range: bytes 0-0/2", **PUT))
    assert (answer.status, code(answer)) == (400, "partial-upload")


# -- request headers


async def test_end_to_end_headers_go_on_and_the_others_do_not(relay):
    passed = [
        ("X-Own", "1"),
        ("x-own", "2"),
        ("Cookie", "a=b; c=d"),
        ("Authorization", "Bearer of the API"),
        ("Accept", "text/html, */*;q=0.1"),
        ("Accept-Encoding", "br"),
        ("User-Agent", "own/1"),
        ("Idempotency-Key", '"k"'),
        ("traceparent", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"),
        ("tracestate", "a=b"),
        ("X-Empty", ""),
        ("X-Latin", "caf\udce9"),
        ("X-UTF-8", "日本"),
        ("Origin", "https://relay.localhost"),
        ("Range", "bytes=0-1"),
    ]
    kept_back = [
        ("Connection", "keep-alive, X-Named"),
        ("X-Named", "by Connection"),
        ("Keep-Alive", "timeout=5"),
        ("TE", "trailers"),
        ("Trailer", "X-Checksum"),
        ("Proxy-Authorization", "Basic eDp5"),
        ("Proxy-Connection", "keep-alive"),
    ]
    lines = [f"{name}: {value}" for name, value in passed + kept_back]
    _, passed_on = await relay.ask(request("/upload1", FORM, *lines))
    ours = {"host", "via", "forwarded", "x-request-id", "content-type", "content-length"}
    ours |= {"x-forwarded-for", "x-forwarded-proto", "x-forwarded-host"}
    rest = [(name, value) for name, value in passed_on.headers if name.lower() not in ours]
    passed[passed.index(("X-Latin", "caf\udce9"))] = ("X-Latin", "café")
    assert sorted(rest) == sorted(passed)
    assert [value for name, value in rest if name.lower() == "x-own"] == ["1", "2"]
    assert passed_on["Host"] == f"127.0.0.1:{relay.upstream.port}"


async def test_nothing_is_added_but_where_the_request_came_through(relay):
    _, passed_on = await relay.ask(request("/upload1", FORM))
    added = {"Host", "Via", "Forwarded", "X-Request-ID", "Content-Type", "Content-Length"}
    added |= {"X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"}
    assert sorted(name.lower() for name, _ in passed_on.headers) == sorted(name.lower() for name in added)
    assert passed_on["Via"] == "1.1 aiorelay"
    assert passed_on["Forwarded"] == 'for=127.0.0.1;host="relay.localhost";proto=https'
    assert passed_on["X-Forwarded-For"] == "127.0.0.1"
    assert (passed_on["X-Forwarded-Proto"], passed_on["X-Forwarded-Host"]) == ("https", "relay.localhost")


async def test_via_names_the_version_that_the_request_came_in(relay):
    _, passed_on = await relay.ask(request("/upload1", FORM).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    assert passed_on["Via"] == "1.0 aiorelay"


async def test_via_and_forwarded_of_a_trusted_proxy_are_appended_to(relay):
    await relay.start(trusted_proxy=["127.0.0.1"])
    lines = ["Via: 1.0 first", "Via: 1.1 second", "Forwarded: for=192.0.2.1;proto=http", "Forwarded: for=unknown"]
    _, passed_on = await relay.ask(request("/upload1", FORM, *lines))
    assert passed_on["Via"] == "1.0 first, 1.1 second, 1.1 aiorelay"
    ours = 'for=127.0.0.1;host="relay.localhost";proto=https'
    assert passed_on["Forwarded"] == f"for=192.0.2.1;proto=http, for=unknown, {ours}"


async def test_a_list_that_would_be_too_long_for_many_servers_is_appended_to_in_a_field_of_its_own(relay):
    await relay.start(trusted_proxy=["127.0.0.1"])
    given = [f"for={letter * 4000}" for letter in "ab"]
    _, passed_on = await relay.ask(request("/upload1", FORM, *(f"Forwarded: {each}" for each in given)))
    assert passed_on.all("Forwarded") == [*given, 'for=127.0.0.1;host="relay.localhost";proto=https']


async def test_forwarded_names_a_client_of_ipv6(relay):
    await relay.start(host="::1")
    _, passed_on = await relay.ask(request("/upload1", FORM))
    assert passed_on["Forwarded"].startswith('for="[::1]";')


@pytest.mark.parametrize("given", ["a", "A-Za.z_0-9", "x" * 128])
async def test_request_id_of_the_client_is_kept(relay, given):
    answer, passed_on = await relay.ask(request("/upload1", FORM, f"X-Request-ID: {given}"))
    assert answer["X-Request-ID"] == passed_on["X-Request-ID"] == given


@pytest.mark.parametrize("given", [[], [""], ["x" * 129], ["a b"], ["a/b"], ["ü"], ['"a"']])
async def test_request_id_is_new_where_the_client_has_none_that_will_do(relay, given):
    answer, passed_on = await relay.ask(request("/upload1", FORM, *[f"X-Request-ID: {each}" for each in given]))
    assert answer["X-Request-ID"] == passed_on["X-Request-ID"]
    assert re.fullmatch("[0-9a-f]{32}", answer["X-Request-ID"])


async def test_headers_of_the_settings_replace_the_clients(relay):
    await relay.start(upstream_header=["Authorization: Bearer ours", "X-Own: 1", "X-Own: 2"])
    sent = request("/upload1", FORM, "authorization: Bearer theirs", "X-Own: 0", "X-Other: 3")
    _, passed_on = await relay.ask(sent)
    assert passed_on["Authorization"] == "Bearer ours"
    assert passed_on.all("X-Own") == ["1", "2"]
    assert passed_on["X-Other"] == "3"


async def test_headers_of_a_json_or_raw_body_do_not_describe_the_form(relay):
    described = ["Content-Language: en", "Content-MD5: 1B2M2Y8AsgTpgAmY7PhCfg==", "Content-Disposition: attachment"]
    _, passed_on = await relay.ask(request("/upload/a.txt", b"x", *described, **PUT))
    content = {name.lower() for name, _ in passed_on.headers if name.lower().startswith("content-")}
    assert content == {"content-type", "content-length"}


# -- query strings and the upstream's URL


@pytest.mark.parametrize(
    "query", ["a=%2F&b=+&c=[x]|;~", "%", "%zz=%", "a=b&a=c&a", "?", "a='<>\"`{}^\\", "%E6%97%A5=%c3%bc", "a#b"]
)
async def test_query_string_goes_on_byte_for_byte(relay, query):
    _, passed_on = await relay.ask(request(f"/upload1?{query}", FORM))
    assert passed_on.target == f"/api?{query.partition('#')[0]}"


@pytest.mark.parametrize(
    ("suffix", "query", "target"),
    [
        ("/v1/%7Efiles", "", "/api/v1/%7Efiles"),
        ("?key=%2F", "", "/api?key=%2F"),
        ("?key=%2F", "?a=b", "/api?key=%2F&a=b"),
        ("/", "?a=b", "/api/?a=b"),
        ("/a//b/../c", "?", "/api/a//b/../c"),
    ],
)
async def test_query_string_is_joined_to_the_urls_own(relay, suffix, query, target):
    await relay.start(suffix=suffix)
    _, passed_on = await relay.ask(request(f"/upload1{query}", FORM))
    assert passed_on.target == target


# -- answers


ANSWERS = {
    "204": (b"HTTP/1.1 204 No Content\r\nX-Own: 1\r\n\r\n", b""),
    "409 with two cookies": (
        b"HTTP/1.1 409 Conflict\r\nSet-Cookie: a=b; Path=/\r\nSet-Cookie: c=d\r\nContent-Length: 4\r\n\r\nheld",
        b"held",
    ),
    "empty 200": (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b""),
    "own reason": (b"HTTP/1.1 201 Put Away\r\nLocation: /f/1\r\nContent-Length: 2\r\n\r\n{}", b"{}"),
    "own status": (b"HTTP/1.1 599 Whatever\r\nContent-Length: 0\r\n\r\n", b""),
    "server and date": (
        b"HTTP/1.1 200 OK\r\nServer: own/1\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nContent-Length: 1\r\n\r\nx",
        b"x",
    ),
    "odd type": (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=x-own\r\nContent-Length: 1\r\n\r\n\xff",
        b"\xff",
    ),
    "redirect": (b"HTTP/1.1 302 Found\r\nLocation: https://elsewhere.example/?a=%2F\r\nContent-Length: 0\r\n\r\n", b""),
    "challenge": (b'HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm="a"\r\nContent-Length: 0\r\n\r\n', b""),
    "500": (b"HTTP/1.1 500 Oops\r\nContent-Length: 4\r\n\r\noops", b"oops"),
    "zipped": (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 24\r\n\r\n" + gzip.compress(b"done", mtime=0),
        gzip.compress(b"done", mtime=0),
    ),
    "brotli, or so it says": (b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\nContent-Length: 3\r\n\r\nabc", b"abc"),
}


@pytest.mark.parametrize(("sent", "body"), ANSWERS.values(), ids=ANSWERS)
async def test_answer_is_passed_back_untouched(relay, sent, body):
    await relay.start(sent)
    answer, _ = await relay.ask(request("/upload1", FORM))
    start, *lines = sent.partition(b"\r\n\r\n")[0].decode().split("\r\n")
    ours = [("X-Request-ID", answer["X-Request-ID"])]
    if "Date" not in dict(answer.headers) or b"Date" not in sent:
        ours += [("Date", value) for value in answer.all("Date")]
    assert answer.start == start
    assert sorted(answer.headers) == sorted([tuple(line.split(": ", 1)) for line in lines] + ours)
    assert answer.body == body


async def test_hop_by_hop_headers_of_an_answer_end_here(relay):
    await relay.start(
        b"HTTP/1.1 200 OK\r\nConnection: X-Named\r\nX-Named: 1\r\nKeep-Alive: timeout=5\r\nTrailer: X-Sum\r\n"
        b"Proxy-Authenticate: Basic\r\nX-Own: 2\r\nContent-Length: 0\r\n\r\n"
    )
    answer, _ = await relay.ask(request("/upload1", FORM))
    assert {name for name, _ in answer.headers} - {"Date"} == {"X-Own", "Content-Length", "X-Request-ID"}


async def test_chunked_answer(relay):
    body = os.urandom(200_000)
    await relay.start(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(body) + b"0\r\n\r\n")
    answer, _ = await relay.ask(request("/upload1", FORM))
    assert (answer.body, answer.whole) == (body, True)
    assert answer["Transfer-Encoding"] == "chunked"


async def test_chunked_answer_to_a_client_of_http_1_0_ends_with_the_connection(relay):
    await relay.start(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(b"content") + b"0\r\n\r\n")
    answer, _ = await relay.ask(request("/upload1", FORM).replace(b"HTTP/1.1", b"HTTP/1.0", 1))
    assert (answer.body, answer.all("Transfer-Encoding")) == (b"content", [])


async def test_it_does_so_even_for_a_client_that_asks_to_keep_the_connection(relay):
    """Else the next answer would be taken for more of this one."""
    await relay.start(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + chunks(b"content") + b"0\r\n\r\n")
    sent = request("/upload1", FORM, "Connection: keep-alive").replace(b"HTTP/1.1", b"HTTP/1.0", 1)
    answer, _ = await relay.ask(sent + sent)
    assert answer.body == b"content"


async def test_answer_of_five_mebibytes(relay):
    body = os.urandom(5 * MIB)
    await relay.start(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    answer, _ = await relay.ask(request("/upload1", FORM))
    assert answer["Content-Length"] == str(len(body))
    assert answer.body == body


async def test_answer_after_informational_ones(relay):
    early = b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"
    await relay.start(b"HTTP/1.1 102 Processing\r\n\r\n" + early + DONE)
    answer, _ = await relay.ask(request("/upload1", FORM))
    assert (answer.status, answer.json()) == (200, {"status": "done"})


async def test_connection_serves_one_upload_after_the_other(relay):
    async with connected(relay.chain.rest1, relay.chain.tls) as client:
        for number in range(3):
            answer = await client.ask(request("/upload1", form(part("somefile", str(number), "a.txt"))))
            assert answer.status == 200
    assert [each.parts[0][1] for each in relay.upstream.requests] == [b"0", b"1", b"2"]


async def test_requests_sent_ahead_are_answered_in_order(relay):
    async with connected(relay.chain.rest1, relay.chain.tls) as client:
        await client.send(
            request("/upload1", FORM, "X-Request-ID: one") + request("/upload1", FORM, "X-Request-ID: two")
        )
        assert [(await client.answer())["X-Request-ID"] for _ in range(2)] == ["one", "two"]


# -- Expect


EXPECTING = "Expect: 100-continue"
REFUSED_BY_ITS_HEAD = {
    "no form": (request("/upload1", b"", EXPECTING, length=9, content_type="text/plain"), 415),
    "no json": (request("/upload2", b"", EXPECTING, length=9), 415),
    "coded": (request("/upload1", b"", EXPECTING, "Content-Encoding: gzip", length=9), 415),
    "no boundary": (request("/upload1", b"", EXPECTING, length=9, content_type="multipart/form-data"), 400),
    "too large": (request("/upload/a", b"", EXPECTING, length=MIB + 1, **PUT), 413),
    "range": (request("/upload/a", b"", EXPECTING, "Content-Range: bytes 0-8/9", length=9, **PUT), 400),
}


@pytest.mark.parametrize(("sent", "status"), REFUSED_BY_ITS_HEAD.values(), ids=REFUSED_BY_ITS_HEAD)
async def test_refusal_by_the_head_alone_is_answered_instead_of_100(relay, sent, status):
    await relay.start(max_size=MIB)
    answer = await relay.refused(sent)
    assert (answer.status, answer.informational) == (status, [])


@pytest.mark.parametrize("expect", [EXPECTING, "Expect: the-unexpected"])
@pytest.mark.parametrize(
    ("target", "method", "status"),
    [("/nowhere", "POST", 404), ("/jobs/1/x", "PUT", 404), ("/upload1", "PUT", 405), ("/jobs/1", "POST", 405)],
)
async def test_what_leads_nowhere_is_refused_before_its_body_is_asked_for(relay, target, method, status, expect):
    answer = await relay.refused(request(target, b"", expect, length=9, method=method))
    assert (answer.status, answer.informational) == (status, [])
    assert answer.json()["status"] == status


@pytest.mark.parametrize("expect", ["100-continue", "100-Continue"])
@pytest.mark.parametrize(
    "kind", [request("/upload1", b"", length=len(FORM)), request("/upload/a.txt", b"", length=len(FORM), **PUT)]
)
async def test_what_may_be_accepted_is_answered_with_100(relay, kind, expect):
    sent = kind.replace(b"\r\n", f"\r\nExpect: {expect}\r\n".encode(), 1)
    async with connected(relay.chain.rest1, relay.chain.tls) as client:
        await client.send(sent)
        assert (await client.head()) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert not relay.upstream.requests
        answer = await client.ask(FORM)
    assert (answer.status, answer.informational) == (200, [])
    assert not relay.upstream.requests[0].all("Expect")


async def test_unknown_expectation_is_the_relays_alone(relay):
    _, passed_on = await relay.ask(request("/upload1", FORM, "Expect: the-unexpected"))
    assert not passed_on.all("Expect")


@pytest.mark.needs("curl")
async def test_curl_that_expects_100_gets_the_refusal(relay, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"x" * 100_000)
    chain = relay.chain
    command = ["curl", "-sSi", "--cacert", str(chain.ca), "-H", EXPECTING, "-H", "Content-Type: text/plain"]
    _, out, _ = await run(*command, "--data-binary", f"@{tmp_path}/a.bin", f"{chain.rest1}/upload1")
    assert out.startswith("HTTP/1.1 415 ")


@pytest.mark.needs("curl")
async def test_curl_that_expects_100_uploads(relay, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"x" * 100_000)
    chain = relay.chain
    command = ["curl", "-sSi", "--cacert", str(chain.ca), "-H", EXPECTING, "-F", f"somefile=@{tmp_path}/a.bin"]
    _, out, _ = await run(*command, f"{chain.rest1}/upload1")
    assert out.startswith("HTTP/1.1 100 Continue\n\nHTTP/1.1 200 OK") or "HTTP/1.1 200 OK" in out


# -- refusals while the client sends


@pytest.mark.needs("curl")
async def test_refusal_reaches_curl_that_still_sends_fifty_mebibytes(relay, tmp_path):
    await relay.start(max_size=MIB)
    (tmp_path / "a.bin").write_bytes(b"x" * (50 * MIB))
    chain = relay.chain
    command = ["curl", "-sS", "--cacert", str(chain.ca), "-H", "Expect:", "-F", f"somefile=@{tmp_path}/a.bin"]
    for _ in range(20):
        status, out, err = await run(*command, f"{chain.rest1}/upload1")
        assert (status, json.loads(out or "{}").get("status")) == (0, 413), err


# -- refusals


@pytest.mark.parametrize(
    "target", ["/upload3/", "/upload3", "/upload/a/b", "/jobs", "/%00", "/upload1%2f", "//upload1"]
)
async def test_unknown_paths_are_not_found(relay, target):
    answer = await relay.refused(request(target, FORM))
    assert (answer.status, code(answer)) == (404, "not-found")


@pytest.mark.parametrize(
    ("target", "method", "location"),
    [
        ("/upload1/", "POST", "/upload1"),
        ("/upload1//", "POST", "/upload1"),
        ("/upload2/?a=b%20c&d", "POST", "/upload2?a=b%20c&d"),
        ("/upload/", "POST", "/upload"),
        ("/healthz/", "GET", "/healthz"),
    ],
)
async def test_a_slash_too_many_is_redirected_before_the_body_is_read(relay, target, method, location):
    sent = request(target, FORM, method=method).replace(b"\r\n", b"\r\nExpect: 100-continue\r\n", 1)
    async with connected(relay.chain.rest1, relay.chain.tls) as client:
        answer = await client.ask(sent.partition(b"\r\n\r\n")[0] + b"\r\n\r\n")
    assert (answer.status, answer["Location"]) == (308, location)


@pytest.mark.parametrize(
    ("target", "method", "allowed"),
    [
        ("/upload1", "GET", "OPTIONS,POST"),
        ("/upload1", "PUT", "OPTIONS,POST"),
        ("/upload2", "DELETE", "POST"),
        ("/upload2", "OPTIONS", "POST"),
        ("/upload/a.txt", "POST", "OPTIONS,PUT"),
        ("/upload/a.txt", "GET", "OPTIONS,PUT"),
        ("/healthz", "POST", "GET,HEAD"),
        ("/jobs/1", "POST", "DELETE,GET,HEAD"),
    ],
)
async def test_other_methods_are_not_allowed(relay, target, method, allowed):
    answer = await relay.refused(request(target, b"" if method == "HEAD" else FORM, method=method))
    assert answer.status == 405
    assert answer["Allow"].replace(" ", "") == allowed
    assert answer.json()["detail"] == f"{target} supports only {', '.join(allowed.split(','))}."


@pytest.mark.parametrize(
    ("target", "content_type"),
    [
        ("/upload1", None),
        ("/upload1", "application/json"),
        ("/upload1", "application/x-www-form-urlencoded"),
        ("/upload1", "multipart/mixed; boundary=x"),
        ("/upload1", "multipart/form-dataX; boundary=x"),
        ("/upload2", f"multipart/form-data; boundary={BOUNDARY}"),
        ("/upload2", "text/json"),
        ("/upload", "text/plain"),
        ("/upload", ""),
    ],
)
async def test_wrong_content_types_are_refused(relay, target, content_type):
    answer = await relay.refused(request(target, FORM, content_type=content_type))
    assert (answer.status, code(answer)) == (415, "wrong-content-type")


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "identity, gzip", "x-own"])
@pytest.mark.parametrize(
    "sent", [request("/upload1", FORM), request("/upload/a", b"x", **PUT), json_request({"somefile": "/a"})]
)
async def test_coded_bodies_are_refused(relay, sent, coding):
    answer = await relay.refused(sent.replace(b"\r\n", f"\r\nContent-Encoding: {coding}\r\n".encode(), 1))
    assert (answer.status, code(answer)) == (415, "wrong-content-type")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"not json",
        b'{"somefile": "/a", "somefile": "/b"}',
        b'{"somefile": {"source": "/a", "source": "/b"}}',
        b'{"somefile": NaN}',
        b'{"somefile": "/a", "n": Infinity}',
        b'{"somefile": "\xff"}',
        '{"somefile": "/a"}'.encode("utf-16"),
        b"[" * 100_000,
        b'["/a"]',
        b'"/a"',
        b"null",
        b'{"somefile": "/a"} x',
        b'{"somefile": ' + b"1" * 10_000 + b"}",
    ],
)
async def test_bad_json_is_refused(relay, body):
    answer = await relay.refused(json_request(body))
    assert (answer.status, code(answer)) == (400, "malformed-json")


@pytest.mark.parametrize(
    ("document", "expected"),
    [
        ({}, "missing-file"),
        ({"other": "/a"}, "missing-file"),
        ({"somefile": []}, "missing-file"),
        ({"somefile": None}, "missing-file"),
        ({"somefile": 1}, "bad-source"),
        ({"somefile": True}, "bad-source"),
        ({"somefile": ""}, "bad-source"),
        ({"somefile": "relative/path"}, "bad-source"),
        ({"somefile": "file:///etc/passwd"}, "bad-source"),
        ({"somefile": "ftp://example.org/a"}, "bad-source"),
        ({"somefile": {}}, "bad-source"),
        ({"somefile": {"source": 1}}, "bad-source"),
        ({"somefile": {"source": "/a", "filename": 1}}, "bad-source"),
        ({"somefile": {"source": "/a", "size": "1"}}, "bad-source"),
        ({"somefile": {"source": "/a", "sha256": "abc"}}, "bad-source"),
        ({"somefile": {"source": "/a", "content_type": "a"}}, "bad-source"),
        ({"somefile": {"source": "/a", "content_type": "a/b\r\nX: y"}}, "bad-source"),
        ({"somefile": {"source": "/a", "content_type": "multipart/mixed"}}, "bad-source"),
        ({"somefile": [["/a"]]}, "bad-source"),
        ({"somefile": "/a", "n": 1}, "bad-source"),
        ({"somefile": "/a", "n": ["x"]}, "bad-source"),
        ({"somefile": "/a\0b"}, "bad-source"),
        ({"somefile": "http://"}, "bad-source"),
        ({"somefile": "http://user:secret@example.org/"}, "bad-source"),
    ],
)
async def test_json_that_names_no_source_is_refused(relay, document, expected):
    answer = await relay.refused(json_request(document))
    assert (answer.status, code(answer)) == (400, expected)


async def test_json_that_is_too_large_is_refused(relay):
    answer = await relay.refused(json_request({"somefile": "/a", "n": "x" * MIB}))
    assert (answer.status, code(answer)) == (413, "too-large")


# -- JSON sources


@pytest.fixture
async def rooted(relay, tmp_path):
    """The relay with a local root, in which there is a file."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "a.txt").write_bytes(b"content")
    await relay.start(local_root=[root], allow_net=["127.0.0.0/8"])
    return root


@pytest.mark.parametrize("target", ["/upload2", "/upload"])
async def test_local_file_becomes_a_form(relay, rooted, target):
    answer, passed_on = await relay.ask(json_request({"somefile": f"{rooted}/a.txt"}, target=target))
    assert answer.status == 200
    assert passed_on.parts == [(head("somefile", "a.txt", "Content-Type: text/plain"), b"content")]


async def test_source_may_say_name_and_type_and_digest(relay, rooted):
    source = {
        "source": f"{rooted}/a.txt",
        "filename": "dir/日本.own",
        "content_type": "text/x-own; a=b",
        "sha256": hashlib.sha256(b"content").hexdigest().upper(),
    }
    _, passed_on = await relay.ask(json_request({"somefile": source}))
    assert passed_on.parts == [(head("somefile", "日本.own", "Content-Type: text/x-own; a=b"), b"content")]


async def test_fields_come_before_the_files(relay, rooted):
    document = {"somefile": [f"{rooted}/a.txt", {"source": f"{rooted}/a.txt"}], "a": "ü", "b": "", 'c"d': "1\r\n2"}
    _, passed_on = await relay.ask(json_request(document))
    typed = "Content-Type: text/plain"
    assert passed_on.parts == [
        (head("a"), "ü".encode()),
        (head("b"), b""),
        (head("c%22d"), b"1\r\n2"),
        (head("somefile", "a.txt", typed), b"content"),
        (head("somefile", "a.txt", typed), b"content"),
    ]


async def test_field_may_be_another(relay, tmp_path):
    await relay.start(field="attachment", local_root=[tmp_path])
    (tmp_path / "a.txt").write_bytes(b"content")
    _, passed_on = await relay.ask(json_request({"attachment": f"{tmp_path}/a.txt", "somefile": "text"}))
    assert names(passed_on.parts) == ["somefile", "attachment"]


async def test_wrong_digest_is_refused(relay, rooted):
    document = {"somefile": {"source": f"{rooted}/a.txt", "sha256": "0" * 64}}
    answer = await ask(relay.chain.rest1, relay.chain.tls, json_request(document))
    assert (answer.status, code(answer)) == (422, "digest-mismatch")


async def test_local_files_may_not_be_read_without_a_root(relay):
    answer = await relay.refused(json_request({"somefile": "/etc/hostname"}))
    assert (answer.status, code(answer)) == (403, "path-refused")
    assert "--local-root" in answer.json()["detail"]


def outside(root):
    (root.parent / "b.txt").write_bytes(b"secret")
    return f"{root.parent}/b.txt"


def through_dots(root):
    outside(root)
    return f"{root}/../b.txt"


def through_a_link(root):
    (root / "link").symlink_to(outside(root))
    return f"{root}/link"


def a_directory(root):
    (root / "dir").mkdir()
    return f"{root}/dir"


def a_pipe(root):
    os.mkfifo(root / "pipe")
    return f"{root}/pipe"


@pytest.mark.parametrize("make", [outside, through_dots, through_a_link, a_directory, a_pipe])
async def test_local_paths_that_may_not_be_read(relay, rooted, make):
    answer = await relay.refused(json_request({"somefile": make(rooted)}))
    assert (answer.status, code(answer)) == (403, "path-refused")
    assert "--local-root" in answer.json()["detail"]


async def test_local_file_that_is_not_there(relay, rooted):
    answer = await relay.refused(json_request({"somefile": f"{rooted}/missing.txt"}))
    assert (answer.status, code(answer)) == (404, "source-missing")


async def test_second_file_of_a_list_that_is_not_there(relay, rooted):
    answer = await relay.refused(json_request({"somefile": [f"{rooted}/a.txt", f"{rooted}/missing.txt"]}))
    assert (answer.status, code(answer)) == (404, "source-missing")


@pytest.mark.usefixtures("rooted")
async def test_remote_file_becomes_a_form(relay, recorder):
    body = os.urandom(300_000)
    source = await recorder(
        answering(b"HTTP/1.1 200 OK\r\nContent-Type: image/x-own\r\nContent-Length: 300000\r\n\r\n" + body)
    )
    _, passed_on = await relay.ask(json_request({"somefile": f"{source.url}/%E6%97%A5.png?a=b", "n": "v"}))
    assert passed_on.parts == [
        (head("n"), b"v"),
        (head("somefile", "日.png", "Content-Type: image/x-own"), body),
    ]
    assert len(source.requests) == 1


async def test_local_and_remote_files_in_one_form(relay, rooted, recorder):
    source = await recorder(answering(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nremote"))
    document = {"somefile": [f"{source.url}/r1", f"{rooted}/a.txt", f"{source.url}/r2"]}
    _, passed_on = await relay.ask(json_request(document))
    assert [content for _, content in passed_on.parts] == [b"remote", b"content", b"remote"]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0.0.0.0", "169.254.169.254", "[::ffff:10.0.0.1]"])
async def test_addresses_that_are_not_public_are_refused(relay, host):
    answer = await relay.refused(json_request({"somefile": f"http://{host}/a"}))
    assert (answer.status, code(answer)) == (403, "address-refused")


@pytest.mark.usefixtures("rooted")
async def test_remote_file_that_cannot_be_reached(relay):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    answer = await relay.refused(json_request({"somefile": f"http://127.0.0.1:{port}/a"}))
    assert (answer.status, code(answer)) == (502, "source-failed")
    assert "Proxy-Status" not in dict(answer.headers)


# -- problems and ids


@pytest.mark.parametrize(
    "sent",
    [
        request("/nowhere", b""),
        request("/upload1", b"", method="GET"),
        request("/upload1", b""),
        request("/upload1", b"", content_type="text/plain"),
        json_request({}),
    ],
)
async def test_problems_have_just_their_five_members(relay, sent):
    answer = await ask(relay.chain.rest1, relay.chain.tls, sent.replace(b"\r\n", b"\r\nX-Request-ID: my-id\r\n", 1))
    assert answer["Content-Type"] == "application/problem+json"
    problem = answer.json()
    assert list(problem) == ["type", "title", "status", "detail", "instance"]
    assert problem["status"] == answer.status
    assert problem["instance"] == answer["X-Request-ID"] == "my-id"
    assert "Server" not in dict(answer.headers)


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
async def test_other_answers_have_an_id_too(relay, path):
    answer = await ask(relay.chain.rest1, relay.chain.tls, f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    assert (answer.status, len(answer["X-Request-ID"])) == (200, 32)


@pytest.mark.parametrize(
    "sent", [b"not HTTP at all\r\n\r\n", b"GET / HTTP/1.1\r\nbad header\r\n\r\n", b"\0\1\2\r\n\r\n"]
)
async def test_what_is_no_http_is_answered_400_without_a_problem_body(relay, sent):
    answer = await ask(relay.chain.rest1, relay.chain.tls, sent)
    assert answer.status == 400
    assert "problem" not in dict(answer.headers).get("Content-Type", "")


# -- the whole chain


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 3 * MIB + 1])
async def test_files_of_any_size_are_stored_by_any_way_in(aiorelay_server, recorder, tmp_path, size):
    content = os.urandom(size)
    (tmp_path / "a.bin").write_bytes(content)
    source = await recorder(answering(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + content))
    chain = await aiorelay_server(local_root=[tmp_path], allow_net=["127.0.0.0/8"])
    ways_in = [
        request("/upload1", form(part("somefile", content, "a.bin"), part("a", "b"))),
        request("/upload1", form(part("somefile", content, "a.bin")), chunked=True),
        request("/upload/a.bin", content, **PUT),
        request("/upload/a.bin", content, chunked=True, **PUT),
        json_request({"somefile": str(tmp_path / "a.bin")}),
        json_request({"somefile": f"{source.url}/a.bin"}),
    ]
    for sent in ways_in:
        answer = await ask(chain.rest1, chain.tls, sent)
        (file,) = answer.json()["files"]
        assert (file["filename"], file["size"]) == ("a.bin", size)
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
    assert [path.read_bytes() for path in chain.stored()] == [content] * len(ways_in)


async def test_rest2_is_verified_by_the_relay_and_by_its_clients(aiorelay_server):
    chain = await aiorelay_server()
    with pytest.raises(ssl.SSLCertVerificationError):
        await ask(chain.rest2, ssl.create_default_context(), b"")


async def test_every_upload_ends_up_in_the_log_with_its_id(relay, caplog):
    caplog.set_level("INFO", "aiorelay")
    await relay.ask(request("/upload1", FORM))
    await eventually(lambda: any("upload stored" in record.getMessage() for record in caplog.records))
