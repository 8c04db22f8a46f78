"""zstd, alone and in a zip. The standard library decompresses it since Python 3.14; before, it is refused."""

import sys
from collections.abc import Callable

import pytest
from archive_files import NOISE, Tarred, Zipped, make_tar, make_zip, python_zip, verdict

MIB = 1 << 20
# What zstd makes of "hello".
HELLO = bytes.fromhex("28b52ffd0458290000") + b"hello" + bytes.fromhex("a36d9f88")

if sys.version_info >= (3, 14):
    from compression import zstd

    def zipped(data: bytes, packed: bytes) -> bytes:
        return make_zip(Zipped(b"a.txt", data, method=93, packed=packed))

    @pytest.mark.parametrize(
        "make",
        [
            pytest.param(make, id=name)
            for name, make in {
                "one frame": lambda: HELLO,
                "two frames": lambda: HELLO + zstd.compress(NOISE),
                "zeros after the end": lambda: HELLO + bytes(10_240),
                "a tar": lambda: zstd.compress(make_tar(Tarred())),
                "a zip": lambda: zipped(b"hello", HELLO),
            }.items()
        ],
    )
    def test_passes(make: Callable[[], bytes]) -> None:
        assert verdict(make()) is None

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            pytest.param(make, reason, id=name)
            for name, (make, reason) in {
                "over the ratio": (lambda: zstd.compress(bytes(MIB)), "more than 100 times"),
                "cut": (lambda: zstd.compress(NOISE)[:-1], "ends too early"),
                "another checksum": (lambda: HELLO[:-1] + b"\0", "cannot be inflated"),
                "a window of 256 MiB": (lambda: b"\x28\xb5\x2f\xfd\0\x90" + b"\x01\0\0", "cannot be inflated"),
                "data after the end": (lambda: HELLO + b"x", "data follow its end"),
                "a skippable frame after the end": (lambda: HELLO + b"P*M\x18\1\0\0\0x", "data follow its end"),
                "a swarm of frames": (lambda: zstd.compress(b"") * 10_001, "too many members"),
                "a path out, in a tar": (lambda: zstd.compress(make_tar(Tarred("../a"))), "leads out"),
                "a zip inside": (lambda: zstd.compress(python_zip(("a", b"a"))), "is itself an archive"),
                "over the ratio, in a zip": (
                    lambda: zipped(bytes(MIB), zstd.compress(bytes(MIB))),
                    "more than 100 times",
                ),
                "two frames in a zip": (lambda: zipped(b"hellohello", HELLO * 2), "data follow the end of an entry"),
            }.items()
        ],
    )
    def test_refused(make: Callable[[], bytes], reason: str) -> None:
        found = verdict(make())
        assert found is not None
        assert reason in found

else:

    def test_a_compressed_file_is_refused() -> None:
        assert verdict(HELLO) == (
            "The file is compressed with zstd, which cannot be inspected. Send it uncompressed or as gzip."
        )

    def test_a_zip_of_this_method_is_refused() -> None:
        assert verdict(make_zip(Zipped(b"a.txt", b"hello", method=93, packed=HELLO))) == (
            "An entry of the archive uses compression method 93, which cannot be inspected. Use deflate."
        )
