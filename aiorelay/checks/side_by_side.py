"""Run several checks of one file at the same time: the slowest verdict is what an upload waits for.

            ┌─▶ check 1
    block ──┼─▶ check 2      the next block is read when every check has taken this one
            └─▶ check 3

The order of the checks decides which refusal counts, whatever the timing: that of the first check that refuses. A
refusal is therefore raised when every check before it has passed the file, and at once if there is none before it.
Meanwhile only the checks before it are fed.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from aiorelay.checks.pipeline import Check, CheckFactory
from aiorelay.concurrency.threads import wait_until_done
from aiorelay.errors import Problem
from aiorelay.multipart.form import Part

__all__ = ["SideBySide", "side_by_side"]


def side_by_side(factories: Sequence[CheckFactory]) -> CheckFactory:
    """Return a factory of one check that runs those of ``factories`` at the same time."""

    def make(part: Part) -> Check | None:
        checks: list[Check] = []
        for factory in factories:
            try:
                check = factory(part)
            except Problem as refusal:
                if not checks:
                    raise
                return SideBySide(checks, refusal)
            if check is not None:
                checks.append(check)
        return SideBySide(checks) if len(checks) > 1 else next(iter(checks), None)

    return make


class SideBySide:
    """A check that consists of ``checks``, in the order of precedence of their refusals.

    ``refusal`` is raised at the end of a file that all of them pass.
    """

    def __init__(self, checks: Sequence[Check], refusal: Exception | None = None) -> None:
        self._checks = tuple(checks)
        self._undecided = self._checks
        self._refusal = refusal

    async def feed(self, chunk: bytes) -> None:
        """Feed every check that can still decide. Waits for the slowest one."""
        await self._each([check.feed(chunk) for check in self._undecided])

    async def finish(self) -> None:
        """Wait for the verdicts. Raises the first refusal in the order of the checks."""
        await self._each([check.finish() for check in self._undecided])
        if self._refusal is not None:
            raise self._refusal

    async def close(self) -> None:
        for check in reversed(self._checks):
            await check.close()

    async def _each(self, steps: list[Coroutine[Any, Any, None]]) -> None:
        """Run the next steps of the undecided checks. A refusal ends the steps of the checks after it."""
        # A task costs some microseconds for each block; a single check needs none.
        tasks = [asyncio.create_task(step) for step in steps] if len(steps) > 1 else []
        for number, step in enumerate(tasks or steps):
            try:
                await step
            except BaseException as refusal:
                await _end(tasks)
                if not number or not isinstance(refusal, Exception):
                    raise
                self._refusal = refusal
                self._undecided = self._undecided[:number]
                break


async def _end(tasks: list["asyncio.Task[None]"]) -> None:
    """Cancel the tasks that still run. Wait for all, also if this is cancelled meanwhile."""
    for task in tasks:
        task.cancel()
    if tasks:
        await wait_until_done(asyncio.gather(*tasks, return_exceptions=True))
