"""The requests for an upload that both protocols answer alike: GET and DELETE."""

from aiohttp import web

from aiorelay.rest1.intake import Intake
from aiorelay.rest1.resumable.outcomes import description
from aiorelay.rest1.resumable.unfinished import Upload, UploadProtocol, Uploads

__all__ = ["UploadResources"]


class UploadResources:
    """The ``uploads`` of one ``protocol``, for the clients that ``intake`` names."""

    def __init__(self, intake: Intake, uploads: Uploads, protocol: UploadProtocol) -> None:
        self._intake = intake
        self._uploads = uploads
        self._protocol = protocol

    async def named(self, request: web.Request) -> Upload:
        """The upload that the path names. Raises what ``Uploads.find`` raises."""
        who = self._intake.access.who(request)
        return await self._uploads.find(request.match_info["id"], who, self._protocol)

    async def describe(self, request: web.Request) -> web.Response:
        """Tell how far an upload has come, or how it ended."""
        return description(await self.named(request))

    async def remove(self, request: web.Request) -> web.Response:
        """End an upload, or forget how it ended."""
        upload = await self.named(request)
        await self._uploads.remove(upload.id, upload.owner)
        return web.Response(status=204)
