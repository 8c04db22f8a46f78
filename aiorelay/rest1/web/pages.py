"""Serve the pages in aiorelay/rest1/web/assets, with their Content-Security-Policy.

GET /            the upload page
GET /docs        the API documentation: Swagger UI with /openapi.json
GET /assets/…    style sheets, scripts and images of both pages
"""

import hashlib
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from string import Template

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler

__all__ = ["Pages"]

_TYPES = {"html": "text/html", "css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
_OF_BOTH = ("icon.svg",)
_OF_UPLOAD = (
    "page.css",
    "page.js",
    "embedding.js",
    "entry.js",
    "sending.js",
    "resuming.js",
    "unfinished.js",
    "ingesting.js",
    "verdict.js",
    "words.js",
)
_OF_DOCS = ("docs.js", "swagger-ui/swagger-ui.css", "swagger-ui/swagger-ui-bundle.js")

# CSP Level 3: no other origins, no inline code, no framing (but of the upload page, see ``Pages``).
_POLICY = {
    "default-src": "'none'",
    "script-src": "'self'",
    "style-src": "'self'",
    "img-src": "'self'",
    "connect-src": "'self'",
    "form-action": "'self'",
    "base-uri": "'none'",
    "frame-ancestors": "'none'",
}
# Swagger UI sets inline styles, and its style sheet contains data: images.
_DOCS_POLICY = _POLICY | {"style-src": "'self' 'unsafe-inline'", "img-src": "'self' data:", "form-action": "'none'"}
_HEADERS = {
    hdrs.CACHE_CONTROL: "no-cache",  # browsers revalidate, so that an upgrade takes effect at once
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Pages:
    """The routes of the pages. All links are relative, so that the pages work below any path of a proxy.

    ``field`` is the form field of files. ``upload`` adds the upload page. With ``wants_token`` the page asks for a
    token before the first upload, and sends it in ``token_header``. With ``resumable`` it continues interrupted
    uploads. Pages of the origins in ``embedded_by`` may show it in a frame, and give it a token.
    """

    def __init__(
        self,
        field: str,
        *,
        upload: bool,
        wants_token: bool,
        resumable: bool,
        token_header: str = hdrs.AUTHORIZATION,
        embedded_by: Sequence[str] = (),
    ) -> None:
        self._field = field
        self._upload = upload
        self._wants_token = wants_token
        self._resumable = resumable
        self._token_header = token_header
        self._embedded_by = " ".join(embedded_by)

    def add_to(self, router: web.UrlDispatcher) -> None:
        assets = [*_OF_BOTH, *_OF_DOCS]
        router.add_get("/docs", _served(_asset("docs.html"), "html", _DOCS_POLICY))
        if self._upload:
            assets += _OF_UPLOAD
            policy = _POLICY | {"frame-ancestors": self._embedded_by or "'none'"}
            router.add_get("/", _served(self._upload_page(), "html", policy))
        for name in assets:
            router.add_get(f"/assets/{name}", _served(_asset(name), name.rpartition(".")[2], _POLICY))

    def _upload_page(self) -> bytes:
        page = Template(_asset("index.html").decode())
        return page.substitute(
            field=escape(self._field),
            token="wanted" if self._wants_token else "",
            resumable="on" if self._resumable else "",
            token_header=escape(self._token_header),
            embedded_by=escape(self._embedded_by),
        ).encode()


def _asset(name: str) -> bytes:
    return resources.files("aiorelay.rest1.web").joinpath("assets", name).read_bytes()


def _served(body: bytes, kind: str, policy: Mapping[str, str]) -> Handler:
    """Return a handler that serves ``body``, or 304 if the client has it (RFC 9110, section 13.1.2)."""
    tag = hashlib.sha256(body).hexdigest()[:32]
    headers = _HEADERS | {"Content-Security-Policy": "; ".join(map(" ".join, policy.items()))}

    async def serve(request: web.Request) -> web.Response:
        known = {each.value for each in request.if_none_match or ()}
        if known & {tag, "*"}:
            response = web.Response(status=304, headers=headers)
        else:
            response = web.Response(body=body, headers=headers, content_type=_TYPES[kind], charset="utf-8")
        response.etag = tag
        return response

    return serve
