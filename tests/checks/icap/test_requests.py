import pytest
from yarl import URL

from aiorelay.checks.icap.answers import AnswerParser, Head, Section
from aiorelay.checks.icap.requests import FileRequest, options_request

SERVICE = URL("icap://scanner.example:1344/avscan?allow204=on", encoded=True)


def test_the_request_for_options() -> None:
    assert options_request(SERVICE) == (
        b"OPTIONS icap://scanner.example:1344/avscan?allow204=on ICAP/1.0\r\nHost: scanner.example:1344\r\n"
        b"User-Agent: aiorelay\r\nEncapsulated: null-body=0\r\n\r\n"
    )


def test_a_file_is_the_body_of_a_response() -> None:
    request = FileRequest(service=SERVICE, method="RESPMOD", filename="a b.txt", media_type="text/plain", size=5)
    assert request.head(preview=1024, allow_204=True) == (
        b"RESPMOD icap://scanner.example:1344/avscan?allow204=on ICAP/1.0\r\nHost: scanner.example:1344\r\n"
        b"User-Agent: aiorelay\r\nAllow: 204\r\nPreview: 1024\r\n"
        b"Encapsulated: req-hdr=0, res-hdr=74, res-body=138\r\n\r\n"
        b"GET http://aiorelay.invalid/a%20b.txt HTTP/1.1\r\nHost: aiorelay.invalid\r\n\r\n"
        b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\n"
    )


def test_a_file_is_the_body_of_a_request() -> None:
    request = FileRequest(service=SERVICE, method="REQMOD", filename="a.bin")
    assert request.head(preview=None, allow_204=False) == (
        b"REQMOD icap://scanner.example:1344/avscan?allow204=on ICAP/1.0\r\nHost: scanner.example:1344\r\n"
        b"User-Agent: aiorelay\r\nEncapsulated: req-hdr=0, req-body=110\r\n\r\n"
        b"PUT http://aiorelay.invalid/a.bin HTTP/1.1\r\nHost: aiorelay.invalid\r\n"
        b"Content-Type: application/octet-stream\r\n\r\n"
    )


@pytest.mark.parametrize("method", ["REQMOD", "RESPMOD"])
@pytest.mark.parametrize("filename", ["", "a/b", "a b", "ä.txt", "a\r\nX: y", "\udcff", "%0D%0A", "?#"], ids=range(8))
@pytest.mark.parametrize(
    "media_type", [None, "", "text/plain; charset=utf-8", "a/b\r\nX: y", "ä/b", "nothing"], ids=range(6)
)
def test_no_name_and_no_type_breaks_the_heads(method: str, filename: str, media_type: str | None) -> None:
    """The heads are read back as those of an answer."""
    request = FileRequest(service=SERVICE, method=method, filename=filename, media_type=media_type)  # type: ignore[arg-type]
    _, _, rest = request.head(preview=0, allow_204=True).partition(b"\r\n")
    head, *sections = AnswerParser().receive(b"ICAP/1.0 200 OK\r\n" + rest)
    assert isinstance(head, Head)
    assert set(head.fields) == {"host", "user-agent", "allow", "preview", "encapsulated"}
    for section in sections:
        assert isinstance(section, Section)
        assert section.content.endswith(b"\r\n\r\n")
        assert section.content.count(b"\r\n\r\n") == 1
        assert b"X: y" not in section.content
