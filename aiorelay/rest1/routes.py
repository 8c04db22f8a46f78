"""Uploads at the paths of other upload APIs, as the setting ``route`` gives them.

POST PATH       a form: checked, and sent to the URL of its route
POST, PUT PATH  with ``raw``, any other body: checked, and sent on as it is
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from multidict import CIMultiDict, CIMultiDictProxy

from aiorelay.errors import MalformedField, MalformedForm, NotFound, TokenRefused, WrongContentType
from aiorelay.http.middleware import defer_100_continue
from aiorelay.multipart.framing import frame, frame_raw
from aiorelay.multipart.part_head import read_disposition
from aiorelay.rest1.answers import pass_back
from aiorelay.rest1.intake import Intake
from aiorelay.rest1.progress import ProgressRecorder
from aiorelay.rest1.relay import Relay
from aiorelay.rest1.request_forms import FormReader
from aiorelay.rest1.target import has_dot_segments
from aiorelay.rest1.upload_request import FORM, UploadRequest
from aiorelay.settings.routes import Route

__all__ = ["RoutedUploads", "Routes", "with_one_filename"]

_DISPOSITION: Final = "Content-Disposition"


@dataclass(frozen=True, slots=True)
class RoutedUploads:
    """A route, the ``relay`` to its upload API, and the reader of its forms."""

    route: Route
    relay: Relay
    forms: FormReader


class Routes:
    """Handlers of the uploads of ``routes``, which ``intake`` admits."""

    def __init__(self, intake: Intake, routes: Sequence[RoutedUploads]) -> None:
        self.relays = {each.route.path: each.relay for each in routes}
        self.described = [(each.route, each.forms.field) for each in routes]
        self._intake = intake
        self._routes = routes

    def add_exact(self, router: web.UrlDispatcher) -> None:
        """Add the paths without ``*``. They go before those of the relay itself, which may be the same."""
        for each in self._routes:
            if each.route.prefix is None:
                self._add(router, each.route.path, each)

    def add_prefixes(self, router: web.UrlDispatcher) -> None:
        """Add the paths with ``*``, the longest first. They go after those of the relay itself."""
        by_length = sorted(self._routes, key=lambda each: len(each.route.path), reverse=True)
        for each in by_length:
            if each.route.prefix is not None:
                self._add(router, f"{each.route.prefix}{{rest:.*}}", each)

    def _add(self, router: web.UrlDispatcher, path: str, routed: RoutedUploads) -> None:
        handler = self._upload(routed)
        resource = router.add_resource(path)
        for method in (hdrs.METH_POST, hdrs.METH_PUT) if routed.route.raw else (hdrs.METH_POST,):
            resource.add_route(method, handler, expect_handler=defer_100_continue)

    def _upload(self, routed: RoutedUploads) -> Handler:
        route = routed.route

        async def handler(request: web.Request) -> web.StreamResponse:
            with self._intake.under_way(route.path, request) as (admitted, upload):
                if route.tokens and admitted.who not in route.tokens:
                    raise TokenRefused(f"The token is not one of those that may upload to {route.path}.")
                asked = admitted._replace(method=request.method, rest=_rest(request, route))
                if is_raw := _is_raw(asked, route):
                    asked = with_one_filename(asked)
                await self._intake.limits.admit(request, asked.principal, request.content_length)
                async with self._intake.body(request, asked, self._intake.digest_checks(asked)) as body:
                    form = await (routed.forms.raw if is_raw else routed.forms.form)(asked, body)
                    progress = ProgressRecorder(upload, self._intake.metrics)
                    framing = frame_raw if is_raw else frame
                    async with routed.relay.send(form, asked, progress, framing=framing) as answer:
                        upload.end()
                        return await pass_back(request, answer.response, answer.added, self._intake.timeouts.answers)

        return handler


def _rest(request: web.Request, route: Route) -> str | None:
    """What follows the prefix of a route in the path, as it was sent. Raises ``NotFound`` if it would leave the API."""
    if route.prefix is None:
        return None
    rest = request.rel_url.raw_path[len(route.prefix) :]
    if has_dot_segments(rest):
        raise NotFound("The path has dot segments. Leave them out.")
    return rest


def _is_raw(asked: UploadRequest, route: Route) -> bool:
    """Whether a body is passed on as it is. Raises ``WrongContentType`` for one that the route does not take."""
    if asked.media_type == FORM and asked.method == hdrs.METH_POST:
        return False
    if not route.raw:
        raise WrongContentType(f"{route.path} takes forms: send one Content-Type, {FORM}.")
    if asked.content_type is not None and not asked.media_type:
        raise WrongContentType("The request has several Content-Types. Send one.")
    return True


def with_one_filename(asked: UploadRequest) -> UploadRequest:
    """Return a request for a raw body whose header fields and path name the file alike.

    The name is that in Content-Disposition, or else the last segment of the path. Raises ``MalformedField``.
    """
    given = asked.fields.getall(_DISPOSITION, [])
    if not given:
        return asked
    if len(given) > 1:
        raise MalformedField("The request has several Content-Disposition fields. Send one.")
    try:
        filename, value = read_disposition(given[0].encode("utf-8", "surrogateescape"))
    except MalformedForm as malformed:
        raise MalformedField(f"Content-Disposition: {malformed.detail}") from malformed
    if filename is None:
        return asked
    endings = {PurePosixPath(name).suffix.lower() for name in (filename, asked.filename)}
    if asked.rest and len(endings - {""}) > 1:  # an upload API that stores by path would read another type of file
        raise MalformedField("Content-Disposition and the path name files with different endings. Name one file.")
    fields = CIMultiDict(asked.fields)
    fields[_DISPOSITION] = value.decode("utf-8", "surrogateescape")
    return asked._replace(filename=filename, fields=CIMultiDictProxy(fields))
