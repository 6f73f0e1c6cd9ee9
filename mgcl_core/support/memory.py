"""Keeping freed memory for the next batch, on Linux with glibc."""

from __future__ import annotations

import ctypes
import functools

_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4  # of malloc.h


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
