"""The layering: imports point down only, files are small, what decides is pure, the environment is read at the top."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import aiorelay

PACKAGE = Path(aiorelay.__file__).parent

# From the ground up. A folder, or a module at the top of the package, imports from lower floors only. A new one goes
# on the lowest floor that its imports allow.
FLOORS = (
    {"errors", "concurrency"},
    {"files", "observability"},
    {"http", "multipart"},
    {"settings"},
    {"certificates", "checks"},
    {"sources"},
    {"rest1", "rest2"},
    {"server"},
    {"cli", "pytest_fixture"},
    {"__init__", "pytest_plugin"},
    {"__main__"},
)
FLOOR_OF = {folder: floor for floor, folders in enumerate(FLOORS) for folder in folders}

# What decides does no I/O, and so needs none of these.
PURE = (
    "checks.archives.formats",
    "checks.archives.rules",
    "errors",
    "files.filenames",
    "http.fields",
    "http.hop_by_hop",
    "multipart.form",
    "multipart.framing",
    "multipart.part_head",
    "rest1.keep_alive",
    "rest1.resumable.draft_fields",
    "rest1.resumable.tus_fields",
    "sources.address_rules",
    "sources.fetch.ranges",
)
IMPURE = {"asyncio", "os", "pathlib", "shutil", "socket", "ssl", "subprocess", "threading"}

READS_THE_ENVIRONMENT = {
    "cli.main": "settings enter here",
    "settings.table": "the default of state-dir, which is a setting's own business",
}
MAY_BE_LARGE = {
    "cli.main": "the commands, each a few lines, beside the one table that lists them",
}
MOST_LINES_OF_A_FUNCTION = 40
MOST_LINES_OF_A_MODULE = 300
MEANINGLESS = {"utils", "util", "common", "helpers", "helper", "core", "base", "misc"}


def modules() -> dict[str, Path]:
    """Every module by its name below the package; a package has the name of its directory."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts
        found[".".join(parts)] = path
    return found


MODULES = modules()


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


@cache
def all_imports(module: str) -> frozenset[str]:
    """Full names of what a module imports, wherever in it, with what it takes ``from`` it."""
    found = set()
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


@cache
def imports(module: str) -> frozenset[str]:
    """Which modules of the package one imports."""
    own = {name.removeprefix("aiorelay.") for name in all_imports(module) if name.startswith("aiorelay.")}
    return frozenset((own & MODULES.keys()) - {module})


def reached(start: str) -> set[str]:
    """Every module that one imports, if only by way of others."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for module in imports(waiting.pop()) - seen:
            seen.add(module)
            waiting.append(module)
    return seen


def folder(module: str) -> str:
    return module.partition(".")[0]


def functions(module: str) -> Iterator[tuple[str, int]]:
    """Each function of a module, with its lines from ``def`` on, the docstring's not among them."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{module}.{node.name}", node.end_lineno - node.lineno + 1 - docstring_lines(node)


def docstring_lines(node: ast.AST) -> int:
    if ast.get_docstring(node, clean=False) is None:
        return 0
    return node.body[0].end_lineno - node.body[0].lineno + 1


def code_lines(module: str) -> int:
    """Lines of a module that are neither blank nor comment nor docstring."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    in_docstrings = {
        line
        for node in ast.walk(tree(module))
        if isinstance(node, documented) and docstring_lines(node)
        for line in range(node.body[0].lineno, node.body[0].end_lineno + 1)
    }
    lines = enumerate(MODULES[module].read_text().splitlines(), 1)
    return sum(
        bool(line.strip()) and not line.strip().startswith("#") and number not in in_docstrings
        for number, line in lines
    )


def test_folders_import_from_lower_folders_only():
    unplaced = {folder(module) for module in MODULES} - FLOOR_OF.keys()
    assert not unplaced
    offenders = sorted(
        f"{module} imports {other}"
        for module in MODULES
        for other in imports(module)
        if folder(other) != folder(module) and FLOOR_OF[folder(other)] >= FLOOR_OF[folder(module)]
    )
    assert not offenders


def test_no_module_imports_itself_by_way_of_others():
    assert not [module for module in MODULES if module in reached(module)]


def test_rest1_and_rest2_meet_over_https_only():
    pairs = (("rest1", "rest2"), ("rest2", "rest1"), ("rest2", "sources"))
    offenders = sorted(
        f"{module} reaches {other}"
        for here, there in pairs
        for module in MODULES
        if folder(module) == here
        for other in reached(module)
        if folder(other) == there
    )
    assert not offenders


def test_what_decides_does_no_io():
    impure = {module: {name.split(".")[0] for name in all_imports(module)} & IMPURE for module in PURE}
    assert not {module: names for module, names in impure.items() if names}


def test_the_environment_is_read_by_the_command_line_only():
    read = {"environ", "environb", "getenv", "getenvb"}

    def uses(module: str) -> set[str]:
        names = {node.attr for node in ast.walk(tree(module)) if isinstance(node, ast.Attribute)}
        return (names | {name.rpartition(".")[2] for name in all_imports(module) if name.startswith("os.")}) & read

    assert {module for module in MODULES if uses(module)} == READS_THE_ENVIRONMENT.keys()


def test_every_name_of_a_module_says_what_is_in_it():
    assert not [module for module in MODULES if set(module.split(".")) & MEANINGLESS]


def test_no_state_is_global():
    assert not [m for m in MODULES if any(isinstance(node, ast.Global) for node in ast.walk(tree(m)))]


def test_functions_are_small():
    lengths = (each for module in MODULES for each in functions(module))
    assert not {name: lines for name, lines in lengths if lines > MOST_LINES_OF_A_FUNCTION}


def test_modules_are_small():
    too_large = {module: lines for module in MODULES if (lines := code_lines(module)) > MOST_LINES_OF_A_MODULE}
    assert too_large.keys() <= MAY_BE_LARGE.keys(), too_large


def test_every_module_has_a_docstring():
    assert [module for module in MODULES if not ast.get_docstring(tree(module))] == ["__main__"]
