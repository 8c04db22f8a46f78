"""What is written down of a job, so that other relays and later processes know it.

There are two makers of ``JobRecords``: ``file_records`` for the processes of one machine, ``redis_records`` for the
relays of several.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final, Protocol

from aiorelay.errors import TooManyJobs

__all__ = ["ID", "LAST_VERSION", "JobRecords", "Record", "lost", "too_many_jobs"]

LAST_VERSION: Final = 2**53 - 1
"""The version of a lost job: its real number of changes is unknown. It is greater, and exact as a JSON number."""

ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""The ids of jobs."""

_RETRY_AFTER: Final = "5"


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What is written down of a job.

    ``document`` holds the members that clients see. ``version`` counts the changes. ``ended`` is the time of the end in
    seconds since the epoch, or None. ``process`` is the token of the process that runs or ran the job, in files.
    """

    id: str
    owner: str | None
    version: int
    ended: float | None
    document: dict[str, Any]
    process: str = ""

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> "Record":
        """Return the record that ``to_json`` of this or another version made.

        Raises ``ValueError`` or ``TypeError`` if it is none.
        """
        members = json.loads(text)
        known = {field.name for field in fields(cls)}
        return cls(**{name: value for name, value in members.items() if name in known})


class JobRecords(Protocol):
    """The records of at most so many jobs, each kept for some time after the job's end.

    Methods raise ``StateUnavailable`` if the records cannot be reached, unless they say otherwise. They may be
    cancelled at any time.
    """

    @property
    def interval(self) -> float:
        """How often ``renew`` is called, in seconds."""

    async def open(self) -> None:
        """Take over what processes have left behind that ended. Raises ``StartupError``."""

    async def close(self) -> None: ...

    async def start(self, record: Record) -> None:
        """Write down a job that begins, in the place of the job that ended first if there are as many as may be.

        Raises ``TooManyJobs`` if all of them are running, ``StorageFull`` and ``Internal``.
        """

    async def end(self, record: Record) -> None:
        """Write down how a job of this process ended. Raises nothing: it is logged, and ``find`` returns it anyway."""

    async def renew(self, running: Sequence[Record]) -> set[str]:
        """Say that this process still runs these jobs; return the ids of those that are to be cancelled.

        Raises nothing: it is called again soon.
        """

    async def find(self, identity: str) -> Record | None:
        """Return the record of a job, or None if there is none. ``identity`` may be any text.

        The job is ``lost`` if its process has ended without a word.
        """

    async def news(self, identity: str, version: int) -> Record | None:
        """Wait until the record of a job is newer than ``version``, and return it, or None once there is none.

        Waits while the records cannot be reached.
        """

    async def request_cancellation(self, identity: str) -> None:
        """Ask the process that runs a job to cancel it. Raises ``StorageFull`` and ``Internal``."""


def lost(record: Record) -> Record:
    """Return the record of a job whose process has ended without a word."""
    return replace(record, version=LAST_VERSION, document={**record.document, "state": "lost"})


def too_many_jobs() -> TooManyJobs:
    """Return the problem of a job for which there is no room."""
    return TooManyJobs("Too many jobs are running. Try again soon.", headers={"Retry-After": _RETRY_AFTER})
