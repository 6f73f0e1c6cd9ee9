"""Memory of the machine: what is free, what a block took, and keeping freed memory for the next batch (glibc)."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

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


def held_memory(device: torch.device) -> float:
    """Bytes that torch holds on a GPU, or that this process holds, once freed pages went back; NaN if unknown."""
    gc.collect()
    if device.type == "cuda":
        return float(torch.cuda.memory_allocated(device))
    with contextlib.suppress(OSError, AttributeError):  # another malloc
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    return _of_status("VmRSS")


@contextlib.contextmanager
def peak_memory_of(device: torch.device, before: float | None = None) -> Iterator[Callable[[], float]]:
    """Within the block, watch memory; what it gives says by how many bytes it grew at most, also after the block.

    On a GPU what torch allocated there, else the memory of this process, by Linux's high-water mark; NaN elsewhere.

    Args:
        device: Whose memory.
        before: That it is compared with; `held_memory` now when None.
    """
    held, most = held_memory(device), math.nan
    before = held if before is None else before
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        try:  # the mark becomes what the process holds now
            Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
        except OSError:
            before = math.nan
    yield lambda: most - before
    most = float(torch.cuda.max_memory_allocated(device)) if device.type == "cuda" else _of_status("VmHWM")


def _of_status(name: str) -> float:
    try:
        return int(Path("/proc/self/status").read_text(encoding="ascii").split(f"{name}:")[1].split()[0]) * 1024
    except (OSError, IndexError, ValueError):
        return math.nan
