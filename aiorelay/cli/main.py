"""The command line: parse argv, run a command, print a failure as one line on stderr.

    aiorelay [COMMAND] [OPTION | SETTING]...     ``COMMANDS`` lists the commands; the default is ``serve``

The environment is read here and nowhere else, except for the default of ``state_dir`` in ``settings``. A command's
imports happen when it runs, so that ``config``, ``ca`` and ``--help`` start fast.
"""

# ruff: noqa: T201 - a command prints its output

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
_WEBHOOK_ACTIONS = ("list", "send-again")


class UsageError(Exception):
    """A wrong command line. The text says what is wrong."""


class Parser(argparse.ArgumentParser):
    """An argument parser that raises ``UsageError`` instead of printing the usage and exiting."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message.removeprefix("argument "))

    def flags(self) -> Iterator[Flag]:
        for action in self._actions:
            metavar = None if action.nargs == 0 else str(action.metavar)
            yield from (Flag(name, metavar) for name in action.option_strings)


@dataclass(frozen=True, slots=True)
class Command:
    """A command: its line in the overview, the function that runs it, and its own arguments.

    A ``client`` has only those arguments. Every other command also takes each setting as a flag.
    """

    summary: str
    run: Callable[[argparse.Namespace], int]
    add_arguments: Callable[[Parser], object] | None = None
    client: bool = False


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in ``argv`` (without the program's name). Return the exit status: 0, 1, 2 or 130."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if isinstance(sys.stdout, TextIOWrapper):  # file names may be unencodable
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = _run(arguments)
        if sys.stdout is not None:  # None if the caller closed it
            sys.stdout.flush()
    except (UsageError, SettingsError) as error:
        return _fail(arguments, str(error), MISUSED)
    except StartupError as error:
        return _fail(arguments, str(error), FAILED)
    except KeyboardInterrupt:
        return FAILED
    except OSError as error:
        _abandon_broken_stdout()
        # A closed pipe (``aiorelay config | head -1``) is no error worth a message.
        return FAILED if isinstance(error, BrokenPipeError) else _fail(arguments, str(error), FAILED)
    return status


def _run(arguments: list[str]) -> int:
    match arguments:
        case ["-h" | "--help"]:
            print(_overview(), end="")
            return 0
        case ["--version"]:
            from importlib.metadata import version  # noqa: PLC0415 - slow to import

            print(f"aiorelay {version('aiorelay')}")
            return 0
        case _:
            name = _command_name(arguments)
            options = _parse(name, arguments[1:] if arguments[:1] == [name] else arguments)
            return COMMANDS[name].run(options) if options else 0


def _command_name(arguments: list[str]) -> str:
    """Return the command's name: the first argument, or ``serve`` if that is missing or a flag."""
    word = arguments[0] if arguments else "serve"
    if word in COMMANDS:
        return word
    if word.startswith("-"):
        return "serve"
    near = suggestion(word, COMMANDS)
    meant = f", maybe you meant {near!r}?" if near else ""
    raise UsageError(f"COMMAND: invalid choice: {word!r}{meant} (choose from {', '.join(COMMANDS)})")


def _parse(name: str, arguments: list[str]) -> argparse.Namespace | None:
    """Return the options of a command, or None if argparse has printed its help."""
    parser = _parser(name)
    try:
        options, unrecognized = parser.parse_known_intermixed_args(arguments)
    except SystemExit:  # raised by argparse after --help
        return None
    if unrecognized:
        raise _unrecognized(COMMANDS[name], options, *unrecognized)
    return options


def _unrecognized(command: Command, options: argparse.Namespace, word: str, *rest: str) -> Exception:
    """Return the error for the first argument that argparse did not recognize."""
    if word.startswith("-") and command.client:
        return UsageError(f"unrecognized arguments: {word.partition('=')[0]}")
    if word.startswith("-"):
        flag, _, value = word.partition("=")
        return unknown(flag, value or next(iter(rest), ""), spelling=lambda setting: setting.flag, origin="flag")
    if word in COMMANDS:
        return UsageError(f"unrecognized arguments: {word}; put the command before all flags")
    if _has_secrets(options):  # the word may be part of a header that was not quoted: --header Authorization: Bearer x
        return UsageError("unrecognized arguments: ***; quote a value that contains spaces")
    return UsageError(f"unrecognized arguments: {word}")


