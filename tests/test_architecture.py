"""The layering: the direction of imports, the size of files, modules without I/O, who reads the environment."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import aiorelay

PACKAGE = Path(aiorelay.__file__).parent

# From the lowest floor up. A folder, or a module at the top of the package, imports from lower floors only. A new one
# belongs to the lowest floor that its imports allow.
FLOORS = (
    {"errors", "concurrency"},
    {"files", "observability"},
    {"http", "object_storage", "state"},
    {"multipart"},
    {"settings"},
    {"certificates", "checks"},
    {"sources"},
    {"webhooks"},
    {"rest1", "rest2"},
    {"server"},
    {"cli", "pytest_fixture"},
    {"__init__", "pytest_plugin"},
    {"__main__"},
)
FLOOR_OF = {folder: floor for floor, folders in enumerate(FLOORS) for folder in folders}

# Modules that decide do no I/O.
PURE = (
    "checks.archives.formats",
    "checks.archives.rules",
    "checks.icap.answers",
    "checks.icap.options",
    "checks.icap.requests",
    "checks.icap.threats",
    "checks.icap.transaction",
    "errors",
    "files.filenames",
    "http.credentials",
    "http.cross_origin",
    "http.fields",
    "http.grammar",
    "http.hop_by_hop",
    "http.own_hosts",
    "http.structured_fields",
    "multipart.form",
    "multipart.framing",
    "multipart.part_head",
    "object_storage.requests",
    "object_storage.signing",
    "rest1.keep_alive",
    "rest1.public_addresses",
    "rest1.rate_limits",
    "rest1.resumable.draft_fields",
    "rest1.resumable.tus_fields",
    "rest1.target",
    "sources.address_rules",
    "sources.fetch.ranges",
    "webhooks.events",
    "webhooks.queue",
    "webhooks.schedule",
)
IMPURE = {"asyncio", "os", "pathlib", "shutil", "socket", "ssl", "subprocess", "threading"}

READS_THE_ENVIRONMENT = {
    "observability.shared_metrics": "prometheus-client takes its directory from a variable, which is set there",
    "cli.main": "settings enter here",
    "settings.table": "the default of state-dir, which is a setting's own business",
}
MAY_BE_LARGE = {
    "cli.main": "the commands, each a few lines, beside the one table that lists them",
    "settings.table": "the settings, each a few lines",
}
MOST_LINES_OF_A_FUNCTION = 40
MOST_LINES_OF_A_MODULE = 300
MEANINGLESS = {"utils", "util", "common", "helpers", "helper", "core", "base", "misc"}


def modules() -> dict[str, Path]:
    """Return the syntax trees of all modules by name. A package has the name of its directory."""
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
    """Return the full names of all imports of a module, including the names imported ``from`` it."""
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
    """Return the modules of the package that a module imports."""
    own = {name.removeprefix("aiorelay.") for name in all_imports(module) if name.startswith("aiorelay.")}
    return frozenset((own & MODULES.keys()) - {module})


def reached(start: str) -> set[str]:
    """Return the modules that a module imports, directly or indirectly."""
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
    """Yield each function of a module with its number of lines, without the docstring."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield f"{module}.{node.name}", node.end_lineno - node.lineno + 1 - docstring_lines(node)


def docstring_lines(node: ast.AST) -> int:
    if ast.get_docstring(node, clean=False) is None:
        return 0
    return node.body[0].end_lineno - node.body[0].lineno + 1


def code_lines(module: str) -> int:
    """Count the lines of a module that are neither blank nor comment nor docstring."""
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


def test_the_docstring_of_a_folder_names_its_files():
    folders = {module for module in MODULES if MODULES[module].name == "__init__.py" and module != "__init__"}
    missing = sorted(
        module
        for module in MODULES
        if (parent := module.rpartition(".")[0]) in folders
        and module.rpartition(".")[2] not in (ast.get_docstring(tree(parent)) or "")
    )
    assert not missing


def test_there_is_no_import_cycle():
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


def test_pure_modules_do_no_io():
    impure = {module: {name.split(".")[0] for name in all_imports(module)} & IMPURE for module in PURE}
    assert not {module: names for module, names in impure.items() if names}


def test_the_environment_is_read_by_the_command_line_only():
    read = {"environ", "environb", "getenv", "getenvb"}

    def uses(module: str) -> set[str]:
        names = {node.attr for node in ast.walk(tree(module)) if isinstance(node, ast.Attribute)}
        return (names | {name.rpartition(".")[2] for name in all_imports(module) if name.startswith("os.")}) & read

    assert {module for module in MODULES if uses(module)} == READS_THE_ENVIRONMENT.keys()


def test_no_module_has_a_vague_name():
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
