"""Parallel runs on one device, each in its own process.

A small model cannot keep many cores or a GPU busy. The processes share only the disk, so a run gives the same result as
alone with the same number of threads.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from .ends import killed
from .errors import ConfigError, MachineError
from .memory import free_memory

log = logging.getLogger(__name__)

LIBRARY_BYTES = 5 << 28  # torch, transformers and a text encoder in training: the demo's main job peaks at 1.2 GiB

_run_task: Callable[[Any], Any] | None = None  # set in each worker process


def available_cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextlib.contextmanager
def cpu_threads(count: int) -> Iterator[None]:
    """Use ``count`` CPU threads within the block: another number rounds sums differently and takes another time."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_workers(workers: int | str, device: torch.device, profile: str) -> int:
    """Choose how many runs go in parallel.

    Args:
        workers: A positive number, or "auto": up to 4 for small models on a CPU, else 1.
        device: Where they run.
        profile: The profile of the study.

    Raises:
        ConfigError: ``workers`` is neither "auto" nor a positive number.
    """
    if workers == "auto":
        return min(available_cores(), 4) if device.type == "cpu" and profile in ("demo", "small") else 1
    if not isinstance(workers, int) or isinstance(workers, bool) or workers < 1:
        raise ConfigError(f"workers={workers!r}: must be 'auto' or at least 1")
    return workers


def workers_that_fit(workers: int, bytes_each: int) -> int:
    """At most ``workers``, at least one, and no more than the free memory of this machine holds.

    Args:
        workers: How many are wanted.
        bytes_each: What one takes besides the libraries that each loads.
    """
    free = free_memory()
    if free is None:
        return workers
    fit = max(1, free // (LIBRARY_BYTES + bytes_each))
    if fit < workers:
        log.warning("%d workers, not %d: free memory is %.1f GiB, and each takes about %.1f",
                    fit, workers, free / 2**30, (LIBRARY_BYTES + bytes_each) / 2**30)  # fmt: skip
    return min(workers, fit)


def run_parallel(prepare: Callable[[], Callable[[Any], Any]], tasks: Sequence[Any], workers: int) -> Iterator[Any]:
    """Run tasks in several processes.

    An error in a task is raised here; then, as on an interrupt, all processes are stopped.

    Args:
        prepare: Called once in each process; returns the function that is called with each task. Must be picklable.
        tasks: Arguments of that function. Must be picklable.
        workers: Number of processes; they share the cores equally.

    Yields:
        The results, in the order in which tasks finish.

    Raises:
        MachineError: A process was killed.
    """
    try:
        with process_pool(workers, prepare) as pool:
            for future in as_completed([pool.submit(_call, task) for task in tasks]):
                yield future.result()
    except BrokenProcessPool as error:
        raise MachineError(killed("a worker process")) from error


@contextlib.contextmanager
def process_pool(
    workers: int, prepare: Callable[[], Callable[[Any], Any]] | None = None
) -> Iterator[ProcessPoolExecutor]:
    """Processes that share the cores equally; on an error, as on an interrupt, all of them are stopped.

    Args:
        workers: Their number.
        prepare: Called once in each process. Must be picklable.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit torch's threads in an unknown state
    threads = max(1, available_cores() // workers)
    pool = ProcessPoolExecutor(workers, context, initializer=_start, initargs=(prepare, threads))
    try:
        yield pool
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start(prepare: Callable[[], Callable[[Any], Any]] | None, threads: int) -> None:
    global _run_task
    # A terminal and Jupyter interrupt all processes at once; the first one says what is kept and ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    atexit.register(os._exit, 0)  # the results are sent; the cleanup of torch would take a second
    torch.set_num_threads(min(threads, torch.get_num_threads()))
    _run_task = prepare() if prepare is not None else None


def _end_with_parent() -> None:
    """Exit when the parent is killed; otherwise this process would wait for tasks forever."""
    multiprocessing.connection.wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _call(task: Any) -> Any:
    return _run_task(task)
