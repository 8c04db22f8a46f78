"""The contents of the distributions, and their installation with only the declared dependencies."""

import asyncio
import json
import os
import re
import shlex
import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import BytesParser
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from processes import FREE_PORTS, started
from programs import missing, program

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
NAME = f"aiorelay-{distribution('aiorelay').version}"
INFO = f"{NAME}.dist-info"
SWAGGER_UI = "aiorelay/rest1/web/assets/swagger-ui"
LICENCES = {"LICENSE", *(f"{SWAGGER_UI}/{name}" for name in ("LICENSE", "NOTICE", "swagger-ui-bundle.js.LICENSE.txt"))}
# Code, assets of the pages, their origins and licences, and the marker of types (PEP 561).
KINDS = {".py", ".html", ".js", ".css", ".svg", ".txt", "LICENSE", "NOTICE", "ORIGIN", "py.typed"}


def built(source: Path, kind: str, directory: Path) -> Path:
    """A distribution of a source tree: a ``wheel`` or an ``sdist``."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", directory]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (path,) = directory.iterdir()
    return path


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    return built(ROOT, "wheel", tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    return built(ROOT, "sdist", tmp_path_factory.mktemp("sdist"))


def files(archive: Path) -> set[str]:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as zipped:
            return set(zipped.namelist())
    with tarfile.open(archive) as packed:
        return {member.name for member in packed if member.isfile()}


def below(directory: Path) -> set[str]:
    """Return the files of a directory without caches, as paths relative to the root of the project."""
    found = (path for path in directory.rglob("*") if path.is_file() and path.parent.name != "__pycache__")
    return {str(path.relative_to(ROOT)) for path in found}


def test_the_wheel_contains_the_package_and_its_licences(wheel):
    about = {f"{INFO}/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}
    licences = {f"{INFO}/licenses/{name}" for name in LICENCES}
    assert files(wheel) == below(ROOT / "aiorelay") | about | licences


def test_the_package_contains_files_of_known_kinds_only(wheel):
    ours = {Path(name) for name in files(wheel) if not name.startswith(INFO)}
    assert {path.suffix if path.suffix in KINDS else path.name for path in ours} == KINDS
    assert not [path for path in ours if re.match("test_|conftest", path.name)]


@pytest.mark.needs("git")
def test_the_sdist_contains_the_project(sdist):
    if not (ROOT / ".git").exists():
        missing("The project is no clone.")
    tracked = subprocess.run(
        [program("git"), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\0")[:-1]
    # The CI configuration belongs to the repository only.
    ours = {name for name in tracked if not name.startswith(".ci/") and (ROOT / name).exists()}
    assert files(sdist) == {f"{NAME}/{name}" for name in ours | {"PKG-INFO"}}


def test_the_wheel_built_from_the_sdist_is_identical(wheel, sdist, tmp_path):
    with tarfile.open(sdist) as packed:
        packed.extractall(tmp_path, filter="data")
    again = built(tmp_path / NAME, "wheel", tmp_path / "dist")
    assert again.read_bytes() == wheel.read_bytes()


def test_the_metadata_lists_all_licences_and_five_dependencies(wheel):
    with zipfile.ZipFile(wheel) as zipped:
        metadata = BytesParser().parsebytes(zipped.read(f"{INFO}/METADATA"))
    assert metadata["License-Expression"] == "MIT AND Apache-2.0"
    assert set(metadata.get_all("License-File")) == LICENCES
    wanted = [Requirement(text) for text in metadata.get_all("Requires-Dist")]
    core = {each.name for each in wanted if each.marker is None}
    assert core == {"aiohttp", "http-sf", "prometheus-client", "tqdm", "trustme"}


# -- installed


def closure(name: str, known: set[str]) -> set[str]:
    """Return the names of all dependencies of a distribution, without extras."""
    for text in distribution(name).requires or []:
        requirement = Requirement(text)
        needed = canonicalize_name(requirement.name)
        if needed not in known and (requirement.marker is None or requirement.marker.evaluate({"extra": ""})):
            known.add(needed)
            closure(needed, known)
    return known


@pytest.fixture(scope="module")
def python(wheel, tmp_path_factory):
    """The Python of an environment with the wheel and links to its installed dependencies, without network."""
    home = tmp_path_factory.mktemp("installed")
    venv.create(home, with_pip=False)
    (packages,) = home.glob("lib/python3*/site-packages")
    for name in closure("aiorelay", set()):
        borrowed = distribution(name)
        for top in {Path(file).parts[0] for file in borrowed.files} - {"..", "__pycache__"}:
            (packages / top).symlink_to(borrowed.locate_file(top))
    pip = [sys.executable, "-m", "pip", "--python", home / "bin/python", "--disable-pip-version-check"]
    subprocess.run([*pip, "install", "--quiet", "--no-index", "--no-deps", wheel], check=True, capture_output=True)
    subprocess.run([*pip, "check"], check=True, capture_output=True)
    return home / "bin/python"


def said(*command, cwd):
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def stored(answer):
    """Return the content of the stored file in an answer of the embedded API."""
    return Path(json.loads(answer)["path"]).read_bytes()


def test_every_module_can_be_imported_with_the_core_alone(python, tmp_path):
    # Except the two modules of the plugin, which only pytest imports, and the program that scans with an extra.
    script = """
