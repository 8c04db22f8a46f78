"""Deliver events to receivers that accept, refuse, hang, flood, or are not there."""

import asyncio
import ssl
import time
from contextlib import asynccontextmanager
from ipaddress import ip_network
from pathlib import Path

import pytest
import trustme
from peers import Connection, answering, eventually
from webhook_receivers import ACCEPTED, answer, ids, in_turn, secret_file
from yarl import URL

from aiorelay.observability.metrics import Metrics
from aiorelay.webhooks.delivery import Delivery
from aiorelay.webhooks.events import Event
from aiorelay.webhooks.outbox import Outbox
from aiorelay.webhooks.receiver import AT_ONCE, Receiver
from aiorelay.webhooks.schedule import Schedule
from aiorelay.webhooks.signatures import Secrets

LOOPBACK = [ip_network("127.0.0.0/8")]
QUICK = Schedule(first=0.01, longest=0.05)
NOW = Schedule(first=0.01, given_up=0, least=0)
"""Gives an event up after the first delivery."""


class Sender:
    """A running delivery of the outbox below ``directory``."""

    def __init__(self, delivery: Delivery, outbox: Outbox, metrics: Metrics, directory: Path) -> None:
        self.queue = delivery.queue
        self._delivery = delivery
        self._outbox = outbox
        self._metrics = metrics
        self._directory = directory

    def send(self, *identities: str, body: bytes = b'{"type":"x"}') -> None:
        for identity in identities:
            self._delivery.add(self._outbox.write(Event(identity, body)))

    @property
    def dead_letters(self) -> list[str]:
        return sorted(path.stem for path in (self._directory / "dead-letters").iterdir())

    @property
    def kept(self) -> list[str]:
        return sorted(path.stem for path in (self._directory / "outbox").glob("*/*.json"))

    def deliveries(self, outcome: str) -> int:
        return int(self._metrics.webhooks.deliveries.labels(outcome)._value.get())  # noqa: SLF001 - it has no reader

    def metric(self, name: str) -> float:
        lines = self._metrics.render().decode().splitlines()
        (value,) = [line.partition(" ")[2] for line in lines if line.startswith(f"aiorelay_webhook_{name} ")]
        return float(value)


@pytest.fixture
def sending(tmp_path):
    """A context of the delivery to a URL."""

    @asynccontextmanager
    async def start(url, *, schedule=QUICK, allowed=LOOPBACK, own=(), tls=None, patience=5.0, grace=0.0):
        outbox, metrics = Outbox(tmp_path / "state", fsync=False), Metrics()
        outbox.open()
        receiver = Receiver(
            URL(url), Secrets(secret_file(tmp_path)), allowed=allowed, own=own, tls=tls, timeout=patience
        )
        delivery = Delivery(outbox, receiver, metrics.webhooks, schedule=schedule, look_interval=0.05)
        try:
            async with delivery.running(grace):
                yield Sender(delivery, outbox, metrics, tmp_path / "state")
        finally:
            outbox.close()

    return start


async def hang(connection: Connection) -> None:
    await connection.hang()


async def test_an_accepted_event_is_delivered_once_and_removed(sending, recorder):
    receiver = await recorder(answering(ACCEPTED))
    async with sending(receiver.url) as sender:
        sender.send("a", body=b'{"type":"x","data":"\xc3\xa9"}')
        await eventually(lambda: len(sender.queue) == 0)
        (delivery,) = receiver.requests
        assert (delivery.method, delivery.target, delivery["Content-Type"]) == ("POST", "/api", "application/json")
        assert delivery.body == b'{"type":"x","data":"\xc3\xa9"}'
        assert abs(int(delivery["webhook-timestamp"]) - time.time()) < 60
        assert (sender.kept, sender.deliveries("accepted")) == ([], 1)


async def test_connections_are_used_again(sending, recorder):
    receiver = await recorder(answering(answer("200 OK")))
    async with sending(receiver.url) as sender:
        for number in range(10):
            sender.send(f"a{number}")
            await eventually(lambda: len(sender.queue) == 0)
    assert len(receiver.connections) == 1


