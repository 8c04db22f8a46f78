"""Archives with false declarations are refused, or no program unpacks more from them than the limits allow."""

import io
import tracemalloc
from collections.abc import Callable

import pytest
from archive_files import (
    python_zip,
    verdict,
)
from deceptive_archives import LIARS, MIB, MOST_BYTES, MOST_ENTRIES

from aiorelay.checks.archives.check import UnpackLimits, inspect

PACKERS = pytest.mark.needs("7z", "bsdtar", "lz4", "zstd")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        pytest.param(*liar, id=name, marks=PACKERS if name.startswith("what this makes") else ())
        for name, liar in LIARS.items()
    ],
)
def test_refused(make: Callable[[], bytes], reason: str) -> None:
    found = verdict(make(), max_size=MOST_BYTES, max_entries=MOST_ENTRIES)
    assert found is not None
    assert any(part in found for part in reason.split("|")), found


@pytest.mark.parametrize("method", [8, 12])
@pytest.mark.slow
def test_large_entries_are_never_in_memory(method: int) -> None:
    packed = python_zip(("zeros", bytes(64 * MIB)), method=method)
    limits = UnpackLimits(max_ratio=10**6, max_size=65 * MIB, max_entries=1)
    tracemalloc.start()
    try:
        inspect(io.BytesIO(packed), limits)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MIB
