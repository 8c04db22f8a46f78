"""One file at an ICAP service: what is sent when, and what the answer means (RFC 3507, section 4.5 to 4.9). No I/O.

    PREVIEW ─▶ ASKED ─▶ SENDING ─▶ SENT       with a preview: the service asks for the rest with 100 Continue
               └▶ SENT                        the file is no longer than the preview (ieof)
    SENDING ─▶ SENT                           without a preview

    204                                       clean
    200, the same start line and body         clean
    200, anything else; 403                   changed: a page of the service's own, or another content
    a field that names a threat               infected, changed or unscannable, whatever the status
    anything else                             unavailable

A body that comes back is compared by its SHA-256: a service may keep all of a file before it sends it back, so that
the content cannot be kept for the comparison.
"""

import enum
import hashlib
from typing import Final

from aiorelay.checks.icap.answers import AnswerParser, End, Event, Head, MalformedAnswer, Section
from aiorelay.checks.icap.requests import FileRequest
from aiorelay.checks.icap.threats import find_threat
from aiorelay.checks.verdicts import Verdict

__all__ = ["REPLAY", "State", "Transaction"]

REPLAY: Final = 128 * 1024
"""What is kept of a request to send it once more, in bytes. It holds the longest preview and its heads."""

_LAST_CHUNK: Final = b"0\r\n\r\n"
_END_OF_FILE: Final = b"0; ieof\r\n\r\n"
_LONGEST_QUOTE: Final = 80

_PAGE: Final = "the ICAP service would replace the file by a page of its own"
_CHANGED: Final = "the ICAP service would change the file"


class State(enum.Enum):
    """How much of the request has been sent."""

    PREVIEW = enum.auto()
    ASKED = enum.auto()
    SENDING = enum.auto()
    SENT = enum.auto()