def _has_secrets(options: argparse.Namespace) -> bool:
    secret = {name for name, setting in SETTINGS.items() if setting.kind.mask is not None} | {"header"}
    return any(getattr(options, name, None) for name in secret)


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
        'from the file (max_size = "2GiB"): a flag overrides the environment, which overrides the file.'
    )
    parser.add_argument("--config", metavar="FILE", help="TOML file of settings (default: $AIORELAY_CONFIG)")
    for title, group in groupby(SETTINGS.values(), key=lambda setting: setting.group):
        section = parser.add_argument_group(title)
        for setting in group:
            section.add_argument(setting.flag, default=argparse.SUPPRESS, **_flag_options(setting))


def _flag_options(setting: Setting) -> dict[str, Any]:
    """Return the arguments of ``add_argument`` for a setting. ``settings`` parses the text of the value."""
    words = f"{setting.help} (default: {setting.default})".replace("%", "%%")
    if setting.is_switch:
        return {"action": argparse.BooleanOptionalAction, "help": words}
    if setting.repeated:
        return {"action": "append", "metavar": f"{setting.kind.metavar} *", "help": words}
    return {"metavar": setting.kind.metavar, "help": words}


def _as(kind: Kind) -> Callable[[str], Any]:
    """Return the ``type`` function of argparse for values of ``kind``."""

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
    # Imported here because only this command needs the servers.
    if settings.processes > 1:
        from aiorelay.server.processes.supervisor import supervise  # noqa: PLC0415

        return supervise(settings)
    from aiorelay.server.lifecycle import run  # noqa: PLC0415

    return run(settings)


def _ca(options: argparse.Namespace) -> int:
    settings, _ = _settings(options)
    from aiorelay.certificates.tls import ca_certificate  # noqa: PLC0415 - imports cryptography

    path = ca_certificate(settings.state_dir / "tls")
    if sys.stdout is None:  # closed by the caller; the CA has been made
        return 0
    # As bytes: a path may be undecodable, and scripts open the path that they read here.
    sys.stdout.buffer.write(path.read_bytes() if options.pem else os.fsencode(path) + b"\n")
    return 0


def _token(options: argparse.Namespace) -> int:
    from aiorelay.http.tokens import make_token  # noqa: PLC0415 - imports aiohttp

    token, line = make_token(options.name)
    print(f"token {token}\nline {line}")
    return 0


