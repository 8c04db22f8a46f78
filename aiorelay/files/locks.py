"""Lock a file or directory for as long as a process uses it (flock).

The lock is the kernel's: it dies with its process, however that ends, and it holds between processes of one machine.
"""

import fcntl
import os
from pathlib import Path

__all__ = ["claim", "lock_directory", "try_lock"]


def try_lock(fd: int, *, shared: bool = False) -> bool:
    """Lock what ``fd`` is open for until it is closed; False if somebody else has the lock.

    Raises ``OSError`` where the filesystem has no locks.
    """
    try:
        fcntl.flock(fd, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def claim(fd: int) -> bool:
    """Lock what was made just now; False if a sweep has locked or removed it since, so that another must be made.

    True on a filesystem without locks: there nothing may be swept, because nothing can be known to be unused.
    """
    try:
        locked = try_lock(fd)
    except OSError:
        return True
    return locked and os.fstat(fd).st_nlink > 0


def lock_directory(directory: Path) -> int:
    """Lock a directory, and return its descriptor; -1 if another process has the lock, or has removed the directory.

    Raises ``OSError`` where the filesystem has no locks.
    """
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return -1
    try:
        if try_lock(fd) and os.fstat(fd).st_nlink > 0:
            return fd
    except OSError:
        os.close(fd)
        raise
    os.close(fd)
    return -1