class Transaction:
    """The request for one file, and its answer.

    ``preview`` is its length in bytes, None for none. With ``allow_204``, the service may answer 204 to a whole file.
    ``send``, ``end`` and ``resume`` return the bytes to write. ``verdict`` is None until there is one, which is final.
    """

    def __init__(self, request: FileRequest, *, preview: int | None, allow_204: bool) -> None:
        self.verdict: Verdict | None = None
        self.istag: str | None = None
        self._request = request
        self._preview = preview
        self._allow_204 = allow_204
        self._state = State.SENDING if preview is None else State.PREVIEW
        self._unsent = b"" if preview is not None else request.head(preview=None, allow_204=allow_204)
        self._withheld = bytearray()
        self._continued = False
        self._replay: bytearray | None = bytearray()
        self._parser = AnswerParser()
        self._head: Head | None = None
        self._answered = False
        self._sent_length = self._received_length = 0
        self._sent_digest, self._received_digest = hashlib.sha256(), hashlib.sha256()

    @property
    def waits(self) -> bool:
        """Whether the next step is the service's: it has the preview, or the whole file."""
        return self.verdict is None and self._state in (State.ASKED, State.SENT)

    @property
    def reusable(self) -> bool:
        """Whether the connection can carry another request: both messages have ended, and it is kept open."""
        ended = self._state in (State.ASKED, State.SENT) and self._answered
        return ended and self._head is not None and self._head.keeps_connection and not self._parser.surplus

    def send(self, block: bytes) -> bytes:
        """Return what to write for the next block of the file. Not called while ``waits``."""
        self._count(block)
        if self._state is State.SENDING:
            return self._written(_chunk(block))
        self._withheld += block
        # Only a byte more shows that the file is longer than its preview.
        if self._preview is None or len(self._withheld) <= self._preview:
            return b""
        previewed = bytes(self._withheld[: self._preview])
        del self._withheld[: self._preview]
        self._state = State.ASKED
        return self._written(self._preview_head() + _chunk(previewed) + _LAST_CHUNK)

    def resume(self) -> bytes:
        """Return the rest of the block of which a part was the preview, once the service has asked for it."""
        if self._state is not State.SENDING:
            return b""
        rest, self._withheld = bytes(self._withheld), bytearray()
        return self._written(_chunk(rest))

    def end(self) -> bytes:
        """Return what to write at the end of the file. Not called while ``waits``."""
        previewing = self._state is State.PREVIEW
        self._state = State.SENT
        if not previewing:
            return self._written(_LAST_CHUNK)
        self._unsent = b""
        return self._written(self._preview_head() + _chunk(bytes(self._withheld)) + _END_OF_FILE)

    def replay(self) -> bytes | None:
        """Return all that was sent, to send it on a new connection; None if it was too much or is being answered."""
        return None if self._replay is None else bytes(self._replay)

    def receive(self, data: bytes) -> None:
        """Take bytes of the answer."""
        self._replay = None
        try:
            for event in self._parser.receive(data):
                self._handle(event)
                if self.verdict is not None:
                    return
            if self._answered:
                self._conclude()
        except MalformedAnswer as malformed:
            self.fail(f"the answer of the ICAP service is invalid: {malformed}")

    def fail(self, reason: str) -> None:
        """Give up: there is no valid answer. A verdict that has been given stays."""
        self._decide(Verdict("unavailable", reason))

    def _preview_head(self) -> bytes:
        return self._request.head(preview=self._preview, allow_204=self._allow_204)

    def _written(self, data: bytes) -> bytes:
        data, self._unsent = self._unsent + data, b""
        if self._replay is not None and len(self._replay) + len(data) <= REPLAY:
            self._replay += data
        else:
            self._replay = None
        return data

    def _count(self, block: bytes) -> None:
        self._sent_length += len(block)
        self._sent_digest.update(block)

    def _decide(self, verdict: Verdict) -> None:
        if self.verdict is None:
            self.verdict = verdict

    def _handle(self, event: Event) -> None:
        match event:
            case Head():
                self._handle_head(event)
            case Section():
                self._compare_start(event)
            case bytes():
                self._received_length += len(event)
                self._received_digest.update(event)
                if self._received_length > self._sent_length:
                    self._decide(Verdict("changed", _CHANGED))
            case End():
                self._answered = True

    def _handle_head(self, head: Head) -> None:
        if self._state is State.PREVIEW or (self._state is State.SENDING and self._unsent):
            raise MalformedAnswer("it answered before the request")
        if head.status == 100:
            if self._state is not State.ASKED:
                raise MalformedAnswer("it sent 100 Continue, although there was no preview to go on from")
            self._state, self._continued = State.SENDING, True
            return
        self._head = head
        self.istag = head.fields.get("istag")
        if threat := find_threat(head.fields):
            self._decide(threat)
        elif head.status in (200, 201):
            self._handle_content(head)
        elif head.status == 204:
            self._handle_unmodified(head)
        elif head.status == 403:
            self._decide(Verdict("changed", "the ICAP service forbids it"))
        else:
            self.fail(f"the ICAP service answered {head.status} {head.reason[:_LONGEST_QUOTE]}".rstrip())

    def _handle_content(self, head: Head) -> None:
        """Judge an answer with content by its head (RFC 3507, section 4.8.2 and 4.9.2)."""
        names = {name for name, _ in head.sections} - {"null-body"}
        own = {"req-hdr", "req-body"} if self._request.method == "REQMOD" else {"res-hdr", "res-body"}
        if names and names <= {"res-hdr", "res-body"} - own:
            self._decide(Verdict("changed", _PAGE))
        elif not head.sections or not names <= own:
            raise MalformedAnswer("it answered 200 without the message that it was sent")
        elif self._state is State.ASKED:
            self._decide(Verdict("changed", _CHANGED))  # and has not seen all of it

    def _handle_unmodified(self, head: Head) -> None:
        """Judge 204: permitted after a preview, and after a whole file if the request allowed it (section 4.6)."""
        if head.body is not None:
            raise MalformedAnswer("it answered 204 with a body")
        in_preview = self._preview is not None and not self._continued
        if not in_preview and not self._allow_204:
            raise MalformedAnswer("it answered 204, which the request did not allow")
        # After 100 Continue the answer is to this request. Without one it may be left from the request before.
        if self._state is State.SENDING and not self._continued:
            raise MalformedAnswer("it answered 204 before the end of the file")

    def _compare_start(self, section: Section) -> None:
        """Compare the start line of an encapsulated head with the one that was sent, its HTTP version aside."""
        if not section.content.endswith(b"\r\n\r\n"):
            raise MalformedAnswer("it sent Encapsulated with wrong offsets")
        words = section.content.partition(b"\r\n")[0].decode("latin-1").split(" ")
        if section.name == "req-hdr":
            if words[:2] != [self._request.http_method, self._request.url]:
                self._decide(Verdict("changed", _PAGE))
        elif words[1:2] != ["200"]:
            self._decide(Verdict("changed", _PAGE))

    def _conclude(self) -> None:
        """Give the verdict of an answer that has ended and named no threat."""
        if self._parser.surplus:
            raise MalformedAnswer("it answered more than once")
        if self._head is not None and self._head.status == 204:
            self._decide(Verdict("clean"))
            return
        # An answer that ends before the file cannot be the file.
        same = self._state is State.SENT and self._received_digest.digest() == self._sent_digest.digest()
        self._decide(Verdict("clean") if same else Verdict("changed", _CHANGED))


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""
