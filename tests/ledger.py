"""The criterion of the fault tests: answered uploads are stored once and whole, others not at all, nothing stays open.

Ledger            compares the answers that clients got with the stored files
faults_checked    a context for faults, in which another client uploads; checks the criterion at its end
"""

import asyncio
import contextlib
import hashlib
import re
from collections import Counter
from collections.abc import AsyncGenerator, Collection
from pathlib import Path

from peers import PATIENCE, Message, ask, form, part, request
from processes import Process

RECOVERY = 5.0
"""Seconds after which descriptors and temporary files are back where they were before a fault."""

Description = tuple[int, str]


def described(content: bytes) -> Description:
    return len(content), hashlib.sha256(content).hexdigest()


def upload_of(content: bytes) -> bytes:
    """Return the request that uploads a file."""
    return request("/upload1", form(part("somefile", content, "a.bin")))


class Ledger:
    """The answers that clients got, compared with the files in ``store``."""

    def __init__(self, store: Path) -> None:
        self._store = store
        self._stored: dict[Path, Description] = {}
        self._maybe_stored: list[Description] = []

    def __len__(self) -> int:
        """The number of successful uploads."""
        return len(self._stored)

    def record(self, answer: Message, content: bytes) -> Message:
        """Record the answer to an upload of ``content``, and return it.

        An answer that was cut off counts as lost. So does a 502 or 504 of the relay, because the upstream's was lost.
        """
        if not answer.whole or answer.status in {502, 504}:
            self.record_lost_answer(content)
        elif answer.status < 300:
            (file,) = answer.json()["files"]
            path, description = Path(file["path"]), (file["size"], file["sha256"])
            assert description == described(content)
            assert path not in self._stored
            self._stored[path] = description
        return answer

    def record_lost_answer(self, content: bytes) -> None:
        """Record that ``content`` was sent completely, and its answer was lost."""
        self._maybe_stored.append(described(content))

    @property
    def incoming(self) -> list[Path]:
        """Return the entries of the store that are not complete."""
        return list(self._store.glob(".incoming-*"))

    def check(self) -> None:
        """Assert that each answered upload is stored once and whole, and no other unless its answer was lost."""
        kept = {path: described(path.read_bytes()) for path in self._store.glob("[!.]*/*")}
        assert {path: kept.pop(path, None) for path in self._stored} == self._stored
        assert not Counter(kept.values()) - Counter(self._maybe_stored)


@contextlib.asynccontextmanager
async def faults_checked(
    relay: Process, *processes: Process, store: Path, state: Path, others: Collection[int] | None = (200,)
) -> AsyncGenerator[Ledger, None]:
    """Check the criterion for a relay, and for other processes of its chain, after the faults in this context.

    Meanwhile another client uploads small files one after the other. Its answers have statuses of ``others``, and the
    last one is a success; None for no such client. Afterwards no process has connections or files open, no file is
    incomplete, and all processes stop on request without waiting.
    """
    ledger = Ledger(store)
    chain = (relay, *processes)
    before = [kinds(process) for process in chain]
    enough = asyncio.Event()
    other = asyncio.create_task(_upload_on(relay, ledger, others or (), enough))
    try:
        yield ledger
        if others is not None:
            async with asyncio.timeout(PATIENCE):
                answered = len(ledger)
                while len(ledger) == answered and not other.done():  # noqa: ASYNC110 - the process may also end
                    await asyncio.sleep(0.01)
        enough.set()
        await other
    finally:
        other.cancel()
        await asyncio.wait([other])

    def recovered() -> bool:
        spooled = list((state / "spool").glob("*"))
        still_open = [now - then for now, then in zip(map(kinds, chain), before, strict=True)]
        return not (any(still_open) or spooled or ledger.incoming)

    try:
        async with asyncio.timeout(RECOVERY):
            while not recovered():  # noqa: ASYNC110 - there is no event for descriptors in /proc
                await asyncio.sleep(0.05)
    except TimeoutError:
        raise AssertionError([kinds(process) for process in chain], before, ledger.incoming) from None
    ledger.check()
    for process in chain:
        assert await process.stop() == 0


def kinds(process: Process) -> Counter[str]:
    """Return the number of descriptors of a process by kind."""
    return Counter(re.sub(r"\[\d+\]", "", name) for name in process.open_files)


async def _upload_on(relay: Process, ledger: Ledger, statuses: Collection[int], enough: asyncio.Event) -> None:
    number = 0
    while statuses and not enough.is_set():
        number += 1
        content = b"%d" % number * 1000
        answer = ledger.record(await ask(relay.rest1, relay.tls, upload_of(content)), content)
        assert answer.status in statuses, answer.body
