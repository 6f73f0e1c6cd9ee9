"""Memory of the machine: what is free, and keeping freed memory for the next batch (Linux with glibc)."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


def free_memory() -> int | None:
    """Bytes of memory that are free or hold caches only; None where the system does not say."""
    try:
        pages, size = os.sysconf("SC_AVPHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        known = Path("/proc/meminfo").read_text(encoding="ascii").split("MemAvailable:")
        return int(known[1].split()[0]) * 1024 if len(known) > 1 else pages * size
    except (OSError, ValueError, AttributeError):  # another system
        return None


@functools.cache
def keep_freed_memory() -> bool:
    """Stop malloc from giving large tensors back to the system after each use.

    Every page of a tensor would be mapped and cleared again in the next step, which takes two to four times as long as
    adding two such tensors. Process-wide, once.

    Returns:
        Whether this system's malloc could be told.
    """
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another system, another malloc
        return False
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
