"""What a resumable upload is: the request that created it, kept with its bytes until the last one is there.

creation ─▶ Representation ─▶ JSON, in the upload's record ─▶ Representation ─▶ Form, UploadRequest ─▶ relay
"""

import base64
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Final, Literal

from multidict import CIMultiDict, CIMultiDictProxy

from aiorelay.http.fields import CONTENT_DIGESTS
from aiorelay.multipart.form import Form
from aiorelay.rest1.request_forms import Body, FormReader
from aiorelay.rest1.upload_request import FORM, UploadRequest

__all__ = ["Representation"]

# Fields that concern one request of several, and secrets of the client, which are not written to the disk.
_NOT_KEPT: Final = CONTENT_DIGESTS | {"authorization", "cookie"}
_PROTOCOL_FIELDS: Final = ("upload-", "tus-", "x-http-method-override")


@dataclass(frozen=True, slots=True, kw_only=True)
class Representation:
    """What the bytes of an upload are, as its creation said.

    ``kind`` is ``form`` for a multipart body, ``raw`` for a file. ``endpoint``, ``content_type``, ``filename``,
    ``query`` and ``wanted_digest`` are those of the ``UploadRequest``, and ``headers`` its header fields without
    secrets. ``digests`` are what the whole must come to, in base64 by algorithm. ``form_fields`` go before the file.
    ``deferred`` tells that the creation did not know the length; ``metadata`` and ``concat`` are tus' Upload-Metadata
    and Upload-Concat as they were sent.
    """

    kind: Literal["form", "raw"]
    endpoint: str
    content_type: str | None
    filename: str
    query: str
    headers: tuple[tuple[str, str], ...]
    wanted_digest: str | None = None
    digests: Mapping[str, str]
    form_fields: tuple[tuple[str, str], ...] = ()
    deferred: bool = False
    metadata: str | None = None
    concat: str | None = None

    @classmethod
    def of(cls, asked: UploadRequest, **tus: Any) -> "Representation":
        """The representation that a request creates; ``tus`` are members that tus tells otherwise."""
        members: dict[str, Any] = {
            "kind": "form" if asked.media_type == FORM else "raw",
            "endpoint": asked.endpoint,
            "content_type": asked.content_type,
            "filename": asked.filename,
            "query": asked.query,
            "headers": tuple((name, value) for name, value in asked.fields.items() if _is_kept(name)),
            "wanted_digest": asked.wanted_digest,
            "digests": {
                algorithm: base64.b64encode(digest).decode()
                for algorithm, digest in asked.digests.get("Repr-Digest", {}).items()
            },
        }
        return cls(**{**members, **tus})

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Representation":
        members = {each.name: document[each.name] for each in fields(cls) if each.name in document}
        for name in ("headers", "form_fields"):
            members[name] = tuple((key, value) for key, value in members.get(name, ()))
        return cls(**members)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def expected_digests(self) -> dict[str, bytes]:
        """Digests of the whole by algorithm."""
        return {algorithm: base64.b64decode(digest) for algorithm, digest in self.digests.items()}

    def asked(self, completing: UploadRequest) -> UploadRequest:
        """What the upload API is asked for by the request that brings the last byte.

        Header fields of both requests are passed on, the newer value of each. Fields that describe the content are
        those of the creation.
        """
        headers = CIMultiDict(self.headers)
        newer = [(name, value) for name, value in completing.fields.items() if _is_passed_on(name)]
        for name, _ in newer:
            headers.popall(name, None)
        headers.extend(newer)
        return completing._replace(
            endpoint=self.endpoint,
            media_type=FORM if self.kind == "form" else "",
            content_type=self.content_type,
            filename=self.filename,
            query=self.query,
            digests={},
            wanted_digest=completing.wanted_digest or self.wanted_digest,
            fields=CIMultiDictProxy(headers),
        )

    async def form(self, forms: FormReader, asked: UploadRequest, body: Body) -> Form:
        """Make the form that ``body``, all bytes of the upload, is. Raises the ``Problem`` that its beginning shows."""
        if self.kind == "form":
            return await forms.form(asked, body)
        return await forms.raw(asked, body, self.form_fields)


def _is_passed_on(name: str) -> bool:
    lower = name.lower()
    return not lower.startswith(("content-", *_PROTOCOL_FIELDS)) and lower not in _NOT_KEPT - {
        "authorization",
        "cookie",
    }


def _is_kept(name: str) -> bool:
    lower = name.lower()
    return lower not in _NOT_KEPT and not lower.startswith(_PROTOCOL_FIELDS)
