"""Studies on executors: each run once and after its parents, failures named, workers that differ refused."""

from __future__ import annotations

import dataclasses
import os
import pickle
import platform
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from mgcl_core.experiments import claims, frozen_features
from mgcl_core.experiments import study as studies
from mgcl_core.experiments.executors import versions
from mgcl_core.experiments.run_records import DONE
from mgcl_core.experiments.study import Study
from mgcl_core.support.devices import choose_device
from mgcl_core.support.errors import ConfigError, DamagedFile, MachineError, RunError
from mgcl_core.support.leases import lease


@pytest.fixture
def study(tiny_corpus, tiny_overrides, tmp_path):
    """Function of an executor: a study of one seed, all of whose epochs are a matter of a moment."""

    def make(executor=None, **changes):
        overrides = {**tiny_overrides, "mgcl_epochs": 1, **changes.pop("overrides", {})}
        settings = {"seeds": [1], "results": tmp_path / "results", "device": "cpu", "workers": 1, **changes}
        return Study(tiny_corpus, "demo", executor=executor, overrides=overrides, **settings)

    return make


@pytest.fixture
def pool():
    with ThreadPoolExecutor(2) as executor:
        yield executor


def test_any_executor_finishes_every_run_once_and_after_its_parents(study, pool, monkeypatch, tmp_path):
    order, real = [], studies.fit

    def fit(*arguments, label, **settings):
        order.append(label.split()[-2])
        return real(*arguments, label=label, **settings)

    monkeypatch.setattr(studies, "fit", fit)
    elsewhere = study(pool)
    (run,) = elsewhere.train()
    assert run.done and len(order) == 7 == len(set(order)) and order[-1] == "MGCL" and order[0].endswith("_T")
    assert not [path for path in elsewhere.directory.iterdir() if path.name.startswith(".shared")]
    here = study(results=tmp_path / "here").train()
    assert here[0].predictions("test").equals(run.predictions("test"))


def test_a_run_that_fails_is_named_with_its_host_and_does_not_stop_the_others(study, pool, monkeypatch):
    real = studies.fit

    def fit(*arguments, label, **settings):
        if "micro_A" in label:
            raise DamagedFile("weights", "no luck")
        return real(*arguments, label=label, **settings)

    monkeypatch.setattr(studies, "fit", fit)
    elsewhere = study(pool)
    said = rf"1 of 7 runs failed: micro_A-1-\w+ on {platform.node()}: weights is damaged: no luck; 1 start from them"
    with pytest.raises(RunError, match=said) as caught:
        elsewhere.train()
    assert isinstance(caught.value.__cause__, DamagedFile)
    assert [run.state for run in elsewhere.pretrainings()].count("finished") == 5


def test_errors_come_back_from_other_processes_as_they_were():
    error = DamagedFile("file", "half of it", "Restore it")
    error.add_note("a host")
    back = pickle.loads(pickle.dumps(error))
    assert str(back) == str(error) and back.path == error.path and back.__notes__ == ["a host"]


class Ending(ThreadPoolExecutor):
    """A cluster whose scheduler is gone: what it was given is cancelled."""

    def submit(self, task, run):
        future = Future()
        future.cancel()
        future.set_running_or_notify_cancel()
        return future


def test_a_cluster_that_ends_is_said(study):
    with pytest.raises(MachineError, match="the cluster that trains the runs has ended; the same command continues"):
        study(Ending()).train()


class Altered(ThreadPoolExecutor):
    """A worker that finds something else than where the runs were asked for."""

    def __init__(self, **changes):
        super().__init__(1)
        self.changes = changes

    def submit(self, task, run):
        return super().submit(dataclasses.replace(task, key=str(id(self)), **self.changes), run)


def test_a_worker_that_differs_is_refused(study, tiny_corpus, tmp_path):
    def refused(said, **changes):
        asked = study(Altered(**changes))
        with pytest.raises(RunError, match=said):
            list(asked.side_by_side(lambda study, run: "worked", asked.pretrainings()[:1]))

    other = Study(dataclasses.replace(tiny_corpus, sha256="1" * 64), "demo", device="cpu", results=tmp_path, workers=1)
    refused(r"this worker has torch .*, and the runs were asked for by 1\.0", versions={**versions(), "torch": "1.0"})
    refused("has sources .* from the same environment and checkout", versions={**versions(), "sources": "others"})
    refused("would be macro_T-1-.*, not macro_T-1-.*: its feature file .SHA-256 1111", build=lambda: other)
    refused("does not see .*: results must lie in a folder that all workers share", mark=tmp_path / "nowhere" / "mark")


