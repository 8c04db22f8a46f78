"""Many TLS records are read in one call."""

import ssl
from contextlib import suppress
from pathlib import Path

import pytest

from aiorelay.certificates.tls import Certificates, client_context
from aiorelay.server.tls_reads import RecordReader

SIZE = 256 * 1024


class Connection:
    """A TLS connection in memory after its handshake: what ``client`` writes is read by ``server``."""

    def __init__(self, certificates: Certificates) -> None:
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        certificates.context.sslobject_class = RecordReader
        self.to_server = to_server
        self.server = certificates.context.wrap_bio(to_server, to_client, server_side=True)
        context = client_context([certificates.ca], system_trust=False)
        self.client = context.wrap_bio(to_client, to_server, server_hostname="localhost")
        for side in (self.client, self.server, self.client, self.server):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()


@pytest.fixture
def connection(tmp_path: Path) -> Connection:
    return Connection(Certificates(tmp_path, ["localhost"]))


@pytest.mark.parametrize("size", [1, 16 * 1024, 16 * 1024 + 1, 200_000])
def test_all_records_are_read_at_once(connection: Connection, size: int) -> None:
    connection.client.write(b"x" * size)
    buffer = bytearray(SIZE)
    assert connection.server.read(SIZE, memoryview(buffer)) == size
    assert buffer[:size] == b"x" * size


def test_a_buffer_is_filled_and_the_rest_read_next(connection: Connection) -> None:
    connection.client.write(bytes(range(256)) * 160)
    buffer = bytearray(20_000)
    assert [connection.server.read(20_000, memoryview(buffer)) for _ in range(2)] == [20_000, 20_000]
    assert buffer[:256] == (bytes(range(256)) * 160)[20_000:20_256]
    assert connection.server.read(20_000, memoryview(buffer)) == 960


def test_nothing_to_read_is_an_error_as_in_the_base_class(connection: Connection) -> None:
    with pytest.raises(ssl.SSLWantReadError):
        connection.server.read(SIZE, memoryview(bytearray(SIZE)))


def test_the_end_of_the_stream_is_found_after_the_data(connection: Connection) -> None:
    connection.client.write(b"x" * 40_000)
    with pytest.raises(ssl.SSLWantReadError):
        connection.client.unwrap()
    buffer = memoryview(bytearray(SIZE))
    assert connection.server.read(SIZE, buffer) == 40_000
    assert connection.server.read(SIZE, buffer) == 0


def test_a_record_that_was_changed_on_the_way_is_an_error(connection: Connection) -> None:
    connection.to_server.write(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(ssl.SSLError, match=r"BAD_RECORD_MAC|DECRYPTION_FAILED"):
        connection.server.read(SIZE, memoryview(bytearray(SIZE)))


def test_without_a_buffer_one_record_is_returned(connection: Connection) -> None:
    connection.client.write(b"x" * 40_000)
    assert connection.server.read(SIZE) == b"x" * 16_384
