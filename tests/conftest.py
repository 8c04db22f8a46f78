"""Fixtures that several tests share, and the options of ``scripts/test``."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from hypothesis import settings
from peers import Recorder, Script
from programs import DeclaredPrograms, listed
from real_apis import BUCKET, ENVIRONMENT, nanio, object_store
from upstream_servers import PROGRAMS, UploadApi, running

NOT_QUICK = re.compile(r"^pytestmark = pytest\.mark\.(slow|needs)\b", re.MULTILINE)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("aiorelay's own tests")
    group.addoption("--quick", action="store_true", help="only tests that need no program and are not marked slow")
    group.addoption(
        "--write-needs", type=Path, metavar="FILE", help="write the Debian packages that the chosen tests need"
    )


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(DeclaredPrograms())
    if config.option.quick:
        settings.register_profile("quick", max_examples=20)
        settings.load_profile("quick")


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With --quick, do not import a module that is marked as a whole: its imports may not be installed."""
    if config.option.quick and collection_path.match("test_*.py") and NOT_QUICK.search(collection_path.read_text()):
        return True
    return None


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if isinstance(item, pytest.Function) and "upload_api" in item.fixturenames:
            item.add_marker(pytest.mark.needs(*PROGRAMS))
    if config.option.quick:
        left_out = [item for item in items if is_slow(item)]
        items[:] = [item for item in items if not is_slow(item)]
        config.hook.pytest_deselected(items=left_out)


def is_slow(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in ("slow", "needs"))


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Make an id that can be typed from the words in a value. Binary data gets a number."""
    if not isinstance(val, str | bytes | dict | int) or isinstance(val, bool):
        return None
    text = val.decode("latin-1") if isinstance(val, bytes) else str(val)
    if re.fullmatch(r"[ !-\[\]-~]{1,30}", text):
        return text
    words = re.findall(r"[A-Za-z0-9]+", text) if text.isascii() and not re.search(r"[\0-\b\x0e-\x1f]", text) else []
    return " ".join(words)[:30].strip() or argname


def pytest_collection_finish(session: pytest.Session) -> None:
    if path := session.config.option.write_needs:
        path.write_text(listed(session.items))


@pytest.fixture
async def recorder() -> AsyncIterator[Callable[..., Awaitable[Recorder]]]:
    """A factory of upload APIs that record what they receive."""
    async with AsyncExitStack() as stack:

        async def start(script: Script | None = None, **options: Any) -> Recorder:
            return await stack.enter_async_context(Recorder(script, **options))

        yield start


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def seaweedfs(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The URL of an object store with the bucket ``real_apis.BUCKET``."""
    async with object_store(tmp_path_factory.mktemp("seaweedfs"), BUCKET) as store:
        yield store.s3


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def digest_verifier(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """The URL of another one, which verifies digests."""
    async with nanio(tmp_path_factory.mktemp("nanio"), BUCKET) as url:
        yield url


@pytest.fixture
def s3_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the credentials of both in the environment."""
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
async def upload_api(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Callable[..., Awaitable[UploadApi]]]:
    """A factory of upload APIs on real servers, by the names in ``upstream_servers.SERVERS``."""
    async with AsyncExitStack() as stack:

        async def start(name: str, **options: Any) -> UploadApi:
            directory = tmp_path_factory.mktemp("upload-api")
            return await stack.enter_async_context(running(name, directory, **options))

        yield start
