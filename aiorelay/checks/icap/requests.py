"""Write the heads of requests to an ICAP service (RFC 3507, section 4.3 to 4.10). Does no I/O."""

from dataclasses import dataclass
from typing import Final, Literal
from urllib.parse import quote

from yarl import URL

from aiorelay.http.grammar import is_media_type

__all__ = ["FileRequest", "options_request"]

_HOST: Final = "aiorelay.invalid"
_USER_AGENT: Final = "aiorelay"
_ANY_TYPE: Final = "application/octet-stream"


def options_request(service: URL) -> bytes:
    """Return the request for the options of ``service``."""
    return _head("OPTIONS", service, "Encapsulated: null-body=0")


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRequest:
    """A request to scan a file. ``size`` is its length in bytes, None if it is not known in advance."""

    service: URL
    method: Literal["REQMOD", "RESPMOD"]
    filename: str
    media_type: str | None = None
    size: int | None = None

    @property
    def url(self) -> str:
        """The URL of the file in the encapsulated HTTP message. Its name proves nothing and is only for the log."""
        return f"http://{_HOST}/{quote(self.filename, safe='', errors='replace')}"

    @property
    def http_method(self) -> str:
        return "PUT" if self.method == "REQMOD" else "GET"

    def head(self, *, preview: int | None, allow_204: bool) -> bytes:
        """Return everything before the first chunk: the ICAP head and the encapsulated HTTP heads.

        ``preview`` is the length of the preview that follows, in bytes. With ``allow_204``, the service need not send
        an unchanged file back.
        """
        media_type = self.media_type if self.media_type and is_media_type(self.media_type) else _ANY_TYPE
        content = [f"Content-Type: {media_type}"]
        if self.size is not None:
            content.append(f"Content-Length: {self.size}")
        first = [f"{self.http_method} {self.url} HTTP/1.1", f"Host: {_HOST}"]
        if self.method == "REQMOD":
            request = _lines(*first, *content)
            heads, encapsulated = request, f"req-hdr=0, req-body={len(request)}"
        else:
            request, response = _lines(*first), _lines("HTTP/1.1 200 OK", *content)
            heads = request + response
            encapsulated = f"req-hdr=0, res-hdr={len(request)}, res-body={len(heads)}"
        fields = ["Allow: 204"] if allow_204 else []
        if preview is not None:
            fields.append(f"Preview: {preview}")
        return _head(self.method, self.service, *fields, f"Encapsulated: {encapsulated}") + heads


def _head(method: str, service: URL, *fields: str) -> bytes:
    host = service.raw_authority
    target = f"{service.scheme}://{host}{service.raw_path_qs}"
    return _lines(f"{method} {target} ICAP/1.0", f"Host: {host}", f"User-Agent: {_USER_AGENT}", *fields)


def _lines(*lines: str) -> bytes:
    return "".join(f"{line}\r\n" for line in (*lines, "")).encode("ascii")
