"""The uploads under way of all processes together.

owners    one byte for each slot: the number of the process that holds it plus one, or 0
digests   for each slot, a digest of the principal

If a process is killed, the supervisor frees its slots.
"""

import hashlib
import mmap
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from aiorelay.rest1.upload_slots import UploadSlots, busy, too_many_of_one
from aiorelay.server.processes.shared_memory import SharedMemory

__all__ = ["SharedSlots"]

_DIGEST: Final = 16


class SharedSlots:
    """``most`` slots, of which one principal may hold ``most_of_one``. None means no such limit."""

    def __init__(self, most: int, most_of_one: int | None = None) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._shared = SharedMemory(most * (1 + _DIGEST))
        self._key = secrets.token_bytes()

    def of(self, process: int) -> UploadSlots:
        """Return the slots as the process with this number (0 to 254) uses them."""
        return _SlotsOfProcess(self, process + 1)

    def free(self, process: int) -> None:
        """Free the slots of a process that has ended."""
        owner = bytes([process + 1])
        with self._shared.locked() as memory:
            slot = memory.find(owner, 0, self._most)
            while slot >= 0:
                self.give_back(slot)
                slot = memory.find(owner, slot, self._most)

    def take(self, owner: int, principal: str) -> int:
        """Take a slot, and return its number. Raises ``Busy`` and ``RateLimited``."""
        digest = self._digest(principal)
        with self._shared.locked() as memory:
            slot = memory.find(b"\0", 0, self._most)
            if slot < 0:
                raise busy()
            if self._most_of_one is not None and self._held(memory, digest) >= self._most_of_one:
                raise too_many_of_one(self._most_of_one)
            memory[slot] = owner
            place = self._place(slot)
            memory[place : place + _DIGEST] = digest
        return slot

    def give_back(self, slot: int) -> None:
        """Free one slot. This needs no lock, because only its owner does it."""
        place = self._place(slot)
        self._shared.memory[place : place + _DIGEST] = bytes(_DIGEST)
        self._shared.memory[slot] = 0

    def _held(self, memory: mmap.mmap, digest: bytes) -> int:
        used = len(memory[: self._most].rstrip(b"\0"))
        return memory[self._most : self._place(used)].count(digest)

    def _place(self, slot: int) -> int:
        return self._most + slot * _DIGEST

    def _digest(self, principal: str) -> bytes:
        text = principal.encode("utf-8", "surrogatepass")
        return hashlib.blake2b(text, digest_size=_DIGEST, key=self._key).digest()


class _SlotsOfProcess:
    def __init__(self, slots: SharedSlots, owner: int) -> None:
        self._slots = slots
        self._owner = owner

    @contextmanager
    def hold(self, principal: str) -> Iterator[None]:
        slot = self._slots.take(self._owner, principal)
        try:
            yield
        finally:
            self._slots.give_back(slot)
