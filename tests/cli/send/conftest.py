"""Fixtures for ``aiorelay send``."""

import asyncio
import os

import pytest

from aiorelay.cli.main import main


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AIORELAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def send(capfdbinary):
    """Run ``aiorelay send`` in a thread. Return its exit status, standard output and standard error."""

    async def run(*arguments):
        status = await asyncio.to_thread(main, ["send", *map(str, arguments)])
        out, err = capfdbinary.readouterr()
        return status, out.decode(), err.decode()

    return run
