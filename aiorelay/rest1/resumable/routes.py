"""The routes of both protocols for resumable uploads, on one store."""

import asyncio
from concurrent.futures import Executor

from aiohttp import web

from aiorelay.rest1.intake import Intake
from aiorelay.rest1.jobs.registry import Jobs
from aiorelay.rest1.resumable.completion import Completion
from aiorelay.rest1.resumable.concatenation import Concatenation
from aiorelay.rest1.resumable.draft_routes import DraftRoutes, is_creation
from aiorelay.rest1.resumable.transfers import SizeLimits, Transfers
from aiorelay.rest1.resumable.tus_routes import TusRoutes
from aiorelay.rest1.resumable.unfinished import Uploads

__all__ = ["ResumableRoutes"]


class ResumableRoutes:
    """Takes resumable uploads that ``intake`` lets in into ``uploads``, and has them delivered by ``completion``.

    ``expiry`` is how long in seconds an upload is kept after its last byte. ``pool`` computes checksums.
    """

    def __init__(
        self,
        intake: Intake,
        uploads: Uploads,
        completion: Completion,
        jobs: Jobs,
        limits: SizeLimits,
        pool: Executor,
        *,
        expiry: float,
    ) -> None:
        transfers = Transfers(intake, uploads, completion, jobs, limits)
        concatenation = Concatenation(uploads, completion, intake.metrics, limits)
        self._completion = completion
        self._draft = DraftRoutes(intake, uploads, transfers, expiry=expiry)
        self._tus = TusRoutes(intake, uploads, transfers, concatenation, pool)
        self.create = self._draft.create
        self.is_creation = is_creation

    @property
    def deliveries(self) -> set[asyncio.Task[object]]:
        """The deliveries under way."""
        return self._completion.tasks

    def add_to(self, app: web.Application) -> None:
        self._draft.add_to(app.router)
        self._tus.add_to(app.router)
        app.on_response_prepare.append(self._tus.add_version)
