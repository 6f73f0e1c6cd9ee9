"""A study on a real SLURM: jobs are preempted, cancelled and run out of time, a run fails, and nothing is lost.

Only where MGCL_TEST_SLURM is set: as root, from Debian's packages. Gres is not tried.
"""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys

import pytest
from helpers.cluster_results import JOB, results_of
from helpers.slurm import NoSlurm, Slurm

from mgcl_core.experiments.clusters import started
from mgcl_core.support.errors import MachineError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not os.environ.get("MGCL_TEST_SLURM"), reason="MGCL_TEST_SLURM=1 runs it: two minutes"),
]


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    pytest.importorskip("dask_jobqueue")
    trial = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        trial.start()
        yield trial
    except NoSlurm as reason:
        pytest.skip(f"no SLURM: {reason}")
    finally:
        trial.stop()


def test_preempted_cancelled_and_out_of_time(slurm, tiny_corpus, tiny_overrides, tmp_path):
    given, trained = tmp_path / "given.pickle", tmp_path / "trained.log"
    overrides = {**tiny_overrides, "text_epochs": 6, "sequence_epochs": 6}
    given.write_bytes(pickle.dumps((tiny_corpus, overrides)))
    environment = {
        **slurm.environment,
        "OMP_NUM_THREADS": "1",
        "TRAINED": str(trained),
        "SLOWLY": "7",
        "FAILS": "micro_A",
        "DASK_DISTRIBUTED__WORKER__PRELOAD": f'["{JOB}"]',  # what the helper changes, in SLURM's processes, too
        "DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT": "1s",
    }

    def command(name: str, cluster: str, **changes: str) -> subprocess.Popen:
        return subprocess.Popen(
            [sys.executable, str(JOB), str(given), str(tmp_path / name), cluster, "1"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**environment, **changes},
        )  # fmt: skip

    serial = command("serial", "none", SLOWLY="0", FAILS="no run", TRAINED=str(tmp_path / "serial.log"))
    study = command("study", "slurm:partition=low,jobs=3,time=1,interface=lo")
    try:
        slurm.wait(lambda: len(list((tmp_path / "study").rglob("checkpoint.pt"))) >= 3, "the study", 90)
        first = set(slurm.jobs())
        slurm.run("sbatch", "-p", "high", "-c", "1", "-o", str(tmp_path / "high.out"), "--wrap", "sleep 2")
        slurm.wait(lambda: len(set(slurm.jobs()) & first) == 2, "preemption")
        slurm.run("scancel", max(set(slurm.jobs()) & first, key=int))
        output, _ = study.communicate(timeout=240)
    finally:
        study.kill()
    assert study.returncode != 0
    said = r"1 of 8 runs failed: micro_A-7-\w+ on [^:]+: no luck with this one; 2 start from them"
    assert re.search(said, output), output
    log = "".join(path.read_text(errors="replace") for path in (tmp_path / "study" / "cluster").iterdir())
    for reason in ("DUE TO PREEMPTION", "DUE TO TIME LIMIT"):
        assert reason in log, log[-3000:]
    went_on = [line for line in trained.read_text().splitlines() if not line.endswith("from [1]")]
    assert len(went_on) >= 2  # from a checkpoint
    slurm.wait(lambda: not slurm.jobs(state="PENDING,RUNNING,COMPLETING"), "the end of all jobs")  # none is left behind
    again = command("study", "none", SLOWLY="0", FAILS="no run")
    assert "finished" in again.communicate(timeout=120)[0] and "finished" in serial.communicate(timeout=120)[0]
    assert results_of(tmp_path / "study") == results_of(tmp_path / "serial")


def test_a_partition_that_does_not_exist_is_an_error(slurm, tmp_path, monkeypatch):
    for name in ("PATH", "LD_LIBRARY_PATH", "SLURM_CONF"):
        monkeypatch.setenv(name, slurm.environment[name])
    with (
        pytest.raises(MachineError, match="nowhere"),
        started("slurm:partition=nowhere,interface=lo", "auto", tmp_path),
    ):
        pass
