"""The compiled YARA rules, loaded again when their files change, and the processes that scan with them.

    compiled ─▶ a file in memory ─▶ up to as many processes as there are cores

New rules replace the old ones when they have been compiled. A scan under way ends with the rules that it began with.
"""

import asyncio
import contextlib
import importlib.util
import json
import os
import sys
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from aiorelay.checks.yara.scanning import SCRIPT, ScanFailedError, ScanProcess
from aiorelay.checks.yara.sources import Sources, Version, find_sources
from aiorelay.concurrency.threads import wait_until_done
from aiorelay.errors import StartupError
from aiorelay.observability.logs import log

__all__ = ["YaraRules"]

_MOST_PROCESSES: Final = 4
_INTERVAL: Final = 2.0  # seconds between looks at the files


@dataclass(frozen=True, slots=True, eq=False)
class _Compiled:
    """Compiled rules in the file ``fd``, which has no name."""

    fd: int

    def close(self) -> None:
        os.close(self.fd)  # the processes have descriptors of their own


class YaraRules:
    """The rules at ``path``. A scan may take ``timeout`` seconds, the wait for a free process included."""

    def __init__(self, path: Path, *, timeout: float) -> None:
        self._path = path.absolute()
        self._timeout = timeout
        self._free = asyncio.Semaphore(min(_MOST_PROCESSES, len(os.sched_getaffinity(0))))
        self._idle: list[ScanProcess] = []
        self._processes: dict[ScanProcess, _Compiled] = {}
        self._compiled: _Compiled | None = None
        self._version: Version | None = None
        self._asked = asyncio.Event()

    @asynccontextmanager
    async def loaded(self) -> AsyncGenerator[Self, None]:
        """Load the rules, and watch them for as long as the context lasts. Raises ``StartupError``."""
        if importlib.util.find_spec("yara_x") is None:
            raise StartupError("yara: yara-x is not installed. Run: pip install 'aiorelay[yara]'.")
        await self._load(find_sources(self._path))
        watching = asyncio.create_task(self._watch())
        try:
            yield self
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            for process in list(self._processes):
                await self._end(process)
            if self._compiled is not None:
                self._compiled.close()

    def reload(self) -> None:
        """Load the rules again soon, also if no file has changed."""
        self._asked.set()

    async def matches(self, file: int, variables: Mapping[str, str]) -> list[str]:
        """Return the names of the rules that ``file`` (a descriptor) matches.

        ``variables`` are the values of external variables. Raises ``ScanFailedError``, after ``timeout`` seconds at the
        latest.
        """
        try:
            async with asyncio.timeout(self._timeout), self._free:
                return await self._scan(file, variables)
        except TimeoutError:
            raise ScanFailedError(f"no verdict for {self._timeout:g} s") from None
        except OSError as error:
            raise ScanFailedError(f"a process cannot be started: {error.strerror}") from error

    async def _scan(self, file: int, variables: Mapping[str, str]) -> list[str]:
        process = await self._process()
        try:
            matches = await process.scan(file, variables)
        except BaseException:
            await self._end(process)
            raise
        if self._processes[process] is self._compiled:
            self._idle.append(process)
        else:
            await self._end(process)
        return matches

    async def _process(self) -> ScanProcess:
        """Return a process that is idle, or a new one. Raises OSError."""
        while self._idle:
            process = self._idle.pop()
            if process.is_alive:
                return process
            await self._end(process)
        compiled = self._compiled
        assert compiled is not None  # noqa: S101 - the context loads the rules first
        process = await ScanProcess.start(compiled.fd, longest=self._timeout)
        self._processes[process] = compiled
        return process

    async def _end(self, process: ScanProcess) -> None:
        """End a process, also if this is cancelled meanwhile."""
        process.end()
        await wait_until_done(asyncio.ensure_future(process.wait()))
        del self._processes[process]

    async def _watch(self) -> None:
        """Load the rules when somebody asks for it, or when files have changed and then stayed the same for a while."""
        seen: Version | None = None
        complaint = ""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_INTERVAL):  # wait_for could swallow a cancellation (gh-86296)
                    await self._asked.wait()
            asked = self._asked.is_set()
            self._asked.clear()
            try:
                sources = await asyncio.to_thread(find_sources, self._path)
                if asked or (sources.version != self._version and sources.version == seen):
                    complaint = ""
                    await self._load(sources)
                seen = sources.version
            except StartupError as problem:
                if asked or str(problem) != complaint:
                    log.error("the YARA rules stay as they were: %s", problem)
                complaint = str(problem)

    async def _load(self, sources: Sources) -> None:
        """Compile the rules and put them in place of the old ones. Raises ``StartupError``."""
        self._version = sources.version
        compiled, number = await _compile(sources)
        old, self._compiled = self._compiled, compiled
        idle, self._idle = self._idle, []
        for process in idle:
            await self._end(process)
        if old is not None:
            old.close()
        log.info("loaded %d YARA rules from %d files", number, len(sources.files))


async def _compile(sources: Sources) -> tuple[_Compiled, int]:
    """Compile the rules in a process. Return them and their number. Raises ``StartupError``."""
    compiled = _Compiled(os.memfd_create("yara-rules"))
    try:
        number = await _compile_into(compiled.fd, sources)
    except BaseException:
        compiled.close()
        raise
    return compiled, number


async def _compile_into(file: int, sources: Sources) -> int:
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", str(SCRIPT), "compile", str(file)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            pass_fds=(file,),
            cwd="/",  # yara-x names included files relative to it
        )
    except OSError as error:
        raise StartupError(f"yara: a process cannot be started: {error.strerror}.") from error
    try:
        output, _ = await process.communicate(json.dumps({"files": sources.files, "folders": sources.folders}).encode())
    except BaseException:
        process.kill()
        await wait_until_done(asyncio.ensure_future(process.wait()))
        raise
    return _number_of_rules(output, sources, process.returncode)


def _number_of_rules(output: bytes, sources: Sources, status: int | None) -> int:
    """Return the number of rules that were compiled. Raises ``StartupError``."""
    try:
        result: dict[str, Any] = json.loads(output)
    except ValueError:
        raise StartupError(f"yara: the process that compiles the rules ended with status {status}.") from None
    if "memory executable" in (error := result.get("error", "")):
        advice = "in a systemd unit, set MemoryDenyWriteExecute=no"
        raise StartupError(f"yara: the system forbids to make machine code of the rules; {advice}.")
    if error:
        raise StartupError(f"yara: {error}.")
    number: int = result["rules"]
    if not number:
        raise StartupError(f"yara: there is no rule in {', '.join(sources.files)}.")
    return number
