"""The one pass of every upload: a form is checked, framed and delivered, and the upload API answers.

Form ─▶ checked ─▶ framed ─▶ delivered ─▶ RelayedAnswer
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from concurrent.futures import Executor
from contextlib import aclosing, asynccontextmanager
from typing import NamedTuple

from yarl import URL

from aiorelay.checks.pipeline import CheckFactory, checked
from aiorelay.checks.required_file import RequiredFile
from aiorelay.checks.wanted_digests import WantedDigests
from aiorelay.multipart.form import Form
from aiorelay.multipart.framing import FramedBody, frame
from aiorelay.rest1.delivery import Delivery
from aiorelay.rest1.pieces import PieceFields
from aiorelay.rest1.progress import ProgressRecorder
from aiorelay.rest1.public_addresses import public_fields
from aiorelay.rest1.upload_request import UploadRequest, upstream_fields
from aiorelay.rest1.upstream_exchange import UpstreamAnswer
from aiorelay.settings.kinds import StatusRange

__all__ = ["Relay", "RelayedAnswer"]


class RelayedAnswer(NamedTuple):
    """The upload API's answer, to be read, and the header fields that the relay adds to it."""

    response: UpstreamAnswer
    added: list[tuple[str, str]]


class Relay:
    """Sends forms to the upload API by ``delivery``.

    ``checks`` judge every file, ``first_bytes_checks`` its first bytes alone; ``pool`` computes checksums. ``field`` is
    the form field that must carry a file. ``stored_status`` are the answers of the upload API that mean stored.
    ``public`` is the base URL at which clients reach the upload API, None if it is that of its answers. ``on_piece``
    is called when a form's fields tell that its file is a piece, and may raise.
    """

    def __init__(
        self,
        delivery: Delivery,
        checks: Sequence[CheckFactory],
        first_bytes_checks: Sequence[CheckFactory],
        pool: Executor,
        *,
        field: str,
        stored_status: Sequence[StatusRange],
        public: URL | None = None,
        on_piece: Callable[[], None],
    ) -> None:
        self.reachable = delivery.reachable
        self._delivery = delivery
        self._checks = checks
        self._first_bytes_checks = first_bytes_checks
        self._pool = pool
        self._field = field
        self._stored_status = stored_status
        self._public = None if public is None else str(public)
        self._on_piece = on_piece

    @asynccontextmanager
    async def send(
        self,
        form: Form,
        asked: UploadRequest,
        progress: ProgressRecorder,
        *,
        framing: Callable[[Form], Awaitable[FramedBody]] = frame,
    ) -> AsyncGenerator[RelayedAnswer, None]:
        """Send a form, and give the answer for as long as the context lasts. Raises the first ``Problem``."""
        wanted, pieces = WantedDigests(asked.wanted_digest, self._pool), PieceFields(self._on_piece)
        required = RequiredFile(self._field)
        factories: list[CheckFactory] = [progress.received, required, pieces, wanted, *self._checks, progress.checked]
        form = checked(form, factories, at_end=[pieces.form_ended, required.form_ended])
        async with aclosing(form.parts):
            framed = await framing(form)
            fields = upstream_fields(asked, framed, is_job=progress.is_job)
            framed.blocks = progress.timed(framed.blocks)
            async with self._delivery.post(framed, fields, asked.target, progress.forwarded) as response:
                progress.answered(response.status, stored=self.means_stored(response.status))
                public = public_fields(response.headers, str(response.url), self._public) if self._public else []
                yield RelayedAnswer(response, [*wanted.told(), *public])

    async def check_first_bytes(self, form: Form) -> None:
        """Read a form as far as it goes, and raise what is found against the first bytes of its files."""
        async with aclosing(checked(form, self._first_bytes_checks).parts) as parts:
            async for part in parts:
                async for _ in part.chunks:
                    pass

    def means_stored(self, status: int) -> bool:
        """Whether an answer of the upload API means that the upload is stored."""
        return any(first <= status <= last for first, last in self._stored_status)
