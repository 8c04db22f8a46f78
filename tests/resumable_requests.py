"""Requests of both protocols for resumable uploads, sent as they are over a connection each."""

import base64
import ssl
from dataclasses import dataclass, field
from typing import Any, ClassVar
from urllib.parse import urlsplit

from peers import PATIENCE, Message, ask, request


def path_of(answer: Message) -> str:
    """Return the path of the upload that an answer names."""
    return urlsplit(answer["Location"]).path


def code(answer: Message) -> str:
    """Return the code of a problem."""
    problem_type: str = answer.json()["type"]
    return problem_type.removeprefix("urn:aiorelay:").rpartition("#")[2]


def metadata(**pairs: str) -> str:
    return "Upload-Metadata: " + ",".join(
        f"{key} {base64.b64encode(value.encode()).decode()}" for key, value in pairs.items()
    )


@dataclass
class Requests:
    """Sends requests to the relay at ``url``; ``headers`` are on each of them."""

    url: str
    tls: ssl.SSLContext
    headers: list[str] = field(default_factory=list)

    async def ask(
        self, method: str, target: str, *headers: str, body: bytes = b"", patience: float = PATIENCE, **options: Any
    ) -> Message:
        sent = self.raw(method, target, *headers, body=body, **options)
        return await ask(self.url, self.tls, sent, patience=patience)

    def raw(self, method: str, target: str, *headers: str, body: bytes = b"", **options: Any) -> bytes:
        options = {"content_type": None, **options}
        return request(target, body, "Connection: close", *self.headers, *headers, method=method, **options)

    async def head(self, path: str, *headers: str) -> Message:
        return await self.ask("HEAD", path, *headers)

    async def get(self, path: str) -> Message:
        return await self.ask("GET", path)

    async def delete(self, path: str, *headers: str) -> Message:
        return await self.ask("DELETE", path, *headers)


class Draft(Requests):
    """The draft: a raw body that is uploaded to /upload/a.bin."""

    content: ClassVar = {"content_type": "application/partial-upload"}

    async def create(self, length: int | None, *headers: str, body: bytes = b"", last: bool = False) -> Message:
        told = [] if length is None else [f"Upload-Length: {length}"]
        return await self.ask("PUT", "/upload/a.bin", f"Upload-Complete: ?{last:d}", *told, *headers, body=body)

    async def append(
        self, path: str, offset: int, body: bytes, *headers: str, last: bool = False, **options: Any
    ) -> Message:
        return await self.ask(
            "PATCH", path, *self.patch(offset, last=last), *headers, **{**self.content, **options}, body=body
        )

    @staticmethod
    def patch(offset: int, *, last: bool) -> list[str]:
        return [f"Upload-Offset: {offset}", f"Upload-Complete: ?{last:d}"]


class Tus(Requests):
    """tus 1.0.0."""

    content: ClassVar = {"content_type": "application/offset+octet-stream"}

    def raw(self, method: str, target: str, *headers: str, body: bytes = b"", **options: Any) -> bytes:
        return super().raw(method, target, "Tus-Resumable: 1.0.0", *headers, body=body, **options)

    async def create(self, length: int | None, *headers: str, body: bytes = b"", last: bool = False) -> Message:  # noqa: ARG002 - as in append
        told = "Upload-Defer-Length: 1" if length is None else f"Upload-Length: {length}"
        options: dict[str, Any] = self.content if body else {}
        return await self.ask("POST", "/files/", told, *headers, body=body, **options)

    async def append(
        self, path: str, offset: int, body: bytes, *headers: str, last: bool = False, **options: Any
    ) -> Message:
        return await self.ask(
            "PATCH", path, *self.patch(offset, last=last), *headers, **{**self.content, **options}, body=body
        )

    @staticmethod
    def patch(offset: int, *, last: bool) -> list[str]:  # noqa: ARG004 - tus has no sign of it
        return [f"Upload-Offset: {offset}"]
