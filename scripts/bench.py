"""Benchmark the relay against nginx and others, in interleaved rounds.

Works: relay (one large file: directly to rest2, through the relay, through nginx to the same rest2, through a pair of
Flask apps), resumable (one large file with and without resumption), parallel (eight simultaneous uploads), small (1 and
64 KiB), crowd (with many idle connections), sources (from a URL and from a path), shapes (data that are slow to parse),
sizes (cost and memory by size), behind (a proxy on the same machine), pythons and pythons-small (several versions of
Python, see --python), start, checks. The default is all of them.

Figures are medians. CPU seconds include every server process of the chain, but not the clients. Memory is the peak of
the front server. Ratios are medians over the rounds, with the lowest and the highest; they are more reliable than the
figures. A round that other programs disturbed is repeated. Tables and a plot are written to bench-results.
"""

import argparse
import os
import platform
import signal
import subprocess
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
_INSTRUCTIONS = ("aes", "vaes", "sha_ni", "avx2", "avx512f", "sha2")
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
    head = f"Medians of {options.rounds} rounds on {time.strftime('%Y-%m-%d')}, Python {platform.python_version()}."
    text = report(works, [head, _machine(), "", *(f"- Disturbed: {reason}" for reason in disturbed)])
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
    parser.add_argument(
        "--python", action="append", default=[], metavar="PYTHON", help="another interpreter to compare; repeatable"
    )
    options = parser.parse_args()
    if unknown := set(options.works) - set(WORKS):
        parser.error(f"no such work: {', '.join(sorted(unknown))}")
    options.size = options.size or (64 if options.quick else 1024)
    options.rounds = options.rounds or (3 if options.quick else 5)
    options.pythons = {f"Python {platform.python_version()}": sys.executable}
    for each in options.python:
        python = _installed(each)
        options.pythons[subprocess.check_output([python, "-V"], text=True).strip()] = python
    return options


def _installed(interpreter: str) -> str:
    """Make the environment of an interpreter. Return the interpreter of the environment."""
    command = 'source "$1"; environment core; printf "%s" "$venv/bin/python"'
    environment = Path(__file__).with_name("environment")
    return subprocess.check_output(
        ["bash", "-euc", command, "bash", str(environment)], env=os.environ | {"PYTHON": interpreter}, text=True
    )


def _load() -> list[str]:
    load = os.getloadavg()[0]
    if load <= _IDLE:
        return []
    reason = f"the load average was {load:.1f} before the start."
    print(f"Warning: {reason}", file=sys.stderr)
    return [reason]


def _machine() -> str:
    """Describe the processor by its name, cores and the instructions that speed up TLS and digests."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    about = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    has = about.get("flags", about.get("Features", "")).split()
    told = ", ".join(name for name in _INSTRUCTIONS if name in has) or "none of them"
    name = about.get("model name", platform.machine())
    return f"Processor: {name}, {os.cpu_count()} cores. Instructions ({', '.join(_INSTRUCTIONS)}): {told}."


def _measure(name: str, directory: Path, options: argparse.Namespace, disturbed: list[str]) -> Work:
    with TemporaryDirectory(dir=directory) as own, ExitStack() as stack:
        stage = Stage(Path(own), directory / "state", options.size, 2 if options.quick else 5, stack, options.pythons)
        work = WORKS[name](stage)
        os.sync()  # flush the samples now, not during the measurement
        rounds = work.rounds or options.rounds
        repeats = rounds
        while rounds:
            foreign = _round(name, work)
            if foreign > _FOREIGN:
                disturbed.append(f"other programs used {foreign:.1f} cores in a round of {name}")
                disturbed[-1] += ", which was repeated." if repeats else ", which counts."
                print(f"Warning: {disturbed[-1]}", file=sys.stderr)
                if repeats:
                    repeats -= 1
                    work.forget_last()
                    continue
            rounds -= 1
    return work


def _round(name: str, work: Work) -> float:
    """Measure each case once. Return how many cores other programs used meanwhile."""
    before, started = foreign_cpu(), time.perf_counter()
    for case in work.measured:
        case.measure()
    print(f"{name}: {_glance(work)}", file=sys.stderr)
    return (foreign_cpu() - before) / (time.perf_counter() - started)


def _glance(work: Work) -> str:
    last = (f"{case.name} {case.figures[work.figure][-1]:.4g}" for case in work.cases if case.figures)
    return f"{', '.join(last)} {work.figure}"


if __name__ == "__main__":
    main()