import importlib, pkgutil, aiorelay
for module in pkgutil.walk_packages(aiorelay.__path__, "aiorelay."):
    if module.name not in {"aiorelay.pytest_plugin", "aiorelay.pytest_fixture", "aiorelay.checks.yara.process"}:
        importlib.import_module(module.name)
print(aiorelay.__file__)
"""
    said_by = said(python, "-W", "error", "-c", script, cwd=tmp_path)
    assert Path(said_by.strip()).is_relative_to(python.parent.parent)


def test_the_package_imports_nothing_of_pytest(tmp_path):
    script = (
        "import sys, aiorelay.cli.main, aiorelay.server.lifecycle; print([m for m in sys.modules if 'pytest' in m])"
    )
    assert said(sys.executable, "-c", script, cwd=tmp_path) == "[]\n"


def test_pytest_without_asyncio_fails_only_tests_that_use_the_fixture(python, tmp_path):
    (tmp_path / "test_stranger.py").write_text("""
import sys

def test_without_the_fixture():
    assert not {"aiohttp", "aiorelay.server.lifecycle", "pytest_asyncio"} & sys.modules.keys()

def test_with_the_fixture(aiorelay_server):
    raise AssertionError("it is not given")
""")
    # pytest and its dependencies, without plugins.
    needed = ("pytest", *closure("pytest", set()))
    borrowed = {Path(file).parts[0] for name in needed for file in distribution(name).files}
    (tmp_path / "borrowed").mkdir()
    for top in borrowed - {"..", "__pycache__"}:
        (tmp_path / "borrowed" / top).symlink_to(distribution("pytest").locate_file(top))
    done = subprocess.run(
        [python, "-m", "pytest", "-p", "no:cacheprovider", "test_stranger.py"],
        cwd=tmp_path,
        env={"PATH": os.defpath, "PYTHONPATH": str(tmp_path / "borrowed")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "\naiorelay_server needs pytest-asyncio. Run: pip install pytest-aiohttp.\n" in done.stdout


def test_the_command_is_installed(python, tmp_path):
    version = said(python.parent / "aiorelay", "--version", cwd=tmp_path)
    assert version == f"{NAME.replace('-', ' ')}\n"


def test_otel_without_its_extra_is_a_startup_error(python, tmp_path):
    command = [python, "-m", "aiorelay", "--otel", *FREE_PORTS, "--state-dir", tmp_path]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    advice = (
        "aiorelay: otel: OpenTelemetry is not installed. Run: pip install 'aiorelay[otel]'. See aiorelay serve --help."
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{advice}\n")


def test_jwks_without_its_extra_is_a_startup_error(python, tmp_path):
    options = ("--jwks", "jwks.json", "--jwt-issuer", "a", "--jwt-audience", "b")
    command = [python, "-m", "aiorelay", *options, *FREE_PORTS, "--state-dir", tmp_path]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    advice = "aiorelay: jwks: PyJWT is not installed. Run: pip install 'aiorelay[jwt]'. See aiorelay serve --help."
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{advice}\n")


def test_yara_without_its_extra_is_a_startup_error(python, tmp_path):
    command = [python, "-m", "aiorelay", "--yara", tmp_path, *FREE_PORTS, "--state-dir", tmp_path]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    advice = "aiorelay: yara: yara-x is not installed. Run: pip install 'aiorelay[yara]'. See aiorelay serve --help."
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"{advice}\n")


@pytest.mark.needs("curl")
async def test_the_installed_relay_serves_and_stops(python, tmp_path):
    arguments = [*FREE_PORTS, "--state-dir", tmp_path / "state", "--store", tmp_path / "store"]
    async with started(*arguments, python=python, cwd=tmp_path) as process:
        curl = await asyncio.create_subprocess_exec(
            *shlex.split(process.curl), "-sS", stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
        )
        answer, _ = await curl.communicate()
        assert stored(answer) == process.ca.read_bytes()
        assert await process.stop() == 0
