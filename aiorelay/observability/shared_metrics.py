"""The metrics of several processes: each keeps its values in files, and each can show the sum.

Counters and histograms live on if a process ends, because its successor has its number and continues its files. Gauges
of a process end with it.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead
from prometheus_client.platform_collector import PlatformCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

__all__ = ["forget_gauges", "share_metrics", "shared_registry"]


def share_metrics(directory: Path, process: int) -> None:
    """Keep the values of all metrics that this process makes from now on in ``directory``.

    ``process`` is its number, which no other living process has.
    """
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(directory)
    values.ValueClass = values.MultiProcessValue(lambda: process)  # type: ignore[no-untyped-call]


def forget_gauges(directory: Path, process: int) -> None:
    """Remove the gauges of a process that has ended."""
    mark_process_dead(process, str(directory))  # type: ignore[no-untyped-call]


def shared_registry(directory: Path, pids: Callable[[], Mapping[int, int]]) -> CollectorRegistry:
    """Return a registry of the metrics of all processes. ``pids`` returns the process ids by the processes' numbers."""
    registry = CollectorRegistry()
    MultiProcessCollector(registry, str(directory))  # type: ignore[no-untyped-call]
    PlatformCollector(registry=registry)
    registry.register(_Processes(pids))
    return registry


class _Processes(Collector):
    """The ``process_…`` metrics of each process, told apart by the label ``process``."""

    def __init__(self, pids: Callable[[], Mapping[int, int]]) -> None:
        self._pids = pids

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for process, pid in self._pids().items():
            for family in ProcessCollector(pid=partial(int, pid), registry=None).collect():
                known = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
                for sample in family.samples:
                    known.add_sample(sample.name, {**sample.labels, "process": str(process)}, sample.value)
        yield from families.values()
