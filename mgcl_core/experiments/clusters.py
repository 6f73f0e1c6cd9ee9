"""Where runs are trained besides this process: a Dask cluster that is there, this node's GPUs or cores, jobs of SLURM.

Placing runs, trying again when a worker dies, and the dashboard are Dask's (extra ``cluster``); `docs/cluster.md` has a
recipe for each. Dask is imported only where a cluster is asked for.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import torch

from ..support.errors import ConfigError, MachineError
from ..support.parallel import available_cores, choose_workers

log = logging.getLogger(__name__)

FORMS = "tcp://HOST:PORT, local, or slurm:partition=gpu,gres=gpu:1,jobs=8,time=4:00:00"
#: Dask gives a run up when so many workers died with it; a preempted job kills its worker, and the run goes on.
DEATHS = 20
SECONDS_TO_ANSWER = 30


def check_cluster(text: str) -> tuple[str, dict[str, str]]:
    """The kind of cluster that ``text`` asks for ("address", "local" or "slurm"), and its options.

    Raises:
        ConfigError: it is of another form.
    """
    kind, _, rest = text.partition(":")
    if kind in ("tcp", "tls", "ucx") and rest.startswith("//"):
        return "address", {}
    if text == "local":
        return "local", {}
    if kind == "slurm":
        pairs = [item.partition("=") for item in rest.split(",") if item]
        if all(name and equals and value for name, equals, value in pairs):
            options = {name: value for name, _, value in pairs}
            for name in ("jobs", "cpus-per-task"):
                if not options.get(name, "1").isdigit() or int(options.get(name, "1")) < 1:
                    raise ConfigError(f"cluster={text!r}: {name} must be at least 1")
            return "slurm", options
    raise ConfigError(f"cluster={text!r}: must be {FORMS}")


@contextlib.contextmanager
def started(text: str, workers: int | str, folder: Path) -> Iterator[str]:
    """The address of the scheduler of a cluster; what is started for it ends with the block.

    Args:
        text: as for `check_cluster`.
        workers: of "local": how many; "auto" is one per GPU, or a share of the cores.
        folder: for what SLURM's jobs write.
    """
    if check_cluster(text)[0] == "address":
        yield text
        return
    with _start(text, workers, folder) as cluster:
        log.info("cluster %s: scheduler %s, dashboard %s", text, cluster.scheduler_address, cluster.dashboard_link)
        yield cluster.scheduler_address


@functools.cache
def connect(text: str, workers: int | str, folder: Path) -> tuple[Executor, int]:
    """An executor on a cluster, one for each that this process asks for, and how many runs go there at a time.

    Args:
        text: as for `check_cluster`; what is started for it ends with this process.
        workers: as for `started`.
        folder: likewise.

    Raises:
        ConfigError: Dask is not installed, or no scheduler answers.
    """
    kind, options = check_cluster(text)
    distributed = _dask()
    cluster = None if kind == "address" else _start(text, workers, folder)
    try:
        client = distributed.Client(cluster or text, timeout=SECONDS_TO_ANSWER, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        raise ConfigError(f"cluster={text!r}: no scheduler answers there ({error})") from error
    threads = client.nthreads()
    log.info("cluster %s: %d workers, dashboard %s", text, len(threads), client.dashboard_link)
    if any(count > 1 for count in threads.values()):
        log.warning("workers with several threads train one run at a time all the same: start them with --nthreads 1")
    count = int(options.get("jobs", 1)) if kind == "slurm" else max(1, len(threads))
    executor = client.get_executor(pure=False)
    executor.owner = cluster  # which would end when nobody holds it
    return executor, count


def gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES calls each GPU that this process may use; without a context on any."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return [str(number) for number in range(torch.cuda.device_count())]
    return [name for name in visible.split(",") if name] if torch.cuda.device_count() else []


def _start(text: str, workers: int | str, folder: Path) -> Any:
    kind, options = check_cluster(text)
    _dask()
    import dask

    quiet = {"DASK_LOGGING__DISTRIBUTED": "warning"}  # of worker processes
    dask.config.set({"distributed.scheduler.allowed-failures": DEATHS, "distributed.nanny.pre-spawn-environ": quiet})
    return _local(workers) if kind == "local" else _slurm(options, folder)


def _local(workers: int | str) -> Any:
    from distributed import Nanny, Scheduler, SpecCluster

    devices = gpus()
    count = choose_workers(workers, torch.device("cpu"), "small") if workers != "auto" or not devices else len(devices)
    threads = str(max(1, available_cores() // count))
    spec = {}
    for number in range(count):
        pinned = {"CUDA_VISIBLE_DEVICES": devices[number % len(devices)]} if devices else {}
        environment = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", threads), **pinned}
        # Memory is what the node allows: Dask would stop a worker that comes near a limit of its own.
        options = {"nthreads": 1, "memory_limit": 0, "env": environment, "dashboard_address": None}
        spec[number] = {"cls": Nanny, "options": options}
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}}
    return SpecCluster(workers=spec, scheduler=scheduler, name="mgcl")


def _slurm(options: dict[str, str], folder: Path) -> Any:
    from dask_jobqueue import SLURMCluster

    own = ("jobs", "cpus-per-task", "partition", "time", "mem", "interface")
    cpus, jobs = int(options.get("cpus-per-task", 1)), int(options.get("jobs", 1))
    folder.mkdir(parents=True, exist_ok=True)
    try:
        cluster = SLURMCluster(
            cores=1,  # a thread per worker, and one worker per job
            processes=1,
            job_cpu=cpus,
            memory=options.get("mem", "1GB"),
            job_directives_skip=[] if "mem" in options else ["--mem"],
            queue=options.get("partition"),
            walltime=options.get("time"),
            interface=options.get("interface"),
            job_extra_directives=[
                "--no-requeue",
                *(f"--{name}={value}" for name, value in options.items() if name not in own),
            ],
            job_script_prologue=[f"export OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', cpus)}"],
            worker_extra_args=["--memory-limit", "0"],
            log_directory=str(folder.absolute()),
            python=sys.executable,
        )
    except ValueError as error:
        raise ConfigError(f"cluster='slurm:…': {error}") from error
    try:  # Dask would ask again and again for jobs that SLURM refuses
        tried = subprocess.run(
            ["sbatch", "--test-only"], input=cluster.job_script(), capture_output=True, encoding="utf-8"
        )
        problem = tried.stderr.strip() if tried.returncode else ""
    except OSError as error:
        problem = str(error)
    if problem:
        cluster.close()
        raise MachineError(f"SLURM takes no such jobs: {problem}")
    cluster.adapt(minimum=jobs, maximum=jobs)  # a job that ended is replaced; one put back into the queue would be, too
    return cluster


def _dask() -> Any:
    try:
        import dask_jobqueue  # noqa: F401
        import distributed
    except ImportError as error:
        raise ConfigError("a cluster needs Dask: pip install 'mgcl-core[cluster]'") from error
    logging.getLogger("distributed").setLevel(logging.WARNING)  # it logs every connection
    return distributed
