"""Compile YARA rules, or scan files with them. This is the script of a process; the relay does not import it.

    process.py compile RULES              reads a job from stdin, writes a result to stdout (both JSON)
    process.py scan RULES SOCKET SECONDS  answers each message on SOCKET: a file's descriptor and its variables (JSON)

RULES is the descriptor of a file, to which compiled rules are written and from which they are read.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yara_x

# The external variables that public rules use. Only the first two have values.
_VARIABLES = ("filename", "extension", "filepath", "filetype", "owner")
_LONGEST_ERROR = 1000  # characters
_MOST_MATCHES = 100
_LONGEST_MESSAGE = 64 * 1024


def main(mode: str, rules: str, *others: str) -> None:
    """Run one of the modes to its end. A signal to the relay's process group does not end the process."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    if mode == "compile":
        job = json.load(sys.stdin)
        json.dump(_compiled(job["files"], job["folders"], int(rules)), sys.stdout)
    else:
        _scan(int(rules), *map(int, others))


def _compiled(files: Iterable[str], folders: Iterable[str], rules_fd: int) -> dict[str, Any]:
    """Compile ``files``, each as a namespace of its own. Includes are looked for in ``folders``."""
    try:
        return _compile(files, folders, rules_fd)
    except BaseException as error:  # noqa: BLE001 - a panic of yara-x is one
        return {"error": _shortened(str(error))}


def _compile(files: Iterable[str], folders: Iterable[str], rules_fd: int) -> dict[str, Any]:
    compiler = yara_x.Compiler()
    for variable in _VARIABLES:
        compiler.define_global(variable, "")
    for folder in folders:
        compiler.add_include_dir(folder)
    for path in files:
        compiler.new_namespace(path)
        try:
            compiler.add_source(Path(path).read_text("utf-8-sig"), path)
        except OSError as error:
            return {"error": f"{path} cannot be read: {error.strerror}"}
        except UnicodeDecodeError:
            return {"error": f"{path} is not UTF-8"}
        except yara_x.CompileError:
            return {"error": _shortened(_place_and_fault(compiler.errors()[0]))}
    rules = compiler.build()
    with os.fdopen(rules_fd, "wb") as file:
        rules.serialize_into(file)
    return {"rules": sum(1 for _ in rules)}


def _place_and_fault(error: Mapping[str, Any]) -> str:
    """Return a compiler's error as ``FILE, line N: what is wrong``."""
    label = error["labels"][0] if error["labels"] else {}
    # Included files are named relative to the working directory, which is the root.
    origin = Path("/", label.get("code_origin") or "")
    text = f": {label['text']}" if label.get("text") else ""
    return f"{origin}, line {label.get('line', error.get('line'))}: {error['title']}{text}"


def _shortened(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST_ERROR else f"{line[:_LONGEST_ERROR]}..."


def _scan(rules_fd: int, socket_fd: int, seconds: int) -> None:
    """Scan until the relay closes the socket or ends."""
    with Path(f"/dev/fd/{rules_fd}").open("rb") as file:  # opened anew: processes would share the position of RULES
        rules = yara_x.Rules.deserialize_from(file)
    with socket.socket(fileno=socket_fd) as relay:
        while True:
            message, descriptors, _, _ = socket.recv_fds(relay, _LONGEST_MESSAGE, 1)
            if not message:
                return
            relay.send(json.dumps(_result(rules, descriptors[0], json.loads(message), seconds)).encode())
            os.close(descriptors[0])


def _result(rules: yara_x.Rules, file: int, variables: Mapping[str, str], seconds: int) -> dict[str, Any]:
    try:
        scanner = yara_x.Scanner(rules)
        scanner.set_timeout(seconds)
        scanner.fast_scan(True)
        for name, value in variables.items():
            scanner.set_global(name, value)
        matching = scanner.scan_file(f"/dev/fd/{file}").matching_rules  # mapped into memory, not read
        return {"matches": [rule.identifier for rule in matching[:_MOST_MATCHES]]}
    except BaseException as error:  # noqa: BLE001 - a panic of yara-x is one
        return {"error": f"{type(error).__name__}: {_shortened(str(error))}"}


if __name__ == "__main__":
    main(*sys.argv[1:])
