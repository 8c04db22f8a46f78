"""Reading local files below a root."""

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aiorelay.errors import BadSource, Internal, PathRefused, Problem, SourceFailed, SourceMissing
from aiorelay.files.local import BLOCK, PIECE, LocalFile, open_local


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with a file and a directory, and a secret file next to it."""
    (tmp_path / "secret").write_bytes(b"secret")
    root = tmp_path / "root"
    (root / "dir").mkdir(parents=True)
    (root / "file").write_bytes(b"content")
    (root / "dir" / "file").write_bytes(b"deeper")
    return root


@pytest.fixture(autouse=True)
def no_descriptor_is_left(tmp_path: Path) -> Iterator[None]:
    """Assert that no test leaves a file descriptor open below its directory."""
    yield
    assert descriptors_below(tmp_path) == []


def descriptors_below(directory: Path) -> list[str]:
    paths = []
    for fd in Path("/proc/self/fd").iterdir():
        try:
            path = str(fd.readlink())
        except FileNotFoundError:  # the descriptor that lists them
            continue
        if path.startswith(f"{directory}/"):
            paths.append(path)
    return paths


async def read(path: Path | str, *roots: Path) -> bytes:
    file = await open_local(str(path), roots)
    try:
        content = b"".join([block async for block in file.chunks])
    finally:
        await file.close()
    assert len(content) == file.size
    return content


async def refused(path: Path | str, *roots: Path) -> Problem:
    with pytest.raises(Problem) as caught:
        await open_local(str(path), roots)
    return caught.value


# Allowed paths


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("file", b"content"),
        ("./file", b"content"),
        ("/file", b"content"),
        ("dir/file", b"deeper"),
        ("dir//file", b"deeper"),
        ("dir/./file", b"deeper"),
    ],
)
async def test_a_file_below_the_root_is_read(root: Path, name: str, content: bytes) -> None:
    assert await read(f"{root}/{name}", root) == content


async def test_its_name_and_size_are_known_before_it_is_read(root: Path) -> None:
    file = await open_local(f"{root}/dir/file", [root])
    assert (file.name, file.size) == ("file", 6)
    await file.close()


async def test_a_name_outside_unicode_is_readable_and_shown_replaced(root: Path) -> None:
    path = root / os.fsdecode(b"\xff.txt")
    path.touch()
    file = await open_local(str(path), [root])
    assert file.name == "\ufffd.txt"
    await file.close()


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("link", "file"),
        ("link", "./dir/../file"),
        ("dir/link", "../file"),
        ("dir/link", "../dir/../file"),
        ("link", "{root}/file"),
        ("link", "{root}/dir/../file"),
        ("dir/link", "{root}//./file"),
    ],
)
async def test_a_link_that_stays_inside_the_root_is_followed(root: Path, link: str, target: str) -> None:
    (root / link).symlink_to(target.format(root=root))
    assert await read(root / link, root) == b"content"


@pytest.mark.parametrize("target", ["dir", "{root}/dir", "other", "dir/."])
async def test_a_link_to_a_directory_inside_the_root_is_followed(root: Path, target: str) -> None:
    (root / "other").symlink_to("dir")
    (root / "link").symlink_to(target.format(root=root))
    assert await read(root / "link" / "file", root) == b"deeper"


async def test_a_step_up_after_a_link_starts_where_the_link_leads(root: Path) -> None:
    (root / "dir" / "sub").mkdir()
    (root / "short").symlink_to("dir/sub")
    (root / "link").symlink_to("short/../file")
    assert await read(root / "link", root) == b"deeper"


async def test_the_name_of_a_link_is_its_own(root: Path) -> None:
    (root / "link.txt").symlink_to("file")
    file = await open_local(f"{root}/link.txt", [root])
    assert file.name == "link.txt"
    await file.close()


async def test_a_root_may_be_a_link_and_be_named_either_way(root: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(root)
    (root / "link").symlink_to(tmp_path / "alias" / "file")
    for spelling in (tmp_path / "alias", root):
        assert await read(spelling / "link", tmp_path / "alias") == b"content"


async def test_any_of_several_roots_will_do(root: Path, tmp_path: Path) -> None:
    assert await read(root / "dir" / "file", tmp_path / "missing", root / "dir") == b"deeper"


async def test_the_whole_tree_can_be_a_root(root: Path) -> None:
    assert await read(root / "file", Path("/")) == b"content"


async def test_an_empty_file_is_read(root: Path) -> None:
    (root / "empty").touch()
    assert await read(root / "empty", root) == b""


@pytest.mark.parametrize("size", [1, BLOCK, BLOCK + 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5])
async def test_all_bytes_come_in_blocks_of_bounded_size(root: Path, size: int) -> None:
    content = os.urandom(size)
    (root / "big").write_bytes(content)
    file = await open_local(f"{root}/big", [root])
    blocks = [block async for block in file.chunks]
    await file.close()
    assert b"".join(blocks) == content
    assert all(1 <= len(block) <= BLOCK for block in blocks)


# Refused paths


@pytest.mark.parametrize("path", ["", "file", "./file", "../file", "~/file", "C:\\file", "/a\0b", "/\ud800"])
async def test_a_path_that_is_not_absolute_is_a_bad_source(root: Path, path: str) -> None:
    assert isinstance(await refused(path, root), BadSource)


async def test_without_roots_nothing_is_read(root: Path) -> None:
    problem = await refused(root / "file")
    assert isinstance(problem, PathRefused)
    assert "--local-root" in problem.detail


@pytest.mark.parametrize(
    "path",
    [
        "{outside}/secret",
        "{outside}/missing",
        "{outside}",
        "{root}",
        "{root}/",
        "{root}/dir",
        "{root}/dir/",
        "{root}/../secret",
        "{root}/dir/../../secret",
        "{root}/../root/file",
        "{root}/dir/../file",
        "{root}x/file",
        "/",
        "/etc/passwd",
    ],
)
async def test_a_path_that_is_no_file_below_the_root_is_refused_whether_it_exists_or_not(root: Path, path: str) -> None:
    problem = await refused(path.format(root=root, outside=root.parent), root)
    assert isinstance(problem, PathRefused)
    assert "--local-root" in problem.detail


@pytest.mark.parametrize(
    "target",
    [
        "../secret",
        "{outside}/secret",
        "{outside}/missing",
        "dir/../../secret",
        "../root/file",
        "{root}/../secret",
        "..",
        "/",
        ".",
        "link",
        "/proc/self/root{outside}/secret",
    ],
)
async def test_a_link_to_no_file_below_the_root_is_refused(root: Path, target: str) -> None:
    (root / "link").symlink_to(target.format(root=root, outside=root.parent))
    problem = await refused(root / "link", root)
    assert isinstance(problem, PathRefused)
    assert "--local-root" in problem.detail


@pytest.mark.parametrize("target", ["..", "{outside}", "dir/../.."])
async def test_a_linked_directory_outside_is_refused(root: Path, target: str) -> None:
    (root / "link").symlink_to(target.format(outside=root.parent))
    assert isinstance(await refused(root / "link" / "secret", root), PathRefused)


async def test_a_chain_of_forty_links_is_followed_and_one_more_is_not(root: Path) -> None:
    (root / "link0").symlink_to("file")
    for number in range(1, 41):
        (root / f"link{number}").symlink_to(f"link{number - 1}")
    assert await read(root / "link39", root) == b"content"
    assert isinstance(await refused(root / "link40", root), PathRefused)


@pytest.mark.parametrize("name", ["missing", "dir/missing", "missing/file", "file/file", "x" * 300, "dangling"])
async def test_a_missing_file_below_the_root_is_reported_as_missing(root: Path, name: str) -> None:
    (root / "dangling").symlink_to("nowhere")
    assert isinstance(await refused(root / name, root), SourceMissing)


async def test_a_root_that_is_gone_has_no_files(tmp_path: Path) -> None:
    assert isinstance(await refused(tmp_path / "gone" / "file", tmp_path / "gone"), SourceMissing)


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.path.relpath(path))


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, make_socket], ids=["fifo", "directory", "socket"])
async def test_only_regular_files_are_opened(
    root: Path, make: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(root)  # the path of a socket must be short
    make(root / "odd")
    assert isinstance(await refused(root / "odd", root), PathRefused)


@pytest.mark.parametrize("name", ["null", "zero", "tty"])
async def test_a_device_is_refused(name: str) -> None:
    assert isinstance(await refused(f"/dev/{name}", Path("/dev")), PathRefused)


@pytest.mark.parametrize("name", ["self/fd/0", "self/root/etc/passwd", "self/cwd/file"])
async def test_magic_links_of_proc_are_not_followed(name: str) -> None:
    assert isinstance(await refused(f"/proc/{name}", Path("/proc")), PathRefused | SourceMissing)


@pytest.mark.parametrize("name", ["status", "mem"], ids=["longer than it says", "unreadable at its start"])
async def test_a_virtual_file_of_the_kernel_fails(name: str) -> None:
    with pytest.raises(SourceFailed):
        await read(f"/proc/self/{name}", Path("/proc"))


READ_AS_NOBODY = """
import asyncio, os, sys
import concurrent.futures.thread  # while the interpreter's own files can still be read
from pathlib import Path
from aiorelay.errors import Problem
from aiorelay.files.local import open_local

