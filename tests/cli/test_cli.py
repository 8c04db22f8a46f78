"""The command line, called as a function and as a program."""

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import aiorelay
from aiorelay.cli.main import main
from aiorelay.http.tokens import Tokens
from aiorelay.settings import SETTINGS


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AIORELAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.chdir(tmp_path)


def program(*arguments: str, **options: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "aiorelay", *arguments]
    return subprocess.run(command, text=True, check=False, **{"capture_output": True, **options})  # type: ignore[call-overload,no-any-return]


MISUSES = [
    (["--max-size", "12 parsecs"], "aiorelay: max-size: '12 parsecs' is not a size (flag --max-size); try 500, 64KiB"),
    (["config", "--rest1-port=x"], "aiorelay: rest1-port: 'x' is not a port (flag --rest1-port); it goes from 0 to"),
    (["config", "--rest1-port", "-1"], "aiorelay: rest1-port: '-1' is out of range (flag --rest1-port); it goes from"),
    (
        ["ca", "--tls-key", "/k"],
        "aiorelay: tls-key: '/k' is a key without a certificate (flag --tls-key); give tls-cert",
    ),
    (["serve", "--max-size"], "aiorelay: --max-size: expected one argument. See aiorelay serve --help."),
    (["config", "--max-sze", "5"], "aiorelay: --max-sze: there is no such setting for '5' (flag); did you mean --max-"),
    (
        ["config", "--max-sze=5"],
        "aiorelay: --max-sze: there is no such setting for '5' (flag); did you mean --max-size",
    ),
    (["config", "--max"], "aiorelay: --max: there is no such setting"),
    (["config", "--fsnc"], "aiorelay: --fsnc: there is no such setting (flag); did you mean --fsync?"),
    (["config", "-x"], "aiorelay: -x: there is no such setting (flag)"),
    (["config", "word"], "aiorelay: unrecognized arguments: word. See aiorelay config --help."),
    (["--max-size", "5", "config"], "aiorelay: unrecognized arguments: config; put the command before all flags."),
    (["confg"], "aiorelay: COMMAND: invalid choice: 'confg', maybe you meant 'config'? (choose from serve, send, "),
    (["xyzzy"], "aiorelay: COMMAND: invalid choice: 'xyzzy' (choose from serve, "),
    ([""], "aiorelay: COMMAND: invalid choice: ''"),
    (["a\nb"], r"aiorelay: COMMAND: invalid choice: 'a\nb'"),
    (["config", "--a\nb"], r"aiorelay: '--a\nb': there is no such setting"),
    (["config", "--config", "no.toml"], "aiorelay: config: 'no.toml' cannot be read: No such file or directory (flag"),
]


