"""Bind a Unix socket: replace one that nobody listens on, set its mode and owner, remove it at the end."""

import os
import shutil
import socket
import stat
from collections.abc import Generator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

from aiorelay.errors import StartupError
from aiorelay.settings.places import Owner

__all__ = ["listening_at"]


@contextmanager
def listening_at(path: Path, *, mode: int, owner: Owner | None, backlog: int) -> Generator[list[socket.socket]]:
    """Bind a listening socket to ``path``, and remove its file at the end.

    The file has ``mode`` and ``owner`` before the first connection is possible. A socket file that a dead process has
    left is replaced. Raises ``StartupError``, also if a process listens at ``path`` or another kind of file is there.
    """
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as listener:
        try:
            _remove_stale(path)
            listener.bind(os.fspath(path))
            file = _identity(path)
        except OSError as error:
            raise _failure(path, error.strerror or str(error)) from error  # without strerror: the path is too long
        try:
            try:
                path.chmod(mode)
                if owner is not None:
                    shutil.chown(path, owner.user, owner.group)  # type: ignore[arg-type]  # None: unchanged
            except (OSError, LookupError) as error:
                why = error.strerror if isinstance(error, OSError) else str(error)
                raise StartupError(
                    f"Cannot give {path} the owner or the mode that it should have: {why}. "
                    "Correct --listen-unix-owner or --listen-unix-mode."
                ) from error
            listener.listen(backlog)  # until here, connections are refused
            yield [listener]
        finally:
            with suppress(OSError):
                if _identity(path) == file:  # not the file of a process that has replaced it
                    path.unlink()


def _remove_stale(path: Path) -> None:
    try:
        kind = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(kind):
        raise _failure(path, "there is a file that is no socket")
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as client:
        client.setblocking(False)  # with a full backlog, connect() would block
        try:
            client.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except BlockingIOError:
            pass
    raise _failure(path, "another process listens there")


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _failure(path: Path, why: str) -> StartupError:
    return StartupError(f"Cannot listen on {path}: {why}. Choose another path with --listen-unix.")
