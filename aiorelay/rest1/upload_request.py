"""What one request asks of the relay, parsed once: nothing below the handlers holds the framework's request."""

from collections.abc import Iterable, Mapping
from typing import Final, NamedTuple
from urllib.parse import unquote

from aiohttp import hdrs, web
from multidict import CIMultiDict, CIMultiDictProxy

from aiorelay.checks.digests import parse_digest_field
from aiorelay.checks.wanted_digests import preferred_algorithm
from aiorelay.http.authentication import Access, Sender
from aiorelay.http.fields import CONTENT_DIGESTS, add_trace, drop_client_claims, end_to_end
from aiorelay.http.grammar import essence
from aiorelay.multipart.framing import FramedBody
from aiorelay.observability.logs import request_id
from aiorelay.rest1.preferences import remove_preference, split_preference
from aiorelay.rest1.rate_limits import principal
from aiorelay.rest1.target import Target

__all__ = ["FORM", "JSON", "UploadRequest", "parse_request", "upstream_fields"]

FORM: Final = "multipart/form-data"
JSON: Final = "application/json"

# Fields that describe the client's body, not the form that is made of it.
_BODY_FIELDS = CONTENT_DIGESTS | {"content-language", "content-location", "content-disposition", "content-encoding"}
_FRAMING = frozenset({"host", "expect", "content-length", "content-type"})
_RESPOND_ASYNC: Final = "respond-async"


class UploadRequest(NamedTuple):
    """What a request asks for.

    ``endpoint`` is the route's path, as the log names it. ``who`` is the authenticated name, or None; ``principal`` is
    whose limits the request counts towards. ``media_type`` is the one media type of the body in lower case, or empty;
    ``content_type`` is the field as it was sent. ``filename`` is the last segment of the path, decoded. ``query`` is
    the query string as it was sent. ``method`` is that of the upload API's request, and ``rest`` what is appended to
    the path of its URL, if anything. ``digests`` are what the body must come to: digests by algorithm, by the field
    that gives them (RFC 9530). ``wanted_digest`` is the algorithm that Want-Repr-Digest prefers. ``respond_async``
    tells whether a job is preferred (RFC 7240). ``fields`` are the header fields to pass on, those that tell where the
    request came through included.
    """

    endpoint: str
    who: str | None
    principal: str
    media_type: str
    content_type: str | None
    filename: str
    query: str
    digests: Mapping[str, Mapping[str, bytes]]
    wanted_digest: str | None
    respond_async: bool
    fields: "CIMultiDictProxy[str]"
    method: str = hdrs.METH_POST
    rest: str | None = None

    @property
    def target(self) -> Target:
        """The target of the upload API's request."""
        return Target(method=self.method, rest=self.rest, query=self.query)


def parse_request(
    request: web.Request, access: Access, *, endpoint: str, who: str | None, sender: Sender
) -> UploadRequest:
    """Parse the head of ``request``, which ``who`` sends from ``sender``. Raises ``BadDigest``."""
    types = request.headers.getall(hdrs.CONTENT_TYPE, [])
    # A raw body without a coding is its own representation, so that both fields describe the same bytes. So is a body
    # that is uploaded in several requests.
    both = request.method == hdrs.METH_PUT or "Upload-Complete" in request.headers
    digest_fields = ("Content-Digest", "Repr-Digest") if both else ("Content-Digest",)
    respond_async, _ = split_preference(_RESPOND_ASYNC, request.headers.getall("Prefer", []))
    return UploadRequest(
        endpoint=endpoint,
        who=who,
        principal=principal(who, sender.client),
        media_type=essence(types[0]) if len(types) == 1 else "",
        content_type=types[0] if types else None,
        filename=unquote(request.rel_url.raw_path.rpartition("/")[2], errors="replace"),
        query=query(request),
        digests=_digests(request, digest_fields),
        wanted_digest=preferred_algorithm(request.headers.getall("Want-Repr-Digest", [])),
        respond_async=respond_async,
        fields=CIMultiDictProxy(_passed_on(request, access, sender)),
    )


def query(request: web.Request) -> str:
    """The query string of a request, as it was sent."""
    return request.raw_path.partition("?")[2]


def upstream_fields(asked: UploadRequest, framed: FramedBody, *, is_job: bool) -> "CIMultiDict[str]":
    """The header fields of the upload API's request, without its framing.

    ``is_job`` tells that ``respond-async`` has been honoured here.
    """
    fields = CIMultiDict(asked.fields)
    untrue: Iterable[str] = ()
    if not framed.boundary:
        if asked.content_type is not None:
            fields[hdrs.CONTENT_TYPE] = asked.content_type
    elif asked.media_type == FORM and asked.content_type is not None:
        fields[hdrs.CONTENT_TYPE] = asked.content_type
        untrue = () if framed.unchanged else CONTENT_DIGESTS
    else:
        fields[hdrs.CONTENT_TYPE] = f"{FORM}; boundary={framed.boundary.decode()}"
        untrue = _BODY_FIELDS
    for name in untrue:
        fields.popall(name, None)
    if is_job:
        remove_preference(_RESPOND_ASYNC, fields)
    return fields


def _digests(request: web.Request, names: Iterable[str]) -> dict[str, dict[str, bytes]]:
    given = {name: ", ".join(request.headers.getall(name, [])) for name in names}
    expected = {name: parse_digest_field(value, name) for name, value in given.items() if value}
    return {name: digests for name, digests in expected.items() if digests}


def _passed_on(request: web.Request, access: Access, sender: Sender) -> "CIMultiDict[str]":
    fields = end_to_end(request.headers, without=_FRAMING | access.consumed_fields)
    if not sender.is_trusted:
        drop_client_claims(fields)
    add_trace(
        fields,
        version=request.version,
        client=sender.client,
        peer=sender.peer,
        scheme=request.scheme,
        host=request.headers.get(hdrs.HOST),
        request_id=request_id.get(),
    )
    return fields
