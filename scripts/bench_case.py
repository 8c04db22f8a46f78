"""The parts of a benchmark: works, their cases, the measured figures and the goals."""

import math
import os
import shutil
import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["CPU", "MIB", "RATE", "RSS", "BenchError", "Case", "Goal", "Load", "Work", "foreign_cpu", "middle"]

MIB = 2**20

RATE = "MB/s"
CPU = "CPU s/GiB"
RSS = "peak RSS MiB"

_GONE = (FileNotFoundError, ProcessLookupError)  # the process has ended meanwhile
_TICKS = os.sysconf("SC_CLK_TCK")


Load = Callable[[str], Mapping[str, float] | None]
"""Run the clients once against the server at a URL. It may return additional figures."""


class BenchError(Exception):
    """A work cannot be measured. The other works continue."""


@dataclass(frozen=True)
class Goal:
    """A limit for the median of the ``values`` of the rounds, which are derived from a ``figure``.

    ``says`` is the unit of the values, or what they are ratios to.
    """

    figure: str
    values: Callable[[], list[float]]
    limit: float
    says: str
    at_most: bool = False

    @property
    def reached(self) -> bool:
        """Whether the limit is met. A figure that was not measured does not meet it."""
        median = middle(self.values())
        return median <= self.limit if self.at_most else median >= self.limit


def middle(values: list[float]) -> float:
    """Return the median, NaN if there are no values."""
    return statistics.median(values) if values else math.nan


@dataclass
class Case:
    """One way to do a work.

    ``load`` does it once at ``url``. ``serving`` are the processes whose CPU seconds are counted, ``front`` those whose
    peak memory is, both including children. ``mib`` is the size that ``store`` must have afterwards, 0 if unknown.
    ``absent`` is the reason if nothing is measured.
    """

    name: str
    load: Load
    url: str = ""
    serving: tuple[int, ...] = ()
    front: tuple[int, ...] = ()
    mib: float = 0
    store: Path | None = None
    absent: str = ""
    goals: list[Goal] = field(default_factory=list, init=False)
    figures: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list), init=False)

    def __getitem__(self, figure: str) -> float:
        """The median of a figure, NaN if it was not measured."""
        return middle(self.figures[figure]) if figure in self.figures else math.nan

    def ratios(self, figure: str, other: "Case") -> list[float]:
        """Return the ratio of a figure to that of another case in each round."""
        pairs = zip(self.figures.get(figure, ()), other.figures.get(figure, ()), strict=False)
        return [ours / theirs for ours, theirs in pairs]

    def forget_last(self) -> None:
        """Forget the figures of the last round."""
        for values in self.figures.values():
            values.pop()

    def hold(self, figure: str, at_most: float, unit: str) -> None:
        """Set an upper limit for a figure."""
        self.goals.append(Goal(figure, lambda: self.figures.get(figure, []), at_most, unit, at_most=True))

    def compare(self, figure: str, limit: float, other: "Case", *, at_most: bool = False) -> None:
        """Set a limit for the ratio of a figure to that of another case."""
        says = f"x that of {other.name}"
        self.goals.append(Goal(figure, lambda: self.ratios(figure, other), limit, says, at_most))

    def measure(self) -> None:
        """Do the work once and record the figures."""
        for process in _trees(self.front):
            Path(f"/proc/{process}/clear_refs").write_text("5")  # reset the peak memory
        before, started = _cpu(self.serving), time.perf_counter()
        own = self.load(self.url) or {}
        elapsed, cpu = time.perf_counter() - started, _cpu(self.serving) - before
        for name, value in own.items():
            self.figures[name].append(value)
        if self.mib:
            self.figures[RATE].append(self.mib * MIB / 1e6 / elapsed)
            self.figures[CPU].append(cpu * 1024 / self.mib)
        elif "requests" in own:
            self.figures["CPU ms/request"].append(cpu * 1000 / own["requests"])
        if self.front:
            self.figures[RSS].append(sum(map(_peak, _trees(self.front))))
        self._empty_store()

    def _empty_store(self) -> None:
        if self.store is None:
            return
        if self.mib:
            kept = sum(path.stat().st_size for path in self.store.rglob("*") if path.is_file())
            if kept != self.mib * MIB:
                raise BenchError(f"{self.name}: {self.mib * MIB:.0f} bytes expected in the store, found {kept}.")
        for entry in self.store.iterdir():
            if entry.is_dir():
                shutil.rmtree(entry, ignore_errors=True)  # the server may remove it too: wrk aborts uploads
            else:
                entry.unlink(missing_ok=True)


@dataclass
class Work:
    """Cases that are measured in turn, for ``rounds`` or the number of rounds that the user chose.

    ``figure`` is compared with that of the case ``against``.
    """

    title: str
    figure: str
    cases: list[Case]
    against: Case | None = None
    rounds: int | None = None

    @property
    def measured(self) -> list[Case]:
        """The cases that can be measured here."""
        return [case for case in self.cases if not case.absent]

    def forget_last(self) -> None:
        """Forget the figures of the last round."""
        for case in self.measured:
            case.forget_last()


def _trees(roots: tuple[int, ...]) -> Iterator[int]:
    """Yield processes and all their descendants."""
    for root in roots:
        yield root
        for children in Path(f"/proc/{root}/task").glob("*/children"):
            with suppress(*_GONE):
                yield from _trees(tuple(map(int, children.read_text().split())))


def _cpu(roots: tuple[int, ...]) -> float:
    """Return the user and system CPU seconds of processes and their children, including ended ones."""
    total = 0
    for process in _trees(roots):
        with suppress(*_GONE):
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
            total += sum(map(int, fields[11:15]))
    return total / _TICKS


def foreign_cpu() -> float:
    """Return the CPU seconds of all programs except this benchmark and the kernel."""
    fields = Path("/proc/stat").read_text().split(maxsplit=9)
    user, nice, system, steal = (int(fields[at]) for at in (1, 2, 3, 8))
    ours: tuple[int, ...] = (os.getpid(),)
    if Path("/proc/2/comm").read_text() == "kthreadd\n":
        ours += (2,)
    return (user + nice + system + steal) / _TICKS - _cpu(ours)


def _peak(process: int) -> float:
    """Return the peak resident size of a process in MiB."""
    line = next(line for line in Path(f"/proc/{process}/status").read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