def test_threads_of_one_worker_train_one_run_at_a_time(study, pool):
    inside, most = [], []

    def work(study, run):
        inside.append(run)
        most.append(len(inside))
        threading.Event().wait(0.02)
        inside.pop()

    asked = study(pool)
    list(asked.side_by_side(work, asked.pretrainings()))
    assert most == [1] * 6


def test_what_is_asked_for_elsewhere_opens_no_device_here(study, pool, gpu, monkeypatch):
    gpu(available=True)
    real = torch.empty

    def empty(*arguments, device=None, **settings):
        if torch.device(device or "cpu").type == "cuda":
            pytest.fail("a context on the GPU")
        return real(*arguments, device=device, **settings)

    monkeypatch.setattr(torch, "empty", empty)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr("mgcl_core.experiments.study.data_room", lambda device: None)
    assert study(pool, device="cuda").device.type == "cpu"
    assert study(device="cuda", workers=2).device.type == choose_device("auto", probe=False).type == "cuda"
    with pytest.raises(ConfigError, match="'cuda:2' is not available: CUDA finds 2 devices"):
        choose_device("cuda:2", probe=False)


def test_a_run_that_another_host_finished_is_seen_although_it_was_not_there_a_moment_ago(study, monkeypatch):
    """As a client of NFS does: what was not there stays so until this client itself changes the folder."""
    one, other = study(), study()
    run = one.pretrainings()[0]
    absent: dict[str, int] = {}
    changed: dict[str, int] = {}
    real_exists, real_file = Path.exists, claims.tempfile.NamedTemporaryFile

    def exists(path, **settings):
        folder = str(path.parent)
        if absent.get(str(path)) == changed.get(folder, 0):
            return False
        found = real_exists(path, **settings)
        if not found:
            absent[str(path)] = changed.get(folder, 0)
        return found

    def temporary(*arguments, dir, **settings):
        changed[str(dir)] = changed.get(str(dir), 0) + 1
        return real_file(*arguments, dir=dir, **settings)

    monkeypatch.setattr(Path, "exists", exists)
    monkeypatch.setattr(claims.tempfile, "NamedTemporaryFile", temporary)
    assert not run.done
    with monkeypatch.context() as another_host:
        another_host.setattr(Path, "exists", real_exists)
        another_host.setattr(claims.tempfile, "NamedTemporaryFile", real_file)
        other.finish(run)
    assert (run.directory / DONE).is_file() and not run.done  # what this host remembers
    monkeypatch.setattr(studies, "fit", lambda *a, **k: pytest.fail("trained twice"))
    assert one.finish(run).done


def test_features_are_computed_by_one_process_and_the_others_take_them(tmp_path):
    computed, kept = [], []

    def compute():
        computed.append(1)
        threading.Event().wait(0.1)
        return {"macro_T": torch.ones(3, 2)}

    def keep():
        kept.append(frozen_features.kept_on_disk(tmp_path / "run", "features-train", compute, clips=3, origin="w"))

    threads = [threading.Thread(target=keep) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(computed) == 1 and all(torch.equal(each["macro_T"], torch.ones(3, 2)) for each in kept)


def test_a_run_that_was_taken_over_is_finished_by_who_has_it(study, monkeypatch):
    """A process that was suspended while it trained: its next write is refused, and it takes what the other made."""
    one, other = study(), study()
    run, real, threads = one.pretrainings()[1], studies.fit, []

    def suspended(*arguments, **settings):
        if not threads:
            (file,) = run.directory.parent.glob(f"{run.name}.lease-*")
            file.write_text(file.read_text().replace(f'"process": {os.getpid()}', '"process": 4194305'))
            threads.append(threading.Thread(target=other.finish, args=[run]))
            threads[0].start()
            threads[0].join()
        return real(*arguments, **settings)

    monkeypatch.setattr(studies, "fit", suspended)
    assert one.finish(run).done
    with lease(run.directory, wait=False):
        pass
