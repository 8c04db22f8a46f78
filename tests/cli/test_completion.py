"""Completion in real shells: the tests type a Tab on a terminal."""

import asyncio
import contextlib
import os
import pty
import sys

import pytest
from peers import PATIENCE
from programs import program

from aiorelay.cli.main import main

SHELLS = {
    "bash": (("bash", "--norc", "--noprofile", "-i"), "bind 'set enable-bracketed-paste off'"),
    "zsh": (("zsh", "-f", "-i"), "autoload -U compinit && compinit -u -D"),
}


class Terminal:
    """A terminal with simulated input."""

    def __init__(self, descriptor):
        self._descriptor = descriptor
        self._shown = bytearray()
        self._news = asyncio.Event()

    def read(self):
        with contextlib.suppress(OSError):  # EIO after the shell has ended
            self._shown += os.read(self._descriptor, 64 * 1024)
            self._news.set()

    async def type(self, text, *, shows):
        """Type text and wait until the terminal has shown the result."""
        del self._shown[:]
        os.write(self._descriptor, text.encode())
        async with asyncio.timeout(PATIENCE):
            while shows.encode() not in self._shown:
                self._news.clear()
                await self._news.wait()


@pytest.fixture(params=["bash", pytest.param("zsh", marks=pytest.mark.needs("zsh"))])
async def terminal(request, tmp_path):
    """A terminal with a shell that has loaded the completion script, in a directory that contains notes.txt."""
    command, setup = SHELLS[request.param]
    program(command[0])
    (tmp_path / "notes.txt").touch()
    ours, theirs = pty.openpty()
    shell = await asyncio.create_subprocess_exec(
        *command,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        cwd=tmp_path,
        start_new_session=True,
        env={"PATH": os.environ["PATH"], "TERM": "dumb", "HOME": str(tmp_path), "PS1": "$ "},
    )
    os.close(theirs)
    terminal = Terminal(ours)
    asyncio.get_running_loop().add_reader(ours, terminal.read)
    try:
        script = f"source <({sys.executable} -m aiorelay config --completion)"
        await terminal.type(f"{setup}; {script}; echo re''ady\n", shows="ready")
        yield terminal
    finally:
        asyncio.get_running_loop().remove_reader(ours)
        shell.kill()
        await shell.wait()
        os.close(ours)


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("prob", "probe "),
        ("--upstream-mo", "--upstream-mode "),
        ("--upstream-mode sp", "spool "),
        ("serve --upstream-ch", "--upstream-chunked "),
        ("send --token-f", "--token-file "),
        ("send not", "notes.txt "),
        ("config --exa", "--example "),
        ("--config no", "notes.txt "),
        ("send --token-file not", "notes.txt "),
        ("webhooks send-a", "send-again "),
    ],
)
async def test_a_word_is_completed(terminal, typed, completed):
    await terminal.type(f"aiorelay {typed}\t", shows=completed)


async def test_the_choices_are_shown(terminal):
    await terminal.type("aiorelay --log-level \t\t", shows="warning")


def test_every_command_has_its_own_flags(capsys):
    assert main(["config", "--completion"]) == 0
    said = capsys.readouterr().out
    assert "*:-*:ca) words='-h --help --pem --config " in said
    assert "*:-*:send) words='-h --help --to --field --file-field --cacert --token-file --json'" in said
    assert "1:*) words='serve send probe ca token config webhooks'" in said
