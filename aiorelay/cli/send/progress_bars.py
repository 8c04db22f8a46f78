"""Show the progress of a source as bars on a terminal."""

import os
import sys
from types import TracebackType
from typing import NoReturn, Self

from tqdm import tqdm

__all__ = ["ProgressBars"]

_LONGEST_NAME = 32
_COLUMNS, _LINES = 80, 24  # for terminals of unknown size, as in containers and CI


class ProgressBars:
    """Progress bars of the source ``name`` on standard error, one for each leg, if ``shown`` is true."""

    def __init__(self, name: str, *, shown: bool) -> None:
        visible = "".join(each if each.isprintable() else "?" for each in name)
        self._name = visible if len(visible) <= _LONGEST_NAME else f"…{visible[1 - _LONGEST_NAME :]}"
        self._shown = shown
        self._paused = False
        self._bars: dict[str, tqdm[NoReturn]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for bar in self._bars.values():
            bar.close()

    def at(self, leg: str, done: int, total: int | None) -> None:
        """Show ``done`` of ``total`` bytes for a leg, "" if there is only one. ``total`` may become known later."""
        if not self._shown:
            return
        bar = self._bars.get(leg) or self._add(leg, done, total)
        if self._paused:
            self._paused = False
            bar.set_postfix_str("", refresh=False)
        if total is not None and bar.total != total:
            bar.total = total
        bar.update(done - bar.n)

    def wait(self) -> None:
        """Show that everything has been sent and that the answer is awaited."""
        for bar in self._bars.values():
            bar.set_postfix_str("waiting for the answer")

    def pause(self, reason: str) -> None:
        """Show why nothing is sent at the moment. ``at`` ends the pause."""
        self._paused = True
        for bar in self._bars.values():
            bar.set_postfix_str(reason)

    def _add(self, leg: str, done: int, total: int | None) -> "tqdm[NoReturn]":
        columns, lines = os.get_terminal_size(sys.stderr.fileno())
        known = columns > 0 and lines > 0
        bar = self._bars[leg] = tqdm(
            desc=f"{self._name} {leg}".rstrip(),
            initial=done,
            total=total,
            unit="B",
            unit_scale=True,
            unit_divisor=1024,
            dynamic_ncols=known,
            ncols=None if known else columns or _COLUMNS,
            nrows=None if known else lines or _LINES,
            position=len(self._bars),
            leave=True,
        )
        return bar
