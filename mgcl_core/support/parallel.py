"""Several runs side by side on one device, each in a process of its own.

The runs of a study differ in a seed and a switch, and a small model cannot keep many cores (or a GPU)
busy. Processes share nothing but the disk, so a run gives what it would give alone with as many threads.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import torch

from .errors import ConfigError

log = logging.getLogger(__name__)

_work: Callable[[Any], Any] | None = None  # of a worker process


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """``count`` CPU threads for a while: sums in another order round differently, and take another time."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_workers(workers: int | str, device: torch.device, profile: str) -> int:
    """How many runs go side by side.

    Raises:
        ConfigError: neither "auto" nor a positive number.
    """
    if workers == "auto":
        return min(cores(), 4) if device.type == "cpu" and profile in ("demo", "small") else 1
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
        raise ConfigError(f"workers={workers!r}: must be 'auto' or at least 1")
    return workers


def side_by_side(prepare: Callable[[], Callable[[Any], Any]], tasks: Sequence[Any], workers: int) -> Iterator[Any]:
    """Results of ``tasks``, as they finish.

    Args:
        prepare: called once in each process; returns what is called with each task. Must be picklable.
        tasks: picklable.
        workers: processes; the cores are shared out among them.

    Raises:
        What a task raises; the other processes are stopped then, as they are on an interrupt.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads in an unknown state
    threads = max(1, cores() // workers)
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(prepare, threads))
    try:
        for future in as_completed([pool.submit(_call, task) for task in tasks]):
            yield future.result()
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(prepare: Callable[[], Callable[[Any], Any]], threads: int) -> None:
    global _work
    threading.Thread(target=_end_with_parent, daemon=True).start()
    atexit.register(os._exit, 0)  # what it gave has been handed over: tidying up torch would take a second
    torch.set_num_threads(min(threads, torch.get_num_threads()))
    _work = prepare()


def _end_with_parent() -> None:
    """A process whose parent was killed would wait for tasks forever."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _call(task: Any) -> Any:
    return _work(task)
