"""Plain HTTP requests to an HTTPS port: which are answered, and how."""

import asyncio

import pytest

from aiorelay.server.plain_http import is_plain_http, rejection

HEAD = b"GET /upload1?a=b HTTP/1.1\r\nHost: files.example:8000\r\nAccept: */*\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "plain"), [(b"G", True), (b"P", True), (b"g", False), (b"\x16", False), (b"", False)]
)
def test_a_capital_letter_is_the_start_of_plain_http(first, plain):
    assert is_plain_http(first) is plain


@pytest.mark.parametrize(
    ("head", "where"),
    [
        (HEAD, "https://files.example:8000"),
        (HEAD.replace(b"files.example:8000", b"[::1]:8000"), "https://[::1]:8000"),
        (HEAD.replace(b"Host: files.example:8000\r\n", b""), "an https URL"),
        (HEAD.replace(b"files.example:8000", b"<script>"), "an https URL"),
        (HEAD.replace(b"\r\n", b"\n"), "https://files.example:8000"),
    ],
    ids=["name", "IPv6 address", "no host", "no host's name", "bare line feeds"],
)
def test_the_answer_names_the_url_to_use(head, where):
    answer = rejection(head)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\n")
    body = f"This port speaks HTTPS only. Use {where} instead.\n".encode()
    assert answer.endswith(b"\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%b" % (len(body), body))


def test_the_answer_to_head_has_no_body():
    assert rejection(HEAD.replace(b"GET", b"HEAD")).endswith(b"\r\n\r\n")


@pytest.mark.parametrize("head", [b"SSH-2.0-OpenSSH_9.2\r\n", b"EHLO mail.example\r\n\r\n", b"GET /\r\n\r\n", b"\r\n"])
def test_other_protocols_get_no_answer(head):
    assert rejection(head) is None


@pytest.mark.parametrize("noise", [b"SSH-2.0-OpenSSH_9.2\r\n", b"A" * 20_000], ids=["SSH", "letters"])
async def test_a_connection_of_another_protocol_is_closed_without_an_answer(aiorelay_server, noise):
    chain = await aiorelay_server()
    reader, writer = await asyncio.open_connection("127.0.0.1", int(chain.rest1.rpartition(":")[2]))
    writer.write(noise)
    try:
        assert await reader.read() == b""
    except ConnectionResetError:
        pass
    finally:
        writer.close()
