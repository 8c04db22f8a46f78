"""A verdict that takes its time costs nobody the upload: the upload API's clocks do not run out meanwhile.

The verdicts are those of a validator that deliberates at the end of each file, and refuses those whose names say so.
"""

import asyncio
import contextlib
import random
import time

import pytest
from peers import Recorder, ask, connected, eventually, form, json_request, part, request
from upstream_servers import IDLE_CLOCKS, REQUEST_CLOCKS, SERVERS, stored_file

from aiorelay import Refused

pytestmark = pytest.mark.slow

KIB = 1024
CONTENT = random.Random(3).randbytes(5 * KIB * KIB)  # noqa: S311 - any bytes will do
SIZES = {"1KiB": KIB, "300KiB": 300 * KIB, "5MiB": 5 * KIB * KIB}
NAMES = [f"{verdict}-{size}" for verdict in ("accepted", "refused") for size in SIZES]
ACCEPTED = (200, None)
REFUSED = (422, "urn:aiorelay:content-refused")

# Shortened clocks, in seconds: the relay passes on at least a byte every 3 s, and the upload APIs wait for 4.
API_CLOCK = 4
DELIBERATION = 8
LONGEST = 80.0


class Deliberating:
    def __init__(self, part, seconds):
        self.part = part
        self.seconds = seconds

    def feed(self, chunk):
        pass

    def finish(self):
        time.sleep(self.seconds)
        if self.part.filename.startswith("refused"):
            raise Refused("after long deliberation")


def for_40_seconds(part):
    return Deliberating(part, 40)


def for_some_seconds(part):
    return Deliberating(part, DELIBERATION)


def content(name):
    """What the file ``name`` holds, which ends with the name of its size."""
    return CONTENT[: SIZES[name.rpartition("-")[2]]]


def in_form(name):
    return request("/upload1", form(part("note", "text"), part("somefile", content(name), name)))


def in_chunked_form(name):
    return request("/upload1", form(part("somefile", content(name), name)), chunked=True)


def raw(name):
    return request(f"/upload/{name}", content(name), method="PUT", content_type=None)


async def outcome(chain, sent):
    """The status of an upload's answer, and the code of its problem if it is one."""
    answer = await ask(chain.rest1, chain.tls, sent, patience=LONGEST)
    if answer.all("Content-Type") == ["application/problem+json"]:
        return answer.status, answer.json()["type"]
    return answer.status, None


async def outcomes(chain, makers):
    """Upload each file, all at once, as its maker of requests says; give the outcomes by the files' names."""
    found = await asyncio.gather(*(outcome(chain, make(name)) for name, make in makers.items()))
    return dict(zip(makers, found, strict=True))


def verdicts(names):
    return {name: REFUSED if name.startswith("refused") else ACCEPTED for name in names}


def accepted(names):
    return sorted(stored_file(name, content(name)) for name in names if name.startswith("accepted"))


def kept(chain):
    """What the embedded upload API has stored."""
    return sorted(stored_file(path.name, path.read_bytes()) for path in chain.stored())


# -- at all defaults, with verdicts of 40 s


@pytest.fixture
def slow_chain(aiorelay_server):
    """A factory of chains; each deliberates on its own."""

    async def start(**settings):
        return await aiorelay_server(validator=[f"{__name__}:for_40_seconds"], **settings)

    return start


async def deliver(chain, make, names):
    """Upload files at once, and give what came of them and what is stored, and what ought to be."""
    found = await outcomes(chain, dict.fromkeys(names, make))
    return (found, kept(chain)), (verdicts(names), accepted(names))


async def forms(slow_chain, _directory):
    return await deliver(await slow_chain(), in_form, NAMES)


async def chunked_forms(slow_chain, _directory):
    return await deliver(await slow_chain(), in_chunked_form, NAMES)


async def raw_bodies(slow_chain, _directory):
    return await deliver(await slow_chain(), raw, NAMES)


async def spooled_forms(slow_chain, _directory):
    return await deliver(await slow_chain(upstream_mode="spool"), in_form, NAMES)


async def local_files(slow_chain, directory):
    for name in NAMES:
        (directory / name).write_bytes(content(name))
    chain = await slow_chain(local_root=[directory])
    return await deliver(chain, lambda name: json_request({"somefile": str(directory / name)}), NAMES)


def origin():
    """A server whose one file has the size that is asked for."""

    async def script(connection):
        name = (await connection.request()).target.rpartition("/")[2]
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(content(name))}\r\n\r\n".encode()
        await connection.send(head + content(name))

    return Recorder(script)


async def remote_files(slow_chain, _directory):
    chain = await slow_chain(allow_net=["127.0.0.0/8"])
    async with origin() as server:
        return await deliver(chain, lambda name: json_request({"somefile": f"{server.url}/{name}"}), NAMES)


async def jobs(slow_chain, directory):
    for name in NAMES:
        (directory / f"job-of-{name}").write_bytes(content(name))
    chain = await slow_chain(local_root=[directory])
    found = await asyncio.gather(*(job(chain, directory / f"job-of-{name}", name) for name in NAMES))
    return (dict(zip(NAMES, found, strict=True)), kept(chain)), (verdicts(NAMES), accepted(NAMES))


async def job(chain, path, name):
    """What becomes of a job that ingests a file: the status and, if it is a problem's, its code."""
    document = {"somefile": {"source": str(path), "filename": name}}
    begun = await ask(chain.rest1, chain.tls, json_request(document, "Prefer: respond-async"))
    assert begun.status == 202
    events = request(f"{begun['Location']}/events", b"", method="GET", content_type=None)
    async with connected(chain.rest1, chain.tls) as client:
        await client.ask(events, patience=LONGEST)  # which ends with the job
    ended = await ask(chain.rest1, chain.tls, request(begun["Location"], b"", method="GET", content_type=None))
    document = ended.json()
    if document["problem"]:
        return document["problem"]["status"], document["problem"]["type"]
    return document["answer"]["status"], None


