"""The search sees no test data, keeps its trials, survives kills, and chooses nothing worse than the default."""

import builtins
import dataclasses
import json
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.figures import trials

from mgcl_core.baselines import COMPARED_SYSTEMS
from mgcl_core.cli import build_parser, main
from mgcl_core.commands import parameters_of
from mgcl_core.data.text_model import tokenize
from mgcl_core.experiments import search as module
from mgcl_core.experiments.memory import OutOfMemory
from mgcl_core.experiments.presets import read_preset
from mgcl_core.experiments.registry import system_settings
from mgcl_core.experiments.search import run_search
from mgcl_core.experiments.search_space import SPACE, Range, system_space
from mgcl_core.experiments.splits import Withheld
from mgcl_core.experiments.study import Study
from mgcl_core.notebooks.parameters import Parameters
from mgcl_core.reporting import evaluation, figures
from mgcl_core.support.errors import ConfigError, CorpusError, RunError
from mgcl_core.trainer import NonFiniteLoss

pytestmark = pytest.mark.slow

pytest.importorskip("optuna")

WORKER = """
import os, pickle, signal, sys, torch
torch.set_num_threads(1)
import mgcl_core.experiments.search as module
from mgcl_core.experiments.study import Study
module.BEFORE_PRUNING = 2
corpus, overrides, results = pickle.loads(open(sys.argv[1], "rb").read())
study = Study(corpus, "demo", seeds=[1, 2], overrides=overrides, results=results, device="cpu", workers=1)
real, calls, moment = module.read_json_lines, [], int(sys.argv[2])
def killed(path):  # called once an epoch of a trial
    calls.extend([path] if path.parent.name == "2" else [])
    if 0 < len(calls) == moment:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(path)
module.read_json_lines = killed
module.run_search(study, 4)
"""


@pytest.fixture
def study(tiny_corpus, tiny_overrides, tmp_path):
    def build(**changes) -> Study:
        overrides = {**tiny_overrides, **changes.pop("overrides", {})}
        return Study(
            changes.pop("corpus", tiny_corpus),
            "demo",
            overrides=overrides,
            **{"seeds": [1, 2], "results": tmp_path / "results", "device": "cpu", "workers": 1, **changes},
        )

    return build


@pytest.fixture(autouse=True)
def early_pruning(monkeypatch):
    monkeypatch.setattr(module, "BEFORE_PRUNING", 1)


def test_trials_are_kept_and_the_preset_says_where_it_comes_from(study, tmp_path):
    results = tmp_path / "results {x} ?y=1 %41"  # which a URL or a format string would read otherwise
    found = run_search(study(results=results), 6)
    frame, origin = found.trials, found.preset["from"]
    assert found.searched == tuple(SPACE) and found.logarithmic == ("temperature", "alpha", "beta", "mgcl_lr")
    assert len(frame) == 6 and set(frame["state"]) <= {"complete", "pruned"}
    complete = frame[frame["state"] == "complete"]
    np.testing.assert_allclose(complete["validation_mae"], complete[["mae_1", "mae_2"]].mean(axis=1))
    assert (complete["epochs"] == 6).all()
    # The first trial has the study's own settings, and the chosen one is never worse.
    first = frame.iloc[0]
    assert {name: first[name] for name in found.searched} == {
        "temperature": 0.5,
        "alpha": 0.1,
        "beta": 0.01,
        "mgcl_lr": 1e-3,
        "dropout": 0.1,
        "micro": "sequence",
        "trained_encoders": "V,A",
    }
    assert origin["validation_mae"] == {"default": first["validation_mae"], "chosen": complete["validation_mae"].min()}
    assert origin["trials"] == {"completed": len(complete), "pruned": 6 - len(complete), "failed": 0}
    assert origin["corpus"] == {"name": "synthetic", "sha256": "0" * 64, "synthetic": True}
    assert (origin["profile"], origin["seeds"]) == ("demo", [1, 2])
    assert origin["chosen_trial"] in set(complete["number"])
    assert {"date", "git", "packages", "rule", "precision", "searched"} <= set(origin)
    assert origin["packages"]["optuna"]
    folder = study(results=results).artifacts / "search"
    assert folder.parent.parent == results / "synthetic" / "demo" / "changed"
    assert (folder.parent / "overrides.json").exists()
    assert found.path == folder / "preset.json" and json.loads(found.path.read_text()) == found.preset
    pd.testing.assert_frame_equal(pd.read_csv(folder / "trials.csv"), frame, check_dtype=False)
    assert sorted(path.name for path in folder.iterdir()) == [
        "preset.json",
        "search.lease-1",
        "trials.csv",
        "trials.json",
    ]


