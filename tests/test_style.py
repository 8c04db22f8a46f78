"""The style of texts: problem details and titles, settings named in documents, and banned phrasings.

Each rule is one assertion that names all offenders.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import aiorelay
from aiorelay import errors
from aiorelay.errors import Problem
from aiorelay.observability.metrics import Metrics
from aiorelay.settings import SETTINGS

PACKAGE = Path(aiorelay.__file__).parent
ROOT = PACKAGE.parent
DOCUMENTS = [ROOT / name for name in ("README.md", "SECURITY.md", "CHANGELOG.md")] + sorted((ROOT / "docs").iterdir())

PROBLEMS = {name: each for name, each in vars(errors).items() if isinstance(each, type) and issubclass(each, Problem)}
CODES = {each.code for each in PROBLEMS.values() if hasattr(each, "code")}

# Flags in documents that belong to no setting, by the program that has them.
OTHER_FLAGS = {
    "aiorelay": {"config"},
    "twine": {"repository-url"},
    "aiorelay config": {"completion", "example"},
    "aiorelay probe": {"content", "filename", "form", "no-patience"},
    "aiorelay send": {"file-field", "to"},
    "curl": {"cacert", "json", "retry", "retry-connrefused"},
    "docker": {"from", "no-cache-dir"},
    "gunicorn": {"timeout"},
    "podman": {"cap-drop", "env", "file", "name", "publish", "read-only", "stop-timeout", "tag", "tmpfs", "volume"},
    "python -m http.server": {"bind"},
    "scripts/cluster": {"soak"},
    "systemd": {"follow", "now", "offline", "unit"},
    "a boundary": {"boundary"},
}
OTHER_VARIABLES = {"AIORELAY_CONFIG"}  # names the settings file
OTHER_KEYS = {
    "aiorelay_server",
    "client_body_timeout",
    "media_type",
    "proxy_read_timeout",
    "proxy_ssl_certificate",
    "proxy_ssl_certificate_key",
    "request_id",
}

# Phrasings that need a second reading, and what to write instead.
BANNED = {
    r"\b[Ww]hoever\b": "the role",
    r"\b[Ww]homever\b": "the role",
    r"\b[Nn]obody's\b": "the owner, or 'no …'",
    r"\bif for nobody\b": "what happens",
    r"\b[Nn]obody in particular\b": "the user",
    r"\b[Ll]est\b": "so that … not",
    r"\b(?:as|what) (?:it|they) likes?\b": "what it does",
    r"\bkeeps? (?:its|their) word\b": "is true",
    r"\b(?:lose|loses) patience\b": "times out",
    r"\b(?:speaks?|tells?) of\b": "says, or describes",
    r"\bnought\b": "0",
    r"\bseemly\b": "expected",
    r"\btakes along\b": "what fails",
}


def sources() -> Iterator[tuple[str, ast.Module, str]]:
    """Every module of the package: its path, syntax tree and text."""
    for path in sorted(PACKAGE.rglob("*.py")):
        text = path.read_text()
        yield str(path.relative_to(ROOT)), ast.parse(text), text


def literal_end(node: ast.expr) -> str | None:
    """The text at the end of a string or f-string; None if the end is not a literal."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=[*_, last]):
            return literal_end(last)
        case ast.BinOp(op=ast.Add(), right=right):
            return literal_end(right)
    return None


def endings(node: ast.expr) -> Iterator[ast.expr]:
    """The alternatives of a conditional expression, or the expression itself."""
    if isinstance(node, ast.IfExp):
        yield from endings(node.body)
        yield from endings(node.orelse)
    else:
        yield node


def details(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The line and the literal end of each ``detail`` that is passed to a problem in this module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.args and ast.unparse(node.func).removeprefix("errors.") in PROBLEMS:
            for each in endings(node.args[0]):
                end = literal_end(each)
                if end is not None:
                    yield each.lineno, end


def prose(tree: ast.Module, text: str) -> Iterator[tuple[int, str]]:
    """The docstrings and comments of a module, each with its first line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node.lineno, " ".join(node.value.value.split())
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def test_every_detail_of_a_problem_ends_with_a_full_stop():
    found = [(f"{path}:{line}", end) for path, tree, _ in sources() for line, end in sorted(details(tree))]
    assert len(found) > 50
    offenders = [f"{where}: …{end[-60:]}" for where, end in found if not end.endswith((".", "…?"))]
    assert not offenders, "\n".join(offenders)


def test_every_title_is_a_phrase_without_a_full_stop():
    titles = {name: each.title for name, each in PROBLEMS.items() if hasattr(each, "title")}
    assert titles
    offenders = [f"{name}: {title}" for name, title in titles.items() if not re.fullmatch("[A-Z].*[^.!?]", title)]
    assert not offenders, "\n".join(offenders)


def test_documents_name_no_setting_that_does_not_exist():
    flags = {each.flag.removeprefix("--") for each in SETTINGS.values()}.union(*OTHER_FLAGS.values())
    flags |= {f"no-{each.key}" for each in SETTINGS.values() if each.is_switch}
    metrics = set(re.findall(r"^# TYPE (\w+)", Metrics().render().decode(), re.MULTILINE))
    variables = {each.variable for each in SETTINGS.values()} | OTHER_VARIABLES
    names = {each.flag.removeprefix("--") for each in SETTINGS.values()} | CODES
    offenders = [
        f"{path.name}: {name}"
        for path in DOCUMENTS
        for pattern, known in (
            (r"(?<![\w-])--([a-z][\w-]+)", flags),
            (r"\b(AIORELAY_[A-Z]\w+)", variables),
            (r"`([a-z0-9]+(?:-[a-z0-9]+)+)`", names),
            (r"`([a-z0-9]+(?:_[a-z0-9]+)+)(?: = [^`]*)?`", SETTINGS.keys() | OTHER_KEYS | metrics),
        )
        for name in re.findall(pattern, path.read_text())
        if name not in known
    ]
    assert not offenders, "\n".join(offenders)


def test_no_text_has_a_banned_phrasing():
    texts = [(f"{path}:{line}", words) for path, tree, text in sources() for line, words in prose(tree, text)]
    texts += [
        (f"{path.relative_to(ROOT)}:{line}", words)
        for path in DOCUMENTS
        for line, words in enumerate(path.read_text().splitlines(), 1)
    ]
    offenders = [
        f"{where}: {found[0]!r}; say {instead}"
        for where, words in texts
        for pattern, instead in BANNED.items()
        if (found := re.search(pattern, words))
    ]
    assert not offenders, "\n".join(offenders)
