"""The C library's memory allocator, told once for the process how a relay uses memory.

Blocks of a quarter mebibyte come and go thousands of times a second. By default glibc gives each back to the kernel and
takes it anew, and a GiB costs some 200 000 page faults; with these thresholds (mallopt(3)) it keeps what it has.
"""

import contextlib
import ctypes

__all__ = ["keep_freed_blocks"]

# From glibc's malloc.h.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3

_LARGEST = 32 * 1024 * 1024  # that glibc takes for the second
_KEPT = 256 * 1024 * 1024


def keep_freed_blocks() -> bool:
    """Have freed blocks kept for the next ones, and say whether the C library can."""
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST) and mallopt(_M_TRIM_THRESHOLD, _KEPT))
    return False
