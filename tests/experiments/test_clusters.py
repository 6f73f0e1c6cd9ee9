"""Dask clusters: what is asked for, and studies whose workers and scheduler are killed at random moments."""

from __future__ import annotations

import os
import pickle
import random
import subprocess
import sys
import time

import pytest
from helpers.cluster_results import JOB, results_of

from mgcl_core.cli import main
from mgcl_core.experiments.clusters import check_cluster, connect, gpus, started
from mgcl_core.notebooks.parameters import Parameters
from mgcl_core.support.errors import ConfigError
from mgcl_core.support.parallel import available_cores

#: How many workers the kill test kills; all twenty by `MGCL_KILLS=20 python -m pytest -k kill tests/experiments`.
KILLS = int(os.environ.get("MGCL_KILLS", "3"))


@pytest.mark.parametrize(
    ("text", "kind", "options"),
    [
        ("tcp://host:8786", "address", {}),
        ("local", "local", {}),
        ("slurm:", "slurm", {}),
        ("slurm:partition=gpu,gres=gpu:1,jobs=8", "slurm", {"partition": "gpu", "gres": "gpu:1", "jobs": "8"}),
    ],
)
def test_what_is_asked_for(text, kind, options):
    assert check_cluster(text) == (kind, options)
    assert Parameters(cluster=text).cluster == text


@pytest.mark.parametrize("text", ["", "host:8786", "slurm:partition", "slurm:jobs=0", "slurm:jobs=x", "lokal", "tcp:x"])
def test_a_cluster_of_another_form_is_an_error_before_anything_starts(text):
    with pytest.raises(ConfigError, match="cluster="):
        Parameters(cluster=text)


def test_without_dask_it_says_what_to_install(monkeypatch, tmp_path, capsys):
    monkeypatch.setitem(sys.modules, "distributed", None)
    command = ["run", "--corpus", "demo", "--cluster", "local", "--results", str(tmp_path)]
    assert main(command) == 2
    assert "a cluster needs Dask: pip install 'mgcl-core[cluster]'" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="needs Dask"), started("slurm:", "auto", tmp_path):
        pass


def test_the_gpus_of_a_node_are_those_that_this_process_may_use(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,GPU-8f2e")
    assert gpus() == ["5", "GPU-8f2e"]
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert gpus() == []


def test_a_scheduler_that_does_not_answer_is_an_error(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    monkeypatch.setattr("mgcl_core.experiments.clusters.SECONDS_TO_ANSWER", 1)
    with pytest.raises(ConfigError, match="no scheduler answers there"):
        connect("tcp://127.0.0.1:9", "auto", tmp_path)


# Real processes


@pytest.mark.slow
def test_a_worker_a_gpu_pinned_with_one_thread_and_no_limit_of_memory(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr("mgcl_core.experiments.clusters.gpus", lambda: ["5", "GPU-8f2e"])
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    with started("local", "auto", tmp_path) as address, distributed.Client(address, set_as_default=False) as client:
        workers = client.scheduler_info(n_workers=-1)["workers"].values()
        assert [(worker["nthreads"], worker["memory_limit"]) for worker in workers] == [(1, 0)] * 2
        assert sorted(client.run(os.getenv, "CUDA_VISIBLE_DEVICES").values()) == ["5", "GPU-8f2e"]
        threads = str(max(1, available_cores() // 2))
        assert set(client.run(os.getenv, "OMP_NUM_THREADS").values()) == {threads}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("clusters")


@pytest.fixture(scope="module")
def job(tiny_corpus, tiny_overrides, folder):
    """Function of a folder's name, a cluster ("none" for one process) and workers: starts the job."""
    given, processes = folder / "given.pickle", []
    overrides = {**tiny_overrides, "text_epochs": 3, "sequence_epochs": 3}
    given.write_bytes(pickle.dumps((tiny_corpus, overrides)))

    def start(name: str, cluster: str = "local", workers: int = 2, slowly: float = 0.0) -> subprocess.Popen:
        own = {"OMP_NUM_THREADS": "1", "TRAINED": str(folder / f"{name}.log"), "SLOWLY": str(slowly)}
        processes.append(
            subprocess.Popen(
                [sys.executable, str(JOB), str(given), str(folder / name), cluster, str(workers)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, **own},
            )
        )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()


def said(process: subprocess.Popen, line: str) -> None:
    """Read what the job prints up to ``line``."""
    lines = []
    while lines[-1:] != [f"{line}\n"]:
        lines.append(process.stdout.readline())
        assert lines[-1], "".join(lines)


@pytest.fixture(scope="module")
def serial(job, folder):
    """The results of the job in one process, one thread."""
    said(job("serial", "none", 1), "finished")
    return results_of(folder / "serial")


@pytest.mark.slow
def test_kill_minus_nine_of_workers_and_of_the_scheduler_changes_nothing(job, serial, folder):
    psutil = pytest.importorskip("psutil")
    pytest.importorskip("distributed")
    moments, killed = random.Random(24), []
    while len(killed) < KILLS:
        command = job("killed", slowly=0.3)
        said(command, "ready")
        scheduler = psutil.Process(command.pid)
        until = min(len(killed) + 5, KILLS)  # then its scheduler is killed, too
        while command.poll() is None and len(killed) < until:
            time.sleep(moments.uniform(0.2, 2.5))
            workers = [child for child in scheduler.children() if "spawn_main" in " ".join(child.cmdline())]
            if workers and (folder / "killed").exists():
                worker = moments.choice(workers)
                worker.kill()
                killed.append(worker.pid)
        if command.poll() is not None and len(killed) < KILLS:  # done already: once more from the start
            (folder / "killed").rename(folder / f"finished-{len(killed)}")
            continue
        time.sleep(moments.uniform(0, 1))
        command.kill()
        command.wait()
    said(job("killed"), "finished")
    assert results_of(folder / "killed") == serial


@pytest.mark.slow
def test_three_commands_on_one_folder_train_every_run_once(job, serial, folder):
    for command in [job("both", "none", 1) for _ in range(3)]:
        said(command, "finished")
    trained = (folder / "both.log").read_text().splitlines()
    assert len(trained) == 8 == len(set(trained))
    assert results_of(folder / "both") == serial
