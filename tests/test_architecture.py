"""The house: imports point down only, pieces are small, what decides is pure, the environment is read at the top."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import aiorelay

HOUSE = Path(aiorelay.__file__).parent

# From the ground up; a room (a module, or a package as one) imports from lower floors only. Whoever adds a room gives
# it a floor here: the lowest that what it imports allows.
FLOORS = (
    {"errors", "answers", "upload", "allocator", "filenames", "threads", "guard", "hops", "pace", "prefer", "pages"}
    | {"completion", "endings", "expectation", "plain_http", "keep_alive", "presence", "records", "watchdog"},
    {"settings", "telemetry", "tls", "head", "fetch", "local", "writer", "headers", "openapi", "pieces"},
    {"form", "framing", "recorded", "passed_back", "problems", "spool", "store", "job_files", "ambiguity"}
    | {"access", "acceptor", "identity", "metrics", "tracing"},
    {"checks", "jobs", "listeners", "held_back", "upstream_connection"},
    {"upstream"},
    {"body", "sources", "delivery", "job_routes", "tally"},
    {"intake", "rest2"},
    {"rest1"},
    {"premises"},
    {"server"},
    {"__init__", "client", "probe", "pytest_plugin", "pytest_fixture"},
    {"cli"},
    {"__main__"},
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}

# What decides does no I/O, and so needs none of these.
PURE = {"errors", "upload", "filenames", "guard", "headers", "hops", "head", "framing", "pace"}
PURE |= {"keep_alive", "fetch.ranges"}
IMPURE = {"asyncio", "os", "pathlib", "shutil", "socket", "ssl", "subprocess", "threading"}

READS_THE_ENVIRONMENT = {
    "cli": "where settings enter",
    "settings.table": "the default of state-dir, which is a setting's own business",
}
MAY_BE_LONG: dict[str, str] = {}
MAY_BE_LARGE = {
    "cli": "the commands, each a few lines, beside the one table that lists them",
}
MOST_LINES_OF_A_FUNCTION = 40
MOST_LINES_OF_A_MODULE = 300


def modules() -> dict[str, Path]:
    """Every module by its name below the package; a package has the name of its directory."""
    found = {}
    for path in sorted(HOUSE.rglob("*.py")):
        relative = path.relative_to(HOUSE).with_suffix("")
        parts = relative.parts[:-1] if relative.name == "__init__" and len(relative.parts) > 1 else relative.parts
        found[".".join(parts)] = path
    return found


MODULES = modules()
ROOMS = sorted({name.split(".")[0] for name in MODULES})


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def all_imports(module: str) -> Iterator[str]:
    """Full names of what a module imports, wherever in it, with what it takes ``from`` it."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@cache
def imports(module: str) -> frozenset[str]:
    """Which of our own modules one imports."""
    own = {name.removeprefix("aiorelay.") for name in all_imports(module) if name.startswith("aiorelay.")}
    return frozenset((own & MODULES.keys()) - {module})


def rooms_of(room: str) -> set[str]:
    """Which rooms a room imports."""
    inside = [module for module in MODULES if module.split(".")[0] == room]
    return {name.split(".")[0] for module in inside for name in imports(module)} - {room}


def reached(start: str) -> set[str]:
    """Every module that one imports, if only by way of others."""
    seen: set[str] = set()
    waiting = [start]
    while waiting:
        for module in imports(waiting.pop()) - seen:
            seen.add(module)
            waiting.append(module)
    return seen


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
    docstrings = sum(docstring_lines(node) for node in ast.walk(tree(module)) if isinstance(node, documented))
    lines = [line.strip() for line in MODULES[module].read_text().splitlines()]
    blank_in_docstrings = sum(
        not line.strip()
        for node in ast.walk(tree(module))
        if isinstance(node, documented)
        for line in (ast.get_docstring(node, clean=False) or "").splitlines()
    )
    return sum(bool(line) and not line.startswith("#") for line in lines) - docstrings + blank_in_docstrings


def test_every_room_has_a_floor():
    assert set(ROOMS) - FLOOR_OF.keys() == set()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_from_lower_floors_only(room):
    here = FLOOR_OF[room]
    assert {other for other in rooms_of(room) if FLOOR_OF[other] >= here} == set()


@pytest.mark.parametrize("module", MODULES)
def test_no_module_imports_itself_by_way_of_others(module):
    assert module not in reached(module)


def test_rest1_and_rest2_meet_over_https_only():
    assert not reached("rest1") & {"rest2", "store"}
    assert not reached("rest2") & {"rest1", "upstream", "sources", "spool"}


@pytest.mark.parametrize("module", sorted(PURE))
def test_what_decides_does_no_io(module):
    assert {name.split(".")[0] for name in all_imports(module)} & IMPURE == set()


@pytest.mark.parametrize("module", [module for module in MODULES if module not in READS_THE_ENVIRONMENT])
def test_the_environment_is_read_by_the_command_line_only(module):
    read = {"environ", "environb", "getenv", "getenvb"}
    names = {node.attr for node in ast.walk(tree(module)) if isinstance(node, ast.Attribute)}
    taken = {name.rpartition(".")[2] for name in all_imports(module) if name.startswith("os.")}
    assert (names | taken) & read == set()


@pytest.mark.parametrize("module", MODULES)
def test_no_room_is_a_lumber_room(module):
    lumber = {"utils", "util", "common", "helpers", "helper", "core", "base", "misc"}
    assert set(module.split(".")) & lumber == set()


@pytest.mark.parametrize("module", MODULES)
def test_no_state_is_global(module):
    assert not [node for node in ast.walk(tree(module)) if isinstance(node, ast.Global)]


@pytest.mark.parametrize("module", MODULES)
def test_functions_are_small(module):
    too_long = {name: lines for name, lines in functions(module) if lines > MOST_LINES_OF_A_FUNCTION}
    assert too_long.keys() - MAY_BE_LONG.keys() == set(), too_long


@pytest.mark.parametrize("module", [module for module in MODULES if module not in MAY_BE_LARGE])
def test_modules_are_small(module):
    assert code_lines(module) <= MOST_LINES_OF_A_MODULE


@pytest.mark.parametrize("module", [module for module in MODULES if module != "__main__"])
def test_every_module_says_what_it_is(module):
    assert ast.get_docstring(tree(module))
