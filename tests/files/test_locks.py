"""Locks on files: one holder at a time, for as long as it has them open."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aiorelay.files.locks import claim, try_lock


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[], int]]:
    """A maker of descriptors of the same file, which are not closed by the tests."""
    fds: list[int] = []

    def open_again() -> int:
        fds.append(os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600))
        return fds[-1]

    yield open_again
    for fd in fds:
        os.close(fd)


def test_lock_has_one_holder(opened: Callable[[], int]) -> None:
    first, second = opened(), opened()
    assert try_lock(first)
    assert try_lock(first)
    assert not try_lock(second)
    assert not try_lock(second, shared=True)


def test_shared_lock_has_many_holders(opened: Callable[[], int]) -> None:
    first, second, third = opened(), opened(), opened()
    assert try_lock(first, shared=True)
    assert try_lock(second, shared=True)
    assert not try_lock(third)


def test_lock_ends_with_its_descriptor(opened: Callable[[], int], tmp_path: Path) -> None:
    fd = os.open(tmp_path / "file", os.O_RDWR | os.O_CREAT, 0o600)
    assert try_lock(fd)
    os.close(fd)
    assert try_lock(opened())


def test_file_that_was_swept_cannot_be_claimed(opened: Callable[[], int], tmp_path: Path) -> None:
    fd = opened()
    (tmp_path / "file").unlink()
    assert not claim(fd)


def test_file_that_is_being_swept_cannot_be_claimed(opened: Callable[[], int]) -> None:
    made, swept = opened(), opened()
    assert try_lock(swept)
    assert not claim(made)
