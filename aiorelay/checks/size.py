"""``max-size``: refuse a file over the limit, by its declared length if it has one and by counting its bytes."""

from aiorelay.checks.pipeline import Check, CheckFactory
from aiorelay.errors import TooLarge
from aiorelay.multipart.form import Part

__all__ = ["format_size", "max_size"]

_UNITS = tuple(
    (base**power, prefix + ("iB" if base == 1024 else "B"))
    for power, prefix in ((4, "T"), (3, "G"), (2, "M"), (1, "K"))
    for base in (1024, 1000)
)


def format_size(size: int) -> str:
    """Format ``size`` in the largest unit that divides it exactly: ``1 MiB``, ``1500 bytes``."""
    for unit, name in _UNITS:
        if size and size % unit == 0:
            return f"{size // unit} {name}"
    return "1 byte" if size == 1 else f"{size} bytes"


def max_size(limit: int) -> CheckFactory:
    """Refuse a file of more than ``limit`` bytes with ``TooLarge``. No byte beyond the limit is passed on."""
    problem = f"A file may have at most {format_size(limit)} (max-size)."

    def make(part: Part) -> Check | None:
        if not part.is_file:
            return None
        if part.size is not None and part.size > limit:
            raise TooLarge(problem)
        return _Counter(limit, problem)

    return make


class _Counter:
    def __init__(self, limit: int, problem: str) -> None:
        self._left = limit
        self._problem = problem

    async def feed(self, chunk: bytes) -> None:
        self._left -= len(chunk)
        if self._left < 0:
            raise TooLarge(self._problem)

    async def finish(self) -> None:
        """Do nothing: ``feed`` has checked every byte."""

    async def close(self) -> None:
        """Do nothing: there are no resources to release."""
