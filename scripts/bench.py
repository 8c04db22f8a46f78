"""Benchmark the relay against nginx and others, in interleaved rounds.

Works: relay (one large file: directly to rest2, through the relay, through nginx to the same rest2, through a pair of
Flask apps), resumable (one large file with and without resumption), parallel (eight simultaneous uploads), small (1 and
64 KiB), crowd (with many idle connections), sources (from a URL and from a path), shapes (data that are slow to parse),
sizes (cost and memory by size), behind (a proxy on the same machine), start, checks. The default is all of them.

Figures are medians. CPU seconds include every server process of the chain, but not the clients. Memory is the peak of
the front server. Ratios between cases of one run are more reliable than the figures. Tables and a plot are written to
bench-results.
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
_IDLE = 0.5  # the highest load average of an idle machine
_FOREIGN = 0.25  # the most CPU seconds per second that other programs may use during a measurement


def main() -> None:
    """Measure, print the tables, and save them with the plot."""
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
    print(f"Saved {kept}.md and {kept}.png.", file=sys.stderr)
    sys.exit("\n".join(failures) or None)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("works", nargs="*", metavar="WORK", help=", ".join(WORKS))
    parser.add_argument("--quick", action="store_true", help="small files and few rounds, for about a minute")
    parser.add_argument(
        "--size", type=int, metavar="MIB", help="size of the large file, from which others are derived (default: 1024)"
    )
    parser.add_argument("--rounds", type=int, help="number of rounds (default: 5)")
    parser.add_argument("--dir", type=Path, help="directory for the files (default: the system's temporary directory)")
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
        os.sync()  # flush the samples now, not during the measurement
        foreign = [_round(name, work) for _ in range(work.rounds or options.rounds)]
    if max(foreign) > _FOREIGN:
        rounds = f"{sum(share > _FOREIGN for share in foreign)} of {len(foreign)} rounds"
        disturbed.append(f"other programs used up to {max(foreign):.1f} cores during {name}, in {rounds}.")
        print(f"Warning: {disturbed[-1]}", file=sys.stderr)
    return work


def _round(name: str, work: Work) -> float:
    """Measure each case once. Return how many cores other programs used meanwhile."""
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