def _token_name(text: str) -> str:
    from aiorelay.http.tokens import is_token_name  # noqa: PLC0415 - as above

    if not is_token_name(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a name; a name has no colon, and does not begin with #")
    return text


def _config(options: argparse.Namespace) -> int:
    if options.example:
        print(example(), end="")
        return 0
    if options.completion:
        flags = {name: _parser(name).flags() for name in COMMANDS}
        print(script(flags, default="serve", actions={"webhooks": _WEBHOOK_ACTIONS}), end="")
        return 0
    settings, origins = _settings(options)
    for name, setting in SETTINGS.items():
        print(_one_line(f"{setting.key} = {setting.show(getattr(settings, name))}  ({origins[name]})"))
    return 0


def _config_arguments(parser: Parser) -> None:
    parser.add_argument(
        "--example", action="store_true", help="print an example settings file that explains each setting"
    )
    parser.add_argument("--completion", action="store_true", help="print a completion script for bash and zsh")


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
        raise argparse.ArgumentTypeError("expected NAME=VALUE")
    return name, value


def _send(options: argparse.Namespace) -> int:
    settings, _ = read({}, os.environ, find_file(None, os.environ))
    from aiorelay.cli.send import STDIN, SendOptions, is_confidential, read_token, send  # noqa: PLC0415 - as slow as the servers

    if options.sources.count(STDIN) > 1:
        raise UsageError("SOURCE: standard input can be sent only once; give - once")
    if options.token_file and not is_confidential(options.to):
        raise UsageError("--token-file: the token would be sent unencrypted; give an https URL with --to")
    generated = settings.state_dir / "tls" / "ca.pem"
    send_options = SendOptions(
        to=options.to,
        field=options.file_field or settings.field,
        fields=tuple(options.field),
        cacert=options.cacert,
        own_ca=generated if generated.is_file() else None,
        token=read_token(options.token_file) if options.token_file else None,
        unfinished=settings.state_dir / "unfinished-sends",
        token_header=settings.token_header,
    )
    progress = sys.stderr is not None and sys.stderr.isatty()
    try:
        stored = send(send_options, options.sources, _show_json if options.json else _show, progress=progress)
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0 if stored else FAILED


def _show(outcome: "SendResult") -> None:
    """Print an answer of success unchanged on stdout, and a failure as one line on stderr."""
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
    parser.add_argument("--insecure", action="store_true", help="continue if the API's certificate cannot be verified")
    parser.add_argument(
        "--header", metavar=header, type=_as(HEADER), action="append", default=[], help="header added to every request"
    )
    parser.add_argument(
        "--form",
        metavar="NAME=VALUE *",
        type=_form_field,
        action="append",
        default=[],
        help="form field that the API requires, sent before the file",
    )
    parser.add_argument("--filename", metavar="NAME", help="ending of the test files' names (default: .txt)")
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
    from aiorelay.cli.probe import Target, as_json, as_lines, is_complete, probe  # noqa: PLC0415 - imports cryptography

    generated = settings.state_dir / "tls" / "ca.pem"
    try:
        content = options.content.read_bytes() if options.content else None
    except OSError as error:
        raise UsageError(f"--content: {options.content} cannot be read: {error.strerror}") from None
    if options.patience and sys.stderr is not None and sys.stderr.isatty():
        print("aiorelay: probing; measuring how long the API waits takes up to 90 s", file=sys.stderr)
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


def _webhooks_arguments(parser: Parser) -> None:
    parser.add_argument(
        "action",
        metavar="|".join(_WEBHOOK_ACTIONS),
        choices=_WEBHOOK_ACTIONS,
        help="list: print the events that were not accepted; send-again: send them again, by the relay that runs",
    )
    ids = parser.add_argument("ids", metavar="ID", nargs="*", help="with send-again, only these events")
    ids.required = False  # else argparse names it among what is missing


def _webhooks(options: argparse.Namespace) -> int:
    settings, _ = _settings(options)
    from aiorelay.cli.webhooks import listed, send_again  # noqa: PLC0415 - only this command needs it

    if not settings.state_dir.is_dir():
        raise StartupError(f"state-dir: {settings.state_dir} is no directory; give the state-dir of the relay")
    if options.action == "list":
        if options.ids:
            raise UsageError(f"unrecognized arguments: {options.ids[0]}; list takes no ID")
        for line in listed(settings.state_dir):
            print(_one_line(line))
        return 0
    sent, missing = send_again(settings.state_dir, options.ids)
    for identity in sent:
        print(identity)
    if missing:
        raise StartupError(f"ID: {', '.join(missing)}: there is no such dead letter; see aiorelay webhooks list")
    return 0


COMMANDS = {
    "serve": Command("serve rest1 and rest2 until SIGINT or SIGTERM (the default command)", _serve),
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
        "print the path of the generated CA certificate; generate it if it does not exist",
        _ca,
        lambda parser: parser.add_argument("--pem", action="store_true", help="print the certificate itself"),
    ),
    "token": Command(
        "make a token, and print it and its line for the token file",
        _token,
        lambda parser: parser.add_argument(
            "name", metavar="NAME", type=_token_name, help="name of the client, for the log"
        ),
        client=True,
    ),
    "config": Command(
        "print each setting, its value and its origin",
        _config,
        _config_arguments,
    ),
    "webhooks": Command(
        "list webhook events that were not accepted, or send them again", _webhooks, _webhooks_arguments
    ),
}


def _overview() -> str:
    lines = "".join(f"  {name:<9}{command.summary}\n" for name, command in COMMANDS.items())
    return (
        "usage: aiorelay [COMMAND] [OPTION | SETTING]...\n\n"
        "An upload relay that checks files while it streams them to an upload API.\n\n"
        f"commands:\n{lines}\n"
        "Run aiorelay COMMAND --help for the arguments of a command, aiorelay --version for the version.\n"
    )


def _fail(arguments: list[str], sentence: str, status: int) -> int:
    """Print ``sentence`` and where to find help as one line on stderr. Return ``status``."""
    word = arguments[0] if arguments else "serve"
    page = word if word in COMMANDS else "serve" if word.startswith("-") else ""
    help_command = " ".join(filter(None, ("aiorelay", page, "--help")))
    end = "" if sentence.endswith((".", "?")) else "."
    if sys.stderr is not None:
        print(_one_line(f"aiorelay: {sentence}{end} See {help_command}."), file=sys.stderr)
    return status


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _abandon_broken_stdout() -> None:
    """If stdout cannot be written, redirect it to the null device: the interpreter flushes it on exit."""
    try:
        sys.stdout.flush()
    except OSError:
        with Path(os.devnull).open("wb") as null:
            os.dup2(null.fileno(), sys.stdout.fileno())