def test_the_chosen_settings_give_the_validation_mae_of_their_trial(study):
    found = run_search(study(), 3)
    runs = study(overrides=found.overrides).train()
    maes = [run.history["valid_mae"][run.chosen_epoch - 1] for run in runs]
    assert np.mean(maes) == found.preset["from"]["validation_mae"]["chosen"]


def test_a_finished_search_costs_nothing_and_a_larger_budget_goes_on(study, monkeypatch):
    first = run_search(study(), 2)
    text, fit = first.path.read_text(), Study.fit
    monkeypatch.setattr(Study, "fit", lambda *a, **k: pytest.fail("trained again"))
    again = run_search(study(), 2)
    assert first.path.read_text() == text and again.preset == first.preset
    pd.testing.assert_frame_equal(again.trials, first.trials)
    monkeypatch.setattr(Study, "fit", fit)
    longer = run_search(study(), 4)
    pd.testing.assert_frame_equal(longer.trials.iloc[:2], first.trials)
    assert len(longer.trials) == 4


def test_the_search_is_never_handed_the_test_split(study, tmp_path, monkeypatch):
    """Every use of the test split but its length raises, in stage one too, and a later run reads it as ever."""
    asked, split = [], Study.split
    monkeypatch.setattr(Study, "split", lambda self, name, run: (asked.append(name), split(self, name, run))[1])
    run_search(study(), 3)
    assert set(asked) == {"train", "valid"}
    monkeypatch.undo()
    left = [path.name for path in tmp_path.rglob("*test*")]
    assert left == []
    blind = study().without_test()
    for corpus in (blind.corpus, pickle.loads(pickle.dumps(blind.corpus))):  # as another process gets it
        assert isinstance(corpus.test, Withheld) and len(corpus.test) == 15
        with pytest.raises(RunError, match="withheld"):
            corpus.test.audio  # noqa: B018
    run = blind.finish(blind.trainings()[0], test=False)
    assert run.trained and not run.done
    for read in (lambda: blind.corpus.test.labels, lambda: blind.split("test", run), lambda: blind.finish(run)):
        with pytest.raises(RunError, match="withheld"):
            read()
    with pytest.raises(RunError, match="not finished"):
        run.predictions("test")


def test_a_run_trained_without_test_ends_as_one_trained_at_once(study, tmp_path, monkeypatch):
    blind = study().without_test()
    run = blind.finish(blind.trainings()[0], test=False)
    weights, history = (run.directory / "weights.safetensors").read_bytes(), run.history
    monkeypatch.setattr(Study, "fit", lambda *a, **k: pytest.fail("trained again"))
    study().finish(run)
    monkeypatch.undo()
    assert run.done and (run.directory / "weights.safetensors").read_bytes() == weights
    whole = study(results=tmp_path / "at once").train()[0]
    pd.testing.assert_frame_equal(run.predictions(), whole.predictions())
    pd.testing.assert_frame_equal(run.history.drop(columns="seconds"), whole.history.drop(columns="seconds"))
    assert len(history) == 3


def test_a_search_checks_the_vocabulary_without_the_test_split(study, tiny_corpus, tiny_bert):
    def tokenised(split):
        return dataclasses.replace(split, text_bert=tokenize(tiny_bert, split.raw_text, 10))

    corpus = dataclasses.replace(
        tiny_corpus, **{name: tokenised(getattr(tiny_corpus, name)) for name in ("train", "valid", "test")}
    )
    blind = study(corpus=corpus, overrides={"check_vocabulary": True}).without_test()
    assert blind.finish(blind.pretrainings()[0], test=False).trained
    wrong = study(overrides={"check_vocabulary": True, "text_epochs": 2}).without_test()
    with pytest.raises(CorpusError, match="belongs to another vocabulary"):
        wrong.finish(wrong.pretrainings()[0], test=False)


def test_trials_do_not_look_like_reported_runs(study, tmp_path):
    run_search(study(), 3)
    runs = {path.name.split("-")[0] for path in (tmp_path / "results").rglob("record.json") for path in [path.parent]}
    assert runs <= {f"{kind}_{modality}" for kind in ("macro", "micro") for modality in "TVA"}
    assert not any(run.trained or run.done for run in study().trainings())


def test_macro_encoders_are_shared_by_both_readings_of_micro(study):
    plain, pooled = study().pretrainings(), study(overrides={"micro": "pooled"}).pretrainings()
    shared = {a.stage.name for a, b in zip(plain, pooled, strict=True) if a.directory == b.directory}
    assert shared == {"macro_T", "macro_V", "macro_A"}