async def main(root, *names):
    for name in names:
        try:
            await (await open_local(f"{root}/{name}", [Path(root)])).close()
            print("opened")
        except Problem as problem:
            print(problem.code)

user = os.geteuid()
if user == 0:
    os.seteuid(65534)
asyncio.run(main(*sys.argv[1:]))
os.seteuid(user)
"""


def test_a_file_without_read_permission_is_refused() -> None:
    # Not in tmp_path, whose parents other users may not enter.
    root = Path(tempfile.mkdtemp())
    try:
        (root / "shut").mkdir()
        (root / "shut" / "file").touch()
        (root / "unreadable").touch()
        (root / "readable").touch()
        (root / "unreadable").chmod(0)
        (root / "shut").chmod(0)
        root.chmod(0o755)
        command = [sys.executable, "-c", READ_AS_NOBODY, root, "readable", "unreadable", "shut/file"]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
    finally:
        (root / "shut").chmod(0o700)
        shutil.rmtree(root)
    assert done.stdout.split() == [b"opened", b"path-refused", b"path-refused"]


async def test_no_file_outside_is_read_while_the_tree_changes(root: Path) -> None:
    (root / "a").symlink_to("dir")
    (root / "b").symlink_to("..")
    (root.parent / "file").write_bytes(b"outside")
    swapping = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "import os\nwhile True: os.rename('a', 'c'); os.rename('b', 'a'); os.rename('c', 'b')",
        cwd=root,
    )
    outcomes = set()
    try:
        for _ in range(300):
            try:
                outcomes.add(await read(root / "a" / "file", root))
            except (PathRefused, SourceMissing) as problem:
                outcomes.add(problem.code.encode())
    finally:
        swapping.kill()
        await swapping.wait()
    assert outcomes <= {b"deeper", b"path-refused", b"source-missing"}


async def test_without_a_descriptor_left_it_is_an_internal_error(root: Path) -> None:
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert await read(root / "file", root) == b"content"  # creates the thread of the pool
    lowest = os.open(os.devnull, os.O_RDONLY)
    os.close(lowest)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest, before[1]))
    try:
        problem = await refused(root / "file", root)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert isinstance(problem, Internal)


# Files that change while they are read


@pytest.fixture
def big(root: Path) -> Path:
    path = root / "big"
    path.write_bytes(bytes(4 * PIECE))
    os.utime(path, (0, 0))
    return path


def grow(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b"more")


def shrink(path: Path) -> None:
    os.truncate(path, PIECE + 1)


def rewrite(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(b"other")


@pytest.mark.parametrize("change", [grow, shrink, rewrite])
@pytest.mark.parametrize("after", [0, 1, 2])
async def test_a_file_that_changes_while_it_is_read_fails_before_its_last_byte(
    root: Path, big: Path, change: Callable[[Path], None], after: int
) -> None:
    file = await open_local(str(big), [root])
    got = 0
    for _ in range(after):
        got += len(await anext(file.chunks))
    change(big)
    with pytest.raises(SourceFailed):
        await exhaust(file)
    await file.close()
    assert got < file.size


async def exhaust(file: LocalFile) -> int:
    """Read to the end. If that fails, fewer bytes than declared must have been read."""
    got = 0
    async for block in file.chunks:
        got += len(block)
        assert got < file.size
    return got


async def test_a_file_replaced_by_another_is_read_as_it_was(root: Path, big: Path) -> None:
    file = await open_local(str(big), [root])
    (root / "file").rename(big)
    assert sum([len(block) async for block in file.chunks]) == 4 * PIECE
    await file.close()


# Leaving early


@pytest.mark.parametrize("blocks", [0, 1, 3])
async def test_closing_early_closes_the_descriptor(root: Path, big: Path, blocks: int) -> None:
    file = await open_local(str(big), [root])
    for _ in range(blocks):
        await anext(file.chunks)
    await file.close()
    await file.close()
    assert descriptors_below(root) == []


@pytest.mark.parametrize("turns", range(12))
async def test_cancellation_at_any_time_closes_the_descriptor(root: Path, big: Path, turns: int) -> None:
    task = asyncio.create_task(read(big, root))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert descriptors_below(root) == []
