"""The command line: parse argv, run a command, print a failure as one sentence on one line of stderr.

    aiorelay [serve] [SETTING...]     and so on, a ``Command`` each: ``COMMANDS`` is the list of them

The environment is read here and, for where state is kept by default, in ``settings``; nowhere else. What a command
needs is imported when it runs, so that ``config``, ``ca`` and ``--help`` answer at once.
"""

# ruff: noqa: T201 - printing is what a command line is for

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from aiorelay.cli.completion import Flag, script
from aiorelay.errors import StartupError
from aiorelay.settings import SETTINGS, Setting, Settings, SettingsError, example, find_file, read, suggestion, unknown
from aiorelay.settings.kinds import HEADER, InvalidValueError, Kind
from aiorelay.settings.places import PATH, upload_url

if TYPE_CHECKING:
    from aiorelay.cli.send import SendResult

__all__ = ["main"]

FAILED, MISUSED, INTERRUPTED = 1, 2, 130


class UsageError(Exception):
    """The command line is not one of ours; the text says what is wrong with it."""


class Parser(argparse.ArgumentParser):
    """An argument parser that answers a mistake with a sentence instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))

    def flags(self) -> Iterator[Flag]:
        for action in self._actions:
            metavar = None if action.nargs == 0 else str(action.metavar)
            yield from (Flag(name, metavar) for name in action.option_strings)


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its line in the overview, its own arguments, and what it does with them.

    A ``client`` has those alone; every other command takes each setting as a flag, too.
    """

    summary: str
    run: Callable[[argparse.Namespace], int]
    add_arguments: Callable[[Parser], object] | None = None
    client: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command that ``argv`` (without the program's name) asks for; return the exit status: 0, 1, 2 or 130."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, TextIOWrapper):  # a name that the terminal cannot show is no reason to fail
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _run(arguments)
        if sys.stdout is not None:  # as it is where the caller closed it
            sys.stdout.flush()
    except (UsageError, SettingsError) as error:
        return _fail(arguments, str(error), MISUSED)
    except StartupError as error:
        return _fail(arguments, str(error), FAILED)
    except KeyboardInterrupt:
        return FAILED
    except OSError as error:
        _abandon_broken_stdout()
        # Whoever closed the pipe has read enough, and wants to hear no more.
        return FAILED if isinstance(error, BrokenPipeError) else _fail(arguments, str(error), FAILED)
    return status


def _run(arguments: list[str]) -> int:
    match arguments:
        case ["-h" | "--help"]:
            print(_overview(), end="")
            return 0
        case ["--version"]:
            from importlib.metadata import version  # noqa: PLC0415 - slow, and seldom wanted

            print(f"aiorelay {version('aiorelay')}")
            return 0
        case _:
            name = _command_name(arguments)
            options = _parse(name, arguments[1:] if arguments[:1] == [name] else arguments)
            return COMMANDS[name].run(options) if options else 0


def _command_name(arguments: list[str]) -> str:
    """Return the command that is asked for: without a name, ``serve`` with settings."""
    word = arguments[0] if arguments else "serve"
    if word in COMMANDS:
        return word
    if word.startswith("-"):
        return "serve"
    near = suggestion(word, COMMANDS)
    raise UsageError(
        f"{word!r} is no command; " + (f"did you mean {near}?" if near else f"try {' or '.join(COMMANDS)}")
    )


def _parse(name: str, arguments: list[str]) -> argparse.Namespace | None:
    """Return the options of a command, or None where they asked for its help, which has been given."""
    parser = _parser(name)
    try:
        options, strangers = parser.parse_known_intermixed_args(arguments)
    except SystemExit:  # how argparse ends after --help
        return None
    if strangers:
        raise _stranger(COMMANDS[name], *strangers)
    return options


def _stranger(command: Command, word: str, *rest: str) -> Exception:
    """Return the error for a word on the command line that has no place there."""
    if word.startswith("-") and command.client:
        return UsageError(f"there is no flag {word.partition('=')[0]}")
    if word.startswith("-"):
        flag, _, value = word.partition("=")
        return unknown(flag, value or next(iter(rest), ""), spelling=lambda setting: setting.flag, origin="flag")
    if word in COMMANDS:
        return UsageError(f"the command {word} comes first, before all flags")
    # The word itself is not shown: after a mistyped flag it may be a secret.
    return UsageError("there is a word too many, or its flag is missing")


def _parser(name: str) -> Parser:
    command = COMMANDS[name]
    parser = Parser(
        prog=f"aiorelay {name}",
        description=command.summary[0].upper() + command.summary[1:] + ".",
        epilog="* may be given several times.",
        allow_abbrev=False,
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=32),
    )
    if command.add_arguments is not None:
        command.add_arguments(parser)
    if not command.client:
        _add_settings(parser)
    return parser