def test_what_is_overridden_is_not_searched_but_is_in_the_preset(study):
    found = run_search(study(overrides={"alpha": 0.0, "micro": "pooled"}), 2)
    assert set(found.searched) == set(SPACE) - {"alpha", "micro"}
    assert found.overrides["alpha"] == 0.0 and found.overrides["mgcl_epochs"] == 3
    everything = {name: getattr(study().base, name) for name in SPACE}
    with pytest.raises(ConfigError, match="nothing is left to search"):
        run_search(study(overrides=everything), 2)


def test_a_default_outside_the_range_widens_it(study, monkeypatch):
    monkeypatch.setitem(SPACE, "mgcl_lr", Range(1e-5, 1e-4, log=True))
    found = run_search(study(), 1)
    assert found.trials["mgcl_lr"].tolist() == [1e-3]
    assert found.preset["from"]["searched"]["mgcl_lr"] == {"low": 1e-5, "high": 1e-3, "log": True}


def test_a_default_that_is_no_choice_is_an_error(study, monkeypatch):
    monkeypatch.setitem(SPACE, "micro", {"pooled": "pooled"})
    with pytest.raises(ConfigError, match="micro='sequence' is none of what is searched"):
        run_search(study(), 1)


def test_a_bad_trial_is_pruned_by_the_median(study, monkeypatch):
    """Trials after the first report twice its error, so each is stopped at the end of its first seed."""
    real, calls = module.read_json_lines, []

    def worse(path):
        rows = real(path)
        calls.append(path)
        return rows if len(calls) <= 6 else [{**row, "valid_mae": 2 * row["valid_mae"]} for row in rows]

    monkeypatch.setattr(module, "read_json_lines", worse)
    frame = run_search(study(overrides={"mgcl_epochs": 3}), 3).trials
    assert frame["state"].tolist() == ["complete", "pruned", "pruned"]
    assert frame["epochs"].tolist() == [6, 3, 3]
    assert frame["validation_mae"].notna().all()


def test_a_trial_that_diverges_counts_as_pruned(study, monkeypatch):
    real, calls = Study.fit, []

    def fit(self, run, directory, **more):
        calls.append(directory.parent.parent.name)
        if calls.count("running") == 3:
            raise NonFiniteLoss("loss is nan")
        return real(self, run, directory, **more)

    monkeypatch.setattr(Study, "fit", fit)
    frame = run_search(study(), 2).trials
    assert frame["state"].tolist() == ["complete", "pruned"] and np.isnan(frame["validation_mae"][1])


def test_a_trial_that_runs_out_of_memory_has_failed_and_is_not_tried_again(study, monkeypatch):
    real, calls = Study.fit, []

    def fit(self, run, directory, **more):
        calls.append(directory.parent.parent.name)
        if calls.count("running") == 3:  # the first seed of the second trial
            raise OutOfMemory("out of memory")
        return real(self, run, directory, **more)

    monkeypatch.setattr(Study, "fit", fit)
    frame = run_search(study(), 3).trials
    assert frame["state"].tolist()[:2] == ["complete", "failed"] and len(frame) == 3
    assert calls.count("running") == 5 or frame["state"][2] == "pruned"
    again = run_search(study(), 3).trials  # it counts, so nothing is left to do
    pd.testing.assert_frame_equal(again, frame)


def test_a_stage_one_that_runs_out_of_memory_ends_the_search_and_is_tried_again(study, monkeypatch):
    real = Study.finish

    def finish(self, run, **more):
        raise OutOfMemory("out of memory")

    monkeypatch.setattr(Study, "finish", finish)
    with pytest.raises(OutOfMemory):
        run_search(study(), 2)
    monkeypatch.setattr(Study, "finish", real)
    frame = run_search(study(), 2).trials
    assert len(frame) == 2 and frame["state"][0] == "complete"
    assert frame["mgcl_lr"][0] == 1e-3  # the study's own settings are still the first to be tried


def test_without_a_completed_trial_there_is_no_preset(study, tmp_path, monkeypatch):
    def diverges(self, run, directory, **more):
        raise NonFiniteLoss("loss is nan")

    monkeypatch.setattr(Study, "fit", diverges)
    with pytest.raises(RunError, match="no trial was completed"):
        run_search(study(), 2)
    assert not list(tmp_path.rglob("preset.json"))


def test_a_budget_below_one_and_a_missing_optuna_are_errors(study, monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match="at least 1"):
        run_search(study(), 0)
    real = builtins.__import__

    def missing(name, *rest, **more):
        if name == "optuna":
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ConfigError, match=r"mgcl-core\[search\]"):
        run_search(study(), 1)
    assert not (tmp_path / "results").exists()


