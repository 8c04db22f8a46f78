"""Lock a file or directory for as long as a process uses it (flock).

The lock is the kernel's: it dies with its process, however that ends, and it holds between processes of one machine.
"""

import fcntl
import os

__all__ = ["claim", "try_lock"]


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
