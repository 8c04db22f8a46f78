"""Limits of each principal: uploads per time, bytes per day, uploads at once."""

import contextlib

import pytest
import trustme
from peers import answering, ask, connected, form, json_request, part, request
from yarl import URL

from aiorelay.errors import QuotaExceeded, TooLarge
from aiorelay.rest1.principal_limits import Limits, MemoryCounters, PrincipalLimits
from aiorelay.rest1.rate_limits import DAY, Rate

pytestmark = pytest.mark.slow

FORM = form(part("somefile", "content", "a.txt"))
UPLOAD = request("/upload1", FORM)
POLICY = '"uploads";q=2;w=3600'


class TestCounters:
    async def test_principals_do_not_share_uploads(self):
        counters = MemoryCounters(clock=lambda: 0.0)
        rate = Rate(1, 60)
        assert [(await counters.take(name, rate)).allowed for name in "aabb"] == [True, False, True, False]

    async def test_memory_is_bounded_and_the_idle_are_forgotten(self):
        counters = MemoryCounters(most=3, clock=lambda: 0.0)
        rate = Rate(1, 60)
        for name in ("a", "b", "c", "a", "d"):
            await counters.take(name, rate)
            await counters.add(name, 0, 10)
        assert [await counters.used(name, 0) for name in "abcd"] == [20, 0, 10, 10]
        assert [(await counters.take(name, rate)).allowed for name in "adb"] == [False, False, True]

    async def test_a_million_addresses_take_no_more_memory_than_the_limit(self):
        counters = MemoryCounters(most=1000)
        for number in range(20_000):
            await counters.add(f"address {number}", 0, 1)
            await counters.take(f"address {number}", Rate(1, 1))
        assert len(counters._bytes) == len(counters._arrivals) == 1000  # noqa: SLF001 - there is no other measure

    async def test_bytes_count_for_their_day(self):
        counters = MemoryCounters()
        assert [await counters.add("a", day, 5) for day in (0, 0, 1)] == [5, 10, 5]
        assert await counters.used("a", 2) == 0


class TestQuota:
    @pytest.fixture
    def limits(self):
        self.now = 0.0
        return PrincipalLimits(Limits(quota=100), clock=lambda: self.now)

    async def admit(self, limits, length, name="a"):
        await limits.admit(None, name, length)

    @pytest.mark.parametrize(("used", "length", "fits"), [(0, 100, True), (60, 40, True), (60, 41, False)])
    async def test_a_declared_length_must_fit(self, limits, used, length, fits):
        await limits.count("a", used)
        with contextlib.nullcontext() if fits else pytest.raises(QuotaExceeded):
            await self.admit(limits, length)

    async def test_more_than_the_whole_quota_is_too_large_for_every_day(self, limits):
        with pytest.raises(TooLarge):
            await self.admit(limits, 101)

    async def test_an_unknown_length_is_counted_as_it_arrives(self, limits):
        await self.admit(limits, None)
        meter = limits.meter("a")
        await meter.feed(b"x" * 100)
        with pytest.raises(QuotaExceeded):
            await meter.feed(b"x")

    async def test_it_may_be_tried_again_on_the_next_day(self, limits):
        self.now = DAY - 30.5
        await limits.count("a", 100)
        with pytest.raises(QuotaExceeded) as refused:
            await self.admit(limits, 1)
        assert refused.value.headers["Retry-After"] == "31"
        self.now += 31
        await self.admit(limits, 100)

    async def test_there_is_no_meter_without_a_quota(self):
        assert PrincipalLimits(Limits()).meter("a") is None