def test_killed_the_search_ends_as_if_it_had_never_been(tiny_corpus, tiny_overrides, tmp_path):
    def job(name: str, kill_at_epoch: int = 0) -> subprocess.Popen:
        arguments = tmp_path / f"{name}.pickle"
        overrides = {**tiny_overrides, "micro": "sequence"}  # one reading of it: fewer encoders to train first
        arguments.write_bytes(pickle.dumps((tiny_corpus, overrides, tmp_path / name)))
        return subprocess.Popen(
            [sys.executable, "-c", WORKER, str(arguments), str(kill_at_epoch)],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )

    def folder(name: str) -> Path:
        (own,) = (tmp_path / name / "synthetic" / "demo" / "changed").iterdir()
        return own / "search"

    reference = job("whole")
    # In the second seed of the first proposed trial that has one; later ones are pruned, or not, by what is kept of it.
    assert job("killed", 3 + 1).wait(timeout=300) == -signal.SIGKILL
    assert list((folder("killed") / "running").glob("*/2/metrics.jsonl"))
    assert job("killed").wait(timeout=300) == reference.wait(timeout=300) == 0
    whole, resumed = (pd.read_csv(folder(name) / "trials.csv") for name in ("whole", "killed"))
    pd.testing.assert_frame_equal(resumed.drop(columns="seconds"), whole.drop(columns="seconds"))
    presets = [read_preset(folder(name) / "preset.json") for name in ("whole", "killed")]
    assert presets[0] == presets[1]
    assert not (folder("killed") / "running").exists()


def test_the_figure_marks_the_pruned_the_best_and_the_default():
    figure = figures.search_trials(trials(), ["alpha", "micro"], logarithmic=["alpha"], synthetic=True)
    assert "3 trials completed, 1 pruned" in figure.get_suptitle()
    by_trial, alpha, micro = figure.axes
    assert (alpha.get_xscale(), micro.get_xscale()) == ("log", "linear")
    assert [tick.get_text() for tick in micro.get_xticklabels()] == ["pooled", "sequence"]
    lines = {line.get_label(): line for line in by_trial.lines}
    assert list(lines["best so far"].get_ydata()) == [0.5, 0.4, 0.4, 0.4]
    assert list(lines["pruned"].get_xdata()) == [2] and list(lines["best"].get_ydata()) == [0.4]
    assert set(lines["default settings"].get_ydata()) == {0.5}
    for wrong in (trials().drop(columns="alpha"), trials().query("state == 'failed'")):
        with pytest.raises(RunError):
            figures.search_trials(wrong, ["alpha", "micro"], synthetic=True)


# Compared systems


@pytest.fixture(scope="module")
def tuned(tiny_corpus, tiny_overrides, tmp_path_factory):
    """A search of LF-DNN in three trials, and the function that makes its study, of the results it lies in."""
    results = tmp_path_factory.mktemp("results")

    def build(**systems) -> Study:
        changes = {"lf_dnn": {"epochs": 4, "patience": 1, "batch_size": 16, **systems.pop("lf_dnn", {})}, **systems}
        return Study(tiny_corpus, "demo", seeds=[1, 2], overrides=tiny_overrides, device="cpu", workers=1,
                     results=results, system_overrides=changes)  # fmt: skip

    return build, run_search(build(), 3, system="lf_dnn")


def test_a_compared_system_is_searched_by_its_own_settings(tuned):
    build, found = tuned
    assert found.path == build().artifacts / "search" / "lf_dnn" / "preset.json"
    first, published = found.trials.iloc[0], system_settings("lf_dnn", "sims", "demo")
    assert found.searched == ("lr", "weight_decay", "text_dropout", "audio_dropout", "vision_dropout", "fusion_dropout")
    assert found.logarithmic == ("lr",)
    assert {name: float(first[name]) for name in found.searched} == {
        name: getattr(published, name) for name in found.searched
    }
    mae, origin = found.preset["from"]["validation_mae"], found.preset["from"]
    assert mae["default"] == first["validation_mae"] and mae["chosen"] <= mae["default"]
    assert (origin["system"], sum(origin["trials"].values())) == ("lf_dnn", 3)
    # An epoch that its patience saves is not counted, and trials are compared at the ends of seeds all the same.
    assert (found.trials["epochs"] <= 8).all() and (found.trials["epochs"] >= 2).all()


