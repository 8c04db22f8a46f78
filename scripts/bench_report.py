"""The tables of the benchmark in Markdown, and its plot."""

import math
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from bench_case import Case, Goal, Work, middle

__all__ = ["plot", "report"]


def report(works: list[Work], remarks: list[str]) -> str:
    """Return a table of all goals, then a table of the figures of each work."""
    lines = [*remarks, "", "| work | figure | median | goal | reached |", "|---|---|---|---|---|"]
    for work in works:
        for case in work.cases:
            lines += (f"| {work.title}: {case.name} | {_goal(case, goal)} |" for goal in case.goals)
    goals = [goal for work in works for case in work.cases for goal in case.goals]
    lines += ["", f"{sum(goal.reached for goal in goals)} of {len(goals)} reached."]
    for work in works:
        lines += ["", f"### {work.title}", "", *_table(work)]
    return "\n".join(lines) + "\n"


def _table(work: Work) -> Iterator[str]:
    figures = list(dict.fromkeys(figure for case in work.cases for figure in case.figures if figure != "requests"))
    ratio = [f"of {work.against.name}"] if work.against else []
    columns = ["", *figures, *ratio]
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for case in work.cases:
        cells = [_number(case[figure]) for figure in figures]
        if work.against:
            cells.append(_spread(case.ratios(work.figure, work.against)))
        name = f"{case.name} (not measured: {case.absent})" if case.absent else case.name
        yield f"| {' | '.join([name, *cells])} |"


def _goal(case: Case, goal: Goal) -> str:
    bound = f"{'at most' if goal.at_most else 'at least'} {goal.limit:g} {goal.says}"
    reached = f"{_spread(goal.values())} {'✓' if goal.reached else '✗'}"
    return f"{goal.figure} | {_number(case[goal.figure])} | {bound} | {reached}"


def _spread(values: list[float]) -> str:
    """Return the median, and the lowest and the highest value."""
    if len(values) < 2:
        return _number(middle(values))
    return f"{middle(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def _number(value: float) -> str:
    if math.isnan(value):
        return ""
    return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}"


def plot(works: list[Work], path: Path) -> None:
    """Draw the main figure of each work: medians as bars, rounds as dots."""
    import_module("matplotlib").use("Agg")
    pyplot = import_module("matplotlib.pyplot")
    rows = math.ceil(len(works) / 2)
    figure, grid = pyplot.subplots(rows, 2, figsize=(12, 2.4 * rows), squeeze=False, layout="constrained")
    for axes in grid.flat[len(works) :]:
        axes.axis("off")
    for axes, work in zip(grid.flat, works, strict=False):
        measured = [case for case in work.cases if work.figure in case.figures]
        for at, case in enumerate(measured):
            axes.barh(at, case[work.figure], color=_colour(case), height=0.6)
            rounds = case.figures[work.figure]
            axes.plot(rounds, [at] * len(rounds), "k.", markersize=4)
        axes.set_yticks(range(len(measured)), [case.name for case in measured])
        axes.invert_yaxis()
        axes.set_title(f"{work.title} ({work.figure})", fontsize=10, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)


def _colour(case: Case) -> str:
    return "#b0b7bf" if case.name.startswith(("nginx", "Flask", "curl")) else "#2f6fab"
