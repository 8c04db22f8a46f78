"""Measures the relay against nginx and others, side by side, in interleaved rounds.

Works: relay (one large file: straight to rest2, through the relay, through nginx to the same rest2, through a pair of
Flask apps), parallel (eight at once), small (1 and 64 KiB), crowd (among connections that are only held), sources (from
a URL and from a path), shapes (data made to be slow), sizes (cost and memory by size), start, checks. Without any: all.

Figures are medians. CPU seconds are those of every serving process of the chain, not of the clients; memory is the
peak of what is in front. Ratios between cases of one run hold better than the figures themselves. Tables and a plot go
to bench-results.
"""

import argparse
import os
import platform
import signal
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

from bench_case import BenchError, Work, foreign_cpu
from bench_report import plot, report
from bench_stage import Stage
from bench_works import WORKS

_RESULTS = Path(__file__).resolve().parent.parent / "bench-results"
_IDLE = 0.5  # the load average of a machine that has nothing else to do
_FOREIGN = 0.25  # CPU seconds a second that others may use while we measure


def main() -> None:
    """Measure, print the tables, and keep them with the plot."""
    options = _options()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Terminated."))
    disturbed = _load()
    works, failures = [], []
    with TemporaryDirectory(prefix="aiorelay-bench-", dir=options.dir) as directory:
        for name in options.works or WORKS:
            try:
                works.append(_measure(name, Path(directory), options, disturbed))
            except BenchError as error:
                failures.append(f"{name}: {error}")
                print(failures[-1], file=sys.stderr)
    head = f"Medians of {options.rounds} rounds on {os.cpu_count()} cores, Python {platform.python_version()}."
    text = report(works, [head, "", *(f"- Disturbed: {reason}" for reason in disturbed)])
    print(text)
    _RESULTS.mkdir(exist_ok=True)
    kept = _RESULTS / time.strftime("%Y%m%d-%H%M%S")
    kept.with_suffix(".md").write_text(text)
    plot(works, kept.with_suffix(".png"))
    print(f"Kept as {kept}.md and .png", file=sys.stderr)
    sys.exit("\n".join(failures) or None)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("works", nargs="*", metavar="WORK", help=", ".join(WORKS))
    parser.add_argument("--quick", action="store_true", help="a minute's look: small files, few rounds")
    parser.add_argument("--size", type=int, metavar="MIB", help="size of the large file (1024); others follow it")
    parser.add_argument("--rounds", type=int, help="rounds (5)")
    parser.add_argument("--dir", type=Path, help="where the files go (the system's temporary directory)")
    options = parser.parse_args()
    if unknown := set(options.works) - set(WORKS):
        parser.error(f"no such work: {', '.join(sorted(unknown))}")
    options.size = options.size or (64 if options.quick else 1024)
    options.rounds = options.rounds or (3 if options.quick else 5)
    return options


def _load() -> list[str]:
    load = os.getloadavg()[0]
    if load <= _IDLE:
        return []
    reason = f"the load average was {load:.1f} before the start."
    print(f"Warning: {reason}", file=sys.stderr)
    return [reason]


def _measure(name: str, directory: Path, options: argparse.Namespace, disturbed: list[str]) -> Work:
    with TemporaryDirectory(dir=directory) as own, ExitStack() as stack:
        stage = Stage(Path(own), directory / "state", options.size, 2 if options.quick else 5, stack)
        work = WORKS[name](stage)
        os.sync()  # the samples are not to be written while we measure
        foreign = [_round(name, work) for _ in range(work.rounds or options.rounds)]
    if max(foreign) > _FOREIGN:
        rounds = f"{sum(share > _FOREIGN for share in foreign)} of {len(foreign)} rounds"
        disturbed.append(f"other programs used up to {max(foreign):.1f} cores during {name}, in {rounds}.")
        print(f"Warning: {disturbed[-1]}", file=sys.stderr)
    return work


def _round(name: str, work: Work) -> float:
    """Measure each case once; give the cores that other programs used meanwhile."""
    before, started = foreign_cpu(), time.perf_counter()
    for case in work.cases:
        if not case.absent:
            case.measure()
    print(f"{name}: {_glance(work)}", file=sys.stderr)
    return (foreign_cpu() - before) / (time.perf_counter() - started)


def _glance(work: Work) -> str:
    last = (f"{case.name} {case.figures[work.figure][-1]:.4g}" for case in work.cases if case.figures)
    return f"{', '.join(last)} {work.figure}"


if __name__ == "__main__":
    main()
