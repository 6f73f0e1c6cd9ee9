"""The audit shows what picking on test would gain, trains without test, and feeds no reported number."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from helpers.run_files import edit_record, seal

import mgcl_core
from mgcl_core.experiments import selection_audit as module
from mgcl_core.experiments.selection_audit import AUDIT, RULES, audit_runs, changes, selection
from mgcl_core.experiments.study import Study
from mgcl_core.metrics import METRICS, regression_metrics, swapped_f1
from mgcl_core.support.errors import RunError
from mgcl_core.support.integrity import read_sealed, write_sealed
from mgcl_core.trainer import HISTORY

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def study(tiny_corpus, tiny_overrides, tmp_path_factory) -> Study:
    made = Study(
        tiny_corpus,
        "demo",
        seeds=[1, 2],
        overrides=tiny_overrides,
        device="cpu",
        workers=1,
        results=tmp_path_factory.mktemp("results"),
    )
    made.train()
    return made


@pytest.fixture
def runs(study):
    """Finished runs that were not audited."""
    runs = study.trainings()
    for run in runs:
        (run.directory / AUDIT).unlink(missing_ok=True)
    return runs


def test_every_epoch_is_scored_and_the_chosen_one_has_the_reported_number(study, runs):
    before = {path: path.read_bytes() for run in runs for path in run.directory.iterdir()}
    frame = audit_runs(study, runs)
    assert len(frame) == 2 * 3 * (len(METRICS["sims"]) + 1) and frame["reproduced"].all()
    assert (frame["largest_difference"] == 0).all()
    for run in runs:
        of_run = frame[frame["run"] == run.name]
        chosen = of_run[of_run["epoch"] == run.chosen_epoch].set_index("metric")
        for split in ("valid", "test"):
            predicted = run.predictions(split)
            given = predicted["label"], predicted["prediction"], "sims"
            expected = regression_metrics(*given) | swapped_f1(*given)
            assert chosen[split].to_dict() == pytest.approx(expected, abs=0, rel=0, nan_ok=True)
        np.testing.assert_array_equal(chosen["reported"], chosen["test"])
        acc2 = of_run[of_run["metric"] == "acc2"].set_index("epoch")["valid"]
        assert (of_run["chosen_acc2"] == acc2.idxmax()).all()
        assert (of_run["chosen_loss"] == run.history["valid_loss"].argmin() + 1).all()
        assert of_run.groupby("metric")["test"].nunique()["mae"] == 3  # the epochs do differ
    after = {path: path.read_bytes() for run in runs for path in run.directory.iterdir() if path.name != AUDIT}
    assert after == before  # nothing of the runs changed and nothing but the audit is left


def test_a_second_audit_costs_nothing(study, runs, monkeypatch):
    first = audit_runs(study, runs)
    monkeypatch.setattr(Study, "fit", lambda *a, **k: pytest.fail("trained again"))
    pd.testing.assert_frame_equal(audit_runs(study, runs), first)


def test_an_audit_of_an_earlier_version_is_made_again(study, runs):
    whole = audit_runs(study, runs[:1])
    path = runs[0].directory / AUDIT
    earlier = read_sealed(path)
    del earlier["chosen"]
    write_sealed(path, earlier)
    pd.testing.assert_frame_equal(audit_runs(study, runs[:1]), whole)


def test_the_training_of_the_audit_sees_no_test_data(study, runs, monkeypatch):
    events, fit, split = [], Study.fit, Study.split

    def spy_fit(self, run, directory, **more):
        events.append("begin")
        result = fit(self, run, directory, **more)
        events.append("end")
        return result

    def spy_split(self, name, run):
        events.append(name)
        return split(self, name, run)

    monkeypatch.setattr(Study, "fit", spy_fit)
    monkeypatch.setattr(Study, "split", spy_split)
    audit_runs(study, runs[:1])
    assert events == ["begin", "train", "valid", "end", "valid", "test"]


def test_the_audit_trains_with_as_many_threads_as_the_run_had(study, runs, monkeypatch):
    """Sums in another order round differently, so a run of a process with one thread would not repeat with four."""
    folder, seen, before = runs[0].directory, [], torch.get_num_threads()
    files = {path: path.read_bytes() for path in (folder / "record.json", folder / "done")}
    edit_record(folder, lambda record: record["environment"].update(threads=before + 1))

    def fit(*arguments, **more):
        seen.append(torch.get_num_threads())
        raise KeyboardInterrupt

    monkeypatch.setattr(Study, "fit", fit)
    try:
        with pytest.raises(KeyboardInterrupt):
            audit_runs(study, runs[:1])
    finally:
        for path, content in files.items():
            path.write_bytes(content)
    assert seen == [before + 1] and torch.get_num_threads() == before


def test_a_history_that_does_not_repeat_is_reported(study, runs, caplog):
    folder = runs[0].directory
    files = {path: path.read_bytes() for path in (folder / HISTORY, folder / "record.json", folder / "done")}
    rows = [json.loads(line) for line in files[folder / HISTORY].splitlines()]
    rows[1]["valid_mae"] += 0.25
    (folder / HISTORY).write_text("".join(json.dumps(row) + "\n" for row in rows))
    seal(folder)
    try:
        with caplog.at_level(logging.WARNING):
            frame = audit_runs(study, runs)
    finally:
        for path, content in files.items():
            path.write_bytes(content)
        (folder / AUDIT).unlink()
    found = frame.groupby("seed")[["reproduced", "largest_difference"]].first()
    assert found["reproduced"].tolist() == [False, True]
    assert found["largest_difference"].tolist() == pytest.approx([0.25, 0])
    assert "differs from the recorded one" in caplog.text and runs[0].name in caplog.text


def test_an_audit_that_was_stopped_continues(study, runs, monkeypatch):
    whole = audit_runs(study, runs[:1])
    (runs[0].directory / AUDIT).unlink()
    real, kept = module.save_weights, []

    def stopped(system, path):
        if len(kept) == 1:
            raise KeyboardInterrupt
        kept.append(path.stem)
        real(system, path)

    monkeypatch.setattr(module, "save_weights", stopped)
    monkeypatch.setattr("mgcl_core.trainer.SECONDS_BETWEEN_CHECKPOINTS", 0.0)
    with pytest.raises(KeyboardInterrupt):
        audit_runs(study, runs[:1])
    assert not (runs[0].directory / AUDIT).exists()
    monkeypatch.setattr(module, "save_weights", lambda system, path: (kept.append(path.stem), real(system, path)))
    pd.testing.assert_frame_equal(audit_runs(study, runs[:1]), whole)
    assert kept == ["epoch-1", "epoch-2", "epoch-3"]
    assert not (runs[0].directory / "audit").exists()


def test_unfinished_runs_are_left_out(study, runs, tiny_corpus, tiny_overrides, tmp_path):
    other = Study(tiny_corpus, "demo", seeds=[3], overrides=tiny_overrides, device="cpu", results=tmp_path)
    with pytest.raises(RunError, match="none of the runs is finished"):
        audit_runs(other, other.trainings())
    assert set(audit_runs(study, [*other.trainings(), *runs])["seed"]) == {1, 2}


def epochs() -> pd.DataFrame:
    """Two seeds of three epochs; validation chose the first, by Acc-2 the second and by loss the third."""
    values = {
        "acc2": ([0.6, 0.7, 0.9], [0.5, 0.8, 0.6]),
        "mae": ([0.5, 0.3, 0.4], [0.6, 0.7, 0.2]),
        "corr": ([np.nan] * 3, [0.1, np.nan, 0.05]),
    }
    return pd.DataFrame(
        [
            {
                "run": f"run-{seed}",
                "seed": seed,
                "epoch": epoch + 1,
                "metric": metric,
                "test": value,
                "valid": 0.0,
                "reported": of_seed[0],
                "chosen_acc2": 2,
                "chosen_loss": 3,
            }
            for metric, of_seeds in values.items()
            for seed, of_seed in zip((7, 8), of_seeds, strict=True)
            for epoch, value in enumerate(of_seed)
        ]
    )


def test_each_rule_picks_what_it_says():
    found = {
        rule: frame.groupby("metric", sort=False)["value"].apply(list).to_dict()
        for rule, frame in selection(epochs()).groupby("rule")
    }
    nan = np.nan
    expected = {
        "validation": {"acc2": [0.6, 0.5], "mae": [0.5, 0.6], "corr": [nan, 0.1]},
        "validation Acc-2": {"acc2": [0.7, 0.8], "mae": [0.3, 0.7], "corr": [nan, nan]},
        "validation loss": {"acc2": [0.9, 0.6], "mae": [0.4, 0.2], "corr": [nan, 0.05]},
        # Epoch 2 of seed 7 and epoch 3 of seed 8 have the lowest test MAE; every metric is theirs.
        "oracle epoch (MAE)": {"acc2": [0.7, 0.6], "mae": [0.3, 0.2], "corr": [nan, 0.05]},
        "oracle epoch, per metric": {"acc2": [0.9, 0.8], "mae": [0.3, 0.2], "corr": [nan, 0.1]},
        "+ best seed": {"acc2": [0.9], "mae": [0.2], "corr": [0.1]},
    }
    assert list(expected) == list(RULES) and set(found) == set(RULES)
    for rule, by_metric in expected.items():
        for metric, values in by_metric.items():
            np.testing.assert_array_equal(found[rule][metric], values, err_msg=f"{rule}, {metric}")
    winners = selection(epochs()).query("rule == '+ best seed'").set_index("metric")["seed"]
    assert winners.to_dict() == {"acc2": 7, "mae": 8, "corr": 8}


def test_changes_are_differences_of_means_and_nan_stays():
    table = changes(selection(epochs()))
    assert list(table.index) == ["acc2", "mae", "corr"]
    assert table.loc["acc2", "mean"].tolist() == pytest.approx([0.55, 0.75, 0.75, 0.65, 0.85, 0.9])
    assert table.loc["acc2", "change"].tolist() == pytest.approx([0.2, 0.2, 0.1, 0.3, 0.35])
    assert table.loc["mae", "change"].tolist() == pytest.approx([-0.05, -0.25, -0.3, -0.3, -0.35])
    assert table.loc["corr", ("mean", "validation")] != table.loc["corr", ("mean", "validation")]


def test_an_oracle_per_metric_is_never_worse_than_validation(study, runs):
    table = changes(selection(audit_runs(study, runs)))["change"]
    gain = table.mul(np.where(table.index == "mae", -1, 1), axis=0)
    assert (gain["oracle epoch, per metric"].dropna() >= 0).all()
    assert (gain["+ best seed"] - gain["oracle epoch, per metric"]).dropna().min() >= -1e-12


def test_no_other_module_uses_the_audit():
    package = Path(mgcl_core.__file__).parent
    users = [
        path.name
        for path in package.rglob("*.py")
        if path.name != "selection_audit.py"
        and re.search(
            r"experiments.selection_audit|import selection_audit\b(?! *\()|audit_runs|oracle_|\"oracle",
            path.read_text(),
        )
    ]
    assert users == []