def _add_settings(parser: Parser) -> None:
    parser.usage = f"{parser.prog} [OPTION | SETTING]..."
    parser.epilog = (
        "* may be given several times. A setting is also read from the environment (AIORELAY_MAX_SIZE) and "
        'from the file (max_size = "2GiB"): flag beats environment beats file beats default.'
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file of settings (default: $AIORELAY_CONFIG)")
    for title, group in groupby(SETTINGS.values(), key=lambda setting: setting.group):
        section = parser.add_argument_group(title)
        for setting in group:
            section.add_argument(setting.flag, default=argparse.SUPPRESS, **_flag_options(setting))


def _flag_options(setting: Setting) -> dict[str, Any]:
    """Return how argparse is to take a flag; its text is left as it is, for ``settings`` to judge."""
    words = f"{setting.help} (default: {setting.default})".replace("%", "%%")
    if setting.is_switch:
        return {"action": argparse.BooleanOptionalAction, "help": words}
    if setting.repeated:
        return {"action": "append", "metavar": f"{setting.kind.metavar} *", "help": words}
    return {"metavar": setting.kind.metavar, "help": words}


def _as(kind: Kind) -> Callable[[str], Any]:
    """Return what makes a client's argument a value of ``kind``."""

    def accept(text: str) -> Any:
        try:
            return kind.accept(text)
        except InvalidValueError as invalid:
            raise argparse.ArgumentTypeError(f"{kind.quote(text)} {invalid.fault}; {invalid.advice}") from None

    return accept


def _settings(options: argparse.Namespace) -> tuple[Settings, Mapping[str, str]]:
    flags = {name: value for name, value in vars(options).items() if name in SETTINGS}
    return read(flags, os.environ, find_file(options.config, os.environ))


def _serve(options: argparse.Namespace) -> int:
    settings, _ = _settings(options)
    from aiorelay.server.lifecycle import run  # noqa: PLC0415 - the whole house, which only serving needs

    return run(settings)


def _ca(options: argparse.Namespace) -> int:
    settings, _ = _settings(options)
    from aiorelay.certificates.tls import ca_certificate  # noqa: PLC0415 - brings cryptography along

    path = ca_certificate(settings.state_dir / "tls")
    if sys.stdout is None:  # closed by the caller, who wanted the CA made
        return 0
    # As bytes: a path need not be text in any encoding, and scripts open what they read here.
    sys.stdout.buffer.write(path.read_bytes() if options.pem else os.fsencode(path) + b"\n")
    return 0


def _config(options: argparse.Namespace) -> int:
    if options.example:
        print(example(), end="")
        return 0
    if options.completion:
        print(script({name: _parser(name).flags() for name in COMMANDS}, default="serve"), end="")
        return 0
    settings, origins = _settings(options)
    for name, setting in SETTINGS.items():
        print(_one_line(f"{setting.key} = {setting.show(getattr(settings, name))}  ({origins[name]})"))
    return 0


def _config_arguments(parser: Parser) -> None:
    parser.add_argument("--example", action="store_true", help="print a file of settings that explains each of them")
    parser.add_argument("--completion", action="store_true", help="print a script by which bash and zsh complete flags")


def _send_arguments(parser: Parser) -> None:
    default = "https://127.0.0.1:8000"
    parser.add_argument("sources", metavar="SOURCE", nargs="+", help="a file, - for standard input, or a URL to fetch")
    parser.add_argument(
        "--to",
        metavar="URL",
        type=_as(upload_url("give a bearer token with --token-file")),
        default=default,
        help=f"a relay, or with a path an upload endpoint (default: {default})",
    )
    parser.add_argument(
        "--field",
        metavar="NAME=VALUE *",
        type=_form_field,
        action="append",
        default=[],
        help="form field to send along",
    )
    parser.add_argument(
        "--file-field",
        metavar="NAME",
        type=_as(SETTINGS["field"].kind),
        help=f"form field of the file (default: the setting field, or else {SETTINGS['field'].default})",
    )
    parser.add_argument(
        "--cacert",
        metavar="FILE",
        type=_as(PATH),
        help="CA bundle that verifies the relay (default: system trust and this machine's generated CA)",
    )
    parser.add_argument("--token-file", metavar="FILE", type=_as(PATH), help="file that begins with a bearer token")
    parser.add_argument("--json", action="store_true", help="print a JSON object for each source")
    parser.epilog = "* may be given several times."


def _form_field(text: str) -> tuple[str, str]:
    name, mark, value = text.partition("=")
    if not name or not mark:
        raise argparse.ArgumentTypeError("it is not a form field; write it as NAME=VALUE")
    return name, value


def _send(options: argparse.Namespace) -> int:
    settings, _ = read({}, os.environ, find_file(None, os.environ))
    from aiorelay.cli.send import STDIN, SendOptions, is_confidential, read_token, send  # noqa: PLC0415 - as costly as serving

    if options.sources.count(STDIN) > 1:
        raise UsageError("SOURCE: standard input can be sent only once")
    if options.token_file and not is_confidential(options.to):
        raise UsageError("--token-file: a token would be readable on the way; give an https URL with --to")
    generated = settings.state_dir / "tls" / "ca.pem"
    send_options = SendOptions(
        to=options.to,
        field=options.file_field or settings.field,
        fields=tuple(options.field),
        cacert=options.cacert,
        own_ca=generated if generated.is_file() else None,
        token=read_token(options.token_file) if options.token_file else None,
    )
    progress = sys.stderr is not None and sys.stderr.isatty()
    try:
        stored = send(send_options, options.sources, _show_json if options.json else _show, progress=progress)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0 if stored else FAILED


def _show(outcome: "SendResult") -> None:
    """Print the answer as it is, and anything else as one line on stderr."""
    if outcome.answer is None or not outcome.stored:
        if sys.stderr is not None:
            print(_one_line(f"aiorelay: {outcome.source}: {outcome.sentence}"), file=sys.stderr)
    elif outcome.answer.body and sys.stdout is not None:
        body = outcome.answer.body
        sys.stdout.buffer.write(body if body.endswith(b"\n") else body + b"\n")
        sys.stdout.buffer.flush()


def _show_json(outcome: "SendResult") -> None:
    print(outcome.as_json(), flush=True)


def _probe_arguments(parser: Parser) -> None:
    field = SETTINGS["field"]
    helped = f"form field of the file (default: {field.default})"
    header = f"{HEADER.metavar} *"
    url = upload_url("give them with --header, as 'Authorization: ...'")
    parser.add_argument("url", metavar="URL", type=_as(url), help="the upload API, where forms are posted to")
    parser.add_argument("--field", metavar="NAME", type=_as(field.kind), default=field.default, help=helped)
    parser.add_argument("--cacert", metavar="FILE", type=_as(PATH), help="CA bundle that verifies the API (PEM)")
    parser.add_argument("--insecure", action="store_true", help="go on if the API's certificate does not verify")
    parser.add_argument(
        "--header", metavar=header, type=_as(HEADER), action="append", default=[], help="header added to every request"
    )
    parser.add_argument(
        "--form",
        metavar="NAME=VALUE *",
        type=_form_field,
        action="append",
        default=[],
        help="form field that the API wants, sent before the file",
    )
    parser.add_argument("--filename", metavar="NAME", help="what the names of the test files end in (default: .txt)")
    parser.add_argument("--content", metavar="FILE", type=_as(PATH), help="file whose content is uploaded")
    parser.add_argument(
        "--no-patience",
        dest="patience",
        action="store_false",
        help="do not measure how long the API waits for a slow body (takes up to 90 s)",
    )
    parser.add_argument("--json", action="store_true", help="report as a JSON object")


def _probe(options: argparse.Namespace) -> int:
    settings, _ = read({}, os.environ, find_file(None, os.environ))
    from aiorelay.cli.probe import Target, as_json, as_lines, is_complete, probe  # noqa: PLC0415 - brings cryptography along

    generated = settings.state_dir / "tls" / "ca.pem"
    try:
        content = options.content.read_bytes() if options.content else None
    except OSError as error:
        raise UsageError(f"--content: {options.content} cannot be read: {error.strerror}") from None
    if options.patience and sys.stderr is not None and sys.stderr.isatty():
        print("aiorelay: probing; how long the API waits is measured too, up to 90 s", file=sys.stderr)
    findings = probe(
        Target(
            url=options.url,
            field=options.field,
            headers=tuple(options.header),
            cacert=options.cacert,
            own_ca=generated if generated.is_file() else None,
            insecure=options.insecure,
            form=tuple(options.form),
            filename=options.filename,
            content=content,
            patience=options.patience,
        )
    )
    for line in [as_json(findings)] if options.json else as_lines(findings):
        print(_one_line(line))
    return 0 if is_complete(findings, patience=options.patience) else FAILED


COMMANDS = {
    "serve": Command("serve rest1 and rest2 until SIGINT or SIGTERM; the command if none is named", _serve),
    "send": Command(
        "send files, standard input or URLs through a relay and print the answers", _send, _send_arguments, client=True
    ),
    "probe": Command(
        "send a dozen small test uploads to an upload API and report what it accepts",
        _probe,
        _probe_arguments,
        client=True,
    ),
    "ca": Command(
        "print the path of the generated CA certificate, making it if there is none",
        _ca,
        lambda parser: parser.add_argument("--pem", action="store_true", help="print the certificate itself"),
    ),
    "config": Command(
        "print each setting, its value and where that comes from",
        _config,
        _config_arguments,
    ),
}


def _overview() -> str:
    lines = "".join(f"  {name:<8}{command.summary}\n" for name, command in COMMANDS.items())
    return (
        "usage: aiorelay [COMMAND] [OPTION | SETTING]...\n\n"
        "An upload relay that streams, checks and passes on.\n\n"
        f"commands:\n{lines}\n"
        "aiorelay COMMAND --help tells more, aiorelay --version the version.\n"
    )


def _fail(arguments: list[str], sentence: str, status: int) -> int:
    """Print one line on stderr that says what is wrong and where to look for help; return ``status``."""
    word = arguments[0] if arguments else "serve"
    page = word if word in COMMANDS else "serve" if word.startswith("-") else ""
    helpful = " ".join(filter(None, ("aiorelay", page, "--help")))
    if sys.stderr is not None:
        print(_one_line(f"aiorelay: {sentence.rstrip('.')}; see {helpful}"), file=sys.stderr)
    return status


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _abandon_broken_stdout() -> None:
    """If stdout takes no more, send the rest nowhere, or the interpreter would complain when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        with Path(os.devnull).open("wb") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())