async def test_a_verdict_may_take_40_seconds(slow_chain, tmp_path):
    """Of each size, by every way in, side by side so that the test takes no longer than one verdict."""
    ways = [forms, chunked_forms, raw_bodies, spooled_forms, local_files, remote_files, jobs]
    found = await asyncio.gather(*(way(slow_chain, tmp_path) for way in ways))
    names = [way.__name__ for way in ways]
    expected = {name: ought for name, (_, ought) in zip(names, found, strict=True)}
    assert {name: came for name, (came, _) in zip(names, found, strict=True)} == expected


# -- with shortened clocks

CLOCKS = {name: {"idle": API_CLOCK} for name in IDLE_CLOCKS} | {"gunicorn-gthread": {"request": API_CLOCK}}
UPLOADS = {"accepted-1KiB": in_form, "accepted-5MiB": in_form, "refused-5MiB": raw}


async def through_relay(aiorelay_server, api, **settings):
    """Upload to ``api`` through a relay that deliberates: what came of it, and what is stored."""
    relay = await aiorelay_server(
        only="rest1", upstream=api.url, validator=[f"{__name__}:for_some_seconds"], **settings
    )
    found = await outcomes(relay, UPLOADS)
    remaining = accepted(name for name, result in found.items() if result == ACCEPTED)
    with contextlib.suppress(TimeoutError):  # what broke off may be removed a moment later
        await eventually(lambda: api.stored() == remaining)
    return found, api.stored()


async def test_real_upload_apis_wait_for_a_verdict(aiorelay_server, upload_api):
    async def upload(name):
        return await through_relay(aiorelay_server, await upload_api(name, **CLOCKS.get(name, {})))

    found = await asyncio.gather(*map(upload, SERVERS))
    assert dict(zip(SERVERS, found, strict=True)) == dict.fromkeys(SERVERS, (verdicts(UPLOADS), accepted(UPLOADS)))


async def test_the_embedded_upload_api_waits_for_a_verdict(aiorelay_server):
    storing = await aiorelay_server(only="rest2", idle_timeout=API_CLOCK)
    relay = await aiorelay_server(
        only="rest1", upstream=f"{storing.rest2}/upload", validator=[f"{__name__}:for_some_seconds"]
    )
    assert await outcomes(relay, UPLOADS) == verdicts(UPLOADS)
    assert kept(storing) == accepted(UPLOADS)


async def test_the_same_apis_give_up_a_silent_client(upload_api):
    """Or the test above would show nothing."""

    async def given_up(name):
        api = await upload_api(name, **CLOCKS[name])
        reader, writer = await asyncio.open_connection("127.0.0.1", api.port)
        with contextlib.closing(writer):
            writer.write(request("/upload", form(part("somefile", CONTENT, "a.bin")))[: KIB // 2])
            async with asyncio.timeout(DELIBERATION):
                with contextlib.suppress(OSError):
                    await reader.read()

    await asyncio.gather(*map(given_up, IDLE_CLOCKS))


async def test_spooling_is_for_apis_that_bound_the_whole_request(aiorelay_server, upload_api):
    async def upload(name, mode):
        api = await upload_api(name, request=API_CLOCK)
        return await through_relay(aiorelay_server, api, upstream_mode=mode)

    found = await asyncio.gather(*(upload(name, "spool") for name in REQUEST_CLOCKS))
    assert dict(zip(REQUEST_CLOCKS, found, strict=True)) == dict.fromkeys(
        REQUEST_CLOCKS, (verdicts(UPLOADS), accepted(UPLOADS))
    )


async def test_streaming_to_apis_that_bound_the_whole_request_stores_no_part(aiorelay_server, upload_api):
    """The answer is the API's own or 502; the file that was judged before the request began is stored."""

    async def upload(name):
        return await through_relay(aiorelay_server, await upload_api(name, request=API_CLOCK))

    for found, stored in await asyncio.gather(*map(upload, REQUEST_CLOCKS)):
        assert found["accepted-1KiB"] == ACCEPTED
        assert found["accepted-5MiB"][0] >= 400
        assert found["refused-5MiB"][0] >= 400
        assert stored == accepted(["accepted-1KiB"])


# -- who hears of what


async def test_a_small_file_that_is_refused_leaves_no_trace_at_the_upload_api(aiorelay_server, recorder):
    upstream = await recorder()
    relay = await aiorelay_server(only="rest1", upstream=upstream.url, validator=[f"{__name__}:for_no_time"])
    assert await outcome(relay, in_form("refused-1KiB")) == REFUSED
    assert await outcome(relay, raw("refused-1KiB")) == REFUSED
    assert upstream.connections == []


def for_no_time(part):
    return Deliberating(part, 0)


@pytest.mark.parametrize("name", ["a-1KiB", "a-300KiB", "a-5MiB"])
async def test_a_clamd_that_hangs_is_told_as_such(aiorelay_server, recorder, name):
    """And not as a client or an upload API that was slow, though both may be silent for less."""

    async def silent(connection):
        await connection.until_cut()

    async with Recorder(silent) as clamd:
        upstream = await recorder()
        relay = await aiorelay_server(
            only="rest1",
            upstream=upstream.url,
            clamd=f"127.0.0.1:{clamd.port}",
            clamd_timeout="2s",
            idle_timeout="500ms",
        )
        assert await outcome(relay, in_form(name)) == (503, "urn:aiorelay:scanner-unavailable")
        assert upstream.requests == []