@pytest.mark.parametrize(("arguments", "sentence"), MISUSES)
def test_misuse_is_one_line_on_stderr_and_status_2(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(sentence)
    assert err.count("\n") == 1
    assert re.search(r"[.?] See aiorelay( serve| ca| config)? --help\.\n$", err)


@pytest.mark.parametrize(
    "arguments",
    [
        ["config", "--upstream-heder", "Authorization: Bearer s3cret"],
        ["config", "--upstream-header", "Authorization Bearer s3cret"],
        ["config", "--upstream-header", "A: b", "s3cret"],
        ["config", "--upstream", "https://me:s3cret@example.org/"],
    ],
)
def test_misuse_does_not_repeat_a_secret(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    assert "s3cret" not in capsys.readouterr().err


def test_token_prints_a_token_and_its_line(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["token", "alice"]) == 0
    out, err = capsys.readouterr()
    token, line = (text.partition(" ")[2] for text in out.splitlines())
    assert out == f"token {token}\nline {line}\n"
    assert err == ""
    (tmp_path / "tokens").write_text(line)
    assert Tokens(tmp_path / "tokens").who(token) == "alice"


@pytest.mark.parametrize("name", ["a:b", "#a", "", "a\nb"])
def test_token_takes_no_name_that_breaks_its_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", name]) == 2
    assert capsys.readouterr().err.startswith("aiorelay: NAME: ")


def test_config_prints_each_setting_with_its_value_and_origin(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "relay.toml").write_text("max_size = '1MiB'\nfsync = true\nidle_timeout = 90\n")
    monkeypatch.setenv("AIORELAY_CONFIG", "relay.toml")
    monkeypatch.setenv("AIORELAY_ALLOW_NET", "10.0.0.0/8,::1")
    monkeypatch.setenv("AIORELAY_UPSTREAM_HEADER", "Authorization: Bearer s3cret")
    assert main(["config", "--no-fsync", "--local-root", "/a", "--local-root=/b"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(SETTINGS)
    assert {
        "host = 127.0.0.1  (default)",
        "max-size = 1MiB  (file relay.toml)",
        "idle-timeout = 90s  (file relay.toml)",
        "fsync = false  (flag --no-fsync)",
        "allow-net = 10.0.0.0/8, ::1/128  (environment AIORELAY_ALLOW_NET)",
        "local-root = /a, /b  (flag --local-root)",
        "upstream-header = Authorization: ***  (environment AIORELAY_UPSTREAM_HEADER)",
        f"state-dir = {tmp_path}/state/aiorelay  (default)",
        "only = both  (default)",
    } <= set(lines)


def test_config_prints_one_line_for_a_setting_with_a_line_break(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--store", "/a\nb\udcff"]) == 0
    assert "store = /a\\nb\\udcff  (flag --store)\n" in capsys.readouterr().out


def test_the_config_flag_overrides_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "relay.toml").write_text("max_parts = 7")
    monkeypatch.setenv("AIORELAY_CONFIG", "missing.toml")
    assert main(["config", "--config", "relay.toml"]) == 0
    assert "max-parts = 7  (file relay.toml)\n" in capsys.readouterr().out


def test_a_later_flag_overrides_an_earlier_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["config", "--max-parts", "1", "--max-parts", "2"]) == 0
    assert "max-parts = 2  (flag --max-parts)\n" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["serve", "ca", "config"])
def test_help_of_a_command_names_every_flag(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for setting in SETTINGS.values():
        assert f"  {setting.flag}" in out
    assert "--no-fsync" in out


def test_help_without_a_command_is_that_of_serve(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--max-size", "5", "--help"]) == 0
    assert capsys.readouterr().out.startswith("usage: aiorelay serve ")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_the_commands(flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([flag]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {command} " in out for command in ("serve", "ca", "config"))


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"aiorelay \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


def test_ca_prints_the_path_of_a_certificate_that_it_made(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["ca", "--state-dir", "mine"]) == 0
    path = Path(capsys.readouterr().out.removesuffix("\n"))
    assert path.is_relative_to(tmp_path / "mine" / "tls")
    assert path.read_bytes().startswith(b"-----BEGIN CERTIFICATE-----")


def test_ca_prints_the_certificate(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ca"]) == 0
    path = Path(capsys.readouterr().out.removesuffix("\n"))
    assert main(["ca", "--pem"]) == 0
    assert capsys.readouterr().out == path.read_text()


def test_ca_that_cannot_be_made_is_one_line_and_status_1(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert main(["ca", "--state-dir", "file"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("aiorelay: ")
    assert err.endswith(". See aiorelay ca --help.\n")
    assert err.count("\n") == 1


def test_config_as_a_program() -> None:
    done = program("config", "--max-size", "1.5GiB")
    assert (done.returncode, done.stderr) == (0, "")
    assert "max-size = 1536MiB  (flag --max-size)\n" in done.stdout


def test_ca_as_a_program(tmp_path: Path) -> None:
    done = program("ca")
    assert (done.returncode, done.stderr) == (0, "")
    assert Path(done.stdout.removesuffix("\n")).is_relative_to(tmp_path / "state" / "aiorelay" / "tls")


def test_misuse_as_a_program() -> None:
    done = program("--max-size", "x", env={**os.environ, "AIORELAY_HOST": "::1"})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_a_closed_pipe_gives_no_traceback() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = program("config", capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_cannot_be_written_is_one_line_and_status_1() -> None:
    with Path("/dev/full").open("w") as full:
        done = program("config", capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert done.stderr == "aiorelay: [Errno 28] No space left on device. See aiorelay config --help.\n"


@pytest.mark.parametrize("command", ["config", "ca"])
def test_closed_stdout_is_no_failure(command: str) -> None:
    done = subprocess.run(
        ["sh", "-c", 'exec "$0" -m aiorelay "$1" >&-', sys.executable, command], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")


def test_ca_prints_an_undecodable_path_as_bytes(tmp_path: Path) -> None:
    state = os.fsencode(tmp_path) + b"/\xff"
    done = subprocess.run(
        [sys.executable, "-m", "aiorelay", "ca", "--state-dir", state], capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(state)
    assert Path(os.fsdecode(done.stdout.removesuffix(b"\n"))).exists()


def test_the_command_line_imports_nothing_that_only_the_servers_need() -> None:
    """The package is replaced, so that its own imports do not count."""
    code = (
        "import sys, types; package = sys.modules['aiorelay'] = types.ModuleType('aiorelay')\n"
        "package.__path__ = [sys.argv[1]]\n"
        "import aiorelay.cli.main\n"
        "print(sorted({'aiohttp', 'yarl', 'cryptography', 'ssl', 'asyncio'} & set(sys.modules)))"
    )
    home = Path(aiorelay.__file__).parent
    done = subprocess.run([sys.executable, "-c", code, home], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_port_that_is_taken_is_one_line_and_status_1() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        done = program("--rest1-port", str(taken.getsockname()[1]), "--rest2-port", "0")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("aiorelay: ")
    assert done.stderr.endswith(". See aiorelay serve --help.\n")
    assert done.stderr.count("\n") == 1


def test_importing_the_program_does_nothing() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import aiorelay.__main__"], capture_output=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