async def test_a_kept_connection_that_was_closed_costs_no_failure(sending, recorder):
    async def once(connection: Connection) -> None:
        await connection.request()
        await connection.send(ACCEPTED)

    receiver = await recorder(once)
    async with sending(receiver.url) as sender:
        for number in range(5):
            sender.send(f"a{number}")
            await eventually(lambda: len(sender.queue) == 0)
        assert (sender.deliveries("accepted"), sender.deliveries("unreachable")) == (5, 0)


@pytest.mark.parametrize("status", ["400 Bad Request", "500 Internal Server Error", "302 Found", "304 Not Modified"])
async def test_other_answers_are_tried_again_with_the_same_id(sending, recorder, status):
    receiver = await recorder(in_turn(answer(status, "Location: /elsewhere"), answer(status), ACCEPTED))
    async with sending(receiver.url) as sender:
        sender.send("a")
        await eventually(lambda: len(sender.queue) == 0)
        assert ids(receiver) == ["a", "a", "a"]
        assert {each.target for each in receiver.requests} == {"/api"}
        assert (sender.deliveries("rejected"), sender.deliveries("accepted")) == (2, 1)


async def test_one_event_that_is_not_accepted_does_not_hold_others_up(sending, recorder):
    async def picky(connection: Connection) -> None:
        while True:
            delivery = await connection.request()
            await connection.send(answer("400 Bad Request") if delivery["webhook-id"] == "bad" else ACCEPTED)

    receiver = await recorder(picky)
    async with sending(receiver.url, schedule=Schedule()) as sender:
        sender.send("bad", "a", "b", "c")
        await eventually(lambda: sender.kept == ["bad"])
        assert sorted(ids(receiver)) == ["a", "b", "bad", "c"]


async def test_an_event_that_is_given_up_becomes_a_dead_letter(sending, recorder, caplog):
    receiver = await recorder(answering(answer("400 Bad Request")))
    async with sending(receiver.url, schedule=NOW) as sender:
        sender.send("a")
        await eventually(lambda: sender.metric("dead_letters") == 1)
        assert (len(sender.queue), sender.dead_letters) == (0, ["a"])
    assert "1 webhook event was given up: a." in caplog.text


async def test_410_makes_a_dead_letter_at_once_and_leaves_the_receiver_alone(sending, recorder):
    receiver = await recorder(answering(answer("410 Gone")))
    async with sending(receiver.url) as sender:
        sender.send("a")
        await eventually(lambda: sender.dead_letters == ["a"])
        sender.send("b", "c")
        await asyncio.sleep(0.2)
        assert ids(receiver) == ["a"]
        assert sender.kept == ["b", "c"]


@pytest.mark.parametrize("status", ["429 Too Many Requests", "503 Service Unavailable"])
async def test_retry_after_is_honoured(sending, recorder, status):
    receiver = await recorder(in_turn(answer(status, "Retry-After: 1"), ACCEPTED))
    async with sending(receiver.url) as sender:
        sender.send("a")
        await eventually(lambda: len(receiver.requests) == 1)
        refused = time.monotonic()
        sender.send("b", "c")
        await eventually(lambda: len(sender.queue) == 0)
        assert time.monotonic() - refused > 0.9
        assert sorted(ids(receiver)) == ["a", "a", "b", "c"]


async def test_events_of_a_receiver_that_is_away_for_too_long_are_given_up_together(sending, unused_tcp_port, caplog):
    async with sending(f"http://127.0.0.1:{unused_tcp_port}/", schedule=NOW) as sender:
        sender.send(*(f"a{number}" for number in range(20)))
        await eventually(lambda: len(sender.dead_letters) == 20)
        assert sender.deliveries("unreachable") <= AT_ONCE
        await eventually(lambda: sender.metric("dead_letters") == 20)
    assert caplog.text.count("accepts no events: it could not be reached") == 1


