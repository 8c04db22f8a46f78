"""The programs that tests run, and their Debian packages.

A test declares the programs that it runs: ``@pytest.mark.needs("nginx")``, or ``pytestmark`` for a whole module.
``scripts/test`` installs the programs of the chosen tests. ``--quick`` leaves out every test that declares one.
"""

import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

import pytest

PACKAGES: Mapping[str, str] = {
    "7z": "p7zip-full",
    "apache2": "apache2-bin",
    "bsdtar": "libarchive-tools",
    "c-icap": "libc-icap-mod-virus-scan",
    "caddy": "caddy",
    "chromedriver": "chromium-driver",
    "chromium": "chromium",
    "clamd": "clamav-daemon",
    "curl": "curl",
    "git": "git",
    "go": "golang-go",
    "haproxy": "haproxy",
    "jar": "default-jdk-headless",
    "javac": "default-jdk-headless",
    "libmagic": "libmagic1",  # a library, which has no command
    "lz4": "lz4",
    "nginx": "nginx-light",
    "node": "nodejs",
    "npm": "npm",  # means the packages of tests/node, which npm installs
    "openssl": "openssl",
    "php": "php-cli",
    "php-cgi": "php-cgi",
    "redis-server": "redis-server",
    "slowhttptest": "slowhttptest",
    "strace": "strace",
    "systemd-analyze": "systemd",
    "unzip": "unzip",
    "zip": "zip",
    "zsh": "zsh",
    "zstd": "zstd",
}
"""The Debian package of each program."""

NODE_MODULES = Path(__file__).parent / "node" / "node_modules"
_ASKED = "aiorelay.tests.program"


def program(name: str) -> str:
    """Return the path of a program. If it is missing, fail in CI and skip elsewhere."""
    sys.audit(_ASKED, name)
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if path is None:
        missing(f"{name} is not installed.")
    return path


def node_script(name: str) -> tuple[str, Path]:
    """Return the command for a script of tests/node. If its packages are missing, fail in CI and skip elsewhere."""
    sys.audit(_ASKED, "npm")
    if not NODE_MODULES.is_dir():
        missing("The packages of tests/node are not installed.")
    return program("node"), NODE_MODULES.parent / name


def missing(reason: str) -> NoReturn:
    """Fail in CI and skip elsewhere."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)


def needs(item: pytest.Item) -> set[str]:
    """Return the programs that a test declares."""
    names = {name for marker in item.iter_markers("needs") for name in marker.args}
    if unknown := names - PACKAGES.keys():
        raise pytest.UsageError(f"{item.nodeid}: not in tests/programs.py: {', '.join(sorted(unknown))}")
    return names


def listed(items: Iterable[pytest.Item]) -> str:
    """Return the needs of tests for ``programs`` in scripts/environment: one package and its command a line."""
    names = sorted(set().union(*map(needs, items)))
    return "".join(f"{PACKAGES[name]}{'' if name == 'libmagic' else f' {name}'}\n" for name in names)


class DeclaredPrograms:
    """A plugin that fails a test which runs a program of the table without declaring it."""

    def __init__(self) -> None:
        self._needs: set[str] | None = None
        sys.addaudithook(self._check)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._needs = needs(item)
        try:
            return (yield)
        finally:
            self._needs = None

    def _check(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self._needs is None or event not in {_ASKED, "subprocess.Popen"}:
            return
        name = Path(os.fsdecode(arguments[0])).name
        if name in PACKAGES and name not in self._needs:
            raise AssertionError(f'The test runs {name} without declaring it: @pytest.mark.needs("{name}")')