def test_its_preset_gives_the_runs_of_the_chosen_trial_and_says_that_they_are_tuned(tuned):
    build, found = tuned
    parameters = Parameters(overrides=str(found.path))
    chosen = parameters.system_overrides["lf_dnn"]
    assert chosen == found.system_overrides["lf_dnn"] and chosen["epochs"] == 4
    study = build(**parameters.system_overrides)
    runs = study.compare(["lf_dnn"])
    maes = [run.history["valid_mae"][run.chosen_epoch - 1] for run in runs]
    assert np.mean(maes) == found.preset["from"]["validation_mae"]["chosen"]
    assert {result.tuned for result in evaluation.results_of(study, runs)} == {3}
    other = build(lf_dnn={"lr": 2 * chosen["lr"]})
    assert {result.tuned for result in evaluation.results_of(other, other.compare(["lf_dnn"]))} == {0}


def test_every_system_has_something_to_search_that_costs_no_more():
    for name, entry in COMPARED_SYSTEMS.items():
        for dataset, settings in entry.published.items():
            space = system_space(settings)
            assert {"lr", "weight_decay"} <= set(space), (name, dataset)
            assert not {"epochs", "batch_size", "width", "layers", "micro_batch"} & set(space), (name, dataset)
            assert not [setting for setting in space if setting not in vars(settings)]


def test_the_command_searches_several_systems_with_one_budget(tuned, monkeypatch, capsys):
    build, _ = tuned
    monkeypatch.setattr("mgcl_core.notebooks.parameters.Parameters.study", lambda self, corpus=None: build())
    assert main(["search", "--system", "lf_dnn", "--system", "lmf", "--trials", "1"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "of the default settings" in line]
    assert [line.split(":")[0] for line in lines] == ["lf_dnn", "lmf"]
    assert main(["search", "--system", "lf_dnn", "--system", "lmf", "--out", "x.json"]) == 2
    assert main(["search", "--system", "lfdnn"]) == 2
    assert "did you mean 'lf_dnn'" in capsys.readouterr().err


# Presets


def test_several_presets_are_read_together(tmp_path):
    for name, systems in (("a", {"misa": {"lr": 1e-5}}), ("b", {"lmf": {"rank": 3}})):
        (tmp_path / name).write_text(json.dumps({"overrides": {"alpha": 0.3}, "system_overrides": systems}))
    options = build_parser().parse_args(["run", "--preset", str(tmp_path / "a"), "--preset", str(tmp_path / "b")])
    assert parameters_of(options).system_overrides == {"misa": {"lr": 1e-5}, "lmf": {"rank": 3}}


def test_a_preset_is_read_by_the_command_line_and_by_notebooks(tmp_path):
    path = tmp_path / "preset.json"
    path.write_text(json.dumps({"overrides": {"alpha": 0.3, "beta": 0.02}, "from": {"corpus": {}}}))
    options = build_parser().parse_args(["run", "--preset", str(path), "--set", "beta=0.5"])
    assert parameters_of(options).overrides == {"alpha": 0.3, "beta": 0.5}
    assert Parameters(overrides=str(path)).overrides == {"alpha": 0.3, "beta": 0.02}


@pytest.mark.parametrize(
    "content, message",
    [
        ('{"overrides": {"alhpa": 1}}', "unknown setting 'alhpa'.*'alpha'"),
        ('{"overrides": {}, "form": {}}', "unknown key 'form'.*'from'"),
        ('{"alpha": 1}', "an object 'overrides'"),
        ("[1]", "an object 'overrides'"),
        ('{"overrides": {}, "system_overrides": {"misa": 1}}', "object of objects"),
        ("{", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_wrong_preset_is_an_error(content, message, tmp_path, capsys):
    path = tmp_path / "preset.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ConfigError, match=message):
        read_preset(path)
    assert main(["status", "--preset", str(path)]) == 2
    assert capsys.readouterr().err.startswith("mgcl: preset ")


def test_the_command_writes_the_preset_where_it_is_told(study, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(
        "mgcl_core.notebooks.parameters.Parameters.study", lambda self, corpus=None: study(seeds=self.seeds)
    )
    out = tmp_path / "chosen.json"
    assert main(["search", "--trials", "2", "--seeds", "1", "--out", str(out)]) == 0
    assert read_preset(out)["mgcl_epochs"] == 3
    assert f": {out}" in capsys.readouterr().out
    assert main(["search", "--trials", "0"]) == 2


@pytest.mark.parametrize("given, expected", [(5, 5), ("30", 30)])
def test_the_number_of_trials_is_a_parameter(given, expected):
    assert Parameters(trials=given).trials == expected
    for wrong in (0, "many", 2.5, True):
        with pytest.raises(ConfigError, match="trials"):
            Parameters(trials=wrong)