async def test_answers_tell_the_limit_and_the_one_too_many_is_refused(aiorelay_server):
    chain = await aiorelay_server(rate_limit="2/1h")
    answers = [await ask(chain.rest1, chain.tls, UPLOAD) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert [answer["RateLimit-Policy"] for answer in answers] == [POLICY] * 3
    assert [answer["RateLimit"].partition(";t=")[0] for answer in answers] == [
        '"uploads";r=1',
        '"uploads";r=0',
        '"uploads";r=0',
    ]
    assert answers[2].json()["type"] == "urn:aiorelay:rate-limited"
    assert 1790 < int(answers[2]["Retry-After"]) <= 1800
    assert answers[2]["Retry-After"] == answers[2]["RateLimit"].partition(";t=")[2]
    assert len(chain.stored()) == 2


async def test_a_refusal_does_not_wait_for_the_body(aiorelay_server):
    chain = await aiorelay_server(rate_limit="1/1h")
    await ask(chain.rest1, chain.tls, UPLOAD)
    head = request("/upload1", b"", "Expect: 100-continue", length=10**6)
    answer = await ask(chain.rest1, chain.tls, head)
    assert (answer.status, answer.informational) == (429, [])


async def test_a_connection_that_is_used_again_has_no_fields_of_the_request_before(aiorelay_server):
    chain = await aiorelay_server(rate_limit="2/1h")
    async with connected(chain.rest1, chain.tls) as client:
        assert (await client.ask(UPLOAD)).all("RateLimit")
        health = await client.ask(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert health.status == 200
    assert health.all("RateLimit") == []


async def test_the_fields_of_the_upload_api_stay(aiorelay_server, recorder):
    answer = b'HTTP/1.1 200 OK\r\nRateLimit: "api";r=7\r\nContent-Length: 0\r\n\r\n'
    peer = await recorder(answering(answer))
    chain = await aiorelay_server(rate_limit="2/1h", upstream=peer.url)
    assert [value.partition(";")[0] for value in (await ask(chain.rest1, chain.tls, UPLOAD)).all("RateLimit")] == [
        '"api"',
        '"uploads"',
    ]


async def test_each_token_has_limits_of_its_own(aiorelay_server, tmp_path):
    (tmp_path / "tokens").write_text("alice:a\nalice:a2\nbob:b\n")
    chain = await aiorelay_server(rate_limit="1/1h", token_file=tmp_path / "tokens")

    async def status(token):
        sent = request("/upload1", FORM, f"Authorization: Bearer {token}")
        return (await ask(chain.rest1, chain.tls, sent)).status

    assert [await status(token) for token in ("a", "a2", "b", "b", "wrong")] == [200, 429, 200, 429, 401]


async def test_each_address_behind_a_trusted_proxy_has_limits_of_its_own(aiorelay_server):
    chain = await aiorelay_server(rate_limit="1/1h", trusted_proxy="127.0.0.0/8")

    async def status(address):
        return (await ask(chain.rest1, chain.tls, request("/upload1", FORM, f"X-Forwarded-For: {address}"))).status

    addresses = ("192.0.2.1", "192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1")
    assert [await status(address) for address in addresses] == [200, 429, 200, 200, 429, 200]


async def test_other_clients_cannot_choose_their_address(aiorelay_server):
    chain = await aiorelay_server(rate_limit="1/1h")
    sent = [request("/upload1", FORM, f"X-Forwarded-For: 192.0.2.{number}") for number in range(2)]
    assert [(await ask(chain.rest1, chain.tls, each)).status for each in sent] == [200, 429]


async def test_each_client_certificate_has_limits_of_its_own(aiorelay_server, tmp_path):
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "clients.pem")
    chain = await aiorelay_server(client_ca=tmp_path / "clients.pem", rate_limit="1/1h")
    statuses = []
    for name in ("alice", "alice", "bob"):
        authority.issue_cert(f"{name}@example.org", common_name=name).configure_cert(chain.tls)
        statuses.append((await ask(chain.rest1, chain.tls, UPLOAD)).status)
    assert statuses == [200, 429, 200]


async def test_a_resumed_upload_counts_once_and_so_do_its_bytes(aiorelay_server):
    chain = await aiorelay_server(rate_limit="1/1h", upload_quota=1000)
    create = request("/upload/a.bin", b"", "Upload-Complete: ?0", method="PUT", content_type="a/b")
    created = await ask(chain.rest1, chain.tls, create)
    assert created.status == 201
    assert created["RateLimit"].startswith('"uploads";r=0')
    path = URL(created["Location"]).path
    for offset in range(0, 1000, 50):
        last = offset == 950
        fields = (f"Upload-Offset: {offset}", f"Upload-Complete: ?{int(last)}")
        sent = request(path, b"x" * 50, *fields, method="PATCH", content_type="application/partial-upload")
        answer = await ask(chain.rest1, chain.tls, sent)
        assert answer.status == (200 if last else 204)
        assert answer.all("RateLimit") == []
    assert [file.stat().st_size for file in chain.stored()] == [1000]
    assert (await ask(chain.rest1, chain.tls, create)).status == 429


@pytest.mark.parametrize(("length", "status"), [(600, 413), (500, 201)])
async def test_a_resumable_upload_is_refused_at_its_creation(aiorelay_server, length, status):
    chain = await aiorelay_server(upload_quota=500)
    fields = ("Tus-Resumable: 1.0.0", f"Upload-Length: {length}")
    answer = await ask(chain.rest1, chain.tls, request("/files/", b"", *fields, content_type=None))
    assert answer.status == status


async def test_bytes_beyond_the_quota_end_a_chunk_of_a_resumable_upload_but_not_the_upload(aiorelay_server):
    chain = await aiorelay_server(upload_quota=500)
    tus = "Tus-Resumable: 1.0.0"
    first = await ask(chain.rest1, chain.tls, request("/files/", b"", tus, "Upload-Length: 400", content_type=None))
    second = await ask(chain.rest1, chain.tls, request("/files/", b"", tus, "Upload-Length: 400", content_type=None))

    async def append(created, size):
        sent = request(
            URL(created["Location"]).path,
            b"x" * size,
            tus,
            "Upload-Offset: 0",
            method="PATCH",
            content_type="application/offset+octet-stream",
        )
        return (await ask(chain.rest1, chain.tls, sent)).status

    assert await append(first, 400) == 200
    assert await append(second, 400) == 429
    head = request(URL(second["Location"]).path, b"", tus, "Connection: close", method="HEAD", content_type=None)
    assert (await ask(chain.rest1, chain.tls, head)).status == 200


async def test_partial_uploads_count_as_the_one_that_they_become(aiorelay_server):
    chain = await aiorelay_server(rate_limit="1/1h")
    tus = "Tus-Resumable: 1.0.0"
    parts = []
    for _ in range(3):
        fields = (tus, "Upload-Length: 3", "Upload-Concat: partial")
        sent = request("/files/", b"abc", *fields, content_type="application/offset+octet-stream")
        answer = await ask(chain.rest1, chain.tls, sent)
        assert answer.status == 201
        parts.append(URL(answer["Location"]).path)
    final = request("/files/", b"", tus, f"Upload-Concat: final;{' '.join(parts)}", content_type=None)
    assert [(await ask(chain.rest1, chain.tls, final)).status for _ in range(2)] == [201, 429]


@pytest.mark.parametrize("chunked", [False, True], ids=["declared", "chunked"])
async def test_the_quota_refuses_a_form(aiorelay_server, recorder, chunked):
    peer = await recorder()
    chain = await aiorelay_server(upload_quota=2 * len(FORM) - 1, upstream=peer.url)
    assert (await ask(chain.rest1, chain.tls, UPLOAD)).status == 200
    answer = await ask(chain.rest1, chain.tls, request("/upload1", FORM, chunked=chunked))
    assert answer.status == 429
    assert answer.json()["type"] == "urn:aiorelay:quota-exceeded"
    assert 0 < int(answer["Retry-After"]) <= DAY
    assert len(peer.requests) == 1


@pytest.mark.parametrize("preference", [[], ["Prefer: respond-async"]], ids=["answered", "job"])
async def test_files_that_the_relay_reads_count_towards_the_quota(aiorelay_server, tmp_path, preference):
    (tmp_path / "large").write_bytes(b"x" * 5000)
    chain = await aiorelay_server(upload_quota=4999, local_root=tmp_path)
    sent = json_request({"somefile": str(tmp_path / "large")}, *preference)
    async with connected(chain.rest1, chain.tls) as client:
        answer = await client.ask(sent)
        if preference:
            assert answer.status == 202
            path = f"{answer['Location']}/events"
            events = await client.ask(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert b"quota-exceeded" in events.body
        else:
            assert answer.status == 429
    assert chain.stored() == []


async def test_a_client_with_too_many_uploads_under_way_is_refused_while_others_go_on(aiorelay_server):
    chain = await aiorelay_server(max_uploads_per_client=1, trusted_proxy="127.0.0.0/8")

    def sent(address):
        return request("/upload1", FORM, f"X-Forwarded-For: {address}", "Expect: 100-continue")

    async with connected(chain.rest1, chain.tls) as first:
        await first.send(sent("192.0.2.1")[: -len(FORM)])
        assert b" 100 " in await first.head()  # by then it is under way
        refused = await ask(chain.rest1, chain.tls, request("/upload1", FORM, "X-Forwarded-For: 192.0.2.1"))
        other = await ask(chain.rest1, chain.tls, request("/upload1", FORM, "X-Forwarded-For: 192.0.2.2"))
        await first.send(FORM)
        assert (await first.answer()).status == 200
    assert (refused.status, refused["Retry-After"], other.status) == (429, "5", 200)
    assert refused.json()["type"] == "urn:aiorelay:rate-limited"
    again = await ask(chain.rest1, chain.tls, request("/upload1", FORM, "X-Forwarded-For: 192.0.2.1"))
    assert again.status == 200


async def test_the_limits_hold_for_all_routes_together(aiorelay_server, recorder):
    peer = await recorder()
    chain = await aiorelay_server(rate_limit="2/1h", upload_quota=3 * len(FORM) - 1, route=f"/other={peer.url}")
    sent = [request(path, FORM) for path in ("/other", "/upload1", "/other")]
    answers = [await ask(chain.rest1, chain.tls, each) for each in sent]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert [answer["RateLimit-Policy"] for answer in answers] == [POLICY] * 3


async def test_the_quota_holds_for_routes(aiorelay_server, recorder):
    peer = await recorder()
    chain = await aiorelay_server(upload_quota=2 * len(FORM) - 1, route=f"/other={peer.url}")
    statuses = [(await ask(chain.rest1, chain.tls, request("/other", FORM, chunked=True))).status for _ in range(2)]
    assert statuses == [200, 429]