async def test_a_receiver_that_comes_back_gets_everything(sending, recorder):
    receiver = await recorder(hang)
    async with sending(receiver.url, patience=0.1) as sender:
        sender.send(*(f"a{number}" for number in range(20)))
        await eventually(lambda: sender.deliveries("timeout") > 0)
        receiver.script = answering(ACCEPTED)
        await eventually(lambda: len(sender.queue) == 0)
    assert len(set(ids(receiver))) == 20


async def test_a_receiver_that_hangs_has_few_connections(sending, recorder):
    receiver = await recorder(hang)
    async with sending(receiver.url) as sender:
        sender.send(*(f"a{number}" for number in range(50)))
        await eventually(lambda: len(receiver.connections) == AT_ONCE)
        assert sender.metric("outbox") == 50
        assert 0 <= sender.metric("outbox_age_seconds") < 60


@pytest.mark.parametrize("framing", ["Transfer-Encoding: chunked", "Content-Length: 1000000000"])
async def test_a_receiver_that_floods_is_cut_off(sending, recorder, framing):
    sent = 0

    async def flood(connection: Connection) -> None:
        nonlocal sent
        await connection.request()
        await connection.send(f"HTTP/1.1 200 OK\r\n{framing}\r\n\r\n".encode())
        while True:
            await connection.send((b"4000\r\n" if "chunked" in framing else b"") + bytes(0x4000) + b"\r\n")
            sent += 0x4000

    receiver = await recorder(flood)
    async with sending(receiver.url) as sender:
        sender.send("a")
        await eventually(lambda: len(sender.queue) == 0)
        await receiver.connections[0].until_cut()
    assert sent < 16 * 2**20


async def test_an_accepted_event_needs_no_end_of_the_answer(sending, recorder):
    async def stop(connection: Connection) -> None:
        await connection.request()
        await connection.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n")
        await connection.hang()

    receiver = await recorder(stop)
    async with sending(receiver.url) as sender:
        sender.send("a")
        await eventually(lambda: len(sender.queue) == 0)
    assert ids(receiver) == ["a"]


