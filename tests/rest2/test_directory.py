"""Files are stored completely or not at all."""

import asyncio
import errno
import hashlib
import os
import resource
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import program

from aiorelay.concurrency.double_buffer import PIECE
from aiorelay.errors import Internal, StartupError, StorageFull
from aiorelay.files.writer import StoredFile
from aiorelay.rest2.directory import DirectoryStore, stored

MIB = 1024 * 1024
DEAD = ".incoming-" + "0" * 32


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture(params=[False, True], ids=["cached", "synced"])
def store(root: Path, request: pytest.FixtureRequest) -> Iterator[DirectoryStore]:
    with opened(root, fsync=request.param) as store:
        yield store


@pytest.fixture
def mounted(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A factory of small filesystems, if the test may mount them."""
    point = tmp_path / "disk"
    point.mkdir()

    def mount(options: str) -> Path:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "aiorelay-test", point], capture_output=True, check=False
        )
        if done.returncode:
            pytest.skip("mounting is not allowed here")
        return point

    yield mount
    subprocess.run(["umount", "-q", point], check=False)


@contextmanager
def opened(root: Path, *, fsync: bool = False) -> Iterator[DirectoryStore]:
    with closing(DirectoryStore(root, fsync=fsync)) as store:
        store.open()
        yield store


async def upload(store: DirectoryStore, filename: str, *blocks: bytes) -> tuple[Path, StoredFile]:
    async with store.receive() as incoming:
        writer = incoming.file(filename)
        for block in blocks:
            await writer.write(block)
        file = await writer.close()
        directory = Path(await incoming.keep())
    return directory / file.name, file


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def only_entry(directory: Path) -> Path:
    (entry,) = directory.iterdir()
    return entry


def descriptors_below(directory: Path) -> list[str]:
    """Return the paths below ``directory`` that this process has open."""
    paths = []
    for fd in Path("/proc/self/fd").iterdir():
        try:
            path = str(fd.readlink())
        except FileNotFoundError:  # the descriptor that lists them
            continue
        if path.startswith(f"{directory}/"):
            paths.append(path)
    return paths


def assert_nothing_is_left(root: Path) -> None:
    assert names_in(root) == []
    assert descriptors_below(root) == []


# Kept


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 5])
async def test_a_kept_file_is_complete_under_its_final_name(store: DirectoryStore, root: Path, size: int) -> None:
    content = os.urandom(size)
    blocks = [content[start : start + 100_000] for start in range(0, size, 100_000)]
    path, file = await upload(store, "a.bin", *blocks)
    assert path.parent.parent == root
    assert path.read_bytes() == content
    assert file == ("a.bin", size, hashlib.sha256(content).hexdigest())
    assert stored(root) == [path]
    assert descriptors_below(root) == []


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.sampled_from([0, 1, 7, 4096, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE]), max_size=8))
def test_blocks_of_any_lengths_are_written_in_order(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int]
) -> None:
    root = tmp_path_factory.mktemp("store")
    blocks = [bytes([65 + index]) * length for index, length in enumerate(lengths)]
    with opened(root) as store:
        path, file = asyncio.run(upload(store, "a", *blocks))
    assert path.read_bytes() == b"".join(blocks)
    assert file.sha256 == hashlib.sha256(b"".join(blocks)).hexdigest()
    shutil.rmtree(root)


async def test_a_large_file_is_complete_while_others_arrive(store: DirectoryStore) -> None:
    """Its pieces are larger the fewer forms arrive, and a synced one is written to the disk from time to time."""
    block = os.urandom(MIB)
    large, *small = await asyncio.gather(
        upload(store, "large", *[block] * 20), *(upload(store, f"{number}", b"x" * 100_000) for number in range(5))
    )
    path, file = large
    assert path.read_bytes() == block * 20
    assert file.sha256 == hashlib.sha256(block * 20).hexdigest()
    assert all(path.read_bytes() == b"x" * 100_000 for path, _ in small)


async def test_a_file_sent_byte_by_byte_is_complete(store: DirectoryStore) -> None:
    content = os.urandom(5000)
    path, _ = await upload(store, "drip", *(content[at : at + 1] for at in range(len(content))))
    assert path.read_bytes() == content


async def test_all_files_of_a_form_appear_at_once(store: DirectoryStore, root: Path) -> None:
    async with store.receive() as incoming:
        for name in ("a.txt", "b.txt"):
            writer = incoming.file(name)
            await writer.write(name.encode())
            await writer.close()
            assert stored(root) == []
        directory = Path(await incoming.keep())
        assert stored(root) == [directory / "a.txt", directory / "b.txt"]
    assert [path.read_text() for path in stored(root)] == ["a.txt", "b.txt"]


async def test_kept_files_are_listed_during_other_uploads(store: DirectoryStore, root: Path) -> None:
    path, _ = await upload(store, "a", b"kept")
    over = threading.Event()

    def come_and_go() -> None:
        incoming = root / f".incoming-{'0' * 32}"
        while not over.is_set():
            incoming.mkdir()
            incoming.rmdir()

    uploads = threading.Thread(target=come_and_go)
    uploads.start()
    try:
        assert all(stored(root) == [path] for _ in range(1000))
    finally:
        over.set()
        uploads.join()


async def test_files_of_one_name_in_one_form_are_numbered(store: DirectoryStore) -> None:
    async with store.receive() as incoming:
        names = [(await incoming.file(name).close()).name for name in ("a.txt", "dir/a.txt", "a-3.txt", "a.txt", "b")]
        await incoming.keep()
    assert names == ["a.txt", "a-2.txt", "a-3.txt", "a-4.txt", "b"]


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ("../../escaped", "escaped"),
        ("..", "file"),
        ("", "file"),
        ("C:\\dir\\a", "a"),
        ("a\0b", "ab"),
        ("\ud800", "\ufffd"),
        ("x" * 300, "x" * 200),
        ("CON", "_CON"),
        (".incoming-x", "incoming-x"),
        ("日本.txt", "日本.txt"),
    ],
)
async def test_a_hostile_name_stays_in_its_directory(
    store: DirectoryStore, root: Path, filename: str, name: str
) -> None:
    path, _ = await upload(store, filename, b"content")
    assert path.name == name
    assert stored(root) == [path]
    assert names_in(root.parent) == ["store"]


async def test_uploads_at_once_do_not_mix(store: DirectoryStore, root: Path) -> None:
    results = await asyncio.gather(
        *(upload(store, "same", *[bytes([index]) * (PIECE // 2)] * 5) for index in range(20))
    )
    assert len(stored(root)) == 20
    for index, (path, _) in enumerate(results):
        assert path.read_bytes() == bytes([index]) * (PIECE // 2) * 5


async def test_the_umask_decides_who_may_read(store: DirectoryStore) -> None:
    before = os.umask(0o027)
    try:
        path, _ = await upload(store, "a", b"content")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o640
    assert path.parent.stat().st_mode & 0o777 == 0o750


async def test_the_path_is_absolute_even_if_the_root_is_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with opened(Path("relative")) as store:
        path, _ = await upload(store, "a", b"content")
    assert path.parent.parent == tmp_path / "relative"


# Not kept


@pytest.mark.parametrize("blocks", [0, 1, 10])
async def test_leaving_without_keep_leaves_nothing(store: DirectoryStore, root: Path, blocks: int) -> None:
    async with store.receive() as incoming:
        await incoming.file("closed").close()
        writer = incoming.file("open")
        for _ in range(blocks):
            await writer.write(bytes(PIECE // 2))
    assert names_in(root) == []
    assert descriptors_below(root) == []


async def test_an_exception_passes_through_and_leaves_nothing(store: DirectoryStore, root: Path) -> None:
    async def receive() -> None:
        async with store.receive() as incoming:
            await incoming.file("a").write(bytes(3 * PIECE))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await receive()
    assert_nothing_is_left(root)


async def test_an_exception_after_keep_removes_nothing(store: DirectoryStore, root: Path) -> None:
    async def receive() -> None:
        async with store.receive() as incoming:
            await incoming.file("a").close()
            await incoming.keep()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await receive()
    assert [path.name for path in stored(root)] == ["a"]


async def test_a_form_with_an_unfinished_file_cannot_be_kept(store: DirectoryStore, root: Path) -> None:
    async with store.receive() as incoming:
        await incoming.file("a").write(b"content")
        with pytest.raises(RuntimeError):
            await incoming.keep()
    assert_nothing_is_left(root)


async def test_cancellation_with_a_piece_in_flight_leaves_nothing(store: DirectoryStore, root: Path) -> None:
    writing = asyncio.Event()

    async def receive() -> None:
        async with store.receive() as incoming:
            writer = incoming.file("big")
            await writer.write(bytes(64 * MIB))
            writing.set()
            await writer.write(bytes(64 * MIB))

    task = asyncio.create_task(receive())
    await writing.wait()
    task.cancel()
    await asyncio.sleep(0)
    task.cancel()  # a server may cancel twice
    with pytest.raises(asyncio.CancelledError):
        await task
    assert_nothing_is_left(root)


@pytest.mark.parametrize("turns", range(0, 200, 10))
async def test_an_upload_cancelled_at_any_moment_is_kept_only_if_keep_returned(root: Path, turns: int) -> None:
    with opened(root, fsync=True) as store:
        task = asyncio.create_task(upload(store, "a", b"content"))
        for _ in range(turns):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        assert stored(root) == ([] if task.cancelled() else [task.result()[0]])
        assert descriptors_below(root) == []


async def test_an_upload_whose_directory_was_removed_fails(
    store: DirectoryStore, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def receive() -> None:
        async with store.receive() as incoming:
            await incoming.file("a").close()
            shutil.rmtree(only_entry(root))
            await incoming.keep()

    with pytest.raises(Internal) as caught:
        await receive()
    assert isinstance(caught.value.__cause__, FileNotFoundError)
    assert_nothing_is_left(root)
    assert caplog.messages == []


async def test_a_failed_removal_is_logged_and_repeated_at_the_next_start(
    store: DirectoryStore, root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with store.receive() as incoming:
        incoming.file("a")
        (only_entry(root) / "foreign").touch()
    assert "the next start removes it" in caplog.text
    assert descriptors_below(root) == []
    with opened(root):
        assert names_in(root) == []


# Opening


def test_a_root_that_is_missing_is_made_with_its_parents(tmp_path: Path) -> None:
    with opened(tmp_path / "a" / "b", fsync=True):
        assert names_in(tmp_path / "a") == ["b"]


@pytest.mark.parametrize("below", ["", "sub"])
def test_a_root_that_cannot_be_created_is_a_startup_error(tmp_path: Path, below: str) -> None:
    (tmp_path / "file").touch()
    store = DirectoryStore(tmp_path / "file" / below, fsync=False)
    with pytest.raises(StartupError, match=r"cannot store files in .*file.*; see --store") as caught:
        store.open()
    assert "\n" not in str(caught.value)


def test_an_unwritable_root_stops_the_start(mounted: Callable[[str], Path]) -> None:
    root = mounted("ro,size=1m")
    with pytest.raises(StartupError, match="Read-only"):
        DirectoryStore(root, fsync=False).open()
    assert descriptors_below(root.parent) == []


def test_files_already_in_the_root_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "a.txt").touch()
    (tmp_path / ".incoming-of-mine").mkdir()
    with opened(tmp_path):
        assert names_in(tmp_path) == [".incoming-of-mine", "report"]


# Sweeping

WRITE_FOR_EVER = f"""
import asyncio, sys
from pathlib import Path
from aiorelay.rest2.directory import DirectoryStore

async def main():
    store = DirectoryStore(Path(sys.argv[1]), fsync=False)
    store.open()
    async with store.receive() as incoming:
        await incoming.file("closed").close()
        writer = incoming.file("open")
        for _ in range(5):
            await writer.write(bytes({PIECE}))
        print("writing", flush=True)
        await asyncio.Event().wait()

asyncio.run(main())
"""


@contextmanager
def writing_process(root: Path) -> Iterator["subprocess.Popen[bytes]"]:
    with subprocess.Popen([sys.executable, "-c", WRITE_FOR_EVER, root], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"writing\n"
            yield process
        finally:
            process.kill()


def test_a_killed_process_leaves_no_final_name_and_the_next_start_cleans_up(root: Path) -> None:
    with writing_process(root) as process:
        process.kill()
        process.wait()
        assert len(names_in(root)) == 1
        assert stored(root) == []
        with opened(root):
            assert names_in(root) == []


def test_uploads_of_a_running_process_are_not_swept(root: Path) -> None:
    with writing_process(root):
        (incoming,) = root.iterdir()
        with opened(root):
            assert names_in(incoming) == ["closed", "open"]


async def test_a_second_store_in_this_process_does_not_sweep_the_first(root: Path) -> None:
    with opened(root) as first:
        async with first.receive() as incoming:
            await incoming.file("a").close()
            with opened(root):
                directory = Path(await incoming.keep())
        assert stored(root) == [directory / "a"]


async def test_no_upload_is_lost_to_continuous_sweeps(root: Path) -> None:
    stop = threading.Event()

    def sweep() -> None:
        while not stop.is_set():
            with opened(root):
                pass

    with opened(root) as store:
        sweeping = asyncio.create_task(asyncio.to_thread(sweep))
        try:
            for _ in range(300):
                path, _ = await upload(store, "a", b"content")
                assert path.read_bytes() == b"content"
        finally:
            stop.set()
            await sweeping
    assert len(stored(root)) == 300


@pytest.mark.parametrize("kind", ["file", "link"])
def test_files_and_links_with_an_incoming_name_are_not_swept(
    root: Path, tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").touch()
    root.mkdir()
    if kind == "file":
        (root / DEAD).touch()
    else:
        (root / DEAD).symlink_to(precious)
    with opened(root):
        assert names_in(root) == [DEAD]
    assert names_in(precious) == ["file"]
    assert "cannot remove" in caplog.text


# Full disks, and processes at a limit


@pytest.mark.parametrize("size", [400_000, 4 * MIB])
async def test_a_full_disk_is_storage_full_and_leaves_nothing(mounted: Callable[[str], Path], size: int) -> None:
    root = mounted("size=256k")
    with opened(root) as store:
        with pytest.raises(StorageFull) as caught:
            await upload(store, "big", *[bytes(100_000)] * (size // 100_000))
        assert isinstance(caught.value.__cause__, OSError)
        assert caught.value.__cause__.errno == errno.ENOSPC
        assert names_in(root) == []
        path, _ = await upload(store, "small", b"content")
        assert path.read_bytes() == b"content"


async def test_a_file_that_failed_cannot_be_closed_or_kept(mounted: Callable[[str], Path]) -> None:
    root = mounted("size=256k")
    with opened(root) as store:
        async with store.receive() as incoming:
            writer = incoming.file("big")
            await writer.write(bytes(PIECE))
            for _ in range(2):
                with pytest.raises(StorageFull):
                    await writer.close()
            with pytest.raises(RuntimeError):
                await incoming.keep()
        assert names_in(root) == []


async def test_a_disk_without_free_inodes_is_storage_full_but_does_not_prevent_the_start(
    mounted: Callable[[str], Path],
) -> None:
    root = mounted("size=1m,nr_inodes=2")
    (root / "last").touch()
    with opened(root) as store:
        with pytest.raises(StorageFull):
            await upload(store, "a", b"content")
        assert names_in(root) == ["last"]


@contextmanager
def limited(kind: int, soft: int) -> Iterator[None]:
    before = resource.getrlimit(kind)
    resource.setrlimit(kind, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(kind, before)


def lowest_free_descriptor() -> int:
    fd = os.open("/dev/null", os.O_RDONLY)
    os.close(fd)
    return fd


async def test_without_a_descriptor_for_the_directory_nothing_is_left(store: DirectoryStore, root: Path) -> None:
    with limited(resource.RLIMIT_NOFILE, lowest_free_descriptor()), pytest.raises(Internal) as caught:
        await upload(store, "a", b"content")
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EMFILE
    assert_nothing_is_left(root)


async def test_without_a_descriptor_for_the_file_nothing_is_left(store: DirectoryStore, root: Path) -> None:
    async with store.receive() as incoming:
        with limited(resource.RLIMIT_NOFILE, lowest_free_descriptor()), pytest.raises(Internal):
            incoming.file("a")
    assert_nothing_is_left(root)


@pytest.mark.parametrize("size", [PIECE // 2, 3 * PIECE])
async def test_a_file_longer_than_the_system_allows_is_an_internal_error(
    store: DirectoryStore, root: Path, size: int
) -> None:
    with limited(resource.RLIMIT_FSIZE, 200_000), pytest.raises(Internal) as caught:
        await upload(store, "a", *[bytes(65536)] * (size // 65536))
    assert isinstance(caught.value.__cause__, OSError)
    assert caught.value.__cause__.errno == errno.EFBIG
    assert_nothing_is_left(root)


# Faults of the disk, injected by strace

UPLOAD = """
import asyncio, sys
from pathlib import Path
from aiorelay.errors import Problem
from aiorelay.rest2.directory import DirectoryStore, stored

async def main(root):
    store = DirectoryStore(root, fsync=True)
    store.open()
    try:
        async with store.receive() as incoming:
            writer = incoming.file("a")
            await writer.write(b"content")
            await writer.close()
            await incoming.keep()
        print("kept")
    except Problem as problem:
        print(problem.code, problem.__cause__.errno)
    store.close()

asyncio.run(main(Path(sys.argv[1])))
"""


def injected(fault: str, root: Path) -> str:
    """Upload a file while strace injects ``fault``. Return the output of the process."""
    strace = program("strace")
    if subprocess.run([strace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("strace cannot be used here")
    command = [strace, "-f", "-qq", "-o", os.devnull, "-e", f"inject={fault}", sys.executable, "-c", UPLOAD, root]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True, text=True)
    return done.stdout.strip()


@pytest.mark.parametrize("which", [1, 2, 3], ids=["file", "directory", "root"])
@pytest.mark.parametrize(
    ("error", "answer"), [("EIO", f"internal {errno.EIO}"), ("EDQUOT", f"storage-full {errno.EDQUOT}")]
)
@pytest.mark.needs("strace")
def test_a_file_that_could_not_be_synced_is_not_kept(root: Path, which: int, error: str, answer: str) -> None:
    root.mkdir()
    assert injected(f"fsync:error={error}:when={which}", root) == answer
    assert names_in(root) == []


@pytest.mark.parametrize("call", ["writev", "renameat,renameat2"])
@pytest.mark.needs("strace")
def test_a_disk_that_fails_is_an_internal_error_and_leaves_nothing(root: Path, call: str) -> None:
    root.mkdir()
    assert injected(f"{call}:error=EIO:when=1", root) == f"internal {errno.EIO}"
    assert names_in(root) == []


@pytest.mark.needs("strace")
def test_an_upload_retries_if_a_sweep_removed_its_directory(root: Path) -> None:
    assert injected("flock:error=EAGAIN:when=2", root) == "kept"
    assert len(stored(root)) == 1


@pytest.mark.needs("strace")
def test_a_filesystem_without_locks_is_written_but_not_swept(root: Path) -> None:
    (root / DEAD).mkdir(parents=True)
    said = injected("flock:error=ENOSYS", root)
    assert "cannot remove" in said
    assert said.endswith("kept")
    assert len(stored(root)) == 1
    assert (root / DEAD).exists()
