"""The result of sending one source, as text and as JSON. No I/O."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

__all__ = ["Answer", "SendError", "SendResult"]

# Characters to quote of an error response that is not a problem document.
_LONGEST_DETAIL = 300


class SendError(Exception):
    """A source got no answer. The text says why and what to do."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An upload API's or a relay's answer, with its body unchanged."""

    status: int
    media_type: str
    body: bytes

    @property
    def is_success(self) -> bool:
        # RFC 9110, section 15.4.4: the request was performed, and 303 refers to a description of the result.
        return 200 <= self.status < 300 or self.status == HTTPStatus.SEE_OTHER

    @property
    def content(self) -> Any:
        """The body: the parsed document if it is JSON, else text."""
        text = self.body.decode("utf-8", "replace")
        if self.media_type == "application/json" or self.media_type.endswith("+json"):
            try:
                return json.loads(text)
            except (ValueError, RecursionError):
                return text
        return text

    @property
    def problem(self) -> dict[str, Any]:
        """The error as members of RFC 9457. The body of any other document is quoted in ``detail``."""
        content = self.content
        if self.media_type == "application/problem+json" and isinstance(content, dict):
            return {"title": _phrase(self.status), "status": self.status} | content
        words = " ".join(self.body[: 8 * _LONGEST_DETAIL].decode("utf-8", "replace").split())
        detail = words if len(words) <= _LONGEST_DETAIL else f"{words[:_LONGEST_DETAIL]}…"
        said = {"title": f"{self.status} {_phrase(self.status)}", "status": self.status}
        return said | ({"detail": detail} if detail else {})


@dataclass(frozen=True, slots=True)
class SendResult:
    """The result of ``source``: an ``answer``, or a ``problem`` (members of RFC 9457), or both if it was refused."""

    source: str
    answer: Answer | None = None
    problem: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, source: str, answer: Answer) -> "SendResult":
        """Return the result of a source that got an answer."""
        return cls(source, answer, None if answer.is_success else answer.problem)

    @property
    def stored(self) -> bool:
        return self.problem is None

    @property
    def sentence(self) -> str:
        """The title and the detail of the problem."""
        words = [
            str(self.problem[member]) for member in ("title", "detail") if self.problem and self.problem.get(member)
        ]
        return ": ".join(words)

    def as_json(self) -> str:
        """Return a JSON object of ``source``, ``status`` (null without an answer), and ``answer`` or ``problem``."""
        said: dict[str, Any] = {"source": self.source, "status": self.answer.status if self.answer else None}
        if self.problem is not None:
            return json.dumps(said | {"status": said["status"] or self.problem.get("status"), "problem": self.problem})
        return json.dumps(said | {"answer": self.answer.content if self.answer else None})


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "refused"