GARBAGE = {
    "not HTTP": b"SSH-2.0-OpenSSH_9.2\r\n",
    "nothing": b"",
    "endless head": b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000,
    "many fields": b"HTTP/1.1 200 OK\r\n" + b"X: x\r\n" * 100_000,
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_what_is_no_answer_is_tried_again(sending, recorder, garbage):
    async def nonsense(connection: Connection) -> None:
        await connection.request()
        await connection.send(garbage)

    receiver = await recorder(nonsense)
    async with sending(receiver.url) as sender:
        sender.send("a")
        await eventually(lambda: sender.deliveries("unreachable") == 1)
        receiver.script = answering(ACCEPTED)
        await eventually(lambda: len(sender.queue) == 0)


async def test_tls_is_verified(sending, recorder, caplog):
    authority, other = trustme.CA(), trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("127.0.0.1").configure_cert(server)
    other.configure_trust(client)
    receiver = await recorder(answering(ACCEPTED), tls=server)
    async with sending(receiver.url, tls=client) as sender:
        sender.send("a")
        await eventually(lambda: "its TLS certificate is not trusted, or not for that name" in caplog.text)
        assert receiver.requests == []
        authority.configure_trust(client)
        await eventually(lambda: len(sender.queue) == 0)


async def test_the_proxies_of_the_environment_are_not_used(sending, recorder, unused_tcp_port, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{unused_tcp_port}")
    receiver = await recorder(answering(ACCEPTED))
    async with sending(receiver.url) as sender:
        sender.send("a")
        await eventually(lambda: len(sender.queue) == 0)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_addresses_that_are_not_public_are_not_dialled(sending, recorder, host, caplog):
    receiver = await recorder(answering(ACCEPTED))
    async with sending(f"http://{host}:{receiver.port}/", allowed=[]) as sender:
        sender.send("a")
        await eventually(lambda: sender.deliveries("address-refused") == 1)
    assert "--webhook-allow-net permits a network" in caplog.text
    assert receiver.connections == []


async def test_the_relays_own_listeners_are_not_dialled(sending, recorder, caplog):
    receiver = await recorder(answering(ACCEPTED))
    own = [("127.0.0.1", receiver.port)]
    async with sending(receiver.url, allowed=[], own=own) as sender:
        sender.send("a")
        await eventually(lambda: "the relay's own listener" in caplog.text)


async def test_events_that_are_due_are_delivered_at_the_end(sending, recorder):
    receiver = await recorder(answering(ACCEPTED))
    async with sending(receiver.url, grace=5) as sender:
        sender.send(*(f"a{number}" for number in range(50)))
    assert len(ids(receiver)) == 50
    assert sender.kept == []


async def test_the_end_does_not_wait_for_a_receiver_that_is_away(sending, unused_tcp_port):
    async with sending(f"http://127.0.0.1:{unused_tcp_port}/", grace=60) as sender:
        sender.send("a", "b")
        await eventually(lambda: sender.deliveries("unreachable") > 0)
    assert sender.kept == ["a", "b"]


async def test_an_event_whose_file_was_removed_is_forgotten(sending, recorder, tmp_path):
    receiver = await recorder(answering(answer("503 Service Unavailable"), ACCEPTED))
    async with sending(receiver.url) as sender:
        sender.send("a")
        await eventually(lambda: len(receiver.requests) == 1)
        next((tmp_path / "state" / "outbox").glob("*/a.json")).unlink()
        await eventually(lambda: len(sender.queue) == 0)
    assert ids(receiver) == ["a"]


async def test_an_unexpected_failure_does_not_stop_the_others(sending, recorder, tmp_path, caplog):
    receiver = await recorder(answering(ACCEPTED))
    async with sending(receiver.url) as sender:
        (own,) = (tmp_path / "state" / "outbox").iterdir()
        sender.send("a")
        (own / "a.json").unlink()
        (own / "a.json").mkdir()
        sender.send("b")
        await eventually(lambda: ids(receiver) == ["b"])
        (own / "a.json").rmdir()
    assert "Unexpected failure of the delivery of a." in caplog.text


@pytest.mark.parametrize("rest", [b"", b'{"type":', b'{"type":"x","data":{}'], ids=["empty", "cut off", "almost whole"])
async def test_an_event_that_was_not_written_to_its_end_is_not_sent(sending, recorder, rest):
    receiver = await recorder(answering(ACCEPTED))
    async with sending(receiver.url) as sender:
        sender.send("torn", body=rest)
        sender.send("whole")
        await eventually(lambda: len(sender.queue) == 0)
        assert (ids(receiver), sender.kept) == (["whole"], [])


async def test_an_event_that_cannot_become_a_dead_letter_stays_in_the_outbox(sending, recorder, tmp_path, caplog):
    receiver = await recorder(answering(answer("400 Bad Request")))
    async with sending(receiver.url, schedule=NOW) as sender:
        (tmp_path / "state" / "dead-letters").rmdir()
        (tmp_path / "state" / "dead-letters").touch()
        sender.send("a")
        await eventually(lambda: len(sender.queue) == 0)
        assert sender.kept == ["a"]
    assert "The webhook event a stays in the outbox: File exists." in caplog.text


async def test_an_outbox_that_cannot_be_read_is_logged_once(sending, recorder, tmp_path, caplog):
    receiver = await recorder(answering(ACCEPTED))
    async with sending(receiver.url) as sender:
        outbox = tmp_path / "state" / "outbox"
        outbox.rename(tmp_path / "state" / "elsewhere")
        await eventually(lambda: "The outbox cannot be read: No such file or directory." in caplog.text)
        await asyncio.sleep(0.2)
        (tmp_path / "state" / "elsewhere").rename(outbox)
        sender.send("a")
        await eventually(lambda: ids(receiver) == ["a"])
    assert caplog.text.count("The outbox cannot be read") == 1


async def test_a_missing_directory_of_dead_letters_is_made(sending, recorder, tmp_path):
    receiver = await recorder(answering(answer("410 Gone")))
    async with sending(receiver.url) as sender:
        (tmp_path / "state" / "dead-letters").rmdir()
        sender.send("a")
        await eventually(lambda: sender.kept == [] and sender.dead_letters == ["a"])
