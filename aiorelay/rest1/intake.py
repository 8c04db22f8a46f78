"""Take in upload requests: authenticate, parse, admit, count, log; open their bodies.

request ─▶ under_way ─▶ UploadRequest, UploadRecord ─▶ body ─▶ Body, held to its digests
"""

from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager, nullcontext
from typing import Final

from aiohttp import web

from aiorelay.checks.digests import expect_digests
from aiorelay.checks.pipeline import Check, checked, through_checks
from aiorelay.errors import ShuttingDown
from aiorelay.http.authentication import Access
from aiorelay.http.request_body import BodyTimeouts, RequestBody
from aiorelay.multipart.form import Form
from aiorelay.observability.logs import UploadRecord
from aiorelay.rest1.observers import Observers
from aiorelay.rest1.pieces import is_piece
from aiorelay.rest1.principal_limits import Limits, PrincipalLimits
from aiorelay.rest1.request_forms import Body
from aiorelay.rest1.upload_request import UploadRequest, parse_request, query
from aiorelay.rest1.upload_slots import UploadSlots

__all__ = ["Intake"]

_IS_UPLOAD: Final = web.RequestKey("is_upload", bool)


class Intake:
    """Takes in requests of those whom ``access`` lets in, as long as ``slots`` has one for each.

    Clients are waited for with ``timeouts``. ``pool`` computes checksums. ``on_piece`` is called when the head of a
    request tells that its body is a piece of a file, and may raise. While ``draining``, nothing is taken in.
    ``limits`` are those of each principal.
    """

    def __init__(
        self,
        access: Access,
        observers: Observers,
        timeouts: BodyTimeouts,
        pool: Executor,
        *,
        slots: UploadSlots,
        on_piece: Callable[[], None],
        limits: PrincipalLimits | None = None,
    ) -> None:
        self.access = access
        self.limits = limits or PrincipalLimits(Limits())
        self.metrics = observers.metrics
        self.timeouts = timeouts
        self.draining = False
        self._observers = observers
        self._pool = pool
        self._slots = slots
        self._on_piece = on_piece

    @contextmanager
    def under_way(
        self, endpoint: str, request: web.Request, *, resumable: bool = False, continues: bool = False
    ) -> Iterator[tuple[UploadRequest, UploadRecord]]:
        """What a request asks for, and the record of its upload, which is counted and logged when the context ends.

        ``resumable`` says that the request speaks a protocol by which the pieces of a file become one again,
        ``continues`` that its upload was begun by another request.
        Raises ``Unauthenticated``, ``BadDigest``, ``ShuttingDown``, ``Busy``, ``RateLimited``, and what ``on_piece``
        raises.
        """
        sender = self.access.sender(request)
        upload = UploadRecord(endpoint, client=sender.client, continues=continues)
        request[_IS_UPLOAD] = True
        with self._observers.upload(upload, request):
            upload.who = self.access.who(request)
            if is_piece(request.headers, query(request), resumable=resumable):
                self._on_piece()
            asked = parse_request(request, self.access, endpoint=endpoint, who=upload.who, sender=sender)
            if self.draining:
                raise ShuttingDown("The relay takes no more uploads; try again soon.")
            with self._slots.hold(asked.principal), self.metrics.uploads_in_flight.track_inprogress():
                yield asked, upload

    async def await_events(self, request: web.BaseRequest) -> None:
        """Hold the answer to an upload back until its event is safe."""
        if request.get(_IS_UPLOAD):
            await self._observers.publisher.written()

    def digest_checks(self, asked: UploadRequest, *fields: str) -> list[Check]:
        """Checks of a body against the digests that a request gives in ``fields``, or in all fields."""
        return [
            expect_digests(expected, self._pool, field=field)
            for field, expected in asked.digests.items()
            if not fields or field in fields
        ]

    def body(
        self, request: web.Request, asked: UploadRequest, checks: Sequence[Check]
    ) -> AbstractAsyncContextManager[Body]:
        """The body of a request, judged by ``checks`` and counted towards the quota. Raises ``WrongContentType``."""
        body = RequestBody(request, self.timeouts)
        if (meter := self.limits.meter(asked.principal)) is not None:
            checks = [meter, *checks]
        return _judged(body, checks) if checks else nullcontext(Body(body.length, body.read))

    def metered(self, form: Form, asked: UploadRequest) -> Form:
        """Return a form whose files the relay fetches itself, with their bytes counted towards the quota."""
        meter = self.limits.meter(asked.principal)
        return form if meter is None else checked(form, [lambda _part: meter])


@asynccontextmanager
async def _judged(body: RequestBody, checks: Sequence[Check]) -> AsyncGenerator[Body, None]:
    async with aclosing(through_checks(body, checks)) as blocks:
        yield Body(body.length, lambda: anext(blocks, b""))
